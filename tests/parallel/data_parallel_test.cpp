#include <lockstep/parallel/data_parallel.h>

#include <cmath>
#include <cstdio>
#include <set>

#include <fmt/core.h>
#include <catch2/catch.hpp>

#include <lockstep/tests/parallel/models.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

/// Hash of weights and buffers after some steps, each followed by an evaluation.
std::string train(Device::Type type, std::int64_t replicas, int devices, int steps = 4) {
  manual_seed(3);
  DataParallel model(SmallNet(), {.replicas = replicas, .first_bucket_bytes = 1000, .bucket_bytes = 3000},
                     devices_of(type, devices));
  SGD optimizer(model.parameters(), {.lr = 0.1, .momentum = 0.9});
  std::string losses;
  for (int step = 0; step < steps; ++step) {
    const Batch batch = random_batch(step == 2 ? 5 : 22, static_cast<std::uint64_t>(step));
    model.train();
    optimizer.zero_grad();
    const Device here = model.devices()[0];
    const Tensor loss = cross_entropy(model(batch.images.to(here)), batch.labels.to(here));
    loss.backward();
    optimizer.step();
    model.eval();
    const NoGradGuard no_grad;
    losses += fmt::format("{} {} ", loss.item(), sum(model(batch.images.to(here))).item());
  }
  return sha256_of(model.state_dict()) + losses;
}

}  // namespace

TEST_CASE("DataParallel gives the same bits on any number of devices") {
  int runs = 0;
  for (const Device::Type type : device_types()) {
    const bool on_cuda = type == Device::Type::cuda;
    for (const std::int64_t replicas :
         on_cuda ? std::vector<std::int64_t>{4} : std::vector<std::int64_t>{2, 3, 6, 7, 8}) {
      std::set<std::string> outcomes;
      for (int devices = 1; devices <= replicas; ++devices, ++runs) {
        outcomes.insert(train(type, replicas, devices, on_cuda ? 3 : 4));
      }
      CAPTURE(on_cuda, replicas);
      CHECK(outcomes.size() == 1);
    }
  }
  CHECK(train(Device::Type::cpu, 2, 1) !=
        train(Device::Type::cpu, 3, 1));  // another number of replicas is another computation
  std::printf("bitwise_runs: %d\n", runs);
}

TEST_CASE("without batch norm DataParallel gives the module's own results and gradients") {
  double worst = 0;
  int comparisons = 0;
  const auto difference = [](const Tensor& a, const Tensor& b) {
    double sum = 0, norm = 0;
    const auto x = a.to_vector<double>(), y = b.to_vector<double>();
    REQUIRE(x.size() == y.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      sum += (x[i] - y[i]) * (x[i] - y[i]);
      norm += y[i] * y[i];
    }
    return std::sqrt(sum / std::max(norm, 1e-300));
  };
  for (const std::int64_t replicas : {1, 2, 3, 5, 30}) {
    manual_seed(8);
    SmallNet alone(false, false);
    alone.to(DType::float64);
    DataParallel model(clone(alone), {.replicas = replicas}, devices_of(Device::Type::cpu, replicas == 1 ? 1 : 2));
    for (std::uint64_t step = 0; step < 2; ++step) {  // gradients add up
      const Batch batch = random_batch(23, step, DType::float64);
      const Tensor x = batch.images.clone().set_requires_grad(), same_x = batch.images.clone().set_requires_grad();
      const Tensor y = model(x), expected = alone(same_x);
      worst = std::max(worst, difference(y.detach(), expected.detach()));
      cross_entropy(y, batch.labels).backward();
      cross_entropy(expected, batch.labels).backward();
      worst = std::max(worst, difference(x.grad(), same_x.grad()));
      for (std::size_t i = 0; i < alone.parameters().size(); ++i, ++comparisons) {
        worst = std::max(worst, difference(model.parameters()[i].grad(), alone.parameters()[i].grad()));
      }
    }
  }
  std::printf("gradient_comparisons: %d\nworst_difference: %.1e\n", comparisons, worst);
  CHECK(worst > 0);
  CHECK(worst < 1e-12);
}

