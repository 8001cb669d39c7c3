#include <lockstep/core/io/safetensors.h>

#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <lockstep/core/base/error.h>
#include <catch2/catch.hpp>

using namespace lockstep;
namespace fs = std::filesystem;

namespace {

/// A folder of this process that goes away with it.
struct TemporaryFolder {
  fs::path path = fs::temp_directory_path() / ("lockstep_safetensors_test." + std::to_string(getpid()));
  TemporaryFolder() { fs::create_directories(path); }
  ~TemporaryFolder() { fs::remove_all(path); }
  fs::path operator/(const char* name) const { return path / name; }
};

std::string read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file);
  std::stringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

void write_bytes(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
  REQUIRE(read_bytes(path) == bytes);
}

std::string with_length(const std::string& header) {
  const std::uint64_t length = header.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + header;
}

std::vector<std::string> names_of(const StateDict& state) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : state) names.push_back(name);
  return names;
}

}  // namespace

TEST_CASE("files have the bytes of the reference writer") {
  const TemporaryFolder folder;
  const fs::path path = folder / "model.safetensors";
  const Tensor image = Tensor::from<float>({1, 2, 3, 4}, {1, 2, 1, 2});
  const StateDict state({{"z", image.to(Layout::channels_last)},
                         {"a", Tensor::arange(2)},
                         {"h", Tensor::full({3}, 1.0, {.dtype = DType::float16})},
                         {"bf", Tensor::full({1}, -2.0, {.dtype = DType::bfloat16})},
                         {"u", Tensor::from<std::uint8_t>({7, 8, 9}, {3})},
                         {"d", Tensor::full({}, 0.5, {.dtype = DType::float64})},
                         {"we\"ird\n\u00e9\x01\x7f", Tensor::zeros({0, 3})}});
  save_safetensors(path, state, {{"format", "pt"}});

  // Python: safetensors.torch.save(state, metadata={"format": "pt"})
  std::string header = R"({"__metadata__":{"format":"pt"},"a":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},)"
                       R"("d":{"dtype":"F64","shape":[],"data_offsets":[16,24]},)"
                       "\"we\\\"ird\\n\u00e9\\u0001\x7f\":"
                       R"({"dtype":"F32","shape":[0,3],"data_offsets":[24,24]},)"
                       R"("z":{"dtype":"F32","shape":[1,2,1,2],"data_offsets":[24,40]},)"
                       R"("bf":{"dtype":"BF16","shape":[1],"data_offsets":[40,42]},)"
                       R"("h":{"dtype":"F16","shape":[3],"data_offsets":[42,48]},)"
                       R"("u":{"dtype":"U8","shape":[3],"data_offsets":[48,51]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::string data(
      "\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0"  // a
      "\0\0\0\0\0\0\xe0\x3f"              // d
      "\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40\0\0\x80\x40"
      "\0\xc0"
      "\0\x3c\0\x3c\0\x3c"
      "\7\10\11",
      51);
  CHECK(read_bytes(path) == with_length(header) + data);
  CHECK_FALSE(fs::exists(folder / "model.safetensors.tmp"));

  SafetensorsMetadata metadata{{"old", "entry"}};
  const StateDict loaded = load_safetensors(path, &metadata);
  CHECK(metadata == SafetensorsMetadata{{"format", "pt"}});
  CHECK(names_of(loaded) == std::vector<std::string>{"a", "d", "we\"ird\n\u00e9\x01\x7f", "z", "bf", "h", "u"});
  for (const auto& [name, tensor] : state) {
    INFO(name);
    CHECK(loaded.at(name).dtype() == tensor.dtype());
    CHECK(loaded.at(name).shape() == tensor.shape());
    CHECK(loaded.at(name).layout() == Layout::row_major);
    CHECK(loaded.at(name).to_vector<double>() == tensor.to_vector<double>());
  }
}

TEST_CASE("an empty state dict makes a valid file") {
  const TemporaryFolder folder;
  save_safetensors(folder / "empty", {});
  CHECK(read_bytes(folder / "empty") == with_length("{}      "));
  CHECK(load_safetensors(folder / "empty").empty());
}

