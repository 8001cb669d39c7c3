// Memory over a long run: after the first steps nothing grows, whatever goes wrong on the way.
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <iostream>
#include <stdexcept>

#include <lockstep/lockstep.h>
#include <catch2/catch.hpp>

namespace {

using namespace lockstep;

constexpr int kSteps = 20'000, kWarmUp = 200;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kCaches = false;  // freed memory goes back, and is kept aside by the sanitizer for a while
constexpr bool kPlain = false;
#elif defined(__SANITIZE_THREAD__)
constexpr bool kCaches = true;
constexpr bool kPlain = false;  // the sanitizer's own memory grows
#else
constexpr bool kCaches = true;
constexpr bool kPlain = true;
#endif

struct Usage {
  MemoryStats stats;
  std::int64_t resident;
};

Usage usage() {
  std::int64_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return {memory_stats(), resident * sysconf(_SC_PAGESIZE)};
}

/// What users do wrong: calls that throw in the middle of a forward or a backward. Returns how many did.
int mishaps(Sequential& model, const Tensor& images) {
  int caught = 0;
  const auto attempt = [&](auto&& wrong) {
    try {
      wrong();
    } catch (const std::exception&) {
      ++caught;
    }
  };
  attempt([&] { matmul(model(images), images); });
  attempt([&] { model(narrow(images, 3, 0, 5)); });
  attempt([&] {
    const Tensor loss = mean(model(images));
    loss.backward();
    loss.backward();
  });
  attempt([&] {
    const Tensor logits = model(images);
    Tensor y = logits.detach().clone();
    record("failing", y, {&logits}, [](GradContext&) { throw std::runtime_error("no gradient today"); });
    (mean(y * y) + mean(exp(logits))).backward();  // logits have a gradient already when it throws
  });
  attempt([&] {
    const AnomalyMode anomaly;
    log(model(images) * 0.0 - 1.0);
  });
  return caught;
}

TEST_CASE("Memory is flat over 20,000 training steps, in spite of abandoned tapes and exceptions") {
  manual_seed(1);
  Sequential model(Conv2d(1, 4, 3, {.padding = 1}), BatchNorm2d(4), ReLU(), MaxPool2d(2), Flatten(),
                   Linear(4 * 4 * 4, 5));
  SGD optimizer(model.parameters(), {.lr = 0.01, .momentum = 0.9, .weight_decay = 1e-4});
  const Tensor images = Tensor::randn({16, 1, 8, 8});
  const Tensor labels = Tensor::from<std::int64_t>({0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0}, {16});

  Usage before{};
  Tensor abandoned;
  int exceptions = 0;
  for (int step = 0; step < kSteps; ++step) {
    if (step == kWarmUp) before = usage();
    const std::int64_t batch = step % 5 == 4 ? 7 : 16;  // the last of an epoch is smaller
    const Tensor input = narrow(images, 0, 0, batch), target = narrow(labels, 0, 0, batch);
    optimizer.zero_grad();
    const Tensor loss = cross_entropy(model(input), target);
    loss.backward();
    optimizer.step();
    if (step % 10 == 3) abandoned = cross_entropy(model(input), target);  // lives until the next one
    if (step % 100 == 50) exceptions += mishaps(model, input);
    if (step % 1000 == 999) {
      model.eval();
      const NoGradGuard no_grad;
      CHECK(model(images).size(0) == 16);
      model.train();
    }
  }
  const Usage after = usage();

  std::cout << "steps: " << kSteps << "\nexceptions: " << exceptions
            << "\nlive_bytes_growth: " << after.stats.live - before.stats.live
            << "\nsmall_block_bytes_growth: " << after.stats.small - before.stats.small
            << "\ncached_bytes_growth: " << after.stats.cached - before.stats.cached
            << "\npeak_bytes_growth: " << after.stats.peak - before.stats.peak
            << "\nsystem_allocations_growth: " << after.stats.system_allocations - before.stats.system_allocations
            << "\nresident_bytes_growth: " << after.resident - before.resident << '\n'
            << memory_summary() << std::endl;
  CHECK(exceptions == kSteps / 100 * 5);
  CHECK(after.stats.live == before.stats.live);
  CHECK(after.stats.small == before.stats.small);
  CHECK(after.stats.peak == before.stats.peak);
  if (kCaches) {
    CHECK(after.stats.cached == before.stats.cached);
    CHECK(after.stats.system_allocations == before.stats.system_allocations);
  }
  if (kPlain) CHECK(after.resident - before.resident <= 512 << 10);
}

}  // namespace
