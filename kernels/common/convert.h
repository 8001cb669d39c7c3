// Conversion between element types, the same bits on the CPU and on CUDA.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include <lockstep/core/base/float16.h>
#include <lockstep/kernels/common/inline.h>

namespace lockstep::kernels {

/// The nearest float64 whose last bit is odd where the conversion is inexact: rounding that once more to a format at
/// least two bits narrower gives the correctly rounded result.
LOCKSTEP_HOST_DEVICE_INLINE double odd_double(std::int64_t v) {
  if (v > -(std::int64_t{1} << 53) && v < (std::int64_t{1} << 53)) return static_cast<double>(v);
  return static_cast<double>((v & ~std::int64_t{0x7ff}) | ((v & 0x7ff) != 0 ? 0x800 : 0));
}

LOCKSTEP_HOST_DEVICE_INLINE float odd_float(double v) {
  const auto f = static_cast<float>(v);
  if (static_cast<double>(f) == v || v != v) return f;
  auto bits = std::bit_cast<std::uint32_t>(f);
  if (std::fabs(static_cast<double>(f)) > std::fabs(v)) --bits;  // toward zero, then set the last bit
  return std::bit_cast<float>(bits | 1u);
}

/// `v` as another element type, as cast() of copy.h says.
template <class To, class From>
LOCKSTEP_HOST_DEVICE_INLINE To convert(From v) {
  constexpr bool from_small = std::is_same_v<From, float16> || std::is_same_v<From, bfloat16>;
  constexpr bool to_small = std::is_same_v<To, float16> || std::is_same_v<To, bfloat16>;
  if constexpr (std::is_same_v<To, From>) {
    return v;
  } else if constexpr (from_small) {
    return convert<To>(static_cast<float>(v));
  } else if constexpr (to_small && std::is_same_v<From, double>) {
    return To(odd_float(v));
  } else if constexpr (to_small && std::is_same_v<From, std::int64_t>) {
    return To(odd_float(odd_double(v)));
  } else if constexpr (std::is_same_v<To, std::uint8_t> && std::is_floating_point_v<From>) {
    return static_cast<To>(static_cast<std::int32_t>(v));
  } else {
    return static_cast<To>(v);
  }
}

}  // namespace lockstep::kernels
