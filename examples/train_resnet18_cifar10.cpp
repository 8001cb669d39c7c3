// Trains torchvision's ResNet-18 on CIFAR-10, the way the PyTorch tutorials do: batches of 128, SGD with momentum, 5
// epochs.
//
//   train_resnet18_cifar10 --data ../shared/cifar10        the binary version, from a folder or its .tar.gz
//   train_resnet18_cifar10 --data cifar10 --download       fetches it first
//   train_resnet18_cifar10                                 synthetic images, no file needed
//
// Expect 66 to 70 % test accuracy on CIFAR-10 after the 5 epochs, in about two minutes on 2 cores (the ImageNet stem
// shrinks 32 × 32 images to 1 × 1), and over 90 % on the synthetic images.
#include <fmt/core.h>

#include <lockstep/lockstep.h>
#include <CLI/CLI.hpp>

using namespace lockstep;

namespace {

double evaluate(ResNet& model, const DataLoader& loader) {
  const NoGradGuard no_grad;
  model.eval();
  std::int64_t correct = 0;
  for (const Batch& batch : loader.epoch(0)) {
    correct += count_correct(model(batch.images), batch.labels);
  }
  return 100.0 * static_cast<double>(correct) / static_cast<double>(loader.dataset().size());
}

}  // namespace

int main(int argc, char** argv) try {
  std::string data, save = "resnet18.safetensors", device_name = "auto";
  bool download = false;
  int epochs = 5, threads = num_threads(), workers = 1, log_interval = 100;
  std::int64_t batch_size = 128, max_steps = 0;
  std::uint64_t seed = 0;
  SGD::Options sgd{.lr = 0.01, .momentum = 0.9};

  CLI::App app("Trains ResNet-18 on CIFAR-10, or on synthetic images if --data is not given.");
  app.add_option("--data", data, "Folder of CIFAR-10's binary version, or its .tar.gz");
  app.add_flag("--download", download, "Fetch CIFAR-10 into the folder --data if it is not there");
  app.add_option("--epochs", epochs)->capture_default_str()->check(CLI::NonNegativeNumber);
  app.add_option("--batch-size", batch_size)->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--lr", sgd.lr)->capture_default_str();
  app.add_option("--momentum", sgd.momentum)->capture_default_str();
  app.add_option("--weight-decay", sgd.weight_decay)->capture_default_str();
  app.add_option("--seed", seed, "Of the initial weights and the order of the images")->capture_default_str();
  app.add_option("--threads", threads, "Threads that compute")->capture_default_str();
  app.add_option("--workers", workers, "Threads that prepare batches on the CPU")->capture_default_str();
  app.add_option("--device", device_name, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--log-interval", log_interval, "Steps per printed mean loss")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--max-steps", max_steps, "Stop each epoch after so many steps; 0: never")->capture_default_str();
  app.add_option("--save", save, "Where the weights go (safetensors)")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const Device device = parse_device(device_name);
  set_num_threads(threads);
  manual_seed(seed);

  std::shared_ptr<const Dataset> train_set, test_set;
  if (data.empty() && !download) {
    print_line("No --data given: training on synthetic images.");
    if (app.count("--log-interval") == 0) log_interval = 25;  // an epoch has 79 steps
    train_set = std::make_shared<SyntheticDataset>(Split::train);
    test_set = std::make_shared<SyntheticDataset>(Split::test);
  } else {
    if (data.empty()) data = "cifar10";
    if (download) Cifar10::download(data);
    train_set = std::make_shared<Cifar10>(data, Split::train);
    test_set = std::make_shared<Cifar10>(data, Split::test);
  }
  const Compose transform(ToTensor(), Normalize({0.5}, {0.5}));
  const DataLoader train_loader(
      train_set, transform,
      {.batch_size = batch_size, .shuffle = true, .seed = seed, .workers = workers, .device = device});
  const DataLoader test_loader(test_set, transform, {.batch_size = batch_size, .workers = workers, .device = device});

  ResNet model = resnet18({.num_classes = static_cast<std::int64_t>(train_set->classes().size())});
  model.to(device);
  SGD optimizer(model.parameters(), sgd);

  for (int epoch = 1; epoch <= epochs; ++epoch) {
    model.train();
    Tensor running_loss = Tensor::zeros({}, {.device = device});  // stays there: reading each loss would wait for it
    const std::int64_t steps = max_steps > 0 ? std::min(max_steps, train_loader.size()) : train_loader.size();
    ProgressBar bar(fmt::format("Epoch {}", epoch), steps);
    std::int64_t step = 0;
    for (const Batch& batch : train_loader.epoch(epoch - 1)) {
      optimizer.zero_grad();
      const Tensor loss = cross_entropy(model(batch.images), batch.labels);
      loss.backward();
      optimizer.step();

      running_loss.add_(loss.detach());
      if (++step % log_interval == 0) {
        print_line(fmt::format("[Epoch {}, Step {}] Loss: {:.3f}", epoch, step, running_loss.item() / log_interval));
        running_loss.zero_();
      }
      bar.advance();
      if (step == steps) break;
    }
    bar.finish();
    print_line(fmt::format("[Epoch {}] Test accuracy: {:.2f} %", epoch, evaluate(model, test_loader)));
  }

  save_safetensors(save, model.state_dict(), {{"format", "pt"}});
  print_line(fmt::format("Saved {}", save));
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "train_resnet18_cifar10: {}\n", error.what());
  return 1;
}
