#include <lockstep/core/base/cuda_check.h>

#include <cstdio>
#include <string_view>

#include <lockstep/core/base/check.h>

namespace lockstep::detail {
namespace {

/// The file's name without its folders, which are those of the machine that built it.
std::string_view base_name(std::string_view file) { return file.substr(file.rfind('/') + 1); }

std::string message(cudaError_t error, const char* call, const char* file, int line) {
  return fmt::format("expected {} to succeed ({}:{}), got {}: {}", call, base_name(file), line, cudaGetErrorName(error),
                     cudaGetErrorString(error));
}

}  // namespace

void throw_cuda_error(cudaError_t error, const char* call, const char* file, int line) {
  (void)cudaGetLastError();  // reported here, so that no later call reports it again
  if (error == cudaErrorMemoryAllocation) throw OutOfMemoryError("cuda", message(error, call, file, line));
  throw DeviceError("cuda", message(error, call, file, line));
}

void print_cuda_error(cudaError_t error, const char* call, const char* file, int line) noexcept {
  (void)cudaGetLastError();
  try {
    std::fprintf(stderr, "[cuda] %s\n", message(error, call, file, line).c_str());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "[cuda] %s failed\n", call);
  }
}

}  // namespace lockstep::detail
