#include <lockstep/kernels/reduce.h>

#include <algorithm>
#include <bit>
#include <limits>

#include <lockstep/kernels/common/convert.h>
#include <lockstep/kernels/cuda/rows.cuh>

// Sums: a few neighbours are added in float, everything else in double. Where [n, inner] alone would not fill the
// device, n is cut into parts whose sums go through the workspace.

namespace lockstep::kernels {
namespace {

using namespace lockstep::cuda;

constexpr int kThreads = kRowThreads;
constexpr int kThreadBits = std::countr_zero(static_cast<unsigned>(kThreads));

int ceil_log2(std::int64_t n) { return static_cast<int>(std::bit_width(static_cast<std::uint64_t>(n - 1))); }
std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// ---- inner > 1: a block takes a tile of columns, its threads standing side by side (2^column_bits of them, each with
// kWidth columns) and one behind the other (in the other direction, sharing out n).

struct ColumnTiles {
  std::int64_t groups, tiles;  // of kWidth columns; of 2^column_bits groups
  int column_bits;

  ColumnTiles(std::int64_t n, std::int64_t inner, int width) : groups(inner / width) {
    const int rows_wanted = std::min(kThreadBits, ceil_log2(std::max<std::int64_t>(n, 1)));
    column_bits = std::min(ceil_log2(groups), std::max(5, kThreadBits - rows_wanted));
    tiles = ceil_divide(groups, std::int64_t{1} << column_bits);
  }
  __host__ __device__ int columns() const { return 1 << column_bits; }
  __host__ __device__ int rows() const { return kThreads >> column_bits; }
};

/// Shared memory for a value of each column of each thread.
template <class T, int kWidth>
struct ColumnShared {
  T values[kWidth * kThreads];
};

/// Reduces values[0…kWidth) over the rows of the block; the threads of row 0 get the result. All threads call it.
template <int kWidth, class T, class Op>
__device__ void reduce_block_rows(const ColumnTiles& tiles, T (&values)[kWidth], Op op,
                                  ColumnShared<T, kWidth>& shared) {
  const int thread = static_cast<int>(threadIdx.x), row = thread >> tiles.column_bits;
  __syncthreads();  // the threads of row 0 may still read the results of the call before
  for (int c = 0; c < kWidth; ++c) shared.values[c * kThreads + thread] = values[c];
  for (int half = tiles.rows() / 2; half > 0; half /= 2) {
    __syncthreads();
    if (row < half) {
      for (int c = 0; c < kWidth; ++c) {
        values[c] = op(values[c], shared.values[c * kThreads + thread + half * tiles.columns()]);
        shared.values[c * kThreads + thread] = values[c];
      }
    }
  }
}

// ---- Sums.

constexpr std::int64_t kBlocksWanted = 1024;  // fill any device
constexpr std::int64_t kPartOfRow = 1 << 13;  // elements that are worth a block of their own
constexpr std::int64_t kRowsOfThread = 16;    // rows that are worth a thread of its own

/// How a sum is cut; depends on the sizes and the elements of a vector alone.
struct SumPlan {
  std::int64_t parts = 1, chunk;  // parts of n and their length

