#include <lockstep/data/data_loader.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/thread_pool.h>

namespace lockstep {

/// Batches are claimed by the workers in order, finished in any order, and handed out in order. Batch b waits in slot
/// b % slots; a worker claims it only when it is less than `slots` ahead of the consumer, so that its slot is free.
class DataLoader::Epoch::Impl {
 public:
  Impl(std::shared_ptr<const Dataset> dataset, std::shared_ptr<const DeviceDataset> on_device, Compose transform,
       const DataLoaderOptions& options, std::vector<std::int64_t> order, std::int64_t epoch, std::int64_t first_batch,
       std::int64_t batches)
      : dataset_(std::move(dataset)),
        on_device_(std::move(on_device)),
        transform_(std::move(transform)),
        order_(std::move(order)),
        batch_size_(options.batch_size),
        seed_(options.seed),
        epoch_(epoch),
        batches_(batches),
        position_(first_batch),
        claimed_(first_batch) {
    const std::int64_t left = batches - first_batch;
    const auto workers = static_cast<std::size_t>(on_device_ ? 0 : std::min<std::int64_t>(options.workers, left));
    if (workers == 0) return;
    slots_.resize(
        static_cast<std::size_t>(std::min<std::int64_t>(std::int64_t{options.workers} * options.prefetch, left)));
    try {
      while (workers_.size() < workers) workers_.emplace_back([this] { work(); });
    } catch (...) {
      stop();
      throw;
    }
  }
  ~Impl() { stop(); }

  std::optional<Batch> next() {
    if (position_ == batches_) return std::nullopt;
    if (slots_.empty()) return make_batch(position_++, own_room_);
    Slot done;
    {
      std::unique_lock lock(mutex_);
      Slot& slot = slot_of(position_);
      finished_.wait(lock, [&] { return slot.done; });
      done = std::exchange(slot, {});
      ++position_;
    }
    claimable_.notify_one();
    if (done.error) std::rethrow_exception(done.error);
    return std::move(done.batch);
  }

  std::int64_t position() const { return position_; }

 private:
  struct Slot {
    Batch batch;
    std::exception_ptr error;
    bool done = false;
  };
  /// What one thread uses again from image to image.
  struct Room {
    PixelBuffer decoded;
    Compose::Workspace workspace;
  };

  Slot& slot_of(std::int64_t batch) { return slots_[static_cast<std::size_t>(batch) % slots_.size()]; }

  void work() {
    set_num_threads(1);  // the other processors are busy with the training step
    Room room;
    std::unique_lock lock(mutex_);
    for (;;) {
      claimable_.wait(lock, [&] {
        return stopping_ || claimed_ == batches_ || claimed_ < position_ + static_cast<std::int64_t>(slots_.size());
      });
      if (stopping_ || claimed_ == batches_) return;
      const std::int64_t number = claimed_++;
      lock.unlock();
      Slot result;
      result.done = true;
      try {
        result.batch = make_batch(number, room);
      } catch (...) {
        result.error = std::current_exception();
      }
      lock.lock();
      slot_of(number) = std::move(result);
      finished_.notify_one();
    }
  }

  void stop() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    claimable_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
  }

  Batch make_batch(std::int64_t number, Room& room) const {
    const auto begin = order_.begin() + number * batch_size_;
    const auto count = std::min<std::int64_t>(batch_size_, order_.end() - begin);
    if (on_device_) return on_device_->batch({begin, begin + count});
    Batch batch;
    batch.indices.assign(begin, begin + count);
    batch.labels = Tensor::empty({count}, {.dtype = DType::int64});
    std::int64_t* labels = batch.labels.data<std::int64_t>();
    float* out = nullptr;
    ImageView first;
    for (std::int64_t i = 0; i < count && !stopping_; ++i) {
      const std::int64_t index = batch.indices[static_cast<std::size_t>(i)];
      LOCKSTEP_CHECK(index >= 0 && index < dataset_->size(), ValueError, "DataLoader",
                     "expected indices in [0, {}) from the sampler, got {}", dataset_->size(), index);
      const ExampleView example = dataset_->read(index, room.decoded);
      const ImageView image = transform_.apply_pixels(example.image, {seed_, epoch_, index}, room.workspace);
      if (i == 0) {
        first = image;
        batch.images =
            Tensor::empty({count, image.channels, image.height, image.width}, {.layout = Layout::channels_last});
        out = batch.images.data<float>();
      }
      LOCKSTEP_CHECK(
          image.channels == first.channels && image.height == first.height && image.width == first.width, ShapeError,
          "DataLoader",
          "expected images of one shape in a batch, got [{}, {}, {}] at index {} and [{}, {}, {}] at index {}",
          first.channels, first.height, first.width, batch.indices[0], image.channels, image.height, image.width,
          index);
      transform_.to_floats(image, out + i * image.numel());
      labels[i] = example.label;
    }
    return batch;
  }

