// Memory of CUDA devices, from cudaMallocAsync's pools, and page-locked host memory. Internal: tensors are how it is
// used.
#pragma once

#include <cstddef>

#include <lockstep/core/allocator.h>
#include <lockstep/core/base/stream.h>

namespace lockstep::detail {

/// A block of device memory that work queued in `stream` from now on may use; null for 0 bytes. Throws OutOfMemoryError
/// with a summary.
void* cuda_allocate(std::size_t bytes, const Stream& stream);
/// Gives it back once the work queued in `stream` so far is done.
void cuda_deallocate(void* block, std::size_t bytes, const Stream& stream) noexcept;

MemoryStats cuda_memory_stats(Device device);
void cuda_reset_peak(Device device);
void cuda_empty_cache(Device device);

/// Copies between or within devices, in order with the work on the current streams of those that take part. Returns
/// when it is done if the target is the CPU.
void copy_bytes(std::size_t bytes, const void* source, Device from, void* target, Device to);

/// Page-locked host memory: copies between it and a device do not stop the host.
void* pinned_allocate(std::size_t bytes);
void pinned_deallocate(void* block) noexcept;

}  // namespace lockstep::detail
