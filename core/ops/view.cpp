// Ops that change the shape and not the values.
#include <algorithm>
#include <array>
#include <limits>

#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/ops/layout.h>
#include <lockstep/core/tensor_impl.h>
#include <lockstep/kernels/copy.h>
#include <lockstep/kernels/reduce.h>

namespace lockstep {
namespace {

/// A run of elements in a buffer, again and again: `length` from `start` on in every `step`.
struct Rows {
  std::int64_t start, step;
};

/// Copies `count` rows of `length` elements between tensors with other distances from row to row.
void copy_rows(const char* op, std::int64_t count, std::int64_t length, const Tensor& source, Rows from,
               const Tensor& target, Rows to) {
  StridedCopy box;
  box.rank = 2;
  box.sizes[0] = count;
  box.sizes[1] = length;
  box.source_strides[0] = from.step;
  box.target_strides[0] = to.step;
  box.source_strides[1] = box.target_strides[1] = 1;
  const std::size_t element = size_of(source.dtype());
  const auto at = [element](const Tensor& x, std::int64_t index) {
    return static_cast<std::byte*>(x.data_ptr()) + static_cast<std::size_t>(index) * element;
  };
  if (count == 0 || length == 0) return;
  dispatch(op, source,
           [&](auto on) { kernels::copy_strided(on, box, element, at(source, from.start), at(target, to.start)); });
}

/// Places `part` at `start` along `dim` of a tensor of zeros: the gradient of narrow.
Tensor pad_with_zeros(const Tensor& part, const Shape& shape, int dim, std::int64_t start) {
  Tensor out = Tensor::zeros(shape, {part.dtype(), part.device(), Layout::row_major});
  const Tensor plain = part.to(Layout::row_major);
  const detail::Around whole(shape, dim);
  const std::int64_t length = part.size(dim) * whole.inner;
  copy_rows("narrow", whole.outer, length, plain, {0, length}, out, {start * whole.inner, whole.size * whole.inner});
  return out;
}

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  require_defined("reshape", x, "a tensor");
  LOCKSTEP_CHECK(shape.numel() == x.numel(), ShapeError, "reshape", "expected a shape of {} elements for {}, got {}",
                 x.numel(), to_string(x.shape()), to_string(shape));
  const Tensor source = x.to(Layout::row_major);
  Tensor y = detail::alias(source, shape, Layout::row_major);
  if (must_record(source)) {
    record("reshape", y, {&source}, [shape = x.shape()](GradContext& ctx) { ctx.set(0, reshape(ctx.grad, shape)); });
  }
  return y;
}

Tensor reshape(const Tensor& x, std::initializer_list<std::int64_t> sizes) {
  require_defined("reshape", x, "a tensor");
  const auto wildcard = std::find(sizes.begin(), sizes.end(), -1);
  if (wildcard == sizes.end()) return reshape(x, Shape(sizes));
  LOCKSTEP_CHECK(std::find(wildcard + 1, sizes.end(), -1) == sizes.end(), ShapeError, "reshape",
                 "expected at most one -1, got [{}]", fmt::join(sizes, ", "));
  std::vector<std::int64_t> worked_out(sizes);
  auto& unknown = worked_out[static_cast<std::size_t>(wildcard - sizes.begin())];
  unknown = 1;
  const std::int64_t known = Shape(std::span<const std::int64_t>(worked_out)).numel();
  LOCKSTEP_CHECK(known > 0 && x.numel() % known == 0, ShapeError, "reshape",
                 "expected sizes that divide {} elements, got [{}]", x.numel(), fmt::join(sizes, ", "));
  unknown = x.numel() / known;
  return reshape(x, Shape(std::span<const std::int64_t>(worked_out)));
}

Tensor flatten(const Tensor& x, int first, int last) {
  require_defined("flatten", x, "a tensor");
  if (x.rank() == 0) return reshape(x, Shape{1});
  first = normalize_dim("flatten", first, x.rank());
  last = normalize_dim("flatten", last, x.rank());
  LOCKSTEP_CHECK(first <= last, ShapeError, "flatten", "expected first <= last, got {} and {}", first, last);
  std::vector<std::int64_t> sizes;
  std::int64_t merged = 1;
  for (int i = 0; i < x.rank(); ++i) {
    if (i < first || i > last) {
      sizes.push_back(x.size(i));
    } else {
      merged *= x.size(i);
      if (i == last) sizes.push_back(merged);
    }
  }
  return reshape(x, Shape(std::span<const std::int64_t>(sizes)));
}

Tensor transpose(const Tensor& x, int dim0, int dim1) {
  require_defined("transpose", x, "a tensor");
  dim0 = normalize_dim("transpose", dim0, x.rank());
  dim1 = normalize_dim("transpose", dim1, x.rank());
  detail::Strides source = detail::dense_strides(x.shape(), x.layout());
  std::swap(source[static_cast<std::size_t>(dim0)], source[static_cast<std::size_t>(dim1)]);
  const Shape shape = x.shape().with(dim0, x.size(dim1)).with(dim1, x.size(dim0));
  Tensor y = Tensor::empty(shape, {x.dtype(), x.device(), Layout::row_major});
  StridedCopy box;
  box.rank = shape.rank();
  const detail::Strides target = detail::dense_strides(shape, Layout::row_major);
  for (int i = 0; i < shape.rank(); ++i) {
    box.sizes[i] = shape[i];
    box.source_strides[i] = source[static_cast<std::size_t>(i)];
    box.target_strides[i] = target[static_cast<std::size_t>(i)];
  }
  dispatch("transpose", x,
           [&](auto on) { kernels::copy_strided(on, box, size_of(x.dtype()), x.data_ptr(), y.data_ptr()); });
  if (must_record(x)) {
    record("transpose", y, {&x}, [dim0, dim1](GradContext& ctx) { ctx.set(0, transpose(ctx.grad, dim0, dim1)); });
  }
  return y;
}

Tensor narrow(const Tensor& x, int dim, std::int64_t start, std::int64_t length) {
  require_defined("narrow", x, "a tensor");
  dim = normalize_dim("narrow", dim, x.rank());
  LOCKSTEP_CHECK(start >= 0 && length >= 0 && start <= x.size(dim) - length, ValueError, "narrow",
                 "expected a range inside dimension {} of {}, got start {} and length {}", dim, to_string(x.shape()),
                 start, length);
  const Shape shape = x.shape().with(dim, length);
  Tensor y;
  if (dim == 0) {
    const std::int64_t row = x.size(0) == 0 ? 0 : x.numel() / x.size(0) * static_cast<std::int64_t>(size_of(x.dtype()));
    y = detail::alias(x, shape, x.layout(), static_cast<std::size_t>(start * row));
  } else {
    const Tensor plain = x.to(Layout::row_major);
    const detail::Around whole(x.shape(), dim);
    y = Tensor::empty(shape, {x.dtype(), x.device(), Layout::row_major});
    copy_rows("narrow", whole.outer, length * whole.inner, plain, {start * whole.inner, whole.size * whole.inner}, y,
              {0, length * whole.inner});
  }
  if (must_record(x)) {
    record("narrow", y, {&x}, [shape = x.shape(), dim, start](GradContext& ctx) {
      ctx.set(0, pad_with_zeros(ctx.grad, shape, dim, start));
    });
  }
  return y;
}

Tensor cat(std::span<const Tensor> tensors, int dim) {
  LOCKSTEP_CHECK(!tensors.empty(), ValueError, "cat", "expected at least one tensor, got none");
  for (const Tensor& t : tensors) require_same("cat", tensors[0], t);
  dim = normalize_dim("cat", dim, tensors[0].rank());
  std::int64_t total = 0;
  for (const Tensor& t : tensors) {
    LOCKSTEP_CHECK(t.rank() == tensors[0].rank() && t.shape().with(dim, 0) == tensors[0].shape().with(dim, 0),
                   ShapeError, "cat", "expected shapes equal but for dimension {}, got {} and {}", dim,
                   to_string(tensors[0].shape()), to_string(t.shape()));
    LOCKSTEP_CHECK(t.size(dim) <= std::numeric_limits<std::int64_t>::max() - total, ShapeError, "cat",
                   "expected sizes whose sum is below 2^63, got {} and {}", total, t.size(dim));
    total += t.size(dim);
  }
  Tensor y =
      Tensor::empty(tensors[0].shape().with(dim, total), {tensors[0].dtype(), tensors[0].device(), Layout::row_major});
  const detail::Around whole(y.shape(), dim);
  std::int64_t at = 0;
  std::vector<const Tensor*> inputs;
  std::vector<std::int64_t> lengths;
  for (const Tensor& t : tensors) {
    const Tensor plain = t.to(Layout::row_major);
    const std::int64_t length = t.size(dim) * whole.inner;
    copy_rows("cat", whole.outer, length, plain, {0, length}, y, {at, total * whole.inner});
    at += length;
    inputs.push_back(&t);
    lengths.push_back(t.size(dim));
  }
  const bool recorded =
      grad_enabled() && std::any_of(tensors.begin(), tensors.end(), [](const Tensor& t) { return t.requires_grad(); });
  if (recorded) {
    record("cat", y, std::span<const Tensor* const>(inputs), [dim, lengths](GradContext& ctx) {
      std::int64_t start = 0;
      for (std::size_t i = 0; i < lengths.size(); ++i) {
        if (ctx.needs(static_cast<int>(i))) {
          ctx.set(static_cast<int>(i), narrow(ctx.grad, dim, start, lengths[i]).clone());
        }
        start += lengths[i];
      }
    });
  }
  return y;
}

Tensor broadcast_to(const Tensor& x, const Shape& shape) {
  require_defined("broadcast_to", x, "a tensor");
  LOCKSTEP_CHECK(x.rank() <= shape.rank() && broadcast_shapes("broadcast_to", x.shape(), shape) == shape, ShapeError,
                 "broadcast_to", "expected a shape that {} broadcasts to, got {}", to_string(x.shape()),
                 to_string(shape));
  const detail::Strides own = detail::dense_strides(x.shape(), x.layout());
  Tensor y = Tensor::empty(shape, {x.dtype(), x.device(), Layout::row_major});
  const detail::Strides target = detail::dense_strides(shape, Layout::row_major);
  const int missing = shape.rank() - x.rank();
  StridedCopy box;
  box.rank = shape.rank();
  for (int i = 0; i < shape.rank(); ++i) {
    const bool repeated = i < missing || x.size(i - missing) == 1;
    box.sizes[i] = shape[i];
    box.source_strides[i] = repeated ? 0 : own[static_cast<std::size_t>(i - missing)];
    box.target_strides[i] = target[static_cast<std::size_t>(i)];
  }
  dispatch("broadcast_to", x,
           [&](auto on) { kernels::copy_strided(on, box, size_of(x.dtype()), x.data_ptr(), y.data_ptr()); });
  if (must_record(x)) {
    record("broadcast_to", y, {&x}, [shape = x.shape()](GradContext& ctx) { ctx.set(0, sum_to(ctx.grad, shape)); });
  }
  return y;
}

}  // namespace lockstep
