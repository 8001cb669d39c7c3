// From a run-time element size or dtype to a type.
#pragma once

#include <cstddef>
#include <cstdint>

#include <lockstep/core/base/dtype.h>

namespace lockstep::kernels {

/// Calls f with a value of the unsigned integer type of that size.
template <class F>
void with_element(std::size_t size, F&& f) {
  switch (size) {
    case 1: return f(std::uint8_t{});
    case 2: return f(std::uint16_t{});
    case 4: return f(std::uint32_t{});
    default: return f(std::uint64_t{});
  }
}

/// Calls f with a value of the element type of `dtype`.
template <class F>
void with_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32: return f(float{});
    case DType::float64: return f(double{});
    case DType::float16: return f(float16{});
    case DType::bfloat16: return f(bfloat16{});
    case DType::int64: return f(std::int64_t{});
    case DType::uint8: return f(std::uint8_t{});
  }
}

}  // namespace lockstep::kernels
