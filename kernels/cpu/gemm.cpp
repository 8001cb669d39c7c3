#include <lockstep/kernels/gemm.h>

#include <algorithm>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/multiversion.h>
#include <lockstep/kernels/cpu/onednn_utils.h>
#include <lockstep/kernels/cpu/scratch.h>
#include <lockstep/kernels/elementwise.h>

namespace lockstep::kernels {
namespace {

/// A matrix as op() presents it: element (i, j) stands at data[i · row + j · column].
template <class T>
struct Matrix {
  const T* data;
  std::int64_t row, column;

  Matrix(const T* stored, std::int64_t stride, bool transpose)
      : data(stored), row(transpose ? 1 : stride), column(transpose ? stride : 1) {}
  const T& operator()(std::int64_t i, std::int64_t j) const { return data[i * row + j * column]; }
};

template <class T>
void scale(std::int64_t m, std::int64_t n, T beta, T* c, std::int64_t ldc) {
  if (beta != T(0)) return;
  for (std::int64_t i = 0; i < m; ++i) std::fill_n(c + i * ldc, n, T(0));
}

/// For sizes where a call into oneDNN costs more than the work.
void small_gemm(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<float> a, Matrix<float> b, float beta, float* c,
                std::int64_t ldc) {
  scale(m, n, beta, c, ldc);
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t l = 0; l < k; ++l) {
      const float factor = a(i, l);
      for (std::int64_t j = 0; j < n; ++j) c[i * ldc + j] += factor * b(l, j);
    }
  }
}

// The double version: C is cut into tiles; a tile sums over k in blocks, whose parts of A and B are first packed into
// panels of kRows and kColumns that the innermost loop reads in order. Tiles and blocks depend on the sizes alone, and
// so do the bits.

constexpr std::int64_t kRows = 4, kColumns = 16;  // computed at once, in registers
constexpr std::int64_t kTileM = 64, kTileN = 128, kBlockK = 256;

using Vector [[gnu::vector_size(64), gnu::may_alias, gnu::aligned(8)]] = double;
constexpr std::int64_t kLanes = 8;

/// panels[p][l][i] = matrix(p · width + i, l), zero beyond `count`.
template <std::int64_t width>
LOCKSTEP_INLINE void pack(std::int64_t count, std::int64_t depth, const double* data, std::int64_t stride_i,
                          std::int64_t stride_l, double* panels) {
  for (std::int64_t p = 0; p < count; p += width, panels += width * depth) {
    const std::int64_t valid = std::min(width, count - p);
    for (std::int64_t l = 0; l < depth; ++l) {
      const double* source = data + p * stride_i + l * stride_l;
      double* to = panels + l * width;
      for (std::int64_t i = 0; i < valid; ++i) to[i] = source[i * stride_i];
      for (std::int64_t i = valid; i < width; ++i) to[i] = 0;
    }
  }
}

/// sums[kRows][kColumns] = one panel of A times one panel of B.
LOCKSTEP_INLINE void multiply_panels(std::int64_t depth, const double* a, const double* b, double* sums) {
  Vector s00{}, s01{}, s10{}, s11{}, s20{}, s21{}, s30{}, s31{};
  for (std::int64_t l = 0; l < depth; ++l, a += kRows, b += kColumns) {
    const Vector b0 = *reinterpret_cast<const Vector*>(b), b1 = *reinterpret_cast<const Vector*>(b + kLanes);
    s00 += a[0] * b0;
    s01 += a[0] * b1;
    s10 += a[1] * b0;
    s11 += a[1] * b1;
    s20 += a[2] * b0;
    s21 += a[2] * b1;
    s30 += a[3] * b0;
    s31 += a[3] * b1;
  }
  const Vector all[] = {s00, s01, s10, s11, s20, s21, s30, s31};
  for (const Vector& sum : all) {
    *reinterpret_cast<Vector*>(sums) = sum;
    sums += kLanes;
  }
}

