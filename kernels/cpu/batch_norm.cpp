#include <lockstep/kernels/batch_norm.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/multiversion.h>
#include <lockstep/kernels/cpu/scratch.h>

// The buffer is walked as wide rows: `fold` rows of few channels side by side, so that inner loops are long for any
// number of channels. Per-channel values are repeated `fold` times to match. Reductions run in T over a block of wide
// rows that fits the first-level cache, in double over the blocks of a slab, then over the slabs; slabs are what
// threads share, and all cuts depend on the sizes alone.

namespace lockstep::kernels {
namespace {

constexpr std::int64_t kGrain = 1 << 14;  // elements
constexpr std::int64_t kWidth = 64;       // elements of a wide row, at least, where there are as many
constexpr std::int64_t kBlockRows = 64;   // wide rows: 16 KiB of floats up to 64 channels
constexpr std::int64_t kMaxSlabs = 64;

enum ScratchSlot { kParts, kWide, kMean, kLanes, kBlockMoments };

struct Walk {
  std::int64_t rows, channels, fold, width, n, block, blocks, slabs;

  Walk(std::int64_t rows_, std::int64_t channels_) : rows(rows_), channels(channels_) {
    fold = std::clamp<std::int64_t>(kWidth / channels, 1, rows);
    width = fold * channels;
    n = rows * channels;
    block = kBlockRows * width;
    blocks = (n + block - 1) / block;
    slabs = std::min(blocks, kMaxSlabs);
  }
  std::int64_t slab_begin(std::int64_t slab) const { return slab * blocks / slabs * block; }
  std::int64_t slab_end(std::int64_t slab) const { return std::min(n, (slab + 1) * blocks / slabs * block); }
  std::int64_t slab_grain() const { return std::max<std::int64_t>(1, kGrain * slabs / n); }

