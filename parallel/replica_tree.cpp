#include <lockstep/parallel/replica_tree.h>

namespace lockstep {

bool are_siblings(TreeNode left, TreeNode right, std::int64_t replicas) {
  const std::int64_t size = std::int64_t{1} << left.level;
  const bool is_whole = right.level == left.level || right.first + (std::int64_t{1} << right.level) >= replicas;
  return left.first % (2 * size) == 0 && right.first == left.first + size && right.level <= left.level && is_whole;
}

}  // namespace lockstep
