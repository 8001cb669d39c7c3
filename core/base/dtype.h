// Element types of tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include <lockstep/core/base/float16.h>

namespace lockstep {

/// Element type of a tensor. float16 and bfloat16 are storage types: they can be cast, copied and saved.
enum class DType : std::uint8_t { float32, float64, float16, bfloat16, int64, uint8 };

/// Bytes per element.
constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::float32: return 4;
    case DType::float64: return 8;
    case DType::float16: return 2;
    case DType::bfloat16: return 2;
    case DType::int64: return 8;
    case DType::uint8: return 1;
  }
  return 0;
}

/// "float32", "float64", …: the names that PyTorch and NumPy use.
constexpr std::string_view name(DType dtype) {
  switch (dtype) {
    case DType::float32: return "float32";
    case DType::float64: return "float64";
    case DType::float16: return "float16";
    case DType::bfloat16: return "bfloat16";
    case DType::int64: return "int64";
    case DType::uint8: return "uint8";
  }
  return "?";
}

/// True for the four floating types, which are the ones that can carry gradients.
constexpr bool is_floating(DType dtype) { return dtype != DType::int64 && dtype != DType::uint8; }

/// The DType of a C++ element type: `dtype_of<float> == DType::float32`.
template <class T>
inline constexpr DType dtype_of = [] {
  static_assert(std::is_same_v<T, float>, "not an element type of tensors");
  return DType::float32;
}();
template <>
inline constexpr DType dtype_of<double> = DType::float64;
template <>
inline constexpr DType dtype_of<float16> = DType::float16;
template <>
inline constexpr DType dtype_of<bfloat16> = DType::bfloat16;
template <>
inline constexpr DType dtype_of<std::int64_t> = DType::int64;
template <>
inline constexpr DType dtype_of<std::uint8_t> = DType::uint8;

/// The type that kernels compute in, and keep statistics and scalars in, for elements of type T: float for the 16-bit
/// types, else T.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>, float, T>;

/// The same for a DType.
constexpr DType compute_dtype(DType dtype) {
  return dtype == DType::float16 || dtype == DType::bfloat16 ? DType::float32 : dtype;
}

}  // namespace lockstep
