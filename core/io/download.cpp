#include <lockstep/core/io/download.h>

#include <curl/curl.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include <lockstep/core/base/check.h>
#include <lockstep/core/io/folder_lock.h>
#include <lockstep/core/io/progress.h>
#include <lockstep/core/io/sha256.h>

namespace lockstep {
namespace {

namespace fs = std::filesystem;

constexpr int kAttempts = 5;

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  detail::fail<FileError>("download", format, std::forward<Args>(args)...);
}

/// The file that collects the bytes, with the checksum of what it holds.
class PartFile {
 public:
  explicit PartFile(const fs::path& path) : path_(path), fd_(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    if (fd_ < 0) fail("expected to write {}, got: {}", path.string(), std::strerror(errno));
    std::vector<char> buffer(1 << 16);
    for (;;) {
      const ssize_t got = read(fd_, buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail("expected to read {}, got: {}", path.string(), std::strerror(errno));
      if (got == 0) break;
      count(buffer.data(), static_cast<std::size_t>(got));
    }
  }
  ~PartFile() { close(fd_); }
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  std::int64_t size() const { return size_; }
  std::string sha256() const { return hash_.hex(); }
  /// errno of the write that failed, or 0.
  int error() const { return error_; }

  bool append(const char* data, std::size_t bytes) {
    const char* const begin = data;
    for (std::size_t left = bytes; left > 0;) {
      const ssize_t written = write(fd_, data, left);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) {
        error_ = errno;
        return false;
      }
      data += written, left -= static_cast<std::size_t>(written);
    }
    count(begin, bytes);
    return true;
  }
  void clear() {
    if (ftruncate(fd_, 0) != 0 || lseek(fd_, 0, SEEK_SET) != 0)
      fail("expected to empty {}, got: {}", path_.string(), std::strerror(errno));
    hash_ = {};
    size_ = 0;
  }
  void sync() {
    if (fsync(fd_) != 0) fail("expected to write {}, got: {}", path_.string(), std::strerror(errno));
  }

 private:
  void count(const char* data, std::size_t bytes) {
    hash_.update(data, bytes);
    size_ += static_cast<std::int64_t>(bytes);
  }

  fs::path path_;
  int fd_, error_ = 0;
  std::int64_t size_ = 0;
  Sha256 hash_;
};

struct Transfer {
  PartFile* part;
  ProgressBar* bar;
  std::int64_t start;  // bytes that were there before
};

std::size_t on_data(char* data, std::size_t size, std::size_t count, void* context) {
  const auto& transfer = *static_cast<Transfer*>(context);
  return transfer.part->append(data, size * count) ? size * count : 0;
}

int on_progress(void* context, curl_off_t total, curl_off_t done, curl_off_t, curl_off_t) {
  const auto& transfer = *static_cast<Transfer*>(context);
  if (transfer.bar && total > 0) {
    transfer.bar->set_total(transfer.start + total);
    transfer.bar->set_position(transfer.start + done);
  }
  return 0;
}

struct Outcome {
  CURLcode code;
  long http_status;
  std::string reason;
};

/// One attempt to get what `part` lacks.
Outcome fetch(const std::string& url, PartFile& part, ProgressBar* bar, const DownloadOptions& options) {
  static const CURLcode ready = curl_global_init(CURL_GLOBAL_DEFAULT);
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> handle(ready == CURLE_OK ? curl_easy_init() : nullptr,
                                                                   curl_easy_cleanup);
  if (!handle) fail("expected libcurl to start, got an error");
  CURL* curl = handle.get();
  Transfer transfer{&part, bar, part.size()};
  std::array<char, CURL_ERROR_SIZE> reason{};
  if (bar) bar->set_start(part.size());

  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "https,http,file");
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "https,http");
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, 10L);
  curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "lockstep");
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options.connect_timeout * 1e3));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, std::max(1L, static_cast<long>(options.stall_timeout)));
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason.data());
  curl_easy_setopt(curl, CURLOPT_RESUME_FROM_LARGE, static_cast<curl_off_t>(part.size()));
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &transfer);

  Outcome outcome{curl_easy_perform(curl), 0, {}};
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &outcome.http_status);
  outcome.reason = reason[0] ? reason.data() : curl_easy_strerror(outcome.code);
  if (part.error() != 0) outcome.reason = std::strerror(part.error());
  return outcome;
}

/// Failures of the connection, after which the rest may well be had.
bool is_transient(CURLcode code) {
  return code == CURLE_PARTIAL_FILE || code == CURLE_RECV_ERROR || code == CURLE_GOT_NOTHING ||
         code == CURLE_OPERATION_TIMEDOUT || code == CURLE_HTTP2_STREAM;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

}  // namespace

void download(const std::string& url, const fs::path& path, const DownloadOptions& options) {
  const std::string expected = lower(options.sha256);
  const fs::path folder = detail::folder_of(path);
  fs::path part_path = path;
  part_path += ".part";

  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("expected to make the folder {}, got: {}", folder.string(), error.message());
  const detail::FolderLock lock(folder);
  if (fs::exists(path, error) && (expected.empty() || PartFile(path).sha256() == expected)) return;

  // Without a checksum nothing would tell whether old bytes and new ones belong together.
  const bool resumable = !expected.empty();
  {
    PartFile part(part_path);
    if (!resumable) part.clear();
    std::optional<ProgressBar> bar;
    if (options.progress) bar.emplace("Downloading " + path.filename().string(), 0, ProgressOptions{.unit = "B"});
    for (int attempt = 1;; ++attempt) {
      const std::int64_t before = part.size();
      const auto [code, http_status, reason] = fetch(url, part, bar ? &*bar : nullptr, options);
      const bool last = attempt == kAttempts;
      if (code == CURLE_OK) {
        if (!resumable || part.sha256() == expected) break;
        const std::string got = part.sha256();
        const std::int64_t bytes = part.size();
        part.clear();
        if (before > 0 && !last) continue;
        fs::remove(part_path, error);
        fail("expected SHA-256 {} of {}, got {} ({} bytes)", expected, url, got, bytes);
      }
      // The server does not give parts of files, or has fewer bytes than are here: from the start, then.
      if (before > 0 && !last &&
          (code == CURLE_RANGE_ERROR || code == CURLE_BAD_DOWNLOAD_RESUME || http_status == 416)) {
        part.clear();
        continue;
      }
      if (is_transient(code) && resumable && part.size() > before && !last) continue;
      const bool kept = resumable && part.size() > 0;
      if (!kept) fs::remove(part_path, error);
      fail("expected to fetch {}, got: {}{}", url, reason,
           kept ? fmt::format(" ({} bytes are kept in {}; the next attempt goes on from there)", part.size(),
                              part_path.string())
                : "");
    }
    part.sync();
  }
  fs::rename(part_path, path, error);
  if (error) fail("expected to rename {} to {}, got: {}", part_path.string(), path.string(), error.message());
  detail::sync_folder(folder);
}

}  // namespace lockstep
