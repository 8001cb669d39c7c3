// Training steps of ResNet-18 on several ranks, by modes that take turns in one run, as one JSON object:
//
//   one         the model alone on the whole batch, with a thread for each rank
//   bitwise     DistributedDataParallel, the canonical tree
//   fast        the same with a plain all-reduce
//   no_overlap  bitwise, every bucket reduced after backward
//
//   parallel_step --ranks 2 --steps 20                        threads of this process
//   mpirun -np 2 parallel_step --steps 20                     processes
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include <lockstep/lockstep.h>

using namespace lockstep;

namespace {

struct Options {
  std::int64_t size = 32, batch = 128, replicas = 0;
  int ranks = 2, steps = 15, warm_up = 2;
};

/// A model with what trains it. Rank 0 times its steps.
struct Mode {
  std::string name;
  ResNet model;
  std::unique_ptr<DistributedDataParallel> ddp;  // none: the model alone
  std::unique_ptr<SGD> optimizer;
  std::vector<double> seconds;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void run(ProcessGroup& group, const Options& options, nlohmann::ordered_json& result) {
  std::vector<Mode> modes;
  for (const char* name : {"one", "bitwise", "fast", "no_overlap"}) {
    manual_seed(0);
    modes.push_back({name, resnet18({.num_classes = 10}), nullptr, nullptr, {}});
  }
  for (Mode& mode : modes) {
    if (mode.name != "one") {
      mode.ddp = std::make_unique<DistributedDataParallel>(
          mode.model, group,
          ReplicaOptions{
              .replicas = options.replicas, .bitwise = mode.name != "fast", .overlap = mode.name != "no_overlap"});
    }
    mode.optimizer = std::make_unique<SGD>(mode.model.parameters(), SGD::Options{.lr = 0.01, .momentum = 0.9});
  }
  const Run own = part_of(options.batch, group.size(), group.rank());
  const auto batch_of = [&](std::int64_t n) {
    Batch batch{Tensor::randn({n, 3, options.size, options.size}).to(Layout::channels_last),
                Tensor::zeros({n}, {.dtype = DType::int64}), std::vector<std::int64_t>(static_cast<std::size_t>(n))};
    for (std::int64_t i = 0; i < n; ++i) batch.labels.data<std::int64_t>()[i] = i % 10;
    return batch;
  };
  const Batch whole = batch_of(options.batch), mine = batch_of(own.size());
  const int threads = num_threads();
  for (int step = 0; step < options.warm_up + options.steps; ++step) {
    for (Mode& mode : modes) {
      group.barrier();
      const auto start = std::chrono::steady_clock::now();
      mode.optimizer->zero_grad();
      if (mode.ddp) {
        mode.ddp->backward(mine, [&](const Batch& r) { return cross_entropy(mode.model(r.images), r.labels); });
        mode.optimizer->step();
      } else if (group.rank() == 0) {
        set_num_threads(group.size());
        cross_entropy(mode.model(whole.images), whole.labels).backward();
        mode.optimizer->step();
        set_num_threads(threads);
      }
      group.barrier();
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      if (step >= options.warm_up) mode.seconds.push_back(elapsed.count());
    }
  }
  if (group.rank() != 0) return;
  result = {{"backend", group.backend()}, {"ranks", group.size()}, {"batch", options.batch}, {"size", options.size}};
  for (const Mode& mode : modes) {
    result[mode.name + "_ms"] = 1e3 * median(mode.seconds);
    if (mode.ddp) {
      result[mode.name + "_waited_ms"] =
          1e3 * mode.ddp->stats().seconds_waited / static_cast<double>(mode.ddp->stats().steps);
      result[mode.name + "_begun_in_backward"] =
          static_cast<double>(mode.ddp->stats().reduced_in_backward) / static_cast<double>(mode.ddp->stats().reduced);
    }
  }
  const auto ratio = [&](const Mode& a, const Mode& b) {  // of steps next to each other, so that drift cancels
    std::vector<double> ratios;
    for (std::size_t i = 0; i < a.seconds.size(); ++i) ratios.push_back(a.seconds[i] / b.seconds[i]);
    return median(ratios);
  };
  result["bitwise_over_fast"] = ratio(modes[1], modes[2]);
  result["bitwise_over_one"] = ratio(modes[1], modes[0]);
  result["no_overlap_over_bitwise"] = ratio(modes[3], modes[1]);
}

}  // namespace

int main(int argc, char** argv) try {
  Options options;
  CLI::App app("Training steps on several ranks, by modes that take turns.");
  app.add_option("--size", options.size, "Height and width of the images")->capture_default_str();
  app.add_option("--batch", options.batch, "Images of a step, over all ranks")->capture_default_str();
  app.add_option("--replicas", options.replicas, "0: one for each rank")->capture_default_str();
  app.add_option("--ranks", options.ranks, "Threads, when alone")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--steps", options.steps)->capture_default_str()->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  nlohmann::ordered_json result;
  if (launch_env().size > 1) {
    const auto group = mpi_process_group();
    run(*group, options, result);
  } else {
    const std::vector<Device> devices(static_cast<std::size_t>(options.ranks), kCpu);
    spawn(devices, [&](ProcessGroup& group) { run(group, options, result); });
  }
  if (!result.is_null()) std::cout << result.dump(1) << std::endl;
  return 0;
} catch (const std::exception& error) {
  std::cerr << "parallel_step: " << error.what() << '\n';
  return 1;
}
