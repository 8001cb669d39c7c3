// What the functions of the emulated runtime API share.
#pragma once

#include <string>
#include <utility>

#include <lockstep/core/base/error.h>
#include <lockstep/kernels/cuda/emulation/access.h>
#include <lockstep/kernels/cuda/emulation/emulator.h>

namespace lockstep::emulation {

/// Runs the body of an API function under the lock; what it throws becomes an error code.
template <class Body>
cudaError_t api(Body body) {
  try {
    Emulator& emulator = Emulator::get();
    Lock lock(emulator.mutex);
    return body(emulator, lock);
  } catch (Fault& fault) {
    return set_error(fault.code, std::move(fault.message));
  } catch (const OutOfMemoryError& error) {
    return set_error(cudaErrorMemoryAllocation, error.what());
  }
}

/// The stream of this handle; throws Fault for one that is not (or the default stream, which we never use), and with
/// the error of its device if that has one.
std::shared_ptr<Stream> stream_of(Emulator& emulator, cudaStream_t handle);
/// The current device; throws Fault if it has an error.
DeviceState& healthy_device(Emulator& emulator);
/// What waiting for a device's work returns.
cudaError_t result_of(const DeviceState& device);
/// All of a device's memory.
Region region_of(DeviceState& device);

}  // namespace lockstep::emulation
