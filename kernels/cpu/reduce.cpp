#include <lockstep/kernels/reduce.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/multiversion.h>
#include <lockstep/kernels/cpu/scratch.h>

// Sums: [n, inner] is walked as wide rows of `width` lanes, several rows of a small `inner` side by side. Lanes are
// summed in T over blocks of wide rows, in double over the blocks of a slab, and over the slabs; slabs are what threads
// share.

namespace lockstep::kernels {
namespace {

constexpr std::int64_t kGrain = 1 << 15;     // elements
constexpr std::int64_t kLanes = 128;         // aimed at in a wide row
constexpr std::int64_t kTile = 512;          // lanes that are summed together, at most
constexpr std::int64_t kBlock = 64;          // wide rows
constexpr std::int64_t kSlab = 16 * kBlock;  // wide rows: what one thread sums at least
constexpr std::int64_t kMaxSlabs = 64;

/// totals[lane] = Σ over wide rows of x[row · stride + lane], lanes < width ≤ kTile, of which the last row has only
/// `last`.
template <class T>
LOCKSTEP_MULTIVERSION void sum_rows(const T* x, std::int64_t rows, std::int64_t stride, std::int64_t width,
                                    std::int64_t last, std::int64_t columns, double* totals) {
  T sums[kTile];
  std::fill_n(totals, width, 0.0);
  for (std::int64_t block = 0; block < rows; block += kBlock) {
    const std::int64_t end = std::min(block + kBlock, rows);
    const std::int64_t full = end == rows && last < width ? end - 1 : end;
    std::fill_n(sums, width, T(0));
    std::int64_t r = block;
    for (; r + 8 <= full; r += 8) {
      const T* row = x + r * stride;
      for (std::int64_t j = 0; j < width; ++j) {
        const T* v = row + j;
        sums[j] += ((v[0] + v[stride]) + (v[2 * stride] + v[3 * stride])) +
                   ((v[4 * stride] + v[5 * stride]) + (v[6 * stride] + v[7 * stride]));
      }
    }
    for (; r < end; ++r) {
      const std::int64_t lanes = r < full ? width : last;
      for (std::int64_t j = 0; j < lanes; ++j) sums[j] += x[r * stride + j];
    }
    for (std::int64_t j = 0; j < width; ++j) totals[j] += static_cast<double>(sums[j]);
  }
  for (; width > columns; width /= 2) {
    for (std::int64_t j = 0; j < width / 2; ++j) totals[j] += totals[width / 2 + j];
  }
}

/// How one [n, inner] matrix is walked; depends on the sizes alone.
struct SumPlan {
  std::int64_t n, inner, fold, stride, tiles, rows, slab_rows, slabs;

  SumPlan(std::int64_t n_, std::int64_t inner_) : n(n_), inner(inner_) {
    const std::int64_t most = std::clamp<std::int64_t>(kLanes / inner, 1, std::max<std::int64_t>(n, 1));
    fold = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(most)));
    stride = fold * inner;
    tiles = (stride + kTile - 1) / kTile;
    rows = (n + fold - 1) / fold;
    slab_rows = std::max(kSlab, (rows + kMaxSlabs * kBlock - 1) / (kMaxSlabs * kBlock) * kBlock);
    slabs = std::max<std::int64_t>(1, (rows + slab_rows - 1) / slab_rows);
  }

  std::int64_t tile_width(std::int64_t tile) const { return std::min(kTile, stride - tile * kTile); }
  /// Columns of the result in one tile: lanes are folded only if a single tile holds them all.
  std::int64_t tile_columns(std::int64_t tile) const { return fold > 1 ? inner : tile_width(tile); }

  /// totals[column] of one slab of one tile; `totals` has room for kTile.
  template <class T>
  void sum_slab(const T* x, std::int64_t tile, std::int64_t slab, double* totals) const {
    const std::int64_t width = tile_width(tile);
    const std::int64_t first = slab * slab_rows, count = std::min(slab_rows, rows - first);
    const bool partial = first + count == rows && n % fold != 0;
    sum_rows(x + first * stride + tile * kTile, count, stride, width, partial ? n % fold * inner : width,
             tile_columns(tile), totals);
  }
};

template <class T>
void store_scaled(std::int64_t n, const double* totals, T scale, T* out) {
  for (std::int64_t j = 0; j < n; ++j) out[j] = static_cast<T>(totals[j] * static_cast<double>(scale));
}

/// True where `v` takes the place of `best`: larger, or the first NaN.
template <class T>
LOCKSTEP_INLINE bool beats(T v, T best) {
  return !(v <= best) && best == best;
}

