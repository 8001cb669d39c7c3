// Batch normalisation, alone and fused with a residual addition and ReLU.
#include <lockstep/kernels/batch_norm.h>

#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor_impl.h>

namespace lockstep {
namespace {

/// Per-channel tensors are of x's dtype, or float32 beside 16-bit images: mixed precision.
void require_per_channel(const char* op, const Tensor& x, const Tensor& per_channel, const char* what) {
  require_defined(op, per_channel, what);
  if (per_channel.dtype() != compute_dtype(x.dtype())) {
    require_same(op, x, per_channel);
  } else {
    require_same_device(op, x, per_channel);
  }
}

void check_inputs(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                  const Tensor& running_var, const BatchNormOptions& options, const Tensor& residual) {
  require_defined(op, x, "x [N, C] or [N, C, H, W]");
  require_per_channel(op, x, weight, "weight");
  require_per_channel(op, x, bias, "bias");
  LOCKSTEP_CHECK(x.rank() == 2 || x.rank() == 4, ShapeError, op, "expected x [N, C] or [N, C, H, W], got {}",
                 to_string(x.shape()));
  const Shape per_channel{x.size(1)};
  for (const Tensor* t : {&weight, &bias, &running_mean, &running_var}) {
    LOCKSTEP_CHECK(!t->defined() || t->shape() == per_channel, ShapeError, op,
                   "expected weight, bias and running statistics of shape {} for x {}, got {}", to_string(per_channel),
                   to_string(x.shape()), to_string(t->shape()));
  }
  LOCKSTEP_CHECK(running_mean.defined() == running_var.defined() && (options.training || running_mean.defined()),
                 ValueError, op, "expected running_mean and running_var together, and in evaluation always");
  if (running_mean.defined()) {
    require_per_channel(op, x, running_mean, "running_mean");
    require_per_channel(op, x, running_var, "running_var");
  }
  LOCKSTEP_CHECK(options.eps > 0 || (options.eps == 0 && !options.training), ValueError, op,
                 "expected eps > 0, or 0 in evaluation, got {}", options.eps);
  LOCKSTEP_CHECK(!options.training || x.numel() / std::max<std::int64_t>(x.size(1), 1) > 1, ValueError, op,
                 "expected more than 1 value per channel when training, got x {}", to_string(x.shape()));
  if (residual.defined()) {
    require_same(op, x, residual);
    LOCKSTEP_CHECK(residual.shape() == x.shape(), ShapeError, op, "expected a residual of shape {}, got {}",
                   to_string(x.shape()), to_string(residual.shape()));
  }
}

Tensor to_rows(const Tensor& x) { return x.rank() == 4 ? x.to(Layout::channels_last) : x; }

Tensor normalize(const char* op, const Tensor& x_any, const Tensor& weight_any, const Tensor& bias_any,
                 const Tensor& running_mean, const Tensor& running_var, const BatchNormOptions& options,
                 const Tensor& residual_any, bool relu) {
  check_inputs(op, x_any, weight_any, bias_any, running_mean, running_var, options, residual_any);
  const Tensor x = to_rows(x_any);
  const Tensor residual = residual_any.defined() ? to_rows(residual_any) : Tensor();
  const std::int64_t channels = x.size(1), rows = x.numel() / std::max<std::int64_t>(channels, 1);
  Tensor y = Tensor::empty(x.shape(), x.options());
  const TensorOptions per_channel{compute_dtype(x.dtype()), x.device()};
  const Tensor weight = weight_any.to(per_channel.dtype), bias = bias_any.to(per_channel.dtype);
  const bool tracks = options.training && running_mean.defined();
  const Tensor kept_mean = running_mean.defined() ? running_mean.detach().to(per_channel.dtype) : Tensor();
  const Tensor kept_var = running_var.defined() ? running_var.detach().to(per_channel.dtype) : Tensor();
  const Tensor mean = options.training ? Tensor::empty({channels}, per_channel) : kept_mean;
  const Tensor variance = options.training ? Tensor::empty({channels}, per_channel) : kept_var;
  const Tensor invstd = Tensor::empty({channels}, per_channel);
  dispatch_floating(op, x, [&]<class T>(auto on) {
    using C = Compute<T>;
    if (options.training) {
      const Tensor scratch = detail::workspace(x, kernels::batch_norm_workspace(on, rows, channels));
      kernels::batch_norm_statistics<T>(on, rows, channels, x.data<T>(), mean.data<C>(), variance.data<C>(),
                                        scratch.data_ptr());
    }
    if (tracks) {
      kernels::batch_norm_update_running<C>(on, rows, channels, mean.data<C>(), variance.data<C>(), options.momentum,
                                            kept_mean.data<C>(), kept_var.data<C>());
    }
    kernels::batch_norm_invstd<C>(on, channels, variance.data<C>(), options.eps, invstd.data<C>());
    kernels::batch_norm_apply<T>(on, rows, channels, x.data<T>(), mean.data<C>(), invstd.data<C>(), weight.data<C>(),
                                 bias.data<C>(), residual.defined() ? residual.data<T>() : nullptr, relu, y.data<T>());
  });
  if (tracks) {
    Tensor(running_mean).copy_(kept_mean);  // itself, unless it is of another dtype
    Tensor(running_var).copy_(kept_var);
  }
  if (!must_record(x, weight, bias, residual)) return y;

  record(op, y, {&x, &weight, &bias, &residual},
         [op, x = SavedTensor(x), w = SavedTensor(weight), mean = SavedTensor(mean), invstd = SavedTensor(invstd),
          y = relu ? SavedTensor::output(y) : SavedTensor(Tensor()), rows, channels, per_channel,
          training = options.training](GradContext& ctx) {
           const Tensor& saved_x = x.get(op);
           const Tensor& saved_y = y.get(op);
           Tensor grad = to_rows(ctx.grad);
           ctx.grad = {};
           // Both results could be written over the incoming gradient; it serves as the residual's, which passes it on
           // as it is.
           const bool reuse = detail::is_exclusive(grad);
           Tensor grad_residual;
           if (ctx.needs(3)) grad_residual = reuse ? grad : Tensor::empty(grad.shape(), grad.options());
           Tensor grad_x = reuse && !ctx.needs(3) ? grad : Tensor::empty(grad.shape(), grad.options());
           Tensor grad_w = ctx.empty(1, {channels}, per_channel);
           Tensor grad_b = ctx.empty(2, {channels}, per_channel);
           dispatch_floating(op, grad, [&]<class T>(auto on) {
             using C = Compute<T>;
             const Tensor scratch = detail::workspace(grad, kernels::batch_norm_workspace(on, rows, channels));
             const auto backward = [&](auto... args) {
               training ? kernels::batch_norm_backward<T>(on, args...)
                        : kernels::batch_norm_backward_eval<T>(on, args...);
             };
             backward(rows, channels, saved_x.data<T>(), saved_y.defined() ? saved_y.data<T>() : nullptr,
                      grad.data<T>(), mean.get(op).data<C>(), invstd.get(op).data<C>(), w.get(op).data<C>(),
                      grad_x.data<T>(), grad_residual.defined() ? grad_residual.data<T>() : nullptr, grad_w.data<C>(),
                      grad_b.data<C>(), scratch.data_ptr());
           });
           grad = {};
           ctx.set(0, std::move(grad_x));
           ctx.set(1, std::move(grad_w));
           ctx.set(2, std::move(grad_b));
           if (grad_residual.defined()) ctx.set(3, std::move(grad_residual));
         });
  return y;
}

}  // namespace

Tensor batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                  const Tensor& running_var, const BatchNormOptions& options) {
  return normalize("batch_norm", x, weight, bias, running_mean, running_var, options, {}, false);
}

Tensor batch_norm_relu(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                       const Tensor& running_var, const BatchNormOptions& options, const Tensor& residual) {
  return normalize("batch_norm_relu", x, weight, bias, running_mean, running_var, options, residual, true);
}

}  // namespace lockstep