  SumPlan(std::int64_t outer, std::int64_t n, std::int64_t inner, int vector_size) : chunk(n) {
    if (outer == 0 || n == 0 || inner == 0) return;
    std::int64_t blocks = outer, worth = kPartOfRow;
    if (inner > 1) {
      const ColumnTiles tiles(n, inner, inner % vector_size == 0 ? vector_size : 1);
      blocks = outer * tiles.tiles;
      worth = tiles.rows() * kRowsOfThread;
    }
    chunk = ceil_divide(ceil_divide(n, std::max<std::int64_t>(1, kBlocksWanted / blocks)), worth) * worth;
    parts = ceil_divide(n, chunk);
  }
};

/// Σ of a vector.
template <int kWidth>
__device__ float vector_sum(Floats<kWidth> v) {
  for (int width = kWidth / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) v[j] += v[j + width];
  }
  return v[0];
}

/// A sum goes to the workspace if it is a part of one, else to the output.
template <class T>
__device__ void store_sum(double sum, std::int64_t parts, float scale, std::int64_t at, T* out, double* workspace) {
  if (parts > 1) {
    workspace[at] = sum;
  } else {
    out[at] = convert<T>(sum * static_cast<double>(scale));
  }
}

template <RowKind kKind, int kWidth, class T>
__global__ void sum_rows_kernel(std::int64_t outer, std::int64_t n, SumPlan plan, const T* x, float scale, T* out,
                                double* workspace, bool aligned) {
  const RowTeam<kKind> team;
  for (std::int64_t i = team.first_row(); i < outer * plan.parts; i += team.row_stride()) {
    const std::int64_t row = i / plan.parts, begin = i % plan.parts * plan.chunk, end = min(n, begin + plan.chunk);
    double sum = 0.0;
    for (std::int64_t k = begin / kWidth + team.rank(); k < end / kWidth; k += team.kSize) {
      sum += static_cast<double>(vector_sum(load_floats<kWidth>(x + row * n, k, aligned)));
    }
    sum = team.reduce(sum, Sum{}, block_shared<BlockReduceShared<double>>());
    if (team.rank() == 0) store_sum(sum, plan.parts, scale, i, out, workspace);
  }
}

template <int kWidth, class T>
__global__ void sum_columns_kernel(std::int64_t outer, std::int64_t n, std::int64_t inner, SumPlan plan,
                                   ColumnTiles tiles, const T* x, float scale, T* out, double* workspace,
                                   bool aligned) {
  auto& shared = block_shared<ColumnShared<double, kWidth>>();
  const int thread = static_cast<int>(threadIdx.x), row = thread >> tiles.column_bits, step = tiles.rows();
  for (std::int64_t i = blockIdx.x; i < outer * plan.parts * tiles.tiles; i += gridDim.x) {
    const std::int64_t part_of_all = i / tiles.tiles;
    const std::int64_t group = i % tiles.tiles * tiles.columns() + (thread & (tiles.columns() - 1));
    const std::int64_t begin = part_of_all % plan.parts * plan.chunk, end = min(n, begin + plan.chunk);
    const T* matrix = x + part_of_all / plan.parts * n * inner;
    double sums[kWidth] = {};
    if (group < tiles.groups) {
      const auto load = [&](std::int64_t j) { return load_floats<kWidth>(matrix + j * inner, group, aligned); };
      std::int64_t j = begin + row;
      for (; j + 3 * step < end; j += 4 * step) {
        const auto a = load(j), b = load(j + step), c = load(j + 2 * step), d = load(j + 3 * step);
        for (int w = 0; w < kWidth; ++w) sums[w] += static_cast<double>((a[w] + b[w]) + (c[w] + d[w]));
      }
      for (; j < end; j += step) {
        const auto a = load(j);
        for (int w = 0; w < kWidth; ++w) sums[w] += static_cast<double>(a[w]);
      }
    }
    reduce_block_rows(tiles, sums, Sum{}, shared);
    if (row == 0 && group < tiles.groups) {
      for (int w = 0; w < kWidth; ++w) {
        store_sum(sums[w], plan.parts, scale, part_of_all * inner + group * kWidth + w, out, workspace);
      }
    }
  }
}

/// Sums the parts, [outer, parts, inner], a warp for each output.
template <class T>
__global__ void sum_parts_kernel(std::int64_t outputs, std::int64_t parts, std::int64_t inner, const double* workspace,
                                 float scale, T* out) {
  const RowTeam<RowKind::warp> team;
  for (std::int64_t i = team.first_row(); i < outputs; i += team.row_stride()) {
    const double* first = workspace + i / inner * parts * inner + i % inner;
    double sum = 0.0;
    for (std::int64_t part = team.rank(); part < parts; part += team.kSize) sum += first[part * inner];
    sum = warp_reduce(sum, Sum{});
    if (team.rank() == 0) out[i] = convert<T>(sum * static_cast<double>(scale));
  }
}

// ---- Maxima.

/// What every value beats.
constexpr Indexed<float> kNothing{-std::numeric_limits<float>::infinity(), std::numeric_limits<std::int64_t>::max()};

template <class T>
__device__ void store_max(Indexed<float> best, std::int64_t at, T* out, std::int64_t* index) {
  if (out) out[at] = static_cast<T>(best.value);
  if (index) index[at] = best.index;
}

template <RowKind kKind, int kWidth, class T>
__global__ void max_rows_kernel(std::int64_t outer, std::int64_t n, const T* x, T* out, std::int64_t* index,
                                bool aligned) {
  const RowTeam<kKind> team;
  for (std::int64_t row = team.first_row(); row < outer; row += team.row_stride()) {
    Indexed<float> best = kNothing;
    for (std::int64_t k = team.rank(); k < n / kWidth; k += team.kSize) {
      const auto v = load_floats<kWidth>(x + row * n, k, aligned);
      for (int j = 0; j < kWidth; ++j) best = ArgMax{}(best, Indexed<float>{v[j], k * kWidth + j});
    }
    best = team.reduce(best, ArgMax{}, block_shared<BlockReduceShared<Indexed<float>>>());
    if (team.rank() == 0) store_max(best, row, out, index);
  }
}

template <int kWidth, class T>
__global__ void max_columns_kernel(std::int64_t outer, std::int64_t n, std::int64_t inner, ColumnTiles tiles,
                                   const T* x, T* out, std::int64_t* index, bool aligned) {
  auto& shared = block_shared<ColumnShared<Indexed<float>, kWidth>>();
  const int thread = static_cast<int>(threadIdx.x), row = thread >> tiles.column_bits;
  for (std::int64_t i = blockIdx.x; i < outer * tiles.tiles; i += gridDim.x) {
    const std::int64_t o = i / tiles.tiles;
    const std::int64_t group = i % tiles.tiles * tiles.columns() + (thread & (tiles.columns() - 1));
    Indexed<float> best[kWidth];
    for (int w = 0; w < kWidth; ++w) best[w] = kNothing;
    if (group < tiles.groups) {
      for (std::int64_t j = row; j < n; j += tiles.rows()) {
        const auto v = load_floats<kWidth>(x + (o * n + j) * inner, group, aligned);
        for (int w = 0; w < kWidth; ++w) best[w] = ArgMax{}(best[w], Indexed<float>{v[w], j});
      }
    }
    reduce_block_rows(tiles, best, ArgMax{}, shared);
    if (row == 0 && group < tiles.groups) {
      for (int w = 0; w < kWidth; ++w) store_max(best[w], o * inner + group * kWidth + w, out, index);
    }
  }
}

constexpr std::int64_t kScatterRows = 8;  // of one column for each thread: index and gradient are read once for them

template <class T>
__global__ void max_backward_kernel(std::int64_t items, std::int64_t n, std::int64_t inner, const T* grad_out,
                                    const std::int64_t* index, T* grad_x) {
  const std::int64_t runs = (n + kScatterRows - 1) / kScatterRows;
  for (std::int64_t item = first_element(); item < items; item += element_stride()) {
    const std::int64_t i = item % inner, run = item / inner % runs, o = item / inner / runs;
    const std::int64_t best = index[o * inner + i], end = min(n, (run + 1) * kScatterRows);
    const T g = grad_out[o * inner + i];
    for (std::int64_t j = run * kScatterRows; j < end; ++j) {
      grad_x[(o * n + j) * inner + i] = j == best ? g : static_cast<T>(0.0f);
    }
  }
}

// ---- The k largest, one after the other: each is the best of those that follow the one before. Meant for small k: the
// time grows with k · n.

struct TopkShared {
  float row[kRowCache<RowKind::block>];
  BlockReduceShared<Indexed<float>> reduce;
};

/// Whether `a` stands before `b` in the order of topk.
__device__ inline bool precedes(Indexed<float> a, Indexed<float> b) {
  return a.index != b.index && ArgMax{}(a, b).index == a.index;
}

template <bool kCached, class T>
__global__ void topk_kernel(std::int64_t rows, std::int64_t n, std::int64_t k, const T* x, T* values,
                            std::int64_t* index) {
  auto& shared = block_shared<TopkShared>();
  const RowTeam<RowKind::block> team;
  for (std::int64_t row = team.first_row(); row < rows; row += team.row_stride()) {
    Indexed<float> previous{};
    for (std::int64_t place = 0; place < k; ++place) {
      Indexed<float> best = kNothing;
      for (std::int64_t i = team.rank(); i < n; i += team.kSize) {  // a thread reads in `row` what it wrote itself
        if (!kCached || place == 0) {
          const float v = to_compute(x[row * n + i]);
          if constexpr (kCached) shared.row[i] = v;
          const Indexed<float> candidate{v, i};
          if (place == 0 || precedes(previous, candidate)) best = ArgMax{}(best, candidate);
        } else {
          const Indexed<float> candidate{shared.row[i], i};
          if (precedes(previous, candidate)) best = ArgMax{}(best, candidate);
        }
      }
      previous = team.reduce(best, ArgMax{}, shared.reduce);
      if (team.rank() == 0) store_max(previous, row * k + place, values, index);
    }
  }
}

}  // namespace

