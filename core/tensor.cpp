#include <lockstep/core/tensor.h>

#include <algorithm>
#include <numeric>

#include <lockstep/core/base/check.h>
#include <lockstep/core/cuda_memory.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/ops/layout.h>
#include <lockstep/core/tensor_impl.h>
#include <lockstep/kernels/copy.h>
#include <lockstep/kernels/elementwise.h>
#include <lockstep/kernels/random.h>

namespace lockstep {

using detail::TensorImpl;

namespace {

thread_local Generator t_generator;
thread_local bool t_grad_enabled = true;

const TensorImpl& checked(const IntrusivePtr<TensorImpl>& impl) {
  LOCKSTEP_CHECK(impl, ValueError, "Tensor", "expected a defined tensor, got an undefined one");
  return *impl;
}

void check_in_place(const char* op, const Tensor& x) {
  LOCKSTEP_CHECK(!(grad_enabled() && x.requires_grad()), AutogradError, op,
                 "expected no in-place change of a tensor that requires a gradient while recording; use NoGradGuard");
}

void check_device(const char* op, Device device) {
  const bool exists =
      device == kCpu || (device.type == Device::Type::cuda && device.index >= 0 && device.index < cuda_device_count());
  LOCKSTEP_CHECK(exists, DeviceError, op,
                 "expected the CPU or one of the {} CUDA devices that this build can use here, got {}",
                 cuda_device_count(), to_string(device));
}

void check_options(const char* op, const Shape& shape, const TensorOptions& options) {
  check_device(op, options.device);
  LOCKSTEP_CHECK(options.layout == Layout::row_major || shape.rank() == 4, ShapeError, op,
                 "expected 4 dimensions for channels_last, got {}", to_string(shape));
  constexpr std::int64_t kMaxElements = std::int64_t{1} << 59;  // so that bytes can be counted
  LOCKSTEP_CHECK(shape.numel() <= kMaxElements, ShapeError, op, "expected at most 2^59 elements, got shape {}",
                 to_string(shape));
}

}  // namespace

void detail::intrusive_retain(TensorImpl* impl) noexcept { impl->retain(); }
void detail::intrusive_release(TensorImpl* impl) noexcept { impl->release(); }

// ---- Making tensors.

Tensor Tensor::empty(const Shape& shape, TensorOptions options) {
  check_options("empty", shape, options);
  const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * size_of(options.dtype);
  auto* storage = options.device == kCpu ? new Storage(bytes) : new Storage(bytes, current_stream(options.device));
  return Tensor(new TensorImpl(IntrusivePtr<Storage>(storage), 0, shape, options));
}

Tensor Tensor::full(const Shape& shape, double value, TensorOptions options) {
  Tensor out = empty(shape, options);
  dispatch("full", out, [&](auto on) { kernels::fill(on, out.numel(), out.dtype(), value, out.data_ptr()); });
  return out;
}
Tensor Tensor::zeros(const Shape& shape, TensorOptions options) { return full(shape, 0.0, options); }
Tensor Tensor::ones(const Shape& shape, TensorOptions options) { return full(shape, 1.0, options); }

Tensor Tensor::empty_pinned(const Shape& shape, DType dtype, Layout layout) {
  check_options("empty_pinned", shape, {dtype, kCpu, layout});
  const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * size_of(dtype);
  void* block = detail::pinned_allocate(bytes);
  return from_blob(block, shape, {dtype, kCpu, layout}, {block, detail::pinned_deallocate});
}

Tensor Tensor::arange(std::int64_t n) {
  Tensor out = empty({n}, {.dtype = DType::int64});
  std::iota(out.data<std::int64_t>(), out.data<std::int64_t>() + n, std::int64_t{0});
  return out;
}

Tensor Tensor::randn(const Shape& shape, TensorOptions options) {
  Tensor out = empty(shape, options);
  Generator& g = default_generator();
  dispatch_floating("randn", out, [&]<class T>(auto on) {
    kernels::fill_normal<T>(on, out.numel(), Compute<T>(0), Compute<T>(1), g.seed, g.draws++, out.data<T>());
  });
  return out;
}

Tensor Tensor::rand(const Shape& shape, TensorOptions options) {
  Tensor out = empty(shape, options);
  Generator& g = default_generator();
  dispatch_floating("rand", out, [&]<class T>(auto on) {
    kernels::fill_uniform<T>(on, out.numel(), Compute<T>(0), Compute<T>(1), g.seed, g.draws++, out.data<T>());
  });
  return out;
}

template <class T>
Tensor Tensor::from(const std::vector<T>& values, const Shape& shape) {
  LOCKSTEP_CHECK(static_cast<std::int64_t>(values.size()) == shape.numel(), ShapeError, "from",
                 "expected {} values for shape {}, got {}", shape.numel(), to_string(shape), values.size());
  Tensor out = empty(shape, {.dtype = dtype_of<T>});
  std::copy(values.begin(), values.end(), out.data<T>());
  return out;
}
template Tensor Tensor::from(const std::vector<float>&, const Shape&);
template Tensor Tensor::from(const std::vector<double>&, const Shape&);
template Tensor Tensor::from(const std::vector<std::int64_t>&, const Shape&);
template Tensor Tensor::from(const std::vector<std::uint8_t>&, const Shape&);

Tensor Tensor::from_blob(void* data, const Shape& shape, TensorOptions options, std::shared_ptr<void> owner) {
  check_options("from_blob", shape, options);
  LOCKSTEP_CHECK(data || shape.numel() == 0, ValueError, "from_blob",
                 "expected memory for shape {}, got a null pointer", to_string(shape));
  const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * size_of(options.dtype);
  return Tensor(new TensorImpl(IntrusivePtr<Storage>(new Storage(data, bytes, std::move(owner))), 0, shape, options));
}

// ---- What it is.

const Shape& Tensor::shape() const { return checked(impl_).shape; }
DType Tensor::dtype() const { return checked(impl_).dtype; }
Device Tensor::device() const { return checked(impl_).device; }
Layout Tensor::layout() const { return checked(impl_).layout; }
void* Tensor::data_ptr() const {
  const TensorImpl& impl = checked(impl_);
  return static_cast<std::byte*>(impl.storage->data()) + impl.offset;
}

void Tensor::check_dtype(DType wanted) const {
  LOCKSTEP_CHECK(dtype() == wanted, DTypeError, "Tensor::data", "expected element type {}, got a {} tensor",
                 name(wanted), name(dtype()));
}

double Tensor::item() const {
  LOCKSTEP_CHECK(numel() == 1, ShapeError, "item", "expected one element, got shape {}", to_string(shape()));
  const Tensor here = detach().to(kCpu);
  double value = 0.0;
  kernels::cast(kOnCpu, 1, dtype(), here.data_ptr(), DType::float64, &value);
  return value;
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  const Tensor plain = detach().to(kCpu).to(Layout::row_major);
  std::vector<T> values(static_cast<std::size_t>(numel()));
  kernels::cast(kOnCpu, numel(), dtype(), plain.data_ptr(), dtype_of<T>, values.data());
  return values;
}
template std::vector<float> Tensor::to_vector() const;
template std::vector<double> Tensor::to_vector() const;
template std::vector<std::int64_t> Tensor::to_vector() const;
template std::vector<std::uint8_t> Tensor::to_vector() const;

// ---- Copies and conversions.

Tensor Tensor::clone() const {
  Tensor out = empty(shape(), options());
  detail::copy_bytes(nbytes(), data_ptr(), device(), out.data_ptr(), device());
  if (must_record(*this)) {
    record("clone", out, {this}, [](GradContext& ctx) { ctx.set(0, std::move(ctx.grad)); });
  }
  return out;
}

Tensor Tensor::to(DType wanted) const {
  if (dtype() == wanted) return *this;
  Tensor out = empty(shape(), {wanted, device(), layout()});
  dispatch("cast", out, [&](auto on) { kernels::cast(on, numel(), dtype(), data_ptr(), wanted, out.data_ptr()); });
  if (is_floating(wanted) && must_record(*this)) {
    record("cast", out, {this}, [source = dtype()](GradContext& ctx) { ctx.set(0, ctx.grad.to(source)); });
  }
  return out;
}

Tensor Tensor::to(Device wanted) const {
  if (device() == wanted) return *this;
  check_device("to", wanted);
  Tensor out = empty(shape(), {dtype(), wanted, layout()});
  detail::copy_bytes(nbytes(), data_ptr(), device(), out.data_ptr(), wanted);
  if (must_record(*this)) {
    record("to", out, {this}, [source = device()](GradContext& ctx) { ctx.set(0, ctx.grad.to(source)); });
  }
  return out;
}

Tensor Tensor::to(Layout wanted) const {
  if (layout() == wanted) return *this;
  check_options("to", shape(), {dtype(), device(), wanted});
  const Shape& s = shape();
  const std::int64_t channels = s[1], pixels = s[2] * s[3];
  Tensor out;
  if (channels == 1 || pixels == 1) {  // both orders are the same
    out = detail::alias(*this, s, wanted);
  } else {
    out = empty(s, {dtype(), device(), wanted});
    const bool to_last = wanted == Layout::channels_last;
    dispatch("layout", out, [&](auto on) {
      kernels::transpose(on, s[0], to_last ? channels : pixels, to_last ? pixels : channels, size_of(dtype()),
                         data_ptr(), out.data_ptr());
    });
  }
  if (must_record(*this)) {
    record("layout", out, {this}, [](GradContext& ctx) { ctx.set(0, std::move(ctx.grad)); });
  }
  return out;
}

Tensor Tensor::detach() const {
  checked(impl_);
  return detail::alias(*this, shape(), layout());
}

// ---- In place.

Tensor& Tensor::fill_(double value) {
  check_in_place("fill_", *this);
  dispatch("fill_", *this, [&](auto on) { kernels::fill(on, numel(), dtype(), value, data_ptr()); });
  detail::bump_version(*this);
  return *this;
}

Tensor& Tensor::copy_(const Tensor& source) {
  check_in_place("copy_", *this);
  require_defined("copy_", source, "a source");
  LOCKSTEP_CHECK(source.shape() == shape(), ShapeError, "copy_", "expected a source of shape {}, got {}",
                 to_string(shape()), to_string(source.shape()));
  const Tensor converted = source.detach().to(layout()).to(device());
  if (converted.data_ptr() != data_ptr()) {
    dispatch("copy_", *this, [&](auto on) {
      kernels::cast(on, numel(), converted.dtype(), converted.data_ptr(), dtype(), data_ptr());
    });
  }
  detail::bump_version(*this);
  return *this;
}

Tensor& Tensor::add_(const Tensor& other, double scale) {
  check_in_place("add_", *this);
  require_same("add_", *this, other);
  LOCKSTEP_CHECK(other.shape() == shape(), ShapeError, "add_", "expected shape {}, got {}", to_string(shape()),
                 to_string(other.shape()));
  const Tensor converted = other.detach().to(layout());
  dispatch_floating("add_", *this, [&]<class T>(auto on) {
    kernels::add_scaled<T>(on, numel(), converted.data<T>(), static_cast<Compute<T>>(scale), data<T>());
  });
  detail::bump_version(*this);
  return *this;
}

Tensor& Tensor::mul_(double scale) {
  check_in_place("mul_", *this);
  dispatch_floating("mul_", *this, [&]<class T>(auto on) {
    kernels::affine<T>(on, numel(), data<T>(), static_cast<Compute<T>>(scale), Compute<T>(0), data<T>());
  });
  detail::bump_version(*this);
  return *this;
}

void Tensor::record_stream(const Stream& stream) const {
  checked(impl_);
  LOCKSTEP_CHECK(stream.device() == device(), DeviceError, "record_stream", "expected a stream of {}, got one of {}",
                 to_string(device()), to_string(stream.device()));
  impl_->storage->record_stream(stream);
}

// ---- Gradients.

bool Tensor::requires_grad() const { return static_cast<bool>(checked(impl_).node); }
bool Tensor::is_leaf() const {
  const TensorImpl& impl = checked(impl_);
  return !impl.node || impl.node->is_leaf();
}

Tensor& Tensor::set_requires_grad(bool wanted) {
  LOCKSTEP_CHECK(is_leaf(), AutogradError, "set_requires_grad",
                 "expected a leaf, got the result of {}; detach() it first", impl_->node->op());
  LOCKSTEP_CHECK(is_floating(dtype()) || !wanted, DTypeError, "set_requires_grad", "expected a floating dtype, got {}",
                 name(dtype()));
  if (!wanted) {
    impl_->node = {};
  } else if (!impl_->node) {
    impl_->node = IntrusivePtr<detail::Node>(new detail::LeafNode(shape(), dtype(), layout()));
  }
  return *this;
}

Tensor Tensor::grad() const {
  const TensorImpl& impl = checked(impl_);
  return impl.node && impl.node->is_leaf() ? impl.node->grad : Tensor();
}

namespace {

/// The node of a leaf that `grad` fits.
detail::LeafNode& leaf_for(const char* op, const Tensor& leaf, const Tensor& grad) {
  LOCKSTEP_CHECK(leaf.requires_grad() && leaf.is_leaf(), AutogradError, op, "expected a leaf that requires a gradient");
  if (grad.defined()) {
    require_same(op, leaf, grad);
    LOCKSTEP_CHECK(grad.shape() == leaf.shape(), ShapeError, op, "expected a gradient of shape {}, got {}",
                   to_string(leaf.shape()), to_string(grad.shape()));
  }
  return static_cast<detail::LeafNode&>(*leaf.impl()->node);
}

}  // namespace

void Tensor::set_grad(const Tensor& grad) const { leaf_for("set_grad", *this, grad).grad = grad; }

void Tensor::set_grad_destination(const Tensor& destination) const {
  detail::LeafNode& leaf = leaf_for("set_grad_destination", *this, destination);
  LOCKSTEP_CHECK(!destination.defined() || destination.layout() == layout(), ShapeError, "set_grad_destination",
                 "expected the layout of the leaf, got the other one");
  leaf.set_destination(destination.defined() ? destination.detach() : Tensor());
}

void Tensor::backward(const Tensor& grad, bool retain_tape) const {
  LOCKSTEP_CHECK(requires_grad(), AutogradError, "backward",
                 "expected a tensor computed from one that requires a gradient");
  Tensor start = grad.defined() ? grad.detach() : Tensor();
  if (!start.defined()) {
    LOCKSTEP_CHECK(numel() == 1, ShapeError, "backward",
                   "expected one element, or a gradient to start from; got shape {}", to_string(shape()));
    start = ones(shape(), options());
  }
  require_same("backward", *this, start);
  LOCKSTEP_CHECK(start.shape() == shape(), ShapeError, "backward", "expected a gradient of shape {}, got {}",
                 to_string(shape()), to_string(start.shape()));
  detail::run_backward(*this, std::move(start), retain_tape);
}

void Tensor::register_grad_ready_hook(std::function<void()> hook) const {
  LOCKSTEP_CHECK(requires_grad() && is_leaf(), AutogradError, "register_grad_ready_hook",
                 "expected a leaf that requires a gradient");
  LOCKSTEP_CHECK(hook, ValueError, "register_grad_ready_hook", "expected a function, got an empty one");
  static_cast<detail::LeafNode&>(*impl_->node).add_hook(std::move(hook));
}

// ---- Thread state.

Generator& default_generator() { return t_generator; }
void manual_seed(std::uint64_t seed) { t_generator = {seed, 0}; }

bool grad_enabled() { return t_grad_enabled; }
GradModeGuard::GradModeGuard(bool enabled) : previous_(t_grad_enabled) { t_grad_enabled = enabled; }
GradModeGuard::~GradModeGuard() { t_grad_enabled = previous_; }

std::string to_string(const Tensor& tensor) {
  if (!tensor.defined()) return "Tensor(undefined)";
  constexpr std::size_t kShown = 16;
  const std::vector<double> values = tensor.to_vector<double>();
  std::string text;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values.size() > kShown && i == kShown / 2) {
      text += ", …";
      i = values.size() - kShown / 2;
    }
    text += fmt::format("{}{:.6g}", text.empty() ? "" : ", ", values[i]);
  }
  return fmt::format("Tensor({}, {}, {}{}: {})", to_string(tensor.shape()), name(tensor.dtype()),
                     to_string(tensor.device()), tensor.layout() == Layout::channels_last ? ", channels_last" : "",
                     text);
}

}  // namespace lockstep
