// The runtime API: devices and their properties.
#include <cstdio>

#include <lockstep/core/base/check.h>
#include <lockstep/kernels/cuda/emulation/limits.h>
#include <lockstep/kernels/cuda/emulation/runtime.h>

namespace lockstep::emulation {

std::shared_ptr<Stream> stream_of(Emulator& emulator, cudaStream_t handle) {
  auto stream = emulator.find(handle);
  if (!stream) {
    // Null and the small numbers are the default streams, shared by all and ordered with all: easy to use by mistake.
    const bool is_default = reinterpret_cast<std::uintptr_t>(handle) <= 2;
    throw Fault{cudaErrorInvalidResourceHandle, is_default ? "the default stream is never used here: pass a stream"
                                                           : "not a stream, or one destroyed before"};
  }
  const DeviceState& device = emulator.device(stream->device);
  if (device.fault) throw Fault(*device.fault);
  return stream;
}

DeviceState& healthy_device(Emulator& emulator) {
  if (emulator.devices.empty()) throw Fault{cudaErrorInvalidDevice, "there is no device"};
  DeviceState& device = emulator.device(current_device());
  if (device.fault) throw Fault(*device.fault);
  return device;
}

cudaError_t result_of(const DeviceState& device) {
  return device.fault ? set_error(device.fault->code, device.fault->message) : cudaSuccess;
}

Region region_of(DeviceState& device) {
  const Arena& arena = device.arena;
  return {reinterpret_cast<std::uintptr_t>(arena.base()), Arena::kCapacity, arena.status(), arena.cells(),
          &device.arena};
}

namespace {

void require_device(const Emulator& emulator, int device) {
  if (device < 0 || device >= static_cast<int>(emulator.devices.size())) {
    throw Fault{cudaErrorInvalidDevice, fmt::format("device {} of {}", device, emulator.devices.size())};
  }
}

}  // namespace
}  // namespace lockstep::emulation

using namespace lockstep::emulation;

cudaError_t cudaGetDeviceCount(int* count) {
  return api([&](Emulator& e, Lock&) {
    *count = static_cast<int>(e.devices.size());
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return api([&](Emulator& e, Lock&) {
    require_device(e, device);
    current_device() = device;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDevice(int* device) {
  *device = current_device();
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return api([&](Emulator& e, Lock&) {
    require_device(e, device);
    switch (attribute) {
      case cudaDevAttrMaxThreadsPerBlock: *value = kThreadsPerBlock; break;
      case cudaDevAttrMaxSharedMemoryPerBlock: *value = static_cast<int>(kSharedBytesWithoutAttribute); break;
      case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(kSharedBytes); break;
      case cudaDevAttrWarpSize: *value = 32; break;
      case cudaDevAttrMultiProcessorCount: *value = kMultiprocessors; break;
      case cudaDevAttrMaxThreadsPerMultiProcessor: *value = kThreadsPerMultiprocessor; break;
      case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
      case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
      case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
    }
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return api([&](Emulator& e, Lock&) {
    require_device(e, device);
    *properties = {};
    std::snprintf(properties->name, sizeof properties->name, "emulated device %d", device);
    properties->totalGlobalMem = e.device(device).arena.limit();
    properties->sharedMemPerBlock = kSharedBytesWithoutAttribute;
    properties->sharedMemPerBlockOptin = kSharedBytes;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = kThreadsPerBlock;
    for (int i = 0; i < 3; ++i) {
      properties->maxThreadsDim[i] = static_cast<int>(kBlockSize[i]);
      properties->maxGridSize[i] = static_cast<int>(kGridSize[i]);
    }
    properties->major = 9;
    properties->multiProcessorCount = kMultiprocessors;
    properties->maxThreadsPerMultiProcessor = kThreadsPerMultiprocessor;
    properties->l2CacheSize = 50 << 20;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceSynchronize() {
  return api([](Emulator& e, Lock& lock) {
    DeviceState& device = healthy_device(e);
    e.finish_device(lock, device.index);
    return result_of(device);
  });
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can_access, int device, int peer) {
  return api([&](Emulator& e, Lock&) {
    require_device(e, device);
    require_device(e, peer);
    *can_access = device != peer;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
  return api([&](Emulator& e, Lock&) {
    require_device(e, peer);
    DeviceState& device = healthy_device(e);
    if (peer == device.index) return set_error(cudaErrorInvalidDevice);
    return device.peers.insert(peer).second ? cudaSuccess : set_error(cudaErrorPeerAccessAlreadyEnabled);
  });
}

cudaError_t cudaDeviceDisablePeerAccess(int peer) {
  return api([&](Emulator& e, Lock& lock) {
    DeviceState& device = healthy_device(e);
    e.finish_device(lock, device.index);
    return device.peers.erase(peer) == 1 ? cudaSuccess : set_error(cudaErrorPeerAccessNotEnabled);
  });
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
