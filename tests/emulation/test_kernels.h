// Kernels for the tests of emulated CUDA, each behind a function that launches it: right ones, and ones with a planted
// fault beside a twin without it.
#pragma once

#include <cstdint>

#include <lockstep/core/base/cuda.h>
#include <lockstep/core/base/float16.h>

namespace lockstep::test {

// ---- Right kernels.
void launch_empty(CudaStream stream, unsigned blocks = 1, unsigned threads = 1);
void launch_loads(const float* x, float* y, unsigned blocks, CudaStream stream);  // 97 loads per thread, 256 threads
void launch_fill(float* y, std::int64_t n, float value, CudaStream stream);
void launch_scale(const float* x, float* y, std::int64_t n, float factor, CudaStream stream);
void launch_scale_half(const float16* x, float16* y, std::int64_t n, float factor, CudaStream stream);
void launch_sum(const float* x, float* sum, std::int64_t n, int threads, CudaStream stream);
void launch_argmax(const float* x, std::int64_t* index, std::int64_t n, CudaStream stream);
void launch_warp_sums(const float* x, float* sums, unsigned warps, CudaStream stream);
void launch_transpose(const float* x, float* y, int rows, int columns, CudaStream stream);
void launch_histogram(const std::uint8_t* x, unsigned* counts, std::int64_t n, CudaStream stream);
void launch_coordinates(unsigned* y, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        CudaStream stream);
void launch_last_block_sum(const float* x, float* partial, unsigned* counter, float* sum, unsigned blocks, bool fence,
                           CudaStream stream);
void launch_large_shared(float* y, CudaStream stream);
void launch_constant_table(int* y, CudaStream stream);
void launch_vote(unsigned* y, CudaStream stream);

// ---- Faults: with `faulty` false, the twin.
void launch_read_past(const float* x, float* y, int n, bool faulty, CudaStream stream);
void launch_write_past(float* y, int n, bool faulty, CudaStream stream);
void launch_write_before(float* y, int n, bool faulty, CudaStream stream);
void launch_missing_barrier(float* y, bool faulty, CudaStream stream);
void launch_divergent_exit(float* y, bool faulty, CudaStream stream);
void launch_divergent_barriers(float* y, bool faulty, CudaStream stream);
void launch_missing_warp_sync(float* y, bool faulty, CudaStream stream);
void launch_shuffle_with_exited(float* y, bool faulty, CudaStream stream);
void launch_shuffle_outside_mask(float* y, bool faulty, CudaStream stream);
void launch_divergent_shuffle(float* y, bool faulty, CudaStream stream);
void launch_uninitialised_shared(float* y, bool faulty, CudaStream stream);
void launch_past_shared(float* y, bool faulty, CudaStream stream);
void launch_vector_load(const float* x, float* y, CudaStream stream);  // faulty where x is not aligned
void launch_block_race(float* y, bool faulty, CudaStream stream);
void launch_read_write_block_race(float* y, bool faulty, CudaStream stream);
void launch_plain_count(unsigned* count, bool faulty, CudaStream stream);
void launch_too_much_shared(float* y, CudaStream stream);

}  // namespace lockstep::test
