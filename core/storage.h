// The memory behind one or more tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include <lockstep/core/allocator.h>
#include <lockstep/core/base/device.h>
#include <lockstep/core/base/intrusive_ptr.h>

namespace lockstep {

/// A block of memory on one device, freed with its last tensor. `version` counts in-place changes, so that backward can
/// tell when a tensor it saved has been overwritten.
class Storage final : public RefCounted<Storage>, public detail::SmallObject {
 public:
  /// Allocates.
  explicit Storage(std::size_t bytes) : data_(allocate(bytes)), bytes_(bytes) {}
  /// Uses memory of someone else, kept alive by `owner` (which may be null: then the caller promises that it outlives
  /// this).
  Storage(void* data, std::size_t bytes, std::shared_ptr<void> owner)
      : data_(data), bytes_(bytes), owner_(std::move(owner)), external_(true) {}
  ~Storage() {
    if (!external_) deallocate(data_, bytes_);
  }

  void* data() const { return data_; }          ///< the first byte
  std::size_t bytes() const { return bytes_; }  ///< as asked for

  std::uint32_t version = 0;

 private:
  void* data_;
  std::size_t bytes_;
  std::shared_ptr<void> owner_;
  bool external_ = false;
};

}  // namespace lockstep
