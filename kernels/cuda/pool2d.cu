// 2-D pooling on CUDA: a thread per vector of channels of an output pixel (forward) or an input pixel (backward, which
// gathers from the windows over it), so each element is written once, in an order that depends on the shape alone.
// Averages of large windows take a block, whose threads share out the window. Pixels in several windows are loaded
// several times, mostly from the caches: the counted bytes exceed the size of the input by the windows' overlap.
#include <lockstep/kernels/pool2d.h>

#include <algorithm>
#include <limits>

#include <lockstep/core/base/dtype.h>
#include <lockstep/kernels/cuda/device_utils.cuh>
#include <lockstep/kernels/cuda/divider.cuh>
#include <lockstep/kernels/cuda/launch.cuh>

namespace lockstep::kernels {
namespace {

using cuda::Divider;
using cuda::Vector;

/// Where a vector of channels stands in a buffer [N, rows, columns, vectors].
struct Place {
  std::int64_t image, row, column, vector;
};
struct Grid {
  Divider rows, columns, vectors;

  __device__ Place place(std::int64_t i) const {
    Place at;
    i = vectors.divide(i, at.vector);
    i = columns.divide(i, at.column);
    at.image = rows.divide(i, at.row);
    return at;
  }
};

/// Positions [begin, end) of an axis.
struct Range {
  std::int64_t begin, end;
};

/// Windows that can contain position i: those starting in [i + pad − extent + 1, i + pad].
__device__ Range windows_over(std::int64_t i, std::int64_t extent, Divider stride, std::int64_t pad,
                              std::int64_t windows) {
  const std::int64_t first = i + pad - extent + 1, after = stride.quotient(i + pad) + 1;
  return {first <= 0 ? 0 : stride.quotient(first + stride.divisor() - 1), after < windows ? after : windows};
}

// ---- Maxima

template <class T, int V>
__global__ void max_forward_kernel(std::int64_t n, Grid outputs, Pool2dShape s, const T* x, T* y,
                                   std::int32_t* argmax) {
  for (std::int64_t i = cuda::first_element(); i < n; i += cuda::element_stride()) {
    const Place at = outputs.place(i);
    const T* image = x + at.image * s.h * s.w * s.c + at.vector * V;
    float best[V];
    std::int32_t where[V];
    for (int v = 0; v < V; ++v) {
      best[v] = -std::numeric_limits<float>::infinity();
      where[v] = -1;
    }
    for (std::int64_t r = 0; r < s.kernel_h; ++r) {
      const std::int64_t h = at.row * s.stride_h - s.pad_h + r * s.dilation_h;
      if (h < 0 || h >= s.h) continue;
      for (std::int64_t t = 0; t < s.kernel_w; ++t) {
        const std::int64_t w = at.column * s.stride_w - s.pad_w + t * s.dilation_w;
        if (w < 0 || w >= s.w) continue;
        const std::int64_t position = h * s.w + w;
        const Vector<T, V> values = cuda::load_vector<V>(image + position * s.c);
        for (int v = 0; v < V; ++v) {
          const float value = cuda::to_compute(values[v]);
          // Larger, NaN (of several the last), or the window's first element.
          const bool take = value > best[v] || value != value || where[v] < 0;
          best[v] = take ? value : best[v];
          where[v] = take ? static_cast<std::int32_t>(position) : where[v];
        }
      }
    }
    Vector<T, V> out;
    for (int v = 0; v < V; ++v) out[v] = T(best[v]);
    cuda::store_vector(y, out, i);
    cuda::store_array(argmax + i * V, where);
  }
}

template <class T, int V>
__global__ void max_backward_kernel(std::int64_t n, Grid inputs, Pool2dShape s, Divider stride_h, Divider stride_w,
                                    const T* grad_y, const std::int32_t* argmax, T* grad_x) {
  for (std::int64_t i = cuda::first_element(); i < n; i += cuda::element_stride()) {
    const Place at = inputs.place(i);
    const Range down = windows_over(at.row, (s.kernel_h - 1) * s.dilation_h + 1, stride_h, s.pad_h, s.p);
    const Range across = windows_over(at.column, (s.kernel_w - 1) * s.dilation_w + 1, stride_w, s.pad_w, s.q);
    const auto here = static_cast<std::int32_t>(at.row * s.w + at.column);
    float sum[V] = {};
    for (std::int64_t p = down.begin; p < down.end; ++p) {
      for (std::int64_t q = across.begin; q < across.end; ++q) {
        const std::int64_t window = ((at.image * s.p + p) * s.q + q) * s.c + at.vector * V;
        std::int32_t where[V];
        cuda::load_array(argmax + window, where);
        const Vector<T, V> grads = cuda::load_vector<V>(grad_y + window);
        for (int v = 0; v < V; ++v) sum[v] += where[v] == here ? cuda::to_compute(grads[v]) : 0.0f;
      }
    }
    Vector<T, V> out;
    for (int v = 0; v < V; ++v) out[v] = T(sum[v]);
    cuda::store_vector(grad_x, out, i);
  }
}

// ---- Averages. An axis tells what an output position averages, and which outputs average an input position.

/// The part of a window inside the image, and its length with padding.
struct Window {
  std::int64_t begin, end, padded;
};

struct StridedAxis {
  std::int64_t kernel, pad, size, outputs;
  Divider stride;

