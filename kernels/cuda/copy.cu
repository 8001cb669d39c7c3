#include <lockstep/kernels/copy.h>

#include <bit>
#include <type_traits>

#include <lockstep/core/base/cuda_check.h>
#include <lockstep/kernels/common/convert.h>
#include <lockstep/kernels/common/element_types.h>
#include <lockstep/kernels/common/strided_box.h>
#include <lockstep/kernels/cuda/map.cuh>

namespace lockstep::kernels {
namespace {

using namespace lockstep::cuda;

constexpr int kThreads = 256;

/// Where position `index` of the first `rank` dimensions is in source and target.
struct Offsets {
  std::int64_t source, target;
};
__device__ Offsets offsets_of(const StridedCopy& box, int rank, std::int64_t index) {
  Offsets at{0, 0};
  for (int d = rank - 1; d > 0; --d) {
    const std::int64_t next = index / box.sizes[d], here = index - next * box.sizes[d];
    at.source += here * box.source_strides[d];
    at.target += here * box.target_strides[d];
    index = next;
  }
  if (rank > 0) {
    at.source += index * box.source_strides[0];
    at.target += index * box.target_strides[0];
  }
  return at;
}

template <class E>
__global__ void copy_strided_kernel(std::int64_t n, StridedCopy box, const E* source, E* target) {
  for (std::int64_t i = first_element(); i < n; i += element_stride()) {
    const Offsets at = offsets_of(box, box.rank, i);
    target[at.target] = source[at.source];
  }
}

std::int64_t element_count(const StridedCopy& box, int rank) {
  std::int64_t n = 1;
  for (int d = 0; d < rank; ++d) n *= box.sizes[d];
  return n;
}

/// Takes elements of twice the size as long as source and target are runs along the last dimension and aligned for it.
void widen(StridedCopy& box, std::size_t& element_size, const void* source, const void* target) {
  const int last = box.rank - 1;
  if (box.source_strides[last] != 1 || box.target_strides[last] != 1) return;
  const auto fits = [&] {
    if (element_size == 16 || box.sizes[last] % 2 != 0) return false;
    if (!is_aligned(2 * element_size, static_cast<const char*>(source), static_cast<const char*>(target))) return false;
    for (int d = 0; d < last; ++d) {
      if (box.source_strides[d] % 2 != 0 || box.target_strides[d] % 2 != 0) return false;
    }
    return true;
  };
  while (fits()) {
    element_size *= 2;
    box.sizes[last] /= 2;
    for (int d = 0; d < last; ++d) {
      box.source_strides[d] /= 2;
      box.target_strides[d] /= 2;
    }
  }
}

// ---- Transposes: a tile is read along its rows and written along its columns, through shared memory.

/// Matrices of [rows, cols], one for each position of `outer`. Rows are `source_stride` apart, and columns become rows
/// that are `target_stride` apart. Tiles have 2^row_bits rows and 2^column_bits columns.
struct Transpose {
  StridedCopy outer;
  std::int64_t rows, cols, source_stride, target_stride;
  std::int64_t row_tiles, column_tiles, tiles;
  int row_bits, column_bits;
};

/// Elements of a tile: 32×32, or 64×64 small ones, so that a run of either side has at least 64 bytes. Narrow matrices
/// take as many in a tile of another form.
template <class E>
inline constexpr std::int64_t kTileSide = sizeof(E) >= 4 ? 32 : 64;
template <class E>
inline constexpr std::int64_t kTileElements = kTileSide<E>* kTileSide<E>;

/// One more element in each row keeps the columns in different banks; a tile has at most half its elements as rows.
template <class E>
struct TransposeShared {
  E tile[kTileElements<E> + kTileElements<E> / 2];
};

template <class E>
__global__ void transpose_kernel(Transpose plan, const E* source, E* target) {
  E* tile = block_shared<TransposeShared<E>>().tile;
  const int tile_rows = 1 << plan.row_bits, tile_cols = 1 << plan.column_bits, pitch = tile_cols + 1;
  const int elements = tile_rows * tile_cols;
  for (std::int64_t t = blockIdx.x; t < plan.tiles; t += gridDim.x) {
    const std::int64_t column_tile = t % plan.column_tiles, rest = t / plan.column_tiles;
    const std::int64_t r0 = rest % plan.row_tiles * tile_rows, c0 = column_tile * tile_cols;
    const Offsets at = offsets_of(plan.outer, plan.outer.rank, rest / plan.row_tiles);
    for (int i = static_cast<int>(threadIdx.x); i < elements; i += kThreads) {
      const int r = i >> plan.column_bits, c = i & (tile_cols - 1);
      if (r0 + r < plan.rows && c0 + c < plan.cols) {
        tile[r * pitch + c] = source[at.source + (r0 + r) * plan.source_stride + c0 + c];
      }
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < elements; i += kThreads) {
      const int r = i & (tile_rows - 1), c = i >> plan.row_bits;
      if (r0 + r < plan.rows && c0 + c < plan.cols) {
        target[at.target + (c0 + c) * plan.target_stride + r0 + r] = tile[r * pitch + c];
      }
    }
    __syncthreads();
  }
}

int ceil_log2(std::int64_t n) { return static_cast<int>(std::bit_width(static_cast<std::uint64_t>(n - 1))); }

/// The dimension whose elements are a run of the source while those of the last dimension are one of the target, or -1.
int transposed_dimension(const StridedCopy& box) {
  const int last = box.rank - 1;
  if (box.target_strides[last] != 1 || box.source_strides[last] == 1 || box.source_strides[last] == 0) return -1;
  for (int d = last - 1; d >= 0; --d) {
    if (box.source_strides[d] == 1) return d;
  }
  return -1;
}

template <class E>
Transpose transpose_plan(const StridedCopy& box, int source_run) {
  const int last = box.rank - 1;
  Transpose plan{};
  plan.rows = box.sizes[last];
  plan.cols = box.sizes[source_run];
  plan.source_stride = box.source_strides[last];
  plan.target_stride = box.target_strides[source_run];
  for (int d = 0; d < last; ++d) {
    if (d == source_run) continue;
    const int to = plan.outer.rank++;
    plan.outer.sizes[to] = box.sizes[d];
    plan.outer.source_strides[to] = box.source_strides[d];
    plan.outer.target_strides[to] = box.target_strides[d];
  }
  constexpr int kSideBits = std::countr_zero(static_cast<std::uint64_t>(kTileSide<E>)), kBits = 2 * kSideBits;
  plan.row_bits = plan.column_bits = kSideBits;
  if (plan.cols < kTileSide<E>) {
    plan.column_bits = ceil_log2(plan.cols);
    plan.row_bits = std::min(kBits - plan.column_bits, ceil_log2(plan.rows));
  } else if (plan.rows < kTileSide<E>) {
    plan.row_bits = ceil_log2(plan.rows);
    plan.column_bits = std::min(kBits - plan.row_bits, ceil_log2(plan.cols));
  }
  plan.row_tiles = ((plan.rows - 1) >> plan.row_bits) + 1;
  plan.column_tiles = ((plan.cols - 1) >> plan.column_bits) + 1;
  plan.tiles = element_count(plan.outer, plan.outer.rank) * plan.row_tiles * plan.column_tiles;
  return plan;
}

/// Below that many elements in a matrix the reads of copy_strided_kernel stay in the cache.
constexpr std::int64_t kSmallMatrix = 512;
constexpr std::int64_t kTransposeBlocks = 1 << 12;  // at most: some for each place on any device

template <class E>
void copy_box(CudaStream stream, const StridedCopy& box, const void* source, void* target) {
  const auto* from = static_cast<const E*>(source);
  auto* to = static_cast<E*>(target);
  if constexpr (sizeof(E) <= 8) {
    const int source_run = transposed_dimension(box);
    if (source_run >= 0 && box.sizes[box.rank - 1] * box.sizes[source_run] >= kSmallMatrix) {
      const Transpose plan = transpose_plan<E>(box, source_run);
      launch<TransposeShared<E>>(
          {.grid = block_count(plan.tiles, 1, kTransposeBlocks), .block = kThreads, .stream = stream},
          transpose_kernel<E>, plan, from, to);
      return;
    }
  }
  launch_elements(element_count(box, box.rank), stream, copy_strided_kernel<E>, box, from, to);
}

template <class To, class From>
struct Convert {
  __device__ To operator()(From value) const { return convert<To>(value); }
};

template <class E>
struct Constant {
  E value;
  __device__ E operator()() const { return value; }
};

void copy_contiguous(CudaStream stream, std::size_t bytes, const void* source, void* target) {
  LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, stream));
}

}  // namespace

