#include <lockstep/core/io/safetensors.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>
#include <system_error>
#include <tuple>
#include <unordered_set>
#include <vector>

#include <nlohmann/json.hpp>

#include <lockstep/core/base/check.h>

namespace lockstep {

static_assert(std::endian::native == std::endian::little, "the data of a safetensors file is read as it stands");

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kMetadataKey = "__metadata__";
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the reference reader's limit

struct DTypeCode {
  DType dtype;
  const char* code;
};
/// In the order in which the reference writer puts tensors.
constexpr DTypeCode kDTypes[] = {{DType::int64, "I64"},     {DType::float64, "F64"}, {DType::float32, "F32"},
                                 {DType::bfloat16, "BF16"}, {DType::float16, "F16"}, {DType::uint8, "U8"}};

std::size_t rank_of(DType dtype) {
  return static_cast<std::size_t>(std::ranges::find(kDTypes, dtype, &DTypeCode::dtype) - std::begin(kDTypes));
}

[[noreturn]] void fail_system(const char* op, const char* what, const fs::path& path, int error) {
  detail::fail<FileError>(op, "cannot {} '{}': {}", what, path.string(), std::generic_category().message(error));
}

/// An open file.
class File {
 public:
  File(const char* op, const char* what, const fs::path& path, int flags)
      : op_(op), path_(path), fd_(open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (fd_ < 0) fail_system(op, what, path, errno);
  }
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  void write(const void* data, std::size_t bytes) {
    const char* next = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t written = ::write(fd_, next, bytes);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) fail_system(op_, "write", path_, written < 0 ? errno : ENOSPC);
      next += written;
      bytes -= static_cast<std::size_t>(written);
    }
  }
  void read(void* data, std::size_t bytes) {
    char* next = static_cast<char*>(data);
    while (bytes > 0) {
      const ssize_t got = ::read(fd_, next, bytes);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail_system(op_, "read", path_, errno);
      LOCKSTEP_CHECK(got > 0, FileError, op_, "'{}' became shorter while it was read", path_.string());
      next += got;
      bytes -= static_cast<std::size_t>(got);
    }
  }
  void sync() {
    // Some file systems cannot sync a folder and say so with EINVAL.
    if (fsync(fd_) != 0 && errno != EINVAL) fail_system(op_, "sync", path_, errno);
  }
  /// Reports errors that only show here, as on network file systems.
  void close() {
    if (::close(std::exchange(fd_, -1)) != 0) fail_system(op_, "close", path_, errno);
  }
  struct stat status() const {
    struct stat status;
    if (fstat(fd_, &status) != 0) fail_system(op_, "read", path_, errno);
    return status;
  }

 private:
  const char* op_;
  fs::path path_;
  int fd_;
};

/// A file written beside `path` that takes its place in commit(), or goes away.
class ReplacementFile {
 public:
  ReplacementFile(const char* op, const fs::path& path)
      : op_(op),
        path_(resolve(path)),
        temporary_(path_.string() + ".tmp"),
        file_(std::in_place, op, "write", temporary_, O_WRONLY | O_CREAT | O_TRUNC) {}
  ~ReplacementFile() {
    if (file_) unlink(temporary_.c_str());
  }

  void write(const void* data, std::size_t bytes) { file_->write(data, bytes); }
  void commit() {
    file_->sync();
    file_->close();
    if (rename(temporary_.c_str(), path_.c_str()) != 0) fail_system(op_, "replace", path_, errno);
    file_.reset();
    // Without this a power cut could still bring the old folder entry back.
    const fs::path folder = path_.has_parent_path() ? path_.parent_path() : ".";
    File(op_, "open the folder", folder, O_RDONLY | O_DIRECTORY).sync();
  }

 private:
  /// Where a symbolic link points, so that not the link is replaced.
  static fs::path resolve(const fs::path& path) {
    std::error_code error;
    if (!fs::is_symlink(path, error)) return path;
    const fs::path target = fs::canonical(path, error);
    return error ? path : target;
  }

  const char* op_;
  fs::path path_, temporary_;
  std::optional<File> file_;
};

/// One tensor of a header.
struct Entry {
  std::string name;
  DType dtype = DType::float32;
  Shape shape;
  std::uint64_t begin = 0, end = 0;  // of the data section
};

/// Reads and checks headers; every complaint names the file.
class HeaderReader {
 public:
  explicit HeaderReader(const fs::path& path) : path_(path) {}

