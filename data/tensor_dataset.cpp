#include <lockstep/data/tensor_dataset.h>

#include <utility>

#include <lockstep/core/base/check.h>

namespace lockstep {

TensorDataset::TensorDataset(Tensor images, Tensor labels, std::vector<std::string> classes)
    : size_(labels.numel()), classes_(std::move(classes)) {
  adopt({std::move(images), std::move(labels)});
}

TensorDataset::TensorDataset(std::int64_t size, std::vector<std::string> classes)
    : size_(size), classes_(std::move(classes)) {
  LOCKSTEP_CHECK(size >= 0, ValueError, "TensorDataset", "expected a size of 0 or more, got {}", size);
}

TensorDataset::Contents TensorDataset::load() const { return contents_; }

void TensorDataset::adopt(Contents contents) const {
  const auto& [images, labels] = contents;
  LOCKSTEP_CHECK(images.device() == kCpu && labels.device() == kCpu, DeviceError, "TensorDataset",
                 "expected images and labels on the CPU, got {} and {}", to_string(images.device()),
                 to_string(labels.device()));
  LOCKSTEP_CHECK(images.dtype() == DType::uint8 && labels.dtype() == DType::int64, DTypeError, "TensorDataset",
                 "expected uint8 images and int64 labels, got {} and {}", name(images.dtype()), name(labels.dtype()));
  LOCKSTEP_CHECK(images.rank() == 4 && images.layout() == Layout::row_major && labels.rank() == 1 &&
                     images.size(0) == labels.size(0) && labels.size(0) == size_,
                 ShapeError, "TensorDataset", "expected row-major images [{}, C, H, W] and labels [{}], got {} and {}",
                 size_, size_, to_string(images.shape()), to_string(labels.shape()));
  const std::int64_t* label = labels.data<std::int64_t>();
  const auto classes = static_cast<std::int64_t>(classes_.size());
  for (std::int64_t i = 0; i < size_; ++i) {
    LOCKSTEP_CHECK(label[i] >= 0 && label[i] < classes, ValueError, "TensorDataset",
                   "expected labels in [0, {}), got {} at index {}", classes, label[i], i);
  }
  first_ = {images.data<std::uint8_t>(), images.size(1), images.size(2), images.size(3)};
  label_ = label;
  contents_ = std::move(contents);
  loaded_.store(true, std::memory_order_release);
}

void TensorDataset::prepare() const {
  if (loaded_.load(std::memory_order_acquire)) return;
  std::lock_guard lock(loading_);
  if (!loaded_.load(std::memory_order_relaxed)) adopt(load());
}

ExampleView TensorDataset::read(std::int64_t index, PixelBuffer&) const {
  prepare();
  ImageView image = first_;
  image.pixels += index * image.numel();
  return {image, label_[index]};
}

const Tensor& TensorDataset::images() const {
  prepare();
  return contents_.images;
}

const Tensor& TensorDataset::labels() const {
  prepare();
  return contents_.labels;
}

}  // namespace lockstep
