// Random fills and dropout. Element i depends on (seed, stream, i) alone: any partition over threads gives the same
// bits. T is float or double on the CPU, float, float16 or bfloat16 on CUDA: float draws are the same bits on both, and
// those of the 16-bit types are the float ones rounded.
#pragma once

#include <cstdint>

#include <lockstep/core/base/device.h>
#include <lockstep/core/base/dtype.h>

namespace lockstep::kernels {

/// low + (high − low) · u in [low, high): a draw that rounding takes to high becomes the number below it. For float, u
/// of element i is uniform_float of word i mod 4 of counter i / 4; for double it has 53 bits: word 2 · (i mod 2) of
/// counter i / 2, then the upper 21 bits of the next word. (Words and counters of core/base/philox.h; the key is
/// `seed`, the high half of the counter `stream`.)
template <class T>
void fill_uniform(Cpu, std::int64_t n, T low, T high, std::uint64_t seed, std::uint64_t stream, T* out);
template <class T>
void fill_uniform(CudaStream, std::int64_t n, Compute<T> low, Compute<T> high, std::uint64_t seed, std::uint64_t stream,
                  T* out);

/// Normal by Box–Muller: words (w0, w1) of counter i / 4, the first pair or the second, give two draws of radius
/// √(−2 ln((w0 + 1) / 2^32)), at w1 / 2^32 turns: cosine for even i, sine for odd. Computed in double, so that float
/// draws are the double ones rounded. The same bits on every x86-64 processor: plain arithmetic, no calls to libm.
template <class T>
void fill_normal(Cpu, std::int64_t n, T mean, T stddev, std::uint64_t seed, std::uint64_t stream, T* out);
template <class T>
void fill_normal(CudaStream, std::int64_t n, Compute<T> mean, Compute<T> stddev, std::uint64_t seed,
                 std::uint64_t stream, T* out);

/// y[i] = x[i] / (1 − p) where draw i is ≥ p, else x[i] · 0, which is NaN for NaN and infinities; p in [0, 1]. Draw i
/// is uniform_float of word i mod 4 of counter i / 4, for double too. The same call on grad_y is the backward, so that
/// no mask is kept. y may be x.
template <class T>
void dropout(Cpu, std::int64_t n, const T* x, double p, std::uint64_t seed, std::uint64_t stream, T* y);
template <class T>
void dropout(CudaStream, std::int64_t n, const T* x, double p, std::uint64_t seed, std::uint64_t stream, T* y);

}  // namespace lockstep::kernels