  /// Calls body(begin, end) in parallel for runs of elements that start on a wide row.
  template <class Body>
  void for_runs(Body&& body) const {
    parallel_for((n + width - 1) / width, std::max<std::int64_t>(1, kGrain / width),
                 [&](std::int64_t a, std::int64_t b) { body(a * width, std::min(n, b * width)); });
  }
  /// wide[k · channels + c] = value(c) for all k < fold.
  template <class T, class F>
  void repeat(T* wide, F value) const {
    for (std::int64_t c = 0; c < channels; ++c) wide[c] = value(c);
    for (std::int64_t k = 1; k < fold; ++k) std::copy_n(wide, channels, wide + k * channels);
  }
};

/// totals[c] += Σ_k lanes[k · channels + c], in double.
template <class T>
LOCKSTEP_INLINE void fold_lanes(const Walk& walk, const T* __restrict__ lanes, double* __restrict__ totals) {
  for (std::int64_t k = 0; k < walk.fold; ++k) {
    const T* from = lanes + k * walk.channels;
    for (std::int64_t c = 0; c < walk.channels; ++c) totals[c] += static_cast<double>(from[c]);
  }
}

/// Accumulates term(element, lane) over the wide rows of [begin, end) into A lanes, four rows pairwise at a time.
template <int kSums, class T, class F>
LOCKSTEP_INLINE void accumulate(const Walk& walk, std::int64_t begin, std::int64_t end, T* const (&sums)[kSums],
                                F term) {
  const std::int64_t width = walk.width;
  std::int64_t i = begin;
  for (; i + 4 * width <= end; i += 4 * width) {
#pragma GCC ivdep
    for (std::int64_t j = 0; j < width; ++j) {
      const auto a = term(i + j, j), b = term(i + width + j, j);
      const auto c = term(i + 2 * width + j, j), d = term(i + 3 * width + j, j);
      for (int s = 0; s < kSums; ++s) sums[s][j] += (a.v[s] + b.v[s]) + (c.v[s] + d.v[s]);
    }
  }
  for (; i < end; i += width) {
    const std::int64_t lanes = std::min(width, end - i);
#pragma GCC ivdep
    for (std::int64_t j = 0; j < lanes; ++j) {
      const auto a = term(i + j, j);
      for (int s = 0; s < kSums; ++s) sums[s][j] += a.v[s];
    }
  }
}

template <class T, int n>
struct Terms {
  T v[n];
};

/// Number, mean and summed squared deviations of a set of values, for all channels; merged as in Chan, Golub & LeVeque
/// (1983).
struct Moments {
  double count;
  double* mean;
  double* square;
};
LOCKSTEP_INLINE void merge(std::int64_t channels, Moments& into, const Moments& other) {
  const double total = into.count + other.count;
  const double share = other.count / total, weight = into.count * share;
  double* __restrict__ mean = into.mean;
  double* __restrict__ square = into.square;
  for (std::int64_t c = 0; c < channels; ++c) {
    const double delta = other.mean[c] - mean[c];
    mean[c] += std::isfinite(mean[c]) ? delta * share : other.mean[c];  // an infinite mean stays infinite
    square[c] += other.square[c] + delta * delta * weight;
  }
  into.count = total;
}

/// Moments of one slab. Each block is read from memory once and a second time from the cache: first for its mean, then
/// for the deviations from it, whose own mean corrects the rounding of the first.
template <class T>
LOCKSTEP_MULTIVERSION double slab_moments(const Walk& walk, std::int64_t slab, const T* x, double* slab_mean,
                                          double* slab_square) {
  const std::int64_t channels = walk.channels, width = walk.width;
  T* sum = scratch<T, kLanes>(3 * width);
  T* square = sum + width;
  T* center = square + width;
  double* mean = scratch<double, kBlockMoments>(2 * channels);
  double* deviation = mean + channels;
  Moments total{0.0, slab_mean, slab_square};
  std::fill_n(slab_mean, channels, 0.0);
  std::fill_n(slab_square, channels, 0.0);
  for (std::int64_t begin = walk.slab_begin(slab), last = walk.slab_end(slab); begin < last; begin += walk.block) {
    const std::int64_t end = std::min(begin + walk.block, last);
    const auto count = static_cast<double>((end - begin) / channels);
    std::fill_n(sum, width, T(0));
    accumulate<1>(walk, begin, end, {sum}, [=](std::int64_t i, std::int64_t) { return Terms<T, 1>{{x[i]}}; });
    std::fill_n(mean, channels, 0.0);
    fold_lanes(walk, sum, mean);
    for (std::int64_t c = 0; c < channels; ++c) center[c] = static_cast<T>(mean[c] / count);
    for (std::int64_t k = 1; k < walk.fold; ++k) std::copy_n(center, channels, center + k * channels);

    std::fill_n(sum, 2 * width, T(0));
    accumulate<2>(walk, begin, end, {sum, square}, [=](std::int64_t i, std::int64_t j) {
      const T d = x[i] - center[j];
      return Terms<T, 2>{{d, d * d}};
    });
    std::fill_n(mean, 2 * channels, 0.0);
    fold_lanes(walk, sum, mean);
    fold_lanes(walk, square, deviation);
    for (std::int64_t c = 0; c < channels; ++c) {
      const double shift = mean[c] / count;
      deviation[c] -= shift * mean[c];
      const auto first = static_cast<double>(center[c]);
      mean[c] = std::isfinite(first) ? first + shift : first;
    }
    merge(channels, total, {count, mean, deviation});
  }
  return total.count;
}

template <bool kResidual, bool kRelu, class T>
LOCKSTEP_MULTIVERSION void apply_run(std::int64_t begin, std::int64_t end, std::int64_t width, const T* x,
                                     const T* mean, const T* scale, const T* bias, const T* residual, T* y) {
  for (std::int64_t i = begin; i < end; i += width) {
    const std::int64_t lanes = std::min(width, end - i);
#pragma GCC ivdep
    for (std::int64_t j = 0; j < lanes; ++j) {
      T v = (x[i + j] - mean[j]) * scale[j] + bias[j];
      if constexpr (kResidual) v += residual[i + j];
      if constexpr (kRelu) v = v < 0 ? T(0) : v;
      y[i + j] = v;
    }
  }
}

/// The gradient behind the ReLU.
template <bool kRelu, class T>
LOCKSTEP_INLINE T masked(const T* y, const T* grad_y, std::int64_t i) {
  const T g = grad_y[i];
  if constexpr (kRelu) {
    return y[i] <= 0 ? T(0) : g;
  } else {
    return g;
  }
}

/// totals[c] = Σ dy', totals[channels + c] = Σ dy' · (x − mean) of one slab; stores dy' where wanted.
template <bool kRelu, bool kStore, class T>
LOCKSTEP_MULTIVERSION void backward_sums(const Walk& walk, std::int64_t slab, const T* x, const T* y, const T* grad_y,
                                         const T* mean, T* grad_residual, double* totals) {
  const std::int64_t width = walk.width;
  T* sum = scratch<T, kLanes>(2 * width);
  T* product = sum + width;
  std::fill_n(totals, 2 * walk.channels, 0.0);
  for (std::int64_t begin = walk.slab_begin(slab), last = walk.slab_end(slab); begin < last; begin += walk.block) {
    std::fill_n(sum, 2 * width, T(0));
    accumulate<2>(walk, begin, std::min(begin + walk.block, last), {sum, product}, [=](std::int64_t i, std::int64_t j) {
      const T g = masked<kRelu>(y, grad_y, i);
      if constexpr (kStore) grad_residual[i] = g;
      return Terms<T, 2>{{g, g * (x[i] - mean[j])}};
    });
    fold_lanes(walk, sum, totals);
    fold_lanes(walk, product, totals + walk.channels);
  }
}

/// grad_x = scale · (dy' − shift − (x − mean) · slope).
template <bool kRelu, class T>
LOCKSTEP_MULTIVERSION void backward_run(std::int64_t begin, std::int64_t end, std::int64_t width, const T* x,
                                        const T* y, const T* grad_y, const T* mean, const T* scale, const T* shift,
                                        const T* slope, T* grad_x) {
  for (std::int64_t i = begin; i < end; i += width) {
    const std::int64_t lanes = std::min(width, end - i);
#pragma GCC ivdep
    for (std::int64_t j = 0; j < lanes; ++j) {
      grad_x[i + j] = scale[j] * (masked<kRelu>(y, grad_y, i + j) - shift[j] - (x[i + j] - mean[j]) * slope[j]);
    }
  }
}

/// grad_x = scale · dy'.
template <bool kRelu, class T>
LOCKSTEP_MULTIVERSION void scale_run(std::int64_t begin, std::int64_t end, std::int64_t width, const T* y,
                                     const T* grad_y, const T* scale, T* grad_x) {
  for (std::int64_t i = begin; i < end; i += width) {
    const std::int64_t lanes = std::min(width, end - i);
#pragma GCC ivdep
    for (std::int64_t j = 0; j < lanes; ++j) grad_x[i + j] = scale[j] * masked<kRelu>(y, grad_y, i + j);
  }
}

/// Calls f with flags as types: std::true_type or std::false_type.
template <class F>
void with_flag(bool flag, F&& f) {
  if (flag) {
    f(std::true_type{});
  } else {
    f(std::false_type{});
  }
}

/// The reductions of both backward functions. Returns totals as backward_sums() does, over all rows, in this thread's
/// scratch.
template <class T>
const double* reduce_backward(const Walk& walk, const T* x, const T* y, const T* grad_y, const T* mean, const T* invstd,
                              T* grad_residual, T* grad_weight, T* grad_bias) {
  const std::int64_t channels = walk.channels;
  double* totals = scratch<double, kParts>(walk.slabs * 2 * channels);
  T* wide_mean = scratch<T, kMean>(walk.width);
  walk.repeat(wide_mean, [=](std::int64_t c) { return mean[c]; });
  with_flag(y != nullptr, [&](auto relu) {
    with_flag(grad_residual != nullptr, [&](auto store) {
      parallel_for(walk.slabs, walk.slab_grain(), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t slab = begin; slab < end; ++slab) {
          backward_sums<relu, store>(walk, slab, x, y, grad_y, wide_mean, grad_residual, totals + slab * 2 * channels);
        }
      });
    });
  });
  for (std::int64_t slab = 1; slab < walk.slabs; ++slab) {
    for (std::int64_t c = 0; c < 2 * channels; ++c) totals[c] += totals[slab * 2 * channels + c];
  }
  for (std::int64_t c = 0; c < channels; ++c) {
    grad_bias[c] = static_cast<T>(totals[c]);
    grad_weight[c] = static_cast<T>(totals[channels + c] * static_cast<double>(invstd[c]));
  }
  return totals;
}

}  // namespace

