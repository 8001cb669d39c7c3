#include <lockstep/core/io/sha256.h>

#include <catch2/catch.hpp>

using namespace lockstep;

namespace {

std::string sha256(const std::string& text) {
  Sha256 hash;
  hash.update(text.data(), text.size());
  return hash.hex();
}

}  // namespace

TEST_CASE("SHA-256 gives the checksums of FIPS 180-4's examples") {
  CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256(std::string(1'000'000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("SHA-256 does not depend on how the data is cut") {
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>(i * 7);
  const std::string whole = sha256(text);
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    Sha256 hash;
    hash.update(text.data(), cut);
    CHECK(hash.hex() == sha256(text.substr(0, cut)));  // asking does not disturb
    hash.update(text.data() + cut, text.size() - cut);
    CHECK(hash.hex() == whole);
  }
}

TEST_CASE("the checksum of a state dict is that of its values") {
  const auto dict = [](float last) {
    StateDict state;
    state.insert("weight", Tensor::from(std::vector<float>{1, 2, last}, {3}));
    state.insert("none", Tensor::zeros({0}));
    state.insert("steps", Tensor::from(std::vector<std::int64_t>{7}, {1}));
    return state;
  };
  const float floats[] = {1, 2, 3};
  const std::int64_t steps = 7;
  Sha256 sha;
  sha.update(floats, sizeof(floats));
  sha.update(&steps, sizeof(steps));
  CHECK(sha256_of(dict(3)) == sha.hex());
  CHECK(sha256_of(dict(4)) != sha.hex());
}
