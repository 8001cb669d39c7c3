// What nn.DataParallel's tutorials leave out: data parallelism can be tried, and does something, on one device. Trains
// the same ResNet-18 three times, from the same weights on the same images:
//
//   - the model alone, as DataParallel with one replica is;
//   - 4 replicas on one device, one after the other;
//   - 4 replicas on all devices of this machine (GPUs, or the processors of the CPU), side by side.
//
// The last two end with the same bits (the hashes are equal): the number of replicas is a setting of the training, the
// devices are only where they run. PyTorch's DataParallel has as many replicas as GPUs, so with one GPU it does
// nothing.
//
//   train_data_parallel                                     synthetic images, no file needed
//   train_data_parallel --data ../shared/cifar10 --steps 100
//
// Expect 20 seconds for the default 20 steps on 2 cores.
#include <chrono>
#include <string>
#include <vector>

#include <fmt/core.h>

#include <lockstep/lockstep.h>
#include <CLI/CLI.hpp>

#include "trainer.h"

using namespace lockstep;
using namespace lockstep::examples;

namespace {

struct Outcome {
  double loss = 0, seconds = 0;  // of the last steps; per step
  std::string hash;
};

Outcome train(const TrainerOptions& options, const DataLoader& loader, std::int64_t classes, std::int64_t steps,
              std::int64_t replicas, const std::vector<Device>& devices) {
  manual_seed(options.seed);
  DataParallel model(resnet18({.num_classes = classes}), {.replicas = replicas}, devices);
  SGD optimizer(model.parameters(), options.sgd);
  Outcome outcome;
  ProgressBar bar(fmt::format("{} replica{}, {} device{}", replicas, replicas == 1 ? "" : "s", devices.size(),
                              devices.size() == 1 ? "" : "s"),
                  steps);
  std::int64_t step = 0;
  auto start = std::chrono::steady_clock::now();
  for (std::int64_t epoch = 0; step < steps; ++epoch) {
    for (const Batch& batch : loader.epoch(epoch)) {
      optimizer.zero_grad();
      const Tensor loss = cross_entropy(model(batch.images.to(devices[0])), batch.labels.to(devices[0]));
      loss.backward();
      optimizer.step();
      if (step == 0) start = std::chrono::steady_clock::now();  // the first step prepares what the others use
      bar.advance();
      if (++step < steps) continue;
      outcome.loss = loss.item();
      break;
    }
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  bar.finish();
  outcome.seconds = elapsed.count() / static_cast<double>(std::max<std::int64_t>(steps - 1, 1));
  outcome.hash = sha256_of(model.module().state_dict());
  return outcome;
}

/// All GPUs, or as many CPU devices as there are processors, but at most one for each replica.
std::vector<Device> all_devices(Device::Type type, std::int64_t replicas) {
  const bool on_cuda = type == Device::Type::cuda;
  const std::int64_t there = on_cuda ? cuda_device_count() : num_threads();
  std::vector<Device> devices;
  for (int i = 0; i < std::min(replicas, there); ++i) devices.push_back(on_cuda ? Device{type, i} : kCpu);
  return devices;
}

}  // namespace

int main(int argc, char** argv) try {
  TrainerOptions options;
  std::int64_t replicas = 4, steps = 20;
  std::string device_name = "auto";
  CLI::App app("Trains with one replica, and with several on one device and on all of them.");
  options.add_to(app);
  app.add_option("--replicas", replicas)->capture_default_str()->check(CLI::Range(2, 1024));
  app.add_option("--steps", steps, "Of each of the three runs")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--device", device_name, "auto, cpu or cuda")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const TrainingData data = load_data(options);
  const auto classes = static_cast<std::int64_t>(data.train->classes().size());
  const DataLoader loader(data.train, plain_transform(),
                          {.batch_size = options.batch_size,
                           .shuffle = true,
                           .seed = options.seed,
                           .workers = options.workers,
                           .drop_last = true});
  const std::vector<Device> all = all_devices(parse_device(device_name).type, replicas), one = {all[0]};
  const Outcome alone = train(options, loader, classes, steps, 1, one);
  const Outcome here = train(options, loader, classes, steps, replicas, one);
  const Outcome spread = train(options, loader, classes, steps, replicas, all);

  const auto row = [](std::int64_t r, const std::vector<Device>& devices, const Outcome& outcome) {
    print_line(fmt::format("{:>8} {:>3} x {:<6} {:>10.1f} {:>8.4f}  {}", r, devices.size(),
                           devices[0] == kCpu ? "cpu" : "cuda", outcome.seconds * 1e3, outcome.loss,
                           outcome.hash.substr(0, 16)));
  };
  print_line("replicas   devices     ms / step     loss  SHA-256 of the weights");
  row(1, one, alone);
  row(replicas, one, here);
  row(replicas, all, spread);
  if (here.hash != spread.hash) {
    fmt::print(stderr, "train_data_parallel: expected the same bits on one device and on {}\n", all.size());
    return 1;
  }
  print_line(
      fmt::format("The {} replicas gave the same bits on {} device and on {}.", replicas, one.size(), all.size()));
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "train_data_parallel: {}\n", error.what());
  return 1;
}