  /// The tensors in the order of their data, which fills `data_bytes` without hole or overlap.
  std::vector<Entry> read(const std::string& header, std::uint64_t data_bytes, SafetensorsMetadata* metadata) const {
    const json root = parse(header);
    std::vector<Entry> entries;
    for (const auto& [name, value] : root.items()) {
      if (name == kMetadataKey) {
        read_metadata(value, metadata);
      } else {
        entries.push_back(read_entry(name, value));
      }
    }
    std::ranges::sort(entries, {}, [](const Entry& entry) { return std::tuple(entry.begin, entry.end); });
    std::uint64_t position = 0;
    for (const Entry& entry : entries) {
      check(entry.begin == position, "the data of tensor '{}' starts at byte {}, expected {}", entry.name, entry.begin,
            position);
      position = entry.end;
    }
    check(position == data_bytes, "the tensors cover {} bytes of data, the file has {}", position, data_bytes);
    return entries;
  }

  template <class... Args>
  void check(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (condition) return;
    detail::fail<FileError>("load_safetensors", "'{}' is not a valid safetensors file: {}", path_.string(),
                            fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  json parse(const std::string& header) const {
    check(header.starts_with('{'), "the header does not start with '{{'");
    check(header.find('\0') == std::string::npos,
          "the header is not JSON: it has a null byte");   // ends it for the parser
    std::array<std::unordered_set<std::string>, 16> keys;  // of the object open at each depth
    const auto inspect = [&](int depth, json::parse_event_t event, json& value) {
      const auto level = static_cast<std::size_t>(depth);
      const bool opens = event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
      if (opens) {
        check(level + 1 < keys.size(), "the header is nested too deeply");
        keys[level + 1].clear();
      } else if (event == json::parse_event_t::key) {
        const auto& key = value.get_ref<const std::string&>();
        check(keys[level].insert(key).second, "the header has the key '{}' twice", key);
      }
      return true;
    };
    try {
      return json::parse(header, inspect);
    } catch (const json::exception& error) {
      check(false, "the header is not JSON: {}", error.what());
      throw;
    }
  }

  void read_metadata(const json& value, SafetensorsMetadata* metadata) const {
    check(value.is_object(), "{} is not an object", kMetadataKey);
    for (const auto& [key, text] : value.items()) {
      check(text.is_string(), "{} '{}' is not a string", kMetadataKey, key);
      if (metadata) metadata->emplace(key, text.get<std::string>());
    }
  }

  Entry read_entry(const std::string& name, const json& value) const {
    check(value.is_object() && value.contains("dtype") && value.contains("shape") && value.contains("data_offsets"),
          "tensor '{}' lacks dtype, shape or data_offsets", name);
    Entry entry;
    entry.name = name;
    check(value["dtype"].is_string(), "the dtype of tensor '{}' is not a string", name);
    const auto& code = value["dtype"].get_ref<const std::string&>();
    const auto* found = std::ranges::find_if(kDTypes, [&](const DTypeCode& known) { return code == known.code; });
    LOCKSTEP_CHECK(found != std::end(kDTypes), DTypeError, "load_safetensors",
                   "expected a dtype of I64, F64, F32, BF16, F16, U8 for tensor '{}' of '{}', got {}", name,
                   path_.string(), code);
    entry.dtype = found->dtype;

    const std::vector<std::uint64_t> sizes = read_numbers(name, "shape", value["shape"]);
    const std::vector<std::uint64_t> offsets = read_numbers(name, "data_offsets", value["data_offsets"]);
    check(offsets.size() == 2 && offsets[0] <= offsets[1], "the data_offsets of tensor '{}' are not a range", name);
    entry.begin = offsets[0];
    entry.end = offsets[1];
    std::uint64_t bytes = size_of(entry.dtype);
    bool overflow = false;
    for (const std::uint64_t size : sizes) {
      overflow |= size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
      overflow |= __builtin_mul_overflow(bytes, size, &bytes);
    }
    check(!overflow && bytes == entry.end - entry.begin, "tensor '{}' of shape {} does not fit its {} bytes", name,
          value["shape"].dump(), entry.end - entry.begin);
    check(sizes.size() <= Shape::kMaxRank, "tensor '{}' has {} dimensions, expected at most {}", name, sizes.size(),
          Shape::kMaxRank + 0);
    try {
      entry.shape = Shape(std::vector<std::int64_t>(sizes.begin(), sizes.end()));
    } catch (const ShapeError& error) {
      check(false, "tensor '{}': {}", name, error.what());
    }
    return entry;
  }

  std::vector<std::uint64_t> read_numbers(const std::string& name, const char* what, const json& value) const {
    check(value.is_array(), "the {} of tensor '{}' is not a list", what, name);
    std::vector<std::uint64_t> numbers;
    for (const json& number : value) {
      check(number.is_number_unsigned(), "the {} of tensor '{}' holds {}", what, name, number.dump());
      numbers.push_back(number.get<std::uint64_t>());
    }
    return numbers;
  }

  const fs::path& path_;
};

/// `text` as a JSON string. Throws ValueError unless it is UTF-8.
std::string quoted(const std::string& text) {
  try {
    return json(text).dump();
  } catch (const json::exception&) {
    detail::fail<ValueError>("save_safetensors", "expected names and metadata in UTF-8, got '{}'", text);
  }
}

/// The header as the reference writer spells it, padded so that the data is aligned to 8 bytes.
std::string make_header(const std::vector<const StateDict::Entry*>& entries, const SafetensorsMetadata& metadata) {
  std::string header = "{";
  if (!metadata.empty()) {
    header += fmt::format("\"{}\":{{", kMetadataKey);
    for (const auto& [key, text] : metadata) header += quoted(key) + ':' + quoted(text) + ',';
    header.back() = '}';
    header += ',';
  }
  std::size_t position = 0;
  for (const StateDict::Entry* entry : entries) {
    const Tensor& tensor = entry->second;
    header += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}},", quoted(entry->first),
                          kDTypes[rank_of(tensor.dtype())].code, fmt::join(tensor.shape(), ","), position,
                          position + tensor.nbytes());
    position += tensor.nbytes();
  }
  if (header.size() > 1) header.pop_back();  // the last comma
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  LOCKSTEP_CHECK(header.size() <= kMaxHeaderBytes, ValueError, "save_safetensors",
                 "expected names and metadata that fit a header of {} bytes, got {}", kMaxHeaderBytes + 0,
                 header.size());
  return header;
}

}  // namespace

