// swish(x) = x · σ(beta · x) for one element, and the kernels over many: shared by own_op.cpp and own_op.cu.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define SWISH_HOST_DEVICE __host__ __device__
#else
#define SWISH_HOST_DEVICE
#endif

struct CUstream_st;  // what cudaStream_t points to: passing a stream on takes no CUDA header

namespace mine {

template <class T>
SWISH_HOST_DEVICE T swish_value(T x, T beta) {
  return x / (T(1) + std::exp(-beta * x));
}

template <class T>
SWISH_HOST_DEVICE T swish_slope(T x, T beta) {
  const T sigmoid = T(1) / (T(1) + std::exp(-beta * x));
  return sigmoid + beta * x * sigmoid * (T(1) - sigmoid);
}

// T is float or double; n elements; grad_x may be grad_y.
namespace cpu {
template <class T>
void swish_forward(std::int64_t n, const T* x, T beta, T* y);
template <class T>
void swish_backward(std::int64_t n, const T* x, T beta, const T* grad_y, T* grad_x);
}  // namespace cpu

namespace cuda {
template <class T>
void swish_forward(std::int64_t n, const T* x, T beta, T* y, CUstream_st* stream);
template <class T>
void swish_backward(std::int64_t n, const T* x, T beta, const T* grad_y, T* grad_x, CUstream_st* stream);
}  // namespace cuda

}  // namespace mine
