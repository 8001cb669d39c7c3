// Fetching a file from the network.
#pragma once

#include <filesystem>
#include <string>

namespace lockstep {

/// What to expect of a download.
struct DownloadOptions {
  std::string sha256 = {};      ///< expected checksum in hexadecimal; empty: not checked
  bool progress = true;         ///< draw a progress bar
  double connect_timeout = 30;  ///< seconds to reach the server
  double stall_timeout = 30;    ///< seconds without a byte before giving up
};

/// Downloads `url` (https, http or file; redirects to https and http are followed) to `path`, whose folder is made if
/// missing. Does nothing if the file is there (and has the checksum, if one is given).
///
/// The bytes are collected in `path` + ".part", which is fsynced, checked and renamed when complete. If there is a
/// checksum, an interrupted download goes on where it stopped, in this call (a few attempts) or in a later one; a wrong
/// checksum is first answered by a fresh start. Several processes may ask for the same file: one downloads, the others
/// wait. Throws FileError with the url and the reason: no connection, no progress for `stall_timeout`, an HTTP error, a
/// wrong checksum, a disk that is full.
void download(const std::string& url, const std::filesystem::path& path, const DownloadOptions& options = {});

}  // namespace lockstep
