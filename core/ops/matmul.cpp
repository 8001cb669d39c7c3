// Matrix products.
#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/ops/relu_backward.h>
#include <lockstep/core/tensor_impl.h>
#include <lockstep/kernels/gemm.h>
#include <lockstep/kernels/reduce.h>

namespace lockstep {
namespace {

/// op(a) · op(b) for [m, k] × [k, n] matrices or batches of them, nothing recorded.
Tensor multiply(const char* op, bool transpose_a, const Tensor& a, bool transpose_b, const Tensor& b) {
  const std::int64_t m = a.size(transpose_a ? -1 : -2), k = a.size(transpose_a ? -2 : -1);
  const std::int64_t n = b.size(transpose_b ? -2 : -1);
  const std::int64_t batch = a.rank() == 3 ? a.size(0) : 1;
  Tensor c = Tensor::empty(a.rank() == 3 ? Shape{batch, m, n} : Shape{m, n}, {a.dtype(), a.device()});
  dispatch_floating(op, a, [&]<class T>(auto on) {
    for (std::int64_t i = 0; i < batch; ++i) {
      kernels::gemm<T>(on, transpose_a, transpose_b, m, n, k, a.data<T>() + i * m * k, a.size(-1),
                       b.data<T>() + i * k * n, b.size(-1), Compute<T>(0), c.data<T>() + i * m * n, n);
    }
  });
  return c;
}

Tensor multiply_weights(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu) {
  require_same(op, x, weight);
  LOCKSTEP_CHECK(x.rank() >= 1 && weight.rank() == 2 && x.size(-1) == weight.size(1), ShapeError, op,
                 "expected x [..., in] and weight [out, in], got {} and {}", to_string(x.shape()),
                 to_string(weight.shape()));
  const std::int64_t in = weight.size(1), out = weight.size(0);
  if (bias.defined()) {
    require_same(op, x, bias);
    LOCKSTEP_CHECK(bias.shape() == Shape{out}, ShapeError, op, "expected a bias of shape [{}], got {}", out,
                   to_string(bias.shape()));
  }
  const Tensor plain = x.to(Layout::row_major);
  std::int64_t rows = 1;
  for (int i = 0; i + 1 < x.rank(); ++i) rows *= x.size(i);
  Tensor y = Tensor::empty(x.shape().with(-1, out), {x.dtype(), x.device()});
  dispatch_floating(op, x, [&]<class T>(auto on) {
    kernels::linear_forward<T>(on, rows, out, in, plain.data<T>(), weight.data<T>(),
                               bias.defined() ? bias.data<T>() : nullptr, relu, y.data<T>());
  });
  if (must_record(plain, weight, bias)) {
    record(op, y, {&plain, &weight, &bias},
           [op, x = SavedTensor(plain), w = SavedTensor(weight),
            y = relu ? SavedTensor::output(y) : SavedTensor(Tensor()), rows, in, out](GradContext& ctx) {
             Tensor grad = ctx.grad.to(Layout::row_major);
             ctx.grad = {};
             if (const Tensor& saved_y = y.get(op); saved_y.defined()) {
               grad = detail::relu_backward(op, saved_y, std::move(grad));
             }
             const Tensor& saved_x = x.get(op);
             const Tensor& saved_w = w.get(op);
             dispatch_floating(op, grad, [&]<class T>(auto on) {
               if (ctx.needs(0)) {
                 Tensor grad_x = Tensor::empty(saved_x.shape(), saved_x.options());
                 kernels::gemm<T>(on, false, false, rows, in, out, grad.data<T>(), out, saved_w.data<T>(), in,
                                  Compute<T>(0), grad_x.data<T>(), in);
                 ctx.set(0, std::move(grad_x));
               }
               if (ctx.needs(1)) {
                 Tensor grad_w = ctx.empty(1, saved_w.shape(), saved_w.options());
                 kernels::gemm<T>(on, true, false, out, in, rows, grad.data<T>(), out, saved_x.data<T>(), in,
                                  Compute<T>(0), grad_w.data<T>(), in);
                 ctx.set(1, std::move(grad_w));
               }
               if (ctx.needs(2)) {
                 Tensor grad_b = ctx.empty(2, {out}, {grad.dtype(), grad.device()});
                 const Tensor scratch = detail::workspace(grad, kernels::reduce_sum_workspace(on, 1, rows, out));
                 kernels::reduce_sum<T>(on, 1, rows, out, grad.data<T>(), Compute<T>(1), grad_b.data<T>(),
                                        scratch.data_ptr());
                 ctx.set(2, std::move(grad_b));
               }
             });
           });
  }
  return y;
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  require_same("matmul", a, b);
  LOCKSTEP_CHECK((a.rank() == 2 || a.rank() == 3) && a.rank() == b.rank() && a.size(-1) == b.size(-2) &&
                     (a.rank() == 2 || a.size(0) == b.size(0)),
                 ShapeError, "matmul", "expected [m, k] x [k, n] or [b, m, k] x [b, k, n], got {} x {}",
                 to_string(a.shape()), to_string(b.shape()));
  Tensor c = multiply("matmul", false, a, false, b);
  if (must_record(a, b)) {
    record("matmul", c, {&a, &b}, [a = SavedTensor(a), b = SavedTensor(b)](GradContext& ctx) {
      if (ctx.needs(0)) ctx.set(0, multiply("matmul", false, ctx.grad, true, b.get("matmul")));
      if (ctx.needs(1)) ctx.set(1, multiply("matmul", true, a.get("matmul"), false, ctx.grad));
    });
  }
  return c;
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return multiply_weights("linear", x, weight, bias, false);
}

Tensor linear_relu(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return multiply_weights("linear_relu", x, weight, bias, true);
}

}  // namespace lockstep
