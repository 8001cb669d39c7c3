// Pooling layers over [N, C, H, W].
#pragma once

#include <lockstep/layers/module.h>
#include <lockstep/layers/size2d.h>

namespace lockstep {

/// torch.nn.MaxPool2d. Strides default to the kernel's size.
class MaxPool2d : public Module {
 public:
  /// torch.nn.MaxPool2d's.
  struct Options {
    Size2d stride = 0;  ///< 0: the kernel's size
    Size2d padding = 0;
    Size2d dilation = 1;
    bool ceil_mode = false;
  };

  /// Sizes are checked in forward.
  explicit MaxPool2d(Size2d kernel_size) : MaxPool2d(kernel_size, Options{}) {}
  /// `MaxPool2d(3, {.stride = 2, .padding = 1})`.
  MaxPool2d(Size2d kernel_size, const Options& options);

  Tensor forward(const Tensor& x) override;
  std::string extra_repr() const override;

 private:
  Size2d kernel_size_;
  Options options_;
};

/// torch.nn.AvgPool2d. Strides default to the kernel's size.
class AvgPool2d : public Module {
 public:
  /// torch.nn.AvgPool2d's.
  struct Options {
    Size2d stride = 0;  ///< 0: the kernel's size
    Size2d padding = 0;
    bool ceil_mode = false;
    bool count_include_pad = true;
  };

  /// Sizes are checked in forward.
  explicit AvgPool2d(Size2d kernel_size) : AvgPool2d(kernel_size, Options{}) {}
  /// `AvgPool2d(3, {.stride = 2, .padding = 1})`.
  AvgPool2d(Size2d kernel_size, const Options& options);

  Tensor forward(const Tensor& x) override;
  std::string extra_repr() const override;

 private:
  Size2d kernel_size_;
  Options options_;
};

/// torch.nn.AdaptiveAvgPool2d: to a fixed size, whatever comes.
class AdaptiveAvgPool2d : public Module {
 public:
  /// `AdaptiveAvgPool2d(1)`, or `AdaptiveAvgPool2d({1, 7})`.
  explicit AdaptiveAvgPool2d(Size2d output_size) : output_size_(output_size) {}

  Tensor forward(const Tensor& x) override;
  std::string extra_repr() const override;

 private:
  Size2d output_size_;
};

}  // namespace lockstep
