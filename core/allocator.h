// Memory of devices. On the CPU blocks are cached by size and used again, on CUDA they come from the device's pool
// (cudaMallocAsync), so that a steady training step asks the system for nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include <lockstep/core/base/device.h>

namespace lockstep {

/// Bytes of tensor memory on one device.
struct MemoryStats {
  std::int64_t live = 0;                ///< in blocks that tensors hold now
  std::int64_t peak = 0;                ///< the highest `live` since the start or reset_peak_memory()
  std::int64_t cached = 0;              ///< in free blocks kept for reuse
  std::int64_t small = 0;               ///< CPU: in slabs for blocks up to 1 KiB and for the library's small objects
  std::int64_t system_allocations = 0;  ///< CPU: how often the system was asked for memory
};

MemoryStats memory_stats(Device device = kCpu);  ///< as they are now
/// The statistics on one line, in MiB, as OutOfMemoryError quotes them: "live 1.0 MiB, peak 3.0 MiB, cached 2.0 MiB",
/// and for the CPU ", small blocks 0.1 MiB, 7 system allocations".
std::string memory_summary(Device device = kCpu);
void reset_peak_memory(Device device = kCpu);  ///< the peak is then what is live
/// Returns all cached blocks to the system.
void empty_cache(Device device = kCpu);

/// A block of host memory of at least `bytes`, aligned to 64 bytes, contents undefined; null for 0 bytes. Throws
/// OutOfMemoryError with a summary. Thread-safe.
void* allocate(std::size_t bytes);
/// Gives back a block; `bytes` as it was asked for.
void deallocate(void* block, std::size_t bytes) noexcept;

namespace detail {

/// Blocks up to 1 KiB from per-thread free lists; a few nanoseconds.
void* small_allocate(std::size_t bytes);
void small_deallocate(void* block, std::size_t bytes) noexcept;

/// Base of small objects made in great numbers: tensors, tape nodes.
struct SmallObject {
  static void* operator new(std::size_t bytes) { return bytes <= 1024 ? small_allocate(bytes) : ::operator new(bytes); }
  static void operator delete(void* block, std::size_t bytes) noexcept {
    bytes <= 1024 ? small_deallocate(block, bytes) : ::operator delete(block);
  }
};

}  // namespace detail
}  // namespace lockstep
