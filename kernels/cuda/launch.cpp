// Names the kernel of a refused launch.
#include <cxxabi.h>

#include <cstdlib>
#include <memory>
#include <string>

#include <cuda_runtime.h>

#include <lockstep/core/base/check.h>

namespace lockstep::cuda::detail {
namespace {

std::string kernel_name(const void* kernel) {
  const char* mangled = nullptr;
  if (cudaFuncGetName(&mangled, kernel) != cudaSuccess || !mangled) return "a kernel";
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> name(abi::__cxa_demangle(mangled, nullptr, nullptr, &status), std::free);
  return name ? name.get() : mangled;
}

}  // namespace

[[noreturn]] void throw_launch_error(cudaError_t error, const void* kernel, const cudaLaunchConfig_t& config) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  (void)cudaGetLastError();  // reported here, so that no later call reports it again
  const std::string name = kernel_name(kernel);
  throw DeviceError(
      "launch",
      fmt::format("expected {} to launch with grid ({}, {}, {}), block ({}, {}, {}) and {} bytes of shared memory, got "
                  "{}: {}",
                  name, grid.x, grid.y, grid.z, block.x, block.y, block.z, config.dynamicSmemBytes,
                  cudaGetErrorName(error), cudaGetErrorString(error)));
}

}  // namespace lockstep::cuda::detail
