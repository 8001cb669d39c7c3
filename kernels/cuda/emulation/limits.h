// The limits of an emulated device: those of compute capability 9.0.
#pragma once

#include <cstddef>

namespace lockstep::emulation {

inline constexpr unsigned kThreadsPerBlock = 1024;
inline constexpr unsigned kBlockSize[3] = {1024, 1024, 64};
inline constexpr unsigned kGridSize[3] = {0x7fffffff, 65535, 65535};
inline constexpr std::size_t kSharedBytesWithoutAttribute = std::size_t{48} << 10;
inline constexpr std::size_t kSharedBytes = std::size_t{227} << 10;
inline constexpr int kMultiprocessors = 132;
inline constexpr int kThreadsPerMultiprocessor = 2048;

}  // namespace lockstep::emulation