std::size_t batch_norm_workspace(Cpu, std::int64_t, std::int64_t) { return 0; }

template <class T>
void batch_norm_statistics(Cpu, std::int64_t rows, std::int64_t channels, const T* x, T* mean, T* variance, void*) {
  const Walk walk(rows, channels);
  double* parts = scratch<double, kParts>(walk.slabs * (2 * channels + 1));
  double* counts = parts + walk.slabs * 2 * channels;
  parallel_for(walk.slabs, walk.slab_grain(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t slab = begin; slab < end; ++slab) {
      double* part = parts + slab * 2 * channels;
      counts[slab] = slab_moments(walk, slab, x, part, part + channels);
    }
  });
  Moments total{counts[0], parts, parts + channels};
  for (std::int64_t slab = 1; slab < walk.slabs; ++slab) {
    double* part = parts + slab * 2 * channels;
    merge(channels, total, {counts[slab], part, part + channels});
  }
  for (std::int64_t c = 0; c < channels; ++c) {
    mean[c] = static_cast<T>(total.mean[c]);
    variance[c] = static_cast<T>(std::max(total.square[c] / static_cast<double>(rows), 0.0));
  }
}

template <class T>
void batch_norm_update_running(Cpu, std::int64_t rows, std::int64_t channels, const T* mean, const T* variance,
                               double momentum, T* running_mean, T* running_var) {
  const T share = static_cast<T>(momentum);
  const T unbias = static_cast<T>(static_cast<double>(rows) / static_cast<double>(rows - 1));
  for (std::int64_t c = 0; c < channels; ++c) {
    running_mean[c] = (T(1) - share) * running_mean[c] + share * mean[c];
    running_var[c] = (T(1) - share) * running_var[c] + share * (variance[c] * unbias);
  }
}

