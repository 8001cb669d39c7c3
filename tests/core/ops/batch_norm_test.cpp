// The running statistics of batch norm: what training makes of them, in every size, layout and dtype.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include <catch2/catch.hpp>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/core/ops.h>
#include <lockstep/tests/support/check_op.h>
#include <lockstep/tests/support/reference_nn.h>
#include <lockstep/tests/support/values.h>

using namespace lockstep;
using namespace lockstep::test;

namespace {

/// One batch norm, fused with a ReLU or not, of ones as weight and bias.
void normalize(bool relu, const Tensor& x, const Tensor& mean, const Tensor& var, const BatchNormOptions& options) {
  const Tensor ones = Tensor::ones(mean.shape(), mean.options());
  relu ? batch_norm_relu(x, ones, ones, mean, var, options, x) : batch_norm(x, ones, ones, mean, var, options);
}

double largest_difference(const Tensor& a, const Tensor& b) {
  const Values va = values_of(a), vb = values_of(b);
  double largest = 0.0;
  for (std::size_t i = 0; i < va.size(); ++i) largest = std::max(largest, std::abs(va[i] - vb[i]));
  return largest;
}

TEST_CASE("Running statistics agree with plain loops, and are the same for any number of threads") {
  constexpr int kProblems = 200;
  const int threads = num_threads();
  double worst = 0.0;
  for (int problem = 0; problem < kProblems; ++problem) {
    Draws draws(11, static_cast<std::uint64_t>(problem));
    const auto channels = draws.pick<std::int64_t>({1, 3, 15, 16, 17, 31, 33, 64, 100});
    const std::int64_t rows =
        std::max<std::int64_t>(2, static_cast<std::int64_t>(std::exp2(draws.next(1.0, 16.0))) / channels);
    const std::int64_t height = draws.from_to(1, 5);
    const Shape shape = draws.coin() ? Shape{rows, channels} : Shape{rows / height + 2, channels, height, 1};
    const Layout layout =
        shape.rank() == 4 ? draws.pick({Layout::row_major, Layout::channels_last}) : Layout::row_major;
    const Tensor x = draws.uniform(shape, layout), mean = draws.uniform({channels}),
                 var = draws.uniform({channels}, {}, 0.5, 2.0);
    const BatchNormOptions options{.momentum = draws.pick({0.0, 0.1, 1.0, draws.next(0.0, 1.0)})};
    const bool relu = draws.coin();
    CAPTURE(problem, to_string(shape), options.momentum, relu);

    const auto expected = reference::running_statistics(x, mean, var, options.momentum);
    const Tensor mean64 = mean.clone(), var64 = var.clone();
    normalize(relu, x, mean64, var64, options);
    CHECK(largest_difference(mean64, expected.first) < 1e-14);
    CHECK(largest_difference(var64, expected.second) < 1e-13);

    Values bits;
    for (const int count : {1, 2, 5}) {
      set_num_threads(count);
      const Tensor mean32 = mean.to(DType::float32), var32 = var.to(DType::float32);
      normalize(relu, x.to(DType::float32), mean32, var32, options);
      worst = std::max({worst, largest_difference(mean32, expected.first), largest_difference(var32, expected.second)});
      Values got = values_of(mean32);
      for (const double value : values_of(var32)) got.push_back(value);
      if (bits.empty()) bits = got;
      CHECK(got == bits);
    }
    set_num_threads(threads);
  }
  CHECK(worst <= 8 * 0x1p-23);  // a handful of roundings of values up to 4
  std::printf("running_statistics_problems: %d (worst error in float32 %.2g)\n", kProblems, worst);
}

TEST_CASE("Evaluation leaves the running statistics") {
  for (const bool relu : {false, true}) {
    Draws draws(12);
    const Tensor x = draws.uniform({5, 3}), mean = draws.uniform({3}), var = draws.uniform({3}, {}, 0.5, 2.0);
    const Values mean_before = values_of(mean), var_before = values_of(var);
    normalize(relu, x, mean, var, {.training = false, .momentum = 0.5});
    CHECK(values_of(mean) == mean_before);
    CHECK(values_of(var) == var_before);
  }
}

}  // namespace