void copy_strided(CudaStream stream, const StridedCopy& box, std::size_t element_size, const void* source,
                  void* target) {
  if (element_count(box, box.rank) == 0) return;
  StridedCopy simple = simplified(box);
  if (simple.rank == 0) {  // one element
    simple.rank = 1;
    simple.sizes[0] = simple.source_strides[0] = simple.target_strides[0] = 1;
  }
  if (simple.rank == 1 && simple.source_strides[0] == 1 && simple.target_strides[0] == 1) {
    return copy_contiguous(stream, static_cast<std::size_t>(simple.sizes[0]) * element_size, source, target);
  }
  widen(simple, element_size, source, target);
  if (element_size == 16) return copy_box<Vector<std::uint64_t, 2>>(stream, simple, source, target);
  with_element(element_size, [&]<class E>(E) { copy_box<E>(stream, simple, source, target); });
}

void transpose(CudaStream stream, std::int64_t batch, std::int64_t rows, std::int64_t cols, std::size_t element_size,
               const void* source, void* target) {
  StridedCopy box;
  box.rank = 3;
  const std::int64_t sizes[] = {batch, cols, rows}, from[] = {rows * cols, 1, cols}, to[] = {rows * cols, rows, 1};
  std::copy_n(sizes, 3, box.sizes);
  std::copy_n(from, 3, box.source_strides);
  std::copy_n(to, 3, box.target_strides);
  copy_strided(stream, box, element_size, source, target);
}

void cast(CudaStream stream, std::int64_t n, DType source_dtype, const void* source, DType target_dtype, void* target) {
  with_dtype(source_dtype, [&]<class From>(From) {
    with_dtype(target_dtype, [&]<class To>(To) {
      if constexpr (std::is_same_v<From, To>) {
        if (n > 0) copy_contiguous(stream, static_cast<std::size_t>(n) * sizeof(To), source, target);
      } else {
        map(stream, n, Convert<To, From>{}, static_cast<To*>(target), static_cast<const From*>(source));
      }
    });
  });
}

void fill(CudaStream stream, std::int64_t n, DType dtype, double value, void* target) {
  with_dtype(dtype, [&]<class To>(To) {
    const To converted = convert<To>(value);
    with_element(sizeof(To), [&]<class E>(E) {
      if constexpr (sizeof(E) == sizeof(To)) {
        map(stream, n, Constant<E>{std::bit_cast<E>(converted)}, static_cast<E*>(target));
      }
    });
  });
}

}  // namespace lockstep::kernels
