// IEEE half precision and bfloat16 as storage types: 16 bits that convert to and from float, round to nearest even. On
// the CPU and in kernels alike.
#pragma once

#include <bit>
#include <cstdint>

#include <lockstep/core/base/cuda.h>

namespace lockstep {

/// IEEE 754 binary16: 5 exponent bits, 10 fraction bits, largest finite value 65504.
struct float16 {
  std::uint16_t bits = 0;

  float16() = default;
  /// Rounds to nearest even; overflow becomes infinity, NaN stays NaN.
  LOCKSTEP_HOST_DEVICE explicit float16(float value) : bits(from_float(value)) {}
  LOCKSTEP_HOST_DEVICE explicit operator float() const { return to_float(bits); }

 private:
  LOCKSTEP_HOST_DEVICE static std::uint16_t from_float(float value) {
    const auto f = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = (f >> 16) & 0x8000u;
    const std::uint32_t magnitude = f & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
    if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // 65520 and above
    if (magnitude < 0x38800000u) {  // result is subnormal: let float addition do the rounding
      const float rounded = std::bit_cast<float>(magnitude) + 0.5f;
      return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(rounded) - 0x3f000000u));
    }
    const std::uint32_t odd = (magnitude >> 13) & 1u;
    return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
  }
  LOCKSTEP_HOST_DEVICE static float to_float(std::uint16_t half) {
    const std::uint32_t sign = (half & 0x8000u) << 16;
    const std::uint32_t exponent = (half >> 10) & 0x1fu;
    const std::uint32_t fraction = half & 0x3ffu;
    if (exponent == 0x1fu) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
    if (exponent == 0) {
      const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
      return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
    }
    return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (fraction << 13));
  }
};

/// The upper half of a float32: 8 exponent bits, 7 fraction bits.
struct bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  /// Rounds to nearest even; NaN stays NaN.
  LOCKSTEP_HOST_DEVICE explicit bfloat16(float value) : bits(from_float(value)) {}
  LOCKSTEP_HOST_DEVICE explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }

 private:
  LOCKSTEP_HOST_DEVICE static std::uint16_t from_float(float value) {
    const auto f = std::bit_cast<std::uint32_t>(value);
    if ((f & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((f >> 16) | 0x40u);
    return static_cast<std::uint16_t>((f + 0x7fffu + ((f >> 16) & 1u)) >> 16);
  }
};

}  // namespace lockstep
