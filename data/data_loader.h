// From a data set to batches: order, transforms, worker threads, prefetch.
#pragma once

#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <vector>

#include <lockstep/data/batch.h>
#include <lockstep/data/dataset.h>
#include <lockstep/data/device_dataset.h>
#include <lockstep/data/sampler.h>
#include <lockstep/data/transforms/compose.h>
#include <lockstep/data/transforms/to_tensor.h>

namespace lockstep {

/// torch.utils.data.DataLoader's, and a seed.
struct DataLoaderOptions {
  std::int64_t batch_size = 1;
  bool shuffle = false;    ///< another order in every epoch (RandomSampler) instead of the data set's
  std::uint64_t seed = 0;  ///< of the shuffle and of random transforms
  int workers = 0;         ///< threads that prepare batches ahead; 0: the calling thread does, when it asks
  int prefetch = 2;        ///< batches that each worker may be ahead
  bool drop_last = false;  ///< leave out a last batch that is not full
  std::shared_ptr<const Sampler> sampler = {};  ///< instead of `shuffle`: which examples, in which order
  /// Where batches are made. On a CUDA device the images, a TensorDataset's, are moved there as bytes once, at the
  /// first epoch, and the calling thread only queues a kernel for each batch (DeviceDataset says with which
  /// transforms); `workers` have nothing to do.
  Device device = kCpu;
};

/// `for (Batch batch : loader.epoch(3)) …`. Batches are a function of (data set, transform, options but for workers,
/// prefetch and device, epoch): the same bits for any number of workers and on any device. May be used from several
/// threads.
class DataLoader {
 public:
  class Epoch;

  /// Throws ValueError unless batch_size ≥ 1, workers is in [0, 1024] and prefetch ≥ 1, if both `shuffle` and `sampler`
  /// are set, or for a null data set; on a CUDA device ValueError for a data set that is no TensorDataset, and what
  /// DeviceDataset throws.
  explicit DataLoader(std::shared_ptr<const Dataset> dataset, Compose transform = Compose(ToTensor()),
                      DataLoaderOptions options = {});

  /// Batches in an epoch.
  std::int64_t size() const;
  const Dataset& dataset() const { return *dataset_; }  ///< where its images come from

  /// Epoch number `epoch` (from 0), from its batch `first_batch` on; starts the workers. first_batch == size() is an
  /// epoch with nothing left. Throws ValueError for a negative epoch or a first_batch outside [0, size()], and what
  /// Dataset::prepare (DeviceDataset::prepare) throws.
  Epoch epoch(std::int64_t epoch, std::int64_t first_batch = 0) const;

 private:
  std::shared_ptr<const Dataset> dataset_;
  Compose transform_;
  DataLoaderOptions options_;
  std::shared_ptr<const Sampler> sampler_;
  std::shared_ptr<const DeviceDataset> on_device_;  // or null: batches are made on the CPU
};

/// One pass through the data. Its destructor stops the workers after the image they are at.
class DataLoader::Epoch {
 public:
  Epoch(Epoch&&) noexcept;
  Epoch& operator=(Epoch&&) noexcept;
  ~Epoch();

  /// The next batch, or nothing at the end. An exception from the data set or a transform is rethrown here, when the
  /// turn comes to its batch; the call after that goes on with the following batch. ShapeError if the images of a batch
  /// differ in shape.
  std::optional<Batch> next();
  /// Number, in the epoch, of the batch that next() will give.
  std::int64_t position() const;

  /// One pass, for range-based loops.
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = Batch;
    using difference_type = std::ptrdiff_t;
    using pointer = Batch*;
    using reference = Batch&;

    /// At the epoch's next batch.
    explicit Iterator(Epoch* epoch) : epoch_(epoch), batch_(epoch->next()) {}
    Batch& operator*() { return *batch_; }
    Batch* operator->() { return &*batch_; }
    Iterator& operator++() {
      batch_.reset();  // its memory can serve the next one
      batch_ = epoch_->next();
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const Iterator& it, std::default_sentinel_t) { return !it.batch_; }

   private:
    Epoch* epoch_;
    std::optional<Batch> batch_;
  };
  Iterator begin() { return Iterator(this); }         ///< takes the next batch
  std::default_sentinel_t end() const { return {}; }  ///< no batch left

 private:
  friend class DataLoader;
  class Impl;
  explicit Epoch(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
