// The maximum of a row and the sum of its exponentials, which softmax and cross-entropy begin with, in one pass over
// memory: over the row kept in shared memory, or online (M. Milakov & N. Gimelshein, "Online normalizer calculation for
// softmax", 2018), which rescales the sums whenever a larger value turns up. A row with NaN or +inf, or of −inf alone,
// gets the sum NaN.
#pragma once

#include <cstdint>
#include <limits>

#include <lockstep/kernels/cuda/rows.cuh>

namespace lockstep::cuda {

/// What a thread, and after finish() its team, knows of the values seen so far.
struct OnlineSoftmax {
  float max = -std::numeric_limits<float>::infinity();
  float sum = 0.0f;  ///< Σ e^(x − max)

  /// max − x; 0 for the maximum itself, infinite or not.
  __device__ float below_max(float x) const { return x == max ? 0.0f : max - x; }

  /// By how much the maximum rises to that of `values` too.
  template <int kWidth>
  __device__ float rise(const Floats<kWidth>& values) {
    float new_max = max;
    for (int j = 0; j < kWidth; ++j) new_max = Max{}(new_max, values[j]);
    return new_max == max ? 0.0f : rise_to(new_max);
  }
  __device__ float rise_to(float new_max) {
    const float rise = new_max == max ? 0.0f : new_max - max;
    sum *= expf(-rise);
    max = new_max;
    return rise;
  }

  template <int kWidth>
  __device__ void add(const Floats<kWidth>& values) {
    rise(values);
    for (int j = 0; j < kWidth; ++j) sum += expf(-below_max(values[j]));
  }

  template <RowKind kKind>
  __device__ void finish(RowTeam<kKind> team, TeamShared& shared) {
    rise_to(team.reduce(max, Max{}, shared.reduce));
    sum = team.reduce(sum, Sum{}, shared.reduce) + (max - max);  // NaN unless the maximum is finite
  }
};

/// The same and, with a weight for each value, Σ weight · (log Σ e^x − x): cross-entropy in one pass. Values of weight
/// 0 add nothing, even −inf.
struct OnlineCrossEntropy {
  OnlineSoftmax softmax;
  float weight = 0.0f;    ///< Σ weight
  float distance = 0.0f;  ///< Σ weight · (max − x)

  __device__ void rise(float by) {
    if (weight != 0.0f) distance += weight * by;
  }

  template <int kWidth>
  __device__ void add(const Floats<kWidth>& values, const Floats<kWidth>& weights) {
    rise(softmax.rise(values));
    for (int j = 0; j < kWidth; ++j) {
      const float below = softmax.below_max(values[j]);
      softmax.sum += expf(-below);
      weight += weights[j];
      if (weights[j] != 0.0f) distance += weights[j] * below;
    }
  }

  /// Before total().
  template <RowKind kKind>
  __device__ void finish(RowTeam<kKind> team, TeamShared& shared) {
    const float before = softmax.max;
    softmax.finish(team, shared);
    rise(softmax.max == before ? 0.0f : softmax.max - before);
  }
  template <RowKind kKind>
  __device__ float total(RowTeam<kKind> team, TeamShared& shared) const {
    return team.reduce(distance, Sum{}, shared.reduce) + team.reduce(weight, Sum{}, shared.reduce) * logf(softmax.sum);
  }
};

/// Loads a row and returns its maximum and Σ e^(x − max). With kKeepExp, get_exp() gives the exponentials afterwards.
template <bool kKeepExp, RowKind kKind, int kWidth, class T>
__device__ OnlineSoftmax load_softmax(RowTeam<kKind> team, TeamShared& shared, const Row<kKind, kWidth, T>& row) {
  OnlineSoftmax all;
  if constexpr (row.kWhole) {  // two passes: an exponential for each value
    for (std::int64_t k = team.rank(); k < row.vectors(); k += team.kSize) {
      const auto v = row.load(k);
      for (int j = 0; j < kWidth; ++j) all.max = Max{}(all.max, v[j]);
    }
    all.max = team.reduce(all.max, Max{}, shared.reduce);
    for (std::int64_t k = team.rank(); k < row.vectors(); k += team.kSize) {
      auto v = row.get(k);
      for (int j = 0; j < kWidth; ++j) {
        v[j] = expf(v[j] - all.max);
        all.sum += v[j];
      }
      if constexpr (kKeepExp) row.put(k, v);
    }
    all.sum = team.reduce(all.sum, Sum{}, shared.reduce);
  } else {
    for (std::int64_t k = team.rank(); k < row.vectors(); k += team.kSize) all.add(row.load(k));
    all.finish(team, shared);
  }
  return all;
}

/// e^(x − max) of the k-th vector after load_softmax<true>().
template <RowKind kKind, int kWidth, class T>
__device__ Floats<kWidth> get_exp(const Row<kKind, kWidth, T>& row, std::int64_t k, float max) {
  auto v = row.get(k);
  if constexpr (!row.kWhole) {
    for (int j = 0; j < kWidth; ++j) v[j] = expf(v[j] - max);
  }
  return v;
}

}  // namespace lockstep::cuda
