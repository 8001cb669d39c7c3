// Every op of the registry on a CUDA device, in every dtype that it takes there, against float64 on the CPU; and the
// calls that only devices make wrong.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <lockstep/core/ops.h>
#include <lockstep/tests/cuda/cuda_test.h>
#include <lockstep/tests/support/check_op.h>

using namespace lockstep;
using namespace lockstep::test;
using lockstep::testing::have_cuda;

namespace {

constexpr int kShownFailures = 5;

/// The second device where there is one, so that nothing can rely on the first being meant.
Device last_of_two() { return {Device::Type::cuda, std::min(cuda_device_count(), 2) - 1}; }

TEST_CASE("Every op on CUDA agrees with float64 on the CPU in every dtype") {
  if (!have_cuda()) return;
  for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16}) {
    std::set<std::string> checked;
    double worst = 0.0;
    for (const OpEntry& entry : op_registry()) {
      int failures = 0;
      for (const Sample& sample : samples_of(entry)) {
        const std::string what = describe(entry, sample);
        const PrecisionCheck check = check_precision(sample, entry.tolerance, dtype, last_of_two());
        if (!check.failure.empty() && ++failures <= kShownFailures) {
          UNSCOPED_INFO(what << ": " << check.failure);
          CHECK(check.failure.empty());
        }
        worst = std::max(worst, check.worst);
        checked.insert(what);
      }
      CAPTURE(entry.name, name(dtype));
      CHECK(failures == 0);
    }
    std::printf("cuda_samples_%s: %zu (worst error %.2f of its bound)\n", std::string(name(dtype)).c_str(),
                checked.size(), worst);
  }
}

TEST_CASE("Devices and dtypes that do not go together are refused") {
  if (!have_cuda()) return;
  const Tensor here = Tensor::ones({2, 3}), there = here.to(last_of_two());
  CHECK_THROWS_AS(add(here, there), DeviceError);
  CHECK_THROWS_AS(matmul(there, Tensor::ones({3, 2})), DeviceError);
  CHECK_THROWS_AS(cross_entropy(there, Tensor::zeros({2}, {.dtype = DType::int64})), DeviceError);
  CHECK_THROWS_AS(exp(there.to(DType::float64)), DTypeError);
  CHECK_THROWS_AS(relu(there.to(DType::int64)), DTypeError);
  CHECK_THROWS_AS(here.to(Device{Device::Type::cuda, cuda_device_count()}), DeviceError);
  CHECK_THROWS_AS(Tensor::empty({1}, {.device = {Device::Type::cuda, cuda_device_count()}}), DeviceError);
}

/// The result of a sample on a device and the gradients of its inputs, as bytes.
std::vector<std::vector<std::uint8_t>> run_on(const Sample& sample, Device device) {
  const std::vector<Tensor> leaves = make_leaves(sample, DType::float32, device);
  const Tensor y = sample.run(leaves);
  y.backward(Tensor::ones(y.shape(), y.options()));
  std::vector<std::vector<std::uint8_t>> bytes;
  const auto keep = [&](const Tensor& x) {
    const Tensor here = x.detach().to(kCpu);
    const auto* first = static_cast<const std::uint8_t*>(here.data_ptr());
    bytes.emplace_back(first, first + here.nbytes());
  };
  keep(y);
  for (const Tensor& leaf : leaves) {
    if (leaf.defined() && leaf.requires_grad() && leaf.grad().defined()) keep(leaf.grad());
  }
  return bytes;
}

TEST_CASE("Every op and its gradient have the same bits on every CUDA device") {
  if (!have_cuda()) return;
  const int devices = cuda_device_count();
  std::printf("cuda_devices: %d\n", devices);
  std::size_t compared = 0;
  for (const OpEntry& entry : op_registry()) {
    std::vector<Sample> samples = samples_of(entry);
    if (samples.size() > 8) samples.resize(8);
    samples.push_back(problem_of(entry, 1, 0));
    for (const Sample& sample : samples) {
      const auto expected = run_on(sample, {Device::Type::cuda, 0});
      for (int i = 1; i < devices; ++i) {
        CAPTURE(describe(entry, sample), i);
        const auto bytes = run_on(sample, {Device::Type::cuda, i});
        CHECK(bytes == expected);
        compared += bytes.size();
      }
    }
  }
  std::printf("tensors_compared_between_devices: %zu\n", compared);
}

}  // namespace
