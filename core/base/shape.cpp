#include <lockstep/core/base/shape.h>

#include <algorithm>

#include <lockstep/core/base/check.h>

namespace lockstep {

Shape::Shape(std::span<const std::int64_t> sizes) {
  LOCKSTEP_CHECK(sizes.size() <= kMaxRank, ShapeError, "Shape", "expected at most {} dimensions, got {}", kMaxRank,
                 sizes.size());
  // The product of the non-zero sizes is bounded too, so that strides can be computed without overflow.
  constexpr std::int64_t kMaxNumel = std::int64_t{1} << 62;
  std::int64_t bounded = 1;
  bool empty = false;
  for (const std::int64_t size : sizes) {
    LOCKSTEP_CHECK(size >= 0, ShapeError, "Shape", "expected sizes >= 0, got [{}]", fmt::join(sizes, ", "));
    if (size == 0) {
      empty = true;
      continue;
    }
    LOCKSTEP_CHECK(bounded <= kMaxNumel / size, ShapeError, "Shape", "expected at most 2^62 elements, got [{}]",
                   fmt::join(sizes, ", "));
    bounded *= size;
  }
  std::copy(sizes.begin(), sizes.end(), sizes_.begin());
  rank_ = static_cast<int>(sizes.size());
  numel_ = empty ? 0 : bounded;
}

std::int64_t Shape::at_checked(int dim) const {
  return sizes_[static_cast<std::size_t>(normalize_dim("Shape", dim, rank_))];
}

Shape Shape::with(int dim, std::int64_t size) const {
  std::array<std::int64_t, kMaxRank> sizes = sizes_;
  sizes[static_cast<std::size_t>(normalize_dim("Shape", dim, rank_))] = size;
  return Shape(std::span<const std::int64_t>(sizes.data(), static_cast<std::size_t>(rank_)));
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape.sizes(), ", ")); }

Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b) {
  if (a == b) return a;
  const int rank = std::max(a.rank(), b.rank());
  std::array<std::int64_t, Shape::kMaxRank> sizes{};
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank());
    const int ib = i - (rank - b.rank());
    const std::int64_t size_a = ia < 0 ? 1 : a[ia];
    const std::int64_t size_b = ib < 0 ? 1 : b[ib];
    LOCKSTEP_CHECK(size_a == size_b || size_a == 1 || size_b == 1, ShapeError, op,
                   "expected shapes that broadcast, got {} and {}", to_string(a), to_string(b));
    sizes[static_cast<std::size_t>(i)] = size_a == 1 ? size_b : size_a;
  }
  return Shape(std::span<const std::int64_t>(sizes.data(), static_cast<std::size_t>(rank)));
}

int normalize_dim(const char* op, int dim, int rank) {
  LOCKSTEP_CHECK(dim >= -rank && dim < rank, ShapeError, op, "expected a dimension in [{}, {}), got {}", -rank, rank,
                 dim);
  return dim < 0 ? dim + rank : dim;
}

}  // namespace lockstep
