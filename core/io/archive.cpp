#include <lockstep/core/io/archive.h>

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>

#include <lockstep/core/base/check.h>
#include <lockstep/core/io/folder_lock.h>

namespace lockstep {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxName = 1024;
constexpr la_ssize_t kMaxPadding = 1 << 20;  // after the last entry

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  detail::fail<FileError>("unpack_tar_gz", format, std::forward<Args>(args)...);
}

/// Where an entry goes, relative to the destination: empty for a folder that is stripped whole. Refuses every name that
/// could lead elsewhere.
fs::path checked_name(const char* name, bool is_folder, int strip, const fs::path& archive) {
  if (!name || !*name) fail("expected a readable name for every entry of {}, got none", archive.string());
  const fs::path path(name);
  if (std::strlen(name) > kMaxName)
    fail("expected names of at most {} bytes in {}, got {}", kMaxName, archive.string(), std::strlen(name));
  if (path.has_root_directory()) fail("expected relative names in {}, got {}", archive.string(), name);
  fs::path kept;
  int parts = 0;
  for (const fs::path& part : path) {
    if (part == "..") fail("expected names without '..' in {}, got {}", archive.string(), name);
    if (part.empty() || part == ".") continue;
    if (parts++ >= strip) kept /= part;
  }
  if (kept.empty() && !is_folder)
    fail("expected files inside of {} folder(s) in {}, got {}", strip, archive.string(), name);
  return kept;
}

class NewFile {
 public:
  explicit NewFile(const fs::path& path)
      : path_(path), fd_(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644)) {
    check(fd_ >= 0);
  }
  ~NewFile() {
    if (fd_ >= 0) close(fd_);
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void append(const char* data, std::size_t bytes) {
    while (bytes > 0) {
      const ssize_t written = write(fd_, data, bytes);
      if (written < 0 && errno == EINTR) continue;
      check(written >= 0);
      data += written, bytes -= static_cast<std::size_t>(written);
    }
  }
  void sync() { check(fsync(fd_) == 0); }

 private:
  void check(bool good) const {
    if (!good) fail("expected to write {}, got: {}", path_.string(), std::strerror(errno));
  }
  fs::path path_;
  int fd_;
};

void make_folder(const fs::path& path, const fs::path& archive) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail("expected to make the folder {} for {}, got: {}", path.string(), archive.string(), error.message());
}

using Reader = std::unique_ptr<archive, decltype(&archive_read_free)>;

Reader make_reader() {
  Reader reader(archive_read_new(), archive_read_free);
  if (!reader) fail("expected libarchive to start, got an error");
  return reader;
}

/// The CRC-32 of gzip (RFC 1952), continued from `crc`.
std::uint32_t crc32(std::uint32_t crc, const char* data, std::size_t bytes) {
  static const auto table = [] {
    std::array<std::uint32_t, 256> t{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      t[i] = i;
      for (int bit = 0; bit < 8; ++bit) t[i] = (t[i] >> 1) ^ (t[i] & 1 ? 0xedb88320u : 0u);
    }
    return t;
  }();
  crc = ~crc;
  for (std::size_t i = 0; i < bytes; ++i) crc = table[(crc ^ static_cast<std::uint8_t>(data[i])) & 0xff] ^ (crc >> 8);
  return ~crc;
}

/// The unpacked bytes of a gzip file, as a source for another reader. libarchive does not check the checksum and the
/// length at the end of such a file; this does.
class GzipStream {
 public:
  explicit GzipStream(const fs::path& path) : path_(path), reader_(make_reader()), buffer_(1 << 16, '\0') {
    archive* const in = reader_.get();
    archive_read_support_format_raw(in);
    archive_read_support_filter_gzip(in);
    archive_entry* entry = nullptr;
    if (archive_read_open_filename(in, path.c_str(), 1 << 16) != ARCHIVE_OK ||
        archive_read_next_header(in, &entry) != ARCHIVE_OK || archive_filter_code(in, 0) != ARCHIVE_FILTER_GZIP) {
      fail("expected a .tar.gz archive in {}, got: {}", path.string(),
           archive_error_string(in) ? archive_error_string(in) : "something else");
    }
  }

  /// The callback of archive_read_open.
  static la_ssize_t read(archive* reader, void* self, const void** data) {
    auto& stream = *static_cast<GzipStream*>(self);
    *data = stream.buffer_.data();
    const la_ssize_t got = archive_read_data(stream.reader_.get(), stream.buffer_.data(), stream.buffer_.size());
    if (got < 0) archive_set_error(reader, EIO, "%s", archive_error_string(stream.reader_.get()));
    if (got > 0) {
      stream.crc_ = crc32(stream.crc_, stream.buffer_.data(), static_cast<std::size_t>(got));
      stream.bytes_ += static_cast<std::uint32_t>(got);
    }
    return got;
  }

