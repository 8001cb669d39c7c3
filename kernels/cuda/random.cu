#include <lockstep/kernels/random.h>

#include <algorithm>
#include <array>

#include <lockstep/kernels/common/random_draws.h>
#include <lockstep/kernels/cuda/rows.cuh>

// A thread makes the four draws of one counter of the generator.

namespace lockstep::kernels {
namespace {

using namespace lockstep::cuda;

constexpr int kDraws = 4;  // of a counter
using Words = std::array<std::uint32_t, kDraws>;

template <class T>
struct Uniform {
  UniformRange<float> range;
  float last;  // the largest T below the upper bound, which rounding to T may otherwise reach

  __device__ Floats<kDraws> operator()(const Words& words) const {
    Floats<kDraws> draws;
    for (int w = 0; w < kDraws; ++w) {
      const float draw = range.scaled(uniform_float(words[static_cast<std::size_t>(w)]));
      draws[w] = static_cast<float>(static_cast<T>(draw)) > last ? last : draw;
    }
    return draws;
  }
};

struct Normal {
  float mean, stddev;

  __device__ Floats<kDraws> operator()(const Words& words) const {
    double z[kDraws];
    box_muller(words[0], words[1], z[0], z[1]);
    box_muller(words[2], words[3], z[2], z[3]);
    Floats<kDraws> draws;
    for (int w = 0; w < kDraws; ++w) draws[w] = mean + stddev * static_cast<float>(z[w]);
    return draws;
  }
};

template <class T, class Draw>
__global__ void fill_random_kernel(std::int64_t counters, std::int64_t n, Draw draw, std::uint64_t seed,
                                   std::uint64_t stream, T* out, bool aligned) {
  for (std::int64_t i = first_element(); i < counters; i += element_stride()) {
    const Floats<kDraws> draws = draw(philox4x32(seed, static_cast<std::uint64_t>(i), stream));
    if ((i + 1) * kDraws <= n) {
      store_floats(out, draws, i, aligned);
    } else {
      for (int w = 0; i * kDraws + w < n; ++w) out[i * kDraws + w] = static_cast<T>(draws[w]);
    }
  }
}

template <class T>
__global__ void dropout_kernel(std::int64_t counters, std::int64_t n, DropoutFactors<float> factors, std::uint64_t seed,
                               std::uint64_t stream, const T* x, T* y, bool aligned) {
  for (std::int64_t i = first_element(); i < counters; i += element_stride()) {
    const Words words = philox4x32(seed, static_cast<std::uint64_t>(i), stream);
    if ((i + 1) * kDraws <= n) {
      auto v = load_floats<kDraws>(x, i, aligned);
      for (int w = 0; w < kDraws; ++w) v[w] = factors.apply(v[w], words[static_cast<std::size_t>(w)]);
      store_floats(y, v, i, aligned);
    } else {
      for (int w = 0; i * kDraws + w < n; ++w) {
        const std::int64_t at = i * kDraws + w;
        y[at] = static_cast<T>(factors.apply(to_compute(x[at]), words[static_cast<std::size_t>(w)]));
      }
    }
  }
}

std::int64_t counters_of(std::int64_t n) { return (n + kDraws - 1) / kDraws; }

/// The largest number of T below `high`, but not below `low`.
template <class T>
float last_draw(float low, float high) {
  T below(high);
  if (static_cast<float>(below) >= high) {
    if ((below.bits & 0x7fffu) == 0) {
      below.bits = 0x8001u;  // from either zero to the smallest negative number
    } else {
      below.bits = static_cast<std::uint16_t>(below.bits + ((below.bits & 0x8000u) != 0 ? 1 : -1));
    }
  }
  return std::max(static_cast<float>(below), static_cast<float>(T(low)));
}
template <>
float last_draw<float>(float low, float high) {
  return UniformRange<float>(low, high).last;
}

template <class T, class Draw>
void fill_random(CudaStream cuda_stream, std::int64_t n, Draw draw, std::uint64_t seed, std::uint64_t stream, T* out) {
  launch_elements(counters_of(n), cuda_stream, fill_random_kernel<T, Draw>, n, draw, seed, stream, out,
                  is_aligned(kDraws * sizeof(T), out));
}

}  // namespace

template <class T>
void fill_uniform(CudaStream cuda_stream, std::int64_t n, lockstep::Compute<T> low, lockstep::Compute<T> high,
                  std::uint64_t seed, std::uint64_t stream, T* out) {
  fill_random(cuda_stream, n, Uniform<T>{UniformRange<float>(low, high), last_draw<T>(low, high)}, seed, stream, out);
}

template <class T>
void fill_normal(CudaStream cuda_stream, std::int64_t n, lockstep::Compute<T> mean, lockstep::Compute<T> stddev,
                 std::uint64_t seed, std::uint64_t stream, T* out) {
  fill_random(cuda_stream, n, Normal{mean, stddev}, seed, stream, out);
}

template <class T>
void dropout(CudaStream cuda_stream, std::int64_t n, const T* x, double p, std::uint64_t seed, std::uint64_t stream,
             T* y) {
  launch_elements(counters_of(n), cuda_stream, dropout_kernel<T>, n, DropoutFactors<float>(p), seed, stream, x, y,
                  is_aligned(kDraws * sizeof(T), x, y));
}

#define LOCKSTEP_INSTANTIATE(T)                                                                            \
  template void fill_uniform<T>(CudaStream, std::int64_t, float, float, std::uint64_t, std::uint64_t, T*); \
  template void fill_normal<T>(CudaStream, std::int64_t, float, float, std::uint64_t, std::uint64_t, T*);  \
  template void dropout<T>(CudaStream, std::int64_t, const T*, double, std::uint64_t, std::uint64_t, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(float16)
LOCKSTEP_INSTANTIATE(bfloat16)

}  // namespace lockstep::kernels
