// Where random choices about data come from.
#pragma once

#include <cstdint>

#include <lockstep/core/base/philox.h>

namespace lockstep {

/// One visit to one image: all that a random choice about it depends on, so that it does not matter which worker makes
/// it, what was drawn before, or where a run was resumed.
struct Visit {
  std::uint64_t seed = 0;
  std::int64_t epoch = 0;
  std::int64_t index = 0;  ///< in the data set, not in the shuffled order
};

/// The draws for `place`: transforms have their position in the pipeline, counted from 1; 0 (with index 0) is the
/// shuffle. Streams differ for all epochs below 2^20, indices below 2^36 and places below 2^8.
inline PhiloxStream draws(const Visit& visit, int place) {
  constexpr std::uint64_t kDataKey = 0x64617461'64726177u;  // keeps clear of other draws from the same seed
  const auto epoch = static_cast<std::uint64_t>(visit.epoch) & 0xfffffu;
  const auto index = static_cast<std::uint64_t>(visit.index);
  return PhiloxStream(visit.seed ^ kDataKey, index << 28 | epoch << 8 | static_cast<std::uint64_t>(place & 0xff));
}

}  // namespace lockstep
