// Sums, means, maxima and what is made of them.
#include <lockstep/kernels/reduce.h>

#include <algorithm>
#include <numeric>

#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/ops/layout.h>
#include <lockstep/core/tensor_impl.h>

namespace lockstep {
namespace {

using Mask = std::array<bool, Shape::kMaxRank>;

/// Sums a row-major tensor over the marked dimensions, which stay with size 1. Neighbouring marked dimensions go in one
/// pass.
Tensor sum_marked(const char* op, const Tensor& x, const Mask& marked, double scale) {
  Tensor y = x.detach().to(Layout::row_major);
  Shape shape = y.shape();
  bool scaled = false;
  for (int last = shape.rank() - 1; last >= 0; --last) {
    if (!marked[static_cast<std::size_t>(last)]) continue;
    int first = last;
    while (first > 0 && marked[static_cast<std::size_t>(first - 1)]) --first;
    std::int64_t outer = 1, n = 1, inner = 1;
    for (int i = 0; i < shape.rank(); ++i) (i < first ? outer : i > last ? inner : n) *= shape[i];
    for (int i = first; i <= last; ++i) shape = shape.with(i, 1);
    Tensor out = Tensor::empty(shape, {y.dtype(), y.device(), Layout::row_major});
    dispatch_floating(op, y, [&]<class T>(auto on) {
      const Tensor scratch = detail::workspace(y, kernels::reduce_sum_workspace(on, outer, n, inner));
      kernels::reduce_sum<T>(on, outer, n, inner, y.data<T>(), scaled ? Compute<T>(1) : static_cast<Compute<T>>(scale),
                             out.data<T>(), scratch.data_ptr());
    });
    scaled = true;
    y = out;
    last = first;
  }
  if (scaled) return y;
  Tensor out = Tensor::empty(shape, y.options());  // a scaled copy: each element is a sum of one
  dispatch_floating(op, y, [&]<class T>(auto on) {
    kernels::reduce_sum<T>(on, y.numel(), 1, 1, y.data<T>(), static_cast<Compute<T>>(scale), out.data<T>(), nullptr);
  });
  return out;
}

Shape without(const Shape& shape, const Mask& marked) {
  std::vector<std::int64_t> sizes;
  for (int i = 0; i < shape.rank(); ++i) {
    if (!marked[static_cast<std::size_t>(i)]) sizes.push_back(shape[i]);
  }
  return Shape(std::span<const std::int64_t>(sizes));
}

Mask mark(const char* op, const Tensor& x, std::span<const int> dims) {
  Mask marked{};
  for (const int dim : dims) {
    bool& mark = marked[static_cast<std::size_t>(normalize_dim(op, dim, x.rank()))];
    LOCKSTEP_CHECK(!mark, ValueError, op, "expected each dimension once, got [{}]", fmt::join(dims, ", "));
    mark = true;
  }
  return marked;
}

Tensor reduce(const char* op, const Tensor& x, const Mask& marked, bool keepdim, bool average) {
  std::int64_t count = 1;
  for (int i = 0; i < x.rank(); ++i) count *= marked[static_cast<std::size_t>(i)] ? x.size(i) : 1;
  const double scale = average ? 1.0 / static_cast<double>(count) : 1.0;
  Tensor kept = sum_marked(op, x, marked, scale);
  Tensor y = keepdim ? detail::alias(kept, kept.shape(), Layout::row_major)
                     : detail::alias(kept, without(x.shape(), marked), Layout::row_major);
  if (must_record(x)) {
    record(op, y, {&x}, [shape = x.shape(), kept_shape = kept.shape(), scale](GradContext& ctx) {
      const Tensor grad = reshape(ctx.grad, kept_shape);
      ctx.set(0, broadcast_to(scale == 1.0 ? grad : affine(grad, scale, 0.0), shape));
    });
  }
  return y;
}

Tensor reduce(const char* op, const Tensor& x, std::span<const int> dims, bool keepdim, bool average) {
  require_defined(op, x, "a tensor");
  return reduce(op, x, mark(op, x, dims), keepdim, average);
}

Tensor reduce_all(const char* op, const Tensor& x, bool average) {
  require_defined(op, x, "a tensor");
  Mask all{};
  std::fill_n(all.begin(), x.rank(), true);
  return reduce(op, x, all, false, average);
}

}  // namespace

Tensor sum(const Tensor& x) { return reduce_all("sum", x, false); }
Tensor sum(const Tensor& x, std::span<const int> dims, bool keepdim) { return reduce("sum", x, dims, keepdim, false); }
Tensor sum(const Tensor& x, std::initializer_list<int> dims, bool keepdim) {
  return sum(x, std::span(dims.begin(), dims.size()), keepdim);
}
Tensor mean(const Tensor& x) { return reduce_all("mean", x, true); }
Tensor mean(const Tensor& x, std::span<const int> dims, bool keepdim) { return reduce("mean", x, dims, keepdim, true); }
Tensor mean(const Tensor& x, std::initializer_list<int> dims, bool keepdim) {
  return mean(x, std::span(dims.begin(), dims.size()), keepdim);
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  require_defined("sum_to", x, "a tensor");
  if (x.shape() == shape) return x;
  LOCKSTEP_CHECK(shape.rank() <= x.rank() && broadcast_shapes("sum_to", shape, x.shape()) == x.shape(), ShapeError,
                 "sum_to", "expected a shape that broadcasts to {}, got {}", to_string(x.shape()), to_string(shape));
  Mask marked{};
  const int missing = x.rank() - shape.rank();
  for (int i = 0; i < x.rank(); ++i) {
    marked[static_cast<std::size_t>(i)] = i < missing || (shape[i - missing] == 1 && x.size(i) != 1);
  }
  const Tensor kept = sum_marked("sum_to", x, marked, 1.0);
  Tensor y = detail::alias(kept, shape, Layout::row_major);
  if (must_record(x)) {
    record("sum_to", y, {&x}, [whole = x.shape()](GradContext& ctx) { ctx.set(0, broadcast_to(ctx.grad, whole)); });
  }
  return y;
}

namespace {

Shape reduced_shape(const Shape& shape, int dim, bool keepdim) {
  Mask marked{};
  marked[static_cast<std::size_t>(dim)] = true;
  return keepdim ? shape.with(dim, 1) : without(shape, marked);
}

std::pair<Tensor, Tensor> max_along(const char* op, const Tensor& x, int dim, bool keepdim) {
  require_defined(op, x, "a tensor");
  dim = normalize_dim(op, dim, x.rank());
  LOCKSTEP_CHECK(x.size(dim) > 0, ShapeError, op, "expected a dimension that is not empty, got {}",
                 to_string(x.shape()));
  const Tensor plain = x.detach().to(Layout::row_major);
  const Shape shape = reduced_shape(x.shape(), dim, keepdim);
  Tensor values = Tensor::empty(shape, {x.dtype(), x.device()});
  Tensor index = Tensor::empty(shape, {DType::int64, x.device()});
  const detail::Around a(x.shape(), dim);
  dispatch_floating(op, x, [&]<class T>(auto on) {
    kernels::reduce_max<T>(on, a.outer, a.size, a.inner, plain.data<T>(), values.data<T>(), index.data<std::int64_t>());
  });
  if (must_record(x)) {
    record(op, values, {&x}, [op, a, shape = x.shape(), index = SavedTensor(index)](GradContext& ctx) {
      const Tensor grad = ctx.grad.to(Layout::row_major);
      Tensor grad_x = Tensor::empty(shape, {grad.dtype(), grad.device()});
      dispatch_floating(op, grad, [&]<class T>(auto on) {
        kernels::reduce_max_backward<T>(on, a.outer, a.size, a.inner, grad.data<T>(),
                                        index.get(op).data<std::int64_t>(), grad_x.data<T>());
      });
      ctx.set(0, std::move(grad_x));
    });
  }
  return {values, index};
}

}  // namespace

std::pair<Tensor, Tensor> max(const Tensor& x, int dim, bool keepdim) { return max_along("max", x, dim, keepdim); }

Tensor argmax(const Tensor& x, int dim, bool keepdim) {
  require_defined("argmax", x, "a tensor");
  return max_along("argmax", x.detach(), dim, keepdim).second;
}

std::pair<Tensor, Tensor> topk(const Tensor& x, std::int64_t k) {
  require_defined("topk", x, "a tensor");
  LOCKSTEP_CHECK(x.rank() >= 1, ShapeError, "topk", "expected at least one dimension, got a scalar");
  const std::int64_t n = x.size(-1);
  LOCKSTEP_CHECK(k >= 1 && k <= n, ValueError, "topk", "expected k from 1 to {}, got {}", n, k);
  const Tensor plain = x.detach().to(Layout::row_major);
  const Shape shape = x.shape().with(-1, k);
  Tensor values = Tensor::empty(shape, {x.dtype(), x.device()});
  Tensor index = Tensor::empty(shape, {DType::int64, x.device()});
  dispatch_floating("topk", x, [&]<class T>(auto on) {
    kernels::topk<T>(on, x.numel() / n, n, k, plain.data<T>(), values.data<T>(), index.data<std::int64_t>());
  });
  return {values, index};
}

std::int64_t count_correct(const Tensor& logits, const Tensor& target, std::int64_t k) {
  require_defined("count_correct", logits, "logits");
  require_defined("count_correct", target, "targets");
  LOCKSTEP_CHECK(target.dtype() == DType::int64, DTypeError, "count_correct", "expected int64 targets, got {}",
                 name(target.dtype()));
  LOCKSTEP_CHECK(logits.rank() == 2 && target.shape() == Shape{logits.size(0)}, ShapeError, "count_correct",
                 "expected logits [N, classes] and targets [N], got {} and {}", to_string(logits.shape()),
                 to_string(target.shape()));
  LOCKSTEP_CHECK(k >= 1, ValueError, "count_correct", "expected k >= 1, got {}", k);
  const Tensor best = topk(logits, std::min(k, logits.size(1))).second.to(kCpu), wanted_classes = target.to(kCpu);
  const std::int64_t columns = best.size(1);
  const auto* index = best.data<std::int64_t>();
  const auto* wanted = wanted_classes.data<std::int64_t>();
  std::int64_t correct = 0;
  for (std::int64_t row = 0; row < target.numel(); ++row) {
    correct +=
        std::find(index + row * columns, index + (row + 1) * columns, wanted[row]) != index + (row + 1) * columns;
  }
  return correct;
}

}  // namespace lockstep
