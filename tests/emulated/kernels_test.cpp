// What emulated CUDA alone can tell of the kernels: that every one of them is executed, that nothing but products and
// convolutions is left to the CPU, and how many bytes each moves.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <string>

#include <catch2/catch.hpp>

#include <lockstep/core/ops.h>
#include <lockstep/core/optim/sgd.h>
#include <lockstep/kernels/batch_gather.h>
#include <lockstep/kernels/cuda/emulation/emulation.h>
#include <lockstep/kernels/gemm.h>
#include <lockstep/kernels/tree_sum.h>
#include <lockstep/tests/cuda/cuda_test.h>
#include <lockstep/tests/support/check_op.h>

using namespace lockstep;
using namespace lockstep::test;
using namespace lockstep::testing;

namespace {

/// The names of all `__global__` functions of kernels/cuda.
std::set<std::string> kernels_in_sources() {
  const auto root = std::filesystem::path(LOCKSTEP_TEST_DATA).parent_path().parent_path();
  const std::regex declaration(R"(\n__global__[^;{]*?\b(\w+_kernel)\()");
  std::set<std::string> names;
  for (const auto& file : std::filesystem::directory_iterator(root / "kernels" / "cuda")) {
    if (file.path().extension() != ".cu" && file.path().extension() != ".cuh") continue;
    std::ifstream stream(file.path());
    const std::string text{std::istreambuf_iterator<char>(stream), {}};
    for (auto match = std::sregex_iterator(text.begin(), text.end(), declaration); match != std::sregex_iterator();
         ++match) {
      names.insert((*match)[1]);
    }
  }
  return names;
}

/// "unary_kernel" of "void lockstep::kernels::(anonymous namespace)::unary_kernel<float, …>(…)".
std::string plain_name(const std::string& demangled) {
  std::smatch match;
  return std::regex_search(demangled, match, std::regex(R"((\w+_kernel)\b)")) ? match[1].str() : demangled;
}

/// Runs each op of the registry, forward and backward, as `pick` says, and what is no op.
template <class Pick>
void run_everything(DType dtype, Pick&& pick) {
  for (const OpEntry& entry : op_registry()) {
    for (const Sample& sample : pick(entry)) {
      const Tensor y = sample.run(make_leaves(sample, dtype, kCuda));
      y.backward(Tensor::ones(y.shape(), y.options()));
    }
  }
  Tensor parameter = Tensor::randn({3, 50}, {.dtype = dtype, .device = kCuda}).set_requires_grad();
  parameter.set_grad(Tensor::rand({3, 50}, {.dtype = dtype, .device = kCuda}));
  SGD sgd({parameter}, {.lr = 0.1, .momentum = 0.9});
  sgd.step();
  parameter.detach().mul_(2.0).fill_(1.0);
  topk(parameter.detach(), 3);
  sum(Tensor::ones({200'000}, {.dtype = dtype, .device = kCuda}));  // in parts
}

void run_what_is_no_op() {
  const DeviceBuffer<float> a(random_elements<float>(12)), b(random_elements<float>(20)), c(15);
  kernels::tiled_gemm(cuda_stream(), false, false, 3, 5, 4, a.data(), 4, b.data(), 5, 0.0f, c.data(), 5);
  const TreePart<float> parts[] = {{a.data(), 0}, {b.data(), 0}};
  kernels::tree_sum<float>(cuda_stream(), 12, parts, c.data());
  const std::int64_t pixels = 32 * 32, batch = 4;
  const DeviceBuffer<std::uint8_t> images(std::vector<std::uint8_t>(batch * pixels * 3, 7));
  const DeviceBuffer<std::int64_t> labels(std::vector<std::int64_t>{4, 5, 6, 7}), index({1, 3, 0, 2}),
      batch_labels(batch);
  const DeviceBuffer<float> y(batch * pixels * 3);
  kernels::batch_gather<float>(cuda_stream(), batch, pixels, {.channels = 3, .mean = {0, 0, 0}, .std = {1, 1, 1}},
                               index.data(), images.data(), labels.data(), y.data(), batch_labels.data());
  synchronize(kCuda);
}

TEST_CASE("Every kernel is executed, and only products and convolutions run on the CPU") {
  emulation::clear_kernel_log();
  for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16}) {
    run_everything(dtype, [](const OpEntry& entry) {
      std::vector<Sample> all = samples_of(entry);
      if (all.size() > 40) all.resize(40);
      all.push_back(problem_of(entry, 1, 0));  // large enough for several blocks
      return all;
    });
  }
  run_what_is_no_op();

  std::map<std::string, std::int64_t> launched;
  std::set<std::string> forwarded;
  for (const auto& [name, stats] : emulation::kernel_log()) {
    if (stats.forwarded) {
      forwarded.insert(name);
    } else {
      launched[plain_name(name)] += stats.launches;
    }
  }
  for (const auto& [name, launches] : launched) {
    std::printf("launched_%s: %lld\n", name.c_str(), static_cast<long long>(launches));
  }
  for (const std::string& name : forwarded) std::printf("forwarded: %s\n", name.c_str());
  const std::set<std::string> expected = kernels_in_sources();
  CHECK(expected.size() >= 25);  // that the expression matches at all
  for (const std::string& name : expected) {
    CAPTURE(name);
    CHECK(launched.count(name) == 1);
  }
  for (const std::string& name : forwarded) {
    CAPTURE(name);
    CHECK(std::regex_search(name, std::regex("conv2d|gemm|linear")));
  }
  std::printf("kernels: %zu\n", expected.size());
}

/// What a kernel may move over reading and writing each byte once, and why.
struct Excess {
  double most;
  const char* reason;
};

const std::map<std::string, Excess> kExcess = {
    {"avg_backward_kernel", {3.5, "windows overlap"}},
    {"avg_forward_kernel", {3.3, "windows overlap"}},
    {"avg_large_window_kernel", {1.15, "windows overlap"}},
    {"broadcast_kernel", {1.55, "an operand is repeated"}},
    {"copy_strided_kernel", {2.0, "the source is repeated"}},
    {"max_backward_kernel", {13.0, "windows overlap"}},
    {"max_forward_kernel", {6.7, "windows overlap"}},
    {"merge_moments_kernel", {1.55, "the first slab's mean, by each slab of a few floats"}},
};

/// Of each kernel (all of its instances), by its plain name: bytes read and written since clear_kernel_log() over
/// distinct ones, the worst instance's, and these.
std::map<std::string, std::pair<double, double>> bytes_over_minimum() {
  std::map<std::string, std::pair<double, double>> worst;
  for (const auto& [name, s] : emulation::kernel_log()) {
    if (s.forwarded) continue;
    const auto moved = static_cast<double>(s.bytes_read + s.bytes_written);
    const auto distinct = static_cast<double>(s.distinct_bytes_read + s.distinct_bytes_written);
    auto& of_kernel = worst[plain_name(name)];
    of_kernel = std::max(of_kernel, {moved / distinct, distinct});
  }
  return worst;
}

TEST_CASE("Kernels move each byte once, or the excess has a reason") {
  emulation::count_distinct_bytes(true);
  emulation::clear_kernel_log();
  run_everything(DType::float32, [](const OpEntry& entry) {
    return std::vector<Sample>{problem_of(entry, 3, 1), problem_of(entry, 3, 2), problem_of(entry, 3, 3)};
  });
  run_what_is_no_op();
  emulation::count_distinct_bytes(false);

  for (const auto& [kernel, ratio] : bytes_over_minimum()) {
    const auto excess = kExcess.find(kernel);
    const auto [most, reason] = excess == kExcess.end() ? Excess{1.02, ""} : excess->second;
    CAPTURE(kernel);
    CHECK(ratio.first <= most);
    std::printf("bytes_over_minimum %-44s %5.2f of %8.0f  %s\n", kernel.c_str(), ratio.first, ratio.second, reason);
  }
}

/// Bytes over the minimum of softmax forward and backward, and of both kinds of cross-entropy, for rows of n.
std::map<std::string, double> row_bytes(std::int64_t n) {
  const TensorOptions there{.device = kCuda};
  emulation::clear_kernel_log();
  const Tensor x = Tensor::randn({2, n}, there).set_requires_grad();
  const Tensor probabilities = softmax(x, 1);
  probabilities.backward(Tensor::rand({2, n}, there));
  cross_entropy(x, probabilities.detach()).backward();
  cross_entropy(x, Tensor::from<std::int64_t>({n - 1, n / 2}, {2}).to(kCuda)).backward();
  synchronize(kCuda);
  std::map<std::string, double> ratios;
  for (const auto& [kernel, ratio] : bytes_over_minimum()) {
    if (!std::regex_search(kernel, std::regex("softmax|cross_entropy"))) continue;
    std::printf("row_bytes_over_minimum n = %6lld %-44s %5.2f\n", static_cast<long long>(n), kernel.c_str(),
                ratio.first);
    ratios[kernel] = ratio.first;
  }
  return ratios;
}

TEST_CASE("Rows of logits are read once as long as they fit into shared memory, and for a loss however long they are") {
  emulation::count_distinct_bytes(true);
  for (const std::int64_t n : {10, 1000, 8192, 12'288}) {
    for (const auto& [kernel, ratio] : row_bytes(n)) {
      CAPTURE(kernel, n);
      CHECK(ratio <= 1.01);
    }
  }
  auto one_row_fits = row_bytes(24'576);
  CHECK(one_row_fits.at("softmax_kernel") <= 1.01);
  CHECK(one_row_fits.at("cross_entropy_backward_kernel") <= 1.01);
  auto none_fits = row_bytes(100'001);
  CHECK(none_fits.at("cross_entropy_forward_kernel") <= 1.01);
  CHECK(none_fits.at("cross_entropy_probabilities_forward_kernel") <= 1.01);
  for (const auto& [kernel, ratio] : none_fits) {  // the rest of two or three buffers is read twice
    CAPTURE(kernel);
    CHECK(ratio <= 1.6);
  }
  emulation::count_distinct_bytes(false);
}

}  // namespace
