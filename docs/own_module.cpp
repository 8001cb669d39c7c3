// The program of own_module.md.
#include <lockstep/lockstep.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

using namespace lockstep;

/// x + scale · relu(norm(conv(x))). The learned scale starts at 0, so that a new block returns its input (Bachlechner
/// et al., "ReZero is all you need", UAI 2021).
struct SkipBlock : Module {
  Conv2d conv;
  BatchNorm2d norm;
  Tensor scale = Tensor::zeros({1});
  Tensor images_seen = Tensor::zeros({}, {.dtype = DType::int64});

  explicit SkipBlock(std::int64_t channels)
      : conv(channels, channels, 3, {.padding = 1, .bias = false}), norm(channels) {
    register_module("conv", conv);
    register_module("norm", norm);
    register_parameter("scale", scale);
    register_buffer("images_seen", images_seen);
  }

  Tensor forward(const Tensor& x) override {
    if (is_training()) *images_seen.data<std::int64_t>() += x.size(0);
    return x + scale * relu(norm(conv(x)));
  }

  std::string extra_repr() const override { return "channels=" + std::to_string(conv.weight.size(0)); }
};

const char* yes_no(bool answer) { return answer ? "yes" : "no"; }

void look_at_names() {
  const SkipBlock block(16);
  for (const auto& [name, parameter] : block.named_parameters()) {
    std::cout << "parameter " << name << ' ' << to_string(parameter.shape()) << '\n';
  }
  for (const auto& [name, buffer] : block.named_buffers()) {
    std::cout << "buffer " << name << ' ' << to_string(buffer.shape()) << '\n';
  }
}

void look_at_modes() {
  SkipBlock block(16);
  const Tensor x = Tensor::randn({4, 16, 8, 8});
  std::printf("a new block returns its input: %s\n", yes_no(block(x).to_vector<float>() == x.to_vector<float>()));
  block.eval();
  block(x);
  std::printf("images seen in training: %lld\n", static_cast<long long>(*block.images_seen.data<std::int64_t>()));
}

void copy_it() {
  SkipBlock block(16);
  const SkipBlock copy = block;
  const SkipBlock independent = clone(block);
  {
    const NoGradGuard no_grad;
    block.scale.fill_(2.0);
  }
  std::printf("scale of the copy: %g, of the clone: %g\n", copy.scale.item(), independent.scale.item());
}

Sequential make_net() {
  return Sequential(Conv2d(3, 16, 3, {.stride = 2}), ReLU(), SkipBlock(16), SkipBlock(16), AdaptiveAvgPool2d(1),
                    Flatten(), Linear(16, 10));
}

void train_it() {
  Sequential net = make_net();
  std::cout << net << '\n';

  const DataLoader loader(std::make_shared<SyntheticDataset>(Split::train, 400), Compose(ToTensor()),
                          {.batch_size = 50});
  SGD optimizer(net.parameters(), {.lr = 0.05, .momentum = 0.9});
  double first = 0.0, last = 0.0;
  for (int epoch = 0; epoch < 5; ++epoch) {
    for (const Batch& batch : loader.epoch(epoch)) {
      optimizer.zero_grad();
      const Tensor loss = cross_entropy(net(batch.images), batch.labels);
      loss.backward();
      optimizer.step();
      if (first == 0.0) first = loss.item();
      last = loss.item();
    }
  }
  std::printf("the loss fell: %s; the scale moved: %s\n", yes_no(last < first),
              yes_no(net.at<SkipBlock>(2).scale.item() != 0.0));

  save_safetensors("own_module.safetensors", net.state_dict());
  Sequential again = make_net();
  again.load_state_dict(load_safetensors("own_module.safetensors"));
  const Tensor x = Tensor::randn({2, 3, 32, 32});
  net.eval();
  again.eval();
  std::printf("the loaded net answers the same: %s\n",
              yes_no(net(x).to_vector<float>() == again(x).to_vector<float>()));

  try {
    SkipBlock(8).load_state_dict(net.at<SkipBlock>(2).state_dict());
  } catch (const StateDictError& error) {
    std::cout << error.what() << '\n';
  }
}

int main() {
  manual_seed(0);
  look_at_names();
  look_at_modes();
  copy_it();
  train_it();
}
