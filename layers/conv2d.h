// The convolution layer.
#pragma once

#include <cstdint>

#include <lockstep/layers/module.h>
#include <lockstep/layers/size2d.h>

namespace lockstep {

/// torch.nn.Conv2d with zero padding: x [N, in_channels, H, W] → [N, out_channels, P, Q].
class Conv2d : public Module {
 public:
  /// How the weight starts. The bias always starts uniform within ±1 / √fan_in.
  enum class Init {
    kaiming_uniform,         ///< uniform within ±1 / √fan_in, PyTorch's default for a convolution
    kaiming_normal_fan_out,  ///< normal with standard deviation √(2 / fan_out), which torchvision's ResNets start with
    zeros,                   ///< for weights that are about to be loaded
  };
  /// torch.nn.Conv2d's, and how the weight starts.
  struct Options {
    Size2d stride = 1;
    Size2d padding = 0;
    Size2d dilation = 1;
    std::int64_t groups = 1;
    bool bias = true;
    Init init = Init::kaiming_uniform;
  };

  /// `Conv2d(3, 64, 7)`. Throws ValueError unless all sizes are positive.
  Conv2d(std::int64_t in_channels, std::int64_t out_channels, Size2d kernel_size)
      : Conv2d(in_channels, out_channels, kernel_size, Options{}) {}
  /// `Conv2d(3, 64, 7, {.stride = 2, .padding = 3, .bias = false})`. Throws ValueError unless sizes, strides and
  /// dilations are positive, paddings not negative, and both channel counts multiples of `groups`.
  Conv2d(std::int64_t in_channels, std::int64_t out_channels, Size2d kernel_size, const Options& options);

  Tensor forward(const Tensor& x) override;
  std::string extra_repr() const override;

  const Conv2dOptions& options() const { return options_; }  ///< what forward passes to conv2d

  Tensor weight;  ///< [out_channels, in_channels / groups, kernel height, kernel width], channels_last
  Tensor bias;    ///< [out_channels], or undefined

 private:
  Conv2dOptions options_;
};

}  // namespace lockstep
