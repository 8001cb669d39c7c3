#include <lockstep/layers/models/resnet.h>

#include <lockstep/core/base/check.h>
#include <lockstep/core/ops.h>
#include <lockstep/layers/init.h>

namespace lockstep {

namespace {

/// A convolution as all of these nets have them: padded to keep the size, without bias.
Conv2d conv(std::int64_t in_channels, std::int64_t out_channels, std::int64_t kernel_size, std::int64_t stride = 1) {
  return Conv2d(
      in_channels, out_channels, kernel_size,
      {.stride = stride, .padding = kernel_size / 2, .bias = false, .init = Conv2d::Init::kaiming_normal_fan_out});
}

/// What brings a block's input to the shape of its output; empty where it has it.
Sequential make_downsample(std::int64_t in_channels, std::int64_t out_channels, std::int64_t stride) {
  if (stride == 1 && in_channels == out_channels) return {};
  return Sequential(conv(in_channels, out_channels, 1, stride), BatchNorm2d(out_channels));
}

template <class Block>
Sequential make_layer(std::int64_t& in_channels, std::int64_t channels, int depth, std::int64_t stride) {
  Sequential layer;
  for (int i = 0; i < depth; ++i) {
    layer.push_back(Block(in_channels, channels, i == 0 ? stride : 1));
    in_channels = channels * Block::kExpansion;
  }
  return layer;
}

}  // namespace

BasicBlock::BasicBlock(std::int64_t in_channels, std::int64_t channels, std::int64_t stride)
    : conv1(conv(in_channels, channels, 3, stride)),
      bn1(channels),
      relu(/*inplace=*/true),
      conv2(conv(channels, channels, 3)),
      bn2(channels),
      downsample(make_downsample(in_channels, channels, stride)) {
  register_module("conv1", conv1);
  register_module("bn1", bn1);
  register_module("relu", relu);
  register_module("conv2", conv2);
  register_module("bn2", bn2);
  if (!downsample.empty()) register_module("downsample", downsample);
}

Tensor BasicBlock::forward(const Tensor& x) {
  const Tensor shortcut = downsample(x);
  const Tensor y = batch_norm_relu(bn1, relu, conv1(x));
  return batch_norm_relu(bn2, relu, conv2(y), shortcut);
}

Bottleneck::Bottleneck(std::int64_t in_channels, std::int64_t channels, std::int64_t stride)
    : conv1(conv(in_channels, channels, 1)),
      bn1(channels),
      conv2(conv(channels, channels, 3, stride)),
      bn2(channels),
      conv3(conv(channels, channels * kExpansion, 1)),
      bn3(channels * kExpansion),
      relu(/*inplace=*/true),
      downsample(make_downsample(in_channels, channels * kExpansion, stride)) {
  register_module("conv1", conv1);
  register_module("bn1", bn1);
  register_module("conv2", conv2);
  register_module("bn2", bn2);
  register_module("conv3", conv3);
  register_module("bn3", bn3);
  register_module("relu", relu);
  if (!downsample.empty()) register_module("downsample", downsample);
}

Tensor Bottleneck::forward(const Tensor& x) {
  const Tensor shortcut = downsample(x);
  Tensor y = batch_norm_relu(bn1, relu, conv1(x));
  y = batch_norm_relu(bn2, relu, conv2(y));
  return batch_norm_relu(bn3, relu, conv3(y), shortcut);
}

ResNet::ResNet(Block block, const std::array<int, 4>& depths, const ResNetOptions& options)
    : conv1(conv(options.in_channels, options.width, 7, 2)),
      bn1(options.width),
      relu(/*inplace=*/true),
      maxpool(3, {.stride = 2, .padding = 1}),
      avgpool({1, 1}),
      fc(8 * options.width * (block == Block::basic ? BasicBlock::kExpansion : Bottleneck::kExpansion),
         options.num_classes) {
  std::int64_t channels = options.width;
  const auto layer = [&](int index) {
    const std::int64_t width = options.width << index, stride = index == 0 ? 1 : 2;
    const int depth = depths[static_cast<std::size_t>(index)];
    return block == Block::basic ? make_layer<BasicBlock>(channels, width, depth, stride)
                                 : make_layer<Bottleneck>(channels, width, depth, stride);
  };
  layer1 = layer(0);
  layer2 = layer(1);
  layer3 = layer(2);
  layer4 = layer(3);
  register_module("conv1", conv1);
  register_module("bn1", bn1);
  register_module("relu", relu);
  register_module("maxpool", maxpool);
  register_module("layer1", layer1);
  register_module("layer2", layer2);
  register_module("layer3", layer3);
  register_module("layer4", layer4);
  register_module("avgpool", avgpool);
  register_module("fc", fc);

  if (options.zero_init_residual) {
    for (const auto& [name, module] : named_modules()) {
      if (auto* basic = dynamic_cast<BasicBlock*>(module)) init::constant_(basic->bn2.weight, 0.0);
      if (auto* bottleneck = dynamic_cast<Bottleneck*>(module)) init::constant_(bottleneck->bn3.weight, 0.0);
    }
  }
}

Tensor ResNet::forward(const Tensor& x) {
  Tensor y = batch_norm_relu(bn1, relu, conv1(x));
  y = layer4(layer3(layer2(layer1(maxpool(y)))));
  return fc(flatten(avgpool(y), 1));
}

ResNet resnet18(const ResNetOptions& options) { return ResNet(ResNet::Block::basic, {2, 2, 2, 2}, options); }
ResNet resnet34(const ResNetOptions& options) { return ResNet(ResNet::Block::basic, {3, 4, 6, 3}, options); }
ResNet resnet50(const ResNetOptions& options) { return ResNet(ResNet::Block::bottleneck, {3, 4, 6, 3}, options); }

}  // namespace lockstep
