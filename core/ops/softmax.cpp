// Softmax and log-softmax over any dimension.
#include <lockstep/kernels/softmax.h>

#include <algorithm>

#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor_impl.h>

namespace lockstep {
namespace {

/// Over the last dimension, where the kernels work.
Tensor over_last(const char* op, const Tensor& x_any, bool log) {
  const Tensor x = x_any.to(Layout::row_major);
  const std::int64_t n = x.size(-1), rows = x.numel() / std::max<std::int64_t>(n, 1);
  Tensor y = Tensor::empty(x.shape(), x.options());
  dispatch_floating(op, x, [&]<class T>(auto on) {
    if (log) {
      kernels::log_softmax_forward<T>(on, rows, n, x.data<T>(), y.data<T>());
    } else {
      kernels::softmax_forward<T>(on, rows, n, x.data<T>(), y.data<T>());
    }
  });
  if (must_record(x)) {
    record(op, y, {&x}, [op, log, rows, n, y = SavedTensor::output(y)](GradContext& ctx) {
      const Tensor grad = ctx.grad.to(Layout::row_major);
      Tensor grad_x = Tensor::empty(grad.shape(), grad.options());
      dispatch_floating(op, grad, [&]<class T>(auto on) {
        if (log) {
          kernels::log_softmax_backward<T>(on, rows, n, y.get(op).data<T>(), grad.data<T>(), grad_x.data<T>());
        } else {
          kernels::softmax_backward<T>(on, rows, n, y.get(op).data<T>(), grad.data<T>(), grad_x.data<T>());
        }
      });
      ctx.set(0, std::move(grad_x));
    });
  }
  return y;
}

Tensor over(const char* op, const Tensor& x, int dim, bool log) {
  require_defined(op, x, "a tensor");
  dim = normalize_dim(op, dim, std::max(x.rank(), 1));
  if (x.rank() == 0) return reshape(over_last(op, reshape(x, Shape{1}), log), Shape{});
  const int last = x.rank() - 1;
  return dim == last ? over_last(op, x, log) : transpose(over_last(op, transpose(x, dim, last), log), dim, last);
}

}  // namespace

Tensor softmax(const Tensor& x, int dim) { return over("softmax", x, dim, false); }
Tensor log_softmax(const Tensor& x, int dim) { return over("log_softmax", x, dim, true); }

}  // namespace lockstep
