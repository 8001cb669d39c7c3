// The device side of emulated CUDA: what kernels find declared in a real build without including anything. Included by
// kernel sources only, through <cuda_runtime.h>.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

namespace lockstep::emulation {

// Constant within a thread, so the compiler may call them once.
[[gnu::const]] uint3 thread_index();
[[gnu::const]] uint3 block_index();
[[gnu::const]] uint3 block_size();
[[gnu::const]] uint3 grid_size();

/// Where a barrier or warp function stands in the source.
struct Site {
  const char* name;
  const char* file;
  int line;

  friend bool operator==(const Site&, const Site&) = default;
};

void barrier(Site site);
void warp_barrier(unsigned mask, Site site);
unsigned warp_ballot(unsigned mask, bool predicate, Site site);
/// The value that lane `source` brought.
std::uint64_t warp_shuffle(unsigned mask, std::uint64_t value, int source, Site site);
void thread_fence();
int lane();

enum class Atomic { add, min, max, exchange, bit_and, bit_or };
/// Returns the old value; for int, unsigned, (unsigned) long long, float and double.
template <class T>
T atomic(T* address, Atomic operation, T operand);
template <class T>
T atomic_compare_and_swap(T* address, T compare, T value);

template <class T>
T shuffle(unsigned mask, T value, int source, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  return std::bit_cast<T>(static_cast<Bits>(warp_shuffle(mask, std::bit_cast<Bits>(value), source, site)));
}

}  // namespace lockstep::emulation

namespace lockstep::emulation {

/// One of the built-in variables; its members read as unsigned.
template <uint3 (*value)()>
struct Builtin {
  template <unsigned uint3::*member>
  struct Component {
    operator unsigned() const { return value().*member; }
  };
  [[no_unique_address]] Component<&uint3::x> x;
  [[no_unique_address]] Component<&uint3::y> y;
  [[no_unique_address]] Component<&uint3::z> z;
};

}  // namespace lockstep::emulation

inline constexpr lockstep::emulation::Builtin<lockstep::emulation::thread_index> threadIdx;
inline constexpr lockstep::emulation::Builtin<lockstep::emulation::block_index> blockIdx;
inline constexpr lockstep::emulation::Builtin<lockstep::emulation::block_size> blockDim;
inline constexpr lockstep::emulation::Builtin<lockstep::emulation::grid_size> gridDim;
inline constexpr int warpSize = 32;

// The default arguments tell where the caller stands.
#define LOCKSTEP_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(LOCKSTEP_CALLER) { lockstep::emulation::barrier({"__syncthreads", file, line}); }
inline void __syncwarp(unsigned mask = 0xffffffffu, LOCKSTEP_CALLER) {
  lockstep::emulation::warp_barrier(mask, {"__syncwarp", file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, LOCKSTEP_CALLER) {
  return lockstep::emulation::warp_ballot(mask, predicate != 0, {"__ballot_sync", file, line});
}
inline int __any_sync(unsigned mask, int predicate, LOCKSTEP_CALLER) {
  return lockstep::emulation::warp_ballot(mask, predicate != 0, {"__any_sync", file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, LOCKSTEP_CALLER) {
  return lockstep::emulation::warp_ballot(mask, predicate == 0, {"__all_sync", file, line}) == 0;
}

// Sources outside the segment of `width` lanes leave a lane its own value.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, LOCKSTEP_CALLER) {
  const int base = lockstep::emulation::lane() & ~(width - 1);
  return lockstep::emulation::shuffle(mask, value, base + (source & (width - 1)), {"__shfl_sync", file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, LOCKSTEP_CALLER) {
  const int own = lockstep::emulation::lane(), source = own ^ bits;
  const bool inside = source < (own & ~(width - 1)) + width;
  return lockstep::emulation::shuffle(mask, value, inside ? source : own, {"__shfl_xor_sync", file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, LOCKSTEP_CALLER) {
  const int own = lockstep::emulation::lane(), source = own + static_cast<int>(delta);
  const bool inside = source < (own & ~(width - 1)) + width;
  return lockstep::emulation::shuffle(mask, value, inside ? source : own, {"__shfl_down_sync", file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, LOCKSTEP_CALLER) {
  const int own = lockstep::emulation::lane(), source = own - static_cast<int>(delta);
  const bool inside = source >= (own & ~(width - 1));
  return lockstep::emulation::shuffle(mask, value, inside ? source : own, {"__shfl_up_sync", file, line});
}
#undef LOCKSTEP_CALLER

inline void __threadfence() { lockstep::emulation::thread_fence(); }

template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return lockstep::emulation::atomic(address, lockstep::emulation::Atomic::add, value);
}
template <class T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return lockstep::emulation::atomic(address, lockstep::emulation::Atomic::min, value);
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return lockstep::emulation::atomic(address, lockstep::emulation::Atomic::max, value);
}
template <class T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return lockstep::emulation::atomic(address, lockstep::emulation::Atomic::exchange, value);
}
template <class T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return lockstep::emulation::atomic(address, lockstep::emulation::Atomic::bit_and, value);
}
template <class T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return lockstep::emulation::atomic(address, lockstep::emulation::Atomic::bit_or, value);
}
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return lockstep::emulation::atomic_compare_and_swap(address, compare, value);
}

// Cache hints change no value.
template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
void __stcs(T* address, T value) {
  *address = value;
}

// ---- Bits and integers.
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1u) << (31 - i);
  return y;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<std::uint64_t>(a) * b >> 32);
}
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
template <class T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}

// ---- Floats. The fast ones of a GPU are less exact than these.
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
