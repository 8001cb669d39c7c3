#include <lockstep/core/base/float16.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <catch2/catch.hpp>

using lockstep::bfloat16;
using lockstep::float16;

namespace {

/// A 16-bit binary format by its definition, in double arithmetic: the reference.
struct Format {
  int fraction_bits, bias;

  std::uint32_t exponent_mask() const { return (1u << (15 - fraction_bits)) - 1; }

  double value(std::uint32_t bits) const {
    const double sign = bits & 0x8000u ? -1.0 : 1.0;
    const std::uint32_t fraction = bits & ((1u << fraction_bits) - 1);
    const std::uint32_t exponent = (bits >> fraction_bits) & exponent_mask();
    if (exponent == exponent_mask()) return fraction == 0 ? sign * INFINITY : NAN;
    if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
    return sign * std::ldexp(fraction + (1u << fraction_bits), static_cast<int>(exponent) - bias - fraction_bits);
  }
};
constexpr Format kHalf{10, 15};
constexpr Format kBrain{7, 127};

template <class T>
T from_bits(std::uint32_t bits) {
  T half;
  half.bits = static_cast<std::uint16_t>(bits);
  return half;
}

/// Every bit pattern widens to its exact value and narrows back to itself, NaNs to NaNs of the same sign.
template <class T>
int count_round_trip_errors(const Format& format) {
  int errors = 0;
  for (std::uint32_t bits = 0; bits <= 0xffffu; ++bits) {
    const float wide = static_cast<float>(from_bits<T>(bits));
    const T back(wide);
    const double expected = format.value(bits);
    const bool right =
        std::isnan(expected)
            ? std::isnan(wide) && std::isnan(format.value(back.bits)) && ((back.bits ^ bits) & 0x8000u) == 0
            : wide == expected && std::signbit(wide) == std::signbit(expected) && back.bits == bits;
    errors += !right;
  }
  return errors;
}

/// Between every two neighbours (infinity counted as the next power of two): floats at, just below and just above the
/// middle and the ends go to the nearer one, the middle to the even one.
template <class T>
int count_rounding_errors(const Format& format) {
  int errors = 0;
  const std::uint32_t infinity = format.exponent_mask() << format.fraction_bits;
  for (const std::uint32_t sign : {0u, 0x8000u}) {
    for (std::uint32_t bits = 0; bits < infinity; ++bits) {
      const double low = format.value(sign | bits);
      const double high =
          bits + 1 == infinity ? std::copysign(std::ldexp(1.0, format.bias + 1), low) : format.value(sign | (bits + 1));
      const double middle = (low + high) / 2;
      const float at = static_cast<float>(middle);
      if (static_cast<double>(at) != middle) return -1;  // every midpoint is a float: the test's own assumption
      const float toward_low = std::nextafter(at, static_cast<float>(low));
      const float toward_high = std::nextafter(at, std::copysign(std::numeric_limits<float>::infinity(), at));
      errors += T(toward_low).bits != (sign | bits);
      errors += T(toward_high).bits != (sign | (bits + 1));
      errors += T(at).bits != (sign | (bits + (bits & 1)));
      const float above_low = std::nextafter(static_cast<float>(low), at);
      errors += T(above_low).bits != (sign | bits);
    }
  }
  return errors;
}

TEST_CASE("float16: all 65,536 patterns survive the way through float") {
  CHECK(count_round_trip_errors<float16>(kHalf) == 0);
}
TEST_CASE("bfloat16: all 65,536 patterns survive the way through float") {
  CHECK(count_round_trip_errors<bfloat16>(kBrain) == 0);
}
TEST_CASE("float16 rounds to nearest even everywhere") { CHECK(count_rounding_errors<float16>(kHalf) == 0); }
TEST_CASE("bfloat16 rounds to nearest even everywhere") { CHECK(count_rounding_errors<bfloat16>(kBrain) == 0); }

TEST_CASE("Special values of float16") {
  CHECK(float16(1.0f).bits == 0x3c00);
  CHECK(float16(-2.0f).bits == 0xc000);
  CHECK(float16(65504.0f).bits == 0x7bff);
  CHECK(float16(65519.996f).bits == 0x7bff);
  CHECK(float16(65520.0f).bits == 0x7c00);
  CHECK(float16(1e30f).bits == 0x7c00);
  CHECK(float16(-INFINITY).bits == 0xfc00);
  CHECK(float16(0x1p-24f).bits == 0x0001);
  CHECK(float16(0x1p-25f).bits == 0x0000);  // half the smallest, to even
  CHECK(float16(0x1.000002p-25f).bits == 0x0001);
  CHECK(float16(-1e-30f).bits == 0x8000);
  CHECK(float16(-0.0f).bits == 0x8000);
  CHECK(std::isnan(static_cast<float>(float16(NAN))));
  // A NaN whose payload lies in the bits that are cut off must not turn into infinity.
  CHECK(std::isnan(static_cast<float>(float16(std::bit_cast<float>(0x7f800001u)))));
}

TEST_CASE("Special values of bfloat16") {
  CHECK(bfloat16(1.0f).bits == 0x3f80);
  CHECK(bfloat16(std::numeric_limits<float>::max()).bits == 0x7f80);
  CHECK(bfloat16(-INFINITY).bits == 0xff80);
  CHECK(bfloat16(-0.0f).bits == 0x8000);
  CHECK(std::isnan(static_cast<float>(bfloat16(NAN))));
  CHECK(std::isnan(static_cast<float>(bfloat16(std::bit_cast<float>(0x7f800001u)))));
  CHECK(std::isnan(static_cast<float>(bfloat16(std::bit_cast<float>(0xffffffffu)))));
}

}  // namespace
