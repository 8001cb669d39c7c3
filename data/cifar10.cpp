// One record of the binary version is a label byte and 3,072 pixels: the red, green and blue plane of 32×32, row by
// row.
#include <lockstep/data/cifar10.h>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/core/io/archive.h>
#include <lockstep/core/io/download.h>

namespace lockstep {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFolder = "cifar-10-batches-bin";
constexpr const char* kArchive = "cifar-10-binary.tar.gz";
constexpr const char* kSha256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd";
constexpr const char* kHelp =
    "Get the data from https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz, with Cifar10::download or with "
    "--download "
    "of the example programs";
constexpr std::int64_t kPixels = 3 * 32 * 32, kRecordBytes = 1 + kPixels, kRecordsPerFile = 10'000, kClasses = 10;

std::vector<std::string> files_of(Split split) {
  if (split == Split::test) return {"test_batch.bin"};
  return {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"};
}

bool holds_data(const fs::path& folder) {
  std::error_code ignored;
  return fs::exists(folder / "data_batch_1.bin", ignored) || fs::exists(folder / "test_batch.bin", ignored);
}

fs::path unpack(const fs::path& archive) {
  const fs::path folder = archive.parent_path() / kFolder;
  unpack_tar_gz(archive, folder, {.strip_components = 1, .max_bytes = std::int64_t{256} << 20, .max_entries = 100});
  return folder;
}

/// The folder with the .bin files.
fs::path find_folder(const fs::path& root) {
  std::error_code ignored;
  if (fs::is_directory(root / kFolder, ignored)) return root / kFolder;
  if (holds_data(root)) return root;
  if (fs::is_regular_file(root, ignored)) return unpack(root);
  if (fs::is_regular_file(root / kArchive, ignored)) return unpack(root / kArchive);
  detail::fail<FileError>("Cifar10", "expected the folder {}, its files or {} in {}, got {}. {}", kFolder, kArchive,
                          root.string(), fs::exists(root, ignored) ? "none of them" : "no such folder", kHelp);
}

void check_size(const fs::path& file) {
  std::error_code error;
  const auto bytes = fs::file_size(file, error);
  LOCKSTEP_CHECK(!error, FileError, "Cifar10", "expected the file {}, got: {}. {}", file.string(), error.message(),
                 kHelp);
  LOCKSTEP_CHECK(bytes == kRecordsPerFile * kRecordBytes, FileError, "Cifar10",
                 "expected {} bytes ({} records of {}) in {}, got {}. {}", kRecordsPerFile * kRecordBytes,
                 kRecordsPerFile, kRecordBytes, file.string(), bytes, kHelp);
}

std::vector<std::string> read_classes(const fs::path& file) {
  std::ifstream in(file);
  std::vector<std::string> classes;
  for (std::string line; classes.size() <= kClasses && std::getline(in, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) classes.push_back(line);
  }
  LOCKSTEP_CHECK(classes.size() == kClasses, FileError, "Cifar10", "expected {} class names in {}, got {}. {}",
                 kClasses, file.string(), in.is_open() ? fmt::to_string(classes.size()) : "no such file", kHelp);
  return classes;
}

class OpenFile {
 public:
  explicit OpenFile(const fs::path& path) : path_(path), fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    LOCKSTEP_CHECK(fd_ >= 0, FileError, "Cifar10", "expected to read {}, got: {}", path.string(), std::strerror(errno));
  }
  OpenFile(OpenFile&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  ~OpenFile() {
    if (fd_ >= 0) close(fd_);
  }
  const fs::path& path() const { return path_; }

  void read(std::int64_t offset, std::int64_t bytes, std::uint8_t* out) const {
    while (bytes > 0) {
      const ssize_t got = pread(fd_, out, static_cast<std::size_t>(bytes), offset);
      if (got < 0 && errno == EINTR) continue;
      LOCKSTEP_CHECK(got > 0, FileError, "Cifar10", "expected {} more bytes at {} in {}, got {}", bytes, offset,
                     path_.string(), got == 0 ? "the end of the file" : std::strerror(errno));
      offset += got, out += got, bytes -= got;
    }
  }

 private:
  fs::path path_;
  int fd_;
};

}  // namespace

Cifar10::Cifar10(const fs::path& root, Split split) : Cifar10(split, find_folder(root)) {}

Cifar10::Cifar10(Split split, const fs::path& folder)
    : TensorDataset(static_cast<std::int64_t>(files_of(split).size()) * kRecordsPerFile,
                    read_classes(folder / "batches.meta.txt")),
      folder_(folder),
      split_(split) {
  for (const std::string& file : files_of(split_)) check_size(folder_ / file);
}

TensorDataset::Contents Cifar10::load() const {
  std::vector<OpenFile> files;
  for (const std::string& file : files_of(split_)) files.emplace_back(folder_ / file);
  Contents contents{Tensor::empty({size(), 3, 32, 32}, {.dtype = DType::uint8}),
                    Tensor::empty({size()}, {.dtype = DType::int64})};
  auto* pixels = contents.images.data<std::uint8_t>();
  auto* labels = contents.labels.data<std::int64_t>();

  // Runs of records that fit the second-level cache, so that taking the labels out costs no second trip to memory.
  constexpr std::int64_t kRun = 100, kRunsPerFile = kRecordsPerFile / kRun;
  parallel_for(size() / kRun, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint8_t> records(kRun * kRecordBytes);
    for (std::int64_t run = begin; run < end; ++run) {
      const OpenFile& file = files[static_cast<std::size_t>(run / kRunsPerFile)];
      const std::int64_t first = run % kRunsPerFile * kRun;
      file.read(first * kRecordBytes, kRun * kRecordBytes, records.data());
      for (std::int64_t i = 0; i < kRun; ++i) {
        const std::uint8_t* record = records.data() + i * kRecordBytes;
        LOCKSTEP_CHECK(*record < kClasses, FileError, "Cifar10",
                       "expected labels from 0 to 9 in {}, got {} in record {}. {}", file.path().string(), *record,
                       first + i, kHelp);
        labels[run * kRun + i] = *record;
        std::memcpy(pixels + (run * kRun + i) * kPixels, record + 1, kPixels);
      }
    }
  });
  return contents;
}

void Cifar10::download(const fs::path& root) {
  std::error_code ignored;
  if (fs::is_directory(root / kFolder, ignored) || holds_data(root)) return;
  lockstep::download(kUrl, root / kArchive, {.sha256 = kSha256});
  unpack(root / kArchive);
}

}  // namespace lockstep
