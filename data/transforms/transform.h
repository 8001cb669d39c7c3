// What a per-image transform is. Names, parameters and meaning are torchvision's (torchvision.transforms).
#pragma once

#include <string>

#include <lockstep/data/dataset.h>
#include <lockstep/data/draws.h>

namespace lockstep {

/// A step of a Compose pipeline. Images stay uint8 through the PixelTransforms; ToTensor and the Normalize after it are
/// then done in one pass that writes into the batch. Transforms never change, so that one object serves all workers.
class Transform {
 public:
  virtual ~Transform() = default;
  /// torchvision's repr.
  virtual std::string repr() const = 0;
};

/// transform.repr().
inline std::string to_string(const Transform& transform) { return transform.repr(); }

/// A transform from pixels to pixels; derive from it to make your own. A random one takes its parameters from `draws`
/// and from nothing else: Compose passes the stream of (seed, epoch, index, place in the pipeline), the same for any
/// number of workers.
class PixelTransform : public Transform {
 public:
  /// The transformed image with its pixels in `out`, or `image` itself if nothing changes. `image` is never in `out`.
  virtual ImageView apply(const ImageView& image, PhiloxStream& draws, PixelBuffer& out) const = 0;
};

}  // namespace lockstep
