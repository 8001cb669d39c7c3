// How replicas are spread over ranks, and which sums a rank can make of its own: the arithmetic behind the promise that
// the bits do not depend on the number of ranks.
#pragma once

#include <cstdint>

#include <lockstep/core/base/run.h>

namespace lockstep {

/// A node of the canonical tree over replicas 0 … R − 1: [first, first + 2^level), those beyond the last one left out.
struct TreeNode {
  std::int64_t first = 0;
  int level = 0;
};

/// Whether two neighbouring nodes, each of which may be the whole of what its place in the tree holds, have one node
/// above them: what a rank may sum of its own replicas.
bool are_siblings(TreeNode left, TreeNode right, std::int64_t replicas);

}  // namespace lockstep
