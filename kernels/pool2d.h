// 2-D pooling, channels-last. T is float or double on the CPU, float, float16 or bfloat16 on CUDA.
#pragma once

#include <cstdint>

#include <lockstep/core/base/device.h>

namespace lockstep {

/// x [N, H, W, C] to y [N, P, Q, C]; window [kernel_h, kernel_w]. Windows may hang over the bottom and right edge
/// (ceil_mode).
struct Pool2dShape {
  std::int64_t n, c, h, w;
  std::int64_t p, q;
  std::int64_t kernel_h, kernel_w;
  std::int64_t stride_h, stride_w;
  std::int64_t pad_h = 0, pad_w = 0;
  std::int64_t dilation_h = 1, dilation_w = 1;  // max pooling only
  bool count_include_pad = true;                // average pooling only: padding counts in the divisor, as in PyTorch
};

namespace kernels {

/// y = the largest of each window, padding counting as −inf, NaN winning; argmax[n, p, q, c] = ih · W + iw of the first
/// one (of NaN: the last), or −1 (and y = −inf) where dilation leaves a window without any element.
template <class T>
void max_pool2d_forward(Cpu, const Pool2dShape& shape, const T* x, T* y, std::int32_t* argmax);
template <class T>
void max_pool2d_forward(CudaStream, const Pool2dShape& shape, const T* x, T* y, std::int32_t* argmax);

/// grad_x = Σ of grad_y over the windows whose maximum the element is; overwrites grad_x. Deterministic.
template <class T>
void max_pool2d_backward(Cpu, const Pool2dShape& shape, const T* grad_y, const std::int32_t* argmax, T* grad_x);
template <class T>
void max_pool2d_backward(CudaStream, const Pool2dShape& shape, const T* grad_y, const std::int32_t* argmax, T* grad_x);

/// y = the mean of each window; see Pool2dShape::count_include_pad for the divisor.
template <class T>
void avg_pool2d_forward(Cpu, const Pool2dShape& shape, const T* x, T* y);
template <class T>
void avg_pool2d_forward(CudaStream, const Pool2dShape& shape, const T* x, T* y);
/// Spreads grad_y evenly over its window; overwrites grad_x.
template <class T>
void avg_pool2d_backward(Cpu, const Pool2dShape& shape, const T* grad_y, T* grad_x);
template <class T>
void avg_pool2d_backward(CudaStream, const Pool2dShape& shape, const T* grad_y, T* grad_x);

/// Output element (p, q) averages rows [p·H/P, ⌈(p+1)·H/P⌉) and columns likewise (PyTorch's AdaptiveAvgPool2d).
template <class T>
void adaptive_avg_pool2d_forward(Cpu, std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c, std::int64_t p,
                                 std::int64_t q, const T* x, T* y);
template <class T>
void adaptive_avg_pool2d_forward(CudaStream, std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c,
                                 std::int64_t p, std::int64_t q, const T* x, T* y);
/// Spreads grad_y evenly over its rows and columns; overwrites grad_x.
template <class T>
void adaptive_avg_pool2d_backward(Cpu, std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c, std::int64_t p,
                                  std::int64_t q, const T* grad_y, T* grad_x);
template <class T>
void adaptive_avg_pool2d_backward(CudaStream, std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c,
                                  std::int64_t p, std::int64_t q, const T* grad_y, T* grad_x);

}  // namespace kernels
}  // namespace lockstep
