// Training on a CUDA device follows training on the CPU.
#include <cmath>
#include <cstdio>
#include <vector>

#include <catch2/catch.hpp>

#include <lockstep/core/ops.h>
#include <lockstep/core/optim/sgd.h>
#include <lockstep/layers/activation.h>
#include <lockstep/layers/batch_norm.h>
#include <lockstep/layers/conv2d.h>
#include <lockstep/layers/linear.h>
#include <lockstep/layers/models/resnet.h>
#include <lockstep/layers/pool2d.h>
#include <lockstep/layers/sequential.h>
#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using lockstep::testing::have_cuda;

namespace {

Device last_device() { return {Device::Type::cuda, cuda_device_count() - 1}; }

double norm(const Tensor& x) {
  double sum = 0.0;
  for (const double value : x.to_vector<double>()) sum += value * value;
  return std::sqrt(sum);
}

/// ‖a − b‖ / ‖b‖ of all parameters of one name together.
double difference(const Tensor& a, const Tensor& b) {
  const Tensor there = b.detach().to(kCpu), here = a.detach().to(kCpu);
  return norm(here.to(DType::float32) - there.to(DType::float32)) / std::max(norm(there), 1e-30);
}

TEST_CASE("A small network trains on CUDA as on the CPU, dropout and momentum included") {
  if (!have_cuda()) return;
  manual_seed(3);
  Sequential here(Conv2d(3, 8, 3, {.padding = 1}), BatchNorm2d(8), ReLU(), MaxPool2d(2), Flatten(), Dropout(0.25),
                  Linear(8 * 4 * 4, 5));
  Sequential there = clone(here);
  there.to(last_device());
  SGD here_sgd(here.parameters(), {.lr = 0.05, .momentum = 0.9, .weight_decay = 1e-3});
  SGD there_sgd(there.parameters(), {.lr = 0.05, .momentum = 0.9, .weight_decay = 1e-3});
  for (int step = 0; step < 8; ++step) {
    manual_seed(static_cast<std::uint64_t>(100 + step));
    const Tensor images = Tensor::randn({6, 3, 8, 8});
    const Tensor labels = Tensor::from(std::vector<std::int64_t>{0, 1, 2, 3, 4, step % 5}, {6});
    std::vector<double> losses;
    for (const bool on_cuda : {false, true}) {
      manual_seed(static_cast<std::uint64_t>(step));  // both drop the same elements
      Sequential& model = on_cuda ? there : here;
      SGD& sgd = on_cuda ? there_sgd : here_sgd;
      const Device device = on_cuda ? last_device() : kCpu;
      sgd.zero_grad();
      const Tensor loss = cross_entropy(model(images.to(device)), labels.to(device));
      loss.backward();
      sgd.step();
      losses.push_back(loss.item());
    }
    CAPTURE(step);
    CHECK(losses[1] == Approx(losses[0]).epsilon(1e-4));
  }
  const auto a = here.named_parameters(), b = there.named_parameters();
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(a[i].first);
    CHECK(b[i].second.device() == last_device());
    CHECK(difference(b[i].second, a[i].second) < 1e-3);
  }
  const auto a_state = here.named_buffers(), b_state = there.named_buffers();
  for (std::size_t i = 0; i < a_state.size(); ++i) CHECK(difference(b_state[i].second, a_state[i].second) < 1e-4);
}

TEST_CASE("A step of ResNet-18 on CUDA equals one on the CPU") {
  if (!have_cuda()) return;
  manual_seed(1);
  ResNet here = resnet18({.num_classes = 10});
  ResNet there = clone(here);
  there.to(last_device());
  const Tensor images = Tensor::randn({4, 3, 32, 32});
  const Tensor labels = Tensor::from(std::vector<std::int64_t>{1, 5, 0, 9}, {4});
  const Tensor here_loss = cross_entropy(here(images), labels);
  const Tensor there_loss = cross_entropy(there(images.to(last_device())), labels.to(last_device()));
  CHECK(there_loss.item() == Approx(here_loss.item()).epsilon(1e-5));
  here_loss.backward();
  there_loss.backward();
  const auto a = here.named_parameters(), b = there.named_parameters();
  double worst = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(a[i].first);
    const double error = difference(b[i].second.grad(), a[i].second.grad());
    CHECK(error < 1e-2);  // a ReLU or a maximum that falls the other way moves this much
    worst = std::max(worst, error);
  }
  std::printf("resnet18_worst_gradient_difference: %.2g\n", worst);
  SGD here_sgd(here.parameters(), {.lr = 0.01}), there_sgd(there.parameters(), {.lr = 0.01});
  here_sgd.step();
  there_sgd.step();
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(a[i].first);
    CHECK(difference(b[i].second, a[i].second) < 1e-3);
  }
}

}  // namespace
