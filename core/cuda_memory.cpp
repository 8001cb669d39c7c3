#include <lockstep/core/cuda_memory.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <limits>
#include <mutex>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/cuda_check.h>

namespace lockstep::detail {
namespace {

/// Bytes in blocks that tensors of one device hold.
struct Usage {
  std::atomic<std::int64_t> live{0}, peak{0};

  void add(std::int64_t bytes) {
    const std::int64_t now = live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    std::int64_t highest = peak.load(std::memory_order_relaxed);
    while (now > highest && !peak.compare_exchange_weak(highest, now, std::memory_order_relaxed)) {
    }
  }
};

Usage& usage(Device device) {
  constexpr int kMaxDevices = 64;
  static std::array<Usage, kMaxDevices> usages;
  return usages[static_cast<std::size_t>(device.index)];
}

/// The pool that cudaMallocAsync takes from. Freed blocks stay in it across synchronisations: by default it would give
/// them back to the driver at each one, and a steady training step would ask for them again.
cudaMemPool_t pool(Device device) {
  cudaMemPool_t pool = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, device.index));
  static std::array<std::once_flag, 64> flags;
  std::call_once(flags[static_cast<std::size_t>(device.index)], [&] {
    std::uint64_t keep_all = std::numeric_limits<std::uint64_t>::max();
    LOCKSTEP_CUDA_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep_all));
  });
  return pool;
}

}  // namespace

void* cuda_allocate(std::size_t bytes, const Stream& stream) {
  if (bytes == 0) return nullptr;
  const Device device = stream.device();
  pool(device);
  void* block = nullptr;
  cudaError_t error = cudaMallocAsync(&block, bytes, stream.handle());
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    cuda_empty_cache(device);
    error = cudaMallocAsync(&block, bytes, stream.handle());
  }
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    std::size_t free = 0, total = 0;
    const DeviceGuard guard(device);
    LOCKSTEP_CUDA_CHECK(cudaMemGetInfo(&free, &total));
    fail<OutOfMemoryError>("allocate", "expected {} bytes to be available on {}, which has {} of {} free; in use: {}",
                           bytes, to_string(device), free, total, memory_summary(device));
  }
  LOCKSTEP_CUDA_CHECK(error);
  usage(device).add(static_cast<std::int64_t>(bytes));
  return block;
}

void cuda_deallocate(void* block, std::size_t bytes, const Stream& stream) noexcept {
  if (!block) return;
  usage(stream.device()).add(-static_cast<std::int64_t>(bytes));
  LOCKSTEP_CUDA_WARN(cudaFreeAsync(block, stream.handle()));
}

MemoryStats cuda_memory_stats(Device device) {
  MemoryStats stats;
  stats.live = usage(device).live.load(std::memory_order_relaxed);
  stats.peak = usage(device).peak.load(std::memory_order_relaxed);
  std::uint64_t reserved = 0, used = 0;
  LOCKSTEP_CUDA_CHECK(cudaMemPoolGetAttribute(pool(device), cudaMemPoolAttrReservedMemCurrent, &reserved));
  LOCKSTEP_CUDA_CHECK(cudaMemPoolGetAttribute(pool(device), cudaMemPoolAttrUsedMemCurrent, &used));
  stats.cached = static_cast<std::int64_t>(reserved - std::min(used, reserved));
  return stats;
}

void cuda_reset_peak(Device device) {
  usage(device).peak.store(usage(device).live.load(std::memory_order_relaxed), std::memory_order_relaxed);
}

void cuda_empty_cache(Device device) {
  synchronize(device);  // what is freed but still to be used by queued work would stay
  LOCKSTEP_CUDA_CHECK(cudaMemPoolTrimTo(pool(device), 0));
}

void copy_bytes(std::size_t bytes, const void* source, Device from, void* target, Device to) {
  if (bytes == 0) return;
  if (from == kCpu && to == kCpu) {
    std::memcpy(target, source, bytes);
  } else if (from == to || from == kCpu) {
    const cudaMemcpyKind kind = from == to ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice;
    LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(target, source, bytes, kind, current_stream(to).handle()));
  } else if (to == kCpu) {
    const Stream stream = current_stream(from);
    LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToHost, stream.handle()));
    stream.synchronize();
  } else {
    const Stream giving = current_stream(from), taking = current_stream(to);
    taking.wait(Event(giving));
    LOCKSTEP_CUDA_CHECK(cudaMemcpyPeerAsync(target, to.index, source, from.index, bytes, taking.handle()));
    giving.wait(Event(taking));  // so that what comes next there may overwrite or free the source
  }
}

void* pinned_allocate(std::size_t bytes) {
  LOCKSTEP_CHECK(cuda_device_count() > 0, DeviceError, "empty_pinned", "expected a CUDA device, found none");
  void* block = nullptr;
  if (bytes > 0) LOCKSTEP_CUDA_CHECK(cudaMallocHost(&block, bytes));
  return block;
}

void pinned_deallocate(void* block) noexcept {
  if (block) LOCKSTEP_CUDA_WARN(cudaFreeHost(block));
}

}  // namespace lockstep::detail
