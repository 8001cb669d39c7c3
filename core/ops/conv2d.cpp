// 2-D convolution, alone and with a ReLU behind it.
#include <lockstep/kernels/conv2d.h>

#include <algorithm>

#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/ops/relu_backward.h>
#include <lockstep/core/tensor_impl.h>

namespace lockstep {
namespace {

constexpr std::int64_t kMaxExtent = (std::int64_t{1} << 31) - 1;  // so that no output size overflows

Conv2dShape check_shapes(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias,
                         const Conv2dOptions& o) {
  require_same(op, x, weight);
  LOCKSTEP_CHECK(x.rank() == 4 && weight.rank() == 4, ShapeError, op,
                 "expected x [N, C, H, W] and weight [K, C / groups, R, S], got {} and {}", to_string(x.shape()),
                 to_string(weight.shape()));
  for (int i = 0; i < 2; ++i) {
    const auto d = static_cast<std::size_t>(i);
    LOCKSTEP_CHECK(o.stride[d] >= 1 && o.stride[d] <= kMaxExtent && o.padding[d] >= 0 && o.padding[d] <= kMaxExtent &&
                       o.dilation[d] >= 1 && o.dilation[d] <= kMaxExtent,
                   ValueError, op,
                   "expected stride >= 1, padding >= 0 and dilation >= 1, below 2^31, got {}, {} and {}", o.stride[d],
                   o.padding[d], o.dilation[d]);
  }
  LOCKSTEP_CHECK(o.groups >= 1 && x.size(1) % o.groups == 0 && weight.size(0) % o.groups == 0, ValueError, op,
                 "expected groups that divide {} input and {} output channels, got {}", x.size(1), weight.size(0),
                 o.groups);
  LOCKSTEP_CHECK(weight.size(1) == x.size(1) / o.groups, ShapeError, op,
                 "expected a weight [K, {}, R, S] for x {} and {} groups, got {}", x.size(1) / o.groups,
                 to_string(x.shape()), o.groups, to_string(weight.shape()));
  LOCKSTEP_CHECK(x.size(2) >= 1 && x.size(3) >= 1 && weight.size(0) >= 1, ShapeError, op,
                 "expected images of at least 1 x 1 and output channels, got x {} and weight {}", to_string(x.shape()),
                 to_string(weight.shape()));
  LOCKSTEP_CHECK(weight.size(2) >= 1 && weight.size(3) >= 1 && std::max(weight.size(2), weight.size(3)) <= kMaxExtent,
                 ShapeError, op, "expected a kernel of at least 1 x 1, below 2^31, got weight {}",
                 to_string(weight.shape()));
  if (bias.defined()) {
    require_same(op, x, bias);
    LOCKSTEP_CHECK(bias.shape() == Shape{weight.size(0)}, ShapeError, op, "expected a bias of shape [{}], got {}",
                   weight.size(0), to_string(bias.shape()));
  }
  Conv2dShape s{.n = x.size(0),
                .c = x.size(1),
                .h = x.size(2),
                .w = x.size(3),
                .k = weight.size(0),
                .r = weight.size(2),
                .s = weight.size(3),
                .p = 0,
                .q = 0,
                .stride_h = o.stride[0],
                .stride_w = o.stride[1],
                .pad_h = o.padding[0],
                .pad_w = o.padding[1],
                .dilation_h = o.dilation[0],
                .dilation_w = o.dilation[1],
                .groups = o.groups};
  const std::int64_t room_h = s.h + 2 * s.pad_h - s.dilation_h * (s.r - 1) - 1;
  const std::int64_t room_w = s.w + 2 * s.pad_w - s.dilation_w * (s.s - 1) - 1;
  LOCKSTEP_CHECK(room_h >= 0 && room_w >= 0, ShapeError, op,
                 "expected a kernel that fits the padded input, got weight {} on x {}", to_string(weight.shape()),
                 to_string(x.shape()));
  s.p = room_h / s.stride_h + 1;
  s.q = room_w / s.stride_w + 1;
  return s;
}

Tensor convolve(const char* op, const Tensor& x_any, const Tensor& weight_any, const Tensor& bias,
                const Conv2dOptions& options, bool relu) {
  const Conv2dShape shape = check_shapes(op, x_any, weight_any, bias, options);
  const Tensor x = x_any.to(Layout::channels_last);
  const Tensor weight = weight_any.to(Layout::channels_last);
  const TensorOptions last{x.dtype(), x.device(), Layout::channels_last};
  Tensor y = Tensor::empty({shape.n, shape.k, shape.p, shape.q}, last);
  dispatch_floating(op, x, [&]<class T>(auto on) {
    const Tensor scratch = detail::workspace(x, kernels::conv2d_forward_workspace<T>(on, shape, bias.defined(), relu));
    kernels::conv2d_forward<T>(on, shape, x.data<T>(), weight.data<T>(), bias.defined() ? bias.data<T>() : nullptr,
                               relu, y.data<T>(), scratch.data_ptr());
  });
  if (must_record(x, weight, bias)) {
    record(op, y, {&x, &weight, &bias},
           [op, shape, x = SavedTensor(x), w = SavedTensor(weight),
            y = relu ? SavedTensor::output(y) : SavedTensor(Tensor()), last](GradContext& ctx) {
             Tensor grad = ctx.grad.to(Layout::channels_last);
             ctx.grad = {};
             if (const Tensor& saved_y = y.get(op); saved_y.defined()) {
               grad = detail::relu_backward(op, saved_y, std::move(grad));
             }
             dispatch_floating(op, grad, [&]<class T>(auto on) {
               if (ctx.needs(1) || ctx.needs(2)) {
                 Tensor grad_w = ctx.empty(1, {shape.k, shape.c / shape.groups, shape.r, shape.s}, last);
                 Tensor grad_b = ctx.needs(2) ? ctx.empty(2, {shape.k}, {grad.dtype(), grad.device()}) : Tensor();
                 const Tensor scratch =
                     detail::workspace(grad, kernels::conv2d_backward_weight_workspace<T>(on, shape));
                 kernels::conv2d_backward_weight<T>(on, shape, x.get(op).data<T>(), grad.data<T>(), grad_w.data<T>(),
                                                    grad_b.defined() ? grad_b.data<T>() : nullptr, scratch.data_ptr());
                 ctx.set(1, std::move(grad_w));
                 if (grad_b.defined()) ctx.set(2, std::move(grad_b));
               }
               if (ctx.needs(0)) {
                 Tensor grad_x = Tensor::empty({shape.n, shape.c, shape.h, shape.w}, last);
                 const Tensor scratch = detail::workspace(grad, kernels::conv2d_backward_data_workspace<T>(on, shape));
                 kernels::conv2d_backward_data<T>(on, shape, grad.data<T>(), w.get(op).data<T>(), grad_x.data<T>(),
                                                  scratch.data_ptr());
                 ctx.set(0, std::move(grad_x));
               }
             });
           });
  }
  return y;
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const Conv2dOptions& options) {
  return convolve("conv2d", x, weight, bias, options, false);
}

Tensor conv2d_relu(const Tensor& x, const Tensor& weight, const Tensor& bias, const Conv2dOptions& options) {
  return convolve("conv2d_relu", x, weight, bias, options, true);
}

}  // namespace lockstep