TEST_CASE("DataParallel is a module: names, modes, frozen parameters, state, moves") {
  manual_seed(8);
  DataParallel model(SmallNet(), {.replicas = 3}, devices_of(Device::Type::cpu, 2));
  CHECK(model.named_parameters()[0].first == "module.conv1.weight");
  CHECK_THAT(to_string(model), Catch::Matchers::StartsWith("DataParallel(\n  (module): "));
  const Batch batch = random_batch(12, 1);
  const auto backward = [&] {
    model.zero_grad();
    cross_entropy(model(batch.images), batch.labels).backward();
  };
  backward();
  auto& net = dynamic_cast<SmallNet&>(model.module());
  CHECK(net.conv1.weight.grad().defined());
  CHECK(net.norm.num_batches_tracked.item() == 1);  // of replica 0 alone
  net.conv1.weight.set_requires_grad(false);
  backward();
  CHECK(!net.conv1.weight.grad().defined());
  CHECK(net.conv2.weight.grad().defined());
  net.conv1.weight.set_requires_grad(true);

  // Values loaded into the module are those that the replicas compute with; so are converted parameters.
  SmallNet other;
  net.load_state_dict(other.state_dict());
  model.eval();
  {
    const NoGradGuard no_grad;
    const Tensor y = model(batch.images);
    CHECK(!y.requires_grad());
    CHECK(sum(sub(y, net(batch.images))).item() == Approx(0).margin(1e-4));
    model.to(DType::float64);
    CHECK(model(batch.images.to(DType::float64)).dtype() == DType::float64);
    model.to(DType::float32);
  }
  CHECK(net.norm.num_batches_tracked.item() == other.norm.num_batches_tracked.item());
  model.train();
  backward();
  CHECK(net.conv1.weight.grad().defined());

  // An output that is not used, or used after another forward.
  const Tensor first = model(batch.images);
  model(batch.images);
  model.zero_grad();
  cross_entropy(first, batch.labels).backward();
  CHECK(net.conv1.weight.grad().defined());
  CHECK_THROWS_AS(cross_entropy(first, batch.labels).backward(), AutogradError);
}

namespace {

struct Fails : Module {
  Linear fc{4, 3};
  Fails() { register_module("fc", fc); }
  Tensor forward(const Tensor& x) override {
    for (const float value : x.to_vector<float>()) {
      if (value > 5) throw ValueError("Fails", "a bad image");
    }
    return fc(x);
  }
};

}  // namespace

TEST_CASE("an exception of one replica is rethrown, and the next step works") {
  DataParallel model(Fails(), {.replicas = 4}, devices_of(Device::Type::cpu, 2));
  Tensor x = Tensor::ones({8, 4});
  x.data<float>()[7 * 4] = 9;
  CHECK_THROWS_WITH(model(x), "[Fails] a bad image");
  sum(model(Tensor::ones({8, 4}))).backward();
  CHECK(model.parameters()[1].grad().to_vector<float>() == std::vector<float>{8, 8, 8});
  CHECK_THROWS_AS(model(Tensor()), ShapeError);
  CHECK_THROWS_AS(model(Tensor::ones({})), ShapeError);
  CHECK_THROWS_AS(model(Tensor::ones({8, 5})), ShapeError);
  CHECK_THROWS_AS(DataParallel(Linear(4, 3), {.replicas = 1}, devices_of(Device::Type::cpu, 2)), ValueError);
  CHECK_THROWS_AS(DataParallel(Linear(4, 3), {}, {Device{Device::Type::cuda, 77}}), DeviceError);
}

TEST_CASE("a module that trains nothing runs in parallel too") {
  SmallNet net;
  net.requires_grad(false);
  DataParallel model(std::move(net), {.replicas = 2}, devices_of(Device::Type::cpu, 2));
  const Tensor x = random_batch(6, 1).images.clone().set_requires_grad();
  sum(model(x)).backward();
  CHECK(x.grad().shape() == x.shape());
}
