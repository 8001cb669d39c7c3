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

#include "trainer.h"

using namespace lockstep;
using namespace lockstep::examples;

int main(int argc, char** argv) try {
  TrainerOptions options;
  std::string save = "resnet18.safetensors", device_name = "auto";
  int threads = num_threads();
  CLI::App app("Trains ResNet-18 on CIFAR-10, or on synthetic images if --data is not given.");
  options.add_to(app);
  options.add_epochs_to(app);
  app.add_option("--threads", threads, "Threads that compute")->capture_default_str();
  app.add_option("--device", device_name, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--save", save, "Where the weights go (safetensors)")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const Device device = parse_device(device_name);
  set_num_threads(threads);
  manual_seed(options.seed);

  if (options.data.empty() && !options.download) {
    print_line("No --data given: training on synthetic images.");
    if (app.count("--log-interval") == 0) options.log_interval = 25;  // an epoch has 79 steps
  }
  const TrainingData data = load_data(options);
  const DataLoader train_loader(data.train, plain_transform(),
                                {.batch_size = options.batch_size,
                                 .shuffle = true,
                                 .seed = options.seed,
                                 .workers = options.workers,
                                 .device = device});
  const DataLoader test_loader(data.test, plain_transform(),
                               {.batch_size = options.batch_size, .workers = options.workers, .device = device});

  ResNet model = resnet18({.num_classes = static_cast<std::int64_t>(data.train->classes().size())});
  model.to(device);
  SGD optimizer(model.parameters(), options.sgd);

  for (int epoch = 1; epoch <= options.epochs; ++epoch) {
    model.train();
    Tensor running_loss = Tensor::zeros({}, {.device = device});  // stays there: reading each loss would wait for it
    const std::int64_t steps =
        options.max_steps > 0 ? std::min(options.max_steps, train_loader.size()) : train_loader.size();
    ProgressBar bar(fmt::format("Epoch {}", epoch), steps);
    std::int64_t step = 0;
    for (const Batch& batch : train_loader.epoch(epoch - 1)) {
      optimizer.zero_grad();
      const Tensor loss = cross_entropy(model(batch.images), batch.labels);
      loss.backward();
      optimizer.step();

      running_loss.add_(loss.detach());
      if (++step % options.log_interval == 0) {
        print_line(
            fmt::format("[Epoch {}, Step {}] Loss: {:.3f}", epoch, step, running_loss.item() / options.log_interval));
        running_loss.zero_();
      }
      bar.advance();
      if (step == steps) break;
    }
    bar.finish();
    print_line(fmt::format("[Epoch {}] Test accuracy: {:.2f} %", epoch, test_accuracy(model, test_loader)));
  }

  save_safetensors(save, model.state_dict(), {{"format", "pt"}});
  print_line(fmt::format("Saved {}", save));
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "train_resnet18_cifar10: {}\n", error.what());
  return 1;
}
