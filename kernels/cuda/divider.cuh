// Division by a number that is known before the launch: a multiplication and a shift instead of the hundred
// instructions of a 64-bit division.
#pragma once

#include <bit>
#include <cstdint>

#include <lockstep/core/base/cuda.h>

namespace lockstep::cuda {

/// Divides numbers in [0, 2⁶³) by a divisor in [1, 2⁶³): exact (Granlund & Montgomery 1994).
class Divider {
 public:
  explicit Divider(std::int64_t divisor)
      : divisor_(divisor), shift_(static_cast<int>(std::bit_width(static_cast<std::uint64_t>(divisor) - 1))) {
    // ⌈2^(63 + shift) / divisor⌉ < 2⁶⁴, as 2^(shift − 1) < divisor, or 2⁶³ for divisor 1.
    const Wide wide = Wide(1) << (63 + shift_), d = static_cast<Wide>(divisor);
    multiplier_ = static_cast<std::uint64_t>((wide + d - 1) / d);
  }

  LOCKSTEP_HOST_DEVICE std::int64_t divisor() const { return divisor_; }
  LOCKSTEP_HOST_DEVICE std::int64_t quotient(std::int64_t n) const {
    return static_cast<std::int64_t>(
        static_cast<std::uint64_t>((static_cast<Wide>(2 * static_cast<std::uint64_t>(n)) * multiplier_) >> 64) >>
        shift_);
  }
  /// The quotient; `remainder` gets the rest.
  LOCKSTEP_HOST_DEVICE std::int64_t divide(std::int64_t n, std::int64_t& remainder) const {
    const std::int64_t q = quotient(n);
    remainder = n - q * divisor_;
    return q;
  }

 private:
  __extension__ typedef unsigned __int128 Wide;

  std::int64_t divisor_;
  std::uint64_t multiplier_;
  int shift_;
};

}  // namespace lockstep::cuda
