// Weight files in the safetensors format (github.com/huggingface/safetensors), which Python, Rust and JavaScript
// libraries read and write.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include <lockstep/core/io/state_dict.h>

namespace lockstep {

/// Free text stored with the tensors, e.g. {"format", "pt"}.
using SafetensorsMetadata = std::map<std::string, std::string>;

/// Writes `tensors` to `path`: the bytes are those of the reference Python writer for equal content (tensors ordered by
/// dtype, then name), row-major whatever the layout in memory. All or nothing, also through a crash or a full disk: the
/// file is written beside `path` with ".tmp" added, synced and renamed over it; a symbolic link is followed. Throws
/// FileError with the path and the system's reason, ValueError for an undefined tensor or a name that the format cannot
/// hold.
void save_safetensors(const std::filesystem::path& path, const StateDict& tensors,
                      const SafetensorsMetadata& metadata = {});

/// Reads all tensors of a file, in the order of their data, row-major on the CPU; `metadata`, if given, receives the
/// free text. The file is not trusted: everything in it is checked before memory is allocated. Throws FileError naming
/// the file and what is wrong with it, DTypeError for a tensor whose dtype is none of float32, float64, float16,
/// bfloat16, int64, uint8.
StateDict load_safetensors(const std::filesystem::path& path, SafetensorsMetadata* metadata = nullptr);

}  // namespace lockstep
