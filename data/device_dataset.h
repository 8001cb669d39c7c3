// A small data set that lives on the device that trains: its batches cost one kernel there.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include <lockstep/data/batch.h>
#include <lockstep/data/tensor_dataset.h>
#include <lockstep/data/transforms/compose.h>

namespace lockstep {

/// The images of a TensorDataset as bytes on a device (CIFAR-10: 150 MB), and batches gathered, scaled and normalised
/// there, to the bits that `transform` gives on the CPU. DataLoader makes one for DataLoaderOptions::device. Members
/// may be called from several threads.
class DeviceDataset {
 public:
  /// `transform` may be ToTensor and at most one Normalize: there are no kernels for other transforms; for those make
  /// batches on the CPU and move them. Throws ValueError for others and for a null data set, DeviceError unless there
  /// is such a device.
  DeviceDataset(std::shared_ptr<const TensorDataset> dataset, const Compose& transform, Device device);

  /// Copies the images to the device now, else batch() does at its first use. Throws what reading the data set throws,
  /// ShapeError if Normalize has another number of channels, ValueError unless images have 1 to 4 channels,
  /// OutOfMemoryError.
  void prepare() const;

  /// Images and labels at `indices`, on the device, queued on this thread's current stream. Throws ValueError for an
  /// index outside [0, size) of the data set.
  Batch batch(std::vector<std::int64_t> indices) const;

 private:
  std::shared_ptr<const TensorDataset> dataset_;
  std::vector<float> mean_, std_;  // as Normalize has them
  Device device_;

  mutable std::mutex mutex_;
  mutable std::atomic<bool> ready_{false};
  mutable Tensor images_, labels_;  // uint8 [N, C, H, W] channels_last and int64 [N]; written once, before ready_
};

}  // namespace lockstep
