// Batch normalisation over the rows of a channels-last buffer, fused with an optional residual addition and ReLU (Ioffe
// & Szegedy 2015). T is float or double on the CPU, float, float16 or bfloat16 on CUDA; rows = N·H·W; every per-channel
// buffer has `channels` elements of Compute<T>.
#pragma once

#include <cstddef>
#include <cstdint>

#include <lockstep/core/base/device.h>
#include <lockstep/core/base/dtype.h>

namespace lockstep::kernels {

/// Bytes of workspace (64-byte aligned, contents irrelevant) that statistics and backward need.
std::size_t batch_norm_workspace(Cpu, std::int64_t rows, std::int64_t channels);
std::size_t batch_norm_workspace(CudaStream, std::int64_t rows, std::int64_t channels);

/// mean and biased variance (divisor `rows`) of each channel of x [rows, channels]. rows ≥ 1. Two-pass accuracy while
/// reading memory once; the same bits for any number of threads.
template <class T>
void batch_norm_statistics(Cpu, std::int64_t rows, std::int64_t channels, const T* x, T* mean, T* variance,
                           void* workspace = nullptr);
template <class T>
void batch_norm_statistics(CudaStream, std::int64_t rows, std::int64_t channels, const T* x, Compute<T>* mean,
                           Compute<T>* variance, void* workspace);

/// running = (1 − momentum) · running + momentum · batch, for mean and (with divisor rows − 1) variance. rows ≥ 2.
template <class T>
void batch_norm_update_running(Cpu, std::int64_t rows, std::int64_t channels, const T* mean, const T* variance,
                               double momentum, T* running_mean, T* running_var);
template <class T>
void batch_norm_update_running(CudaStream, std::int64_t rows, std::int64_t channels, const T* mean, const T* variance,
                               double momentum, T* running_mean, T* running_var);

/// invstd = 1 / √(variance + eps).
template <class T>
void batch_norm_invstd(Cpu, std::int64_t channels, const T* variance, double eps, T* invstd);
template <class T>
void batch_norm_invstd(CudaStream, std::int64_t channels, const T* variance, double eps, T* invstd);

/// y = (x − mean) · invstd · weight + bias, then + residual where not null, then ReLU if `relu`. y may be x or
/// residual.
template <class T>
void batch_norm_apply(Cpu, std::int64_t rows, std::int64_t channels, const T* x, const T* mean, const T* invstd,
                      const T* weight, const T* bias, const T* residual, bool relu, T* y);
template <class T>
void batch_norm_apply(CudaStream, std::int64_t rows, std::int64_t channels, const T* x, const Compute<T>* mean,
                      const Compute<T>* invstd, const Compute<T>* weight, const Compute<T>* bias, const T* residual,
                      bool relu, T* y);

/// Gradients of batch_norm_apply when mean and invstd are the batch's own (training).
/// `y` is the forward's output where it had a ReLU (the gradient stops where y ≤ 0), else null. grad_residual (or
/// null) gets the gradient after the ReLU; grad_weight and grad_bias [channels] and grad_x are overwritten. grad_x or
/// grad_residual may be grad_y.
template <class T>
void batch_norm_backward(Cpu, std::int64_t rows, std::int64_t channels, const T* x, const T* y, const T* grad_y,
                         const T* mean, const T* invstd, const T* weight, T* grad_x, T* grad_residual, T* grad_weight,
                         T* grad_bias, void* workspace = nullptr);
template <class T>
void batch_norm_backward(CudaStream, std::int64_t rows, std::int64_t channels, const T* x, const T* y, const T* grad_y,
                         const Compute<T>* mean, const Compute<T>* invstd, const Compute<T>* weight, T* grad_x,
                         T* grad_residual, Compute<T>* grad_weight, Compute<T>* grad_bias, void* workspace);

/// The same when mean and invstd are constants (evaluation: running statistics).
template <class T>
void batch_norm_backward_eval(Cpu, std::int64_t rows, std::int64_t channels, const T* x, const T* y, const T* grad_y,
                              const T* mean, const T* invstd, const T* weight, T* grad_x, T* grad_residual,
                              T* grad_weight, T* grad_bias, void* workspace = nullptr);
template <class T>
void batch_norm_backward_eval(CudaStream, std::int64_t rows, std::int64_t channels, const T* x, const T* y,
                              const T* grad_y, const Compute<T>* mean, const Compute<T>* invstd,
                              const Compute<T>* weight, T* grad_x, T* grad_residual, Compute<T>* grad_weight,
                              Compute<T>* grad_bias, void* workspace);

}  // namespace lockstep::kernels
