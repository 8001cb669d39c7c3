#include <lockstep/kernels/batch_norm.h>

#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

struct Case {
  std::int64_t rows, channels;
  std::int64_t offset = 0;  ///< in elements, of all buffers
  int only = -1;            ///< or of this one alone

  std::int64_t offset_of(int buffer) const { return only < 0 || buffer == only ? offset : 0; }
};

// Rows around a chunk of a thread, a slab and several slabs; channels for one lane, for all, for several blocks beside
// each other, and such that fill no vector.
const Case kCases[] = {
    {2, 1},    {3, 8},     {31, 64},    {33, 64, 1},   {257, 24}, {1023, 3},
    {640, 64}, {300, 520}, {1025, 264}, {130, 264, 1}, {9000, 4}, {2500, 16, 1},
};

std::size_t count(std::int64_t n) { return static_cast<std::size_t>(n); }

/// Equal within `tolerance` · scale[channel].
template <class A>
bool channels_close(const std::vector<A>& values, const std::vector<double>& expected, const std::vector<double>& scale,
                    double tolerance) {
  const auto actual = converted<double>(values);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (!(std::fabs(actual[i] - expected[i]) <= tolerance * scale[i % scale.size()])) {
      UNSCOPED_INFO("element " << i << ": " << actual[i] << ", expected " << expected[i]);
      return false;
    }
  }
  return actual.size() == expected.size();
}

DeviceBuffer<unsigned char> workspace(const Case& c) {
  return DeviceBuffer<unsigned char>(
      static_cast<std::int64_t>(kernels::batch_norm_workspace(cuda_stream(), c.rows, c.channels)));
}

template <class V>
struct Statistics {
  std::vector<V> mean, variance;
};

template <class T>
Statistics<float> statistics(const Case& c, const std::vector<T>& x) {
  const DeviceBuffer<T> on_device(x, c.offset);
  const DeviceBuffer<float> mean(c.channels, c.offset), variance(c.channels, c.offset);
  const auto scratch = workspace(c);
  kernels::batch_norm_statistics<T>(cuda_stream(), c.rows, c.channels, on_device.data(), mean.data(), variance.data(),
                                    scratch.data());
  return {mean.download(), variance.download()};
}

Statistics<double> expected_statistics(const Case& c, const std::vector<double>& x) {
  Statistics<double> result{std::vector<double>(count(c.channels)), std::vector<double>(count(c.channels))};
  kernels::batch_norm_statistics<double>(kOnCpu, c.rows, c.channels, x.data(), result.mean.data(),
                                         result.variance.data());
  return result;
}

/// The mean within a few roundings of its size and of the spread, the variance within a few of itself and of the square
/// of what rounding the values' size to float loses.
template <class T>
void check_statistics(const Case& c, const std::vector<T>& x, double variance_roundings) {
  const auto [mean, variance] = statistics(c, x);
  const auto expected = expected_statistics(c, converted<double>(x));
  std::vector<double> mean_scale, variance_scale;
  for (std::size_t i = 0; i < expected.mean.size(); ++i) {
    const double lost = 0x1p-24 * std::fabs(expected.mean[i]);
    mean_scale.push_back(std::fabs(expected.mean[i]) + std::sqrt(expected.variance[i]) + 1e-30);
    variance_scale.push_back(expected.variance[i] + 8 * lost * lost * 0x1p24 + 1e-30);
  }
  CHECK(channels_close(mean, expected.mean, mean_scale, 6 * 0x1p-24));
  CHECK(channels_close(variance, expected.variance, variance_scale, variance_roundings * 0x1p-24));
}

template <class T>
struct Parameters {
  std::vector<T> mean, invstd, weight, bias;

  explicit Parameters(std::int64_t channels)
      : mean(converted<T>(random_values<float>(channels, -1, 1, 1))),
        invstd(converted<T>(random_values<float>(channels, 0.5, 2, 2))),
        weight(converted<T>(random_values<float>(channels, -1, 1, 3))),
        bias(converted<T>(random_values<float>(channels, -1, 1, 4))) {}
};

struct DeviceParameters {
  DeviceBuffer<float> mean, invstd, weight, bias;

