// Matrix multiplication, row-major.
#pragma once

#include <cstdint>

#include <lockstep/core/base/device.h>
#include <lockstep/core/base/dtype.h>

namespace lockstep::kernels {

/// C = op(A) · op(B) + beta · C with op(A) [m, k], op(B) [k, n], C [m, n]; op transposes when its flag is set; lda,
/// ldb, ldc are the row strides of the matrices as stored. beta is 0 (C is not read) or 1. Empty sizes are fine: k = 0
/// gives beta · C. float runs on oneDNN, double in plain loops. Allocates nothing in a steady state.
template <class T>
void gemm(Cpu, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, const T* a,
          std::int64_t lda, const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc);
template <class T>
void gemm(CudaStream, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, const T* a,
          std::int64_t lda, const T* b, std::int64_t ldb, Compute<T> beta, T* c, std::int64_t ldc);

/// The same for float by a kernel of our own, without tensor cores: what benchmarks hold against the library. Each sum
/// over k is taken in order.
void tiled_gemm(CudaStream, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
                const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
                std::int64_t ldc);

/// y [rows, out] = x [rows, in] · wᵀ + bias with w [out, in], bias [out] or null; with `relu` the larger of that and 0.
template <class T>
void linear_forward(Cpu, std::int64_t rows, std::int64_t out, std::int64_t in, const T* x, const T* w, const T* bias,
                    bool relu, T* y);
template <class T>
void linear_forward(CudaStream, std::int64_t rows, std::int64_t out, std::int64_t in, const T* x, const T* w,
                    const T* bias, bool relu, T* y);

}  // namespace lockstep::kernels