LOCKSTEP_MULTIVERSION
void compute_tile(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<double> a, Matrix<double> b, double beta,
                  double* c, std::int64_t ldc, double* packed_a, double* packed_b) {
  alignas(64) double sums[kRows * kColumns];
  for (std::int64_t k0 = 0; k0 < k; k0 += kBlockK) {
    const std::int64_t depth = std::min(kBlockK, k - k0);
    pack<kRows>(m, depth, &a(0, k0), a.row, a.column, packed_a);
    pack<kColumns>(n, depth, &b(k0, 0), b.column, b.row, packed_b);
    const bool add = k0 > 0 || beta != 0;
    for (std::int64_t j = 0; j < n; j += kColumns) {
      const std::int64_t columns = std::min(kColumns, n - j);
      for (std::int64_t i = 0; i < m; i += kRows) {
        const std::int64_t rows = std::min(kRows, m - i);
        multiply_panels(depth, packed_a + i * depth, packed_b + j * depth, sums);
        for (std::int64_t r = 0; r < rows; ++r) {
          double* to = c + (i + r) * ldc + j;
          const double* from = sums + r * kColumns;
          if (add) {
            for (std::int64_t l = 0; l < columns; ++l) to[l] += from[l];
          } else {
            for (std::int64_t l = 0; l < columns; ++l) to[l] = from[l];
          }
        }
      }
    }
  }
}

}  // namespace

template <>
void gemm<float>(Cpu, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
                 const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
                 std::int64_t ldc) {
  if (m <= 0 || n <= 0) return;
  if (k <= 0) return scale(m, n, beta, c, ldc);
  const Matrix<float> op_a(a, lda, transpose_a), op_b(b, ldb, transpose_b);
  if (m * n * k <= 512) return small_gemm(m, n, k, op_a, op_b, beta, c, ldc);

  // Cut the longer side of C, in runs of at least 16 that are worth waking a thread for (about 10 µs of work).
  const bool cut_rows = m >= n;
  const std::int64_t units = (std::max(m, n) + 15) / 16;
  const std::int64_t grain = std::max<std::int64_t>(1, 1'000'000 / (16 * std::min(m, n) * k));
  parallel_for(units, grain, [&](std::int64_t begin, std::int64_t end) {
    const onednn::SingleThread scope;
    const std::int64_t first = begin * 16;
    if (cut_rows) {
      const std::int64_t rows = std::min(end * 16, m) - first;
      onednn::sgemm(transpose_a, transpose_b, rows, n, k, &op_a(first, 0), lda, b, ldb, beta, c + first * ldc, ldc);
    } else {
      const std::int64_t columns = std::min(end * 16, n) - first;
      onednn::sgemm(transpose_a, transpose_b, m, columns, k, a, lda, &op_b(0, first), ldb, beta, c + first, ldc);
    }
  });
}

template <>
void gemm<double>(Cpu, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
                  const double* a, std::int64_t lda, const double* b, std::int64_t ldb, double beta, double* c,
                  std::int64_t ldc) {
  if (m <= 0 || n <= 0) return;
  if (k <= 0) return scale(m, n, beta, c, ldc);
  const Matrix<double> op_a(a, lda, transpose_a), op_b(b, ldb, transpose_b);
  const std::int64_t tiles_m = (m + kTileM - 1) / kTileM, tiles_n = (n + kTileN - 1) / kTileN;
  const std::int64_t grain = std::max<std::int64_t>(1, 100'000 / (std::min(m, kTileM) * std::min(n, kTileN) * k));
  parallel_for(tiles_m * tiles_n, grain, [&](std::int64_t begin, std::int64_t end) {
    double* packed_a = scratch<double, 1>(kTileM * kBlockK);
    double* packed_b = scratch<double, 2>(kTileN * kBlockK);
    for (std::int64_t tile = begin; tile < end; ++tile) {
      const std::int64_t i = tile / tiles_n * kTileM, j = tile % tiles_n * kTileN;
      Matrix<double> tile_a = op_a, tile_b = op_b;
      tile_a.data = &op_a(i, 0);
      tile_b.data = &op_b(0, j);
      compute_tile(std::min(kTileM, m - i), std::min(kTileN, n - j), k, tile_a, tile_b, beta, c + i * ldc + j, ldc,
                   packed_a, packed_b);
    }
  });
}

template <class T>
void linear_forward(Cpu, std::int64_t rows, std::int64_t out, std::int64_t in, const T* x, const T* w, const T* bias,
                    bool relu, T* y) {
  if (bias) {
    for (std::int64_t row = 0; row < rows; ++row) std::copy_n(bias, out, y + row * out);
  }
  gemm<T>(kOnCpu, false, true, rows, out, in, x, in, w, in, bias ? T(1) : T(0), y, out);
  if (relu) unary_forward<T>(kOnCpu, UnaryOp::relu, rows * out, y, y);
}
template void linear_forward(Cpu, std::int64_t, std::int64_t, std::int64_t, const float*, const float*, const float*,
                             bool, float*);
template void linear_forward(Cpu, std::int64_t, std::int64_t, std::int64_t, const double*, const double*, const double*,
                             bool, double*);

}  // namespace lockstep::kernels
