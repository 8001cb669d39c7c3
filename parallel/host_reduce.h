// Reductions and copies of plain arrays in host memory, which process groups do their work with. Internal.
#pragma once

#include <cstdint>
#include <span>

#include <lockstep/core/base/dtype.h>
#include <lockstep/parallel/process_group.h>

namespace lockstep::detail {

/// out[i] = the sum, mean or maximum of sources[r][i] over r; sums along the canonical tree over r. `out` may be one of
/// the sources. float32, float64; sum and max also int64.
void host_reduce(ReduceOp op, DType dtype, std::int64_t n, std::span<void* const> sources, void* out);

/// kernels::tree_sum for any floating dtype; levels[k] belongs to parts[k].
void host_tree_sum(DType dtype, std::int64_t n, std::span<void* const> parts, std::span<const int> levels, void* out);

}  // namespace lockstep::detail
