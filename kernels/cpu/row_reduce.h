// Reductions over one row for softmax and cross-entropy, in lanes of fixed width: the same bits on every instruction
// set.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include <lockstep/kernels/common/vector_math.h>
#include <lockstep/kernels/cpu/multiversion.h>

namespace lockstep::kernels {

inline constexpr int kRowLanes = 16;

/// Σ term(i) over i < n.
template <class T, class F>
LOCKSTEP_INLINE T row_sum(std::int64_t n, F term) {
  T total = 0;
  std::int64_t i = 0;
  if (n >= kRowLanes) {
    T lanes[kRowLanes] = {};
    for (; i + kRowLanes <= n; i += kRowLanes) {
      for (int j = 0; j < kRowLanes; ++j) lanes[j] += term(i + j);
    }
    for (int width = kRowLanes / 2; width > 0; width /= 2) {
      for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
    }
    total = lanes[0];
  }
  for (; i < n; ++i) total += term(i);
  return total;
}

/// The largest of a row; a NaN may be lost, which then comes back with the exponentials.
template <class T>
LOCKSTEP_INLINE T row_max(std::int64_t n, const T* x) {
  T best = -std::numeric_limits<T>::infinity();
  std::int64_t i = 0;
  if (n >= kRowLanes) {
    T lanes[kRowLanes];
    for (int j = 0; j < kRowLanes; ++j) lanes[j] = best;
    for (; i + kRowLanes <= n; i += kRowLanes) {
      for (int j = 0; j < kRowLanes; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
    }
    for (int j = 0; j < kRowLanes; ++j) best = lanes[j] > best ? lanes[j] : best;
  }
  for (; i < n; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

/// y[i] = e^(x[i] − shift), returning the sum. y may be x.
template <class T>
LOCKSTEP_INLINE T row_exp(std::int64_t n, const T* x, T shift, T* y) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) y[i] = vector_exp(x[i] - shift);
  return row_sum<T>(n, [=](std::int64_t i) { return y[i]; });
}

/// Σ e^(x[i] − shift).
template <class T>
LOCKSTEP_INLINE T row_exp_sum(std::int64_t n, const T* x, T shift) {
  constexpr std::int64_t kPiece = 256;
  T piece[kPiece];
  T total = 0;
  for (std::int64_t i = 0; i < n; i += kPiece) total += row_exp(std::min(kPiece, n - i), x + i, shift, piece);
  return total;
}

/// Rows that one thread takes at least.
inline std::int64_t row_grain(std::int64_t n) { return std::max<std::int64_t>(1, 4096 / std::max<std::int64_t>(n, 1)); }

}  // namespace lockstep::kernels
