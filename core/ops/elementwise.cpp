// Arithmetic with broadcasting and elementwise functions.
#include <lockstep/kernels/elementwise.h>

#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/ops/layout.h>
#include <lockstep/core/tensor_impl.h>

namespace lockstep {
namespace {

/// Strides of `x` along the dimensions of `shape` (aligned at the last one), 0 where it repeats.
detail::Strides broadcast_strides(const Tensor& x, const Shape& shape) {
  const detail::Strides own = detail::dense_strides(x.shape(), x.layout());
  const int missing = shape.rank() - x.rank();
  detail::Strides strides{};
  for (int i = missing; i < shape.rank(); ++i) {
    if (x.size(i - missing) != 1) strides[static_cast<std::size_t>(i)] = own[static_cast<std::size_t>(i - missing)];
  }
  return strides;
}

/// The walk over a broadcast output in its memory order, neighbouring dimensions merged where both operands allow.
BroadcastShape plan_broadcast(const Tensor& a, const Tensor& b, const Shape& shape, Layout layout) {
  BroadcastShape plan;
  if (a.layout() == b.layout() && a.shape() == b.shape()) {
    plan.rank = 1;
    plan.sizes[0] = shape.numel();
    plan.a_strides[0] = plan.b_strides[0] = 1;
    return plan;
  }
  const detail::Strides sa = broadcast_strides(a, shape), sb = broadcast_strides(b, shape);
  const auto order = detail::memory_order(layout);
  for (int i = 0; i < shape.rank(); ++i) {
    const auto dim = static_cast<std::size_t>(order[static_cast<std::size_t>(i)]);
    const std::int64_t size = shape[static_cast<int>(dim)];
    if (size == 1) continue;
    const int last = plan.rank - 1;
    if (last >= 0 && plan.a_strides[last] == size * sa[dim] && plan.b_strides[last] == size * sb[dim]) {
      plan.sizes[last] *= size;
      plan.a_strides[last] = sa[dim];
      plan.b_strides[last] = sb[dim];
    } else {
      plan.sizes[plan.rank] = size;
      plan.a_strides[plan.rank] = sa[dim];
      plan.b_strides[plan.rank] = sb[dim];
      ++plan.rank;
    }
  }
  if (plan.rank == 0) {
    plan.rank = 1;
    plan.sizes[0] = shape.numel();
  }
  return plan;
}

Tensor binary(const char* op, BinaryOp kind, const Tensor& a, const Tensor& b) {
  require_same(op, a, b);
  const Shape shape = broadcast_shapes(op, a.shape(), b.shape());
  const bool last = (a.layout() == Layout::channels_last && a.rank() == shape.rank()) ||
                    (b.layout() == Layout::channels_last && b.rank() == shape.rank());
  const Layout layout = last && shape.rank() == 4 ? Layout::channels_last : Layout::row_major;
  Tensor out = Tensor::empty(shape, {a.dtype(), a.device(), layout});
  const BroadcastShape plan = plan_broadcast(a, b, shape, layout);
  dispatch_floating(
      op, a, [&]<class T>(auto on) { kernels::binary<T>(on, kind, plan, a.data<T>(), b.data<T>(), out.data<T>()); });
  return out;
}

Tensor unary(const char* op, UnaryOp kind, const Tensor& x) {
  require_defined(op, x, "a tensor");
  Tensor y = Tensor::empty(x.shape(), x.options());
  dispatch_floating(
      op, x, [&]<class T>(auto on) { kernels::unary_forward<T>(on, kind, x.numel(), x.data<T>(), y.data<T>()); });
  if (must_record(x)) {
    const SavedTensor saved = kind == UnaryOp::neg   ? SavedTensor(Tensor())
                              : kind == UnaryOp::log ? SavedTensor(x)
                                                     : SavedTensor::output(y);
    record(op, y, {&x}, [op, kind, saved](GradContext& ctx) {
      const Tensor& kept = saved.get(op);
      Tensor grad = kept.defined() ? ctx.grad.to(kept.layout()) : std::move(ctx.grad);
      ctx.grad = {};
      Tensor grad_x = detail::is_exclusive(grad) ? grad : Tensor::empty(grad.shape(), grad.options());
      dispatch_floating(op, grad, [&]<class T>(auto on) {
        kernels::unary_backward<T>(on, kind, grad.numel(), kept.defined() ? kept.data<T>() : nullptr, grad.data<T>(),
                                   grad_x.data<T>());
      });
      grad = {};
      ctx.set(0, std::move(grad_x));
    });
  }
  return y;
}

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) {
  Tensor y = binary("add", BinaryOp::add, a, b);
  if (must_record(a, b)) {
    record("add", y, {&a, &b}, [sa = a.shape(), sb = b.shape()](GradContext& ctx) {
      if (ctx.needs(0)) ctx.set(0, sum_to(ctx.grad, sa));
      if (ctx.needs(1)) ctx.set(1, sum_to(std::move(ctx.grad), sb));
    });
  }
  return y;
}

Tensor sub(const Tensor& a, const Tensor& b) {
  Tensor y = binary("sub", BinaryOp::sub, a, b);
  if (must_record(a, b)) {
    record("sub", y, {&a, &b}, [sa = a.shape(), sb = b.shape()](GradContext& ctx) {
      if (ctx.needs(0)) ctx.set(0, sum_to(ctx.grad, sa));
      if (ctx.needs(1)) ctx.set(1, neg(sum_to(ctx.grad, sb)));
    });
  }
  return y;
}

Tensor mul(const Tensor& a, const Tensor& b) {
  Tensor y = binary("mul", BinaryOp::mul, a, b);
  if (must_record(a, b)) {
    record("mul", y, {&a, &b}, [a = SavedTensor(a), b = SavedTensor(b)](GradContext& ctx) {
      if (ctx.needs(0)) ctx.set(0, sum_to(mul(ctx.grad, b.get("mul")), a.get("mul").shape()));
      if (ctx.needs(1)) ctx.set(1, sum_to(mul(ctx.grad, a.get("mul")), b.get("mul").shape()));
    });
  }
  return y;
}

Tensor div(const Tensor& a, const Tensor& b) {
  Tensor y = binary("div", BinaryOp::div, a, b);
  if (must_record(a, b)) {
    record("div", y, {&a, &b}, [sa = a.shape(), b = SavedTensor(b), y = SavedTensor::output(y)](GradContext& ctx) {
      const Tensor& divisor = b.get("div");
      if (ctx.needs(0)) ctx.set(0, sum_to(div(ctx.grad, divisor), sa));
      // y / b first, as PyTorch: 0 · ∞ and overflow then come where its users know them.
      if (ctx.needs(1)) ctx.set(1, neg(sum_to(mul(ctx.grad, div(y.get("div"), divisor)), divisor.shape())));
    });
  }
  return y;
}

Tensor affine(const Tensor& x, double scale, double shift) {
  require_defined("affine", x, "a tensor");
  Tensor y = Tensor::empty(x.shape(), x.options());
  dispatch_floating("affine", x, [&]<class T>(auto on) {
    kernels::affine<T>(on, x.numel(), x.data<T>(), static_cast<Compute<T>>(scale), static_cast<Compute<T>>(shift),
                       y.data<T>());
  });
  if (must_record(x)) {
    record("affine", y, {&x}, [scale](GradContext& ctx) { ctx.set(0, affine(ctx.grad, scale, -0.0)); });
  }
  return y;
}

Tensor neg(const Tensor& x) { return unary("neg", UnaryOp::neg, x); }
Tensor exp(const Tensor& x) { return unary("exp", UnaryOp::exp, x); }
Tensor log(const Tensor& x) { return unary("log", UnaryOp::log, x); }
Tensor sqrt(const Tensor& x) { return unary("sqrt", UnaryOp::sqrt, x); }
Tensor relu(const Tensor& x) { return unary("relu", UnaryOp::relu, x); }
Tensor sigmoid(const Tensor& x) { return unary("sigmoid", UnaryOp::sigmoid, x); }
Tensor tanh(const Tensor& x) { return unary("tanh", UnaryOp::tanh, x); }

}  // namespace lockstep
