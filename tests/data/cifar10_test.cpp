#include <lockstep/data/cifar10.h>

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <string>
#include <vector>

#include <lockstep/core/base/error.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/tests/support/temp_folder.h>

using namespace lockstep;
using namespace lockstep::test;
namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kRecord = 3073, kFileBytes = 10'000 * kRecord;
const std::string kNames = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
const std::vector<std::string> kBatches = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                           "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"};

void put(const fs::path& file, std::int64_t at, const std::string& bytes) {
  std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
  out.seekp(at);
  out << bytes;
}

/// Files of the right size: zeros that take no room on the disk, but for a few records that are told apart.
void make_files(const fs::path& folder) {
  fs::create_directories(folder);
  write_file(folder / "batches.meta.txt", kNames);
  for (std::size_t i = 0; i < kBatches.size(); ++i) {
    write_file(folder / kBatches[i], "");
    fs::resize_file(folder / kBatches[i], kFileBytes);
    std::string record(1, static_cast<char>(i + 1));  // the label, then 3,072 pixels
    for (int p = 0; p < 3072; ++p) record += static_cast<char>(p * 7 + static_cast<int>(i));
    put(folder / kBatches[i], 1234 * kRecord, record);
    put(folder / kBatches[i], 9999 * kRecord, "\x09");
  }
}

std::string refusal(const fs::path& root, Split split) {
  try {
    Cifar10(root, split).prepare();
  } catch (const FileError& error) {
    const std::string message = error.what();
    CHECK(message.find("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz") != std::string::npos);
    return message;
  }
  FAIL("nothing was refused");
  return {};
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("CIFAR-10 is read as it is written") {
  const TempFolder folder;
  make_files(folder / "cifar-10-batches-bin");
  const int threads = num_threads();
  set_num_threads(GENERATE(1, 3));
  const Cifar10 train(folder.path(), Split::train), test(folder / "cifar-10-batches-bin", Split::test);
  CHECK(train.size() == 50'000);
  CHECK(test.size() == 10'000);
  CHECK(train.classes().size() == 10);
  CHECK(train.classes()[6] == "frog");
  CHECK(train.images().shape() == Shape{50'000, 3, 32, 32});
  for (std::int64_t file = 0; file < 6; ++file) {
    const Dataset& data = file < 5 ? static_cast<const Dataset&>(train) : test;
    const std::int64_t first = file < 5 ? 10'000 * file : 0;
    const Example example = data.get(first + 1234);
    CHECK(example.label == file + 1);
    CHECK(example.image.shape() == Shape{3, 32, 32});
    bool equal = true;
    for (int p = 0; p < 3072; ++p) {
      equal &= example.image.data<std::uint8_t>()[p] == static_cast<std::uint8_t>(p * 7 + static_cast<int>(file));
    }
    CHECK(equal);
    CHECK(data.get(first + 1233).label == 0);
    CHECK(data.get(first + 1235).image.data<std::uint8_t>()[0] == 0);
    CHECK(data.get(first + 9999).label == 9);
  }
  set_num_threads(threads);
}

TEST_CASE("CIFAR-10 reads the contents only when they are needed") {
  const TempFolder folder;
  make_files(folder.path());
  const Cifar10 test(folder.path(), Split::test);
  put(folder / "test_batch.bin", 0, "\x07");
  CHECK(test.get(0).label == 7);
}

TEST_CASE("CIFAR-10 in an archive is unpacked once, beside it") {
  const TempFolder folder;
  make_files(folder / "source/cifar-10-batches-bin");
  const std::string command = "tar -C '" + (folder / "source").string() + "' -czf '" +
                              (folder / "cifar-10-binary.tar.gz").string() + "' cifar-10-batches-bin";
  REQUIRE(std::system(command.c_str()) == 0);
  const fs::path root = GENERATE("", "cifar-10-binary.tar.gz");
  const Cifar10 test(folder.path() / root, Split::test);
  CHECK(test.get(1234).label == 6);
  CHECK(fs::exists(folder / "cifar-10-batches-bin/data_batch_5.bin"));
  Cifar10::download(folder.path());  // nothing to do

  write_file(folder / "cifar-10-binary.tar.gz", "not needed any more");
  CHECK(Cifar10(folder.path() / root, Split::train).size() == 50'000);
}

TEST_CASE("CIFAR-10 names what is missing and where to get it") {
  const TempFolder folder;
  CHECK(contains(refusal(folder / "nowhere", Split::train), "no such folder"));
  CHECK(contains(refusal(folder / "nowhere", Split::train), (folder / "nowhere").string()));
  CHECK(contains(refusal(folder.path(), Split::train), "none of them"));

  make_files(folder.path());
  fs::remove(folder / "data_batch_3.bin");
  CHECK(contains(refusal(folder.path(), Split::train), (folder / "data_batch_3.bin").string()));
  CHECK(Cifar10(folder.path(), Split::test).size() == 10'000);

  fs::remove(folder / "batches.meta.txt");
  CHECK(contains(refusal(folder.path(), Split::test), "batches.meta.txt, got no such file"));
  write_file(folder / "batches.meta.txt", "airplane\nautomobile\n");
  CHECK(contains(refusal(folder.path(), Split::test), "expected 10 class names"));
  write_file(folder / "batches.meta.txt", kNames + "eleventh\n");
  CHECK(contains(refusal(folder.path(), Split::test), "got 11"));

  write_file(folder / "broken.tar.gz", "no archive");
  CHECK_THROWS_AS(Cifar10(folder / "broken.tar.gz", Split::train), FileError);
}

TEST_CASE("CIFAR-10 refuses files that are short, long or damaged") {
  const TempFolder folder;
  make_files(folder.path());
  for (const std::int64_t bytes : {std::int64_t{0}, kFileBytes - 1, kFileBytes + 1, kFileBytes - kRecord}) {
    fs::resize_file(folder / "data_batch_2.bin", static_cast<std::uintmax_t>(bytes));
    const std::string message = refusal(folder.path(), Split::train);
    CHECK(contains(message, "data_batch_2.bin"));
    CHECK(contains(message, "expected 30730000 bytes"));
    CHECK(contains(message, "got " + std::to_string(bytes) + "."));
  }
  fs::resize_file(folder / "data_batch_2.bin", kFileBytes);

  put(folder / "data_batch_4.bin", 4321 * kRecord, "\x0a");
  const std::string message = refusal(folder.path(), Split::train);
  CHECK(contains(message, "data_batch_4.bin"));
  CHECK(contains(message, "got 10 in record 4321"));
  put(folder / "data_batch_4.bin", 4321 * kRecord, "\xff");
  CHECK(contains(refusal(folder.path(), Split::train), "got 255 in record 4321"));

  // Cut after the size was checked.
  const Cifar10 test(folder.path(), Split::test);
  fs::resize_file(folder / "test_batch.bin", kFileBytes / 2);
  CHECK_THROWS_AS(test.prepare(), FileError);
}
