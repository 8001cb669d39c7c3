#include <lockstep/kernels/batch_norm.h>

#include <lockstep/tests/kernels/kernel_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

struct Sizes {
  std::int64_t rows, channels;
};
const Sizes kSizes[] = {{1, 1},    {1, 64},    {2, 3},    {3, 513},  {17, 16},   {64, 1},    {255, 3},
                        {257, 64}, {1000, 16}, {15, 513}, {3001, 3}, {4096, 64}, {300, 513}, {70'001, 1}};

template <class T>
struct Statistics {
  std::vector<T> mean, variance;
};

template <class T>
Statistics<T> statistics(const Sizes& s, const std::vector<T>& x) {
  Statistics<T> result;
  result.variance = on_any_threads([&] {
    std::vector<T> variance(static_cast<std::size_t>(s.channels));
    result.mean = on_any_threads([&] {
      std::vector<T> mean(static_cast<std::size_t>(s.channels));
      kernels::batch_norm_statistics<T>(kOnCpu, s.rows, s.channels, x.data(), mean.data(), variance.data());
      return mean;
    });
    return variance;
  });
  return result;
}

/// Mean and biased variance of each channel by two passes in long double.
template <class T>
Statistics<double> plain_statistics(const Sizes& s, const std::vector<T>& x) {
  Statistics<double> result;
  for (std::int64_t c = 0; c < s.channels; ++c) {
    long double sum = 0, square = 0;
    for (std::int64_t r = 0; r < s.rows; ++r) sum += x[static_cast<std::size_t>(r * s.channels + c)];
    const long double mean = sum / s.rows;
    for (std::int64_t r = 0; r < s.rows; ++r) {
      const long double d = x[static_cast<std::size_t>(r * s.channels + c)] - mean;
      square += d * d;
    }
    result.mean.push_back(static_cast<double>(mean));
    result.variance.push_back(static_cast<double>(square / s.rows));
  }
  return result;
}

template <class T>
struct Parameters {
  std::vector<T> mean, invstd, weight, bias;
  explicit Parameters(std::int64_t channels)
      : mean(random_values<T>(channels, -1, 1, 1)),
        invstd(random_values<T>(channels, 0.5, 2, 2)),
        weight(random_values<T>(channels, -1, 1, 3)),
        bias(random_values<T>(channels, -1, 1, 4)) {}
};

/// All outputs of a backward call, one after the other, so that they can be compared at once.
template <class T>
struct Gradients {
  std::vector<T> x, residual, weight, bias;
};

template <class T>
Gradients<T> backward(bool training, const Sizes& s, const std::vector<T>& x, const std::vector<T>* y,
                      const std::vector<T>& grad_y, const Parameters<T>& p, bool with_residual) {
  Gradients<T> g;
  g.residual.resize(with_residual ? x.size() : 0);
  g.weight.resize(p.mean.size());
  g.bias.resize(p.mean.size());
  const auto run = [training](auto... args) {
    training ? kernels::batch_norm_backward<T>(kOnCpu, args...) : kernels::batch_norm_backward_eval<T>(kOnCpu, args...);
  };
  const auto all = on_any_threads([&] {
    g.x = grad_y;  // in place
    run(s.rows, s.channels, x.data(), y ? y->data() : nullptr, g.x.data(), p.mean.data(), p.invstd.data(),
        p.weight.data(), g.x.data(), with_residual ? g.residual.data() : nullptr, g.weight.data(), g.bias.data());
    std::vector<T> joined = g.x;
    for (const auto* part : {&g.residual, &g.weight, &g.bias}) joined.insert(joined.end(), part->begin(), part->end());
    return joined;
  });
  return g;
}

}  // namespace

TEMPLATE_TEST_CASE("batch norm statistics match two passes in long double", "", float, double) {
  using T = TestType;
  for (const Sizes& s : kSizes) {
    for (const double offset : {0.0, 1000.0}) {  // mean far larger than the deviation
      CAPTURE(s.rows, s.channels, offset);
      const auto x = random_values<T>(s.rows * s.channels, offset - 1, offset + 1);
      const auto actual = statistics(s, x);
      const auto expected = plain_statistics(s, x);
      CHECK(close(actual.mean, expected.mean, rounding<T>(1) + rounding<double>(8)));
      CHECK(close(actual.variance, expected.variance, rounding<T>(8) + rounding<double>(4 * offset)));
    }
  }
}

TEST_CASE("float batch norm statistics survive a mean of 1e6 deviations") {
  const Sizes s{5000, 5};
  const auto x = random_values<float>(s.rows * s.channels, 9999.0, 10001.0);  // spacing of floats: 0.001
  const auto expected = plain_statistics(s, x);
  const auto actual = statistics(s, x);
  for (std::size_t c = 0; c < 5; ++c) CHECK(actual.variance[c] == Approx(expected.variance[c]).epsilon(1e-6));
  const auto constant = statistics<float>({1000, 3}, std::vector<float>(3000, 0.1f));
  CHECK(constant.mean == std::vector<float>(3, 0.1f));
  CHECK(constant.variance == std::vector<float>(3, 0.0f));
}

TEMPLATE_TEST_CASE("a NaN spoils its own channel only", "", float, double) {
  using T = TestType;
  auto x = random_values<T>(1000 * 3);
  x[3 * 500 + 1] = kNaN<T>;
  const auto actual = statistics<T>({1000, 3}, x);
  CHECK(std::isfinite(actual.mean[0]));
  CHECK(std::isnan(actual.mean[1]));
  CHECK(std::isnan(actual.variance[1]));
  CHECK(std::isfinite(actual.variance[2]));
}

TEMPLATE_TEST_CASE("batch norm applies scale, shift, residual and ReLU", "", float, double) {
  using T = TestType;
  for (const Sizes& s : kSizes) {
    const auto x = random_values<T>(s.rows * s.channels, -2, 2),
               residual = random_values<T>(s.rows * s.channels, -1, 1, 9);
    const Parameters<T> p(s.channels);
    for (const bool relu : {false, true}) {
      for (const bool with_residual : {false, true}) {
        CAPTURE(s.rows, s.channels, relu, with_residual);
        std::vector<double> expected;
        for (std::size_t i = 0; i < x.size(); ++i) {
          const std::size_t c = i % p.mean.size();
          double v = (static_cast<double>(x[i]) - p.mean[c]) * p.invstd[c] * p.weight[c] + p.bias[c];
          if (with_residual) v += residual[i];
          expected.push_back(relu && v < 0 ? 0 : v);
        }
        const auto run = [&](std::vector<T> y, const T* from, const T* added) {
          kernels::batch_norm_apply<T>(kOnCpu, s.rows, s.channels, from ? from : y.data(), p.mean.data(),
                                       p.invstd.data(), p.weight.data(), p.bias.data(),
                                       added ? added : (with_residual ? y.data() : nullptr), relu, y.data());
          return y;
        };
        const T* added = with_residual ? residual.data() : nullptr;
        const auto y = on_any_threads([&] { return run(std::vector<T>(x.size()), x.data(), added); });
        CHECK(close(y, expected, rounding<T>(8)));
        CHECK(same_bits(run(x, nullptr, added), y));
        if (with_residual) CHECK(same_bits(run(residual, x.data(), nullptr), y));
      }
    }
  }
}

TEMPLATE_TEST_CASE("batch norm passes NaN through its ReLU", "", float, double) {
  using T = TestType;
  const std::vector<T> x(40, kNaN<T>), zero(1, T(0)), one(1, T(1));
  std::vector<T> y(40);
  kernels::batch_norm_apply<T>(kOnCpu, 40, 1, x.data(), zero.data(), one.data(), one.data(), zero.data(), nullptr, true,
                               y.data());
  for (const T v : y) REQUIRE(std::isnan(v));
}

TEMPLATE_TEST_CASE("batch norm gradients match the formula, training and evaluation", "", float, double) {
  using T = TestType;
  for (const Sizes& s : kSizes) {
    const auto x = random_values<T>(s.rows * s.channels, -2, 2),
               grad_y = random_values<T>(s.rows * s.channels, -1, 1, 9);
    auto y = random_values<T>(s.rows * s.channels, -1, 1, 10);
    for (T& v : y) v = v < 0 ? T(0) : v;
    const Parameters<T> p(s.channels);
    const auto channels = static_cast<std::size_t>(s.channels);
    for (const bool training : {false, true}) {
      for (const bool relu : {false, true}) {
        for (const bool with_residual : {false, true}) {
          CAPTURE(s.rows, s.channels, training, relu, with_residual);
          std::vector<double> passed, grad_x, grad_weight(channels), grad_bias(channels);
          const auto normalised = [&](std::size_t i) {
            return (static_cast<double>(x[i]) - p.mean[i % channels]) * p.invstd[i % channels];
          };
          for (std::size_t i = 0; i < x.size(); ++i) {
            passed.push_back(relu && y[i] <= 0 ? 0 : static_cast<double>(grad_y[i]));
            grad_bias[i % channels] += passed[i];
            grad_weight[i % channels] += passed[i] * normalised(i);
          }
          for (std::size_t i = 0; i < x.size(); ++i) {
            const std::size_t c = i % channels;
            const auto n = static_cast<double>(s.rows);
            const double centered =
                training ? passed[i] - grad_bias[c] / n - normalised(i) * grad_weight[c] / n : passed[i];
            grad_x.push_back(static_cast<double>(p.weight[c]) * p.invstd[c] * centered);
          }
          const auto g = backward(training, s, x, relu ? &y : nullptr, grad_y, p, with_residual);
          CHECK(close(g.x, grad_x, rounding<T>(30)));
          if (with_residual) CHECK(close(g.residual, passed, 0));
          // Sums of alternating terms: allow for what cancels.
          const double allowed = rounding<T>(16) * std::fmax(1.0, std::sqrt(static_cast<double>(s.rows)));
          CHECK(close(g.weight, grad_weight, allowed));
          CHECK(close(g.bias, grad_bias, allowed));
        }
      }
    }
  }
}

TEST_CASE("batch norm gradients may overwrite the incoming gradient as the residual's") {
  const Sizes s{100, 7};
  const auto x = random_values<float>(700), grad_y = random_values<float>(700, -1, 1, 1);
  const Parameters<float> p(7);
  std::vector<float> grad_x(700), residual = grad_y, weight(7), bias(7);
  kernels::batch_norm_backward<float>(kOnCpu, s.rows, s.channels, x.data(), x.data(), residual.data(), p.mean.data(),
                                      p.invstd.data(), p.weight.data(), grad_x.data(), residual.data(), weight.data(),
                                      bias.data());
  const auto expected = backward(true, s, x, &x, grad_y, p, true);
  CHECK(same_bits(grad_x, expected.x));
  CHECK(same_bits(residual, expected.residual));
}

TEST_CASE("batch norm of no rows in evaluation") {
  const Parameters<float> p(3);
  std::vector<float> weight(3, 5.0f), bias(3, 5.0f);
  kernels::batch_norm_apply<float>(kOnCpu, 0, 3, nullptr, p.mean.data(), p.invstd.data(), p.weight.data(),
                                   p.bias.data(), nullptr, true, nullptr);
  kernels::batch_norm_backward_eval<float>(kOnCpu, 0, 3, nullptr, nullptr, nullptr, p.mean.data(), p.invstd.data(),
                                           p.weight.data(), nullptr, nullptr, weight.data(), bias.data());
  CHECK(weight == std::vector<float>(3));
  CHECK(bias == std::vector<float>(3));
}
