#include <lockstep/data/distributed_sampler.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <iostream>
#include <set>

#include <lockstep/core/base/error.h>
#include <lockstep/data/data_loader.h>
#include <lockstep/data/synthetic.h>

using namespace lockstep;
using Indices = std::vector<std::int64_t>;

namespace {

/// What an epoch must be, said in another way: image i of a global batch of b belongs to the replica whose number is
/// found by dealing out b places to the replicas one by one, and the replica to the rank found likewise.
std::vector<std::int64_t> owners(std::int64_t things, std::int64_t parts) {
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(parts));
  for (std::int64_t i = 0; i < things; ++i) ++sizes[static_cast<std::size_t>(i % parts)];
  std::vector<std::int64_t> result;
  for (std::size_t p = 0; p < sizes.size(); ++p) result.insert(result.end(), static_cast<std::size_t>(sizes[p]), p);
  return result;
}

}  // namespace

TEST_CASE("DistributedSampler gives every index to one rank, and each replica the same for any number of ranks") {
  int cases = 0;
  for (const bool drop_last : {false, true}) {
    for (std::int64_t n = 0; n <= 20; ++n) {
      for (std::int64_t batch = 1; batch <= 21; ++batch) {
        for (std::int64_t replicas = 1; replicas <= 9; ++replicas) {
          for (std::int64_t ranks = 1; ranks <= std::min<std::int64_t>(4, replicas); ++ranks) {
            CAPTURE(drop_last, n, batch, replicas, ranks);
            const Indices order = RandomSampler(n, 7).indices(3);
            const std::int64_t visited = drop_last ? n / batch * batch : n;
            std::vector<Indices> expected(static_cast<std::size_t>(ranks));
            const std::vector<std::int64_t> rank_of_replica = owners(replicas, ranks);
            for (std::int64_t first = 0; first < visited; first += batch) {
              const std::int64_t here = std::min(batch, visited - first);
              const std::vector<std::int64_t> replica_of = owners(here, replicas);
              for (std::int64_t i = 0; i < here; ++i) {
                const std::int64_t replica = replica_of[static_cast<std::size_t>(i)];
                expected[static_cast<std::size_t>(rank_of_replica[static_cast<std::size_t>(replica)])].push_back(
                    order[static_cast<std::size_t>(first + i)]);
              }
            }
            std::multiset<std::int64_t> seen;
            bool right = true;
            for (std::int64_t rank = 0; rank < ranks; ++rank) {
              const DistributedSampler sampler(
                  n, batch,
                  {.num_replicas = replicas, .rank = rank, .num_ranks = ranks, .seed = 7, .drop_last = drop_last});
              const Indices mine = sampler.indices(3);
              seen.insert(mine.begin(), mine.end());
              // The loader's batches are the parts of the global ones, and none of them is empty but the last.
              const std::int64_t batches = (sampler.size() + sampler.batch_size() - 1) / sampler.batch_size();
              right = right && mine == expected[static_cast<std::size_t>(rank)] &&
                      sampler.size() == static_cast<std::int64_t>(mine.size()) &&
                      (sampler.size() == 0 || batches >= sampler.global_batches() - 1) &&
                      batches <= sampler.global_batches();
            }
            Indices all = order;
            all.resize(static_cast<std::size_t>(visited));
            right = right && seen == std::multiset<std::int64_t>(all.begin(), all.end());
            CHECK(right);
            ++cases;
          }
        }
      }
    }
  }
  std::cout << "partitions: " << cases << '\n';
}

TEST_CASE("DistributedSampler draws another partition in every epoch, the same one in each process") {
  const auto sampler = [](std::int64_t rank, bool shuffle = true, std::uint64_t seed = 1) {
    return DistributedSampler(100, 10, {.num_replicas = 4, .rank = rank, .shuffle = shuffle, .seed = seed});
  };
  CHECK(sampler(1).indices(0) != sampler(1).indices(1));
  CHECK(sampler(1).indices(5) == sampler(1).indices(5));
  CHECK(sampler(1).indices(0) != sampler(1, true, 2).indices(0));
  CHECK(sampler(1, false).indices(0) == sampler(1, false).indices(1));
  CHECK(sampler(1, false).indices(0).front() == 3);  // shards of 3, 3, 2, 2
  CHECK(sampler(0).batch_size() == 3);
  CHECK(sampler(3).batch_size() == 2);
  CHECK(sampler(3).global_batches() == 10);
  CHECK(DistributedSampler(100, 10, {.num_replicas = 6, .rank = 1, .num_ranks = 4}).replicas() == Run{2, 4});
}

TEST_CASE("A DataLoader gives a rank its part of each global batch") {
  const auto data = std::make_shared<SyntheticDataset>(Split::train, 23);
  const auto batches_of = [&](std::int64_t replicas, std::int64_t ranks, std::int64_t rank) {
    const auto sampler = std::make_shared<DistributedSampler>(
        data->size(), 8, DistributedSamplerOptions{.num_replicas = replicas, .rank = rank, .num_ranks = ranks});
    const DataLoader loader(data, Compose(ToTensor()), {.batch_size = sampler->batch_size(), .sampler = sampler});
    std::vector<Indices> batches;
    for (const Batch& batch : loader.epoch(2)) batches.push_back(batch.indices);
    return batches;
  };
  const std::vector<Indices> alone = batches_of(3, 1, 0);
  REQUIRE(alone.size() == 3);
  std::vector<Indices> together(3);
  for (const std::int64_t rank : {0, 1, 2}) {
    const std::vector<Indices> batches = batches_of(3, 3, rank);
    REQUIRE(batches.size() == 3);
    for (std::size_t b = 0; b < 3; ++b) together[b].insert(together[b].end(), batches[b].begin(), batches[b].end());
  }
  CHECK(together == alone);
}

TEST_CASE("DistributedSampler refuses what cannot be") {
  using Options = DistributedSamplerOptions;
  CHECK_THROWS_AS(DistributedSampler(-1, 1), ValueError);
  CHECK_THROWS_AS(DistributedSampler(1, 0), ValueError);
  CHECK_THROWS_AS(DistributedSampler(1, 1, Options{.num_replicas = 0}), ValueError);
  CHECK_THROWS_AS(DistributedSampler(1, 1, Options{.num_replicas = 2, .rank = 2}), ValueError);
  CHECK_THROWS_AS(DistributedSampler(1, 1, Options{.num_replicas = 2, .rank = -1}), ValueError);
  CHECK_THROWS_AS(DistributedSampler(1, 1, Options{.num_replicas = 2, .rank = 0, .num_ranks = 3}), ValueError);
  CHECK_THROWS_AS(DistributedSampler(1, 1, Options{.num_replicas = 2, .rank = 0, .num_ranks = 0}), ValueError);
  CHECK(DistributedSampler(0, 4, {.num_replicas = 2}).indices(0).empty());
}
