// From a run-time device and dtype to a place to run at and a compile-time element type.
#pragma once

#include <string>

#include <lockstep/core/base/dtype.h>
#include <lockstep/core/base/error.h>
#include <lockstep/core/tensor.h>

namespace lockstep {

/// Calls `body(on)` with the place where kernels for the device of `x` run.
template <class Body>
auto dispatch(const Tensor& x, Body&& body) {
  static_cast<void>(x);  // all are on the CPU
  return body(kOnCpu);
}

/// Calls `body.operator()<T>(on)` with the element type T of `x`, float or double, and the place where kernels for its
/// device run; throws DTypeError naming `op` for any other dtype. Use:
/// `dispatch_floating("relu", x, [&]<class T>(auto on) { kernels::relu<T>(on, x.numel(), x.data<T>(), …); });`
template <class Body>
auto dispatch_floating(const char* op, const Tensor& x, Body&& body) {
  return dispatch(x, [&](auto on) {
    if (x.dtype() == DType::float32) return body.template operator()<float>(on);
    if (x.dtype() == DType::float64) return body.template operator()<double>(on);
    throw DTypeError(op, "expected float32 or float64, got " + std::string(name(x.dtype())));
  });
}

/// Throws ValueError if `x` is undefined.
inline void require_defined(const char* op, const Tensor& x, const char* what) {
  if (!x.defined()) [[unlikely]]
    throw ValueError(op, std::string("expected ") + what + ", got an undefined tensor");
}

/// Throws DTypeError or DeviceError unless both are defined and agree.
inline void require_same(const char* op, const Tensor& a, const Tensor& b) {
  require_defined(op, a, "a tensor");
  require_defined(op, b, "a tensor");
  if (a.dtype() != b.dtype()) [[unlikely]] {
    throw DTypeError(op, "expected tensors of one dtype, got " + std::string(name(a.dtype())) + " and " +
                             std::string(name(b.dtype())));
  }
  if (a.device() != b.device()) [[unlikely]] {
    throw DeviceError(op,
                      "expected tensors on one device, got " + to_string(a.device()) + " and " + to_string(b.device()));
  }
}

}  // namespace lockstep
