// Kernels without faults.
#include <lockstep/tests/emulation/test_kernels.h>
#include <lockstep/kernels/cuda/device_utils.cuh>
#include <lockstep/kernels/cuda/launch.cuh>

namespace lockstep::test {
namespace {

using namespace lockstep::cuda;

__global__ void empty_kernel() {}

__global__ void loads_kernel(const float* x, float* y) {
  const std::int64_t i = first_element();
  float sum = 0.0f;
  for (int k = 0; k < 97; ++k) sum += x[i + k];
  y[i] = sum;
}

__global__ void fill_kernel(std::int64_t n, float* y, float value) {
  for (std::int64_t i = first_element(); i < n; i += element_stride()) y[i] = value;
}

template <class T>
__global__ void scale_kernel(std::int64_t n, const T* x, T* y, float factor) {
  for (std::int64_t i = first_element(); i < n; i += element_stride()) y[i] = T(to_compute(x[i]) * factor);
}

__global__ void sum_kernel(std::int64_t n, const float* x, float* sum) {
  float mine = 0.0f;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) mine += x[i];
  const float total = block_reduce(mine, Sum{}, block_shared<BlockReduceShared<float>>());
  if (threadIdx.x == 0) *sum = total;
}

__global__ void argmax_kernel(std::int64_t n, const float* x, std::int64_t* index) {
  Indexed<float> best{x[0], 0};
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) best = ArgMax{}(best, Indexed<float>{x[i], i});
  best = block_reduce(best, ArgMax{}, block_shared<BlockReduceShared<Indexed<float>>>());
  if (threadIdx.x == 0) *index = best.index;
}

__global__ void warp_sums_kernel(const float* x, float* sums) {
  float sum = x[first_element()];
  for (unsigned delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(kFullWarp, sum, delta);
  if (threadIdx.x % 32 == 0) sums[first_element() / 32] = sum;
}

constexpr int kTile = 32;
struct TransposeShared {
  float tile[kTile][kTile + 1];
};
__global__ void transpose_kernel(const float* x, float* y, int rows, int columns) {
  auto& shared = block_shared<TransposeShared>();
  const int row0 = static_cast<int>(blockIdx.y) * kTile, column0 = static_cast<int>(blockIdx.x) * kTile;
  // Each thread moves four elements of a row at once.
  const int column = static_cast<int>(threadIdx.x) * 4, row = static_cast<int>(threadIdx.y);
  const auto four = load_vector<4>(x + static_cast<std::int64_t>(row0 + row) * columns + column0 + column);
  for (int k = 0; k < 4; ++k) shared.tile[row][column + k] = four[k];
  __syncthreads();
  Vector<float, 4> out;
  for (int k = 0; k < 4; ++k) out[k] = shared.tile[column + k][row];
  store_vector(y + static_cast<std::int64_t>(column0 + row) * rows + row0 + column, out);
}

struct HistogramShared {
  unsigned counts[256];
};
__global__ void histogram_kernel(std::int64_t n, const std::uint8_t* x, unsigned* counts) {
  auto& shared = block_shared<HistogramShared>();
  shared.counts[threadIdx.x] = 0;
  __syncthreads();
  for (std::int64_t i = first_element(); i < n; i += element_stride()) atomicAdd(&shared.counts[x[i]], 1u);
  __syncthreads();
  atomicAdd(&counts[threadIdx.x], shared.counts[threadIdx.x]);
}

__global__ void coordinates_kernel(unsigned* y) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  y[block * (blockDim.x * blockDim.y * blockDim.z) + thread] =
      threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z + 1000 * blockIdx.x + 10000 * blockIdx.y + 100000 * blockIdx.z;
}

struct LastBlockShared {
  bool is_last;
  BlockReduceShared<float> reduce;
};
template <bool kFence>
__global__ void last_block_sum_kernel(const float* x, float* partial, unsigned* counter, float* sum) {
  auto& shared = block_shared<LastBlockShared>();
  const float mine = block_reduce(x[first_element()], Sum{}, shared.reduce);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = mine;
    if (kFence) __threadfence();
    shared.is_last = atomicAdd(counter, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!shared.is_last) return;
  const float part = threadIdx.x < gridDim.x ? partial[threadIdx.x] : 0.0f;
  const float total = block_reduce(part, Sum{}, shared.reduce);
  if (threadIdx.x == 0) *sum = total;
}

