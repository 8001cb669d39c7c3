// The runtime API: allocation of device and pinned memory.
#include <algorithm>

#include <lockstep/core/base/check.h>
#include <lockstep/kernels/cuda/emulation/pinned.h>
#include <lockstep/kernels/cuda/emulation/runtime.h>

using namespace lockstep::emulation;

namespace {

void* allocate(Emulator& e, Lock& lock, DeviceState& device, std::size_t bytes, const std::string& made_by) {
  if (void* pointer = device.arena.allocate(bytes, made_by)) return pointer;
  // Queued frees may give memory back.
  e.finish_device(lock, device.index);
  if (device.fault) throw Fault(*device.fault);
  device.arena.purge(0);
  void* pointer = device.arena.allocate(bytes, made_by);
  if (!pointer) {
    throw Fault{cudaErrorMemoryAllocation,
                fmt::format("out of memory: {} bytes asked for, {} of {} bytes of cuda:{} in use", bytes,
                            device.arena.used(), device.arena.limit(), device.index)};
  }
  return pointer;
}

/// Makes the allocation known as an operation of the stream: its use elsewhere needs an order to it.
void stamp(Emulator& e, Stream& stream, const Arena& arena, void* pointer, std::size_t bytes, std::string name) {
  const std::uint64_t number = e.take_number(stream);
  const std::uint64_t interval = e.history.next_interval();
  e.history.add({interval, stream.number, number, std::move(name)});
  const std::size_t first = arena.offset_of(pointer) / kCellBytes;
  std::fill_n(arena.cells() + first, (bytes + kCellBytes - 1) / kCellBytes, Cell{record_of(interval) | 0xf, 0});
}

struct FreeTarget {
  DeviceState& device;
  Allocation& allocation;
};

FreeTarget find_allocation(Emulator& e, void* pointer) {
  DeviceState* device = e.device_of(pointer);
  Allocation* allocation = device ? device->arena.find_start(pointer) : nullptr;
  if (!allocation || allocation->free_queued) {
    throw Fault{cudaErrorInvalidValue,
                allocation || (device && device->arena.find(pointer))
                    ? fmt::format("freed twice, or not its first byte: {}", device->arena.describe(pointer))
                    : "freed memory that no allocation gave out"};
  }
  return {*device, *allocation};
}

DeviceState& device_of_pool(cudaMemPool_t pool) { return *reinterpret_cast<DeviceState*>(pool); }

}  // namespace

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  return api([&](Emulator& e, Lock& lock) {
    DeviceState& device = healthy_device(e);
    *pointer = bytes == 0 ? nullptr : allocate(e, lock, device, bytes, "cudaMalloc");
    return cudaSuccess;
  });
}

cudaError_t cudaFree(void* pointer) {
  if (!pointer) return cudaSuccess;
  return api([&](Emulator& e, Lock& lock) {
    auto [device, allocation] = find_allocation(e, pointer);
    allocation.free_queued = true;
    e.finish_device(lock, device.index);
    device.arena.release(pointer, "cudaFree");
    return result_of(device);
  });
}

cudaError_t cudaMallocAsync(void** pointer, std::size_t bytes, cudaStream_t handle) {
  return api([&](Emulator& e, Lock& lock) {
    const auto stream = stream_of(e, handle);
    DeviceState& device = e.device(stream->device);
    *pointer = nullptr;
    if (bytes == 0) return cudaSuccess;
    const std::string name = "cudaMallocAsync on " + Emulator::name_of(*stream);
    *pointer = allocate(e, lock, device, bytes, name);
    stamp(e, *stream, device.arena, *pointer, bytes, name);
    return cudaSuccess;
  });
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t handle) {
  if (!pointer) return cudaSuccess;
  return api([&](Emulator& e, Lock&) {
    auto stream = e.find(handle);
    if (!stream) stream = stream_of(e, handle);  // throws; but a device with an error still takes its memory back
    auto [device, allocation] = find_allocation(e, pointer);
    allocation.free_queued = true;
    Operation& operation = e.enqueue(*stream, "cudaFreeAsync", [&e, &device, pointer](const Operation& o) {
      const std::size_t bytes = device.arena.find_start(pointer)->bytes;
      try {
        if (!device.fault) {
          Checker checker(e.history, o.name);
          checker.begin(o.clock);
          Region region = region_of(device);
          checker.check_unused(region, device.arena.offset_of(pointer), bytes);
        }
      } catch (const Fault&) {
        device.arena.release(pointer, o.name);
        throw;
      }
      device.arena.release(pointer, o.name);
    });
    operation.always_runs = true;
    return result_of(device);
  });
}

cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned) {
  return api([&](Emulator&, Lock&) {
    *pointer = bytes == 0 ? nullptr : PinnedMemory::get().allocate(bytes);
    return *pointer || bytes == 0 ? cudaSuccess : set_error(cudaErrorMemoryAllocation);
  });
}

cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) {
  return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* pointer) {
  if (!pointer) return cudaSuccess;
  return api([&](Emulator&, Lock&) {
    return PinnedMemory::get().release(pointer)
               ? cudaSuccess
               : set_error(cudaErrorInvalidValue, "freed pinned memory that no allocation gave out");
  });
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
  return api([&](Emulator& e, Lock&) {
    const Arena& arena = healthy_device(e).arena;
    *total_bytes = arena.limit();
    *free_bytes = arena.limit() - std::min(arena.used(), arena.limit());
    return cudaSuccess;
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  return api([&](Emulator& e, Lock&) {
    void* address = const_cast<void*>(pointer);
    if (DeviceState* device = e.device_of(pointer); device && device->arena.find(pointer)) {
      *attributes = {cudaMemoryTypeDevice, device->index, address, nullptr};
    } else if (PinnedMemory::get().contains(pointer)) {
      *attributes = {cudaMemoryTypeHost, current_device(), address, address};
    } else {
      *attributes = {cudaMemoryTypeUnregistered, -1, nullptr, address};
    }
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  return api([&](Emulator& e, Lock&) {
    if (device < 0 || device >= static_cast<int>(e.devices.size())) return set_error(cudaErrorInvalidDevice);
    *pool = reinterpret_cast<cudaMemPool_t>(&e.device(device));
    return cudaSuccess;
  });
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  return api([&](Emulator&, Lock&) {
    const DeviceState& device = device_of_pool(pool);
    auto& number = *static_cast<std::uint64_t*>(value);
    switch (attribute) {
      case cudaMemPoolAttrReleaseThreshold: number = device.release_threshold; break;
      case cudaMemPoolAttrReservedMemCurrent:
      case cudaMemPoolAttrUsedMemCurrent: number = device.arena.used(); break;
      case cudaMemPoolAttrReservedMemHigh:
      case cudaMemPoolAttrUsedMemHigh: number = device.arena.peak(); break;
    }
    return cudaSuccess;
  });
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  return api([&](Emulator&, Lock&) {
    DeviceState& device = device_of_pool(pool);
    const auto number = *static_cast<const std::uint64_t*>(value);
    switch (attribute) {
      case cudaMemPoolAttrReleaseThreshold: device.release_threshold = number; return cudaSuccess;
      case cudaMemPoolAttrReservedMemHigh:
      case cudaMemPoolAttrUsedMemHigh:
        if (number != 0) break;  // may only be reset
        device.arena.reset_peak();
        return cudaSuccess;
      default: break;
    }
    return set_error(cudaErrorInvalidValue);
  });
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, std::size_t) {
  return api([&](Emulator&, Lock&) {
    device_of_pool(pool).arena.purge(0);
    return cudaSuccess;
  });
}
