// Simplifies the boxes of copies.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include <lockstep/kernels/copy.h>

namespace lockstep::kernels {

/// Drops dimensions of size 1, orders them by target stride, and joins neighbours that are one run in both buffers.
inline StridedCopy simplified(const StridedCopy& box) {
  struct Dim {
    std::int64_t size, source, target;
  } dims[StridedCopy::kMaxRank];
  int rank = 0;
  for (int d = 0; d < box.rank; ++d) {
    if (box.sizes[d] != 1) dims[rank++] = {box.sizes[d], box.source_strides[d], box.target_strides[d]};
  }
  std::stable_sort(dims, dims + rank,
                   [](const Dim& a, const Dim& b) { return std::abs(a.target) > std::abs(b.target); });
  StridedCopy out;
  for (int d = 0; d < rank; ++d) {
    const int last = out.rank - 1;
    if (last >= 0 && out.source_strides[last] == dims[d].source * dims[d].size &&
        out.target_strides[last] == dims[d].target * dims[d].size) {
      out.sizes[last] *= dims[d].size;
      out.source_strides[last] = dims[d].source;
      out.target_strides[last] = dims[d].target;
    } else {
      out.sizes[out.rank] = dims[d].size;
      out.source_strides[out.rank] = dims[d].source;
      out.target_strides[out.rank] = dims[d].target;
      ++out.rank;
    }
  }
  return out;
}

}  // namespace lockstep::kernels
