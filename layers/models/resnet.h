// ResNet-18, -34 and -50: He et al., "Deep residual learning for image recognition", CVPR 2016, with torchvision's
// names and details (in the bottleneck block the 3×3 convolution has the stride).
#pragma once

#include <array>
#include <cstdint>

#include <lockstep/layers/activation.h>
#include <lockstep/layers/batch_norm.h>
#include <lockstep/layers/conv2d.h>
#include <lockstep/layers/linear.h>
#include <lockstep/layers/module.h>
#include <lockstep/layers/pool2d.h>
#include <lockstep/layers/sequential.h>

namespace lockstep {

/// Options of all ResNets here.
struct ResNetOptions {
  std::int64_t num_classes = 1000;
  std::int64_t in_channels = 3;  ///< of the images
  std::int64_t width = 64;       ///< channels of the stem and of layer1; 16 makes a narrow, quick variant
  bool zero_init_residual =
      false;  ///< the last batch norm of each block starts at 0, so that blocks start as identities
};

/// Two 3×3 convolutions and a shortcut: x [N, in_channels, H, W] → [N, channels, ⌈H / stride⌉, ⌈W / stride⌉].
class BasicBlock : public Module {
 public:
  static constexpr std::int64_t kExpansion = 1;

  /// The first convolution has the stride.
  BasicBlock(std::int64_t in_channels, std::int64_t channels, std::int64_t stride);
  Tensor forward(const Tensor& x) override;

  Conv2d conv1;
  BatchNorm2d bn1;
  ReLU relu;
  Conv2d conv2;
  BatchNorm2d bn2;
  Sequential downsample;  ///< a 1×1 convolution and batch norm where the shapes differ; else empty and no child
};

/// A 1×1, a 3×3 and a 1×1 convolution and a shortcut: x [N, in_channels, H, W] → [N, 4 · channels, ⌈H / stride⌉, ⌈W /
/// stride⌉].
class Bottleneck : public Module {
 public:
  static constexpr std::int64_t kExpansion = 4;

  /// The 3×3 convolution has the stride.
  Bottleneck(std::int64_t in_channels, std::int64_t channels, std::int64_t stride);
  Tensor forward(const Tensor& x) override;

  Conv2d conv1;
  BatchNorm2d bn1;
  Conv2d conv2;
  BatchNorm2d bn2;
  Conv2d conv3;
  BatchNorm2d bn3;
  ReLU relu;
  Sequential downsample;  ///< a 1×1 convolution and batch norm where the shapes differ; else empty and no child
};

/// Images [N, in_channels, H, W] → logits [N, num_classes]. Convolutions start normal (fan out), batch norms at 1 and
/// 0.
class ResNet : public Module {
 public:
  /// BasicBlock or Bottleneck.
  enum class Block { basic, bottleneck };

  /// `depths`: blocks in layer1 to layer4.
  ResNet(Block block, const std::array<int, 4>& depths, const ResNetOptions& options = {});
  Tensor forward(const Tensor& x) override;

  Conv2d conv1;
  BatchNorm2d bn1;
  ReLU relu;
  MaxPool2d maxpool;
  Sequential layer1, layer2, layer3, layer4;
  AdaptiveAvgPool2d avgpool;
  Linear fc;
};

/// 11,689,512 parameters with 1000 classes.
ResNet resnet18(const ResNetOptions& options = {});
/// 21,797,672.
ResNet resnet34(const ResNetOptions& options = {});
/// 25,557,032.
ResNet resnet50(const ResNetOptions& options = {});

}  // namespace lockstep
