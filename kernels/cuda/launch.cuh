// The one way to launch a kernel. Kernels are `__global__ void x_kernel(parameters by value)`; one that uses shared
// memory gathers it in one trivial struct and is launched by `launch<Shared>(…)`.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

#include <lockstep/core/base/cuda.h>

namespace lockstep::cuda {

/// Shape of a launch, in blocks and in threads per block, and the stream to launch on, of the current device.
struct LaunchConfig {
  dim3 grid;
  dim3 block;
  CudaStream stream;
};

/// What kernels without shared memory have for `Shared`.
struct NoShared {};

namespace detail {

[[noreturn]] void throw_launch_error(cudaError_t error, const void* kernel, const cudaLaunchConfig_t& config);

inline constexpr std::size_t kSharedWithoutAttribute = std::size_t{48} << 10;

}  // namespace detail

/// Launches `kernel(arguments...)` with sizeof(Shared) bytes of shared memory. Returns at once; throws DeviceError
/// naming the kernel and the geometry if the launch is refused. Empty grids are refused too: callers skip empty work,
/// as launch_elements does.
template <class Shared = NoShared, class... Parameters, class... Arguments>
void launch(const LaunchConfig& config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  static_assert(std::is_trivially_copyable_v<Shared>, "shared memory is not constructed");
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "parameters are copied as bytes");
  constexpr std::size_t kSharedBytes = std::is_same_v<Shared, NoShared> ? 0 : sizeof(Shared);
  cudaLaunchConfig_t launch_config{};
  launch_config.gridDim = config.grid;
  launch_config.blockDim = config.block;
  launch_config.dynamicSmemBytes = kSharedBytes;
  launch_config.stream = config.stream;
  cudaError_t error = cudaSuccess;
  if constexpr (kSharedBytes > detail::kSharedWithoutAttribute) {
    error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(kSharedBytes));
  }
  if (error == cudaSuccess) error = cudaLaunchKernelEx(&launch_config, kernel, static_cast<Parameters>(arguments)...);
  if (error != cudaSuccess) {
    detail::throw_launch_error(error, reinterpret_cast<const void*>(kernel), launch_config);
  }
}

/// The shared memory of the calling thread's block; uninitialised at first. Kernel code.
template <class Shared>
__device__ inline Shared& block_shared() {
  static_assert(alignof(Shared) <= 128);
  extern __shared__ unsigned char lockstep_block_shared[];
  return *reinterpret_cast<Shared*>(lockstep_block_shared);
}

inline constexpr int kElementThreads = 256;     ///< per block, in launches of launch_elements
inline constexpr int kElementBlocks = 1 << 14;  ///< at most

/// Blocks of `threads` threads that give each of `n` ≥ 1 items a thread, but at most `limit`: then threads loop.
inline unsigned block_count(std::int64_t n, std::int64_t threads, std::int64_t limit = kElementBlocks) {
  return static_cast<unsigned>(std::min((n - 1) / threads + 1, limit));
}

/// Launches `kernel(n, arguments...)` for any n ≥ 0, with about a thread per item; nothing for n = 0. The kernel loops:
/// `for (std::int64_t i = first_element(); i < n; i += element_stride())`.
template <class... Parameters, class... Arguments>
void launch_elements(std::int64_t n, CudaStream stream, void (*kernel)(std::int64_t, Parameters...),
                     Arguments&&... arguments) {
  if (n == 0) return;
  launch({.grid = block_count(n, kElementThreads), .block = kElementThreads, .stream = stream}, kernel, n,
         arguments...);
}

/// The first item of the calling thread in a kernel of launch_elements.
__device__ inline std::int64_t first_element() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
/// From one item of a thread to its next.
__device__ inline std::int64_t element_stride() { return static_cast<std::int64_t>(gridDim.x) * blockDim.x; }

}  // namespace lockstep::cuda
