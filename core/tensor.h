// Tensor: a cheap handle to a dense n-dimensional array and its place on the tape.
#pragma once

#include <concepts>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include <lockstep/core/base/device.h>
#include <lockstep/core/base/dtype.h>
#include <lockstep/core/base/intrusive_ptr.h>
#include <lockstep/core/base/shape.h>

namespace lockstep {

class Stream;

namespace detail {
class Node;
struct TensorImpl;
void intrusive_retain(TensorImpl* impl) noexcept;
void intrusive_release(TensorImpl* impl) noexcept;
}  // namespace detail

/// Order of a 4-D tensor's elements in memory. The shape is [N, C, H, W] either way; `channels_last` stores N, H, W, C,
/// which is what convolutions, pools and batch norms compute in. Tensors of other ranks are always `row_major`.
enum class Layout : std::uint8_t { row_major, channels_last };

/// Element type, device and memory order of a new tensor: `Tensor::zeros({2, 3}, {.dtype = DType::float64})`.
struct TensorOptions {
  DType dtype = DType::float32;
  Device device = kCpu;
  Layout layout = Layout::row_major;
};

/// A handle: copies share the array, the gradient and `requires_grad`, as in PyTorch. Always dense; no strides to think
/// of. Thread-safe like a standard container: concurrent reads are fine, a write needs exclusion. Every accessor throws
/// ValueError on a default-constructed (undefined) tensor, except defined().
class Tensor {
 public:
  /// An undefined tensor: "no bias", "no gradient yet".
  Tensor() = default;

  // ---- Making tensors. Sizes are checked as by Shape; a channels_last layout needs rank 4 (ShapeError).

  /// Contents undefined.
  static Tensor empty(const Shape& shape, TensorOptions options = {});
  static Tensor zeros(const Shape& shape, TensorOptions options = {});               ///< all 0
  static Tensor ones(const Shape& shape, TensorOptions options = {});                ///< all 1
  static Tensor full(const Shape& shape, double value, TensorOptions options = {});  ///< all `value`
  /// Contents undefined, in page-locked host memory: copies between it and a CUDA device do not stop the host. Do not
  /// change or free it before such a copy is done. Throws DeviceError where there is no CUDA device.
  static Tensor empty_pinned(const Shape& shape, DType dtype = DType::float32, Layout layout = Layout::row_major);
  /// 0, 1, …, n − 1 as int64.
  static Tensor arange(std::int64_t n);
  /// Standard normal draws (float32 or float64) from default_generator().
  static Tensor randn(const Shape& shape, TensorOptions options = {});
  /// Uniform draws in [0, 1) (float32 or float64) from default_generator().
  static Tensor rand(const Shape& shape, TensorOptions options = {});
  /// A copy of `values`, in row-major order. Throws ShapeError unless values.size() == shape.numel().
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape);
  /// The memory at `data` as a tensor, without a copy: shape.numel() elements of options.dtype in options.layout.
  /// `owner` is kept while any tensor uses the memory; without one the caller keeps it alive.
  static Tensor from_blob(void* data, const Shape& shape, TensorOptions options = {}, std::shared_ptr<void> owner = {});

  // ---- What it is.

  bool defined() const { return static_cast<bool>(impl_); }  ///< false for Tensor()
  const Shape& shape() const;                                ///< [N, C, H, W] in either layout
  /// Size of one dimension, negative from the end.
  std::int64_t size(int dim) const { return shape()[dim]; }
  int rank() const { return shape().rank(); }             ///< number of dimensions
  std::int64_t numel() const { return shape().numel(); }  ///< number of elements
  DType dtype() const;                                    ///< element type
  Device device() const;                                  ///< where the elements are
  Layout layout() const;                                  ///< their order in memory
  /// Bytes of all elements.
  std::size_t nbytes() const { return static_cast<std::size_t>(numel()) * size_of(dtype()); }
  /// What makes another of its kind: `Tensor::empty(shape, x.options())`.
  TensorOptions options() const { return {dtype(), device(), layout()}; }

  // ---- Raw access, in memory order of layout(). Writing through these pointers is not seen by the tape.

  void* data_ptr() const;  ///< the first element
  /// Throws DTypeError unless T is the element type.
  template <class T>
  T* data() const {
    check_dtype(dtype_of<T>);
    return static_cast<T*>(data_ptr());
  }
  /// The only element of a one-element tensor as a double. Throws ShapeError otherwise.
  double item() const;
  /// All elements converted to T, in row-major order whatever the layout. T: float, double, int64_t, uint8_t.
  template <class T>
  std::vector<T> to_vector() const;

  // ---- Copies and conversions. Differentiable where the dtype stays floating.

