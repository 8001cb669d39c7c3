// What training takes from a data set at a time.
#pragma once

#include <cstdint>
#include <vector>

#include <lockstep/core/tensor.h>

namespace lockstep {

/// B images of one shape. The tensors belong to whoever holds the batch.
struct Batch {
  Tensor images;                      ///< float32 [B, C, H, W], channels_last
  Tensor labels;                      ///< int64 [B]
  std::vector<std::int64_t> indices;  ///< of the images in the data set

  /// B, the number of images.
  std::int64_t size() const { return static_cast<std::int64_t>(indices.size()); }
};

}  // namespace lockstep
