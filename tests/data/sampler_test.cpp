#include <lockstep/data/sampler.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>

#include <lockstep/core/base/error.h>

using namespace lockstep;
using Indices = std::vector<std::int64_t>;

TEST_CASE("SequentialSampler goes from first to last") {
  CHECK(SequentialSampler(4).indices(0) == Indices{0, 1, 2, 3});
  CHECK(SequentialSampler(4).indices(7) == Indices{0, 1, 2, 3});
  CHECK(SequentialSampler(0).indices(0).empty());
  CHECK(SequentialSampler(4).size() == 4);
  CHECK_THROWS_AS(SequentialSampler(-1), ValueError);
}

TEST_CASE("RandomSampler gives a permutation that depends on seed and epoch") {
  const RandomSampler sampler(1000, 3);
  const Indices first = sampler.indices(0);
  Indices sorted = first, all(1000);
  std::sort(sorted.begin(), sorted.end());
  std::iota(all.begin(), all.end(), std::int64_t{0});
  CHECK(sorted == all);
  CHECK(first != all);
  CHECK(sampler.indices(1) != first);
  CHECK(sampler.indices(0) == first);
  CHECK(RandomSampler(1000, 3).indices(0) == first);
  CHECK(RandomSampler(1000, 4).indices(0) != first);
  CHECK(RandomSampler(0, 3).indices(0).empty());
  CHECK(RandomSampler(1, 3).indices(5) == Indices{0});
  CHECK(sampler.size() == 1000);
  CHECK_THROWS_AS(RandomSampler(-1, 0), ValueError);
}

TEST_CASE("RandomSampler keeps its order from version to version") {
  CHECK(RandomSampler(8, 0).indices(0) == Indices{0, 1, 6, 3, 7, 2, 4, 5});
  CHECK(RandomSampler(8, 1).indices(2) == Indices{4, 1, 0, 2, 5, 6, 7, 3});
}

TEST_CASE("RandomSampler gives every permutation equally often") {
  // 24,000 epochs over 4 elements: each of the 24 orders about 1,000 times; chi-square with 23 degrees of freedom stays
  // below 58 in all but 1 of 10,000 cases.
  std::vector<int> counts(256);
  const RandomSampler sampler(4, 11);
  for (int epoch = 0; epoch < 24'000; ++epoch) {
    const Indices order = sampler.indices(epoch);
    ++counts[static_cast<std::size_t>(order[0] * 64 + order[1] * 16 + order[2] * 4 + order[3])];
  }
  double chi_square = 0;
  int orders = 0;
  for (const int count : counts) {
    if (count > 0) ++orders, chi_square += (count - 1000) * (count - 1000) / 1000.0;
  }
  CHECK(orders == 24);
  CHECK(chi_square < 58);
}
