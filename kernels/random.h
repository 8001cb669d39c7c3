// Random fills and dropout. Element i depends on (seed, stream, i) alone: any partition over threads gives the same
// bits.
#pragma once

#include <cstdint>

namespace lockstep::cpu {

/// Uniform in [low, high).
template <class T>
void fill_uniform(std::int64_t n, T low, T high, std::uint64_t seed, std::uint64_t stream, T* out);

/// Normal by Box–Muller. The same bits on every x86-64 processor: plain arithmetic, no calls to libm's sin, cos and
/// log.
template <class T>
void fill_normal(std::int64_t n, T mean, T stddev, std::uint64_t seed, std::uint64_t stream, T* out);

/// y[i] = x[i] / (1 − p) where draw i is ≥ p, else 0; p in [0, 1], p == 1 gives zeros. The same call on grad_y is the
/// backward, so that no mask is kept. y may be x.
template <class T>
void dropout(std::int64_t n, const T* x, double p, std::uint64_t seed, std::uint64_t stream, T* y);

}  // namespace lockstep::cpu
