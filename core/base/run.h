// Runs of consecutive things, and how n of them are cut into parts: batches into shards, replicas over ranks, elements
// over those that sum them.
#pragma once

#include <cstdint>

namespace lockstep {

/// A run [begin, end) of something.
struct Run {
  std::int64_t begin = 0, end = 0;

  std::int64_t size() const { return end - begin; }  ///< how many
  friend bool operator==(const Run&, const Run&) = default;
};

/// Part `index` of `n` things cut into `parts` runs, the first n % parts of them one longer than the rest. Throws
/// ValueError unless n ≥ 0 and 0 ≤ index < parts.
Run part_of(std::int64_t n, std::int64_t parts, std::int64_t index);

}  // namespace lockstep
