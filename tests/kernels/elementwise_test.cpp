#include <lockstep/kernels/elementwise.h>

#include <functional>

#include <lockstep/tests/kernels/kernel_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

constexpr std::int64_t kSizes[] = {0, 1, 3, 15, 16, 17, 64, 1000, 100'003};

struct UnaryCase {
  UnaryOp op;
  const char* name;
  std::function<double(double)> value;
  std::function<double(double, double)> slope;  // of x and y
  double low, high;
};

const UnaryCase kUnary[] = {
    {UnaryOp::neg, "neg", [](double x) { return -x; }, [](double, double) { return -1.0; }, -9, 9},
    {UnaryOp::exp, "exp", [](double x) { return std::exp(x); }, [](double, double y) { return y; }, -9, 9},
    {UnaryOp::log, "log", [](double x) { return std::log(x); }, [](double x, double) { return 1 / x; }, 0.01, 9},
    {UnaryOp::sqrt, "sqrt", [](double x) { return std::sqrt(x); }, [](double, double y) { return 0.5 / y; }, 0.01, 9},
    {UnaryOp::relu, "relu", [](double x) { return x > 0 ? x : 0; }, [](double x, double) { return x > 0 ? 1.0 : 0.0; },
     -9, 9},
    {UnaryOp::sigmoid, "sigmoid", [](double x) { return 1 / (1 + std::exp(-x)); },
     [](double, double y) { return y * (1 - y); }, -9, 9},
    {UnaryOp::tanh, "tanh", [](double x) { return std::tanh(x); }, [](double, double y) { return 1 - y * y; }, -9, 9},
};

template <class T>
T forward_one(UnaryOp op, T x) {
  std::vector<T> v(37, x);  // long enough for the vector loop, with a tail
  kernels::unary_forward<T>(kOnCpu, op, 37, v.data(), v.data());
  return same_bits(v, std::vector<T>(37, v[0])) ? v[0] : T(123);  // the tail must not differ
}

template <class T>
double ulps(T actual, double expected) {
  const T rounded = static_cast<T>(expected);
  const double step =
      static_cast<double>(std::nextafter(std::fabs(rounded), kInf<T>)) - static_cast<double>(std::fabs(rounded));
  return std::fabs(static_cast<double>(actual) - expected) / step;
}

}  // namespace

TEMPLATE_TEST_CASE("unary ops and their gradients match libm at any size", "", float, double) {
  using T = TestType;
  for (const UnaryCase& c : kUnary) {
    for (const std::int64_t n : kSizes) {
      CAPTURE(c.name, n);
      const auto x = random_values<T>(n, c.low, c.high), g = random_values<T>(n, -2, 2, 1);
      const auto y = on_any_threads([&] {
        std::vector<T> out(x.size() + 1, T(77));
        kernels::unary_forward<T>(kOnCpu, c.op, n, x.data(), out.data());
        REQUIRE(out.back() == 77);
        out.pop_back();
        return out;
      });
      std::vector<double> expected, expected_grad;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const auto value = static_cast<double>(x[i]);
        expected.push_back(c.value(value));
        expected_grad.push_back(c.slope(value, static_cast<double>(y[i])) * static_cast<double>(g[i]));
      }
      CHECK(close(y, expected, rounding<T>(2)));
      const T* saved = c.op == UnaryOp::neg ? nullptr : (c.op == UnaryOp::log ? x.data() : y.data());
      auto grad = g;  // in place
      kernels::unary_backward<T>(kOnCpu, c.op, n, saved, grad.data(), grad.data());
      CHECK(close(grad, expected_grad, rounding<T>(4)));
    }
  }
}

TEMPLATE_TEST_CASE("unary ops treat NaN and infinity as PyTorch does", "", float, double) {
  using T = TestType;
  for (const UnaryCase& c : kUnary) {
    CAPTURE(c.name);
    CHECK(std::isnan(forward_one<T>(c.op, kNaN<T>)));
  }
  CHECK(forward_one<T>(UnaryOp::exp, kInf<T>) == kInf<T>);
  CHECK(forward_one<T>(UnaryOp::exp, -kInf<T>) == 0);
  CHECK(forward_one<T>(UnaryOp::exp, T(1e5)) == kInf<T>);
  CHECK(forward_one<T>(UnaryOp::exp, T(-1e5)) == 0);
  CHECK(forward_one<T>(UnaryOp::exp, T(0)) == 1);
  CHECK(forward_one<T>(UnaryOp::log, T(0)) == -kInf<T>);
  CHECK(forward_one<T>(UnaryOp::log, T(-0.0)) == -kInf<T>);
  CHECK(forward_one<T>(UnaryOp::log, kInf<T>) == kInf<T>);
  CHECK(std::isnan(forward_one<T>(UnaryOp::log, T(-1))));
  CHECK(forward_one<T>(UnaryOp::log, T(1)) == 0);
  CHECK(forward_one<T>(UnaryOp::relu, -kInf<T>) == 0);
  CHECK(forward_one<T>(UnaryOp::relu, kInf<T>) == kInf<T>);
  CHECK(forward_one<T>(UnaryOp::sigmoid, -kInf<T>) == 0);
  CHECK(forward_one<T>(UnaryOp::sigmoid, kInf<T>) == 1);
  CHECK(forward_one<T>(UnaryOp::tanh, -kInf<T>) == -1);
  CHECK(forward_one<T>(UnaryOp::tanh, T(1e-20)) == T(1e-20));
}