template <class T>
void batch_norm_invstd(Cpu, std::int64_t channels, const T* variance, double eps, T* invstd) {
  for (std::int64_t c = 0; c < channels; ++c) invstd[c] = T(1) / std::sqrt(variance[c] + static_cast<T>(eps));
}

template <class T>
void batch_norm_apply(Cpu, std::int64_t rows, std::int64_t channels, const T* x, const T* mean, const T* invstd,
                      const T* weight, const T* bias, const T* residual, bool relu, T* y) {
  if (rows == 0) return;
  const Walk walk(rows, channels);
  T* wide = scratch<T, kWide>(3 * walk.width);
  walk.repeat(wide, [=](std::int64_t c) { return mean[c]; });
  walk.repeat(wide + walk.width, [=](std::int64_t c) { return invstd[c] * weight[c]; });
  walk.repeat(wide + 2 * walk.width, [=](std::int64_t c) { return bias[c]; });
  with_flag(residual != nullptr, [&](auto has_residual) {
    with_flag(relu, [&](auto has_relu) {
      walk.for_runs([&](std::int64_t begin, std::int64_t end) {
        apply_run<has_residual, has_relu>(begin, end, walk.width, x, wide, wide + walk.width, wide + 2 * walk.width,
                                          residual, y);
      });
    });
  });
}

