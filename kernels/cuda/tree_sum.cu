#include <lockstep/kernels/tree_sum.h>

#include <stdexcept>
#include <string>

#include <lockstep/core/base/dtype.h>
#include <lockstep/core/base/error.h>
#include <lockstep/kernels/common/tree_order.h>
#include <lockstep/kernels/cuda/launch.cuh>
#include <lockstep/kernels/cuda/rows.cuh>

namespace lockstep::kernels {
namespace {

using namespace lockstep::cuda;

constexpr int kMaxParts = 128;
constexpr int kMaxDepth = 12;

/// The program of a sum: it travels as a kernel parameter.
template <class T>
struct Parts {
  int count = 0;
  const T* data[kMaxParts];
  signed char sums_after[kMaxParts];
};

/// Elements [i · kWidth, (i + 1) · kWidth). The stack lies in registers: its top is place 0, and pushing moves it.
template <int kDepth, int kWidth, class T>
__device__ inline void sum_run(const Parts<T>& parts, std::int64_t i, T* out) {
  Floats<kWidth> stack[kDepth]{};
  for (int k = 0; k < parts.count; ++k) {
    for (int d = kDepth - 1; d > 0; --d) stack[d] = stack[d - 1];
    stack[0] = load_floats<kWidth>(parts.data[k], i, true);
    for (int s = 0; s < parts.sums_after[k]; ++s) {
      for (int j = 0; j < kWidth; ++j) stack[0][j] = static_cast<float>(static_cast<T>(stack[1][j] + stack[0][j]));
      for (int d = 1; d + 1 < kDepth; ++d) stack[d] = stack[d + 1];
    }
  }
  store_floats(out, stack[0], i, true);
}

template <int kDepth, int kWidth, class T>
__global__ void tree_sum_kernel(std::int64_t n, const Parts<T> parts, T* out) {
  const std::int64_t vectors = n / kWidth;
  for (std::int64_t i = first_element(); i < vectors; i += element_stride()) {
    sum_run<kDepth, kWidth>(parts, i, out);
  }
  for (std::int64_t i = vectors * kWidth + first_element(); i < n; i += element_stride()) {
    sum_run<kDepth, 1>(parts, i, out);
  }
}

template <int kDepth, class T>
void launch_sum(CudaStream stream, std::int64_t n, const Parts<T>& parts, bool aligned, T* out) {
  constexpr int kWidth = kVectorSize<T>;
  const LaunchConfig config{.grid = block_count(aligned ? (n - 1) / kWidth + 1 : n, kElementThreads),
                            .block = kElementThreads,
                            .stream = stream};
  launch(config, aligned ? tree_sum_kernel<kDepth, kWidth, T> : tree_sum_kernel<kDepth, 1, T>, n, parts, out);
}

}  // namespace

template <class T>
void tree_sum(CudaStream stream, std::int64_t n, std::span<const TreePart<T>> parts, T* out) {
  const TreeOrder order(parts.size(), [&](std::size_t k) { return parts[k].level; });
  if (parts.empty() || parts.size() > kMaxParts || order.depth > kMaxDepth) {
    throw ValueError("tree_sum", "expected 1 to " + std::to_string(kMaxParts) + " parts that need at most " +
                                     std::to_string(kMaxDepth) + " sums at hand, got " + std::to_string(parts.size()) +
                                     " and " + std::to_string(order.depth));
  }
  if (n == 0) return;
  Parts<T> program;
  program.count = static_cast<int>(parts.size());
  bool aligned = is_aligned(16, out);
  for (std::size_t k = 0; k < parts.size(); ++k) {
    program.data[k] = parts[k].data;
    program.sums_after[k] = static_cast<signed char>(order.sums_after[k]);
    aligned = aligned && is_aligned(16, parts[k].data);
  }
  order.depth <= 4 ? launch_sum<4>(stream, n, program, aligned, out)
                   : launch_sum<kMaxDepth>(stream, n, program, aligned, out);
}

template void tree_sum<float>(CudaStream, std::int64_t, std::span<const TreePart<float>>, float*);
template void tree_sum<float16>(CudaStream, std::int64_t, std::span<const TreePart<float16>>, float16*);
template void tree_sum<bfloat16>(CudaStream, std::int64_t, std::span<const TreePart<bfloat16>>, bfloat16*);

}  // namespace lockstep::kernels
