// Every op of the registry (tests/support/check_op.h) at the sizes that its entry names, in float32: the forward alone,
// and the backward alone. `bytes_per_second` counts each input and output once, the least that must be moved: compare
// it with the row 'copy'. Takes Google Benchmark's options: --benchmark_filter=conv2d, --benchmark_format=json; and
// --device=cuda, where the time is the device's between two marks in its queue, many calls apart.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include <lockstep/core/base/stream.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/tests/support/check_op.h>

using namespace lockstep;
using namespace lockstep::test;

namespace {

Device device = kCpu;  // that the ops run on

std::int64_t bytes(const Tensor& x) {
  return x.defined() ? x.numel() * static_cast<std::int64_t>(size_of(x.dtype())) : 0;
}

std::int64_t bytes(const std::vector<Tensor>& tensors) {
  std::int64_t sum = 0;
  for (const Tensor& x : tensors) sum += bytes(x);
  return sum;
}

/// Times `call`, which moves so many bytes.
template <class Call>
void measure(benchmark::State& state, std::int64_t moved, Call&& call) {
  if (device == kCpu) {
    for (auto _ : state) call();
  } else {
    constexpr int kCalls = 20;
    call();  // makes plans, and fills the pool of memory
    const Stream stream = current_stream(device);
    for (auto _ : state) {
      const Event begin(stream);
      for (int i = 0; i < kCalls; ++i) call();
      const Event end(stream);
      end.synchronize();
      state.SetIterationTime(end.milliseconds_since(begin) / 1e3 / kCalls);
    }
  }
  state.SetBytesProcessed(moved * state.iterations());
}

void run_forward(benchmark::State& state, const Sample& sample) {
  const NoGradGuard no_grad;
  const std::vector<Tensor> inputs = make_leaves(sample, DType::float32, device);
  const std::int64_t moved = bytes(inputs) + bytes(sample.run(inputs));
  measure(state, moved, [&] { benchmark::DoNotOptimize(sample.run(inputs)); });
}

void run_backward(benchmark::State& state, const Sample& sample) {
  const std::vector<Tensor> inputs = make_leaves(sample, DType::float32, device);
  const Tensor y = sample.run(inputs);
  const Tensor grad = Tensor::ones(y.shape(), {.device = device, .layout = y.layout()});
  std::int64_t moved = bytes(inputs) + bytes(grad);
  for (const Tensor& x : inputs) moved += x.defined() && x.requires_grad() ? bytes(x) : 0;
  measure(state, moved, [&] {
    for (const Tensor& x : inputs) {
      if (x.defined() && x.requires_grad()) x.set_grad({});
    }
    y.backward(grad, /*retain_tape=*/true);
  });
}

void run_copy(benchmark::State& state) {
  const Tensor x = Tensor::ones({16, 64, 112, 112}, {.device = device}), y = Tensor::empty(x.shape(), x.options());
  measure(state, 2 * bytes(x), [&] { benchmark::DoNotOptimize(Tensor(y).copy_(x)); });
}

}  // namespace

int main(int argc, char** argv) try {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (!argument.starts_with("--device=")) continue;
    device = parse_device(argument.substr(argument.find('=') + 1));
    std::copy(argv + i + 1, argv + argc, argv + i);
    --argc;
    break;
  }
  const auto add = [](const std::string& name, const auto& function) {
    const auto row = benchmark::RegisterBenchmark(name.c_str(), function)->Unit(benchmark::kMicrosecond);
    device == kCpu ? row->UseRealTime() : row->UseManualTime();
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
} catch (const std::exception& error) {
  std::cerr << "ops: " << error.what() << '\n';
  return 1;
}
