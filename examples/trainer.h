// What the trainers of this folder share: their options, the data they train on, and how they test.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <lockstep/lockstep.h>
#include <CLI/CLI.hpp>

namespace lockstep::examples {

struct TrainerOptions {
  std::string data;
  bool download = false;
  int epochs = 5, workers = 1, log_interval = 100;
  std::int64_t batch_size = 128, max_steps = 0;
  std::uint64_t seed = 0;
  SGD::Options sgd{.lr = 0.01, .momentum = 0.9};

  /// What every training has.
  void add_to(CLI::App& app) {
    app.add_option("--data", data,
                   "Folder of CIFAR-10's binary version, or its .tar.gz; synthetic images if not given");
    app.add_flag("--download", download, "Fetch CIFAR-10 into the folder --data if it is not there");
    app.add_option("--batch-size", batch_size, "Images of a step, over all replicas")
        ->capture_default_str()
        ->check(CLI::PositiveNumber);
    app.add_option("--lr", sgd.lr)->capture_default_str();
    app.add_option("--momentum", sgd.momentum)->capture_default_str();
    app.add_option("--weight-decay", sgd.weight_decay)->capture_default_str();
    app.add_option("--seed", seed, "Of the initial weights and the order of the images")->capture_default_str();
    app.add_option("--workers", workers, "Threads that prepare batches on the CPU")->capture_default_str();
  }
  /// What one has that goes on for epochs.
  void add_epochs_to(CLI::App& app) {
    app.add_option("--epochs", epochs)->capture_default_str()->check(CLI::NonNegativeNumber);
    app.add_option("--log-interval", log_interval, "Steps per printed mean loss")
        ->capture_default_str()
        ->check(CLI::PositiveNumber);
    app.add_option("--max-steps", max_steps, "Stop each epoch after so many steps; 0: never")->capture_default_str();
  }
};

struct TrainingData {
  std::shared_ptr<const Dataset> train, test;
};

/// CIFAR-10 where --data says, else synthetic images.
inline TrainingData load_data(TrainerOptions& options) {
  if (options.data.empty() && !options.download) {
    return {std::make_shared<SyntheticDataset>(Split::train), std::make_shared<SyntheticDataset>(Split::test)};
  }
  if (options.data.empty()) options.data = "cifar10";
  if (options.download) Cifar10::download(options.data);
  return {std::make_shared<Cifar10>(options.data, Split::train), std::make_shared<Cifar10>(options.data, Split::test)};
}

/// To [−1, 1].
inline Compose plain_transform() { return Compose(ToTensor(), Normalize({0.5}, {0.5})); }

/// Percent of the loader's images that the model gets right.
inline double test_accuracy(Module& model, const DataLoader& loader) {
  const NoGradGuard no_grad;
  model.eval();
  std::int64_t correct = 0;
  for (const Batch& batch : loader.epoch(0)) {
    correct += count_correct(model(batch.images), batch.labels);
  }
  model.train();
  return 100.0 * static_cast<double>(correct) / static_cast<double>(loader.dataset().size());
}

}  // namespace lockstep::examples
