// exp, log and sin/cos for all devices, which compilers vectorise: straight-line double arithmetic and selects, no
// library calls, hence the same bits on every processor. Within 1 ulp for double; floats go through double and are
// rounded once. Reductions and polynomials follow fdlibm (Sun Microsystems), exp sums its Taylor series.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include <lockstep/kernels/common/inline.h>

namespace lockstep::kernels {

namespace math {

inline constexpr double kLn2High = 6.93147180369123816490e-01;  // 32 bits: exact times any exponent
inline constexpr double kLn2Low = 1.90821492927058770002e-10;
inline constexpr double kRound = 0x1.8p52;  // x + kRound − kRound rounds; the sum's low bits are the integer

LOCKSTEP_HOST_DEVICE_INLINE std::uint64_t bits_of(double x) { return std::bit_cast<std::uint64_t>(x); }
LOCKSTEP_HOST_DEVICE_INLINE double from_bits(std::uint64_t bits) { return std::bit_cast<double>(bits); }

/// An integer below 2^52 as a double; unlike the conversion it exists as vector instructions everywhere.
LOCKSTEP_HOST_DEVICE_INLINE double small_integer(std::uint64_t n) {
  return from_bits(n | 0x4330000000000000u) - 0x1p52;
}

/// 2^k where the low bits of `rounded` (a value + kRound) hold k.
LOCKSTEP_HOST_DEVICE_INLINE double power_of_two(double rounded) {
  return from_bits((bits_of(rounded) << 52) + 0x3ff0000000000000u);
}

/// log of a positive, normal, finite x.
LOCKSTEP_HOST_DEVICE_INLINE double log_normal(double x) {
  const std::uint64_t offset = bits_of(x) - 0x3fe6a09e667f3bcdu;  // from √½: the fraction then lies in [√½, √2)
  const double exponent = small_integer((offset + (std::uint64_t{1024} << 52)) >> 52) - 1024.0;
  const double f = from_bits(bits_of(x) - (offset & 0xfff0000000000000u)) - 1.0;
  const double s = f / (2.0 + f);
  const double z = s * s, w = z * z, half_square = 0.5 * f * f;
  const double even = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
  const double odd =
      z * (6.666666666666735130e-01 +
           w * (2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));
  return exponent * kLn2High - ((half_square - (s * (half_square + (even + odd)) + exponent * kLn2Low)) - f);
}

/// sin and cos of 2π · u for u in [0, 1].
LOCKSTEP_HOST_DEVICE_INLINE void sincos_turns(double u, double& sine, double& cosine) {
  const double rounded = u * 4.0 + kRound;
  const double a = (u * 4.0 - (rounded - kRound)) * 1.57079632679489661923, z = a * a;  // |a| ≤ π/4
  const double s = a + a * z *
                           (-1.66666666666666324348e-01 +
                            z * (8.33333333332248946124e-03 +
                                 z * (-1.98412698298579493134e-04 +
                                      z * (2.75573137070700676789e-06 +
                                           z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10)))));
  const double c =
      (1.0 - 0.5 * z) + z * z *
                            (4.16666666666666019037e-02 +
                             z * (-1.38888888888741095749e-03 +
                                  z * (2.48015872894767294178e-05 +
                                       z * (-2.75573143513906633035e-07 +
                                            z * (2.08757232129817482790e-09 + z * -1.13596475577881948265e-11)))));
  const std::uint64_t quadrant = bits_of(rounded);
  const bool swap = (quadrant & 1u) != 0;
  sine = from_bits(bits_of(swap ? c : s) ^ ((quadrant & 2u) << 62));
  cosine = from_bits(bits_of(swap ? s : c) ^ (((quadrant + 1u) & 2u) << 62));
}

}  // namespace math

namespace math {

/// What exp() does with its argument: x = k · ln 2 + r, |r| ≤ ln 2 / 2.
struct ExpParts {
  double rounded, k, r;  // the low bits of `rounded` hold k
};
LOCKSTEP_HOST_DEVICE_INLINE ExpParts split_exp(double x) {
  const double rounded = x * 1.44269504088896338700 + kRound;
  const double k = rounded - kRound;
  return {rounded, k, (x - k * kLn2High) - k * kLn2Low};
}

/// e^x with a relative error below 1e-9; below e^-110 and above e^700, beyond what floats hold, it stays there.
LOCKSTEP_HOST_DEVICE_INLINE double exp_single(double x) {
  const ExpParts e = split_exp(x < -110.0 ? -110.0 : (x > 700.0 ? 700.0 : x));
  const double r = e.r;
  double p = 1.0 / 40320.0;  // 1 / 8!
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  return (1.0 + (r + r * r * p)) * power_of_two(e.rounded);
}

}  // namespace math

/// e^x; 0 and +inf beyond the range, NaN stays NaN.
LOCKSTEP_HOST_DEVICE_INLINE double vector_exp(double x) {
  using namespace math;
  const ExpParts e = split_exp(x < -746.0 ? -746.0 : (x > 710.0 ? 710.0 : x));
  const double r = e.r;
  double p = 1.0 / 6227020800.0;  // 1 / 13!
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = 1.0 + (r + r * r * p);
  // In two steps, since 2^k alone over- or underflows at both ends.
  const double half = e.k * 0.5 + kRound;
  return p * power_of_two(half) * power_of_two((e.k - (half - kRound)) + kRound);
}
LOCKSTEP_HOST_DEVICE_INLINE float vector_exp(float x) {
  return static_cast<float>(math::exp_single(static_cast<double>(x)));
}

/// Natural logarithm; −inf at 0, NaN below.
LOCKSTEP_HOST_DEVICE_INLINE double vector_log(double x) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const bool subnormal = x < 0x1p-1022;
  const double normal = subnormal ? x * 0x1p54 : x;
  const double result =
      math::log_normal(normal) - (subnormal ? 54.0 * math::kLn2High : 0.0) - (subnormal ? 54.0 * math::kLn2Low : 0.0);
  const double special = x == 0.0 ? -kInfinity : (x > 0.0 ? x : std::numeric_limits<double>::quiet_NaN());
  return x > 0.0 && x < kInfinity ? result : special;
}
LOCKSTEP_HOST_DEVICE_INLINE float vector_log(float x) { return static_cast<float>(vector_log(static_cast<double>(x))); }

}  // namespace lockstep::kernels
