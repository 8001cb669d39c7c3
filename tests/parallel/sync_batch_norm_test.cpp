#include <lockstep/parallel/sync_batch_norm.h>

#include <cmath>
#include <cstdio>
#include <mutex>

#include <catch2/catch.hpp>

#include <lockstep/tests/parallel/models.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

double largest_difference(const Tensor& a, const Tensor& b) {
  double largest = 0;
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  REQUIRE(x.size() == y.size());
  for (std::size_t i = 0; i < x.size(); ++i) largest = std::max(largest, std::abs(x[i] - y[i]));
  return largest;
}

}  // namespace

TEST_CASE("with synchronised batch norm the ranks compute what one does on the whole batch") {
  std::mutex mutex;
  double worst = 0;
  for (const int ranks : {1, 2, 3}) {
    spawn(devices_of(Device::Type::cpu, ranks), [&](ProcessGroup& group) {
      manual_seed(4);
      SmallNet model(true, false), alone(true, false);
      model.to(DType::float64);
      alone.load_state_dict(model.state_dict());
      alone.to(DType::float64);
      alone.load_state_dict(model.state_dict());
      convert_sync_batch_norm(model, group);
      DistributedDataParallel ddp(model, group);
      for (std::uint64_t step = 0; step < 2; ++step) {
        const Batch batch = random_batch(13, step, DType::float64);
        model.zero_grad();
        alone.zero_grad();
        const Tensor loss = ddp.backward(rows_of_replicas(batch, ddp.own(), ranks), [&](const Batch& replica) {
          return cross_entropy(model(replica.images), replica.labels);
        });
        const Tensor expected = cross_entropy(alone(batch.images), batch.labels);
        expected.backward();
        std::lock_guard lock(mutex);
        worst = std::max(worst, largest_difference(loss, expected.detach()));
        for (std::size_t i = 0; i < model.parameters().size(); ++i) {
          worst = std::max(worst, largest_difference(model.parameters()[i].grad(), alone.parameters()[i].grad()));
        }
        worst = std::max(worst, largest_difference(model.norm.running_mean, alone.norm.running_mean));
        worst = std::max(worst, largest_difference(model.norm.running_var, alone.norm.running_var));
        CHECK(model.norm.num_batches_tracked.item() == static_cast<double>(step + 1));
      }
      const NoGradGuard no_grad;
      model.eval();
      alone.eval();
      const Batch batch = random_batch(3, 9, DType::float64);
      std::lock_guard lock(mutex);
      worst = std::max(worst, largest_difference(model(batch.images), alone(batch.images)));
    });
  }
  std::printf("worst_difference: %.1e\n", worst);
  CHECK(worst > 0);
  CHECK(worst < 1e-13);
}

TEST_CASE("synchronised batch norm needs one replica for each rank") {
  spawn(devices_of(Device::Type::cpu, 2), [&](ProcessGroup& group) {
    SmallNet model;
    convert_sync_batch_norm(model, group);
    CHECK_THROWS_AS(DistributedDataParallel(model, group, {.replicas = 4}), ValueError);
  });
}
