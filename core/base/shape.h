// Sizes of a tensor, kept inline: making, copying and comparing a Shape never allocates.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace lockstep {

/// Up to 8 sizes, outermost first; images are [N, C, H, W]. An empty shape is a scalar with one element.
class Shape {
 public:
  static constexpr int kMaxRank = 8;

  Shape() = default;
  /// Shape{2, 3}. Throws ShapeError for more than 8 sizes, a negative size, or a product over 2^62.
  Shape(std::initializer_list<std::int64_t> sizes) : Shape(std::span(sizes.begin(), sizes.size())) {}
  /// The same for sizes known at run time.
  explicit Shape(std::span<const std::int64_t> sizes);

  int rank() const { return rank_; }             ///< number of dimensions
  std::int64_t numel() const { return numel_; }  ///< number of elements: the product of the sizes
  /// Size of one dimension. Negative indices count from the end; throws ShapeError outside [-rank, rank).
  std::int64_t operator[](int dim) const {
    if (dim >= 0 && dim < rank_) return sizes_[static_cast<std::size_t>(dim)];
    return at_checked(dim);
  }
  /// All sizes; valid while this shape is.
  std::span<const std::int64_t> sizes() const { return {sizes_.data(), static_cast<std::size_t>(rank_)}; }
  const std::int64_t* begin() const { return sizes_.data(); }        ///< the first size, for loops
  const std::int64_t* end() const { return sizes_.data() + rank_; }  ///< behind the last

  /// This shape with one size replaced. Throws as the constructor does.
  Shape with(int dim, std::int64_t size) const;

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_ || a.numel_ != b.numel_) return false;
    for (int i = 0; i < a.rank_; ++i) {
      if (a.sizes_[static_cast<std::size_t>(i)] != b.sizes_[static_cast<std::size_t>(i)]) return false;
    }
    return true;
  }

 private:
  std::int64_t at_checked(int dim) const;

  std::array<std::int64_t, kMaxRank> sizes_{};
  std::int64_t numel_ = 1;
  int rank_ = 0;
};

/// "[128, 3, 32, 32]".
std::string to_string(const Shape& shape);

/// NumPy's broadcasting rule. Throws ShapeError naming `op` when a pair of sizes is neither equal nor 1.
Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b);

/// Maps a dimension that may be negative to [0, rank). Throws ShapeError naming `op` outside [-rank, rank).
int normalize_dim(const char* op, int dim, int rank);

}  // namespace lockstep
