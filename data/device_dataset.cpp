#include <lockstep/data/device_dataset.h>

#include <utility>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/stream.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/data/transforms/normalize.h>
#include <lockstep/data/transforms/to_tensor.h>
#include <lockstep/kernels/batch_gather.h>

namespace lockstep {

DeviceDataset::DeviceDataset(std::shared_ptr<const TensorDataset> dataset, const Compose& transform, Device device)
    : dataset_(std::move(dataset)), device_(device) {
  LOCKSTEP_CHECK(dataset_ != nullptr, ValueError, "DeviceDataset", "expected a data set, got a null pointer");
  if (device.type == Device::Type::cuda) current_stream(device);  // throws unless there is such a device
  for (const auto& step : transform.transforms()) {
    if (dynamic_cast<const ToTensor*>(step.get())) continue;
    const auto* normalize = dynamic_cast<const Normalize*>(step.get());
    LOCKSTEP_CHECK(normalize && mean_.empty(), ValueError, "DeviceDataset",
                   "expected ToTensor and at most one Normalize on {}, got {}", to_string(device),
                   to_string(transform));
    mean_.assign(normalize->mean().begin(), normalize->mean().end());
    std_.assign(normalize->std().begin(), normalize->std().end());
  }
  if (mean_.empty()) {
    mean_ = {0.0f};
    std_ = {1.0f};
  }
}

void DeviceDataset::prepare() const {
  if (ready_.load(std::memory_order_acquire)) return;
  std::lock_guard lock(mutex_);
  if (ready_.load(std::memory_order_relaxed)) return;
  const Tensor& images = dataset_->images();
  const std::int64_t channels = images.size(1);
  LOCKSTEP_CHECK(channels >= 1 && channels <= ImageNormalization::kMaxChannels, ValueError, "DeviceDataset",
                 "expected images with 1 to {} channels, got {}", ImageNormalization::kMaxChannels, channels);
  LOCKSTEP_CHECK(mean_.size() == 1 || static_cast<std::int64_t>(mean_.size()) == channels, ShapeError, "Normalize",
                 "expected an image with {} channels, got {}", mean_.size(), channels);
  images_ = images.to(device_).to(Layout::channels_last);
  labels_ = dataset_->labels().to(device_);
  synchronize(device_);  // other threads may use them on other streams
  ready_.store(true, std::memory_order_release);
}

Batch DeviceDataset::batch(std::vector<std::int64_t> indices) const {
  for (const std::int64_t index : indices) {
    LOCKSTEP_CHECK(index >= 0 && index < dataset_->size(), ValueError, "DeviceDataset",
                   "expected indices in [0, {}), got {}", dataset_->size(), index);
  }
  prepare();
  if (device_.type == Device::Type::cuda) {
    const Stream stream = current_stream(device_);
    std::lock_guard lock(mutex_);
    images_.record_stream(stream);
    labels_.record_stream(stream);
  }
  const Shape& shape = images_.shape();
  ImageNormalization normalization{.channels = shape[1]};
  for (std::int64_t c = 0; c < shape[1]; ++c) {
    const std::size_t given = mean_.size() == 1 ? 0 : static_cast<std::size_t>(c);
    normalization.mean[c] = mean_[given];
    normalization.std[c] = std_[given];
  }
  const auto count = static_cast<std::int64_t>(indices.size());
  const Tensor index = Tensor::from(indices, {count}).to(device_);
  Batch batch{
      Tensor::empty({count, shape[1], shape[2], shape[3]}, {.device = device_, .layout = Layout::channels_last}),
      Tensor::empty({count}, {.dtype = DType::int64, .device = device_}), std::move(indices)};
  dispatch("batch_gather", batch.images, [&](auto on) {
    kernels::batch_gather<float>(on, count, shape[2] * shape[3], normalization, index.data<std::int64_t>(),
                                 images_.data<std::uint8_t>(), labels_.data<std::int64_t>(), batch.images.data<float>(),
                                 batch.labels.data<std::int64_t>());
  });
  return batch;
}

}  // namespace lockstep
