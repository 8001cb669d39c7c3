// DistributedDataParallel: the run_training() of the tutorials (init the process group, wrap the model, train), the
// same function for threads, MPI processes and GPUs.
//
//   train_ddp                                       alone: a rank for each GPU, or for each processor of the CPU
//   mpirun -np 4 train_ddp --replicas 4             processes, on one machine or many
//   srun -n 4 train_ddp --replicas 4                likewise
//
// With --replicas R the weights after N steps are the same bits for any number of ranks up to R: the last line printed
// is their SHA-256. Each rank prints which replicas it computed and how many bytes it sent.
#include <algorithm>
#include <mutex>
#include <string>
#include <vector>

#include <fmt/core.h>

#include <lockstep/lockstep.h>
#include <CLI/CLI.hpp>

#include "trainer.h"

using namespace lockstep;
using namespace lockstep::examples;

namespace {

struct DdpOptions : TrainerOptions {
  ReplicaOptions replica;
  int ranks = 0;
  std::int64_t width = 64;
  std::string save;
};

/// Percent of the test images that are classified correctly, each rank testing its share of them.
double test_accuracy(ResNet& model, const DataLoader& loader, ProcessGroup& group) {
  const NoGradGuard no_grad;
  model.eval();
  std::int64_t correct = 0;
  for (const Batch& batch : loader.epoch(0)) {
    correct += count_correct(model(batch.images.to(group.device())), batch.labels.to(group.device()));
  }
  model.train();
  const Tensor all = Tensor::from(std::vector{correct}, {1});
  group.all_reduce(all).wait();
  return 100.0 * all.item() / static_cast<double>(loader.dataset().size());
}

/// What every rank runs.
void run_training(ProcessGroup& group, const TrainingData& data, const DdpOptions& options) {
  const bool prints = group.rank() == 0;
  manual_seed(options.seed);
  ResNet model =
      resnet18({.num_classes = static_cast<std::int64_t>(data.train->classes().size()), .width = options.width});
  model.to(group.device());
  DistributedDataParallel ddp(model, group, options.replica);
  SGD optimizer(model.parameters(), options.sgd);

  const DistributedSamplerOptions sharing{
      .num_replicas = ddp.replicas(), .rank = group.rank(), .num_ranks = group.size(), .seed = options.seed};
  const auto sampler = std::make_shared<DistributedSampler>(data.train->size(), options.batch_size, sharing);
  const DataLoader train_loader(
      data.train, plain_transform(),
      {.batch_size = sampler->batch_size(), .seed = options.seed, .workers = options.workers, .sampler = sampler});
  DistributedSamplerOptions in_order = sharing;
  in_order.shuffle = false;
  const auto test_sampler = std::make_shared<DistributedSampler>(data.test->size(), options.batch_size, in_order);
  const DataLoader test_loader(
      data.test, plain_transform(),
      {.batch_size = test_sampler->batch_size(), .workers = options.workers, .sampler = test_sampler});

  const auto loss_of = [&](const Batch& replica) { return cross_entropy(model(replica.images), replica.labels); };
  const std::int64_t all_steps = sampler->global_batches();
  const std::int64_t steps = options.max_steps > 0 ? std::min(options.max_steps, all_steps) : all_steps;
  for (int epoch = 1; epoch <= options.epochs; ++epoch) {
    Tensor running_loss = Tensor::zeros({}, {.device = group.device()});
    std::unique_ptr<ProgressBar> bar;
    if (prints) bar = std::make_unique<ProgressBar>(fmt::format("Epoch {}", epoch), steps);
    auto batches = train_loader.epoch(epoch - 1);
    for (std::int64_t step = 1; step <= steps; ++step) {
      optimizer.zero_grad();
      running_loss.add_(ddp.backward(batches.next().value_or(Batch{}), loss_of));  // of all ranks
      optimizer.step();
      if (prints && step % options.log_interval == 0) {
        print_line(
            fmt::format("[Epoch {}, Step {}] Loss: {:.3f}", epoch, step, running_loss.item() / options.log_interval));
      }
      if (step % options.log_interval == 0) running_loss.zero_();
      if (bar) bar->advance();
    }
    if (bar) bar->finish();
    const double accuracy = test_accuracy(model, test_loader, group);
    if (prints) print_line(fmt::format("[Epoch {}] Test accuracy: {:.2f} %", epoch, accuracy));
  }

  const ReducerStats stats = ddp.stats();
  for (int rank = 0; rank < group.size(); ++rank) {  // one after the other
    group.barrier();
    if (rank != group.rank()) continue;
    print_line(
        fmt::format("rank {} of {} ({}): replicas {} to {} of {}, {} steps, {:.1f} MB sent, {:.0f} % of the "
                    "reductions begun during backward",
                    group.rank(), group.size(), to_string(group.device()), ddp.own().begin, ddp.own().end - 1,
                    ddp.replicas(), stats.steps, static_cast<double>(group.bytes_sent()) / 1e6,
                    100.0 * static_cast<double>(stats.reduced_in_backward) /
                        static_cast<double>(std::max<std::int64_t>(stats.reduced, 1))));
  }
  if (prints) print_line("SHA-256 of the weights: " + sha256_of(model.state_dict()));
  if (prints && !options.save.empty()) save_safetensors(options.save, model.state_dict(), {{"format", "pt"}});
}

}  // namespace

int main(int argc, char** argv) try {
  DdpOptions options;
  std::string device_name = "auto";
  CLI::App app("Trains ResNet-18 on several ranks: threads of this process, or the processes of mpirun or srun.");
  options.add_to(app);
  options.add_epochs_to(app);
  app.add_option("--replicas", options.replica.replicas, "Shards of each batch; 0: one for each rank")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--ranks", options.ranks, "Threads that train, when alone; 0: one for each device")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--device", device_name, "auto, cpu or cuda, when alone")->capture_default_str();
  app.add_option("--width", options.width, "Channels of the first layer; 64 is ResNet-18")->capture_default_str();
  app.add_flag("!--fast", options.replica.bitwise, "A plain all-reduce: bits depend on the number of ranks");
  app.add_flag("!--no-overlap", options.replica.overlap, "Reduce after backward");
  app.add_option("--save", options.save, "Where the weights go (safetensors)");
  CLI11_PARSE(app, argc, argv);

  const LaunchEnv env = launch_env();
  if (env.rank == 0) print_line("Launched as " + to_string(env));
  const TrainingData data = load_data(options);
  if (env.size > 1) {
    const auto group = mpi_process_group();
    run_training(*group, data, options);
    return 0;
  }
  const Device::Type type = parse_device(device_name).type;
  const int there = type == Device::Type::cuda ? cuda_device_count() : num_threads();
  std::vector<Device> devices;
  for (int rank = 0; rank < (options.ranks > 0 ? options.ranks : there); ++rank) {
    devices.push_back(type == Device::Type::cuda ? Device{type, rank % there} : kCpu);
  }
  spawn(devices, [&](ProcessGroup& group) { run_training(group, data, options); });
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "train_ddp: {}\n", error.what());
  return 1;
}
