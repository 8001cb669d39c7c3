// The layers: shapes, initial values, options, text. What they compute is tested with the ops.
#include <cmath>
#include <fstream>
#include <sstream>

#include <lockstep/core/base/error.h>
#include <lockstep/core/ops.h>
#include <lockstep/layers/activation.h>
#include <lockstep/layers/batch_norm.h>
#include <lockstep/layers/conv2d.h>
#include <lockstep/layers/linear.h>
#include <lockstep/layers/loss.h>
#include <lockstep/layers/pool2d.h>
#include <lockstep/layers/sequential.h>
#include <catch2/catch.hpp>

using namespace lockstep;

namespace {

double largest(const Tensor& tensor) {
  double result = 0;
  for (const double value : tensor.to_vector<double>()) result = std::max(result, std::abs(value));
  return result;
}

}  // namespace

TEST_CASE("Linear computes x times the transposed weight plus bias") {
  Linear fc(3, 2);
  fc.load_state_dict(
      {{"weight", Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3})}, {"bias", Tensor::from<float>({10, 20}, {2})}});
  CHECK(fc(Tensor::from<float>({1, 0, -1}, {1, 3})).to_vector<float>() == std::vector<float>{8, 18});
  CHECK_THROWS_AS(Linear(0, 2), ValueError);
  CHECK_THROWS_AS(fc(Tensor::ones({1, 4})), ShapeError);
}

TEST_CASE("Linear and Conv2d start uniform within 1 over the root of fan in") {
  manual_seed(3);
  const Linear fc(400, 300);
  CHECK(largest(fc.weight) <= 0.05 + 1e-9);
  CHECK(largest(fc.weight) > 0.0499);
  CHECK(largest(fc.bias) <= 0.05 + 1e-9);
  CHECK(largest(fc.bias) > 0.045);
  const Conv2d conv(32, 64, {5, 5}, {.groups = 2});  // fan in 16 · 25 = 400
  CHECK(conv.weight.shape() == Shape{64, 16, 5, 5});
  CHECK(conv.weight.layout() == Layout::channels_last);
  CHECK(largest(conv.weight) <= 0.05 + 1e-9);
  CHECK(largest(conv.weight) > 0.0499);
  CHECK(largest(conv.bias) <= 0.05 + 1e-9);
  CHECK(largest(conv.bias) > 0.04);
  CHECK(largest(Conv2d(3, 4, 3, {.init = Conv2d::Init::zeros}).weight) == 0.0);
}

TEST_CASE("Conv2d passes its options on") {
  Conv2d conv(4, 6, {3, 1}, {.stride = {2, 1}, .padding = {1, 0}, .dilation = {1, 2}, .groups = 2});
  const Tensor x = Tensor::randn({2, 4, 7, 5});
  const Tensor y = conv(x);
  CHECK(y.shape() == Shape{2, 6, 4, 5});
  const Tensor expected = conv2d(x, conv.weight, conv.bias, conv.options());
  CHECK(y.to_vector<float>() == expected.to_vector<float>());
  CHECK_THROWS_AS(Conv2d(3, 4, 0), ValueError);
  CHECK_THROWS_AS(Conv2d(3, 4, 3, {.stride = 0}), ValueError);
  CHECK_THROWS_AS(Conv2d(3, 4, 3, {.padding = -1}), ValueError);
  CHECK_THROWS_AS(Conv2d(3, 4, 3, {.groups = 2}), ValueError);
  CHECK_THROWS_AS(conv(Tensor::ones({1, 6, 5, 5})), ShapeError);
}

TEST_CASE("pooling layers") {
  const Tensor x = Tensor::from<float>({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, {1, 1, 4, 4});
  CHECK(MaxPool2d(2)(x).to_vector<float>() == std::vector<float>{6, 8, 14, 16});
  CHECK(MaxPool2d(3, {.stride = 2, .padding = 1})(x).to_vector<float>() == std::vector<float>{6, 8, 14, 16});
  CHECK(MaxPool2d(3, {.stride = 2, .ceil_mode = true})(x).shape() == Shape{1, 1, 2, 2});
  CHECK(AvgPool2d(2)(x).to_vector<float>() == std::vector<float>{3.5, 5.5, 11.5, 13.5});
  CHECK(AvgPool2d(2, {.padding = 1, .count_include_pad = false})(x).to_vector<float>()[0] == 1.0f);
  CHECK(AvgPool2d(2, {.padding = 1})(x).to_vector<float>()[0] == 0.25f);
  CHECK(AdaptiveAvgPool2d(1)(x).to_vector<float>() == std::vector<float>{8.5});
  CHECK(AdaptiveAvgPool2d({2, 1})(x).to_vector<float>() == std::vector<float>{4.5, 12.5});
}

TEST_CASE("Dropout acts in training only") {
  const Tensor x = Tensor::ones({1000});
  Dropout drop(0.5);
  const auto y = drop(x).to_vector<float>();
  CHECK(std::count(y.begin(), y.end(), 0.0f) + std::count(y.begin(), y.end(), 2.0f) == 1000);
  CHECK(std::count(y.begin(), y.end(), 0.0f) > 350);
  drop.eval();
  CHECK(drop(x).to_vector<float>() == x.to_vector<float>());
  CHECK_THROWS_AS(Dropout(1.5), ValueError);
  CHECK_THROWS_AS(Dropout(std::nan("")), ValueError);
}

TEST_CASE("Flatten and Identity") {
  const Tensor x = Tensor::ones({2, 3, 4, 5});
  CHECK(Flatten()(x).shape() == Shape{2, 60});
  CHECK(Flatten(0, 1)(x).shape() == Shape{6, 4, 5});
  CHECK(Identity()(x).data_ptr() == x.data_ptr());
}

TEST_CASE("CrossEntropyLoss passes its options on") {
  const Tensor logits = Tensor::randn({3, 4}), target = Tensor::from<std::int64_t>({1, -1, 3}, {3});
  const CrossEntropyOptions options{.ignore_index = -1, .label_smoothing = 0.1};
  CrossEntropyLoss loss(options);
  CHECK(loss(logits, target).item() == cross_entropy(logits, target, options).item());
  CHECK_THROWS_AS(loss.forward(logits), ValueError);
}

TEST_CASE("a net of all layers prints as in PyTorch") {
  struct Net : Module {
    Sequential features{Conv2d(3, 8, {3, 5}, {.stride = {2, 1}, .padding = {0, 2}, .dilation = 2}), AvgPool2d(2),
                        MaxPool2d({3, 2}, {.stride = 2, .padding = {1, 0}, .ceil_mode = true}),
                        BatchNorm2d(8, {.eps = 1e-3, .momentum = std::nullopt, .affine = false}),
                        Conv2d(8, 8, 3, {.groups = 4, .bias = false})};
    AdaptiveAvgPool2d avgpool{1};
    Sequential head{Flatten(),  Dropout(), Linear(8, 4, {.bias = false}),
                    Identity(), ReLU(),    BatchNorm1d(4, {.momentum = 1.0, .track_running_stats = false})};
    Sequential empty;
    CrossEntropyLoss loss;
    Net() {
      register_module("features", features);
      register_module("avgpool", avgpool);
      register_module("head", head);
      register_module("empty", empty);
      register_module("loss", loss);
    }
  };
  std::ifstream file(LOCKSTEP_TEST_DATA "/repr/mixed.txt");
  REQUIRE(file);
  std::stringstream expected;
  expected << file.rdbuf();
  CHECK(to_string(Net()) + "\n" == expected.str());
}
