#pragma once

#include <array>
#include <concepts>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <lockstep/data/transforms/transform.h>

namespace lockstep {

/// torchvision.transforms.Compose: `Compose transform{ToTensor(), Normalize({0.5, 0.5, 0.5}, {0.5, 0.5, 0.5})};` (in
/// braces: with parentheses C++ may take it for a function). Any number of PixelTransforms, then ToTensor, then any
/// number of Normalize. A copy shares the transforms.
class Compose {
 public:
  /// Throws ValueError for another order, or if ToTensor is missing.
  template <std::derived_from<Transform>... T>
  explicit Compose(T... transforms)
      : Compose(std::vector<std::shared_ptr<const Transform>>{std::make_shared<const T>(std::move(transforms))...}) {}
  /// For pipelines put together at run time.
  explicit Compose(std::vector<std::shared_ptr<const Transform>> transforms);

  /// The steps, in order.
  const std::vector<std::shared_ptr<const Transform>>& transforms() const { return transforms_; }

  /// One image, uint8 [C, H, W], to float32 [C, H, W]. Throws DTypeError, ShapeError.
  Tensor operator()(const Tensor& image, const Visit& visit = {}) const;

  /// Scratch memory of one thread, used again from image to image.
  using Workspace = std::array<PixelBuffer, 2>;
  /// The first half of the work: all PixelTransforms. The result lives in `image` or in `workspace`.
  ImageView apply_pixels(ImageView image, const Visit& visit, Workspace& workspace) const;
  /// The second half: ToTensor and Normalize to `out`, float32 in the order [H, W, C] (one image of a channels-last
  /// batch). Throws ShapeError if a Normalize has another number of channels.
  void to_floats(const ImageView& image, float* out) const;

  /// torchvision's repr.
  friend std::string to_string(const Compose& compose);

 private:
  std::vector<std::shared_ptr<const Transform>> transforms_;
  std::vector<const PixelTransform*> pixel_transforms_;
  /// What becomes of each of the 256 pixel values, by channel; one table for all channels if there is only one. Exact
  /// by construction, and a load costs less than two divisions.
  std::vector<std::array<float, 256>> tables_;
};

}  // namespace lockstep
