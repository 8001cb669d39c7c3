// The order of additions of kernels/tree_sum.h, worked out on the host.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace lockstep::kernels {

/// Parts are pushed on a stack from left to right; after each, the two on top are replaced by their sum so many times.
struct TreeOrder {
  std::vector<int> sums_after;
  int depth = 0;  // the most that the stack holds

  /// `level_of(k)` for k < count is the level of part k.
  template <class LevelOf>
  TreeOrder(std::size_t count, LevelOf&& level_of) : sums_after(count) {
    std::vector<int> levels;
    for (std::size_t k = 0; k < count; ++k) {
      levels.push_back(level_of(k));
      depth = std::max(depth, static_cast<int>(levels.size()));
      const bool last = k + 1 == count;  // what waits for a right neighbour gets none
      while (levels.size() > 1 && (last || levels[levels.size() - 2] == levels.back())) {
        levels.pop_back();
        ++levels.back();
        ++sums_after[k];
      }
    }
  }
};

}  // namespace lockstep::kernels
