// Where a tensor lives.
#pragma once

#include <string>
#include <string_view>

#include <lockstep/core/base/cuda.h>

namespace lockstep {

/// A place that holds memory and computes: the CPU, or one CUDA GPU.
struct Device {
  /// The kinds there are.
  enum class Type : unsigned char { cpu, cuda };

  Type type = Type::cpu;
  int index = 0;

  friend bool operator==(const Device&, const Device&) = default;
};

inline constexpr Device kCpu{};

/// Where a kernel runs is its first argument, so that one call serves every device: on the calling thread and those of
/// its pool, at once, or (a CudaStream) queued on a stream of a CUDA device.
struct Cpu {};
inline constexpr Cpu kOnCpu{};

/// Reads "cpu", "cuda" (device 0) or "cuda:N"; "auto" is the best device of this machine. Throws ValueError on other
/// text and DeviceError for a device that this build or machine does not have.
Device parse_device(std::string_view text);

/// "cpu" or "cuda:N".
std::string to_string(Device device);

/// Number of CUDA devices that this build can use on this machine; 0 when built without CUDA.
int cuda_device_count();

}  // namespace lockstep
