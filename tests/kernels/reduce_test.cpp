#include <lockstep/kernels/reduce.h>

#include <algorithm>

#include <lockstep/tests/kernels/kernel_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

struct Sizes {
  std::int64_t outer, n, inner;
};
const Sizes kSizes[] = {
    {0, 3, 2},     {1, 1, 1},    {1, 15, 1},     {3, 17, 1},      {2, 64, 1},      {5, 1000, 1},   {1, 300'001, 1},
    {2000, 10, 1}, {1, 1000, 3}, {1, 70'001, 3}, {1, 5000, 64},   {1, 777, 513},   {2, 1500, 130}, {4, 3, 1000},
    {7, 9, 5},     {3, 1, 20},   {1, 4, 9000},   {2, 131'072, 1}, {1, 20'000, 16},
};

template <class T>
std::vector<T> sum(const Sizes& s, const std::vector<T>& x, T scale) {
  return on_any_threads([&] {
    std::vector<T> out(static_cast<std::size_t>(s.outer * s.inner), T(7));
    kernels::reduce_sum<T>(kOnCpu, s.outer, s.n, s.inner, x.data(), scale, out.data());
    return out;
  });
}

/// Largest values and first indices, NaN above all, by the definition.
template <class T>
void plain_max(const Sizes& s, const std::vector<T>& x, std::vector<T>& out, std::vector<std::int64_t>& index) {
  for (std::int64_t o = 0; o < s.outer; ++o) {
    for (std::int64_t i = 0; i < s.inner; ++i) {
      T best = x[static_cast<std::size_t>(o * s.n * s.inner + i)];
      std::int64_t where = 0;
      for (std::int64_t j = 1; j < s.n; ++j) {
        const T v = x[static_cast<std::size_t>((o * s.n + j) * s.inner + i)];
        if (!std::isnan(best) && (std::isnan(v) || v > best)) {
          best = v;
          where = j;
        }
      }
      out.push_back(best);
      index.push_back(where);
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("reduce_sum over any sizes, with the same bits on any threads", "", float, double) {
  using T = TestType;
  for (const Sizes& s : kSizes) {
    CAPTURE(s.outer, s.n, s.inner);
    const auto x = random_values<T>(s.outer * s.n * s.inner, -1, 2);
    std::vector<double> expected(static_cast<std::size_t>(s.outer * s.inner));
    for (std::int64_t i = 0; i < s.outer * s.n * s.inner; ++i) {
      expected[static_cast<std::size_t>(i / (s.n * s.inner) * s.inner + i % s.inner)] +=
          static_cast<double>(x[static_cast<std::size_t>(i)]) * 0.25;
    }
    CHECK(close(sum<T>(s, x, T(0.25)), expected, std::is_same_v<T, float> ? 2e-6 : 1e-13));
  }
}

TEMPLATE_TEST_CASE("reduce_sum of nothing is 0, and NaN and infinity pass through", "", float, double) {
  using T = TestType;
  CHECK(sum<T>({2, 0, 3}, {}, T(1)) == std::vector<T>(6, T(0)));
  std::vector<T> x(1000, T(1));
  x[998] = kInf<T>;
  CHECK(sum<T>({1, 1000, 1}, x, T(1))[0] == kInf<T>);
  x[3] = kNaN<T>;
  CHECK(std::isnan(sum<T>({1, 1000, 1}, x, T(1))[0]));
  const auto columns = sum<T>({1, 500, 2}, x, T(1));
  CHECK(columns[0] == kInf<T>);
  CHECK(std::isnan(columns[1]));
}

TEST_CASE("a float sum of ten million values keeps seven digits") {
  const std::int64_t n = 10'000'000;
  const std::vector<float> x(static_cast<std::size_t>(n), 0.1f);
  CHECK(sum<float>({1, n, 1}, x, 1.0f)[0] == Approx(static_cast<double>(0.1f) * 1e7).epsilon(2e-7));
}

TEMPLATE_TEST_CASE("reduce_max finds the first of the largest, NaN winning", "", float, double) {
  using T = TestType;
  for (const Sizes& s : kSizes) {
    for (const bool with_nan : {false, true}) {
      CAPTURE(s.outer, s.n, s.inner, with_nan);
      auto x = random_values<T>(s.outer * s.n * s.inner, -3, 3);
      for (T& v : x) v = std::round(v);  // ties
      if (with_nan) {
        for (std::size_t i = 0; i < x.size(); i += 97) x[i] = kNaN<T>;
      }
      std::vector<T> expected;
      std::vector<std::int64_t> expected_index;
      plain_max(s, x, expected, expected_index);
      const auto out = on_any_threads([&] {
        std::vector<T> result(expected.size());
        std::vector<std::int64_t> index(expected.size(), -1);
        kernels::reduce_max<T>(kOnCpu, s.outer, s.n, s.inner, x.data(), result.data(), index.data());
        CHECK(index == expected_index);
        std::fill(index.begin(), index.end(), -1);
        kernels::reduce_max<T>(kOnCpu, s.outer, s.n, s.inner, x.data(), nullptr, index.data());
        CHECK(index == expected_index);
        kernels::reduce_max<T>(kOnCpu, s.outer, s.n, s.inner, x.data(), result.data(), nullptr);
        return result;
      });
      CHECK(close(out, expected, 0));
    }
  }
  const std::vector<T> low(100, -kInf<T>);
  std::int64_t index = -1;
  kernels::reduce_max<T>(kOnCpu, 1, 100, 1, low.data(), nullptr, &index);
  CHECK(index == 0);
}

TEMPLATE_TEST_CASE("reduce_max_backward sends the gradient to the index", "", float, double) {
  using T = TestType;
  for (const Sizes& s : kSizes) {
    CAPTURE(s.outer, s.n, s.inner);
    const auto g = random_values<T>(s.outer * s.inner);
    std::vector<std::int64_t> index;
    for (std::size_t i = 0; i < g.size(); ++i)
      index.push_back(static_cast<std::int64_t>(i * 31 % static_cast<std::size_t>(s.n)));
    std::vector<T> expected(static_cast<std::size_t>(s.outer * s.n * s.inner));
    for (std::int64_t i = 0; i < s.outer * s.inner; ++i) {
      const auto at = static_cast<std::size_t>(i);
      expected[static_cast<std::size_t>((i / s.inner * s.n + index[at]) * s.inner + i % s.inner)] = g[at];
    }
    const auto grad = on_any_threads([&] {
      std::vector<T> out(expected.size(), T(9));
      kernels::reduce_max_backward<T>(kOnCpu, s.outer, s.n, s.inner, g.data(), index.data(), out.data());
      return out;
    });
    CHECK(close(grad, expected, 0));
  }
}

TEMPLATE_TEST_CASE("topk orders by value, then index, NaN first", "", float, double) {
  using T = TestType;
  for (const auto& [rows, n, k] : {std::tuple{1, 1, 1}, {3, 10, 5}, {200, 17, 17}, {2, 3000, 1}, {5, 1000, 64}}) {
    CAPTURE(rows, n, k);
    auto x = random_values<T>(rows * n, -20, 20);
    for (T& v : x) v = std::round(v);
    if (n == 17) x[20] = x[22] = kNaN<T>;
    std::vector<T> values(static_cast<std::size_t>(rows * k));
    std::vector<std::int64_t> index(values.size());
    kernels::topk<T>(kOnCpu, rows, n, k, x.data(), values.data(), index.data());
    for (int row = 0; row < rows; ++row) {
      std::vector<std::pair<double, std::int64_t>> order;
      for (int i = 0; i < n; ++i) {
        const auto v = static_cast<double>(x[static_cast<std::size_t>(row * n + i)]);
        order.emplace_back(std::isnan(v) ? -1e9 : -v, i);
      }
      std::sort(order.begin(), order.end());
      for (int j = 0; j < k; ++j) {
        const auto at = static_cast<std::size_t>(row * k + j);
        REQUIRE(index[at] == order[static_cast<std::size_t>(j)].second);
        REQUIRE(close<T>({values[at]}, std::vector<T>{x[static_cast<std::size_t>(row * n + index[at])]}, 0));
      }
    }
  }
}
