#include <lockstep/layers/models/resnet.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include <lockstep/core/base/error.h>
#include <lockstep/core/ops.h>
#include <catch2/catch.hpp>

using namespace lockstep;

namespace {

std::string read_text(const std::string& name) {
  std::ifstream file(LOCKSTEP_TEST_DATA "/repr/" + name);
  REQUIRE(file);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::int64_t count_parameters(const Module& module) {
  std::int64_t count = 0;
  for (const Tensor& parameter : module.parameters()) count += parameter.numel();
  return count;
}

const ResNetOptions kNarrow{.num_classes = 10, .width = 8};

}  // namespace

TEST_CASE("ResNets print as torchvision's") {
  CHECK(to_string(resnet18()) + "\n" == read_text("resnet18.txt"));
  CHECK(to_string(resnet50()) + "\n" == read_text("resnet50.txt"));
}

TEST_CASE("the state dict has torchvision's names and shapes, in its order") {
  std::string text;
  for (const auto& [name, tensor] : resnet18().state_dict()) text += name + ' ' + to_string(tensor.shape()) + '\n';
  CHECK(text == read_text("resnet18_state_dict.txt"));
}

TEST_CASE("ResNets have torchvision's numbers of parameters") {
  CHECK(count_parameters(resnet18()) == 11689512);
  CHECK(count_parameters(resnet34()) == 21797672);
  CHECK(count_parameters(resnet50()) == 25557032);
  CHECK(resnet34().state_dict().size() == 218);
  CHECK(resnet50().state_dict().size() == 320);
}

TEST_CASE("convolutions start normal by fan out, batch norms at 1 and 0") {
  manual_seed(5);
  ResNet model = resnet18();
  CHECK(model.named_modules().size() == 68);
  for (const auto& [name, module] : model.named_modules()) {
    if (const auto* conv = dynamic_cast<Conv2d*>(module)) {
      const auto values = conv->weight.to_vector<double>();
      double squares = 0;
      for (const double value : values) squares += value * value;
      const Shape& shape = conv->weight.shape();
      const double fan_out = static_cast<double>(shape[0] * shape[2] * shape[3]);
      const double error = 4.0 / std::sqrt(2.0 * static_cast<double>(values.size()));
      CHECK(squares / static_cast<double>(values.size()) * fan_out / 2.0 == Approx(1.0).epsilon(2 * error));
      CHECK(conv->weight.layout() == Layout::channels_last);
    }
    if (const auto* norm = dynamic_cast<BatchNorm2d*>(module)) {
      CHECK(norm->weight.to_vector<float>() ==
            std::vector<float>(static_cast<std::size_t>(norm->weight.numel()), 1.0f));
      CHECK(norm->bias.to_vector<float>() == std::vector<float>(static_cast<std::size_t>(norm->bias.numel()), 0.0f));
    }
  }
  manual_seed(5);
  CHECK(resnet18().fc.weight.to_vector<float>() == model.fc.weight.to_vector<float>());
}

TEST_CASE("zero_init_residual zeroes the last batch norm of each block") {
  ResNetOptions options = kNarrow;
  options.zero_init_residual = true;
  const ResNet basic = resnet18(options), bottleneck = resnet50(options);
  CHECK(sum(basic.layer3.at<BasicBlock>(1).bn2.weight).item() == 0.0);
  CHECK(sum(basic.layer3.at<BasicBlock>(1).bn1.weight).item() == 32.0);
  CHECK(sum(bottleneck.layer4.at<Bottleneck>(2).bn3.weight).item() == 0.0);
}

TEST_CASE("forward gives logits and backward reaches every parameter") {
  manual_seed(0);
  const bool deep = GENERATE(false, true);
  ResNet model = deep ? resnet50(kNarrow) : resnet18(kNarrow);
  const Tensor logits = model(Tensor::randn({2, 3, 32, 32}));
  REQUIRE(logits.shape() == Shape{2, 10});
  cross_entropy(logits, Tensor::from<std::int64_t>({3, 7}, {2})).backward();
  for (const auto& [name, parameter] : model.named_parameters()) {
    INFO(name);
    CHECK(parameter.grad().defined());
  }
  CHECK(model.bn1.num_batches_tracked.item() == 1.0);
  model.eval();
  CHECK(model(Tensor::randn({1, 3, 40, 24})).shape() == Shape{1, 10});
  CHECK(model.bn1.num_batches_tracked.item() == 1.0);
  CHECK_THROWS_AS(model(Tensor::randn({1, 4, 32, 32})), ShapeError);
}

TEST_CASE("a bottleneck has its stride in the 3x3 convolution, as torchvision's") {
  Bottleneck block(16, 8, 2);
  Shape first, second;
  block.conv1.register_forward_hook([&](Module&, const Tensor&, const Tensor& y) { first = y.shape(); });
  block.conv2.register_forward_hook([&](Module&, const Tensor&, const Tensor& y) { second = y.shape(); });
  CHECK(block(Tensor::randn({2, 16, 6, 4})).shape() == Shape{2, 32, 3, 2});
  CHECK(first == Shape{2, 8, 6, 4});
  CHECK(second == Shape{2, 8, 3, 2});
}

TEST_CASE("options change classes, channels and width") {
  ResNet model = resnet18({.num_classes = 7, .in_channels = 1, .width = 16});
  CHECK(model.conv1.weight.shape() == Shape{16, 1, 7, 7});
  CHECK(model.layer4.at<BasicBlock>(1).conv2.weight.shape() == Shape{128, 128, 3, 3});
  CHECK(model.fc.weight.shape() == Shape{7, 128});
  CHECK(model.layer1.at<BasicBlock>(0).downsample.empty());
  CHECK(model.layer2.at<BasicBlock>(0).downsample.size() == 2);
  CHECK_THROWS_AS(resnet18({.num_classes = 0}), ValueError);
  CHECK_THROWS_AS(resnet18({.width = 0}), ValueError);
}

TEST_CASE("a ResNet with a hook on every module computes the same in parts") {
  manual_seed(2);
  ResNet fused = resnet18(kNarrow);
  fused.to(DType::float64);
  ResNet parts = clone(fused);
  int calls = 0;
  for (const auto& [name, module] : parts.named_modules()) {
    module->register_forward_hook([&](Module&, const Tensor&, const Tensor&) { ++calls; });
  }
  const Tensor x = Tensor::randn({2, 3, 32, 32}, {.dtype = DType::float64});
  const Tensor target = Tensor::from<std::int64_t>({1, 2}, {2});
  const Tensor loss = cross_entropy(fused(x), target), loss_of_parts = cross_entropy(parts(x), target);
  CHECK(calls == 68 + 8);  // each block calls its relu twice
  CHECK(loss_of_parts.item() == Approx(loss.item()).epsilon(1e-12));
  loss.backward();
  loss_of_parts.backward();
  const auto expected = fused.conv1.weight.grad().to_vector<double>();
  const auto got = parts.conv1.weight.grad().to_vector<double>();
  for (std::size_t i = 0; i < expected.size(); i += 37)
    CHECK(got[i] == Approx(expected[i]).epsilon(1e-8).margin(1e-10));
  CHECK(parts.layer4.at<BasicBlock>(1).bn2.running_var.to_vector<double>()[3] ==
        Approx(fused.layer4.at<BasicBlock>(1).bn2.running_var.to_vector<double>()[3]).epsilon(1e-12));
}

TEST_CASE("fine-tuning: weights of another number of classes load without the head") {
  ResNet source = resnet18(kNarrow), target = resnet18({.num_classes = 4, .width = 8});
  StateDict state = source.state_dict();
  CHECK_THROWS_WITH(target.load_state_dict(state), Catch::Contains("fc.weight: expected [4, 64], got [10, 64]"));
  CHECK(state.erase("fc.weight"));
  CHECK(state.erase("fc.bias"));
  CHECK(target.load_state_dict(state, /*strict=*/false).missing == std::vector<std::string>{"fc.weight", "fc.bias"});
  CHECK(target.conv1.weight.to_vector<float>() == source.conv1.weight.to_vector<float>());
}
