// SHA-256 (FIPS 180-4): checksums of files and weights.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include <lockstep/core/io/state_dict.h>

namespace lockstep {

/// A checksum in the making.
class Sha256 {
 public:
  void update(const void* data, std::size_t bytes);  ///< goes on with these bytes
  /// The checksum of everything so far as 64 lower-case hexadecimal digits. The object can go on.
  std::string hex() const;

 private:
  std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> block_{};
  std::uint64_t bytes_ = 0;
};

/// The checksum of all values of `state`, in its order and the memory order of each tensor, copied to the CPU first:
/// two runs with the same one ended with the same bits. Names, shapes and dtypes are not part of it.
std::string sha256_of(const StateDict& state);

}  // namespace lockstep
