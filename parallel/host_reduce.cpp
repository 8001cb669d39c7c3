#include <lockstep/parallel/host_reduce.h>

#include <cmath>
#include <vector>

#include <lockstep/core/base/check.h>
#include <lockstep/kernels/elementwise.h>
#include <lockstep/kernels/tree_sum.h>

namespace lockstep::detail {
namespace {

template <class T>
void tree_sum(std::int64_t n, std::span<void* const> parts, std::span<const int> levels, void* out) {
  std::vector<TreePart<T>> typed;
  for (std::size_t k = 0; k < parts.size(); ++k) typed.push_back({static_cast<const T*>(parts[k]), levels[k]});
  kernels::tree_sum<T>(kOnCpu, n, typed, static_cast<T*>(out));
}

template <class T, class F>
void fold(std::int64_t n, std::span<void* const> sources, void* out, F f) {
  auto* to = static_cast<T*>(out);
  for (std::int64_t i = 0; i < n; ++i) {
    T value = static_cast<const T*>(sources[0])[i];
    for (std::size_t r = 1; r < sources.size(); ++r) value = f(value, static_cast<const T*>(sources[r])[i]);
    to[i] = value;
  }
}

template <class T>
void max(std::int64_t n, std::span<void* const> sources, void* out) {
  fold<T>(n, sources, out, [](T a, T b) { return a != a || a > b ? a : b; });
}

template <class T>
void reduce_floating(ReduceOp op, DType dtype, std::int64_t n, std::span<void* const> sources, void* out) {
  if (op == ReduceOp::max) return max<T>(n, sources, out);
  host_tree_sum(dtype, n, sources, std::vector<int>(sources.size(), 0), out);
  if (op == ReduceOp::mean) {
    auto* to = static_cast<T*>(out);
    kernels::affine<T>(kOnCpu, n, to, T(1) / static_cast<T>(sources.size()), T(-0.0), to);
  }
}

}  // namespace

void host_tree_sum(DType dtype, std::int64_t n, std::span<void* const> parts, std::span<const int> levels, void* out) {
  switch (dtype) {
    case DType::float32: return tree_sum<float>(n, parts, levels, out);
    case DType::float64: return tree_sum<double>(n, parts, levels, out);
    case DType::float16: return tree_sum<float16>(n, parts, levels, out);
    case DType::bfloat16: return tree_sum<bfloat16>(n, parts, levels, out);
    default: fail<DTypeError>("tree_sum", "expected a floating dtype, got {}", name(dtype));
  }
}

void host_reduce(ReduceOp op, DType dtype, std::int64_t n, std::span<void* const> sources, void* out) {
  if (dtype == DType::float32) return reduce_floating<float>(op, dtype, n, sources, out);
  if (dtype == DType::float64) return reduce_floating<double>(op, dtype, n, sources, out);
  LOCKSTEP_CHECK(dtype == DType::int64 && op != ReduceOp::mean, DTypeError, "all_reduce",
                 "expected float32, float64, or int64 for sum and max on the CPU, got {}", name(dtype));
  if (op == ReduceOp::max) return max<std::int64_t>(n, sources, out);
  fold<std::int64_t>(n, sources, out, [](std::int64_t a, std::int64_t b) {
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
  });
}

}  // namespace lockstep::detail