struct LargeShared {
  float values[50000];  // 200 KB
};
__global__ void large_shared_kernel(float* y) {
  auto& shared = block_shared<LargeShared>();
  for (int i = static_cast<int>(threadIdx.x); i < 50000; i += static_cast<int>(blockDim.x)) {
    shared.values[i] = static_cast<float>(i);
  }
  __syncthreads();
  y[threadIdx.x] = shared.values[49999 - threadIdx.x];
}

__global__ void constant_table_kernel(int* y) {
  constexpr int kTable[] = {3, 1, 4, 1, 5, 9, 2, 6};
  y[threadIdx.x] = kTable[(threadIdx.x * 7 + 1) % 8];
}

__global__ void vote_kernel(unsigned* y) {
  const unsigned odd = __ballot_sync(kFullWarp, threadIdx.x % 2);
  const int any = __any_sync(kFullWarp, threadIdx.x == 7), all = __all_sync(kFullWarp, threadIdx.x < 31);
  if (threadIdx.x == 0) {
    y[0] = odd;
    y[1] = static_cast<unsigned>(any);
    y[2] = static_cast<unsigned>(all);
    y[3] = static_cast<unsigned>(__popc(odd) + __ffs(8) + __clz(1)) + __brev(1u);
  }
}

}  // namespace

void launch_empty(CudaStream stream, unsigned blocks, unsigned threads) {
  launch({.grid = blocks, .block = threads, .stream = stream}, empty_kernel);
}
void launch_loads(const float* x, float* y, unsigned blocks, CudaStream stream) {
  launch({.grid = blocks, .block = 256, .stream = stream}, loads_kernel, x, y);
}
void launch_fill(float* y, std::int64_t n, float value, CudaStream stream) {
  launch_elements(n, stream, fill_kernel, y, value);
}
void launch_scale(const float* x, float* y, std::int64_t n, float factor, CudaStream stream) {
  launch_elements(n, stream, scale_kernel<float>, x, y, factor);
}
void launch_scale_half(const float16* x, float16* y, std::int64_t n, float factor, CudaStream stream) {
  launch_elements(n, stream, scale_kernel<float16>, x, y, factor);
}
void launch_sum(const float* x, float* sum, std::int64_t n, int threads, CudaStream stream) {
  launch<BlockReduceShared<float>>({.grid = 1, .block = static_cast<unsigned>(threads), .stream = stream}, sum_kernel,
                                   n, x, sum);
}
void launch_argmax(const float* x, std::int64_t* index, std::int64_t n, CudaStream stream) {
  launch<BlockReduceShared<Indexed<float>>>({.grid = 1, .block = 128, .stream = stream}, argmax_kernel, n, x, index);
}
void launch_warp_sums(const float* x, float* sums, unsigned warps, CudaStream stream) {
  launch({.grid = 1, .block = warps * 32, .stream = stream}, warp_sums_kernel, x, sums);
}
void launch_transpose(const float* x, float* y, int rows, int columns, CudaStream stream) {
  const dim3 grid(static_cast<unsigned>(columns / kTile), static_cast<unsigned>(rows / kTile));
  launch<TransposeShared>({.grid = grid, .block = dim3(8, 32), .stream = stream}, transpose_kernel, x, y, rows,
                          columns);
}
void launch_histogram(const std::uint8_t* x, unsigned* counts, std::int64_t n, CudaStream stream) {
  launch<HistogramShared>({.grid = 3, .block = 256, .stream = stream}, histogram_kernel, n, x, counts);
}
void launch_coordinates(unsigned* y, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        CudaStream stream) {
  launch({.grid = dim3(gx, gy, gz), .block = dim3(bx, by, bz), .stream = stream}, coordinates_kernel, y);
}
void launch_last_block_sum(const float* x, float* partial, unsigned* counter, float* sum, unsigned blocks, bool fence,
                           CudaStream stream) {
  launch<LastBlockShared>({.grid = blocks, .block = 64, .stream = stream},
                          fence ? last_block_sum_kernel<true> : last_block_sum_kernel<false>, x, partial, counter, sum);
}
void launch_large_shared(float* y, CudaStream stream) {
  launch<LargeShared>({.grid = 1, .block = 64, .stream = stream}, large_shared_kernel, y);
}
void launch_constant_table(int* y, CudaStream stream) {
  launch({.grid = 1, .block = 8, .stream = stream}, constant_table_kernel, y);
}
void launch_vote(unsigned* y, CudaStream stream) { launch({.grid = 1, .block = 32, .stream = stream}, vote_kernel, y); }

}  // namespace lockstep::test