std::size_t reduce_sum_workspace(CudaStream, std::int64_t outer, std::int64_t n, std::int64_t inner) {
  const auto bytes = [&](int vector_size) {
    const SumPlan plan(outer, n, inner, vector_size);
    return plan.parts > 1 ? static_cast<std::size_t>(outer * plan.parts * inner) * sizeof(double) : 0;
  };
  return std::max(bytes(kVectorSize<float>), bytes(kVectorSize<float16>));
}

template <class T>
void reduce_sum(CudaStream stream, std::int64_t outer, std::int64_t n, std::int64_t inner, const T* x,
                lockstep::Compute<T> scale, T* out, void* workspace) {
  if (outer == 0 || inner == 0) return;
  const SumPlan plan(outer, n, inner, kVectorSize<T>);
  auto* parts = static_cast<double*>(workspace);
  const bool aligned = is_aligned(16, x);
  if (inner == 1) {
    with_row_team(n, [&](auto kind) {
      with_row_width<T>(n, [&](auto width) {
        launch<BlockReduceShared<double>>(row_launch(outer * plan.parts, kind, stream),
                                          sum_rows_kernel<kind(), width(), T>, outer, n, plan, x, scale, out, parts,
                                          aligned);
      });
    });
  } else {
    with_row_width<T>(inner, [&](auto width) {
      const ColumnTiles tiles(n, inner, width);
      launch<ColumnShared<double, width()>>(
          {.grid = block_count(outer * plan.parts * tiles.tiles, 1, kRowBlocks), .block = kThreads, .stream = stream},
          sum_columns_kernel<width(), T>, outer, n, inner, plan, tiles, x, scale, out, parts, aligned);
    });
  }
  if (plan.parts > 1) {
    launch(row_launch(outer * inner, RowKind::warp, stream), sum_parts_kernel<T>, outer * inner, plan.parts, inner,
           parts, scale, out);
  }
}

