#include <lockstep/core/optim/lr_scheduler.h>

#include <lockstep/core/base/error.h>
#include <lockstep/core/optim/sgd.h>
#include <catch2/catch.hpp>

using namespace lockstep;

namespace {

SGD make_optimizer() {
  Tensor a = Tensor::zeros({1}), b = Tensor::zeros({1});
  return SGD({{{a.set_requires_grad()}, {.lr = 0.1}}, {{b.set_requires_grad()}, {.lr = 0.04}}});
}

using Rates = std::vector<std::pair<double, double>>;  // of the two groups, count by count

void check_rates(const LrSchedule& schedule, const Rates& expected) {
  SGD optimizer = make_optimizer();
  LrScheduler scheduler(optimizer, schedule);
  for (const auto& [first, second] : expected) {
    CHECK(optimizer.lr(0) == Approx(first).epsilon(1e-13).margin(1e-16));
    CHECK(optimizer.lr(1) == Approx(second).epsilon(1e-13).margin(1e-16));
    scheduler.step();
  }
}

}  // namespace

// The numbers are those of torch.optim.lr_scheduler.

TEST_CASE("step_lr is StepLR") {
  check_rates(
      step_lr(3, 0.5),
      {{0.1, 0.04}, {0.1, 0.04}, {0.1, 0.04}, {0.05, 0.02}, {0.05, 0.02}, {0.05, 0.02}, {0.025, 0.01}, {0.025, 0.01}});
}

TEST_CASE("multi_step_lr is MultiStepLR") {
  check_rates(multi_step_lr({5, 2, 2}), {{0.1, 0.04},
                                         {0.1, 0.04},
                                         {0.001, 0.0004},
                                         {0.001, 0.0004},
                                         {0.001, 0.0004},
                                         {0.0001, 0.00004},
                                         {0.0001, 0.00004}});
}

TEST_CASE("cosine_annealing_lr is CosineAnnealingLR") {
  check_rates(cosine_annealing_lr(5, 0.01), {{0.1, 0.04},
                                             {0.09140576474687263, 0.03713525491562421},
                                             {0.06890576474687263, 0.029635254915624208},
                                             {0.04109423525312736, 0.020364745084375788},
                                             {0.018594235253127367, 0.01286474508437579},
                                             {0.01, 0.01},
                                             {0.018594235253127367, 0.012864745084375788},
                                             {0.04109423525312739, 0.02036474508437579}});
}

TEST_CASE("linear_lr is LinearLR") {
  check_rates(linear_lr(0.25, 1.0, 4),
              {{0.025, 0.01}, {0.04375, 0.0175}, {0.0625, 0.025}, {0.08125, 0.0325}, {0.1, 0.04}, {0.1, 0.04}});
}

TEST_CASE("sequential_lr is SequentialLR") {
  check_rates(sequential_lr({linear_lr(0.1, 1.0, 3), cosine_annealing_lr(4)}, {3}),
              {{0.01, 0.004},
               {0.04, 0.016},
               {0.07, 0.028},
               {0.1, 0.04},
               {0.08535533905932738, 0.03414213562373095},
               {0.05, 0.02},
               {0.014644660940672627, 0.005857864376269051},
               {0.0, 0.0}});
}

TEST_CASE("a scheduler goes to any count, also after the optimizer's state was loaded") {
  SGD optimizer = make_optimizer();
  LrScheduler scheduler(optimizer, step_lr(2, 0.5));
  for (int i = 0; i < 5; ++i) scheduler.step();
  CHECK(scheduler.count() == 5);

  SGD resumed = make_optimizer();
  resumed.load_state_dict(optimizer.state_dict());
  CHECK(resumed.lr(0) == 0.025);
  LrScheduler resumed_scheduler(resumed, step_lr(2, 0.5));
  resumed_scheduler.set_count(5);
  CHECK(resumed.lr(0) == 0.025);
  resumed_scheduler.step();
  CHECK(resumed.lr(1) == 0.005);
  CHECK_THROWS_AS(scheduler.set_count(-1), ValueError);
  CHECK(scheduler.count() == 5);
}

TEST_CASE("any function is a schedule") {
  SGD optimizer = make_optimizer();
  LrScheduler scheduler(optimizer, [](double lr, std::int64_t count) { return lr / static_cast<double>(1 + count); });
  scheduler.set_count(3);
  CHECK(optimizer.lr(0) == 0.025);
}

TEST_CASE("schedules out of range are refused") {
  SGD optimizer = make_optimizer();
  CHECK_THROWS_AS(step_lr(0), ValueError);
  CHECK_THROWS_AS(cosine_annealing_lr(0), ValueError);
  CHECK_THROWS_AS(linear_lr(0.0), ValueError);
  CHECK_THROWS_AS(linear_lr(0.5, 1.5), ValueError);
  CHECK_THROWS_AS(linear_lr(0.5, 1.0, 0), ValueError);
  CHECK_THROWS_AS(sequential_lr({step_lr(1)}, {1}), ValueError);
  CHECK_THROWS_AS(sequential_lr({step_lr(1), step_lr(1), step_lr(1)}, {3, 1}), ValueError);
  CHECK_THROWS_AS(sequential_lr({step_lr(1), nullptr}, {1}), ValueError);
  CHECK_THROWS_AS(LrScheduler(optimizer, nullptr), ValueError);
}
