// The forward side of batch normalisation on CUDA. The statistics read x once: a thread sums the deviations, and their
// squares, from the mean of the first few of its rows. As that is the mean of at least 1/32 of the rows it has, the
// subtraction that then gives the variance loses at most a factor of about 32 of float's accuracy, whatever the values.
// Moments of threads and of slabs are combined as in Chan, Golub & LeVeque (1983), those of slabs in double.
#include <lockstep/kernels/batch_norm.h>

#include <cmath>

#include <lockstep/kernels/cuda/channel_sums.cuh>
#include <lockstep/kernels/cuda/channel_tiles.cuh>
#include <lockstep/kernels/cuda/device_utils.cuh>
#include <lockstep/kernels/cuda/launch.cuh>
#include <lockstep/kernels/cuda/map.cuh>

namespace lockstep::kernels {
namespace {

using cuda::ChannelTiles;
using cuda::TilePlace;
using cuda::TileRows;

/// What deviations are taken from: any number will do, but none that makes the sum of the deviations NaN where that of
/// the values is infinite.
template <class V>
__device__ V finite_or_zero(V value) {
  return value - value == 0 ? value : V(0);
}

/// means and squares [slabs, channels]: the mean and the summed squared deviations of each slab's rows.
template <class T, int V>
__global__ void __launch_bounds__(cuda::kTileThreads, 2)
    slab_moments_kernel(ChannelTiles tiles, const T* x, float* means, float* squares) {
  auto& shared = cuda::block_shared<cuda::PairsShared<V>>();
  const TilePlace at = cuda::tile_place<V>(tiles);
  float center[V] = {}, sum[V] = {}, square[V] = {};
  int count = 0;
  for (std::int64_t row = at.first; row < at.end; row += cuda::kTileRows<T> * at.step) {
    TileRows<T, V> rows;
    rows.load(x, at, row, tiles.channels);
    if (count == 0) {
      for (int i = 0; i < cuda::kTileRows<T>; ++i) {
        if (row + i * at.step < at.end) ++count;
        for (int v = 0; v < V; ++v) center[v] += cuda::to_compute(rows.values[i][v]);  // 0 beyond the end
      }
      for (int v = 0; v < V; ++v) center[v] = finite_or_zero(center[v] / static_cast<float>(count));
      count = 0;
    }
    for (int i = 0; i < cuda::kTileRows<T>; ++i) {
      if (row + i * at.step < at.end) {
        ++count;
        for (int v = 0; v < V; ++v) {
          const float d = cuda::to_compute(rows.values[i][v]) - center[v];
          sum[v] += d;
          square[v] = fmaf(d, d, square[v]);
        }
      }
    }
  }
  for (int v = 0; v < V; ++v) {
    const float rest = count > 0 ? sum[v] / static_cast<float>(count) : 0.0f;
    shared.first[v][threadIdx.x] = center[v] + rest;
    shared.second[v][threadIdx.x] = square[v] - sum[v] * rest;
  }
  __syncthreads();

  cuda::for_block_channels<V>(tiles, [&](std::int64_t channel, int v, int lane) {
    const int n = tiles.rows_of(at.slab), each = n / at.step, left = n % at.step;
    const float middle = finite_or_zero(shared.first[v][lane]);
    float total = 0, squared = 0;
    for (int i = 0; i < at.step; ++i) {
      const auto part = static_cast<float>(i < left ? each + 1 : each);
      total = fmaf(part, shared.first[v][i * tiles.lanes + lane] - middle, total);
    }
    const float mean = middle + total / static_cast<float>(n);
    for (int i = 0; i < at.step; ++i) {
      const auto part = static_cast<float>(i < left ? each + 1 : each);
      const float d = shared.first[v][i * tiles.lanes + lane] - mean;
      squared += fmaf(part * d, d, shared.second[v][i * tiles.lanes + lane]);
    }
    means[at.slab * tiles.channels + channel] = mean;
    squares[at.slab * tiles.channels + channel] = squared;
  });
}

__global__ void merge_moments_kernel(ChannelTiles tiles, const float* means, const float* squares, float* mean,
                                     float* variance) {
  const auto n = static_cast<double>(tiles.rows);
  cuda::merge_slabs(
      tiles.slabs, tiles.channels,
      [&](std::int64_t slab, std::int64_t channel, double& sum, double& square) {
        const double d = means[slab * tiles.channels + channel] - finite_or_zero(static_cast<double>(means[channel]));
        const double count = tiles.rows_of(slab);
        sum += count * d;
        square += count * d * d + squares[slab * tiles.channels + channel];
      },
      [&](std::int64_t channel, double sum, double square) {
        const double rest = sum / n, biased = (square - sum * rest) / n;
        mean[channel] = static_cast<float>(finite_or_zero(static_cast<double>(means[channel])) + rest);
        variance[channel] = static_cast<float>(biased < 0 ? 0.0 : biased);
      });
}

__global__ void update_running_kernel(std::int64_t n, float share, float unbias, const float* mean,
                                      const float* variance, float* running_mean, float* running_var) {
  for (std::int64_t i = cuda::first_element(); i < n; i += cuda::element_stride()) {
    running_mean[i] = (1.0f - share) * running_mean[i] + share * mean[i];
    running_var[i] = (1.0f - share) * running_var[i] + share * (variance[i] * unbias);
  }
}

struct InverseStd {
  float eps;

