#include <lockstep/core/base/device.h>

#include <charconv>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/cuda_check.h>

namespace lockstep {

int cuda_device_count() {
  static const int count = [] {
    int found = 0;
    return cudaGetDeviceCount(&found) == cudaSuccess ? found : 0;  // fails where there is no driver
  }();
  return count;
}

Device parse_device(std::string_view text) {
  if (text == "cpu" || (text == "auto" && cuda_device_count() == 0)) return kCpu;
  if (text == "auto") return {Device::Type::cuda, 0};
  int index = 0;
  if (text != "cuda") {
    const bool prefixed = text.starts_with("cuda:");
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data() + (prefixed ? 5 : 0), end, index);
    LOCKSTEP_CHECK(prefixed && error == std::errc() && rest == end && index >= 0, ValueError, "parse_device",
                   "expected 'auto', 'cpu', 'cuda' or 'cuda:N', got '{}'", text);
  }
  LOCKSTEP_CHECK(index < cuda_device_count(), DeviceError, "parse_device",
                 "expected one of the {} CUDA devices that this build can use here, got '{}'", cuda_device_count(),
                 text);
  return {Device::Type::cuda, index};
}

std::string to_string(Device device) {
  return device.type == Device::Type::cpu ? "cpu" : fmt::format("cuda:{}", device.index);
}

}  // namespace lockstep
