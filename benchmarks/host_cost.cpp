// What an op costs beside its arithmetic: a chain of 1,000 adds and relus on 16 elements, in nanoseconds per op, and
// whether memory stays flat over recorded forwards that no backward follows. benchmarks/pytorch/host_cost.{cpp,py} are
// its twins.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include <lockstep/core/ops.h>

#include "process.h"

using namespace lockstep;

namespace {

constexpr int kOps = 1000;

Tensor chain(const Tensor& x, const Tensor& bias) {
  Tensor y = x;
  for (int i = 0; i < kOps / 2; ++i) y = relu(add(y, bias));
  return y;
}

double ns_per_op(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double, std::nano>(duration).count() / kOps;
}

nlohmann::ordered_json summary(std::vector<double>& values) {
  std::sort(values.begin(), values.end());
  return {{"min", values.front()}, {"median", values[values.size() / 2]}};
}

}  // namespace

int main(int argc, char** argv) {
  int rounds = 300, forwards = 10'000;
  CLI::App app("Host cost of a recorded op: ns per op of a chain of 1,000 adds and relus on 16 elements.");
  app.add_option("--rounds", rounds, "Forwards and backwards that are timed")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--forwards", forwards, "Recorded forwards without a backward")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  Tensor x = Tensor::rand({16});
  x.set_requires_grad();
  const Tensor bias = Tensor::rand({16});
  const Tensor ones = Tensor::ones({16});

  std::vector<double> forward_ns, backward_ns;
  for (int round = -rounds / 10; round < rounds; ++round) {  // the first ones warm up
    x.set_grad({});
    const auto start = std::chrono::steady_clock::now();
    const Tensor y = chain(x, bias);
    const auto forward = std::chrono::steady_clock::now();
    y.backward(ones);
    const auto end = std::chrono::steady_clock::now();
    if (round < 0) continue;
    forward_ns.push_back(ns_per_op(forward - start));
    backward_ns.push_back(ns_per_op(end - forward));
  }

  const double before = memory_mb("VmRSS");
  for (int i = 0; i < forwards; ++i) chain(x, bias);
  const double growth = memory_mb("VmRSS") - before;

  const nlohmann::ordered_json line = {{"forward_ns_per_op", summary(forward_ns)},
                                       {"backward_ns_per_op", summary(backward_ns)},
                                       {"recorded_forwards", forwards},
                                       {"rss_growth_mb", growth},
                                       {"peak_mb", memory_mb("VmHWM")}};
  std::cout << line << std::endl;
}
