#include <lockstep/core/io/archive.h>

#include <archive.h>
#include <archive_entry.h>

#include <catch2/catch.hpp>
#include <thread>
#include <vector>

#include <lockstep/core/base/error.h>
#include <lockstep/tests/support/temp_folder.h>

using namespace lockstep;
using namespace lockstep::test;
namespace fs = std::filesystem;

namespace {

struct Entry {
  std::string name, contents;
  mode_t type = AE_IFREG;
  std::string target = {};  // of a link
  bool hard_link = false;
};

void write_tar_gz(const fs::path& path, const std::vector<Entry>& entries) {
  archive* out = archive_write_new();
  archive_write_add_filter_gzip(out);
  archive_write_set_format_pax_restricted(out);
  REQUIRE(archive_write_open_filename(out, path.c_str()) == ARCHIVE_OK);
  for (const Entry& e : entries) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, e.name.c_str());
    archive_entry_set_filetype(entry, e.type);
    archive_entry_set_perm(entry, 04777);
    archive_entry_set_size(entry, static_cast<la_int64_t>(e.contents.size()));
    if (e.type == AE_IFLNK) archive_entry_set_symlink(entry, e.target.c_str());
    if (e.hard_link) archive_entry_set_hardlink(entry, e.target.c_str());
    REQUIRE(archive_write_header(out, entry) == ARCHIVE_OK);
    archive_write_data(out, e.contents.data(), e.contents.size());
    archive_entry_free(entry);
  }
  REQUIRE(archive_write_close(out) == ARCHIVE_OK);
  archive_write_free(out);
}

/// The message of the FileError that unpacking ends with; nothing may be left behind.
std::string refusal(const fs::path& archive, const fs::path& destination, const UnpackOptions& options = {}) {
  try {
    unpack_tar_gz(archive, destination, options);
  } catch (const FileError& error) {
    CHECK_FALSE(fs::exists(destination));
    CHECK_FALSE(fs::exists(destination.string() + ".part"));
    CHECK(std::string(error.what()).find(archive.string()) != std::string::npos);
    return error.what();
  }
  FAIL("nothing was refused");
  return {};
}

}  // namespace