TEST_CASE("saving replaces a file and follows a symbolic link") {
  const TemporaryFolder folder;
  save_safetensors(folder / "target", {{"x", Tensor::zeros({1})}});
  fs::create_symlink("target", folder / "link");
  save_safetensors(folder / "link", {{"x", Tensor::ones({1})}});
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(load_safetensors(folder / "target").at("x").item() == 1.0);
}

TEST_CASE("a save that fails leaves the old file and nothing else") {
  const TemporaryFolder folder;
  const fs::path path = folder / "model";
  save_safetensors(path, {{"x", Tensor::full({1}, 3.0)}});
  const std::string before = read_bytes(path);

  // A limit on the size of files stands in for a full disk.
  rlimit old_limit;
  REQUIRE(getrlimit(RLIMIT_FSIZE, &old_limit) == 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{4096, old_limit.rlim_max};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  std::string message;
  try {
    save_safetensors(path, {{"x", Tensor::zeros({10000})}});
  } catch (const FileError& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  CHECK_THAT(message, Catch::Contains(path.string() + ".tmp") && Catch::Contains("File too large"));
  CHECK(read_bytes(path) == before);
  CHECK(std::distance(fs::directory_iterator(folder.path), {}) == 1);

  CHECK_THROWS_AS(save_safetensors(path, {{"x", Tensor()}}), ValueError);
  CHECK_THROWS_AS(save_safetensors(path, {{"__metadata__", Tensor::ones({1})}}), ValueError);
  CHECK_THROWS_AS(save_safetensors(path, {{"\xff", Tensor::ones({1})}}), ValueError);
  CHECK(read_bytes(path) == before);
}

TEST_CASE("saving where that cannot be names the path and the reason") {
  const TemporaryFolder folder;
  CHECK_THROWS_WITH(save_safetensors(folder / "no/such/folder", {}),
                    Catch::Contains("no/such/folder") && Catch::Contains("No such file or directory"));
  fs::create_directories(folder / "is_a_folder/full");
  CHECK_THROWS_AS(save_safetensors(folder / "is_a_folder", {}), FileError);
  CHECK_FALSE(fs::exists(folder / "is_a_folder.tmp"));
}

TEST_CASE("valid files that other writers make are read") {
  const TemporaryFolder folder;
  const fs::path path = folder / "file";
  SECTION("without padding, in any order, with unknown fields") {
    write_bytes(path, with_length(R"({"b":{"data_offsets":[4,8],"shape":[1],"dtype":"F32","extra":[1,{}]},)"
                                  R"("a":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}})") +
                          std::string("\1\2\3\4\0\0\x80\x3f", 8));
    const StateDict state = load_safetensors(path);
    CHECK(names_of(state) == std::vector<std::string>{"a", "b"});
    CHECK(state.at("a").to_vector<std::uint8_t>() == std::vector<std::uint8_t>{1, 2, 3, 4});
    CHECK(state.at("b").item() == 1.0);
  }
  SECTION("empty tensors share an offset") {
    write_bytes(path, with_length(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                                  R"("b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                  R"("c":{"dtype":"U8","shape":[3,0],"data_offsets":[1,1]}})") +
                          "x");
    CHECK(load_safetensors(path).size() == 3);
  }
}

TEST_CASE("damaged and hostile files are refused by name") {
  const TemporaryFolder folder;
  const fs::path path = folder / "bad.safetensors";
  const auto tensor = [](const std::string& text) { return with_length("{\"t\":" + text + "}"); };
  const std::string good = R"({"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  struct Case {
    std::string bytes, complaint;
  };
  const std::string deep(1000, '[');
  const Case cases[] = {
      {"", "too few for a header"},
      {"1234567", "too few for a header"},
      {std::string(8, '\xff'), "the limit is 100000000"},
      {std::string("\xff\0\0\0\0\0\0\0{}", 10), "given as 255"},
      {with_length(""), "does not start with '{'"},
      {with_length(" {}"), "does not start with '{'"},
      {with_length("{"), "not JSON"},
      {with_length("{}x"), "not JSON"},
      {with_length(std::string("{}\0", 3)), "not JSON"},
      {with_length("{\"\xff\":1}"), "not JSON"},
      {with_length("{\"a\":" + deep), "nested too deeply"},
      {with_length("{}") + "x", "cover 0 bytes of data, the file has 1"},
      {with_length("{\"t\":" + good + ",\"t\":" + good + "}") + "1234", "key 't' twice"},
      {tensor(R"({"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]})") + "1234", "key 'dtype' twice"},
      {tensor("3"), "lacks dtype"},
      {tensor(R"({"dtype":"U8","shape":[4]})"), "lacks dtype"},
      {tensor(R"({"dtype":8,"shape":[4],"data_offsets":[0,4]})") + "1234", "not a string"},
      {tensor(R"({"dtype":"U8","shape":4,"data_offsets":[0,4]})") + "1234", "the shape of tensor 't' is not a list"},
      {tensor(R"({"dtype":"U8","shape":[-4],"data_offsets":[0,4]})") + "1234", "holds -4"},
      {tensor(R"({"dtype":"U8","shape":[4.0],"data_offsets":[0,4]})") + "1234", "holds 4.0"},
      {tensor(R"({"dtype":"U8","shape":[null],"data_offsets":[0,4]})") + "1234", "holds null"},
      {tensor(R"({"dtype":"U8","shape":[4],"data_offsets":[0,4,4]})") + "1234", "not a range"},
      {tensor(R"({"dtype":"U8","shape":[4],"data_offsets":[4,0]})") + "1234", "not a range"},
      {tensor(R"({"dtype":"U8","shape":[3],"data_offsets":[0,4]})") + "1234", "does not fit its 4 bytes"},
      {tensor(R"({"dtype":"F32","shape":[4],"data_offsets":[0,4]})") + "1234", "does not fit its 4 bytes"},
      {tensor(R"({"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]})") + "1234", "does not fit"},
      {tensor(R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]})"), "does not fit"},
      {tensor(R"({"dtype":"U8","shape":[0,18446744073709551615],"data_offsets":[0,0]})"), "does not fit"},
      {tensor(R"({"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]})") + "1", "9 dimensions"},
      {tensor(good) + "123", "cover 4 bytes of data, the file has 3"},
      {tensor(good) + "12345", "cover 4 bytes of data, the file has 5"},
      {tensor(R"({"dtype":"U8","shape":[4],"data_offsets":[1,5]})") + "12345", "starts at byte 1, expected 0"},
      {tensor(R"({"dtype":"U8","shape":[1000000000000],"data_offsets":[0,1000000000000]})"), "the file has 0"},
      {with_length("{\"a\":" + good + ",\"b\":" + good + "}") + "1234", "starts at byte 0, expected 4"},
      {with_length(R"({"__metadata__":[]})"), "__metadata__ is not an object"},
      {with_length(R"({"__metadata__":{"a":1}})"), "'a' is not a string"}};
  for (const auto& [bytes, complaint] : cases) {
    write_bytes(path, bytes);
    INFO(complaint);
    CHECK_THROWS_AS(load_safetensors(path), FileError);
    CHECK_THROWS_WITH(load_safetensors(path), Catch::Contains(complaint) && Catch::Contains(path.string()));
  }
}

TEST_CASE("a dtype that there is not is named with its tensor") {
  const TemporaryFolder folder;
  const fs::path path = folder / "file";
  write_bytes(path, with_length(R"({"steps":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}})") + "1234");
  CHECK_THROWS_AS(load_safetensors(path), DTypeError);
  CHECK_THROWS_WITH(load_safetensors(path), Catch::Contains("'steps'") && Catch::Contains("I32"));
}

TEST_CASE("what is no file is refused with the reason") {
  const TemporaryFolder folder;
  CHECK_THROWS_WITH(load_safetensors(folder / "missing"),
                    Catch::Contains("missing") && Catch::Contains("No such file or directory"));
  CHECK_THROWS_WITH(load_safetensors(folder.path), Catch::Contains("not a regular file"));
}
