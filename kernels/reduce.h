// Reductions over the middle of [outer, n, inner]. T is float or double on the CPU, float, float16 or bfloat16 on CUDA.
// Sums are pairwise or in wider accumulators, in an order that depends on the sizes alone, never on the number of
// threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include <lockstep/core/base/device.h>
#include <lockstep/core/base/dtype.h>

namespace lockstep::kernels {

/// Bytes of workspace (64-byte aligned, contents irrelevant) that reduce_sum needs.
std::size_t reduce_sum_workspace(Cpu, std::int64_t outer, std::int64_t n, std::int64_t inner);
std::size_t reduce_sum_workspace(CudaStream, std::int64_t outer, std::int64_t n, std::int64_t inner);

/// out[o, i] = scale · Σ_j x[o, j, i]; an empty sum is 0.
template <class T>
void reduce_sum(Cpu, std::int64_t outer, std::int64_t n, std::int64_t inner, const T* x, T scale, T* out,
                void* workspace = nullptr);
template <class T>
void reduce_sum(CudaStream, std::int64_t outer, std::int64_t n, std::int64_t inner, const T* x, Compute<T> scale,
                T* out, void* workspace);

/// out[o, i] = max_j x[o, j, i] and its first index; a NaN wins, as in PyTorch. n ≥ 1. `out` or `index` may be null.
template <class T>
void reduce_max(Cpu, std::int64_t outer, std::int64_t n, std::int64_t inner, const T* x, T* out, std::int64_t* index);
template <class T>
void reduce_max(CudaStream, std::int64_t outer, std::int64_t n, std::int64_t inner, const T* x, T* out,
                std::int64_t* index);

/// grad_x[o, j, i] = grad_out[o, i] where j == index[o, i], else 0.
template <class T>
void reduce_max_backward(Cpu, std::int64_t outer, std::int64_t n, std::int64_t inner, const T* grad_out,
                         const std::int64_t* index, T* grad_x);
template <class T>
void reduce_max_backward(CudaStream, std::int64_t outer, std::int64_t n, std::int64_t inner, const T* grad_out,
                         const std::int64_t* index, T* grad_x);

/// The k largest of each row, largest first, equal values by lower index first, NaN above all. x [rows, n], values and
/// index [rows, k], 1 ≤ k ≤ n.
template <class T>
void topk(Cpu, std::int64_t rows, std::int64_t n, std::int64_t k, const T* x, T* values, std::int64_t* index);
template <class T>
void topk(CudaStream, std::int64_t rows, std::int64_t n, std::int64_t k, const T* x, T* values, std::int64_t* index);

}  // namespace lockstep::kernels