  explicit DeviceParameters(const Case& c) : DeviceParameters(c, Parameters<float>(c.channels)) {}
  DeviceParameters(const Case& c, const Parameters<float>& p)
      : mean(p.mean, c.offset_of(0)),
        invstd(p.invstd, c.offset_of(1)),
        weight(p.weight, c.offset_of(2)),
        bias(p.bias, c.offset_of(3)) {}
};

template <class V>
struct Gradients {
  std::vector<V> x, residual;
  std::vector<float> weight, bias;
};

/// Where the forward had a ReLU, a residual; what may share memory in a backward.
struct Variant {
  bool relu, residual, in_place;
};
const Variant kVariants[] = {{false, false, false}, {true, false, false}, {false, true, false},
                             {true, true, false},   {true, false, true},  {true, true, true}};

template <class T>
Gradients<T> backward(const Case& c, const Variant& v, bool training, const std::vector<T>& x, const std::vector<T>& y,
                      const std::vector<T>& grad_y) {
  const std::int64_t n = c.rows * c.channels;
  const DeviceBuffer<T> input(x, c.offset_of(4)), output(y, c.offset_of(5)), grad(grad_y, c.offset_of(6));
  const DeviceBuffer<T> grad_x(n, c.offset_of(7)), grad_residual(n, c.offset_of(8));
  const DeviceBuffer<float> grad_weight(c.channels, c.offset_of(9)), grad_bias(c.channels, c.offset_of(10));
  const DeviceParameters p(c);
  const auto scratch = workspace(c);
  const auto& residual_target = v.in_place ? grad : grad_residual;
  const auto& x_target = v.in_place && !v.residual ? grad : grad_x;
  const auto run = [&](auto kernel) {
    kernel(cuda_stream(), c.rows, c.channels, input.data(), v.relu ? output.data() : nullptr, grad.data(),
           p.mean.data(), p.invstd.data(), p.weight.data(), x_target.data(),
           v.residual ? residual_target.data() : nullptr, grad_weight.data(), grad_bias.data(), scratch.data());
  };
  training ? run([](auto... args) { kernels::batch_norm_backward<T>(args...); })
           : run([](auto... args) { kernels::batch_norm_backward_eval<T>(args...); });
  return {x_target.download(), v.residual ? residual_target.download() : std::vector<T>(), grad_weight.download(),
          grad_bias.download()};
}

/// A term of the sums behind a gradient is below 8, of which `rows` are summed: in runs of at most 256 in float.
template <class T>
void check_backward(const Case& c, const Variant& v, bool training) {
  CAPTURE(c.rows, c.channels, c.offset, c.only, v.relu, v.residual, v.in_place, training);
  const std::int64_t n = c.rows * c.channels;
  const auto x = random_elements<T>(n, -2, 2, 5), y = random_elements<T>(n, -1, 1, 6),
             grad_y = random_elements<T>(n, -1, 1, 7);
  const auto wide_x = converted<double>(x), wide_y = converted<double>(y), wide_grad = converted<double>(grad_y);
  const Parameters<double> p(c.channels);
  std::vector<double> grad_x(count(n)), grad_residual(count(n)), grad_weight(count(c.channels)),
      grad_bias(count(c.channels));
  const auto run = [&](auto kernel) {
    kernel(kOnCpu, c.rows, c.channels, wide_x.data(), v.relu ? wide_y.data() : nullptr, wide_grad.data(), p.mean.data(),
           p.invstd.data(), p.weight.data(), grad_x.data(), v.residual ? grad_residual.data() : nullptr,
           grad_weight.data(), grad_bias.data(), nullptr);
  };
  training ? run([](auto... args) { kernels::batch_norm_backward<double>(args...); })
           : run([](auto... args) { kernels::batch_norm_backward_eval<double>(args...); });

  const Gradients<T> actual = backward(c, v, training, x, y, grad_y);
  const double sum_error = 16 * 0x1p-24 * std::sqrt(static_cast<double>(c.rows)) * 8;
  CHECK(channels_close(actual.bias, grad_bias, {1.0}, sum_error));
  CHECK(channels_close(actual.weight, grad_weight, {1.0}, 2 * sum_error));
  CHECK(channels_close(actual.x, grad_x, {8.0}, error_bound<T>(16)));
  if (v.residual) CHECK(close_to(actual.residual, grad_residual, 0));
  const Gradients<T> again = backward(c, v, training, x, y, grad_y);
  CHECK(same_bits(again.x, actual.x));
  CHECK(same_bits(again.weight, actual.weight));
  CHECK(same_bits(again.bias, actual.bias));
}

}  // namespace

