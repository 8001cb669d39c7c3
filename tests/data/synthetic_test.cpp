#include <lockstep/data/synthetic.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include <lockstep/core/base/error.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/core/io/sha256.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/optim/sgd.h>
#include <lockstep/data/data_loader.h>
#include <lockstep/data/transforms/normalize.h>
#include <lockstep/layers/activation.h>
#include <lockstep/layers/batch_norm.h>
#include <lockstep/layers/conv2d.h>
#include <lockstep/layers/linear.h>
#include <lockstep/layers/pool2d.h>
#include <lockstep/layers/sequential.h>

using namespace lockstep;

namespace {

std::string sha256(const TensorDataset& data) {
  Sha256 hash;
  hash.update(data.images().data_ptr(), data.images().nbytes());
  return hash.hex();
}

}  // namespace

TEST_CASE("Synthetic images are a function of seed, split and index") {
  const SyntheticDataset few(Split::train, 40), more(Split::train, 60);
  const auto* a = few.images().data<std::uint8_t>();
  CHECK(std::equal(a, a + few.images().numel(), more.images().data<std::uint8_t>()));
  CHECK(sha256(SyntheticDataset(Split::test, 40)) != sha256(few));
  CHECK(sha256(SyntheticDataset(Split::train, 40, 1)) != sha256(few));
  const int threads = num_threads();
  for (const int n : {1, 2, 5}) {
    set_num_threads(n);
    CHECK(sha256(SyntheticDataset(Split::train, 40)) == sha256(few));
  }
  set_num_threads(threads);
}

TEST_CASE("Synthetic images have the same bits on every machine") {
  CHECK(sha256(SyntheticDataset(Split::train, 200)) ==
        "5c914b036a93ed5da0ae0f35588a9c9027e270d13c511c3a47e01b7e1b45df74");
  CHECK(sha256(SyntheticDataset(Split::test, 200, 7)) ==
        "90a0d528b74083eb5317fe3d3cb26928eb0773632a509b218ca7e1fe929102bc");
}

TEST_CASE("Synthetic classes take turns") {
  const SyntheticDataset data(Split::train, 25);
  CHECK(data.size() == 25);
  CHECK(data.classes().size() == 10);
  CHECK(data.images().shape() == Shape{25, 3, 32, 32});
  for (std::int64_t i = 0; i < 25; ++i) CHECK(data.labels().data<std::int64_t>()[i] == i % 10);
  CHECK(SyntheticDataset(Split::train).size() == 10'000);
  CHECK(SyntheticDataset(Split::test).size() == 2'000);
  CHECK(SyntheticDataset(Split::test, 0).images().numel() == 0);
  CHECK_THROWS_AS(SyntheticDataset(Split::test, -1), ValueError);
}

TEST_CASE("A linear model does not learn the synthetic images") {
  constexpr std::size_t kPixels = 3072, kClasses = 10, kBatch = 50;
  const SyntheticDataset train(Split::train, 3'000), test(Split::test, 1'000);
  const auto pixel = [](std::uint8_t value) { return static_cast<float>(value) / 127.5f - 1.0f; };
  std::vector<float> weight(kClasses * (kPixels + 1)), gradient(weight.size()), velocity(weight.size());

  const auto scores = [&](const std::uint8_t* image, float* out) {
    for (std::size_t k = 0; k < kClasses; ++k) {
      const float* w = weight.data() + k * (kPixels + 1);
      float sums[16] = {};  // so that the loop is vectorised
      for (std::size_t p = 0; p < kPixels; p += 16) {
        for (std::size_t lane = 0; lane < 16; ++lane) sums[lane] += w[p + lane] * pixel(image[p + lane]);
      }
      out[k] = w[kPixels];
      for (const float sum : sums) out[k] += sum;
    }
  };
  const auto accuracy = [&](const TensorDataset& data) {
    int correct = 0;
    for (std::int64_t i = 0; i < data.size(); ++i) {
      float out[kClasses];
      scores(data.images().data<std::uint8_t>() + i * std::int64_t{kPixels}, out);
      correct += std::max_element(out, out + kClasses) - out == data.labels().data<std::int64_t>()[i];
    }
    return correct / static_cast<double>(data.size());
  };

  // Softmax regression by SGD with momentum. The classes take turns, so the order needs no shuffling.
  for (int epoch = 0; epoch < 10; ++epoch) {
    for (std::int64_t first = 0; first < train.size(); first += std::int64_t{kBatch}) {
      std::fill(gradient.begin(), gradient.end(), 0.0f);
      for (std::size_t i = 0; i < kBatch; ++i) {
        const std::int64_t index = first + static_cast<std::int64_t>(i);
        const std::uint8_t* image = train.images().data<std::uint8_t>() + index * std::int64_t{kPixels};
        float out[kClasses], total = 0;
        scores(image, out);
        const float highest = *std::max_element(out, out + kClasses);
        for (float& score : out) total += score = std::exp(score - highest);
        for (std::size_t k = 0; k < kClasses; ++k) {
          const float g = (out[k] / total - (static_cast<std::int64_t>(k) == index % 10 ? 1.0f : 0.0f)) / kBatch;
          float* row = gradient.data() + k * (kPixels + 1);
          for (std::size_t p = 0; p < kPixels; ++p) row[p] += g * pixel(image[p]);
          row[kPixels] += g;
        }
      }
      for (std::size_t w = 0; w < weight.size(); ++w) {
        velocity[w] = 0.9f * velocity[w] + gradient[w];
        weight[w] -= 3e-4f * velocity[w];
      }
    }
  }
  CHECK(accuracy(train) > 0.2);  // it does learn what it can
  CHECK(accuracy(test) > 0.1);
  CHECK(accuracy(test) < 0.6);
}

TEST_CASE("A small convolutional network learns the synthetic images", "[slow]") {
  manual_seed(0);
  Sequential model{Conv2d(3, 16, 3, {.padding = 1}),
                   BatchNorm2d(16),
                   ReLU(),
                   MaxPool2d(2),
                   Conv2d(16, 32, 3, {.padding = 1}),
                   BatchNorm2d(32),
                   ReLU(),
                   MaxPool2d(2),
                   Conv2d(32, 64, 3, {.padding = 1}),
                   BatchNorm2d(64),
                   ReLU(),
                   AdaptiveAvgPool2d(1),
                   Flatten(),
                   Linear(64, 10)};
  const Compose transform{ToTensor(), Normalize({0.5}, {0.5})};
  const DataLoader train(std::make_shared<SyntheticDataset>(Split::train), transform,
                         {.batch_size = 100, .shuffle = true, .workers = 1});
  const DataLoader test(std::make_shared<SyntheticDataset>(Split::test), transform, {.batch_size = 200});
  SGD optimizer(model.parameters(), {.lr = 0.05, .momentum = 0.9});
  for (int epoch = 0; epoch < 8; ++epoch) {
    if (epoch == 6) optimizer.set_options(0, {.lr = 0.005, .momentum = 0.9});
    for (const Batch& batch : train.epoch(epoch)) {
      optimizer.zero_grad();
      cross_entropy(model(batch.images), batch.labels).backward();
      optimizer.step();
    }
  }
  model.eval();
  const NoGradGuard no_grad;
  std::int64_t correct = 0;
  for (const Batch& batch : test.epoch(0)) correct += count_correct(model(batch.images), batch.labels);
  CHECK(correct > 1'800);  // of 2,000
}
