// Max, average and adaptive average pooling.
#include <lockstep/kernels/pool2d.h>

#include <algorithm>
#include <limits>

#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor_impl.h>

namespace lockstep {
namespace {

void check_image(const char* op, const Tensor& x) {
  require_defined(op, x, "x [N, C, H, W]");
  LOCKSTEP_CHECK(x.rank() == 4 && x.size(1) >= 1 && x.size(2) >= 1 && x.size(3) >= 1, ShapeError, op,
                 "expected x [N, C, H, W] with C, H and W >= 1, got {}", to_string(x.shape()));
}

/// Output size along one dimension, by PyTorch's rule: with ceil_mode the last window must start inside the input or
/// its left padding.
std::int64_t output_size(const char* op, std::int64_t size, std::int64_t kernel, std::int64_t stride, std::int64_t pad,
                         std::int64_t dilation, bool ceil_mode) {
  constexpr std::int64_t kMaxExtent = (std::int64_t{1} << 31) - 1;  // so that nothing below overflows
  LOCKSTEP_CHECK(kernel >= 1 && stride >= 1 && dilation >= 1 && std::max({kernel, stride, dilation}) <= kMaxExtent,
                 ValueError, op, "expected kernel_size, stride and dilation from 1 to 2^31 - 1, got {}, {} and {}",
                 kernel, stride, dilation);
  LOCKSTEP_CHECK(pad >= 0 && pad <= kernel / 2, ValueError, op,
                 "expected padding from 0 to half of kernel_size {}, got {}", kernel, pad);
  const std::int64_t room = size + 2 * pad - dilation * (kernel - 1) - 1;
  LOCKSTEP_CHECK(room + (ceil_mode ? stride - 1 : 0) >= 0, ShapeError, op,
                 "expected a window of {} that fits an input of {} with padding {}", dilation * (kernel - 1) + 1, size,
                 pad);
  std::int64_t out = (room + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  if (ceil_mode && (out - 1) * stride >= size + pad) --out;
  return out;
}

Pool2dShape pool_shape(const char* op, const Tensor& x, const Pool2dOptions& o) {
  check_image(op, x);
  const Pair stride = {o.stride[0] == 0 ? o.kernel_size[0] : o.stride[0],
                       o.stride[1] == 0 ? o.kernel_size[1] : o.stride[1]};
  return {.n = x.size(0),
          .c = x.size(1),
          .h = x.size(2),
          .w = x.size(3),
          .p = output_size(op, x.size(2), o.kernel_size[0], stride[0], o.padding[0], o.dilation[0], o.ceil_mode),
          .q = output_size(op, x.size(3), o.kernel_size[1], stride[1], o.padding[1], o.dilation[1], o.ceil_mode),
          .kernel_h = o.kernel_size[0],
          .kernel_w = o.kernel_size[1],
          .stride_h = stride[0],
          .stride_w = stride[1],
          .pad_h = o.padding[0],
          .pad_w = o.padding[1],
          .dilation_h = o.dilation[0],
          .dilation_w = o.dilation[1],
          .count_include_pad = o.count_include_pad};
}

}  // namespace

Tensor max_pool2d(const Tensor& x_any, const Pool2dOptions& options) {
  const Pool2dShape shape = pool_shape("max_pool2d", x_any, options);
  LOCKSTEP_CHECK(shape.h * shape.w <= std::numeric_limits<std::int32_t>::max(), ShapeError, "max_pool2d",
                 "expected at most 2^31 - 1 pixels per image, got {}", shape.h * shape.w);
  const Tensor x = x_any.to(Layout::channels_last);
  Tensor y = Tensor::empty({shape.n, shape.c, shape.p, shape.q}, x.options());
  // int32 indices live in a byte tensor: int32 is no tensor dtype of its own.
  const Tensor argmax =
      Tensor::empty({y.numel() * static_cast<std::int64_t>(sizeof(std::int32_t))}, {DType::uint8, x.device()});
  dispatch_floating("max_pool2d", x, [&]<class T>(auto on) {
    kernels::max_pool2d_forward<T>(on, shape, x.data<T>(), y.data<T>(), static_cast<std::int32_t*>(argmax.data_ptr()));
  });
  if (must_record(x)) {
    record("max_pool2d", y, {&x}, [shape, argmax, options = x.options()](GradContext& ctx) {
      const Tensor grad = ctx.grad.to(Layout::channels_last);
      Tensor grad_x = Tensor::empty({shape.n, shape.c, shape.h, shape.w}, options);
      dispatch_floating("max_pool2d", grad, [&]<class T>(auto on) {
        kernels::max_pool2d_backward<T>(on, shape, grad.data<T>(), static_cast<const std::int32_t*>(argmax.data_ptr()),
                                        grad_x.data<T>());
      });
      ctx.set(0, std::move(grad_x));
    });
  }
  return y;
}

Tensor avg_pool2d(const Tensor& x_any, const Pool2dOptions& options) {
  const Pool2dShape shape = pool_shape("avg_pool2d", x_any, options);
  LOCKSTEP_CHECK((options.dilation == Pair{1, 1}), ValueError, "avg_pool2d", "expected dilation 1, got [{}, {}]",
                 options.dilation[0], options.dilation[1]);
  const Tensor x = x_any.to(Layout::channels_last);
  Tensor y = Tensor::empty({shape.n, shape.c, shape.p, shape.q}, x.options());
  dispatch_floating("avg_pool2d", x,
                    [&]<class T>(auto on) { kernels::avg_pool2d_forward<T>(on, shape, x.data<T>(), y.data<T>()); });
  if (must_record(x)) {
    record("avg_pool2d", y, {&x}, [shape, options = x.options()](GradContext& ctx) {
      const Tensor grad = ctx.grad.to(Layout::channels_last);
      Tensor grad_x = Tensor::empty({shape.n, shape.c, shape.h, shape.w}, options);
      dispatch_floating("avg_pool2d", grad, [&]<class T>(auto on) {
        kernels::avg_pool2d_backward<T>(on, shape, grad.data<T>(), grad_x.data<T>());
      });
      ctx.set(0, std::move(grad_x));
    });
  }
  return y;
}

Tensor adaptive_avg_pool2d(const Tensor& x_any, Pair output) {
  check_image("adaptive_avg_pool2d", x_any);
  LOCKSTEP_CHECK(output[0] >= 1 && output[1] >= 1, ShapeError, "adaptive_avg_pool2d",
                 "expected output sizes >= 1, got [{}, {}]", output[0], output[1]);
  const Tensor x = x_any.to(Layout::channels_last);
  const std::int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3), p = output[0], q = output[1];
  Tensor y = Tensor::empty({n, c, p, q}, x.options());
  dispatch_floating("adaptive_avg_pool2d", x, [&]<class T>(auto on) {
    kernels::adaptive_avg_pool2d_forward<T>(on, n, h, w, c, p, q, x.data<T>(), y.data<T>());
  });
  if (must_record(x)) {
    record("adaptive_avg_pool2d", y, {&x}, [n, h, w, c, p, q, options = x.options()](GradContext& ctx) {
      const Tensor grad = ctx.grad.to(Layout::channels_last);
      Tensor grad_x = Tensor::empty({n, c, h, w}, options);
      dispatch_floating("adaptive_avg_pool2d", grad, [&]<class T>(auto on) {
        kernels::adaptive_avg_pool2d_backward<T>(on, n, h, w, c, p, q, grad.data<T>(), grad_x.data<T>());
      });
      ctx.set(0, std::move(grad_x));
    });
  }
  return y;
}

}  // namespace lockstep
