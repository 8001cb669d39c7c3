// Loads the weights that train_resnet18_cifar10 saved (or torchvision's, as safetensors) and names what it sees on test
// images.
//
//   predict --weights resnet18.safetensors --data ../shared/cifar10 --count 5
#include <fmt/core.h>

#include <lockstep/lockstep.h>
#include <CLI/CLI.hpp>

using namespace lockstep;

int main(int argc, char** argv) try {
  std::string weights = "resnet18.safetensors", data, device_name = "auto";
  std::int64_t first = 0, count = 5;
  CLI::App app("Prints the five most likely classes of test images.");
  app.add_option("--weights", weights, "A ResNet-18 as safetensors")->capture_default_str();
  app.add_option("--data", data, "CIFAR-10's binary version; synthetic images if not given");
  app.add_option("--first", first, "Index of the first image")->capture_default_str()->check(CLI::NonNegativeNumber);
  app.add_option("--count", count, "How many images")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--device", device_name, "auto, cpu, cuda or cuda:N")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  std::unique_ptr<Dataset> test_set;
  if (data.empty()) {
    test_set = std::make_unique<SyntheticDataset>(Split::test);
  } else {
    test_set = std::make_unique<Cifar10>(data, Split::test);
  }
  const auto& classes = test_set->classes();
  const StateDict state = load_safetensors(weights);
  ResNet model = resnet18({.num_classes = static_cast<std::int64_t>(classes.size())});
  model.load_state_dict(state);
  model.eval();
  const Device device = parse_device(device_name);
  model.to(device);

  const NoGradGuard no_grad;
  const Compose transform(ToTensor(), Normalize({0.5}, {0.5}));
  for (std::int64_t i = first; i < std::min(first + count, test_set->size()); ++i) {
    const Example example = test_set->get(i);
    const Tensor image = transform(example.image);
    const Tensor logits = model(reshape(image, {1, image.size(0), image.size(1), image.size(2)}).to(device));
    const auto [probability, index] = topk(softmax(logits, 1), std::min<std::int64_t>(5, logits.size(1)));
    const std::vector<float> p = probability.to_vector<float>();
    const std::vector<std::int64_t> k = index.to_vector<std::int64_t>();
    fmt::print("image {} ({}):", i, classes[static_cast<std::size_t>(example.label)]);
    for (std::size_t j = 0; j < k.size(); ++j) {
      fmt::print(" {} {:.1f} %{}", classes[static_cast<std::size_t>(k[j])], 100.0 * static_cast<double>(p[j]),
                 j + 1 < k.size() ? "," : "\n");
    }
  }
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "predict: {}\n", error.what());
  return 1;
}
