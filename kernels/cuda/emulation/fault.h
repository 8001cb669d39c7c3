// A fault that emulated work made: the error code that a GPU would answer, and what happened.
#pragma once

#include <string>

#include <cuda_runtime.h>

namespace lockstep::emulation {

/// Ends the queued operation that made it; the device answers `code` from then on. Never thrown through a kernel.
struct Fault {
  cudaError_t code;
  std::string message;
};

/// Makes `code` the calling thread's last error, explained by `message` where that is not empty, and returns it.
cudaError_t set_error(cudaError_t code, std::string message = {});

}  // namespace lockstep::emulation