  /// A copy with its own memory.
  Tensor clone() const;
  /// The same values as another dtype; this tensor itself if it already has it.
  Tensor to(DType dtype) const;
  /// The same values on another device; this tensor itself if it is there already. Queued on the current streams of the
  /// CUDA devices that take part; returns when it is done if the target is the CPU. Throws DeviceError where there is
  /// no such device.
  Tensor to(Device device) const;
  /// The same values in another memory order; this tensor itself (or a view) if it already has it. Throws ShapeError
  /// for channels_last unless rank is 4.
  Tensor to(Layout layout) const;
  /// The same array without its place on the tape. Shares memory.
  Tensor detach() const;
  /// Keeps the memory from being used again before the work that `stream` has when the last tensor on it goes is done:
  /// for tensors used on another stream than the one they were made on. Throws DeviceError for a stream of another
  /// device.
  void record_stream(const Stream& stream) const;

  // ---- In place, not recorded. Throw AutogradError while gradients are being recorded on a tensor that takes part.

  Tensor& fill_(double value);            ///< every element becomes `value`
  Tensor& zero_() { return fill_(0.0); }  ///< every element becomes 0
  /// Copies the values of `source`: same shape; dtype and layout are converted.
  Tensor& copy_(const Tensor& source);
  /// this += scale · other, same shape and dtype.
  Tensor& add_(const Tensor& other, double scale = 1.0);
  /// this *= scale.
  Tensor& mul_(double scale);

  // ---- Gradients.

  /// True if a gradient will be computed for it, or for something it was computed from.
  bool requires_grad() const;
  /// Makes a leaf (a parameter) of it, or stops that. Throws DTypeError unless floating, AutogradError on a tensor that
  /// an op has recorded.
  Tensor& set_requires_grad(bool requires_grad = true);
  /// True unless an op has recorded it.
  bool is_leaf() const;
  /// The accumulated gradient of a leaf; undefined before the first backward.
  Tensor grad() const;
  /// Replaces the gradient: same shape and dtype, or undefined to drop it.
  void set_grad(const Tensor& grad) const;
  /// Where the gradient of this leaf goes when it next has none, instead of memory of its own: the same shape, dtype,
  /// layout and device. grad() is then that tensor, and its former contents are lost. Undefined: no such place. Throws
  /// as set_grad.
  void set_grad_destination(const Tensor& destination) const;
  /// Computes the gradient of this tensor with respect to every leaf it depends on and adds it to theirs. Without an
  /// argument this must have one element (ShapeError) and the gradient starts at 1. Throws AutogradError if nothing was
  /// recorded, if the tape was already used up (unless retained), or if a saved tensor has been changed in place since.
  void backward(const Tensor& grad = {}, bool retain_tape = false) const;
  /// Calls `hook` in each backward, at the moment when the gradient of this leaf is complete, on the thread that runs
  /// backward. Throws AutogradError on anything but a leaf that requires a gradient, ValueError for no function.
  void register_grad_ready_hook(std::function<void()> hook) const;

  /// The implementation, for ops: see core/tensor_impl.h.
  detail::TensorImpl* impl() const { return impl_.get(); }
  /// A handle to an implementation.
  explicit Tensor(detail::TensorImpl* impl) : impl_(impl) {}

 private:
  void check_dtype(DType wanted) const;

  IntrusivePtr<detail::TensorImpl> impl_;
};

/// Shape, dtype, layout and device, then the values (those at the edges for large tensors): for people and debuggers.
std::string to_string(const Tensor& tensor);

/// The default generator of random draws of this thread: a seed and a counter of draws made. Dropout, Tensor::randn and
/// parameter initialisation take the next count; every element of a draw is a function of (seed, count, element index).
struct Generator {
  std::uint64_t seed = 0;
  std::uint64_t draws = 0;
};
/// The calling thread's.
Generator& default_generator();
/// Sets the seed of default_generator() and starts its count again.
void manual_seed(std::uint64_t seed);

/// Whether ops on this thread record for backward. True at the start.
bool grad_enabled();

/// While it lives, ops on this thread record nothing (or, with `true`, record again).
class GradModeGuard {
 public:
  /// grad_enabled() is `enabled` from here on; the destructor restores it.
  explicit GradModeGuard(bool enabled);
  ~GradModeGuard();
  GradModeGuard(const GradModeGuard&) = delete;
  GradModeGuard& operator=(const GradModeGuard&) = delete;

 private:
  bool previous_;
};

/// torch.no_grad().
class NoGradGuard : public GradModeGuard {
 public:
  NoGradGuard() : GradModeGuard(false) {}
};

}  // namespace lockstep
