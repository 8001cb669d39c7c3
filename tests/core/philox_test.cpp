#include <lockstep/core/base/philox.h>

#include <array>
#include <cstdint>
#include <set>
#include <vector>

#include <catch2/catch.hpp>

using namespace lockstep;

namespace {

using Block = std::array<std::uint32_t, 4>;

// Known answers of the authors' own library, Random123 (kat_vectors, philox4x32 10).
static_assert(philox4x32(0, 0, 0) == Block{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});

TEST_CASE("Philox gives the known answers") {
  constexpr std::uint64_t kOnes = ~std::uint64_t{0};
  CHECK(philox4x32(kOnes, kOnes, kOnes) == Block{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  CHECK(philox4x32(0x299f31d0a4093822u, 0x85a308d3243f6a88u, 0x0370734413198a2eu) ==
        Block{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

TEST_CASE("uniform_float is in [0, 1) on a grid of 2^-24") {
  CHECK(uniform_float(0) == 0.0f);
  CHECK(uniform_float(0xffu) == 0.0f);
  CHECK(uniform_float(0x100u) == 0x1p-24f);
  CHECK(uniform_float(0xffffffffu) == 1.0f - 0x1p-24f);
}

TEST_CASE("uniform_below scales 64 bits to the bound") {
  CHECK(uniform_below(0, 0, 10) == 0);
  CHECK(uniform_below(0xffffffffu, 0xffffffffu, 10) == 9);
  CHECK(uniform_below(0x80000000u, 0, 10) == 5);
  CHECK(uniform_below(0xffffffffu, 0xffffffffu, ~std::uint64_t{0}) == ~std::uint64_t{0} - 1);
  CHECK(uniform_below(123, 456, 1) == 0);
}

TEST_CASE("A stream walks through its blocks") {
  PhiloxStream stream(7, 42);
  for (std::uint64_t counter = 0; counter < 3; ++counter) {
    for (const std::uint32_t word : philox4x32(7, counter, 42)) CHECK(stream.next_u32() == word);
  }
}

TEST_CASE("Seeds and streams give different numbers") {
  std::set<std::uint32_t> first;
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    for (std::uint64_t number = 0; number < 30; ++number) first.insert(PhiloxStream(seed, number).next_u32());
  }
  CHECK(first.size() == 900);
}

TEST_CASE("Draws of a stream are spread evenly") {
  PhiloxStream stream(1, 2);
  std::array<int, 10> counts{};
  double sum = 0.0;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    ++counts[stream.next_below(10)];
    const float u = stream.next_uniform();
    REQUIRE((u >= 0.0f && u < 1.0f));
    sum += u;
  }
  for (const int count : counts) CHECK(std::abs(count - kDraws / 10) < 250);  // 6 standard deviations
  CHECK(sum / kDraws == Approx(0.5).margin(0.012));                           // 6 standard deviations
}

}  // namespace
