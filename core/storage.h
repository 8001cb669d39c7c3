// The memory behind one or more tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <lockstep/core/allocator.h>
#include <lockstep/core/base/device.h>
#include <lockstep/core/base/intrusive_ptr.h>
#include <lockstep/core/base/stream.h>

namespace lockstep {

/// A block of memory on one device, freed with its last tensor. `version` counts in-place changes, so that backward can
/// tell when a tensor it saved has been overwritten.
class Storage final : public RefCounted<Storage>, public detail::SmallObject {
 public:
  /// Allocates host memory.
  explicit Storage(std::size_t bytes) : data_(allocate(bytes)), bytes_(bytes) {}
  /// Allocates memory of a CUDA device for work that `stream` gets from now on.
  Storage(std::size_t bytes, const Stream& stream);
  /// Uses memory of someone else, kept alive by `owner` (which may be null: then the caller promises that it outlives
  /// this).
  Storage(void* data, std::size_t bytes, std::shared_ptr<void> owner)
      : data_(data), bytes_(bytes), owner_(std::move(owner)), external_(true) {}
  ~Storage() {
    if (streams_) {
      free_on_device();
    } else if (!external_) {
      deallocate(data_, bytes_);
    }
  }

  void* data() const { return data_; }          ///< the first byte
  std::size_t bytes() const { return bytes_; }  ///< as asked for

  /// Does not free the memory before the work that `stream` has by then is done. Nothing for memory that it did not
  /// allocate on a CUDA device.
  void record_stream(const Stream& stream);

  std::uint32_t version = 0;

 private:
  void free_on_device() noexcept;

  void* data_;
  std::size_t bytes_;
  std::shared_ptr<void> owner_;
  std::unique_ptr<std::vector<Stream>> streams_;  // of device memory: that of the allocation, then others that use it
  bool external_ = false;
};

}  // namespace lockstep
