// Kernels with planted faults, and their twins without them.
#include <lockstep/tests/emulation/test_kernels.h>
#include <lockstep/kernels/cuda/device_utils.cuh>
#include <lockstep/kernels/cuda/launch.cuh>

namespace lockstep::test {
namespace {

using namespace lockstep::cuda;

struct Values {
  float values[64];
};

__global__ void read_past_kernel(const float* x, float* y, int n, int extra) {
  const int i = static_cast<int>(first_element());
  if (i < n) y[i] = x[i + extra];
}
__global__ void write_past_kernel(float* y, int n) {
  const int i = static_cast<int>(first_element());
  if (i <= n) y[i] = 1.0f;
}
__global__ void write_before_kernel(float* y, int n, int before) {
  const int i = static_cast<int>(first_element());
  if (i < n) y[i - before] = 1.0f;
}

template <bool kFaulty>
__global__ void missing_barrier_kernel(float* y) {
  auto& shared = block_shared<Values>();
  shared.values[threadIdx.x] = 0.0f;
  __syncthreads();
  shared.values[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (!kFaulty) __syncthreads();
  y[threadIdx.x] = shared.values[63 - threadIdx.x];
}

template <bool kFaulty>
__global__ void divergent_exit_kernel(float* y) {
  if (kFaulty && threadIdx.x == 40) return;
  __syncthreads();
  y[threadIdx.x] = 1.0f;
}

template <bool kFaulty>
__global__ void divergent_barriers_kernel(float* y) {
  if (kFaulty && threadIdx.x >= 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = 1.0f;
}
template <>
__global__ void divergent_barriers_kernel<false>(float* y) {
  __syncthreads();
  y[threadIdx.x] = 1.0f;
}

template <bool kFaulty>
__global__ void missing_warp_sync_kernel(float* y) {
  auto& shared = block_shared<Values>();
  const unsigned neighbour = threadIdx.x ^ 1u;
  shared.values[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncwarp();
  const float other = shared.values[neighbour];
  if (!kFaulty) __syncwarp();
  shared.values[threadIdx.x] = 2.0f * other;
  __syncwarp();
  y[threadIdx.x] = shared.values[neighbour];
}

template <bool kFaulty>
__global__ void shuffle_with_exited_kernel(float* y) {
  if (kFaulty && threadIdx.x == 5) return;
  y[threadIdx.x] = __shfl_xor_sync(kFullWarp, static_cast<float>(threadIdx.x), 1);
}
template <bool kFaulty>
__global__ void shuffle_outside_mask_kernel(float* y) {
  if (threadIdx.x >= 16) return;
  y[threadIdx.x] = __shfl_xor_sync(0xffffu, static_cast<float>(threadIdx.x), kFaulty ? 16 : 8);
}
template <bool kFaulty>
__global__ void divergent_shuffle_kernel(float* y) {
  float value = static_cast<float>(threadIdx.x);
  if (kFaulty && threadIdx.x % 2 == 0) {
    value += __shfl_xor_sync(kFullWarp, value, 2);
  } else {
    value += __shfl_xor_sync(kFaulty ? kFullWarp : __ballot_sync(kFullWarp, 1), value, 2);
  }
  y[threadIdx.x] = value;
}

template <bool kFaulty>
__global__ void uninitialised_shared_kernel(float* y) {
  auto& shared = block_shared<Values>();
  if (!kFaulty || threadIdx.x != 9) shared.values[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = shared.values[threadIdx.x];
}
template <bool kFaulty>
__global__ void past_shared_kernel(float* y) {
  auto& shared = block_shared<Values>();
  float* values = shared.values;
  values[threadIdx.x + (kFaulty ? 1 : 0)] = 1.0f;
  y[threadIdx.x] = 1.0f;
}

__global__ void vector_load_kernel(const float* x, float* y) { store_vector(y, load_vector<4>(x)); }

template <bool kFaulty>
__global__ void block_race_kernel(float* y) {
  y[threadIdx.x + (kFaulty ? 0 : blockIdx.x * blockDim.x)] = static_cast<float>(blockIdx.x);
}
template <bool kFaulty>
__global__ void read_write_block_race_kernel(float* y) {
  // y has a value for each thread of the grid; the faulty one reads its neighbour's, of the next block at the end.
  const std::int64_t i = first_element();
  const std::int64_t count = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  const float value = y[kFaulty ? (i + blockDim.x) % count : i];
  y[i] = value + 1.0f;
}
template <bool kFaulty>
__global__ void plain_count_kernel(unsigned* count) {
  if (kFaulty) {
    *count += 1;
  } else {
    atomicAdd(count, 1u);
  }
}

struct TooMuch {
  float values[60000];  // 240 KB
};
__global__ void too_much_shared_kernel(float* y) { y[0] = block_shared<TooMuch>().values[0]; }

LaunchConfig one_block(unsigned threads, CudaStream stream) { return {.grid = 1, .block = threads, .stream = stream}; }

}  // namespace

void launch_read_past(const float* x, float* y, int n, bool faulty, CudaStream stream) {
  launch(one_block(static_cast<unsigned>(n), stream), read_past_kernel, x, y, n, faulty ? 1 : 0);
}
void launch_write_past(float* y, int n, bool faulty, CudaStream stream) {
  launch(one_block(static_cast<unsigned>(n) + 1, stream), write_past_kernel, y, faulty ? n : n - 1);
}
void launch_write_before(float* y, int n, bool faulty, CudaStream stream) {
  launch(one_block(static_cast<unsigned>(n), stream), write_before_kernel, y, n, faulty ? 1 : 0);
}
void launch_missing_barrier(float* y, bool faulty, CudaStream stream) {
  launch<Values>(one_block(64, stream), faulty ? missing_barrier_kernel<true> : missing_barrier_kernel<false>, y);
}
void launch_divergent_exit(float* y, bool faulty, CudaStream stream) {
  launch(one_block(64, stream), faulty ? divergent_exit_kernel<true> : divergent_exit_kernel<false>, y);
}
void launch_divergent_barriers(float* y, bool faulty, CudaStream stream) {
  launch(one_block(64, stream), faulty ? divergent_barriers_kernel<true> : divergent_barriers_kernel<false>, y);
}
void launch_missing_warp_sync(float* y, bool faulty, CudaStream stream) {
  launch<Values>(one_block(64, stream), faulty ? missing_warp_sync_kernel<true> : missing_warp_sync_kernel<false>, y);
}
void launch_shuffle_with_exited(float* y, bool faulty, CudaStream stream) {
  launch(one_block(32, stream), faulty ? shuffle_with_exited_kernel<true> : shuffle_with_exited_kernel<false>, y);
}
void launch_shuffle_outside_mask(float* y, bool faulty, CudaStream stream) {
  launch(one_block(32, stream), faulty ? shuffle_outside_mask_kernel<true> : shuffle_outside_mask_kernel<false>, y);
}
void launch_divergent_shuffle(float* y, bool faulty, CudaStream stream) {
  launch(one_block(32, stream), faulty ? divergent_shuffle_kernel<true> : divergent_shuffle_kernel<false>, y);
}
void launch_uninitialised_shared(float* y, bool faulty, CudaStream stream) {
  launch<Values>(one_block(64, stream), faulty ? uninitialised_shared_kernel<true> : uninitialised_shared_kernel<false>,
                 y);
}
void launch_past_shared(float* y, bool faulty, CudaStream stream) {
  launch<Values>(one_block(64, stream), faulty ? past_shared_kernel<true> : past_shared_kernel<false>, y);
}
void launch_vector_load(const float* x, float* y, CudaStream stream) {
  launch(one_block(1, stream), vector_load_kernel, x, y);
}
void launch_block_race(float* y, bool faulty, CudaStream stream) {
  launch({.grid = 2, .block = 32, .stream = stream}, faulty ? block_race_kernel<true> : block_race_kernel<false>, y);
}
void launch_read_write_block_race(float* y, bool faulty, CudaStream stream) {
  launch({.grid = 4, .block = 32, .stream = stream},
         faulty ? read_write_block_race_kernel<true> : read_write_block_race_kernel<false>, y);
}
void launch_plain_count(unsigned* count, bool faulty, CudaStream stream) {
  launch(one_block(64, stream), faulty ? plain_count_kernel<true> : plain_count_kernel<false>, count);
}
void launch_too_much_shared(float* y, CudaStream stream) {
  launch<TooMuch>(one_block(1, stream), too_much_shared_kernel, y);
}

}  // namespace lockstep::test
