#include <lockstep/layers/conv2d.h>

#include <algorithm>
#include <cmath>

#include <lockstep/core/base/check.h>
#include <lockstep/core/ops.h>
#include <lockstep/layers/init.h>

namespace lockstep {

namespace {

bool all_at_least(std::int64_t least, const Pair& size) { return size[0] >= least && size[1] >= least; }

std::string tuple(const Pair& size) { return fmt::format("({}, {})", size[0], size[1]); }

}  // namespace

Conv2d::Conv2d(std::int64_t in_channels, std::int64_t out_channels, Size2d kernel_size, const Options& options)
    : options_{options.stride, options.padding, options.dilation, options.groups} {
  LOCKSTEP_CHECK(in_channels > 0 && out_channels > 0 && all_at_least(1, kernel_size), ValueError, "Conv2d",
                 "expected positive sizes, got {} and {} channels, kernel {}", in_channels, out_channels,
                 tuple(kernel_size));
  LOCKSTEP_CHECK(
      all_at_least(1, options.stride) && all_at_least(1, options.dilation) && all_at_least(0, options.padding),
      ValueError, "Conv2d", "expected stride and dilation >= 1 and padding >= 0, got {}, {} and {}",
      tuple(options.stride), tuple(options.dilation), tuple(options.padding));
  LOCKSTEP_CHECK(options.groups > 0 && in_channels % options.groups == 0 && out_channels % options.groups == 0,
                 ValueError, "Conv2d", "expected channels divisible by groups, got {} and {} channels, groups {}",
                 in_channels, out_channels, options.groups);
  weight = Tensor::empty({out_channels, in_channels / options.groups, kernel_size[0], kernel_size[1]},
                         {.layout = Layout::channels_last});
  switch (options.init) {
    case Init::kaiming_uniform: init::kaiming_uniform_(weight, {.a = std::sqrt(5.0)}); break;
    case Init::kaiming_normal_fan_out:
      init::kaiming_normal_(weight, {.mode = init::FanMode::fan_out, .nonlinearity = init::Nonlinearity::relu});
      break;
    case Init::zeros: init::constant_(weight, 0.0); break;
  }
  register_parameter("weight", weight);
  if (options.bias) {
    bias = Tensor::empty({out_channels});
    const double bound = 1.0 / std::sqrt(static_cast<double>(weight.numel() / out_channels));  // 1 / √fan_in
    init::uniform_(bias, -bound, bound);
  }
  register_parameter("bias", bias);
}

Tensor Conv2d::forward(const Tensor& x) { return conv2d(x, weight, bias, options_); }

std::string Conv2d::extra_repr() const {
  std::string text = fmt::format("{}, {}, kernel_size={}, stride={}", weight.size(1) * options_.groups, weight.size(0),
                                 tuple({weight.size(2), weight.size(3)}), tuple(options_.stride));
  if (options_.padding != Pair{0, 0}) text += ", padding=" + tuple(options_.padding);
  if (options_.dilation != Pair{1, 1}) text += ", dilation=" + tuple(options_.dilation);
  if (options_.groups != 1) text += fmt::format(", groups={}", options_.groups);
  if (!bias.defined()) text += ", bias=False";
  return text;
}

}  // namespace lockstep
