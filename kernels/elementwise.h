// Elementwise kernels. T is float or double on the CPU, float, float16 or bfloat16 on CUDA; `n` counts elements;
// buffers hold contiguous elements and may be the same (out == a), but must not overlap otherwise. Nothing is
// allocated.
#pragma once

#include <cstdint>

#include <lockstep/core/base/device.h>
#include <lockstep/core/base/dtype.h>

namespace lockstep {

/// The functions of one tensor, as in core/ops.h.
enum class UnaryOp { neg, exp, log, sqrt, relu, sigmoid, tanh };
/// The functions of two tensors, as in core/ops.h.
enum class BinaryOp { add, sub, mul, div };

/// Two operands walked together over one output shape, dimensions already merged where that is possible: equal
/// contiguous operands are rank 1 with both strides 1, a scalar operand has stride 0. Sizes and strides in elements,
/// outermost first.
struct BroadcastShape {
  static constexpr int kMaxRank = 8;
  int rank = 0;
  std::int64_t sizes[kMaxRank] = {};
  std::int64_t a_strides[kMaxRank] = {};
  std::int64_t b_strides[kMaxRank] = {};
};

namespace kernels {

/// y[i] = op(x[i]). relu passes NaN on, as PyTorch does.
template <class T>
void unary_forward(Cpu, UnaryOp op, std::int64_t n, const T* x, T* y);
template <class T>
void unary_forward(CudaStream, UnaryOp op, std::int64_t n, const T* x, T* y);

/// grad_x[i] = grad_y[i] · op'(x[i]), from what the op saved: its input for `log`, its output for all others, nothing
/// (null) for `neg`.
template <class T>
void unary_backward(Cpu, UnaryOp op, std::int64_t n, const T* saved, const T* grad_y, T* grad_x);
template <class T>
void unary_backward(CudaStream, UnaryOp op, std::int64_t n, const T* saved, const T* grad_y, T* grad_x);

/// out = a op b with broadcasting; `out` is contiguous over shape.sizes.
template <class T>
void binary(Cpu, BinaryOp op, const BroadcastShape& shape, const T* a, const T* b, T* out);
template <class T>
void binary(CudaStream, BinaryOp op, const BroadcastShape& shape, const T* a, const T* b, T* out);

/// y[i] = x[i] · scale + shift.
template <class T>
void affine(Cpu, std::int64_t n, const T* x, T scale, T shift, T* y);
template <class T>
void affine(CudaStream, std::int64_t n, const T* x, Compute<T> scale, Compute<T> shift, T* y);

/// y[i] += x[i] · scale.
template <class T>
void add_scaled(Cpu, std::int64_t n, const T* x, T scale, T* y);
template <class T>
void add_scaled(CudaStream, std::int64_t n, const T* x, Compute<T> scale, T* y);

}  // namespace kernels
}  // namespace lockstep
