#include <lockstep/kernels/gemm.h>

#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

struct Product {
  std::int64_t m, n, k;
  std::int64_t padding = 0;  ///< of each matrix's rows as stored
  std::int64_t offset = 0;   ///< of all buffers, in elements
};

/// A is stored as [m, k] or, transposed, [k, m]; likewise B.
std::vector<float> run(const Product& p, bool transpose_a, bool transpose_b, float beta, const std::vector<float>& a,
                       const std::vector<float>& b, const std::vector<float>& c) {
  const DeviceBuffer<float> left(a, p.offset), right(b, p.offset);
  const DeviceBuffer<float> out(c, p.offset);
  kernels::tiled_gemm(cuda_stream(), transpose_a, transpose_b, p.m, p.n, p.k, left.data(),
                      (transpose_a ? p.m : p.k) + p.padding, right.data(), (transpose_b ? p.k : p.n) + p.padding, beta,
                      out.data(), p.n + p.padding);
  return out.download();
}

void check_product(const Product& p, bool transpose_a, bool transpose_b, float beta) {
  CAPTURE(p.m, p.n, p.k, p.padding, p.offset, transpose_a, transpose_b, beta);
  const std::int64_t lda = (transpose_a ? p.m : p.k) + p.padding, ldb = (transpose_b ? p.k : p.n) + p.padding;
  const std::int64_t ldc = p.n + p.padding;
  const auto a = random_values<float>((transpose_a ? p.k : p.m) * lda, -1, 1, 1);
  const auto b = random_values<float>((transpose_b ? p.n : p.k) * ldb, -1, 1, 2);
  const auto c = random_values<float>(p.m * ldc, -1, 1, 3);
  const auto wide_a = converted<double>(a), wide_b = converted<double>(b);
  auto expected = converted<double>(c);
  kernels::gemm<double>(kOnCpu, transpose_a, transpose_b, p.m, p.n, p.k, wide_a.data(), lda, wide_b.data(), ldb, beta,
                        expected.data(), ldc);
  const auto actual = run(p, transpose_a, transpose_b, beta, a, b, c);
  // k + 1 roundings of partial sums, none of which is larger than k + 1: what lies between the rows stays as it was.
  const double k = static_cast<double>(p.k + 1);
  CHECK(close(actual, expected, k * k * 0x1p-24));
}

}  // namespace

TEST_CASE("The tiled product agrees with the CPU's for any sizes, transposes and strides") {
  if (!have_cuda()) return;
  const Product products[] = {{1, 1, 1},       {128, 128, 8},      {129, 127, 9, 1}, {33, 200, 31, 4}, {7, 5, 0},
                              {33, 40, 31, 1}, {3, 260, 17, 0, 1}, {64, 64, 40, 3},  {0, 5, 3},        {5, 0, 3}};
  for (const Product& p : products) {
    for (const bool transpose_a : {false, true}) {
      for (const bool transpose_b : {false, true}) {
        check_product(p, transpose_a, transpose_b, 0);
        check_product(p, transpose_a, transpose_b, 1);
      }
    }
  }
}

TEST_CASE("A grid beyond the device's limit is refused, the kernel named") {
  if (!have_cuda()) return;
  CHECK_THROWS_WITH(kernels::tiled_gemm(cuda_stream(), false, false, 128LL << 16, 128LL << 15, 0, nullptr, 0, nullptr,
                                        0, 0.0f, nullptr, 0),
                    Catch::Contains("tiled_gemm_kernel") && Catch::Contains("grid (2147483648, 1, 1)"));
  check_product({3, 5, 4}, false, false, 0);  // nothing stays behind
}

TEST_CASE("The tiled product does not read C where beta is 0, and passes NaN on") {
  if (!have_cuda()) return;
  const Product p{20, 20, 20};
  auto a = random_values<float>(400, -1, 1, 1);
  const auto b = random_values<float>(400, -1, 1, 2);
  const std::vector<float> poisoned(400, kNaN<float>);
  for (const float value : run(p, false, false, 0, a, b, poisoned)) REQUIRE(std::isfinite(value));
  a[20 * 3 + 5] = kNaN<float>;
  const auto c = run(p, false, false, 0, a, b, poisoned);
  for (std::size_t i = 0; i < c.size(); ++i) REQUIRE(std::isnan(c[i]) == (i / 20 == 3));
}
