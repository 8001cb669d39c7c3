// Copies that change strides, layout or dtype.
#pragma once

#include <cstdint>

#include <lockstep/core/base/device.h>
#include <lockstep/core/base/dtype.h>

namespace lockstep {

/// A box of elements read at one set of strides and written at another; in elements, outermost first. A source stride
/// of 0 repeats.
struct StridedCopy {
  static constexpr int kMaxRank = 8;
  int rank = 0;
  std::int64_t sizes[kMaxRank] = {};
  std::int64_t source_strides[kMaxRank] = {};
  std::int64_t target_strides[kMaxRank] = {};
};

namespace kernels {

/// Copies elements of `element_size` bytes (1, 2, 4 or 8). Source and target must not overlap.
void copy_strided(Cpu, const StridedCopy& box, std::size_t element_size, const void* source, void* target);
void copy_strided(CudaStream, const StridedCopy& box, std::size_t element_size, const void* source, void* target);

/// For each of `batch` matrices, [rows, cols] to [cols, rows], elements of `element_size` bytes (1, 2, 4 or 8). NCHW to
/// NHWC is rows = C, cols = H·W, and the way back is rows = H·W, cols = C.
void transpose(Cpu, std::int64_t batch, std::int64_t rows, std::int64_t cols, std::size_t element_size,
               const void* source, void* target);
void transpose(CudaStream, std::int64_t batch, std::int64_t rows, std::int64_t cols, std::size_t element_size,
               const void* source, void* target);

/// target[i] = source[i] converted, any dtype to any. Floating to integer truncates toward zero; out of range is
/// undefined in value but does not trap. To a narrower floating type it rounds to nearest even.
void cast(Cpu, std::int64_t n, DType source_dtype, const void* source, DType target_dtype, void* target);
void cast(CudaStream, std::int64_t n, DType source_dtype, const void* source, DType target_dtype, void* target);

/// Sets n elements of `dtype` to `value`.
void fill(Cpu, std::int64_t n, DType dtype, double value, void* target);
void fill(CudaStream, std::int64_t n, DType dtype, double value, void* target);

}  // namespace kernels
}  // namespace lockstep
