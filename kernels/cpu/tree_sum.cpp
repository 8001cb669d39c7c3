#include <lockstep/kernels/tree_sum.h>

#include <algorithm>
#include <array>
#include <vector>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/dtype.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/common/tree_order.h>
#include <lockstep/kernels/cpu/multiversion.h>

namespace lockstep::kernels {
namespace {

constexpr std::int64_t kBlock = 1024;         // elements that are summed at once, their sums in the first cache
constexpr std::int64_t kGrain = 16 * kBlock;  // elements

template <class T>
LOCKSTEP_MULTIVERSION void add(std::int64_t n, const T* a, const T* b, T* out) {
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<T>(static_cast<Compute<T>>(a[i]) + static_cast<Compute<T>>(b[i]));
  }
}

}  // namespace

template <class T>
void tree_sum(Cpu, std::int64_t n, std::span<const TreePart<T>> parts, T* out) {
  LOCKSTEP_CHECK(!parts.empty(), ValueError, "tree_sum", "expected at least one part");
  const TreeOrder order(parts.size(), [&](std::size_t k) { return parts[k].level; });
  parallel_for(n, kGrain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::array<T, kBlock>> sums(static_cast<std::size_t>(order.depth));  // by place in the stack
    std::vector<const T*> stack;
    stack.reserve(sums.size());
    for (std::int64_t i = begin; i < end; i += kBlock) {
      const std::int64_t count = std::min(kBlock, end - i);
      for (std::size_t k = 0; k < parts.size(); ++k) {
        stack.push_back(parts[k].data + i);
        for (int s = 0; s < order.sums_after[k]; ++s) {
          const T* right = stack.back();
          stack.pop_back();
          // The last sum goes where the result belongs; all parts of this block have been read by then.
          const bool last = k + 1 == parts.size() && stack.size() == 1;
          T* to = last ? out + i : sums[stack.size() - 1].data();
          add(count, stack.back(), right, to);
          stack.back() = to;
        }
      }
      if (stack.back() != out + i) std::copy_n(stack.back(), count, out + i);  // a single part
      stack.clear();
    }
  });
}

template void tree_sum<float>(Cpu, std::int64_t, std::span<const TreePart<float>>, float*);
template void tree_sum<double>(Cpu, std::int64_t, std::span<const TreePart<double>>, double*);
template void tree_sum<float16>(Cpu, std::int64_t, std::span<const TreePart<float16>>, float16*);
template void tree_sum<bfloat16>(Cpu, std::int64_t, std::span<const TreePart<bfloat16>>, bfloat16*);

}  // namespace lockstep::kernels