TEMPLATE_TEST_CASE("exp, log and tanh are accurate over the whole range", "", float, double) {
  using T = TestType;
  constexpr bool single = std::is_same_v<T, float>;
  const double reach = single ? 104 : 745;
  const double allowed = single ? 0.51 : 1.2;
  double worst_exp = 0, worst_log = 0, worst_tanh = 0;
  for (const T x : random_values<T>(20'000, -reach, single ? 88.7 : 709.7)) {
    worst_exp = std::fmax(worst_exp, ulps(forward_one<T>(UnaryOp::exp, x), std::exp(static_cast<double>(x))));
  }
  for (const T e : random_values<T>(20'000, single ? -149 : -1074, single ? 127 : 1023)) {
    const T x = std::exp2(e);
    worst_log = std::fmax(worst_log, ulps(forward_one<T>(UnaryOp::log, x), std::log(static_cast<double>(x))));
    const T small = std::exp2(e / 100);
    worst_tanh =
        std::fmax(worst_tanh, ulps(forward_one<T>(UnaryOp::tanh, small), std::tanh(static_cast<double>(small))));
  }
  for (const T x : random_values<T>(20'000, 0.5, 2)) {
    worst_log = std::fmax(worst_log, ulps(forward_one<T>(UnaryOp::log, x), std::log(static_cast<double>(x))));
  }
  CHECK(worst_exp < allowed);
  CHECK(worst_log < allowed);
  CHECK(worst_tanh < allowed);
}

TEMPLATE_TEST_CASE("binary ops broadcast over any strides", "", float, double) {
  using T = TestType;
  struct Case {
    std::vector<std::int64_t> sizes, a, b;
  };
  const Case cases[] = {
      {{}, {}, {}},
      {{0}, {1}, {1}},
      {{1}, {1}, {1}},
      {{17}, {1}, {1}},
      {{100'001}, {1}, {1}},
      {{1000}, {1}, {0}},
      {{1000}, {0}, {1}},
      {{40, 33}, {33, 1}, {0, 1}},
      {{40, 33}, {1, 40}, {33, 1}},
      {{40, 33}, {33, 1}, {1, 0}},
      {{3, 0, 4}, {0, 4, 1}, {0, 4, 1}},
      {{2, 3, 5, 7}, {105, 35, 7, 1}, {0, 1, 0, 3}},
      {{500, 129}, {0, 1}, {1, 0}},
      {{2, 1, 2, 3, 1, 2, 2, 300}, {0, 0, 1, 2, 0, 0, 0, 6}, {7200, 1, 3600, 1200, 1, 600, 300, 1}},
  };
  const std::pair<BinaryOp, std::function<T(T, T)>> ops[] = {{BinaryOp::add, std::plus<T>{}},
                                                             {BinaryOp::sub, std::minus<T>{}},
                                                             {BinaryOp::mul, std::multiplies<T>{}},
                                                             {BinaryOp::div, std::divides<T>{}}};
  for (const Case& c : cases) {
    BroadcastShape shape;
    shape.rank = static_cast<int>(c.sizes.size());
    std::int64_t n = 1, a_size = 1, b_size = 1;
    for (std::size_t d = 0; d < c.sizes.size(); ++d) {
      shape.sizes[d] = c.sizes[d];
      shape.a_strides[d] = c.a[d];
      shape.b_strides[d] = c.b[d];
      n *= c.sizes[d];
      a_size += c.sizes[d] * c.a[d];
      b_size += c.sizes[d] * c.b[d];
    }
    const auto a = random_values<T>(a_size), b = random_values<T>(b_size, 1, 2, 1);
    CAPTURE(c.sizes, c.a, c.b);
    for (const auto& [op, f] : ops) {
      const auto out = on_any_threads([&, which = op] {
        std::vector<T> result(static_cast<std::size_t>(n));
        kernels::binary<T>(kOnCpu, which, shape, a.data(), b.data(), result.data());
        return result;
      });
      std::vector<T> expected;
      for (std::int64_t i = 0; i < n; ++i) {
        std::int64_t rest = i, ia = 0, ib = 0;
        for (std::size_t d = c.sizes.size(); d-- > 0; rest /= c.sizes[d]) {
          ia += rest % c.sizes[d] * c.a[d];
          ib += rest % c.sizes[d] * c.b[d];
        }
        expected.push_back(f(a[static_cast<std::size_t>(ia)], b[static_cast<std::size_t>(ib)]));
      }
      CHECK(same_bits(out, expected));
    }
  }
}

TEMPLATE_TEST_CASE("affine and add_scaled, in place too", "", float, double) {
  using T = TestType;
  for (const std::int64_t n : kSizes) {
    const auto x = random_values<T>(n), y = random_values<T>(n, -1, 1, 1);
    auto scaled = x, sum = y;
    kernels::affine<T>(kOnCpu, n, x.data(), T(3), T(-0.5), scaled.data());
    kernels::add_scaled<T>(kOnCpu, n, x.data(), T(-2), sum.data());
    std::vector<T> expected_scaled, expected_sum;
    for (std::size_t i = 0; i < x.size(); ++i) {
      expected_scaled.push_back(x[i] * T(3) + T(-0.5));
      expected_sum.push_back(y[i] + x[i] * T(-2));
    }
    CHECK(same_bits(scaled, expected_scaled));
    CHECK(same_bits(sum, expected_sum));
    auto in_place = x;
    kernels::affine<T>(kOnCpu, n, in_place.data(), T(3), T(-0.5), in_place.data());
    CHECK(same_bits(in_place, expected_scaled));
  }
}
