#include <lockstep/parallel/distributed_data_parallel.h>

#include <cstdio>
#include <mutex>
#include <set>

#include <catch2/catch.hpp>

#include <lockstep/tests/parallel/models.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

std::vector<Device> cpus(int n) { return std::vector<Device>(static_cast<std::size_t>(n), kCpu); }

/// Weights and buffers after some steps on `ranks` ranks, which must agree, and the losses.
struct Outcome {
  std::string hash;
  std::vector<double> losses;
  std::uint64_t copies = 0;
};

Outcome train(int ranks, DistributedDataParallelOptions options, int steps = 4, std::int64_t batch_size = 22) {
  manual_seed(7);
  Outcome outcome;
  std::mutex mutex;
  const std::uint64_t copies = detail::grad_destination_copies();
  spawn(cpus(ranks), [&](ProcessGroup& group) {
    SmallNet model;
    DistributedDataParallel ddp(model, group, options);
    SGD optimizer(model.parameters(), {.lr = 0.1, .momentum = 0.9, .weight_decay = 1e-3});
    std::vector<double> losses;
    for (int step = 0; step < steps; ++step) {
      const std::int64_t size = step == 2 ? 5 : batch_size;  // fewer images than replicas
      const Batch batch = random_batch(size, static_cast<std::uint64_t>(step));
      optimizer.zero_grad();
      const Tensor loss = ddp.backward(rows_of_replicas(batch, ddp.own(), ddp.replicas()), [&](const Batch& replica) {
        return cross_entropy(model(replica.images), replica.labels);
      });
      optimizer.step();
      losses.push_back(loss.item());
    }
    const std::string hash = hash_of(model.state_dict());
    std::lock_guard lock(mutex);
    if (outcome.hash.empty()) outcome = {hash, losses, 0};
    CHECK(outcome.hash == hash);
    CHECK(outcome.losses == losses);
  });
  outcome.copies = detail::grad_destination_copies() - copies;
  return outcome;
}

}  // namespace

TEST_CASE("the weights are the same bits for any number of ranks") {
  int runs = 0;
  for (const std::int64_t replicas : {1, 2, 3, 6, 7, 8}) {
    std::set<std::string> hashes;
    std::set<std::vector<double>> losses;
    for (int ranks = 1; ranks <= replicas; ++ranks) {
      CAPTURE(replicas, ranks);
      const Outcome outcome = train(ranks, {{.replicas = replicas, .first_bucket_bytes = 1000, .bucket_bytes = 3000}});
      CHECK(outcome.copies == 0);
      hashes.insert(outcome.hash);
      losses.insert(outcome.losses);
      ++runs;
    }
    CHECK(hashes.size() == 1);
    CHECK(losses.size() == 1);
  }
  std::printf("bitwise_runs: %d\n", runs);
}
