// How logical dimensions lie in memory. Internal to the ops.
#pragma once

#include <array>
#include <cstdint>

#include <lockstep/core/tensor.h>

namespace lockstep::detail {

using Strides = std::array<std::int64_t, Shape::kMaxRank>;

/// Elements between neighbours along each logical dimension of a dense tensor.
inline Strides dense_strides(const Shape& shape, Layout layout) {
  Strides strides{};
  if (layout == Layout::channels_last) {
    const std::int64_t c = shape[1], h = shape[2], w = shape[3];
    strides = {h * w * c, 1, w * c, c};
  } else {
    std::int64_t stride = 1;
    for (int i = shape.rank() - 1; i >= 0; --i) {
      strides[static_cast<std::size_t>(i)] = stride;
      stride *= shape[i];
    }
  }
  return strides;
}

/// A row-major shape as [outer, size, inner] around one dimension.
struct Around {
  std::int64_t outer = 1, size = 1, inner = 1;

  Around(const Shape& shape, int dim) : size(shape[dim]) {
    for (int i = 0; i < dim; ++i) outer *= shape[i];
    for (int i = dim + 1; i < shape.rank(); ++i) inner *= shape[i];
  }
};

/// Logical dimensions from outermost to innermost in memory.
inline std::array<int, Shape::kMaxRank> memory_order(Layout layout) {
  if (layout == Layout::channels_last) return {0, 2, 3, 1, 4, 5, 6, 7};
  return {0, 1, 2, 3, 4, 5, 6, 7};
}

}  // namespace lockstep::detail
