// From a run-time device and dtype to a place to run at and a compile-time element type.
#pragma once

#include <string>
#include <type_traits>

#include <lockstep/core/base/dtype.h>
#include <lockstep/core/base/error.h>
#include <lockstep/core/base/stream.h>
#include <lockstep/core/tensor.h>

namespace lockstep {

namespace detail {

[[noreturn, gnu::cold]] inline void refuse_dtype(const char* op, const Tensor& x) {
  const std::string device = to_string(x.device());
  throw DTypeError(op, "expected " +
                           (x.device() == kCpu ? "float32 or float64" : "float32, float16 or bfloat16 on " + device) +
                           ", got " + std::string(name(x.dtype())));
}

}  // namespace detail

/// Throws DTypeError unless ops take the dtype of `x` on its device: float32 or float64 on the CPU; float32, float16 or
/// bfloat16 on CUDA.
inline void require_floating(const char* op, const Tensor& x) {
  const DType dtype = x.dtype();
  const bool taken = dtype == DType::float32 ||
                     (x.device() == kCpu ? dtype == DType::float64 : is_floating(dtype) && dtype != DType::float64);
  if (!taken) [[unlikely]]
    detail::refuse_dtype(op, x);
}

/// Calls `body(on)` with the place where kernels for the device of `x` run: `kOnCpu`, or this thread's current stream.
/// `op` (a string literal) is what an error that shows later names.
template <class Body>
auto dispatch(const char* op, const Tensor& x, Body&& body) {
  if constexpr (kBuiltWithCuda) {
    if (x.device().type == Device::Type::cuda) {
      const DeviceGuard guard(x.device());
      detail::note_queued(x.device(), op);
      return body(current_stream(x.device()).handle());
    }
  }
  return body(kOnCpu);
}

/// Calls `body.operator()<T>(on)` with the element type T of `x` as well: float or double on the CPU; float, float16 or
/// bfloat16 on CUDA. Throws DTypeError naming `op` for any other dtype, as require_floating. Use:
/// `dispatch_floating("relu", x, [&]<class T>(auto on) { kernels::relu<T>(on, x.numel(), x.data<T>(), …); });`
template <class Body>
auto dispatch_floating(const char* op, const Tensor& x, Body&& body) {
  return dispatch(op, x, [&](auto on) {
    const DType dtype = x.dtype();
    if (dtype == DType::float32) return body.template operator()<float>(on);
    if constexpr (std::is_same_v<decltype(on), Cpu>) {
      if (dtype == DType::float64) return body.template operator()<double>(on);
    } else {
      if (dtype == DType::float16) return body.template operator()<float16>(on);
      if (dtype == DType::bfloat16) return body.template operator()<bfloat16>(on);
    }
    detail::refuse_dtype(op, x);
  });
}

/// Throws ValueError if `x` is undefined.
inline void require_defined(const char* op, const Tensor& x, const char* what) {
  if (!x.defined()) [[unlikely]]
    throw ValueError(op, std::string("expected ") + what + ", got an undefined tensor");
}

/// Throws DeviceError unless both are on one device.
inline void require_same_device(const char* op, const Tensor& a, const Tensor& b) {
  if (a.device() != b.device()) [[unlikely]] {
    throw DeviceError(op,
                      "expected tensors on one device, got " + to_string(a.device()) + " and " + to_string(b.device()));
  }
}

/// Throws DTypeError or DeviceError unless both are defined and agree.
inline void require_same(const char* op, const Tensor& a, const Tensor& b) {
  require_defined(op, a, "a tensor");
  require_defined(op, b, "a tensor");
  if (a.dtype() != b.dtype()) [[unlikely]] {
    throw DTypeError(op, "expected tensors of one dtype, got " + std::string(name(a.dtype())) + " and " +
                             std::string(name(b.dtype())));
  }
  require_same_device(op, a, b);
}

}  // namespace lockstep
