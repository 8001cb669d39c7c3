// What a Tensor handle points to. For ops, layers that write in place, and whoever adds an op; users of tensors need
// only tensor.h.
#pragma once

#include <cstddef>

#include <lockstep/core/allocator.h>
#include <lockstep/core/autograd/node.h>
#include <lockstep/core/storage.h>
#include <lockstep/core/tensor.h>

namespace lockstep::detail {

struct TensorImpl final : RefCounted<TensorImpl>, SmallObject {
  TensorImpl(IntrusivePtr<Storage> storage_, std::size_t offset_, const Shape& shape_, const TensorOptions& options)
      : storage(std::move(storage_)),
        offset(offset_),
        shape(shape_),
        dtype(options.dtype),
        layout(options.layout),
        device(options.device) {}

  IntrusivePtr<Storage> storage;
  std::size_t offset;  // bytes from the start of the storage
  Shape shape;
  DType dtype;
  Layout layout;
  Device device;
  IntrusivePtr<Node> node;  // null unless it requires a gradient
};

/// Another tensor over the same memory, without a place on the tape. The caller has checked that shape and layout fit.
inline Tensor alias(const Tensor& x, const Shape& shape, Layout layout, std::size_t byte_offset = 0) {
  const TensorImpl& impl = *x.impl();
  return Tensor(new TensorImpl(impl.storage, impl.offset + byte_offset, shape, {impl.dtype, impl.device, layout}));
}

/// Scratch memory of `bytes` for a kernel, on the device of `x`.
inline Tensor workspace(const Tensor& x, std::size_t bytes) {
  return Tensor::empty({static_cast<std::int64_t>(bytes)}, {DType::uint8, x.device()});
}

/// True if nothing but this handle can see the memory, so that it may be overwritten.
inline bool is_exclusive(const Tensor& x) { return x.impl()->use_count() == 1 && x.impl()->storage->use_count() == 1; }

/// To be called after every in-place change that users can make.
inline void bump_version(const Tensor& x) { ++x.impl()->storage->version; }

}  // namespace lockstep::detail
