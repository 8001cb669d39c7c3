#include <lockstep/kernels/sgd.h>

#include <cmath>

#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

template <class T>
struct Parameter {
  DeviceBuffer<T> param, grad, buffer;
  std::vector<T> grad_here;
  std::vector<double> param_wide, grad_wide, buffer_wide;
  std::vector<float> param_float, grad_float, buffer_float;

  Parameter(std::int64_t n, std::int64_t offset, std::uint64_t stream)
      : param(random_elements<T>(n, -1, 1, stream), offset),
        grad(random_elements<T>(n, -1, 1, stream + 1), offset),
        buffer(random_elements<T>(n, -1, 1, stream + 2), offset) {
    const auto p = param.download(), b = buffer.download();
    grad_here = grad.download();
    param_wide = converted<double>(p);
    grad_wide = converted<double>(grad_here);
    buffer_wide = converted<double>(b);
    param_float = converted<float>(p);
    grad_float = converted<float>(grad_here);
    buffer_float = converted<float>(b);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("a CUDA SGD step agrees with the CPU's in double, all options", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  kernels::sgd_step<T>(cuda_stream(), {}, {.lr = 0.1});
  int cases = 0;
  for (const double momentum : {0.0, 0.9}) {
    for (const bool nesterov : {false, true}) {
      for (const bool first_step : {false, true}) {
        for (const double weight_decay : {0.0, 0.01}) {
          CAPTURE(momentum, nesterov, first_step, weight_decay);
          const SgdOptions options{.lr = 0.1,
                                   .momentum = momentum,
                                   .dampening = nesterov ? 0.0 : 0.2,
                                   .weight_decay = weight_decay,
                                   .nesterov = nesterov,
                                   .first_step = first_step};
          std::vector<Parameter<T>> parameters;
          for (const std::int64_t n : {0, 1, 7, 8, 64, 1023, 4096, 4097, 9001})
            parameters.emplace_back(n, 0, 3 * parameters.size());
          for (const std::int64_t n : {5, 4100, 0}) parameters.emplace_back(n, 1, 3 * parameters.size());
          std::vector<SgdTensor<T>> tensors;
          std::vector<SgdTensor<double>> wide;
          std::vector<SgdTensor<float>> floats;
          for (auto& p : parameters) {
            const bool has = momentum != 0;
            tensors.push_back({p.param.data(), p.grad.data(), has ? p.buffer.data() : nullptr, p.param.size()});
            wide.push_back(
                {p.param_wide.data(), p.grad_wide.data(), has ? p.buffer_wide.data() : nullptr, p.param.size()});
            floats.push_back(
                {p.param_float.data(), p.grad_float.data(), has ? p.buffer_float.data() : nullptr, p.param.size()});
          }
          kernels::sgd_step<T>(cuda_stream(), tensors, options);
          kernels::sgd_step<double>(kOnCpu, wide, options);
          kernels::sgd_step<float>(kOnCpu, floats, options);
          for (const auto& p : parameters) {
            CAPTURE(p.param.size());
            CHECK(close_to(p.param.download(), p.param_wide, error_bound<T>(8)));
            CHECK(close_to(p.buffer.download(), p.buffer_wide, error_bound<T>(8)));
            CHECK(same_bits(p.grad.download(), p.grad_here));
            if constexpr (sizeof(T) == 4) {  // no contraction: the CPU's bits
              CHECK(same_bits(p.param.download(), p.param_float));
              CHECK(same_bits(p.buffer.download(), p.buffer_float));
            }
          }
          ++cases;
        }
      }
    }
  }
  std::printf("CUDA SGD steps: %d\n", cases);
}

TEST_CASE("a CUDA SGD step takes more tensors than one launch holds") {
  if (!have_cuda()) return;
  const SgdOptions options{.lr = 0.5, .momentum = 0.9};
  for (const auto& [count, empty_each] : {std::pair{255, 5}, {256, 5}, {256, 1000}, {257, 5}, {512, 1000}, {600, 5}}) {
    CAPTURE(count, empty_each);
    std::vector<Parameter<float>> parameters;
    std::vector<SgdTensor<float>> tensors, here;
    for (int i = 0; i < count; ++i)
      parameters.emplace_back(i % empty_each == empty_each - 1 ? 0 : i % 7 + 1, 0, 3 * static_cast<std::uint64_t>(i));
    for (auto& p : parameters) {
      tensors.push_back({p.param.data(), p.grad.data(), p.buffer.data(), p.param.size()});
      here.push_back({p.param_float.data(), p.grad_float.data(), p.buffer_float.data(), p.param.size()});
    }
    kernels::sgd_step<float>(cuda_stream(), tensors, options);
    kernels::sgd_step<float>(kOnCpu, here, options);
    bool same = true;
    for (const auto& p : parameters) same = same && same_bits(p.param.download(), p.param_float);
    CHECK(same);
  }
}

TEST_CASE("CUDA SGD without weight decay leaves an infinite parameter's gradient alone") {
  if (!have_cuda()) return;
  const DeviceBuffer<float> param(std::vector<float>{kInf<float>, kNaN<float>, 1.0f}),
      grad(std::vector<float>{1.0f, 1.0f, kInf<float>}), buffer(3);
  const std::vector<SgdTensor<float>> tensors = {{param.data(), grad.data(), buffer.data(), 3}};
  kernels::sgd_step<float>(cuda_stream(), tensors, {.lr = 0.5, .momentum = 0.9, .first_step = true});
  CHECK(close(param.download(), std::vector<double>{kInf<double>, kNaN<double>, -kInf<double>}, 0));
  CHECK(close(buffer.download(), std::vector<double>{1.0, 1.0, kInf<double>}, 0));
}
