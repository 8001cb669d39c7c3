// swish(x) = x · σ(beta · x) for one element, and the kernels over many: shared by own_op.cpp and own_op.cu.
#pragma once

#include <cmath>
#include <cstdint>

#include <lockstep/core/base/device.h>
#include <lockstep/core/base/dtype.h>

namespace mine {

template <class T>
LOCKSTEP_HOST_DEVICE T swish_value(T x, T beta) {
  return x / (T(1) + std::exp(-beta * x));
}

template <class T>
LOCKSTEP_HOST_DEVICE T swish_slope(T x, T beta) {
  const T sigmoid = T(1) / (T(1) + std::exp(-beta * x));
  return sigmoid + beta * x * sigmoid * (T(1) - sigmoid);
}

// T is float or double on the CPU; float, float16 or bfloat16 on CUDA; n elements; grad_x may be grad_y. The first
// argument says where the kernel runs.
template <class T>
void swish_forward(lockstep::Cpu, std::int64_t n, const T* x, T beta, T* y);
template <class T>
void swish_forward(lockstep::CudaStream, std::int64_t n, const T* x, lockstep::Compute<T> beta, T* y);
template <class T>
void swish_backward(lockstep::Cpu, std::int64_t n, const T* x, T beta, const T* grad_y, T* grad_x);
template <class T>
void swish_backward(lockstep::CudaStream, std::int64_t n, const T* x, lockstep::Compute<T> beta, const T* grad_y,
                    T* grad_x);

}  // namespace mine
