// Softmax and log-softmax over the last dimension of [rows, n]. T is float or double on the CPU, float, float16 or
// bfloat16 on CUDA. A row's maximum is subtracted first.
#pragma once

#include <cstdint>

#include <lockstep/core/base/device.h>

namespace lockstep::kernels {

/// y = exp(x − max x) / Σ exp(x − max x).
template <class T>
void softmax_forward(Cpu, std::int64_t rows, std::int64_t n, const T* x, T* y);
template <class T>
void softmax_forward(CudaStream, std::int64_t rows, std::int64_t n, const T* x, T* y);
/// grad_x = y · (grad_y − Σ grad_y · y).
template <class T>
void softmax_backward(Cpu, std::int64_t rows, std::int64_t n, const T* y, const T* grad_y, T* grad_x);
template <class T>
void softmax_backward(CudaStream, std::int64_t rows, std::int64_t n, const T* y, const T* grad_y, T* grad_x);

/// y = x − max x − log Σ exp(x − max x).
template <class T>
void log_softmax_forward(Cpu, std::int64_t rows, std::int64_t n, const T* x, T* y);
template <class T>
void log_softmax_forward(CudaStream, std::int64_t rows, std::int64_t n, const T* x, T* y);
/// grad_x = grad_y − exp(y) · Σ grad_y.
template <class T>
void log_softmax_backward(Cpu, std::int64_t rows, std::int64_t n, const T* y, const T* grad_y, T* grad_x);
template <class T>
void log_softmax_backward(CudaStream, std::int64_t rows, std::int64_t n, const T* y, const T* grad_y, T* grad_x);

}  // namespace lockstep::kernels
