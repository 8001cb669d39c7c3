// LibTorch twin of benchmarks/host_cost.cpp; prints the same JSON line. Build with Debian's libtorch-dev through CMake
// (LOCKSTEP_BUILD_LIBTORCH_BENCHMARK) or by hand:
//
//   g++ -std=c++17 -O3 -isystem /usr/include/torch/csrc/api/include benchmarks/pytorch/host_cost.cpp -ltorch
//   -ltorch_cpu -lc10
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../process.h"

namespace {

constexpr int kOps = 1000;

torch::Tensor chain(const torch::Tensor& x, const torch::Tensor& bias) {
  torch::Tensor y = x;
  for (int i = 0; i < kOps / 2; ++i) y = torch::relu(torch::add(y, bias));
  return y;
}

double ns_per_op(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double, std::nano>(duration).count() / kOps;
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = 300, forwards = argc > 1 ? std::atoi(argv[1]) : 10'000;
  torch::set_num_threads(1);
  const torch::Tensor x = torch::rand({16}, torch::requires_grad());
  const torch::Tensor bias = torch::rand({16}), ones = torch::ones({16});

  std::vector<double> forward_ns, backward_ns;
  for (int round = -rounds / 10; round < rounds; ++round) {  // the first ones warm up
    x.mutable_grad().reset();
    const auto start = std::chrono::steady_clock::now();
    const torch::Tensor y = chain(x, bias);
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

  std::sort(forward_ns.begin(), forward_ns.end());
  std::sort(backward_ns.begin(), backward_ns.end());
  std::printf(
      "{\"forward_ns_per_op\":{\"min\":%g,\"median\":%g},\"backward_ns_per_op\":{\"min\":%g,\"median\":%g},"
      "\"recorded_forwards\":%d,\"rss_growth_mb\":%g,\"peak_mb\":%g}\n",
      forward_ns.front(), forward_ns[forward_ns.size() / 2], backward_ns.front(), backward_ns[backward_ns.size() / 2],
      forwards, growth, memory_mb("VmHWM"));
}