  const std::shared_ptr<const Dataset> dataset_;
  const std::shared_ptr<const DeviceDataset> on_device_;
  const Compose transform_;
  const std::vector<std::int64_t> order_;
  const std::int64_t batch_size_;
  const std::uint64_t seed_;
  const std::int64_t epoch_, batches_;

  Room own_room_;
  std::mutex mutex_;
  std::condition_variable claimable_, finished_;
  std::int64_t position_;  // changed by the consumer alone, under the mutex if there are workers
  std::int64_t claimed_;
  std::vector<Slot> slots_;
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;
};

DataLoader::Epoch::Epoch(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DataLoader::Epoch::Epoch(Epoch&&) noexcept = default;
DataLoader::Epoch& DataLoader::Epoch::operator=(Epoch&&) noexcept = default;
DataLoader::Epoch::~Epoch() = default;
std::optional<Batch> DataLoader::Epoch::next() { return impl_->next(); }
std::int64_t DataLoader::Epoch::position() const { return impl_->position(); }

DataLoader::DataLoader(std::shared_ptr<const Dataset> dataset, Compose transform, DataLoaderOptions options)
    : dataset_(std::move(dataset)),
      transform_(std::move(transform)),
      options_(std::move(options)),
      sampler_(options_.sampler) {
  LOCKSTEP_CHECK(dataset_ != nullptr, ValueError, "DataLoader", "expected a data set, got a null pointer");
  LOCKSTEP_CHECK(options_.batch_size >= 1, ValueError, "DataLoader", "expected a batch_size of 1 or more, got {}",
                 options_.batch_size);
  LOCKSTEP_CHECK(options_.workers >= 0 && options_.workers <= 1024, ValueError, "DataLoader",
                 "expected 0 to 1024 workers, got {}", options_.workers);
  LOCKSTEP_CHECK(options_.prefetch >= 1, ValueError, "DataLoader", "expected a prefetch of 1 or more, got {}",
                 options_.prefetch);
  LOCKSTEP_CHECK(!(options_.shuffle && sampler_), ValueError, "DataLoader",
                 "expected either shuffle or a sampler, got both");
  if (options_.shuffle) {
    sampler_ = std::make_shared<RandomSampler>(dataset_->size(), options_.seed);
  } else if (!sampler_) {
    sampler_ = std::make_shared<SequentialSampler>(dataset_->size());
  }
  if (options_.device.type == Device::Type::cuda) {
    auto in_memory = std::dynamic_pointer_cast<const TensorDataset>(dataset_);
    LOCKSTEP_CHECK(in_memory != nullptr, ValueError, "DataLoader",
                   "expected a TensorDataset for batches made on {}, got another data set", to_string(options_.device));
    on_device_ = std::make_shared<DeviceDataset>(std::move(in_memory), transform_, options_.device);
  }
}

std::int64_t DataLoader::size() const {
  const std::int64_t examples = sampler_->size(), rest = examples % options_.batch_size;
  return examples / options_.batch_size + (rest != 0 && !options_.drop_last ? 1 : 0);
}

DataLoader::Epoch DataLoader::epoch(std::int64_t epoch, std::int64_t first_batch) const {
  LOCKSTEP_CHECK(epoch >= 0, ValueError, "DataLoader::epoch", "expected an epoch of 0 or more, got {}", epoch);
  LOCKSTEP_CHECK(first_batch >= 0 && first_batch <= size(), ValueError, "DataLoader::epoch",
                 "expected a first_batch in [0, {}], got {}", size(), first_batch);
  std::vector<std::int64_t> order = sampler_->indices(epoch);
  LOCKSTEP_CHECK(static_cast<std::int64_t>(order.size()) == sampler_->size(), ValueError, "DataLoader::epoch",
                 "expected {} indices from the sampler, got {}", sampler_->size(), order.size());
  if (first_batch < size()) {
    if (on_device_) {
      on_device_->prepare();
    } else {
      dataset_->prepare();
    }
  }
  return Epoch(std::make_unique<Epoch::Impl>(dataset_, on_device_, transform_, options_, std::move(order), epoch,
                                             first_batch, size()));
}

}  // namespace lockstep
