// From random words to the draws of random.h: the same bits on the CPU and on CUDA.
#pragma once

#include <cmath>
#include <cstdint>

#include <lockstep/core/base/philox.h>
#include <lockstep/kernels/common/vector_math.h>

namespace lockstep::kernels {

/// Two normals from two words: radius from (w0 + 1) · 2^-32, which is never 0, angle from w1 · 2^-32 of a turn.
LOCKSTEP_HOST_DEVICE_INLINE void box_muller(std::uint32_t w0, std::uint32_t w1, double& first, double& second) {
  const double radius = std::sqrt(-2.0 * math::log_normal((math::small_integer(w0) + 1.0) * 0x1p-32));
  double sine, cosine;
  math::sincos_turns(math::small_integer(w1) * 0x1p-32, sine, cosine);
  first = radius * cosine;
  second = radius * sine;
}

/// Uniform in [0, 1) with 53 bits.
LOCKSTEP_HOST_DEVICE_INLINE double uniform_double(std::uint32_t high_word, std::uint32_t low_word) {
  return math::small_integer(high_word) * 0x1p-32 + math::small_integer(low_word >> 11) * 0x1p-53;
}

/// Scales draws from [0, 1) to [low, high).
template <class T>
struct UniformRange {
  T low, range, last;  // `last`: the largest value below high, which rounding may otherwise reach

  UniformRange(T low_, T high) : low(low_), range(high - low_), last(std::nextafter(high, low_)) {}

  LOCKSTEP_HOST_DEVICE_INLINE T scaled(T u) const {
    const T value = low + range * u;
    return value > last ? last : value;
  }
};

/// Dropout with probability p. uniform_float(word) ≥ p is asked in integers: both sides times 2^24. At p = 1 no draw
/// reaches the threshold.
template <class T>
struct DropoutFactors {
  std::uint32_t threshold;
  T scale;

  explicit DropoutFactors(double p)
      : threshold(static_cast<std::uint32_t>(std::ceil(p * 0x1p24))), scale(static_cast<T>(1.0 / (1.0 - p))) {}

  LOCKSTEP_HOST_DEVICE_INLINE T apply(T x, std::uint32_t word) const {
    return x * ((word >> 8) >= threshold ? scale : T(0));
  }
};

}  // namespace lockstep::kernels