void save_safetensors(const fs::path& path, const StateDict& tensors, const SafetensorsMetadata& metadata) {
  std::vector<const StateDict::Entry*> entries;
  for (const StateDict::Entry& entry : tensors) {
    LOCKSTEP_CHECK(entry.second.defined(), ValueError, "save_safetensors",
                   "expected tensors, got an undefined one: '{}'", entry.first);
    LOCKSTEP_CHECK(entry.first != kMetadataKey, ValueError, "save_safetensors",
                   "expected tensor names, got '{}', which the format keeps to itself", kMetadataKey);
    entries.push_back(&entry);
  }
  std::ranges::sort(entries, {}, [](const StateDict::Entry* entry) {
    return std::tuple<std::size_t, const std::string&>(rank_of(entry->second.dtype()), entry->first);
  });
  const std::string header = make_header(entries, metadata);
  const std::uint64_t header_bytes = header.size();

  ReplacementFile file("save_safetensors", path);
  file.write(&header_bytes, sizeof header_bytes);
  file.write(header.data(), header.size());
  for (const StateDict::Entry* entry : entries) {
    const Tensor tensor = entry->second.detach().to(kCpu).to(Layout::row_major);
    file.write(tensor.data_ptr(), tensor.nbytes());
  }
  file.commit();
}

StateDict load_safetensors(const fs::path& path, SafetensorsMetadata* metadata) {
  File file("load_safetensors", "open", path, O_RDONLY | O_NONBLOCK);  // a pipe must not make this wait
  const HeaderReader reader(path);
  const struct stat status = file.status();
  reader.check(S_ISREG(status.st_mode), "it is not a regular file");
  const auto file_bytes = static_cast<std::uint64_t>(status.st_size);

  std::uint64_t header_bytes = 0;
  reader.check(file_bytes >= sizeof header_bytes, "it has {} bytes, too few for a header", file_bytes);
  file.read(&header_bytes, sizeof header_bytes);
  const std::uint64_t rest = file_bytes - sizeof header_bytes;
  reader.check(header_bytes <= kMaxHeaderBytes, "the header's length is given as {}, the limit is {}", header_bytes,
               kMaxHeaderBytes + 0);
  reader.check(header_bytes <= rest, "the header's length is given as {}, the file has {} bytes", header_bytes,
               file_bytes);
  std::string header(header_bytes, '\0');
  file.read(header.data(), header.size());

  if (metadata) metadata->clear();
  StateDict tensors;
  for (const Entry& entry : reader.read(header, rest - header_bytes, metadata)) {
    const Tensor tensor = Tensor::empty(entry.shape, {.dtype = entry.dtype});
    file.read(tensor.data_ptr(), tensor.nbytes());
    tensors.insert(entry.name, tensor);
  }
  return tensors;
}

}  // namespace lockstep