TEST_CASE("An archive is unpacked whole") {
  const TempFolder folder;
  const std::string large(300'000, 'x');
  write_tar_gz(folder / "a.tar.gz",
               {{"top/", "", AE_IFDIR}, {"top/one.txt", "1"}, {"./top/sub/two.txt", large}, {"top/empty", ""}});
  unpack_tar_gz(folder / "a.tar.gz", folder / "out");
  CHECK(read_file(folder / "out/top/one.txt") == "1");
  CHECK(read_file(folder / "out/top/sub/two.txt") == large);
  CHECK(fs::file_size(folder / "out/top/empty") == 0);
  CHECK((fs::status(folder / "out/top/one.txt").permissions() & fs::perms::set_uid) == fs::perms::none);
  CHECK_FALSE(fs::exists(folder / "out.part"));

  unpack_tar_gz(folder / "a.tar.gz", folder / "stripped", {.strip_components = 1});
  CHECK(read_file(folder / "stripped/one.txt") == "1");
  CHECK(read_file(folder / "stripped/sub/two.txt") == large);
}

TEST_CASE("A destination that is there is left alone, and what a killed run left is cleared") {
  const TempFolder folder;
  write_tar_gz(folder / "a.tar.gz", {{"one.txt", "1"}});
  fs::create_directory(folder / "there");
  unpack_tar_gz(folder / "a.tar.gz", folder / "there");
  CHECK(fs::is_empty(folder / "there"));

  fs::create_directory(folder / "out.part");
  write_file(folder / "out.part/half", "?");
  unpack_tar_gz(folder / "a.tar.gz", folder / "out");
  CHECK(read_file(folder / "out/one.txt") == "1");
  CHECK_FALSE(fs::exists(folder / "out/half"));
}

TEST_CASE("Several may unpack at once") {
  const TempFolder folder;
  std::vector<Entry> entries;
  for (int i = 0; i < 20; ++i) entries.push_back({"file" + std::to_string(i), std::string(10'000, 'x')});
  write_tar_gz(folder / "a.tar.gz", entries);
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      try {
        unpack_tar_gz(folder / "a.tar.gz", folder / "out");
        if (fs::file_size(folder / "out/file19") != 10'000) ++failures;
      } catch (...) {
        ++failures;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(failures == 0);
}

TEST_CASE("Archives that reach outside are refused") {
  const TempFolder folder;
  fs::create_directory(folder / "in");
  const fs::path archive = folder / "bad.tar.gz", out = folder / "in/out";
  const auto message = [&](const Entry& bad) {
    write_tar_gz(archive, {{"good.txt", "1"}, bad});
    return refusal(archive, out);
  };
  CHECK(message({"/tmp/lockstep-absolute", "x"}).find("/tmp/lockstep-absolute") != std::string::npos);
  CHECK_FALSE(fs::exists("/tmp/lockstep-absolute"));
  CHECK(message({"../escaped", "x"}).find("../escaped") != std::string::npos);
  CHECK(message({"a/../../escaped", "x"}).find("'..'") != std::string::npos);
  CHECK(message({"..", "", AE_IFDIR}).find("'..'") != std::string::npos);
  CHECK_FALSE(fs::exists(folder / "in/escaped"));
  CHECK(message({"link", "", AE_IFLNK, "/etc/passwd"}).find("link") != std::string::npos);
  CHECK(message({"link", "", AE_IFREG, "good.txt", true}).find("link") != std::string::npos);
  CHECK(message({"pipe", "", AE_IFIFO}).find("device: pipe") != std::string::npos);
  CHECK(message({"null", "", AE_IFCHR}).find("device: null") != std::string::npos);
  CHECK(message({"good.txt", "again"}).find("good.txt") != std::string::npos);
  CHECK(message({"good.txt/", "", AE_IFDIR}).find("good.txt") != std::string::npos);
  CHECK(message({std::string(600, 'a') + "/" + std::string(600, 'b'), "x"}).find("1024 bytes") != std::string::npos);

  write_tar_gz(archive, {{"flat.txt", "1"}});
  CHECK(refusal(archive, out, {.strip_components = 1}).find("flat.txt") != std::string::npos);
}

TEST_CASE("Archives over the limits are refused") {
  const TempFolder folder;
  const fs::path archive = folder / "big.tar.gz", out = folder / "out";
  write_tar_gz(archive, {{"zeros", std::string(5'000'000, '\0')}, {"more", "x"}});
  CHECK(fs::file_size(archive) < 50'000);
  CHECK(refusal(archive, out, {.max_bytes = 4'999'999}).find("4999999 bytes") != std::string::npos);
  CHECK(refusal(archive, out, {.max_bytes = 5'000'000}).find("at more") != std::string::npos);
  CHECK(refusal(archive, out, {.max_entries = 1}).find("1 entries") != std::string::npos);
  unpack_tar_gz(archive, out, {.max_bytes = 5'000'001, .max_entries = 2});
  CHECK(fs::file_size(out / "zeros") == 5'000'000);
}

TEST_CASE("Damaged archives are refused") {
  const TempFolder folder;
  const fs::path archive = folder / "a.tar.gz", out = folder / "out";
  std::string noise;
  for (std::uint32_t i = 0, x = 1; i < 200'000; ++i) noise += static_cast<char>((x = x * 1664525 + 1013904223) >> 24);
  write_tar_gz(archive, {{"noise", noise}, {"tail", noise}});
  const std::string whole = read_file(archive);
  for (const std::size_t cut :
       {std::size_t{0}, std::size_t{5}, std::size_t{20}, whole.size() / 3, whole.size() / 2, whole.size() * 9 / 10}) {
    write_file(archive, whole.substr(0, cut));
    CAPTURE(cut);
    refusal(archive, out);
  }
  std::string flipped = whole;
  flipped[whole.size() / 2] = static_cast<char>(flipped[whole.size() / 2] ^ 0x10);
  write_file(archive, flipped);
  refusal(archive, out);
  write_file(archive, "<html>404 Not Found</html>");
  refusal(archive, out);
  refusal(folder / "missing.tar.gz", out);
}