TEMPLATE_TEST_CASE("batch_norm_statistics on CUDA agrees with the CPU's", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  for (const Case& c : kCases) {
    CAPTURE(c.rows, c.channels, c.offset);
    const auto x = random_elements<TestType>(c.rows * c.channels, -1, 3, 1);
    check_statistics(c, x, 16);
    const auto first = statistics(c, x);
    CHECK(same_bits(first.mean, statistics(c, x).mean));
    const auto moved = statistics(Case{c.rows, c.channels, 1 - c.offset}, x);
    CHECK(same_bits(first.mean, moved.mean));
    CHECK(same_bits(first.variance, moved.variance));
  }
}

TEST_CASE("batch_norm on CUDA sums over more slabs than the threads that share them out") {
  if (!have_cuda()) return;
  const Case c{280'001, 1};
  check_statistics(c, random_values<float>(c.rows, -1, 3, 1), 16);
  check_backward<float>(c, {true, false, false}, true);
}

TEST_CASE("batch_norm_statistics on CUDA keeps its accuracy far from zero and behind outliers") {
  if (!have_cuda()) return;
  const Case c{5000, 8};
  for (const double middle : {100.0, 1e4, 1e6}) {
    CAPTURE(middle);
    check_statistics(c, random_values<float>(c.rows * c.channels, middle - 1, middle + 1, 2), 16);
  }
  // The first rows of every thread are far from the others: the shift that the sums start from is a bad one.
  auto x = random_values<float>(c.rows * c.channels, -1, 1, 3);
  for (std::size_t i = 0; i < x.size() / 4; ++i) x[i] += 1e4f;
  check_statistics(c, x, 64);
  // A constant channel has no variance at all, whatever its value.
  const auto [mean, variance] = statistics(c, std::vector<float>(x.size(), 0.1f));
  CHECK(mean == std::vector<float>(8, 0.1f));
  CHECK(variance == std::vector<float>(8, 0.0f));
  // Even where the mean that deviations are taken from is rounded, and their squares are too small for float.
  const Case tiny{20'000, 1};
  const auto [small_mean, small_variance] = statistics(tiny, std::vector<float>(20'000, 0.1f * 0x1p-49f));
  CHECK(small_mean[0] == 0.1f * 0x1p-49f);
  CHECK(small_variance[0] == 0.0f);
  CHECK_FALSE(std::signbit(small_variance[0]));
}

TEST_CASE("batch_norm_statistics on CUDA passes NaN and infinity on to their channel only") {
  if (!have_cuda()) return;
  const Case c{700, 16};
  auto x = random_elements<float16>(c.rows * c.channels, -1, 1, 4);
  x[300 * 16 + 3] = float16(kNaN<float>);
  x[650 * 16 + 5] = float16(kInf<float>);
  x[7] = float16(-kInf<float>);  // among the rows that the shift is taken from
  const auto [mean, variance] = statistics(c, x);
  for (std::size_t i = 0; i < 16; ++i) {
    CHECK(std::isnan(mean[i]) == (i == 3));
    CHECK(std::isinf(mean[i]) == (i == 5 || i == 7));
    CHECK(std::isnan(variance[i]) == (i == 3 || i == 5 || i == 7));
  }
}

TEST_CASE("batch_norm_update_running and batch_norm_invstd on CUDA have the bits of the CPU's") {
  if (!have_cuda()) return;
  for (const std::int64_t channels : {0, 1, 33, 1025}) {
    const auto mean = random_values<float>(channels, -1, 1, 1), variance = random_values<float>(channels, 0, 2, 2);
    auto running_mean = random_values<float>(channels, -1, 1, 3), running_var = random_values<float>(channels, 0, 2, 4);
    std::vector<float> invstd(mean.size());
    const DeviceBuffer<float> m(mean), v(variance), rm(running_mean), rv(running_var), is(channels);
    kernels::batch_norm_update_running<float>(cuda_stream(), 50, channels, m.data(), v.data(), 0.1, rm.data(),
                                              rv.data());
    kernels::batch_norm_invstd<float>(cuda_stream(), channels, v.data(), 1e-5, is.data());
    kernels::batch_norm_update_running<float>(kOnCpu, 50, channels, mean.data(), variance.data(), 0.1,
                                              running_mean.data(), running_var.data());
    kernels::batch_norm_invstd<float>(kOnCpu, channels, variance.data(), 1e-5, invstd.data());
    CHECK(same_bits(rm.download(), running_mean));
    CHECK(same_bits(rv.download(), running_var));
    CHECK(same_bits(is.download(), invstd));
  }
}

TEMPLATE_TEST_CASE("batch_norm_apply on CUDA agrees with the CPU's", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  std::vector<Case> cases(std::begin(kCases), std::end(kCases));
  for (int only = 0; only <= 6; ++only) cases.push_back({40, 16, 1, only});
  for (const Case& c : cases) {
    for (const bool relu : {false, true}) {
      for (const int target : {0, 1, 2, 3}) {  // y is a buffer of its own (0 without a residual), x, the residual
        if (target > 1 && c.rows > 2000) continue;
        CAPTURE(c.rows, c.channels, c.offset, c.only, relu, target);
        const bool has_residual = target != 0;
        const std::int64_t n = c.rows * c.channels;
        const auto x = random_elements<TestType>(n, -2, 2, 5), residual = random_elements<TestType>(n, -1, 1, 6);
        const auto wide_x = converted<double>(x), wide_residual = converted<double>(residual);
        const Parameters<double> p(c.channels);
        std::vector<double> expected(count(n));
        kernels::batch_norm_apply<double>(kOnCpu, c.rows, c.channels, wide_x.data(), p.mean.data(), p.invstd.data(),
                                          p.weight.data(), p.bias.data(), has_residual ? wide_residual.data() : nullptr,
                                          relu, expected.data());
        const DeviceParameters on_device(c);
        const DeviceBuffer<TestType> input(x, c.offset_of(4)), added(residual, c.offset_of(5)),
            fresh(n, c.offset_of(6));
        const auto& y = target == 2 ? input : target == 3 ? added : fresh;
        kernels::batch_norm_apply<TestType>(cuda_stream(), c.rows, c.channels, input.data(), on_device.mean.data(),
                                            on_device.invstd.data(), on_device.weight.data(), on_device.bias.data(),
                                            has_residual ? added.data() : nullptr, relu, y.data());
        // Values below 8, of which scale is rounded once and the rest four times.
        CHECK(channels_close(y.download(), expected, {8.0}, error_bound<TestType>(4)));
      }
    }
  }
}

TEMPLATE_TEST_CASE("batch_norm_backward on CUDA agrees with the CPU's", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  for (const Case& c : kCases) {
    for (const Variant& v : kVariants) {
      if (c.rows > 2000 && v.in_place) continue;
      check_backward<TestType>(c, v, true);
      check_backward<TestType>(c, v, false);
    }
  }
}

TEST_CASE("The gradients of batch_norm on CUDA take any one buffer that is not aligned for vectors") {
  if (!have_cuda()) return;
  for (int only = 0; only <= 10; ++only) {
    for (const Variant& v : {Variant{true, false, false}, Variant{true, true, false}}) {
      check_backward<float>({40, 16, 1, only}, v, true);
      check_backward<float>({40, 16, 1, only}, v, false);
    }
  }
}

TEST_CASE("batch_norm on CUDA accepts no channels") {
  if (!have_cuda()) return;
  const auto [mean, variance] = statistics(Case{5, 0}, std::vector<float>());
  CHECK(mean.empty());
  CHECK(variance.empty());
  kernels::batch_norm_apply<float>(cuda_stream(), 5, 0, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, true,
                                   nullptr);
  CHECK(backward<float>({5, 0}, {true, true, false}, true, {}, {}, {}).x.empty());
}

TEST_CASE("batch_norm on CUDA accepts no rows") {
  if (!have_cuda()) return;
  for (const bool training : {true, false}) {
    const auto gradients = backward<float>({0, 5}, {true, true, false}, training, {}, {}, {});
    CHECK(gradients.weight == std::vector<float>(5, 0.0f));
    CHECK(gradients.bias == std::vector<float>(5, 0.0f));
  }
}
