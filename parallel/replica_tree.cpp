#include <lockstep/parallel/replica_tree.h>

#include <algorithm>

#include <lockstep/core/base/check.h>

namespace lockstep {

Run part_of(std::int64_t n, std::int64_t parts, std::int64_t index) {
  LOCKSTEP_CHECK(n >= 0 && parts >= 1 && index >= 0 && index < parts, ValueError, "part_of",
                 "expected a part in [0, {}) of 0 or more, got part {} of {}", parts, index, n);
  const std::int64_t base = n / parts, longer = n % parts;
  const std::int64_t begin = index * base + std::min(index, longer);
  return {begin, begin + base + (index < longer ? 1 : 0)};
}

std::vector<TreeNode> largest_nodes(Run run, std::int64_t replicas) {
  LOCKSTEP_CHECK(run.begin >= 0 && run.begin <= run.end && run.end <= replicas, ValueError, "largest_nodes",
                 "expected a run within {} replicas, got [{}, {})", replicas, run.begin, run.end);
  std::vector<TreeNode> nodes;
  for (std::int64_t first = run.begin; first < run.end;) {
    int level = 0;
    const auto end_at = [&](int l) { return std::min(first + (std::int64_t{1} << l), replicas); };
    while (end_at(level) < run.end && first % (std::int64_t{2} << level) == 0 && end_at(level + 1) <= run.end) ++level;
    nodes.push_back({first, level});
    first = end_at(level);
  }
  return nodes;
}

}  // namespace lockstep
