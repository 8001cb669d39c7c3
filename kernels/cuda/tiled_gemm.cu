// A float32 matrix product in plain CUDA: a block computes a tile of 128 × 128 of C, a thread 8 × 8 of it in registers,
// from slices of 8 of k in shared memory. While one slice is multiplied the next is on its way in registers.
#include <lockstep/kernels/gemm.h>

#include <lockstep/kernels/cuda/device_utils.cuh>
#include <lockstep/kernels/cuda/launch.cuh>

namespace lockstep::kernels {
namespace {

constexpr int kTile = 128;
constexpr int kDepth = 8;
constexpr int kThreads = 256;
constexpr int kGroup = 4;                                    // elements that are loaded and stored at once
constexpr int kGroups = kTile * kDepth / kGroup / kThreads;  // of a slice, for each thread
constexpr int kSide = kTile / 2;  // from the first 4 of the 8 rows or columns of a thread to the other 4

/// Slices of op(A) and op(B), both with k outermost: two of each, one in use and one being filled. The padding keeps
/// rows aligned for vectors and spreads the columns that transposing stores go down over the banks.
struct Slices {
  alignas(16) float a[2][kDepth][kTile + 4];
  alignas(16) float b[2][kDepth][kTile + 4];
};

/// A factor seen as `size` vectors of length `depth`: rows of op(A) or columns of op(B). Memory runs along k or across.
template <bool kAlongDepth>
struct Factor {
  const float* data;
  std::int64_t stride;  ///< from one row as stored to the next
  std::int64_t size, depth;
  bool vectors;  ///< whether groups of 4 in memory are aligned

  /// Where group g of a slice stands: its first element's vector, and its place along k.
  __device__ static int vector_of(int g) { return kAlongDepth ? g / (kDepth / kGroup) : g % (kTile / kGroup) * kGroup; }
  __device__ static int depth_of(int g) { return kAlongDepth ? g % (kDepth / kGroup) * kGroup : g / (kTile / kGroup); }

  /// Loads this thread's part of the slice at `first`, `k`; zeros outside of the matrix.
  __device__ void load(std::int64_t first, std::int64_t k, float (&values)[kGroups][kGroup]) const {
    for (int i = 0; i < kGroups; ++i) {
      const int g = i * kThreads + static_cast<int>(threadIdx.x);
      const std::int64_t vector = first + vector_of(g), place = k + depth_of(g);
      const std::int64_t along = kAlongDepth ? place : vector, across = kAlongDepth ? vector : place;
      const std::int64_t length = kAlongDepth ? depth : size, lines = kAlongDepth ? size : depth;
      const float* line = data + across * stride;
      if (vectors && across < lines && along + kGroup <= length) {
        cuda::load_array(line + along, values[i]);
      } else {
        for (int j = 0; j < kGroup; ++j) values[i][j] = across < lines && along + j < length ? line[along + j] : 0.0f;
      }
    }
  }

  __device__ static void store(const float (&values)[kGroups][kGroup], float (&slice)[kDepth][kTile + 4]) {
    for (int i = 0; i < kGroups; ++i) {
      const int g = i * kThreads + static_cast<int>(threadIdx.x);
      if constexpr (kAlongDepth) {
        for (int j = 0; j < kGroup; ++j) slice[depth_of(g) + j][vector_of(g)] = values[i][j];
      } else {
        cuda::store_array(&slice[depth_of(g)][vector_of(g)], values[i]);
      }
    }
  }
};

/// The two groups of 4 that a thread multiplies.
__device__ void load_fragment(const float (&line)[kTile + 4], int place, float (&values)[8]) {
  float part[kGroup];
  for (int half = 0; half < 2; ++half) {
    cuda::load_array(&line[place * kGroup + half * kSide], part);
    for (int i = 0; i < kGroup; ++i) values[half * kGroup + i] = part[i];
  }
}

template <bool kTransposeA, bool kTransposeB>
__global__ void __launch_bounds__(kThreads, 2)
    tiled_gemm_kernel(Factor<!kTransposeA> a, Factor<kTransposeB> b, unsigned columns, bool add, float* c,
                      std::int64_t ldc) {
  auto& slices = cuda::block_shared<Slices>();
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x / columns) * kTile;
  const std::int64_t first_column = static_cast<std::int64_t>(blockIdx.x % columns) * kTile;
  const int across = static_cast<int>(threadIdx.x) % (kTile / 8), down = static_cast<int>(threadIdx.x) / (kTile / 8);
  const std::int64_t depth = a.depth;

  float next_a[kGroups][kGroup], next_b[kGroups][kGroup], sums[8][8] = {};
  int current = 0;
  a.load(first_row, 0, next_a);
  b.load(first_column, 0, next_b);
  a.store(next_a, slices.a[0]);
  b.store(next_b, slices.b[0]);
  __syncthreads();
  for (std::int64_t k = 0; k < depth; k += kDepth) {
    const bool more = k + kDepth < depth;
    if (more) {
      a.load(first_row, k + kDepth, next_a);
      b.load(first_column, k + kDepth, next_b);
    }
    for (int l = 0; l < kDepth; ++l) {
      float left[8], right[8];
      load_fragment(slices.a[current][l], down, left);
      load_fragment(slices.b[current][l], across, right);
      for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 8; ++j) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
      }
    }
    if (more) {  // nobody reads the other slices any more: all threads have passed the barrier behind them
      a.store(next_a, slices.a[1 - current]);
      b.store(next_b, slices.b[1 - current]);
    }
    __syncthreads();
    current = 1 - current;
  }

  for (int i = 0; i < 8; ++i) {
    const std::int64_t row = first_row + down * kGroup + i / kGroup * kSide + i % kGroup;
    for (int j = 0; j < 8; ++j) {
      const std::int64_t column = first_column + across * kGroup + j / kGroup * kSide + j % kGroup;
      if (row < a.size && column < b.size) {
        float* out = c + row * ldc + column;
        *out = add ? sums[i][j] + *out : sums[i][j];
      }
    }
  }
}

template <bool kAlongDepth>
Factor<kAlongDepth> factor(const float* data, std::int64_t stride, std::int64_t size, std::int64_t depth) {
  return {data, stride, size, depth, stride % kGroup == 0 && cuda::is_aligned(kGroup * sizeof(float), data)};
}

}  // namespace

void tiled_gemm(CudaStream stream, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
                const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
                std::int64_t ldc) {
  if (m == 0 || n == 0) return;
  const std::int64_t rows = (m - 1) / kTile + 1, columns = (n - 1) / kTile + 1;
  const cuda::LaunchConfig config{.grid = static_cast<unsigned>(rows * columns), .block = kThreads, .stream = stream};
  const auto run = [&]<bool kTransposeA, bool kTransposeB>() {
    cuda::launch<Slices>(config, tiled_gemm_kernel<kTransposeA, kTransposeB>, factor<!kTransposeA>(a, lda, m, k),
                         factor<kTransposeB>(b, ldb, n, k), static_cast<unsigned>(columns), beta != 0, c, ldc);
  };
  if (transpose_a) {
    transpose_b ? run.template operator()<true, true>() : run.template operator()<true, false>();
  } else {
    transpose_b ? run.template operator()<false, true>() : run.template operator()<false, false>();
  }
}

}  // namespace lockstep::kernels
