// Checks of calls into the CUDA runtime. Internal: needs <cuda_runtime.h>, the toolkit's or the emulation's.
#pragma once

#include <cuda_runtime.h>

namespace lockstep::detail {

/// Throws OutOfMemoryError for a failed allocation, else DeviceError, naming `call`, the error, `file` and `line`.
[[noreturn]] void throw_cuda_error(cudaError_t error, const char* call, const char* file, int line);
/// Says the same on standard error, for destructors.
void print_cuda_error(cudaError_t error, const char* call, const char* file, int line) noexcept;

}  // namespace lockstep::detail

/// Throws unless `call` returns cudaSuccess.
#define LOCKSTEP_CUDA_CHECK(call)                                                           \
  do {                                                                                      \
    if (const cudaError_t lockstep_cuda_error = (call); lockstep_cuda_error != cudaSuccess) \
      ::lockstep::detail::throw_cuda_error(lockstep_cuda_error, #call, __FILE__, __LINE__); \
  } while (false)

/// Prints unless `call` returns cudaSuccess: where nothing may be thrown.
#define LOCKSTEP_CUDA_WARN(call)                                                            \
  do {                                                                                      \
    if (const cudaError_t lockstep_cuda_error = (call); lockstep_cuda_error != cudaSuccess) \
      ::lockstep::detail::print_cuda_error(lockstep_cuda_error, #call, __FILE__, __LINE__); \
  } while (false)
