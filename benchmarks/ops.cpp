// Every op of the registry (tests/support/check_op.h) at the sizes that its entry names, in float32: the forward alone,
// and the backward alone. `bytes_per_second` counts each input and output once, the least that must be moved: compare
// it with the row 'copy'. Takes Google Benchmark's options: --benchmark_filter=conv2d, --benchmark_format=json.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <vector>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/tests/support/check_op.h>

using namespace lockstep;
using namespace lockstep::test;

namespace {

std::int64_t bytes(const Tensor& x) {
  return x.defined() ? x.numel() * static_cast<std::int64_t>(size_of(x.dtype())) : 0;
}

std::int64_t bytes(const std::vector<Tensor>& tensors) {
  std::int64_t sum = 0;
  for (const Tensor& x : tensors) sum += bytes(x);
  return sum;
}

void run_forward(benchmark::State& state, const Sample& sample) {
  const NoGradGuard no_grad;
  const std::vector<Tensor> inputs = make_leaves(sample, DType::float32);
  const std::int64_t moved = bytes(inputs) + bytes(sample.run(inputs));
  for (auto _ : state) benchmark::DoNotOptimize(sample.run(inputs));
  state.SetBytesProcessed(moved * state.iterations());
}

void run_backward(benchmark::State& state, const Sample& sample) {
  const std::vector<Tensor> inputs = make_leaves(sample, DType::float32);
  const Tensor y = sample.run(inputs);
  const Tensor grad = Tensor::ones(y.shape(), {.layout = y.layout()});
  std::int64_t moved = bytes(inputs) + bytes(grad);
  for (const Tensor& x : inputs) moved += x.defined() && x.requires_grad() ? bytes(x) : 0;
  for (auto _ : state) {
    for (const Tensor& x : inputs) {
      if (x.defined() && x.requires_grad()) x.set_grad({});
    }
    y.backward(grad, /*retain_tape=*/true);
  }
  state.SetBytesProcessed(moved * state.iterations());
}

void run_copy(benchmark::State& state) {
  const Tensor x = Tensor::ones({16, 64, 112, 112}), y = Tensor::empty(x.shape());
  for (auto _ : state) benchmark::DoNotOptimize(Tensor(y).copy_(x));
  state.SetBytesProcessed(2 * bytes(x) * state.iterations());
}

}  // namespace

int main(int argc, char** argv) {
  const auto add = [](const std::string& name, const auto& function) {
    benchmark::RegisterBenchmark(name.c_str(), function)->Unit(benchmark::kMicrosecond)->UseRealTime();
  };
  add("copy", run_copy);
  // Samples are drawn when they are run: together they would fill the memory.
  for (const OpEntry& entry : op_registry()) {
    const auto samples = [&entry] {
      Draws draws(0);
      return entry.benchmarks(draws);
    };
    const std::vector<Sample> all = samples();
    for (std::size_t i = 0; i < all.size(); ++i) {
      const std::string name = describe(entry, all[i]);
      add(name + " forward", [=](benchmark::State& state) { run_forward(state, samples()[i]); });
      add(name + " backward", [=](benchmark::State& state) { run_backward(state, samples()[i]); });
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("lockstep_threads", std::to_string(num_threads()));
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
