// Philox4x32-10, the counter-based generator behind every random draw: a number is a pure function of a key and a
// counter, so it does not depend on how many threads, workers or devices draw. (Salmon et al., "Parallel Random
// Numbers: As Easy as 1, 2, 3", SC'11; the generator that PyTorch and cuRAND use on GPUs.)
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include <lockstep/core/base/cuda.h>

namespace lockstep {

/// Four independent 32-bit numbers for one (key, counter) pair.
LOCKSTEP_HOST_DEVICE constexpr std::array<std::uint32_t, 4> philox4x32(std::uint64_t key, std::uint64_t counter_low,
                                                                       std::uint64_t counter_high) {
  std::uint32_t c0 = static_cast<std::uint32_t>(counter_low), c1 = static_cast<std::uint32_t>(counter_low >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(counter_high), c3 = static_cast<std::uint32_t>(counter_high >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * c0;
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * c2;
    const std::uint32_t next0 = static_cast<std::uint32_t>(product1 >> 32) ^ c1 ^ k0;
    const std::uint32_t next2 = static_cast<std::uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(product1);
    c3 = static_cast<std::uint32_t>(product0);
    c0 = next0;
    c2 = next2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

/// Uniform in [0, 1) on a grid of 2^-24.
LOCKSTEP_HOST_DEVICE constexpr float uniform_float(std::uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}

/// Uniform integer in [0, bound), bias below bound / 2^64.
constexpr std::uint64_t uniform_below(std::uint32_t high, std::uint32_t low, std::uint64_t bound) {
  const std::uint64_t bits = (std::uint64_t{high} << 32) | low;
  __extension__ using uint128 = unsigned __int128;
  return static_cast<std::uint64_t>((static_cast<uint128>(bits) * bound) >> 64);
}

/// A run of draws for one place in a program: key = seed, the high half of the counter = `stream` (say, an epoch and a
/// sample index mixed together), the low half counts up. Cheap to make; make a new one wherever a draw must not depend
/// on history.
class PhiloxStream {
 public:
  /// At its first draw.
  PhiloxStream(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}

  /// 32 random bits.
  std::uint32_t next_u32() {
    if (used_ == 4) {
      block_ = philox4x32(seed_, counter_++, stream_);
      used_ = 0;
    }
    return block_[static_cast<std::size_t>(used_++)];
  }
  /// Uniform in [0, 1).
  float next_uniform() { return uniform_float(next_u32()); }
  /// Uniform integer in [0, bound).
  std::uint64_t next_below(std::uint64_t bound) {
    const std::uint32_t high = next_u32();
    return uniform_below(high, next_u32(), bound);
  }

 private:
  std::uint64_t seed_, stream_, counter_ = 0;
  std::array<std::uint32_t, 4> block_{};
  int used_ = 4;
};

}  // namespace lockstep
