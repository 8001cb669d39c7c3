// Training steps of ResNet-18 on one random batch, one JSON line per step. Its twin is pytorch/train_step.py.
//
//   train_step --size 32 --batch 128 --threads 2 --steps 20
//
// With --interactive each step waits for a line on standard input, so that compare.py can let programs take turns.
#include <CLI/CLI.hpp>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include <lockstep/lockstep.h>

#include "process.h"

using namespace lockstep;

namespace {

double milliseconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

}  // namespace

int main(int argc, char** argv) try {
  std::int64_t size = 32, batch = 128, classes = 10;
  int threads = 2, steps = 10;
  std::string dtype_name = "float32", device_name = "cpu";
  bool interactive = false;

  CLI::App app("Training steps of ResNet-18 on one random batch, one JSON line per step.");
  app.add_option("--size", size, "Height and width of the images")->capture_default_str();
  app.add_option("--batch", batch)->capture_default_str();
  app.add_option("--classes", classes)->capture_default_str();
  app.add_option("--threads", threads)->capture_default_str();
  app.add_option("--steps", steps)->capture_default_str();
  app.add_option("--dtype", dtype_name)->capture_default_str()->check(CLI::IsMember({"float32", "float64"}));
  app.add_option("--device", device_name, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_flag("--interactive", interactive, "One step for each line on standard input");
  CLI11_PARSE(app, argc, argv);

  const Device device = parse_device(device_name);
  set_num_threads(threads);
  manual_seed(0);
  const DType dtype = dtype_name == "float64" ? DType::float64 : DType::float32;
  ResNet model = resnet18({.num_classes = classes});
  if (dtype != DType::float32) model.to(dtype);
  model.to(device);
  SGD optimizer(model.parameters(), {.lr = 0.01, .momentum = 0.9});
  const Tensor images = Tensor::randn({batch, 3, size, size}, {.dtype = dtype}).to(device);
  std::vector<std::int64_t> label_values(static_cast<std::size_t>(batch));
  PhiloxStream random(0, 1);
  for (std::int64_t& label : label_values)
    label = static_cast<std::int64_t>(random.next_below(static_cast<std::uint64_t>(classes)));
  const Tensor labels = Tensor::from(label_values, {batch}).to(device);
  const auto now = [device] {  // once the device has done what was asked of it
    synchronize(device);
    return std::chrono::steady_clock::now();
  };

  for (int step = 0; interactive || step < steps; ++step) {
    if (std::string line; interactive && !std::getline(std::cin, line)) break;
    const auto start = now();
    optimizer.zero_grad();
    const Tensor loss = cross_entropy(model(images), labels);
    const auto forward = now();
    loss.backward();
    const auto backward = now();
    optimizer.step();
    const auto end = now();
    const nlohmann::ordered_json line = {{"loss", loss.item()},
                                         {"forward_ms", milliseconds(forward - start)},
                                         {"backward_ms", milliseconds(backward - forward)},
                                         {"optimizer_ms", milliseconds(end - backward)},
                                         {"total_ms", milliseconds(end - start)},
                                         {"peak_mb", memory_mb("VmHWM")}};
    std::cout << line << std::endl;
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << "train_step: " << error.what() << '\n';
  return 1;
}
