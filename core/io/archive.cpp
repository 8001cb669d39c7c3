#include <lockstep/core/io/archive.h>

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

#include <lockstep/core/base/check.h>
#include <lockstep/core/io/folder_lock.h>

namespace lockstep {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxName = 1024;

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

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail("expected to make the folder {}, got: {}", path.string(), error.message());
}

void unpack_into(const fs::path& archive_path, const fs::path& folder, const UnpackOptions& options) {
  const std::unique_ptr<archive, decltype(&archive_read_free)> reader(archive_read_new(), archive_read_free);
  archive* const in = reader.get();
  if (!in) fail("expected libarchive to start, got an error");
  archive_read_support_format_tar(in);
  archive_read_support_filter_gzip(in);
  const auto damaged = [&] {
    fail("expected a whole .tar.gz archive in {}, got: {}", archive_path.string(),
         archive_error_string(in) ? archive_error_string(in) : "an unknown error");
  };
  if (archive_read_open_filename(in, archive_path.c_str(), 1 << 16) != ARCHIVE_OK) damaged();

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
      make_folder(folder / target);
      continue;
    }
    make_folder((folder / target).parent_path());
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
  if (entries == 0) fail("expected a .tar.gz archive with something in it, got {}", archive_path.string());
}

}  // namespace

void unpack_tar_gz(const fs::path& archive, const fs::path& destination, const UnpackOptions& options) {
  const fs::path folder = detail::folder_of(destination);
  fs::path part = destination;
  part += ".part";
  make_folder(folder);
  const detail::FolderLock lock(folder);
  std::error_code error;
  if (fs::exists(destination, error)) return;
  fs::remove_all(part, error);  // of a run that was killed
  make_folder(part);
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
