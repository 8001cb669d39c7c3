// Height and width of kernels, strides and paddings.
#pragma once

#include <cstdint>
#include <string>

#include <lockstep/core/ops.h>

namespace lockstep {

/// Height and width; one number stands for both. How it was given is remembered, since that is how PyTorch prints it.
struct Size2d : Pair {
  Size2d(std::int64_t both) : Pair{both, both}, single(true) {}             ///< height = width
  Size2d(std::int64_t height, std::int64_t width) : Pair{height, width} {}  ///< as they come

  bool single = false;
};

/// "3" or "(3, 1)", as it was given.
std::string to_string(const Size2d& size);

}  // namespace lockstep
