// The backward of a ReLU that is part of an op. Internal.
#pragma once

#include <utility>

#include <lockstep/core/dispatch.h>
#include <lockstep/core/tensor_impl.h>
#include <lockstep/kernels/elementwise.h>

namespace lockstep::detail {

/// `grad` where the op's output `y`, of its layout, is above 0; else 0. Written over `grad` where nothing else sees it.
inline Tensor relu_backward(const char* op, const Tensor& y, Tensor grad) {
  Tensor masked = is_exclusive(grad) ? grad : Tensor::empty(grad.shape(), grad.options());
  dispatch_floating(op, grad, [&]<class T>(auto on) {
    kernels::unary_backward<T>(on, UnaryOp::relu, grad.numel(), y.data<T>(), grad.data<T>(), masked.data<T>());
  });
  return masked;
}

}  // namespace lockstep::detail
