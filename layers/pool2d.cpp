#include <lockstep/layers/pool2d.h>

#include <fmt/core.h>

#include <lockstep/core/ops.h>
#include <lockstep/layers/python_repr.h>

namespace lockstep {

std::string to_string(const Size2d& size) {
  return size.single ? std::to_string(size[0]) : fmt::format("({}, {})", size[0], size[1]);
}

namespace {

/// The stride that a pool uses: the kernel's size where none is given.
Size2d stride_or_kernel(const Size2d& stride, const Size2d& kernel_size) {
  return stride == Size2d(0) ? kernel_size : stride;
}

}  // namespace

MaxPool2d::MaxPool2d(Size2d kernel_size, const Options& options) : kernel_size_(kernel_size), options_(options) {
  options_.stride = stride_or_kernel(options.stride, kernel_size);
}

Tensor MaxPool2d::forward(const Tensor& x) {
  return max_pool2d(x, {.kernel_size = kernel_size_,
                        .stride = options_.stride,
                        .padding = options_.padding,
                        .dilation = options_.dilation,
                        .ceil_mode = options_.ceil_mode});
}

std::string MaxPool2d::extra_repr() const {
  return fmt::format("kernel_size={}, stride={}, padding={}, dilation={}, ceil_mode={}", to_string(kernel_size_),
                     to_string(options_.stride), to_string(options_.padding), to_string(options_.dilation),
                     detail::python_repr(options_.ceil_mode));
}

AvgPool2d::AvgPool2d(Size2d kernel_size, const Options& options) : kernel_size_(kernel_size), options_(options) {
  options_.stride = stride_or_kernel(options.stride, kernel_size);
}

Tensor AvgPool2d::forward(const Tensor& x) {
  return avg_pool2d(x, {.kernel_size = kernel_size_,
                        .stride = options_.stride,
                        .padding = options_.padding,
                        .ceil_mode = options_.ceil_mode,
                        .count_include_pad = options_.count_include_pad});
}

std::string AvgPool2d::extra_repr() const {
  return fmt::format("kernel_size={}, stride={}, padding={}", to_string(kernel_size_), to_string(options_.stride),
                     to_string(options_.padding));
}

Tensor AdaptiveAvgPool2d::forward(const Tensor& x) { return adaptive_avg_pool2d(x, output_size_); }

std::string AdaptiveAvgPool2d::extra_repr() const { return "output_size=" + to_string(output_size_); }

}  // namespace lockstep