/// The largest of n values, NaN winning.
template <class T>
LOCKSTEP_MULTIVERSION T block_max(std::int64_t n, const T* x) {
  constexpr int kWidth = 32;
  T best = x[0];
  std::int64_t i = 0;
  if (n >= kWidth) {
    T lanes[kWidth];
    for (int j = 0; j < kWidth; ++j) lanes[j] = x[j];
    for (i = kWidth; i + kWidth <= n; i += kWidth) {
      for (int j = 0; j < kWidth; ++j) lanes[j] = beats(x[i + j], lanes[j]) ? x[i + j] : lanes[j];
    }
    best = lanes[0];
    for (int j = 1; j < kWidth; ++j) best = beats(lanes[j], best) ? lanes[j] : best;
  }
  for (; i < n; ++i) best = beats(x[i], best) ? x[i] : best;
  return best;
}

constexpr std::int64_t kMaxBlock = 4096;

/// Largest value of blocks [begin, end) of x and the block that has it first.
template <class T>
struct BlockMax {
  T value;
  std::int64_t block;
};
template <class T>
BlockMax<T> max_of_blocks(const T* x, std::int64_t n, std::int64_t begin, std::int64_t end) {
  BlockMax<T> best{};
  for (std::int64_t block = begin; block < end; ++block) {
    const T value = block_max(std::min(kMaxBlock, n - block * kMaxBlock), x + block * kMaxBlock);
    if (block == begin || beats(value, best.value)) best = {value, block};
  }
  return best;
}

template <class T>
void store_max(const T* x, BlockMax<T> best, T* out, std::int64_t* index) {
  if (out) *out = best.value;
  if (!index) return;
  std::int64_t i = best.block * kMaxBlock;
  if (best.value == best.value) {
    while (x[i] != best.value) ++i;
  } else {
    while (x[i] == x[i]) ++i;
  }
  *index = i;
}

/// Maximum over the rows of [n, inner] for columns [begin, end), with stand-ins for an output that is not wanted.
template <class T>
LOCKSTEP_MULTIVERSION void max_columns(std::int64_t n, std::int64_t inner, std::int64_t begin, std::int64_t end,
                                       const T* x, T* out, std::int64_t* index) {
  constexpr std::int64_t kWidth = 256;
  T best[kWidth];
  std::int64_t where[kWidth];
  for (std::int64_t first = begin; first < end; first += kWidth) {
    const std::int64_t width = std::min(kWidth, end - first);
    std::copy_n(x + first, width, best);
    std::fill_n(where, width, std::int64_t{0});
    for (std::int64_t j = 1; j < n; ++j) {
      const T* row = x + j * inner + first;
      for (std::int64_t i = 0; i < width; ++i) {
        const T v = row[i];
        const bool take = beats(v, best[i]);
        best[i] = take ? v : best[i];
        where[i] = take ? j : where[i];
      }
    }
    if (out) std::copy_n(best, width, out + first);
    if (index) std::copy_n(where, width, index + first);
  }
}

template <class T>
LOCKSTEP_MULTIVERSION void scatter_rows(std::int64_t begin, std::int64_t end, std::int64_t n, std::int64_t inner,
                                        const T* grad_out, const std::int64_t* index, T* grad_x) {
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t j = row % n, base = row / n * inner;
    for (std::int64_t i = 0; i < inner; ++i) grad_x[row * inner + i] = index[base + i] == j ? grad_out[base + i] : T(0);
  }
}

}  // namespace

std::size_t reduce_sum_workspace(Cpu, std::int64_t, std::int64_t, std::int64_t) { return 0; }

template <class T>
void reduce_sum(Cpu, std::int64_t outer, std::int64_t n, std::int64_t inner, const T* x, T scale, T* out, void*) {
  if (outer == 0 || inner == 0) return;
  const SumPlan plan(n, inner);
  const std::int64_t tasks = outer * plan.tiles;
  if (plan.slabs == 1 || tasks >= 2 * num_threads()) {
    const std::int64_t cost = std::max<std::int64_t>(1, n * inner / plan.tiles);
    parallel_for(tasks, std::max<std::int64_t>(1, kGrain / cost), [&](std::int64_t begin, std::int64_t end) {
      double totals[kTile], part[kTile];
      for (std::int64_t task = begin; task < end; ++task) {
        const std::int64_t o = task / plan.tiles, tile = task % plan.tiles, columns = plan.tile_columns(tile);
        plan.sum_slab(x + o * n * inner, tile, 0, totals);
        for (std::int64_t slab = 1; slab < plan.slabs; ++slab) {
          plan.sum_slab(x + o * n * inner, tile, slab, part);
          for (std::int64_t c = 0; c < columns; ++c) totals[c] += part[c];
        }
        store_scaled(columns, totals, scale, out + o * inner + tile * kTile);
      }
    });
    return;
  }
  // Few results from much data: threads share the slabs; the order of the additions is the one above.
  double* parts = scratch<double, 0>(tasks * plan.slabs * kTile);
  parallel_for(tasks * plan.slabs, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t task = i / plan.slabs;
      plan.sum_slab(x + task / plan.tiles * n * inner, task % plan.tiles, i % plan.slabs, parts + i * kTile);
    }
  });
  for (std::int64_t task = 0; task < tasks; ++task) {
    double* totals = parts + task * plan.slabs * kTile;
    const std::int64_t tile = task % plan.tiles, columns = plan.tile_columns(tile);
    for (std::int64_t slab = 1; slab < plan.slabs; ++slab) {
      for (std::int64_t c = 0; c < columns; ++c) totals[c] += totals[slab * kTile + c];
    }
    store_scaled(columns, totals, scale, out + task / plan.tiles * inner + tile * kTile);
  }
}

