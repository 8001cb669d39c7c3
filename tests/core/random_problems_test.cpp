// Random problems of the size that vector paths, tails and threads need: float32 against float64, forward and every
// gradient, and float64 against plain loops. The problems are a function of LOCKSTEP_SEED; what fails prints the line
// that runs it alone.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <catch2/catch.hpp>

#include <lockstep/core/optim/sgd.h>
#include <lockstep/tests/support/check_op.h>

using namespace lockstep;
using namespace lockstep::test;

namespace {

constexpr int kShownFailures = 5;

std::uint64_t seed() {
  const char* text = std::getenv("LOCKSTEP_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 1;
}

/// The number in LOCKSTEP_PROBLEM=<op>:<number> if that asks for this op alone.
struct Range {
  std::int64_t begin, end;
};
Range wanted(const std::string& op, std::int64_t count) {
  const char* text = std::getenv("LOCKSTEP_PROBLEM");
  if (!text) return {0, count};
  const std::string problem = text;
  const std::size_t colon = problem.find(':');
  if (problem.substr(0, colon) != op || colon == std::string::npos) return {0, 0};
  const std::int64_t number = std::atoll(problem.c_str() + colon + 1);
  return {number, number + 1};
}

std::string reproducer(const std::string& op, std::int64_t number) {
  return fmt::format("LOCKSTEP_SEED={} LOCKSTEP_PROBLEM={}:{} build/release/tests/lockstep_core_tests 'Random *'",
                     seed(), op, number);
}

/// Runs problems of one op; returns how many distinct ones agreed.
std::size_t run_problems(const OpEntry& entry, std::int64_t count) {
  std::set<std::string> distinct;
  int failures = 0;
  double worst = 0.0;
  const Range range = wanted(entry.name, count);
  for (std::int64_t number = range.begin; number < range.end; ++number) {
    const Sample sample = problem_of(entry, seed(), number);
    const std::string what = describe(entry, sample);
    const PrecisionCheck check = check_precision(sample, entry.tolerance);
    const std::string failure = check.failure.empty() ? check_reference(sample) : check.failure;
    worst = std::max(worst, check.worst);
    if (failure.empty()) {
      distinct.insert(what);
    } else if (++failures <= kShownFailures) {
      UNSCOPED_INFO(what << ": " << failure << "\n  " << reproducer(entry.name, number));
      CHECK(failure.empty());
    }
  }
  CAPTURE(entry.name);
  CHECK(failures == 0);
  if (range.end > range.begin) {
    std::printf("random_problems_%s: %zu (worst error %.2f of its bound)\n", entry.name.c_str(), distinct.size(),
                worst);
  }
  return distinct.size();
}

const OpEntry& entry_of(const std::string& name) {
  const auto& registry = op_registry();
  const auto found = std::find_if(registry.begin(), registry.end(), [&](const OpEntry& e) { return e.name == name; });
  REQUIRE(found != registry.end());
  return *found;
}

/// One to four SGD steps on a few float32 parameters against the formula in float64; what differs, or nothing.
std::string check_sgd(Draws& draws, std::string& what) {
  SGD::Options options{.lr = draws.next(0.001, 1.0)};
  if (draws.below(4) != 0) options.momentum = draws.next(0.1, 0.99);
  if (draws.coin()) options.weight_decay = draws.next(0.0, 0.1);
  options.nesterov = options.momentum > 0 && draws.coin();
  if (options.momentum > 0 && !options.nesterov && draws.coin()) options.dampening = draws.next(0.0, 1.0);
  const auto steps = draws.from_to(1, 4);
  what = fmt::format("lr {}, momentum {}, dampening {}, weight_decay {}, nesterov {}, {} steps", options.lr,
                     options.momentum, options.dampening, options.weight_decay, options.nesterov, steps);

  std::vector<Tensor> params;
  std::vector<std::vector<double>> p, buffer;
  for (auto left = draws.from_to(1, 5); left > 0; --left) {
    const Tensor values = draws.uniform({draws.coin() ? draws.from_to(1, 40) : draws.from_to(1, 5000)});
    params.push_back(values.to(DType::float32).set_requires_grad());
    p.push_back(values.to_vector<double>());
    buffer.emplace_back();
    what += fmt::format(", {}", to_string(values.shape()));
  }
  SGD sgd(params, options);
  for (std::int64_t step = 0; step < steps; ++step) {
    for (std::size_t i = 0; i < params.size(); ++i) {
      if (draws.below(8) == 0) {
        params[i].set_grad({});  // this step leaves the parameter alone
        continue;
      }
      const Tensor gradient = draws.uniform(params[i].shape());
      params[i].set_grad(gradient.to(DType::float32));
      std::vector<double> g = gradient.to_vector<double>();
      const bool first = buffer[i].empty();
      if (first) buffer[i].resize(g.size());
      for (std::size_t e = 0; e < g.size(); ++e) {
        g[e] += options.weight_decay * p[i][e];
        if (options.momentum > 0) {
          buffer[i][e] = first ? g[e] : options.momentum * buffer[i][e] + (1.0 - options.dampening) * g[e];
          g[e] = options.nesterov ? g[e] + options.momentum * buffer[i][e] : buffer[i][e];
        }
        p[i][e] -= options.lr * g[e];
      }
    }
    sgd.step();
  }
  for (std::size_t i = 0; i < params.size(); ++i) {
    const std::vector<double> got = params[i].to_vector<double>();
    for (std::size_t e = 0; e < got.size(); ++e) {
      // Each step rounds a handful of values of at most 10: parameters, gradients and buffers.
      if (!(std::abs(got[e] - p[i][e]) <= 0x1p-23 * 10.0 * static_cast<double>(steps))) {
        return fmt::format("parameter {} [{}]: {}, expected {}", i, e, got[e], p[i][e]);
      }
    }
  }
  return {};
}

std::size_t run_sgd_problems(std::int64_t count) {
  std::set<std::string> distinct;
  const Range range = wanted("SGD", count);
  for (std::int64_t number = range.begin; number < range.end; ++number) {
    Draws draws(seed(), static_cast<std::uint64_t>(number));
    std::string what;
    const std::string failure = check_sgd(draws, what);
    UNSCOPED_INFO(what << ": " << failure << "\n  " << reproducer("SGD", number));
    CHECK(failure.empty());
    distinct.insert(what);
  }
  if (range.end > range.begin) std::printf("random_problems_SGD: %zu\n", distinct.size());
  return distinct.size();
}

TEST_CASE("Random problems agree with float64 and with plain loops") {
  std::printf("random_seed: %llu\n", static_cast<unsigned long long>(seed()));
  std::size_t total = 0;
  for (const OpEntry& entry : op_registry()) total += run_problems(entry, entry.name == "conv2d" ? 1'500 : 150);
  total += run_sgd_problems(500);
  std::printf("random_problems: %zu\n", total);
  if (!std::getenv("LOCKSTEP_PROBLEM")) CHECK(total >= 5'000);
}

TEST_CASE("Random convolutions, 36,000 of them, agree with float64 and with plain loops", "[slow]") {
  std::printf("random_seed: %llu\n", static_cast<unsigned long long>(seed()));
  const std::size_t distinct = run_problems(entry_of("conv2d"), 36'000);
  if (!std::getenv("LOCKSTEP_PROBLEM")) CHECK(distinct >= 35'000);
}

}  // namespace
