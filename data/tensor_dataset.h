// A data set that lies in memory as one tensor of images and one of labels.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include <lockstep/data/dataset.h>

namespace lockstep {

/// Labelled images of one size, all in memory.
class TensorDataset : public Dataset {
 public:
  /// `images` uint8 [N, C, H, W], row-major; `labels` int64 [N]; both on the CPU; shared, not copied. Throws
  /// ShapeError, DTypeError, DeviceError, and ValueError for a label outside [0, classes.size()).
  TensorDataset(Tensor images, Tensor labels, std::vector<std::string> classes);

  std::int64_t size() const override { return size_; }
  const std::vector<std::string>& classes() const override { return classes_; }
  ExampleView read(std::int64_t index, PixelBuffer& buffer) const override;
  void prepare() const override;

  /// All images, uint8 [N, C, H, W].
  const Tensor& images() const;
  /// All labels, int64 [N].
  const Tensor& labels() const;

 protected:
  /// What lies in memory.
  struct Contents {
    Tensor images, labels;
  };

  /// For a derived class that fills the memory at first use, by load().
  TensorDataset(std::int64_t size, std::vector<std::string> classes);
  /// Makes the contents: images uint8 [size(), C, H, W], labels int64 [size()]. Called once, at first use; again only
  /// if it threw.
  virtual Contents load() const;

 private:
  void adopt(Contents contents) const;

  std::int64_t size_;
  std::vector<std::string> classes_;
  mutable std::mutex loading_;
  mutable std::atomic<bool> loaded_{false};
  // Written once, before `loaded_`.
  mutable Contents contents_;
  mutable ImageView first_;
  mutable const std::int64_t* label_ = nullptr;
};

}  // namespace lockstep
