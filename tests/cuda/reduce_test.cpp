#include <lockstep/kernels/reduce.h>

#include <algorithm>
#include <cmath>

#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

struct Sizes {
  std::int64_t outer, n, inner;

  std::int64_t elements() const { return outer * n * inner; }
  std::int64_t outputs() const { return outer * inner; }
};
// Rows for a warp, a block and several blocks; columns in vectors and single ones, few and many, with n in parts.
const Sizes kSizes[] = {
    {0, 3, 2},      {2, 0, 3},    {2, 3, 0},    {3, 0, 1},     {1, 1, 1},     {1, 15, 1},    {3, 17, 1},
    {33, 32, 1},    {9, 1000, 1}, {2, 1024, 1}, {2, 1025, 1},  {3, 1032, 1},  {1, 8191, 1},  {1, 40'001, 1},
    {2, 50'000, 1}, {1, 100, 3},  {1, 9001, 3}, {1, 3000, 64}, {1, 77, 513},  {2, 150, 130}, {4, 3, 1000},
    {7, 9, 5},      {3, 1, 20},   {1, 4, 3000}, {1, 2000, 16}, {1, 300, 256}, {5, 2, 8},     {2, 5, 2},
};

/// The sum that follows `before`, with a workspace of the size asked for, whose contents are irrelevant.
template <class T>
std::vector<T> sum_on_cuda(const Sizes& s, const std::vector<T>& x, float scale, std::int64_t offset) {
  const DeviceBuffer<T> there(x, offset), out(s.outputs(), offset);
  const auto bytes = static_cast<std::int64_t>(kernels::reduce_sum_workspace(cuda_stream(), s.outer, s.n, s.inner));
  const DeviceBuffer<std::uint8_t> workspace(bytes);
  kernels::reduce_sum<T>(cuda_stream(), s.outer, s.n, s.inner, there.data(), scale, out.data(), workspace.data());
  return out.download();
}

template <class T>
struct Maxima {
  std::vector<T> values;
  std::vector<std::int64_t> index;
};
template <class T>
Maxima<T> max_on_cuda(const Sizes& s, const std::vector<T>& x, std::int64_t offset, bool values = true,
                      bool index = true) {
  const DeviceBuffer<T> there(x, offset), out(values ? s.outputs() : 0);
  const DeviceBuffer<std::int64_t> where(index ? s.outputs() : 0);
  kernels::reduce_max<T>(cuda_stream(), s.outer, s.n, s.inner, there.data(), out.data(), where.data());
  return {out.download(), where.download()};
}

}  // namespace

TEMPLATE_TEST_CASE("CUDA reduce_sum over any sizes agrees with the exact sum, alignment changing no bit", "", float,
                   float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  int split = 0;
  for (const Sizes& s : kSizes) {
    CAPTURE(s.outer, s.n, s.inner);
    const auto x = random_elements<T>(s.elements(), -1, 2);
    std::vector<double> expected(static_cast<std::size_t>(s.outputs())), magnitude(expected.size());
    for (std::int64_t i = 0; i < s.elements(); ++i) {
      const auto at = static_cast<std::size_t>(i / (s.n * s.inner) * s.inner + i % s.inner);
      const double term = static_cast<double>(static_cast<float>(x[static_cast<std::size_t>(i)])) * 0.25;
      expected[at] += term;
      magnitude[at] += std::fabs(term);
    }
    const auto out = sum_on_cuda<T>(s, x, 0.25f, 0);
    const auto wide = converted<double>(out);
    for (std::size_t i = 0; i < wide.size(); ++i) {
      // Up to 8 neighbours are added in float, 3 roundings one after the other, the rest in double.
      const double bound = 4 * 0x1p-24 * magnitude[i] + kHalfUlp<T> * std::fabs(expected[i]) + 1e-7;
      CAPTURE(i, wide[i], expected[i]);
      REQUIRE(std::fabs(wide[i] - expected[i]) <= bound);
    }
    CHECK(same_bits(sum_on_cuda<T>(s, x, 0.25f, 0), out));
    CHECK(same_bits(sum_on_cuda<T>(s, x, 0.25f, 1), out));
    split += kernels::reduce_sum_workspace(cuda_stream(), s.outer, s.n, s.inner) > 0 ? 1 : 0;
  }
  std::printf("CUDA sums: %d, of which in parts: %d\n", static_cast<int>(std::size(kSizes)), split);
  CHECK(split >= 5);
}

TEST_CASE("CUDA reduce_sum passes NaN and infinity, and keeps small terms of a long sum") {
  if (!have_cuda()) return;
  std::vector<float> x(1000, 1.0f);
  x[998] = kInf<float>;
  CHECK(sum_on_cuda<float>({1, 1000, 1}, x, 1.0f, 0)[0] == kInf<float>);
  x[3] = kNaN<float>;
  CHECK(std::isnan(sum_on_cuda<float>({1, 1000, 1}, x, 1.0f, 0)[0]));
  const auto columns = sum_on_cuda<float>({1, 500, 2}, x, 1.0f, 0);
  CHECK(columns[0] == kInf<float>);
  CHECK(std::isnan(columns[1]));
  const std::int64_t n = 200'000;
  const std::vector<float> same(static_cast<std::size_t>(n), 0.1f);
  CHECK(sum_on_cuda<float>({1, n, 1}, same, 1.0f, 0)[0] == Approx(static_cast<double>(0.1f) * n).epsilon(1e-7));
  CHECK(sum_on_cuda<float>({1, n / 2, 2}, same, 1.0f, 0)[1] == Approx(static_cast<double>(0.1f) * n / 2).epsilon(1e-7));
}

TEMPLATE_TEST_CASE("CUDA reduce_max finds the first of the largest, NaN winning", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  for (const Sizes& s : kSizes) {
    if (s.n == 0) continue;
    for (const bool with_nan : {false, true}) {
      CAPTURE(s.outer, s.n, s.inner, with_nan);
      auto x = random_values<float>(s.elements(), -3, 3);
      for (float& v : x) v = std::round(v);  // ties
      if (with_nan) {
        for (std::size_t i = 0; i < x.size(); i += 97) x[i] = kNaN<float>;
      }
      std::vector<float> expected(static_cast<std::size_t>(s.outputs()));
      std::vector<std::int64_t> expected_index(expected.size());
      kernels::reduce_max<float>(kOnCpu, s.outer, s.n, s.inner, x.data(), expected.data(), expected_index.data());
      const auto rounded = converted<T>(x);
      for (const std::int64_t offset : {0, 1}) {
        const auto result = max_on_cuda<T>(s, rounded, offset);
        CHECK(close(converted<double>(result.values), converted<double>(expected), 0));
        CHECK(result.index == expected_index);
      }
      CHECK(max_on_cuda<T>(s, rounded, 0, false, true).index == expected_index);
      CHECK(
          close(converted<double>(max_on_cuda<T>(s, rounded, 0, true, false).values), converted<double>(expected), 0));
    }
  }
  const std::vector<T> low(100, T(-kInf<float>));
  CHECK(max_on_cuda<T>({1, 100, 1}, low, 0).index == std::vector<std::int64_t>{0});
  CHECK(max_on_cuda<T>({1, 50, 2}, low, 0).index == std::vector<std::int64_t>{0, 0});
}

TEMPLATE_TEST_CASE("CUDA reduce_max_backward sends the gradient to the index", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  for (const Sizes& s : kSizes) {
    if (s.n == 0) continue;
    CAPTURE(s.outer, s.n, s.inner);
    const auto g = random_elements<T>(s.outputs());
    std::vector<std::int64_t> index;
    for (std::size_t i = 0; i < g.size(); ++i)
      index.push_back(static_cast<std::int64_t>(i * 31 % static_cast<std::size_t>(s.n)));
    const DeviceBuffer<T> grad(g), out(s.elements());
    const DeviceBuffer<std::int64_t> where(index);
    kernels::reduce_max_backward<T>(cuda_stream(), s.outer, s.n, s.inner, grad.data(), where.data(), out.data());
    std::vector<double> expected(static_cast<std::size_t>(s.elements()));
    kernels::reduce_max_backward<double>(kOnCpu, s.outer, s.n, s.inner, converted<double>(g).data(), index.data(),
                                         expected.data());
    CHECK(close_to(out.download(), expected, 0));
  }
}

TEMPLATE_TEST_CASE("CUDA topk orders by value, then index, NaN first", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  for (const auto& [rows, n, k] : {std::tuple{0, 5, 2},
                                   {3, 10, 0},
                                   {1, 1, 1},
                                   {3, 10, 5},
                                   {20, 17, 17},
                                   {2, 3000, 1},
                                   {2, 1000, 20},
                                   {1, 9000, 5}}) {
    CAPTURE(rows, n, k);
    auto x = random_values<float>(rows * n, -20, 20);
    for (float& v : x) v = std::round(v);
    if (n == 17) {
      x[20] = x[22] = kNaN<float>;
      for (std::size_t i = 0; i < 17; ++i) x[i] = -kInf<float>;
    }
    std::vector<float> expected(static_cast<std::size_t>(rows * k));
    std::vector<std::int64_t> expected_index(expected.size());
    kernels::topk<float>(kOnCpu, rows, n, k, x.data(), expected.data(), expected_index.data());
    const DeviceBuffer<T> there(converted<T>(x)), values(rows * k);
    const DeviceBuffer<std::int64_t> index(rows * k);
    kernels::topk<T>(cuda_stream(), rows, n, k, there.data(), values.data(), index.data());
    CHECK(index.download() == expected_index);
    CHECK(close(converted<double>(values.download()), converted<double>(expected), 0));
  }
}

TEST_CASE("CUDA reductions loop over more rows and columns than there are blocks") {
  if (!have_cuda()) return;
  for (const Sizes& s : {Sizes{4100, 1025, 1}, {32'900, 3, 1}, {4100, 3, 2}}) {
    CAPTURE(s.outer, s.n, s.inner);
    const auto x = random_values<float>(s.elements(), -3, 3);
    std::vector<float> sums(static_cast<std::size_t>(s.outputs())), largest(sums.size());
    std::vector<std::int64_t> index(sums.size());
    kernels::reduce_sum<float>(kOnCpu, s.outer, s.n, s.inner, x.data(), 1.0f, sums.data());
    kernels::reduce_max<float>(kOnCpu, s.outer, s.n, s.inner, x.data(), largest.data(), index.data());
    CHECK(close(sum_on_cuda<float>(s, x, 1.0f, 0), sums, 1e-4));
    const auto maxima = max_on_cuda<float>(s, x, 0);
    CHECK(maxima.values == largest);
    CHECK(maxima.index == index);
  }
  const std::int64_t rows = 4100, n = 3, k = 2;
  const auto x = random_values<float>(rows * n);
  std::vector<float> expected(static_cast<std::size_t>(rows * k));
  std::vector<std::int64_t> expected_index(expected.size());
  kernels::topk<float>(kOnCpu, rows, n, k, x.data(), expected.data(), expected_index.data());
  const DeviceBuffer<float> there(x), values(rows * k);
  const DeviceBuffer<std::int64_t> index(rows * k);
  kernels::topk<float>(cuda_stream(), rows, n, k, there.data(), values.data(), index.data());
  CHECK(values.download() == expected);
  CHECK(index.download() == expected_index);
}
