// How replicas are spread over ranks, and which sums a rank can make of its own: the arithmetic behind the promise that
// the bits do not depend on the number of ranks.
#pragma once

#include <cstdint>
#include <vector>

namespace lockstep {

/// A run [begin, end) of something.
struct Run {
  std::int64_t begin = 0, end = 0;

  std::int64_t size() const { return end - begin; }  ///< how many
  friend bool operator==(const Run&, const Run&) = default;
};

/// Part `index` of `n` things cut into `parts` runs, the first n % parts of them one longer than the rest.
Run part_of(std::int64_t n, std::int64_t parts, std::int64_t index);

/// A node of the canonical tree: replicas [first, first + 2^level), those beyond the last one left out.
struct TreeNode {
  std::int64_t first = 0;
  int level = 0;
};

/// The largest nodes of the tree over `replicas` that lie within `run`, from left to right: what a rank that computes
/// this run sums and sends. One if the ranks are a power of two and divide the replicas; at most 2 · log₂ replicas.
std::vector<TreeNode> largest_nodes(Run run, std::int64_t replicas);

}  // namespace lockstep