  __device__ Window window(std::int64_t i) const {
    const std::int64_t start = i * stride.divisor() - pad;
    const std::int64_t end = start + kernel < size + pad ? start + kernel : size + pad;
    return {start > 0 ? start : 0, end < size ? end : size, end - start};
  }
  __device__ Range outputs_over(std::int64_t i) const { return windows_over(i, kernel, stride, pad, outputs); }
  std::int64_t largest_window() const { return std::min(kernel, size); }
};

struct AdaptiveAxis {
  Divider size, outputs;

  __device__ Window window(std::int64_t i) const {
    const std::int64_t begin = outputs.quotient(i * size.divisor());
    const std::int64_t end = outputs.quotient((i + 1) * size.divisor() + outputs.divisor() - 1);
    return {begin, end, end - begin};
  }
  __device__ Range outputs_over(std::int64_t i) const {
    return {size.quotient(i * outputs.divisor()), size.quotient((i + 1) * outputs.divisor() + size.divisor() - 1)};
  }
  std::int64_t largest_window() const { return (size.divisor() - 1) / outputs.divisor() + 2; }
};

template <class Axis>
struct Axes {
  Axis down, across;
  std::int64_t width;   ///< of the input, in pixels
  std::int64_t pixels;  ///< of an input image
  std::int64_t channels;
  bool count_include_pad;
};

__device__ float divisor_of(const Window& down, const Window& across, bool count_include_pad) {
  const std::int64_t count =
      count_include_pad ? down.padded * across.padded : (down.end - down.begin) * (across.end - across.begin);
  return count > 1 ? static_cast<float>(count) : 1.0f;
}

template <int V, class T>
__device__ void add_pixel(const T* pixel, float (&sum)[V]) {
  const Vector<T, V> values = cuda::load_vector<V>(pixel);
  for (int v = 0; v < V; ++v) sum[v] += cuda::to_compute(values[v]);
}

template <class T, int V, class Axis>
__global__ void avg_forward_kernel(std::int64_t n, Grid outputs, Axes<Axis> axes, const T* x, T* y) {
  for (std::int64_t i = cuda::first_element(); i < n; i += cuda::element_stride()) {
    const Place at = outputs.place(i);
    const Window down = axes.down.window(at.row), across = axes.across.window(at.column);
    const T* image = x + at.image * axes.pixels * axes.channels + at.vector * V;
    float sum[V] = {};
    for (std::int64_t h = down.begin; h < down.end; ++h) {
      for (std::int64_t w = across.begin; w < across.end; ++w) {
        add_pixel(image + (h * axes.width + w) * axes.channels, sum);
      }
    }
    const float divisor = divisor_of(down, across, axes.count_include_pad);
    Vector<T, V> out;
    for (int v = 0; v < V; ++v) out[v] = T(sum[v] / divisor);
    cuda::store_vector(y, out, i);
  }
}

// The same for large windows. A block takes 32 vectors of an output pixel; its kShares warps each sum every kShares-th
// pixel of the window.
constexpr int kShares = 8;
constexpr std::int64_t kLargeWindow = 32;  // pixels

template <int V>
struct SharesShared {
  float sums[kShares][V][cuda::kWarpSize];
};

template <class T, int V, class Axis>
__global__ void avg_large_window_kernel(std::int64_t pixels, Divider groups, Grid outputs, Axes<Axis> axes, const T* x,
                                        T* y) {
  auto& shared = cuda::block_shared<SharesShared<V>>();
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarpSize;
  const int share = static_cast<int>(threadIdx.x) / cuda::kWarpSize;
  const std::int64_t vectors = outputs.vectors.divisor();
  for (std::int64_t block = blockIdx.x; block < pixels * groups.divisor(); block += gridDim.x) {
    std::int64_t vector = 0;
    const std::int64_t pixel = groups.divide(block, vector);
    vector = vector * cuda::kWarpSize + lane;
    const Place at = outputs.place(pixel * vectors);
    const Window down = axes.down.window(at.row), across = axes.across.window(at.column);
    float sum[V] = {};
    if (vector < vectors) {
      const T* image = x + at.image * axes.pixels * axes.channels + vector * V;
      std::int64_t h = down.begin, w = across.begin + share;
      while (h < down.end) {
        if (w < across.end) {
          add_pixel(image + (h * axes.width + w) * axes.channels, sum);
          w += kShares;
        } else {
          w -= across.end - across.begin;
          ++h;
        }
      }
    }
    for (int v = 0; v < V; ++v) shared.sums[share][v][lane] = sum[v];
    __syncthreads();
    if (share == 0 && vector < vectors) {
      for (int other = 1; other < kShares; ++other) {
        for (int v = 0; v < V; ++v) sum[v] += shared.sums[other][v][lane];
      }
      const float divisor = divisor_of(down, across, axes.count_include_pad);
      Vector<T, V> out;
      for (int v = 0; v < V; ++v) out[v] = T(sum[v] / divisor);
      cuda::store_vector(y, out, pixel * vectors + vector);
    }
    __syncthreads();  // before the next round overwrites the sums
  }
}

template <class T, int V, class Axis>
__global__ void avg_backward_kernel(std::int64_t n, Grid inputs, Axes<Axis> axes, std::int64_t output_rows,
                                    std::int64_t output_columns, const T* grad_y, T* grad_x) {
  for (std::int64_t i = cuda::first_element(); i < n; i += cuda::element_stride()) {
    const Place at = inputs.place(i);
    const Range ps = axes.down.outputs_over(at.row), qs = axes.across.outputs_over(at.column);
    float sum[V] = {};
    for (std::int64_t p = ps.begin; p < ps.end; ++p) {
      const Window down = axes.down.window(p);
      for (std::int64_t q = qs.begin; q < qs.end; ++q) {
        const float share = 1.0f / divisor_of(down, axes.across.window(q), axes.count_include_pad);
        const std::int64_t pixel = (at.image * output_rows + p) * output_columns + q;
        const Vector<T, V> grads = cuda::load_vector<V>(grad_y + pixel * axes.channels + at.vector * V);
        for (int v = 0; v < V; ++v) sum[v] = fmaf(cuda::to_compute(grads[v]), share, sum[v]);
      }
    }
    Vector<T, V> out;
    for (int v = 0; v < V; ++v) out[v] = T(sum[v]);
    cuda::store_vector(grad_x, out, i);
  }
}

// ---- Launches

template <class T, class Axis>
void avg_forward(CudaStream stream, std::int64_t n, std::int64_t p, std::int64_t q, const Axes<Axis>& axes, const T* x,
                 T* y) {
  if (n * p * q * axes.channels == 0) return;
  cuda::with_channel_vectors<T>(
      axes.channels,
      [&]<int V>() {
        const std::int64_t vectors = axes.channels / V;
        const Grid outputs{Divider(p), Divider(q), Divider(vectors)};
        if (axes.down.largest_window() * axes.across.largest_window() < kLargeWindow) {
          cuda::launch_elements(n * p * q * vectors, stream, avg_forward_kernel<T, V, Axis>, outputs, axes, x, y);
        } else {
          const Divider groups((vectors - 1) / cuda::kWarpSize + 1);
          cuda::launch<SharesShared<V>>({.grid = cuda::block_count(n * p * q * groups.divisor(), 1),
                                         .block = kShares * cuda::kWarpSize,
                                         .stream = stream},
                                        avg_large_window_kernel<T, V, Axis>, n * p * q, groups, outputs, axes, x, y);
        }
      },
      x, y);
}

template <class T, class Axis>
void avg_backward(CudaStream stream, std::int64_t n, std::int64_t h, std::int64_t p, std::int64_t q,
                  const Axes<Axis>& axes, const T* grad_y, T* grad_x) {
  if (n * axes.pixels * axes.channels == 0) return;
  cuda::with_channel_vectors<T>(
      axes.channels,
      [&]<int V>() {
        const std::int64_t vectors = axes.channels / V;
        const Grid inputs{Divider(h), Divider(axes.width), Divider(vectors)};
        cuda::launch_elements(n * axes.pixels * vectors, stream, avg_backward_kernel<T, V, Axis>, inputs, axes, p, q,
                              grad_y, grad_x);
      },
      grad_y, grad_x);
}

Axes<StridedAxis> strided_axes(const Pool2dShape& s) {
  return {{s.kernel_h, s.pad_h, s.h, s.p, Divider(s.stride_h)},
          {s.kernel_w, s.pad_w, s.w, s.q, Divider(s.stride_w)},
          s.w,
          s.h * s.w,
          s.c,
          s.count_include_pad};
}

Axes<AdaptiveAxis> adaptive_axes(std::int64_t h, std::int64_t w, std::int64_t c, std::int64_t p, std::int64_t q) {
  return {{Divider(h), Divider(p)}, {Divider(w), Divider(q)}, w, h * w, c, true};
}

}  // namespace

template <class T>
void max_pool2d_forward(CudaStream stream, const Pool2dShape& s, const T* x, T* y, std::int32_t* argmax) {
  if (s.n * s.p * s.q * s.c == 0) return;
  cuda::with_channel_vectors<T>(
      s.c,
      [&]<int V>() {
        const Grid outputs{Divider(s.p), Divider(s.q), Divider(s.c / V)};
        cuda::launch_elements(s.n * s.p * s.q * (s.c / V), stream, max_forward_kernel<T, V>, outputs, s, x, y, argmax);
      },
      x, y, argmax);
}

template <class T>
void max_pool2d_backward(CudaStream stream, const Pool2dShape& s, const T* grad_y, const std::int32_t* argmax,
                         T* grad_x) {
  if (s.n * s.h * s.w * s.c == 0) return;
  cuda::with_channel_vectors<T>(
      s.c,
      [&]<int V>() {
        const Grid inputs{Divider(s.h), Divider(s.w), Divider(s.c / V)};
        cuda::launch_elements(s.n * s.h * s.w * (s.c / V), stream, max_backward_kernel<T, V>, inputs, s,
                              Divider(s.stride_h), Divider(s.stride_w), grad_y, argmax, grad_x);
      },
      grad_y, argmax, grad_x);
}

template <class T>
void avg_pool2d_forward(CudaStream stream, const Pool2dShape& s, const T* x, T* y) {
  avg_forward(stream, s.n, s.p, s.q, strided_axes(s), x, y);
}

template <class T>
void avg_pool2d_backward(CudaStream stream, const Pool2dShape& s, const T* grad_y, T* grad_x) {
  avg_backward(stream, s.n, s.h, s.p, s.q, strided_axes(s), grad_y, grad_x);
}

template <class T>
void adaptive_avg_pool2d_forward(CudaStream stream, std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c,
                                 std::int64_t p, std::int64_t q, const T* x, T* y) {
  if (n * p * q * c == 0) return;
  avg_forward(stream, n, p, q, adaptive_axes(h, w, c, p, q), x, y);
}

template <class T>
void adaptive_avg_pool2d_backward(CudaStream stream, std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c,
                                  std::int64_t p, std::int64_t q, const T* grad_y, T* grad_x) {
  if (n * h * w * c == 0) return;
  avg_backward(stream, n, h, p, q, adaptive_axes(h, w, c, p, q), grad_y, grad_x);
}

#define LOCKSTEP_INSTANTIATE(T)                                                                                     \
  template void max_pool2d_forward<T>(CudaStream, const Pool2dShape&, const T*, T*, std::int32_t*);                 \
  template void max_pool2d_backward<T>(CudaStream, const Pool2dShape&, const T*, const std::int32_t*, T*);          \
  template void avg_pool2d_forward<T>(CudaStream, const Pool2dShape&, const T*, T*);                                \
  template void avg_pool2d_backward<T>(CudaStream, const Pool2dShape&, const T*, T*);                               \
  template void adaptive_avg_pool2d_forward<T>(CudaStream, std::int64_t, std::int64_t, std::int64_t, std::int64_t,  \
                                               std::int64_t, std::int64_t, const T*, T*);                           \
  template void adaptive_avg_pool2d_backward<T>(CudaStream, std::int64_t, std::int64_t, std::int64_t, std::int64_t, \
                                                std::int64_t, std::int64_t, const T*, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(float16)
LOCKSTEP_INSTANTIATE(bfloat16)

}  // namespace lockstep::kernels
