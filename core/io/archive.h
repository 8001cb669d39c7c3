// Unpacking .tar.gz archives from sources that nobody vouches for.
#pragma once

#include <cstdint>
#include <filesystem>

namespace lockstep {

/// How to unpack, and what to refuse.
struct UnpackOptions {
  int strip_components = 0;                         ///< leading folders to leave out of each name, as in `tar`
  std::int64_t max_bytes = std::int64_t{16} << 30;  ///< of all files together, unpacked
  std::int64_t max_entries = 100'000;
};

/// Unpacks a gzip-compressed tar archive (of one gzip member, whose checksum is checked) as the new folder
/// `destination`. Only plain files and folders are taken: absolute names, names with `..`, links, devices, names used
/// twice, and more than the limits allow are refused (FileError naming the archive and the entry), as is a damaged or
/// cut archive. Owners and permissions are not restored.
///
/// The work is done in `destination` + ".part", renamed at the end: `destination` is whole or not there. Does nothing
/// if it is there; several processes may ask at once.
void unpack_tar_gz(const std::filesystem::path& archive, const std::filesystem::path& destination,
                   const UnpackOptions& options = {});

}  // namespace lockstep
