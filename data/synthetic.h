// Images that need no file: ten kinds of shapes and textures, drawn by arithmetic.
#pragma once

#include <cstdint>

#include <lockstep/data/tensor_dataset.h>

namespace lockstep {

/// Procedural 3×32×32 images in 10 classes (disc, ring, square, …), with random place, size, colours and noise: too
/// much variety for a linear model (under 60 % right), easy for a small convolutional one (over 90 %). An image is a
/// function of (seed, split, index) alone, with the same bits on every machine. Drawn at first use, with num_threads()
/// threads.
class SyntheticDataset : public TensorDataset {
 public:
  static constexpr std::int64_t kTrainSize = 10'000, kTestSize = 2'000;

  /// `size` images; the classes take turns. Throws ValueError for a negative size.
  explicit SyntheticDataset(Split split, std::int64_t size, std::uint64_t seed = 0);
  /// 10,000 training or 2,000 test images.
  explicit SyntheticDataset(Split split) : SyntheticDataset(split, split == Split::train ? kTrainSize : kTestSize) {}

 private:
  Contents load() const override;

  Split split_;
  std::uint64_t seed_;
};

}  // namespace lockstep
