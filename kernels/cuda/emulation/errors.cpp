// Error codes: names, texts, and each thread's last error.
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include <lockstep/kernels/cuda/emulation/fault.h>

namespace lockstep::emulation {
namespace {

struct LastError {
  cudaError_t code = cudaSuccess;
  cudaError_t explained = cudaSuccess;
  const char* text = nullptr;  // explains `explained`
};
thread_local LastError t_last;

/// Texts live as long as the program, since callers keep pointers to them.
const char* keep(std::string text) {
  static std::mutex& mutex = *new std::mutex;
  static auto& texts = *new std::set<std::string>;
  const std::lock_guard lock(mutex);
  return texts.insert(std::move(text)).first->c_str();
}

struct ErrorText {
  cudaError_t code;
  const char *name, *text;
};
constexpr ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "illegal memory access"},
    {cudaErrorPeerAccessAlreadyEnabled, "cudaErrorPeerAccessAlreadyEnabled", "peer access is already enabled"},
    {cudaErrorPeerAccessNotEnabled, "cudaErrorPeerAccessNotEnabled", "peer access is not enabled"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "not supported"},
};

const ErrorText& find(cudaError_t code) {
  for (const ErrorText& e : kErrors) {
    if (e.code == code) return e;
  }
  static constexpr ErrorText kUnknown{cudaSuccess, "cudaErrorUnknown", "unknown error"};
  return kUnknown;
}

}  // namespace

cudaError_t set_error(cudaError_t code, std::string message) {
  t_last.code = t_last.explained = code;
  t_last.text = message.empty() ? nullptr : keep(std::move(message));
  return code;
}

}  // namespace lockstep::emulation

using lockstep::emulation::t_last;

const char* cudaGetErrorName(cudaError_t error) { return lockstep::emulation::find(error).name; }

const char* cudaGetErrorString(cudaError_t error) {
  return t_last.text && t_last.explained == error ? t_last.text : lockstep::emulation::find(error).text;
}

cudaError_t cudaGetLastError() { return std::exchange(t_last.code, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return t_last.code; }
