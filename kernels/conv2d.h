// 2-D convolution (cross-correlation, as in every deep-learning library), all buffers channels-last.
#pragma once

#include <cstddef>
#include <cstdint>

#include <lockstep/core/base/device.h>

namespace lockstep {

/// Sizes with cuDNN's letters: input x [N, H, W, C], weight w [K, R, S, C / groups], output y [N, P, Q, K], in that
/// memory order. P = (H + 2·pad_h − dilation_h·(R − 1) − 1) / stride_h + 1, Q likewise; the caller has computed and
/// checked them.
struct Conv2dShape {
  std::int64_t n, c, h, w;
  std::int64_t k, r, s;
  std::int64_t p, q;
  std::int64_t stride_h = 1, stride_w = 1;
  std::int64_t pad_h = 0, pad_w = 0;
  std::int64_t dilation_h = 1, dilation_w = 1;
  std::int64_t groups = 1;

  friend bool operator==(const Conv2dShape&, const Conv2dShape&) = default;
};

namespace kernels {

/// Bytes of workspace (64-byte aligned, contents irrelevant) that the three functions below need for this shape, for
/// the calling thread's num_threads(); `bias` and `relu` say what conv2d_forward will get. The float versions on the
/// CPU keep a cache of oneDNN primitives, the double ones are plain loops; on CUDA all keep a cache of cuDNN's plans.
template <class T>
std::size_t conv2d_forward_workspace(Cpu, const Conv2dShape& shape, bool bias, bool relu);
template <class T>
std::size_t conv2d_forward_workspace(CudaStream, const Conv2dShape& shape, bool bias, bool relu);
/// As conv2d_forward_workspace.
template <class T>
std::size_t conv2d_backward_data_workspace(Cpu, const Conv2dShape& shape);
template <class T>
std::size_t conv2d_backward_data_workspace(CudaStream, const Conv2dShape& shape);
/// As conv2d_forward_workspace.
template <class T>
std::size_t conv2d_backward_weight_workspace(Cpu, const Conv2dShape& shape);
template <class T>
std::size_t conv2d_backward_weight_workspace(CudaStream, const Conv2dShape& shape);

/// y = x ⋆ w + bias, or with `relu` max(x ⋆ w + bias, 0). bias [K] or null.
template <class T>
void conv2d_forward(Cpu, const Conv2dShape& shape, const T* x, const T* w, const T* bias, bool relu, T* y,
                    void* workspace);
template <class T>
void conv2d_forward(CudaStream, const Conv2dShape& shape, const T* x, const T* w, const T* bias, bool relu, T* y,
                    void* workspace);

/// grad_x from grad_y; overwrites grad_x.
template <class T>
void conv2d_backward_data(Cpu, const Conv2dShape& shape, const T* grad_y, const T* w, T* grad_x, void* workspace);
template <class T>
void conv2d_backward_data(CudaStream, const Conv2dShape& shape, const T* grad_y, const T* w, T* grad_x,
                          void* workspace);

/// grad_w and, where not null, grad_bias [K] from grad_y; overwrites both.
template <class T>
void conv2d_backward_weight(Cpu, const Conv2dShape& shape, const T* x, const T* grad_y, T* grad_w, T* grad_bias,
                            void* workspace);
template <class T>
void conv2d_backward_weight(CudaStream, const Conv2dShape& shape, const T* x, const T* grad_y, T* grad_w, T* grad_bias,
                            void* workspace);

}  // namespace kernels
}  // namespace lockstep
