// Sums in one order, whoever adds: the value of a binary tree over summands 0 … R − 1, of which some inner nodes may
// have been summed before. Gradients of replicas are added like this, so that the result does not depend on which
// device computed which replica.
#pragma once

#include <cstdint>
#include <span>

#include <lockstep/core/base/device.h>

namespace lockstep {

/// n elements that stand for one node of the tree: the sum of the summands [j · 2^level, (j + 1) · 2^level), those
/// beyond the last one left out.
template <class T>
struct TreePart {
  const T* data;
  int level;
};

namespace kernels {

/// out[i] = Σ parts[k].data[i], neighbours first: the node of level l + 1 is the sum of the two of level l below it, or
/// the only one where the right one lies beyond the last summand. The parts are nodes from left to right that cover all
/// summands once. Each sum is rounded to T. `out` may be the memory of one of the parts. T is float, double,
/// float16 or bfloat16; double on the CPU only. Throws ValueError for no part, or on CUDA more than 128 of them or a
/// tree that needs more than 12 sums at hand (more than 2^11 summands never do).
template <class T>
void tree_sum(Cpu, std::int64_t n, std::span<const TreePart<T>> parts, T* out);
template <class T>
void tree_sum(CudaStream, std::int64_t n, std::span<const TreePart<T>> parts, T* out);

}  // namespace kernels
}  // namespace lockstep
