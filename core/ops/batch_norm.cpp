// Batch normalisation, alone and fused with a residual addition and ReLU.
#include <lockstep/kernels/batch_norm.h>

#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor_impl.h>

namespace lockstep {
namespace {

void check_inputs(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                  const Tensor& running_var, const BatchNormOptions& options, const Tensor& residual) {
  require_same(op, x, weight);
  require_same(op, x, bias);
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
    require_same(op, x, running_mean);
    require_same(op, x, running_var);
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

Tensor normalize(const char* op, const Tensor& x_any, const Tensor& weight, const Tensor& bias,
                 const Tensor& running_mean, const Tensor& running_var, const BatchNormOptions& options,
                 const Tensor& residual_any, bool relu) {
  check_inputs(op, x_any, weight, bias, running_mean, running_var, options, residual_any);
  const Tensor x = to_rows(x_any);
  const Tensor residual = residual_any.defined() ? to_rows(residual_any) : Tensor();
  const std::int64_t channels = x.size(1), rows = x.numel() / std::max<std::int64_t>(channels, 1);
  Tensor y = Tensor::empty(x.shape(), x.options());
  const TensorOptions per_channel{x.dtype(), x.device()};
  Tensor mean, invstd = Tensor::empty({channels}, per_channel);
  dispatch_floating(op, x, [&]<class T>(auto on) {
    const T* variance = nullptr;
    Tensor batch_variance;
    if (options.training) {
      mean = Tensor::empty({channels}, per_channel);
      batch_variance = Tensor::empty({channels}, per_channel);
      kernels::batch_norm_statistics<T>(on, rows, channels, x.data<T>(), mean.data<T>(), batch_variance.data<T>());
      variance = batch_variance.data<T>();
      if (running_mean.defined()) {
        kernels::batch_norm_update_running<T>(on, rows, channels, mean.data<T>(), variance, options.momentum,
                                              running_mean.data<T>(), running_var.data<T>());
        detail::bump_version(running_mean);
        detail::bump_version(running_var);
      }
    } else {
      mean = running_mean.detach();
      variance = running_var.data<T>();
    }
    kernels::batch_norm_invstd<T>(on, channels, variance, options.eps, invstd.data<T>());
    kernels::batch_norm_apply<T>(on, rows, channels, x.data<T>(), mean.data<T>(), invstd.data<T>(), weight.data<T>(),
                                 bias.data<T>(), residual.defined() ? residual.data<T>() : nullptr, relu, y.data<T>());
  });
  if (!must_record(x, weight, bias, residual)) return y;

  record(
      op, y, {&x, &weight, &bias, &residual},
      [op, x = SavedTensor(x), w = SavedTensor(weight), mean = SavedTensor(mean), invstd = SavedTensor(invstd),
       y = relu ? SavedTensor::output(y) : SavedTensor(Tensor()), rows, channels,
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
        Tensor grad_w = Tensor::empty({channels}, {grad.dtype(), grad.device()});
        Tensor grad_b = Tensor::empty({channels}, {grad.dtype(), grad.device()});
        dispatch_floating(op, grad, [&]<class T>(auto on) {
          const auto backward = [&](auto... args) {
            training ? kernels::batch_norm_backward<T>(on, args...) : kernels::batch_norm_backward_eval<T>(on, args...);
          };
          backward(rows, channels, saved_x.data<T>(), saved_y.defined() ? saved_y.data<T>() : nullptr, grad.data<T>(),
                   mean.get(op).data<T>(), invstd.get(op).data<T>(), w.get(op).data<T>(), grad_x.data<T>(),
                   grad_residual.defined() ? grad_residual.data<T>() : nullptr, grad_w.data<T>(), grad_b.data<T>());
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
