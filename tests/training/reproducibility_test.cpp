// What a run promises: the same seed and threads give the same weights, to the bit, whoever prepares the batches.
#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <lockstep/lockstep.h>
#include <catch2/catch.hpp>

namespace lockstep {
namespace {

struct Run {
  std::uint64_t seed = 1;
  int threads = 2, workers = 0;
};

/// All parameters and buffers after two short epochs, as they lie in memory.
std::vector<std::byte> weights_after(const Run& run) {
  const int threads_before = num_threads();
  set_num_threads(run.threads);
  manual_seed(run.seed);
  const DataLoader loader(std::make_shared<SyntheticDataset>(Split::train, 120),
                          Compose(ToTensor(), Normalize({0.5}, {0.5})),
                          {.batch_size = 16, .shuffle = true, .seed = run.seed, .workers = run.workers});
  ResNet trunk = resnet18({.num_classes = 32, .width = 8});
  Linear head(32, 10);
  std::vector<Tensor> parameters = trunk.parameters();
  for (const Tensor& parameter : head.parameters()) parameters.push_back(parameter);
  SGD optimizer(parameters, {.lr = 0.05, .momentum = 0.9, .weight_decay = 1e-4});
  for (int epoch = 0; epoch < 2; ++epoch) {
    for (const Batch& batch : loader.epoch(epoch)) {
      optimizer.zero_grad();
      cross_entropy(head(dropout(relu(trunk(batch.images)), 0.3)), batch.labels).backward();
      optimizer.step();
    }
  }
  set_num_threads(threads_before);

  std::vector<std::byte> bytes;
  for (const Module* module : {static_cast<const Module*>(&trunk), static_cast<const Module*>(&head)}) {
    for (const auto& [name, tensor] : module->state_dict()) {
      const auto* data = static_cast<const std::byte*>(tensor.data_ptr());
      bytes.insert(bytes.end(), data, data + tensor.nbytes());
    }
  }
  return bytes;
}

TEST_CASE("the weights of a run do not depend on the number of loader workers") {
  const std::vector<std::byte> expected = weights_after({.workers = 0});
  for (const int workers : {0, 1, 2, 7}) {
    CAPTURE(workers);
    CHECK(weights_after({.workers = workers}) == expected);
  }
  CHECK(weights_after({.seed = 2}) != expected);
}

}  // namespace
}  // namespace lockstep
