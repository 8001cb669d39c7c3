#include <lockstep/kernels/softmax.h>

#include <algorithm>

#include <lockstep/tests/kernels/kernel_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

template <class T>
using Forward = void (*)(Cpu, std::int64_t, std::int64_t, const T*, T*);
template <class T>
using Backward = void (*)(Cpu, std::int64_t, std::int64_t, const T*, const T*, T*);

template <class T>
std::vector<T> forward(Forward<T> kernel, std::int64_t rows, std::int64_t n, const std::vector<T>& x) {
  return on_any_threads([&] {
    std::vector<T> y = x;  // in place
    kernel(kOnCpu, rows, n, y.data(), y.data());
    return y;
  });
}

/// log_softmax by its definition.
template <class T>
std::vector<double> plain_log_softmax(std::int64_t rows, std::int64_t n, const std::vector<T>& x) {
  std::vector<double> y;
  for (std::int64_t row = 0; row < rows; ++row) {
    const T* v = x.data() + row * n;
    const auto max = static_cast<double>(*std::max_element(v, v + n));
    double sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(v[i]) - max);
    for (std::int64_t i = 0; i < n; ++i) y.push_back(static_cast<double>(v[i]) - max - std::log(sum));
  }
  return y;
}

constexpr std::pair<std::int64_t, std::int64_t> kSizes[] = {{0, 5},  {1, 1},  {3, 2},    {128, 10}, {5, 15},   {5, 16},
                                                            {5, 17}, {7, 64}, {3, 1000}, {2, 4097}, {3000, 10}};

}  // namespace

TEMPLATE_TEST_CASE("softmax and log-softmax match plain loops", "", float, double) {
  using T = TestType;
  for (const auto& [rows, n] : kSizes) {
    CAPTURE(rows, n);
    const auto x = random_values<T>(rows * n, -8, 8), g = random_values<T>(rows * n, -1, 1, 1);
    const auto log_expected = plain_log_softmax(rows, n, x);
    std::vector<double> expected = log_expected;
    for (double& v : expected) v = std::exp(v);
    CHECK(close(forward<T>(kernels::softmax_forward<T>, rows, n, x), expected, rounding<T>(8)));
    CHECK(close(forward<T>(kernels::log_softmax_forward<T>, rows, n, x), log_expected, rounding<T>(8)));

    std::vector<T> y(expected.begin(), expected.end()), log_y(log_expected.begin(), log_expected.end());
    std::vector<double> grad, log_grad;
    for (std::int64_t row = 0; row < rows; ++row) {
      double dot = 0, sum = 0;
      for (std::int64_t i = row * n; i < (row + 1) * n; ++i) {
        const auto at = static_cast<std::size_t>(i);
        dot += static_cast<double>(g[at]) * static_cast<double>(y[at]);
        sum += static_cast<double>(g[at]);
      }
      for (std::int64_t i = row * n; i < (row + 1) * n; ++i) {
        const auto at = static_cast<std::size_t>(i);
        grad.push_back(static_cast<double>(y[at]) * (static_cast<double>(g[at]) - dot));
        log_grad.push_back(static_cast<double>(g[at]) - std::exp(static_cast<double>(log_y[at])) * sum);
      }
    }
    const auto backward = [&, rows = rows, n = n](Backward<T> kernel, const std::vector<T>& saved) {
      return on_any_threads([&] {
        std::vector<T> out = g;  // in place
        kernel(kOnCpu, rows, n, saved.data(), out.data(), out.data());
        return out;
      });
    };
    CHECK(close(backward(kernels::softmax_backward<T>, y), grad, rounding<T>(16)));
    CHECK(close(backward(kernels::log_softmax_backward<T>, log_y), log_grad, rounding<T>(40)));
  }
}

TEMPLATE_TEST_CASE("softmax of huge, infinite and NaN logits", "", float, double) {
  using T = TestType;
  for (const std::int64_t n : {3, 40}) {
    std::vector<T> x(static_cast<std::size_t>(n), T(1e30));
    const double uniform = 1.0 / static_cast<double>(n);
    CHECK(close(forward<T>(kernels::softmax_forward<T>, 1, n, x), std::vector<double>(x.size(), uniform),
                rounding<T>(4)));
    CHECK(close(forward<T>(kernels::log_softmax_forward<T>, 1, n, x), std::vector<double>(x.size(), std::log(uniform)),
                rounding<T>(4)));
    x.assign(x.size(), -kInf<T>);
    x[1] = T(5);
    std::vector<T> certain(x.size(), T(0));
    certain[1] = 1;
    CHECK(forward<T>(kernels::softmax_forward<T>, 1, n, x) == certain);
    const auto log_certain = forward<T>(kernels::log_softmax_forward<T>, 1, n, x);
    CHECK(log_certain[0] == -kInf<T>);
    CHECK(log_certain[1] == 0);
    for (const T bad : {kNaN<T>, kInf<T>}) {
      x[2] = bad;
      CHECK(std::isnan(forward<T>(kernels::softmax_forward<T>, 1, n, x)[2]));
    }
    x.assign(x.size(), -kInf<T>);
    CHECK(std::isnan(forward<T>(kernels::softmax_forward<T>, 1, n, x)[0]));
  }
}