  __device__ float operator()(float variance) const { return 1.0f / sqrtf(variance + eps); }
};

template <class T, int V>
__global__ void __launch_bounds__(cuda::kTileThreads, 2)
    apply_kernel(ChannelTiles tiles, const T* x, const float* mean, const float* invstd, const float* weight,
                 const float* bias, const T* residual, bool relu, T* y) {
  const TilePlace at = cuda::tile_place<V>(tiles);
  float values[3][V];
  auto& [center, scale, shift] = values;
  cuda::share_values(tiles, at, cuda::block_shared<cuda::ValuesShared<3, V>>(), values, [&](float(&loaded)[3][V]) {
    float factor[V];
    cuda::load_array(mean + at.channel, loaded[0]);
    cuda::load_array(invstd + at.channel, loaded[1]);
    cuda::load_array(weight + at.channel, factor);
    cuda::load_array(bias + at.channel, loaded[2]);
    for (int v = 0; v < V; ++v) loaded[1][v] *= factor[v];
  });
  for (std::int64_t row = at.first; row < at.end; row += cuda::kTileRows<T> * at.step) {
    TileRows<T, V> rows, added;
    rows.load(x, at, row, tiles.channels);
    if (residual) added.load(residual, at, row, tiles.channels);
    for (int i = 0; i < cuda::kTileRows<T>; ++i) {
      for (int v = 0; v < V; ++v) {
        float value = fmaf(cuda::to_compute(rows.values[i][v]) - center[v], scale[v], shift[v]);
        if (residual) value += cuda::to_compute(added.values[i][v]);
        rows.values[i][v] = T(relu && value < 0 ? 0.0f : value);
      }
    }
    rows.store(y, at, row, tiles.channels);
  }
}

}  // namespace

std::size_t batch_norm_workspace(CudaStream, std::int64_t rows, std::int64_t channels) {
  return cuda::channel_pairs_bytes(rows, channels);
}

template <class T>
void batch_norm_statistics(CudaStream stream, std::int64_t rows, std::int64_t channels, const T* x, Compute<T>* mean,
                           Compute<T>* variance, void* workspace) {
  if (channels == 0) return;
  auto* means = static_cast<float*>(workspace);
  const ChannelTiles tiles = cuda::with_channel_vectors<T>(
      channels,
      [&]<int V>() {
        const ChannelTiles cut = cuda::reduction_tiles<T>(rows, channels, V);
        cuda::launch<cuda::PairsShared<V>>(cut.config(stream), slab_moments_kernel<T, V>, cut, x, means,
                                           means + cut.slabs * channels);
        return cut;
      },
      x);
  cuda::launch_merge(channels, stream, merge_moments_kernel, tiles, means, means + tiles.slabs * channels, mean,
                     variance);
}

template <class T>
void batch_norm_update_running(CudaStream stream, std::int64_t rows, std::int64_t channels, const T* mean,
                               const T* variance, double momentum, T* running_mean, T* running_var) {
  const auto unbias = static_cast<float>(static_cast<double>(rows) / static_cast<double>(rows - 1));
  cuda::launch_elements(channels, stream, update_running_kernel, static_cast<float>(momentum), unbias, mean, variance,
                        running_mean, running_var);
}

template <class T>
void batch_norm_invstd(CudaStream stream, std::int64_t channels, const T* variance, double eps, T* invstd) {
  cuda::map(stream, channels, InverseStd{static_cast<float>(eps)}, invstd, variance);
}

template <class T>
void batch_norm_apply(CudaStream stream, std::int64_t rows, std::int64_t channels, const T* x, const Compute<T>* mean,
                      const Compute<T>* invstd, const Compute<T>* weight, const Compute<T>* bias, const T* residual,
                      bool relu, T* y) {
  if (rows * channels == 0) return;
  cuda::with_channel_vectors<T>(
      channels,
      [&]<int V>() {
        const ChannelTiles tiles = cuda::elementwise_tiles<T>(rows, channels, V);
        cuda::launch<cuda::ValuesShared<3, V>>(tiles.config(stream), apply_kernel<T, V>, tiles, x, mean, invstd, weight,
                                               bias, residual, relu, y);
      },
      x, mean, invstd, weight, bias, residual, y);
}

#define LOCKSTEP_INSTANTIATE(T)                                                                                    \
  template void batch_norm_statistics<T>(CudaStream, std::int64_t, std::int64_t, const T*, float*, float*, void*); \
  template void batch_norm_apply<T>(CudaStream, std::int64_t, std::int64_t, const T*, const float*, const float*,  \
                                    const float*, const float*, const T*, bool, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(float16)
LOCKSTEP_INSTANTIATE(bfloat16)
template void batch_norm_update_running<float>(CudaStream, std::int64_t, std::int64_t, const float*, const float*,
                                               double, float*, float*);
template void batch_norm_invstd<float>(CudaStream, std::int64_t, const float*, double, float*);

}  // namespace lockstep::kernels
