// The runtime API: copies and fills.
#include <cstring>
#include <vector>

#include <lockstep/core/base/check.h>
#include <lockstep/kernels/cuda/emulation/pinned.h>
#include <lockstep/kernels/cuda/emulation/runtime.h>

using namespace lockstep::emulation;

namespace {

/// One end of a copy.
struct Place {
  DeviceState* device = nullptr;  // null for the host
  bool pinned = false;
};

Place place_of(Emulator& e, const void* pointer, std::size_t bytes) {
  Place place;
  place.device = e.device_of(pointer);
  place.pinned = !place.device && PinnedMemory::get().contains(pointer);
  if (!place.device) return place;
  Arena& arena = place.device->arena;
  if (!arena.find(pointer) || !arena.find(static_cast<const std::byte*>(pointer) + bytes - 1)) {
    throw Fault{cudaErrorInvalidValue,
                fmt::format("{} bytes from here on are not inside an allocation: {}", bytes, arena.describe(pointer))};
  }
  return place;
}

std::byte* view(const DeviceState& device, const void* pointer) {
  return device.arena.view(device.arena.offset_of(pointer));
}

void copy_on_device(Emulator& e, const Operation& o, DeviceState& to_device, void* to, DeviceState& from_device,
                    const void* from, std::size_t bytes) {
  Checker checker(e.history, o.name);
  checker.begin(o.clock);
  checker.device_memory = region_of(to_device);
  if (&to_device != &from_device) checker.peers.push_back(region_of(from_device));
  checker.check_range(from, bytes, Access::read, false);  // what is uninitialised stays so
  checker.check_range(to, bytes, Access::write, false);
  std::memmove(view(to_device, to), view(from_device, from), bytes);
  std::memmove(to_device.arena.status() + to_device.arena.offset_of(to),
               from_device.arena.status() + from_device.arena.offset_of(from), bytes);
}

void copy_to_device(Emulator& e, const Operation& o, DeviceState& device, void* to, const void* from,
                    std::size_t bytes) {
  Checker checker(e.history, o.name);
  checker.begin(o.clock);
  checker.device_memory = region_of(device);
  checker.check_range(to, bytes, Access::write, false);
  std::memcpy(view(device, to), from, bytes);
}

void copy_to_host(Emulator& e, const Operation& o, void* to, DeviceState& device, const void* from, std::size_t bytes) {
  Checker checker(e.history, o.name);
  checker.begin(o.clock);
  checker.device_memory = region_of(device);
  checker.check_range(from, bytes, Access::read, true);
  std::memcpy(to, view(device, from), bytes);
}

/// Throws unless what was at `from` when the copy was queued is there still.
void require_unchanged(const Operation& o, const void* from, std::size_t bytes, std::uint64_t hash) {
  if (!PinnedMemory::get().finish_read(from, bytes, hash)) {
    throw Fault{
        cudaErrorLaunchFailure,
        fmt::format("{}: the host changed its pinned source of {} bytes before the copy had run", o.name, bytes)};
  }
}

cudaError_t copy(Emulator& e, Lock& lock, void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                 const std::shared_ptr<Stream>& stream) {
  const Place target = place_of(e, to, bytes), source = place_of(e, from, bytes);
  const cudaMemcpyKind actual = target.device   ? source.device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice
                                : source.device ? cudaMemcpyDeviceToHost
                                                : cudaMemcpyHostToHost;
  if (kind != cudaMemcpyDefault && kind != actual) {
    return set_error(cudaErrorInvalidValue, "the copy's kind does not fit where its pointers point to");
  }
  auto& pinned = PinnedMemory::get();
  const std::string name = fmt::format("cudaMemcpyAsync of {} bytes", bytes);
  switch (actual) {
    case cudaMemcpyDeviceToDevice:
      e.enqueue(*stream, name, [&e, to, from, bytes, target, source](const Operation& o) {
        copy_on_device(e, o, *target.device, to, *source.device, from, bytes);
      });
      return cudaSuccess;
    case cudaMemcpyHostToDevice: {
      if (source.pinned) {
        const std::uint64_t hash = pinned.expect_read(from, bytes);
        Operation& operation = e.enqueue(*stream, name, [&e, to, from, bytes, target, hash](const Operation& o) {
          require_unchanged(o, from, bytes, hash);
          if (!target.device->fault) copy_to_device(e, o, *target.device, to, from, bytes);
        });
        operation.always_runs = true;  // the pinned memory must be given free
        return cudaSuccess;
      }
      // Pageable memory is copied aside before the call returns.
      const auto* begin = static_cast<const std::byte*>(from);
      e.enqueue(*stream, name, [&e, to, target, staged = std::vector(begin, begin + bytes)](const Operation& o) {
        copy_to_device(e, o, *target.device, to, staged.data(), staged.size());
      });
      return cudaSuccess;
    }
    case cudaMemcpyDeviceToHost: {
      if (target.pinned) {
        pinned.expect_write(to, bytes);
        watch_host_accesses();
        Operation& operation = e.enqueue(*stream, name, [&e, to, from, bytes, source](const Operation& o) {
          PinnedMemory::get().finish_write(to, bytes);
          if (!source.device->fault) copy_to_host(e, o, to, *source.device, from, bytes);
        });
        operation.always_runs = true;
        return cudaSuccess;
      }
      e.enqueue(*stream, name, [&e, to, from, bytes, source](const Operation& o) {
        copy_to_host(e, o, to, *source.device, from, bytes);
      });
      e.finish(lock, stream);
      return result_of(e.device(stream->device));
    }
    default:
      e.finish(lock, stream);
      std::memmove(to, from, bytes);
      return result_of(e.device(stream->device));
  }
}

}  // namespace

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t handle) {
  return api([&](Emulator& e, Lock& lock) {
    const auto stream = stream_of(e, handle);
    return bytes == 0 ? cudaSuccess : copy(e, lock, to, from, bytes, kind, stream);
  });
}

cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, std::size_t bytes,
                                cudaStream_t handle) {
  return api([&](Emulator& e, Lock& lock) {
    const auto stream = stream_of(e, handle);
    if (bytes == 0) return cudaSuccess;
    const Place target = place_of(e, to, bytes), source = place_of(e, from, bytes);
    if (!target.device || target.device->index != to_device || !source.device || source.device->index != from_device) {
      return set_error(cudaErrorInvalidValue, "a peer copy's pointer is not of the device that is named for it");
    }
    return copy(e, lock, to, from, bytes, cudaMemcpyDeviceToDevice, stream);
  });
}

cudaError_t cudaMemsetAsync(void* pointer, int value, std::size_t bytes, cudaStream_t handle) {
  return api([&](Emulator& e, Lock&) {
    const auto stream = stream_of(e, handle);
    if (bytes == 0) return cudaSuccess;
    const Place target = place_of(e, pointer, bytes);
    if (!target.device) return set_error(cudaErrorInvalidValue, "a fill of memory that is no device's");
    e.enqueue(*stream, fmt::format("cudaMemsetAsync of {} bytes", bytes),
              [&e, pointer, value, bytes, target](const Operation& o) {
                Checker checker(e.history, o.name);
                checker.begin(o.clock);
                checker.device_memory = region_of(*target.device);
                checker.check_range(pointer, bytes, Access::write, false);
                std::memset(view(*target.device, pointer), value, bytes);
              });
    return cudaSuccess;
  });
}