template <class T>
void batch_norm_backward(Cpu, std::int64_t rows, std::int64_t channels, const T* x, const T* y, const T* grad_y,
                         const T* mean, const T* invstd, const T* weight, T* grad_x, T* grad_residual, T* grad_weight,
                         T* grad_bias, void*) {
  const Walk walk(rows, channels);
  const double* totals = reduce_backward(walk, x, y, grad_y, mean, invstd, grad_residual, grad_weight, grad_bias);
  if (grad_residual) {  // it now holds the gradient behind the ReLU: one buffer less to read
    grad_y = grad_residual;
    y = nullptr;
  }
  const auto n = static_cast<double>(rows);
  const std::int64_t width = walk.width;
  T* wide = scratch<T, kWide>(4 * width);
  walk.repeat(wide, [=](std::int64_t c) { return mean[c]; });
  walk.repeat(wide + width, [=](std::int64_t c) { return weight[c] * invstd[c]; });
  walk.repeat(wide + 2 * width, [=](std::int64_t c) { return static_cast<T>(totals[c] / n); });
  walk.repeat(wide + 3 * width, [=](std::int64_t c) {
    const auto inverse = static_cast<double>(invstd[c]);
    return static_cast<T>(totals[channels + c] * inverse * inverse / n);
  });
  with_flag(y != nullptr, [&](auto relu) {
    walk.for_runs([&](std::int64_t begin, std::int64_t end) {
      backward_run<relu>(begin, end, width, x, y, grad_y, wide, wide + width, wide + 2 * width, wide + 3 * width,
                         grad_x);
    });
  });
}

template <class T>
void batch_norm_backward_eval(Cpu, std::int64_t rows, std::int64_t channels, const T* x, const T* y, const T* grad_y,
                              const T* mean, const T* invstd, const T* weight, T* grad_x, T* grad_residual,
                              T* grad_weight, T* grad_bias, void*) {
  if (rows == 0) {
    std::fill_n(grad_weight, channels, T(0));
    std::fill_n(grad_bias, channels, T(0));
    return;
  }
  const Walk walk(rows, channels);
  reduce_backward(walk, x, y, grad_y, mean, invstd, grad_residual, grad_weight, grad_bias);
  if (grad_residual) {
    grad_y = grad_residual;
    y = nullptr;
  }
  T* scale = scratch<T, kWide>(walk.width);
  walk.repeat(scale, [=](std::int64_t c) { return weight[c] * invstd[c]; });
  with_flag(y != nullptr, [&](auto relu) {
    walk.for_runs([&](std::int64_t begin, std::int64_t end) {
      scale_run<relu>(begin, end, walk.width, y, grad_y, scale, grad_x);
    });
  });
}

#define LOCKSTEP_INSTANTIATE(T)                                                                                        \
  template void batch_norm_statistics<T>(Cpu, std::int64_t, std::int64_t, const T*, T*, T*, void*);                    \
  template void batch_norm_update_running<T>(Cpu, std::int64_t, std::int64_t, const T*, const T*, double, T*, T*);     \
  template void batch_norm_invstd<T>(Cpu, std::int64_t, const T*, double, T*);                                         \
  template void batch_norm_apply<T>(Cpu, std::int64_t, std::int64_t, const T*, const T*, const T*, const T*, const T*, \
                                    const T*, bool, T*);                                                               \
  template void batch_norm_backward<T>(Cpu, std::int64_t, std::int64_t, const T*, const T*, const T*, const T*,        \
                                       const T*, const T*, T*, T*, T*, T*, void*);                                     \
  template void batch_norm_backward_eval<T>(Cpu, std::int64_t, std::int64_t, const T*, const T*, const T*, const T*,   \
                                            const T*, const T*, T*, T*, T*, T*, void*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(double)

}  // namespace lockstep::kernels
