// What Linux knows about the memory of this process.
#pragma once

#include <cstdlib>
#include <fstream>
#include <string>

/// A field of /proc/self/status in MiB: "VmHWM" is the peak of the resident memory, "VmRSS" what it is now.
inline double memory_mb(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.compare(0, field.size() + 1, field + ":") == 0)
      return std::strtod(line.c_str() + field.size() + 1, nullptr) / 1024.0;
  }
  return 0.0;
}