template <class T>
void reduce_max(Cpu, std::int64_t outer, std::int64_t n, std::int64_t inner, const T* x, T* out, std::int64_t* index) {
  if (outer == 0 || inner == 0) return;
  if (inner > 1) {
    // A task is a run of columns of one outer index.
    const std::int64_t width = std::min<std::int64_t>(inner, 256), runs = (inner + width - 1) / width;
    const std::int64_t grain = std::max<std::int64_t>(1, kGrain / (n * width));
    parallel_for(outer * runs, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t task = begin; task < end; ++task) {
        const std::int64_t o = task / runs, first = task % runs * width;
        max_columns(n, inner, first, std::min(inner, first + width), x + o * n * inner, out ? out + o * inner : nullptr,
                    index ? index + o * inner : nullptr);
      }
    });
    return;
  }
  const std::int64_t blocks = (n + kMaxBlock - 1) / kMaxBlock;
  if (blocks < 16 || outer >= 2 * num_threads()) {
    parallel_for(outer, std::max<std::int64_t>(1, kGrain / n), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t o = begin; o < end; ++o) {
        store_max(x + o * n, max_of_blocks(x + o * n, n, 0, blocks), out ? out + o : nullptr,
                  index ? index + o : nullptr);
      }
    });
    return;
  }
  auto* parts = scratch<BlockMax<T>, 0>(blocks);
  for (std::int64_t o = 0; o < outer; ++o) {
    parallel_for(blocks, kGrain / kMaxBlock, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t block = begin; block < end; ++block)
        parts[block] = max_of_blocks(x + o * n, n, block, block + 1);
    });
    BlockMax<T> best = parts[0];
    for (std::int64_t block = 1; block < blocks; ++block) {
      if (beats(parts[block].value, best.value)) best = parts[block];
    }
    store_max(x + o * n, best, out ? out + o : nullptr, index ? index + o : nullptr);
  }
}

template <class T>
void reduce_max_backward(Cpu, std::int64_t outer, std::int64_t n, std::int64_t inner, const T* grad_out,
                         const std::int64_t* index, T* grad_x) {
  if (inner == 1) {
    parallel_for(outer, std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(n, 1)),
                 [&](std::int64_t begin, std::int64_t end) {
                   std::fill(grad_x + begin * n, grad_x + end * n, T(0));
                   for (std::int64_t o = begin; o < end; ++o) grad_x[o * n + index[o]] = grad_out[o];
                 });
    return;
  }
  parallel_for(
      outer * n, std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(inner, 1)),
      [&](std::int64_t begin, std::int64_t end) { scatter_rows(begin, end, n, inner, grad_out, index, grad_x); });
}

template <class T>
void topk(Cpu, std::int64_t rows, std::int64_t n, std::int64_t k, const T* x, T* values, std::int64_t* index) {
  parallel_for(rows, std::max<std::int64_t>(1, 4096 / std::max<std::int64_t>(n, 1)),
               [&](std::int64_t begin, std::int64_t end) {
                 std::int64_t* order = scratch<std::int64_t, 0>(n);
                 for (std::int64_t row = begin; row < end; ++row) {
                   const T* v = x + row * n;
                   std::iota(order, order + n, std::int64_t{0});
                   std::partial_sort(order, order + k, order + n, [v](std::int64_t a, std::int64_t b) {
                     const bool a_nan = std::isnan(v[a]), b_nan = std::isnan(v[b]);
                     if (a_nan || b_nan) return a_nan && b_nan ? a < b : a_nan;
                     return v[a] != v[b] ? v[a] > v[b] : a < b;
                   });
                   for (std::int64_t j = 0; j < k; ++j) {
                     values[row * k + j] = v[order[j]];
                     index[row * k + j] = order[j];
                   }
                 }
               });
}

#define LOCKSTEP_INSTANTIATE(T)                                                                                      \
  template void reduce_sum<T>(Cpu, std::int64_t, std::int64_t, std::int64_t, const T*, T, T*, void*);                \
  template void reduce_max<T>(Cpu, std::int64_t, std::int64_t, std::int64_t, const T*, T*, std::int64_t*);           \
  template void reduce_max_backward<T>(Cpu, std::int64_t, std::int64_t, std::int64_t, const T*, const std::int64_t*, \
                                       T*);                                                                          \
  template void topk<T>(Cpu, std::int64_t, std::int64_t, std::int64_t, const T*, T*, std::int64_t*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(double)

}  // namespace lockstep::kernels