template <class T>
void reduce_max(CudaStream stream, std::int64_t outer, std::int64_t n, std::int64_t inner, const T* x, T* out,
                std::int64_t* index) {
  if (outer == 0 || inner == 0) return;
  const bool aligned = is_aligned(16, x);
  if (inner == 1) {
    with_row_team(n, [&](auto kind) {
      with_row_width<T>(n, [&](auto width) {
        launch<BlockReduceShared<Indexed<float>>>(row_launch(outer, kind, stream), max_rows_kernel<kind(), width(), T>,
                                                  outer, n, x, out, index, aligned);
      });
    });
    return;
  }
  with_row_width<T>(inner, [&](auto width) {
    const ColumnTiles tiles(n, inner, width);
    launch<ColumnShared<Indexed<float>, width()>>(
        {.grid = block_count(outer * tiles.tiles, 1, kRowBlocks), .block = kThreads, .stream = stream},
        max_columns_kernel<width(), T>, outer, n, inner, tiles, x, out, index, aligned);
  });
}

template <class T>
void reduce_max_backward(CudaStream stream, std::int64_t outer, std::int64_t n, std::int64_t inner, const T* grad_out,
                         const std::int64_t* index, T* grad_x) {
  launch_elements(outer * ceil_divide(n, kScatterRows) * inner, stream, max_backward_kernel<T>, n, inner, grad_out,
                  index, grad_x);
}

template <class T>
void topk(CudaStream stream, std::int64_t rows, std::int64_t n, std::int64_t k, const T* x, T* values,
          std::int64_t* index) {
  if (rows == 0 || k == 0) return;
  launch<TopkShared>(row_launch(rows, RowKind::block, stream),
                     n <= kRowCache<RowKind::block> ? topk_kernel<true, T> : topk_kernel<false, T>, rows, n, k, x,
                     values, index);
}

#define LOCKSTEP_INSTANTIATE(T)                                                                                   \
  template void reduce_sum<T>(CudaStream, std::int64_t, std::int64_t, std::int64_t, const T*, float, T*, void*);  \
  template void reduce_max<T>(CudaStream, std::int64_t, std::int64_t, std::int64_t, const T*, T*, std::int64_t*); \
  template void reduce_max_backward<T>(CudaStream, std::int64_t, std::int64_t, std::int64_t, const T*,            \
                                       const std::int64_t*, T*);                                                  \
  template void topk<T>(CudaStream, std::int64_t, std::int64_t, std::int64_t, const T*, T*, std::int64_t*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(float16)
LOCKSTEP_INSTANTIATE(bfloat16)

}  // namespace lockstep::kernels