  /// Reads what is left (padding) and compares with the end of the file.
  void check(archive* reader) {
    const void* data = nullptr;
    la_ssize_t got = 0, padding = 0;
    while (padding <= kMaxPadding && (got = read(reader, this, &data)) > 0) padding += got;
    std::array<unsigned char, 8> end{};
    std::ifstream file(path_, std::ios::binary);
    file.seekg(-8, std::ios::end);
    file.read(reinterpret_cast<char*>(end.data()), end.size());
    const auto word = [&](std::size_t i) {
      return std::uint32_t{end[i]} | std::uint32_t{end[i + 1]} << 8 | std::uint32_t{end[i + 2]} << 16 |
             std::uint32_t{end[i + 3]} << 24;
    };
    if (got != 0 || !file || word(0) != crc_ || word(4) != bytes_) {
      fail("expected the contents of {} to have its checksum, got another: the file is damaged", path_.string());
    }
  }

 private:
  fs::path path_;
  Reader reader_;
  std::string buffer_;
  std::uint32_t crc_ = 0, bytes_ = 0;  // both modulo 2^32, as gzip has them
};

void unpack_into(const fs::path& archive_path, const fs::path& folder, const UnpackOptions& options) {
  GzipStream stream(archive_path);
  const Reader reader = make_reader();
  archive* const in = reader.get();
  archive_read_support_format_tar(in);
  const auto damaged = [&] {
    fail("expected a whole .tar.gz archive in {}, got: {}", archive_path.string(),
         archive_error_string(in) ? archive_error_string(in) : "an unknown error");
  };
  if (archive_read_open(in, &stream, nullptr, GzipStream::read, nullptr) != ARCHIVE_OK) damaged();

  std::string buffer(1 << 16, '\0');
  std::int64_t bytes = 0, entries = 0;
  archive_entry* entry = nullptr;
  for (;;) {
    const int status = archive_read_next_header(in, &entry);
    if (status == ARCHIVE_EOF) break;
    if (status != ARCHIVE_OK) damaged();
    if (++entries > options.max_entries)
      fail("expected at most {} entries in {}, got more", options.max_entries, archive_path.string());
    const char* name = archive_entry_pathname(entry);
    if (!name) name = archive_entry_pathname_utf8(entry);
    const auto type = archive_entry_filetype(entry);
    const fs::path target = checked_name(name, type == AE_IFDIR, options.strip_components, archive_path);
    if (archive_entry_hardlink(entry) || archive_entry_symlink(entry) || (type != AE_IFREG && type != AE_IFDIR)) {
      fail("expected plain files and folders in {}, got a link or device: {}", archive_path.string(), name);
    }
    if (type == AE_IFDIR) {
      make_folder(folder / target, archive_path);
      continue;
    }
    make_folder((folder / target).parent_path(), archive_path);
    if (std::error_code error; fs::exists(fs::symlink_status(folder / target, error))) {
      fail("expected every name once in {}, got {} again", archive_path.string(), name);
    }
    NewFile file(folder / target);
    for (;;) {
      const la_ssize_t got = archive_read_data(in, buffer.data(), buffer.size());
      if (got < 0) damaged();
      if (got == 0) break;
      bytes += got;
      if (bytes > options.max_bytes)
        fail("expected at most {} bytes in {}, got more, at {}", options.max_bytes, archive_path.string(), name);
      file.append(buffer.data(), static_cast<std::size_t>(got));
    }
    file.sync();
  }
  stream.check(in);
  if (entries == 0) fail("expected a .tar.gz archive with something in it, got {}", archive_path.string());
}

}  // namespace

void unpack_tar_gz(const fs::path& archive, const fs::path& destination, const UnpackOptions& options) {
  const fs::path folder = detail::folder_of(destination);
  fs::path part = destination;
  part += ".part";
  make_folder(folder, archive);
  const detail::FolderLock lock(folder);
  std::error_code error;
  if (fs::exists(destination, error)) return;
  fs::remove_all(part, error);  // of a run that was killed
  make_folder(part, archive);
  try {
    unpack_into(archive, part, options);
  } catch (...) {
    fs::remove_all(part, error);
    throw;
  }
  detail::sync_folder(part);
  fs::rename(part, destination, error);
  if (error) fail("expected to rename {} to {}, got: {}", part.string(), destination.string(), error.message());
  detail::sync_folder(folder);
}

}  // namespace lockstep
