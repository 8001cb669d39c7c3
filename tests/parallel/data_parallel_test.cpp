#include <lockstep/parallel/data_parallel.h>

#include <cstdio>
#include <set>

#include <fmt/core.h>
#include <catch2/catch.hpp>

#include <lockstep/tests/parallel/models.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

/// Hash of weights and buffers after some steps, each followed by an evaluation.
std::string train(std::int64_t replicas, int devices, int steps = 4) {
  manual_seed(3);
  DataParallel model(SmallNet(), {.replicas = replicas, .first_bucket_bytes = 1000, .bucket_bytes = 3000},
                     devices_of(Device::Type::cpu, devices));
  SGD optimizer(model.parameters(), {.lr = 0.1, .momentum = 0.9});
  std::string losses;
  for (int step = 0; step < steps; ++step) {
    const Batch batch = random_batch(step == 2 ? 5 : 22, static_cast<std::uint64_t>(step));
    model.train();
    optimizer.zero_grad();
    const Tensor loss = cross_entropy(model(batch.images), batch.labels);
    loss.backward();
    optimizer.step();
    model.eval();
    const NoGradGuard no_grad;
    losses += fmt::format("{} {} ", loss.item(), sum(model(batch.images)).item());
  }
  return hash_of(model.state_dict()) + losses;
}

}  // namespace

TEST_CASE("DataParallel gives the same bits on any number of devices") {
  int runs = 0;
  for (const std::int64_t replicas : {2, 3, 6, 7, 8}) {
    std::set<std::string> outcomes;
    for (int devices = 1; devices <= replicas; ++devices, ++runs) outcomes.insert(train(replicas, devices));
    CAPTURE(replicas);
    CHECK(outcomes.size() == 1);
  }
  CHECK(train(2, 1) != train(3, 1));  // another number of replicas is another computation
  std::printf("bitwise_runs: %d\n", runs);
}
