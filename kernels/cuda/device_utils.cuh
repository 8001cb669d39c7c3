// Building blocks of kernels: 16-byte loads and stores, conversion to and from float, reductions in a fixed order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include <cuda_runtime.h>

#include <lockstep/core/base/cuda.h>
#include <lockstep/core/base/float16.h>

namespace lockstep::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullWarp = 0xffffffffu;
inline constexpr int kMaxWarps = 32;  ///< of a block

// ---- Elements

/// An element as float (double stays double): what kernels compute in.
template <class T>
__device__ inline auto to_compute(T value) {
  if constexpr (std::is_same_v<T, double>) {
    return value;
  } else {
    return static_cast<float>(value);
  }
}

/// The type that kernels compute in for elements of type T.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// N elements that are loaded and stored at once; at most 16 bytes, aligned to their size.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  static_assert(sizeof(T) * N <= 16);
  T values[N];

  __device__ T& operator[](int i) { return values[i]; }
  __device__ const T& operator[](int i) const { return values[i]; }
};

/// Elements of a 16-byte vector.
template <class T>
inline constexpr int kVectorSize = static_cast<int>(16 / sizeof(T));

/// The i-th vector of an aligned array.
template <int N, class T>
__device__ inline Vector<T, N> load_vector(const T* data, std::int64_t i = 0) {
  return reinterpret_cast<const Vector<T, N>*>(data)[i];
}
template <class T, int N>
__device__ inline void store_vector(T* data, const Vector<T, N>& value, std::int64_t i = 0) {
  reinterpret_cast<Vector<T, N>*>(data)[i] = value;
}

/// Whether all pointers can be read in vectors of `bytes`. Host and device.
template <class... Pointers>
LOCKSTEP_HOST_DEVICE inline bool is_aligned(std::size_t bytes, const Pointers*... pointers) {
  return ((reinterpret_cast<std::uintptr_t>(pointers) % bytes == 0) && ...);
}

// ---- Reductions. An operation is commutative; the order of the terms is fixed by the thread indices alone, so the
// bits are the same in every run.

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

/// NaN wins, as in the reductions of the CPU.
struct Max {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};
struct Min {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a < b || a != a ? a : b;
  }
};

/// A value and where it stood.
template <class T>
struct Indexed {
  T value;
  std::int64_t index;
};

/// The larger value, the first of equals; NaN wins.
struct ArgMax {
  template <class T>
  __device__ Indexed<T> operator()(Indexed<T> a, Indexed<T> b) const {
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan != b_nan) return a_nan ? a : b;
    if (!a_nan && a.value != b.value) return a.value > b.value ? a : b;
    return a.index < b.index ? a : b;
  }
};

/// `value` of the lane whose number differs in the bits of `mask`; any trivially copyable type. All lanes call it.
template <class T>
__device__ inline T shuffle_xor(T value, int mask) {
  if constexpr (std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8)) {
    return __shfl_xor_sync(kFullWarp, value, mask);
  } else {
    static_assert(std::is_trivially_copyable_v<T>);
    unsigned words[(sizeof(T) + 3) / 4] = {};
    memcpy(words, &value, sizeof(T));
    for (unsigned& word : words) word = __shfl_xor_sync(kFullWarp, word, mask);
    memcpy(&value, words, sizeof(T));
    return value;
  }
}

/// The reduction over the 32 lanes, in every lane. All lanes call it.
template <class T, class Op>
__device__ inline T warp_reduce(T value, Op op) {
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    // The lower lane's value first, so that all lanes compute the same bits even where `op` looks at the order.
    const T other = shuffle_xor(value, mask);
    const bool lower = (static_cast<int>(threadIdx.x) & mask) == 0;
    value = lower ? op(value, other) : op(other, value);
  }
  return value;
}

/// Shared memory of block_reduce.
template <class T>
struct BlockReduceShared {
  T warps[kMaxWarps];
};

/// The reduction over all threads of a one-dimensional block of whole warps, in every thread. All threads call it; a
/// barrier before and after lets `shared` be used again and again.
template <class T, class Op>
__device__ inline T block_reduce(T value, Op op, BlockReduceShared<T>& shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  value = warp_reduce(value, op);
  if (warps == 1) return value;
  __syncthreads();
  if (lane == 0) shared.warps[warp] = value;
  __syncthreads();
  T total = shared.warps[0];
  for (int i = 1; i < warps; ++i) total = op(total, shared.warps[i]);
  return total;
}

}  // namespace lockstep::cuda
