// Elementwise kernels: out[i] = f(a[i], b[i], …) in vectors of 16 bytes where all pointers are aligned for them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <lockstep/kernels/cuda/device_utils.cuh>
#include <lockstep/kernels/cuda/launch.cuh>

namespace lockstep::cuda {

/// Elements of a vector for arrays of these types: the widest fills 16 bytes.
template <class... Ts>
inline constexpr int kMapWidth = static_cast<int>(16 / std::max({sizeof(Ts)...}));

/// f of each place of the vectors.
template <class Result, int kWidth, class F, class... Inputs>
__device__ inline Vector<Result, kWidth> map_vectors(F f, Vector<Inputs, kWidth>... inputs) {
  Vector<Result, kWidth> result;
  for (int j = 0; j < kWidth; ++j) result[j] = f(inputs[j]...);
  return result;
}

/// A vector for each thread, then what is left after the last whole one. An input may be `out`: a thread has read a
/// place before it writes it.
template <int kWidth, class T, class F, class... Inputs>
__global__ void map_kernel(std::int64_t n, F f, T* out, const Inputs*... inputs) {
  const std::int64_t vectors = n / kWidth;
  for (std::int64_t i = first_element(); i < vectors; i += element_stride()) {
    store_vector(out, map_vectors<T, kWidth>(f, load_vector<kWidth>(inputs, i)...), i);
  }
  for (std::int64_t i = vectors * kWidth + first_element(); i < n; i += element_stride()) out[i] = f(inputs[i]...);
}

/// out[i] = f(inputs[i]...) for i < n; f takes and returns elements.
template <class T, class F, class... Inputs>
void map(CudaStream stream, std::int64_t n, F f, T* out, const Inputs*... inputs) {
  if (n == 0) return;
  constexpr int kWidth = kMapWidth<T, Inputs...>;
  const bool vectors =
      is_aligned(kWidth * sizeof(T), out) && (is_aligned(kWidth * sizeof(Inputs), inputs) && ... && true);
  const LaunchConfig config{.grid = block_count(vectors ? (n - 1) / kWidth + 1 : n, kElementThreads),
                            .block = kElementThreads,
                            .stream = stream};
  launch(config, vectors ? map_kernel<kWidth, T, F, Inputs...> : map_kernel<1, T, F, Inputs...>, n, f, out, inputs...);
}

/// Makes a function of elements from one of floats, rounding its result.
template <class T, class F>
struct InFloat {
  F f;

  template <class... Elements>
  __device__ T operator()(Elements... elements) const {
    return static_cast<T>(f(to_compute(elements)...));
  }
};

/// The same for f of floats.
template <class T, class F, class... Inputs>
void map_floats(CudaStream stream, std::int64_t n, F f, T* out, const Inputs*... inputs) {
  map(stream, n, InFloat<T, F>{f}, out, inputs...);
}

}  // namespace lockstep::cuda
