// The gradients of batch normalisation on CUDA. The sums over rows need all of x and grad_y before the first element of
// a training grad_x, so training reads them twice; evaluation reads everything once.
#include <lockstep/kernels/batch_norm.h>

#include <lockstep/kernels/cuda/channel_sums.cuh>
#include <lockstep/kernels/cuda/channel_tiles.cuh>
#include <lockstep/kernels/cuda/device_utils.cuh>
#include <lockstep/kernels/cuda/launch.cuh>

namespace lockstep::kernels {
namespace {

using cuda::ChannelTiles;
using cuda::TilePlace;
using cuda::TileRows;

/// The next rows of grad_y behind the ReLU with output y (or none, null): the gradient stops where y ≤ 0.
template <class T, int V>
__device__ void load_grads(const T* grad_y, const T* y, const TilePlace& at, std::int64_t row, std::int64_t channels,
                           TileRows<T, V>& grads) {
  grads.load(grad_y, at, row, channels);
  if (!y) return;
  TileRows<T, V> outputs;
  outputs.load(y, at, row, channels);
  for (int i = 0; i < cuda::kTileRows<T>; ++i) {
    for (int v = 0; v < V; ++v) {
      if (cuda::to_compute(outputs.values[i][v]) <= 0) grads.values[i][v] = T(0.0f);
    }
  }
}

template <int kValues, int V>
struct SlabGradsShared {
  cuda::ValuesShared<kValues, V> values;
  cuda::PairsShared<V> pairs;
};

/// sums and products [slabs, channels]: Σ g and Σ g · (x − mean) over each slab's rows, g being grad_y behind the
/// ReLU. Stores g in grad_residual unless null, and g · invstd · weight in grad_x if kGradX (else the scale needs no
/// registers).
template <bool kGradX, class T, int V>
__global__ void __launch_bounds__(cuda::kTileThreads, 2)
    slab_grads_kernel(ChannelTiles tiles, const T* x, const T* y, const T* grad_y, const float* mean,
                      const float* invstd, const float* weight, T* grad_x, T* grad_residual, float* sums,
                      float* products) {
  constexpr int kValues = kGradX ? 2 : 1;
  cuda::PairsShared<V>& shared = cuda::block_shared<SlabGradsShared<kValues, V>>().pairs;
  const TilePlace at = cuda::tile_place<V>(tiles);
  float values[kValues][V] = {};
  cuda::share_values(tiles, at, cuda::block_shared<SlabGradsShared<kValues, V>>().values, values,
                     [&](float(&loaded)[kValues][V]) {
                       cuda::load_array(mean + at.channel, loaded[0]);
                       if constexpr (kGradX) {
                         float factor[V];
                         cuda::load_array(invstd + at.channel, loaded[1]);
                         cuda::load_array(weight + at.channel, factor);
                         for (int v = 0; v < V; ++v) loaded[1][v] *= factor[v];
                       }
                     });
  float sum[V] = {}, product[V] = {};
  for (std::int64_t row = at.first; row < at.end; row += cuda::kTileRows<T> * at.step) {
    TileRows<T, V> rows, grads;
    rows.load(x, at, row, tiles.channels);
    load_grads(grad_y, y, at, row, tiles.channels, grads);
    if (grad_residual) grads.store(grad_residual, at, row, tiles.channels);
    for (int i = 0; i < cuda::kTileRows<T>; ++i) {
      if (row + i * at.step < at.end) {
        for (int v = 0; v < V; ++v) {
          const float g = cuda::to_compute(grads.values[i][v]);
          sum[v] += g;
          product[v] = fmaf(g, cuda::to_compute(rows.values[i][v]) - values[0][v], product[v]);
          if constexpr (kGradX) grads.values[i][v] = T(g * values[1][v]);
        }
      }
    }
    if constexpr (kGradX) grads.store(grad_x, at, row, tiles.channels);
  }
  for (int v = 0; v < V; ++v) {
    shared.first[v][threadIdx.x] = sum[v];
    shared.second[v][threadIdx.x] = product[v];
  }
  __syncthreads();

  cuda::for_block_channels<V>(tiles, [&](std::int64_t channel, int v, int lane) {
    float total = 0, total_product = 0;
    for (int i = lane; i < cuda::kTileThreads; i += tiles.lanes) {
      total += shared.first[v][i];
      total_product += shared.second[v][i];
    }
    sums[at.slab * tiles.channels + channel] = total;
    products[at.slab * tiles.channels + channel] = total_product;
  });
}

__global__ void merge_grads_kernel(std::int64_t slabs, std::int64_t channels, const float* sums, const float* products,
                                   const float* invstd, float* grad_weight, float* grad_bias) {
  cuda::merge_slabs(
      slabs, channels,
      [&](std::int64_t slab, std::int64_t channel, double& sum, double& product) {
        sum += sums[slab * channels + channel];
        product += products[slab * channels + channel];
      },
      [&](std::int64_t channel, double sum, double product) {
        grad_bias[channel] = static_cast<float>(sum);
        grad_weight[channel] = static_cast<float>(product * invstd[channel]);
      });
}

/// grad_x = weight · invstd · (g − grad_bias / rows − (x − mean) · invstd · grad_weight / rows).
template <class T, int V>
__global__ void __launch_bounds__(cuda::kTileThreads, 2)
    input_grad_kernel(ChannelTiles tiles, const T* x, const T* y, const T* grad_y, const float* mean,
                      const float* invstd, const float* weight, const float* grad_weight, const float* grad_bias,
                      T* grad_x) {
  const TilePlace at = cuda::tile_place<V>(tiles);
  float values[4][V];
  auto& [center, scale, slope, shift] = values;
  cuda::share_values(tiles, at, cuda::block_shared<cuda::ValuesShared<4, V>>(), values, [&](float(&loaded)[4][V]) {
    float inverse[V];
    cuda::load_array(invstd + at.channel, inverse);
    cuda::load_array(mean + at.channel, loaded[0]);
    cuda::load_array(weight + at.channel, loaded[1]);
    cuda::load_array(grad_weight + at.channel, loaded[2]);
    cuda::load_array(grad_bias + at.channel, loaded[3]);
    const float share = 1.0f / static_cast<float>(tiles.rows);
    for (int v = 0; v < V; ++v) {
      loaded[1][v] *= inverse[v];
      loaded[2][v] *= inverse[v] * share;
      loaded[3][v] *= share;
    }
  });
  for (std::int64_t row = at.first; row < at.end; row += cuda::kTileRows<T> * at.step) {
    TileRows<T, V> rows, grads;
    rows.load(x, at, row, tiles.channels);
    load_grads(grad_y, y, at, row, tiles.channels, grads);
    for (int i = 0; i < cuda::kTileRows<T>; ++i) {
      for (int v = 0; v < V; ++v) {
        const float d = center[v] - cuda::to_compute(rows.values[i][v]);
        grads.values[i][v] = T(scale[v] * fmaf(d, slope[v], cuda::to_compute(grads.values[i][v]) - shift[v]));
      }
    }
    grads.store(grad_x, at, row, tiles.channels);
  }
}

/// grad_weight, grad_bias and, unless null, grad_residual; grad_x too unless null, as for constant statistics.
template <class T>
void reduce_grads(CudaStream stream, std::int64_t rows, std::int64_t channels, const T* x, const T* y, const T* grad_y,
                  const float* mean, const float* invstd, const float* weight, T* grad_x, T* grad_residual,
                  float* grad_weight, float* grad_bias, void* workspace) {
  if (channels == 0) return;
  auto* sums = static_cast<float*>(workspace);
  std::int64_t slabs = 0;
  if (rows > 0) {
    slabs = cuda::with_channel_vectors<T>(
        channels,
        [&]<int V>() {
          const ChannelTiles tiles = cuda::reduction_tiles<T>(rows, channels, V);
          const auto run = [&]<bool kGradX>() {
            cuda::launch<SlabGradsShared<kGradX ? 2 : 1, V>>(tiles.config(stream), slab_grads_kernel<kGradX, T, V>,
                                                             tiles, x, y, grad_y, mean, invstd, weight, grad_x,
                                                             grad_residual, sums, sums + tiles.slabs * channels);
          };
          grad_x ? run.template operator()<true>() : run.template operator()<false>();
          return tiles.slabs;
        },
        x, y, grad_y, mean, invstd, weight, grad_x, grad_residual);
  }
  cuda::launch_merge(channels, stream, merge_grads_kernel, slabs, channels, sums, sums + slabs * channels, invstd,
                     grad_weight, grad_bias);
}

}  // namespace

template <class T>
void batch_norm_backward(CudaStream stream, std::int64_t rows, std::int64_t channels, const T* x, const T* y,
                         const T* grad_y, const Compute<T>* mean, const Compute<T>* invstd, const Compute<T>* weight,
                         T* grad_x, T* grad_residual, Compute<T>* grad_weight, Compute<T>* grad_bias, void* workspace) {
  reduce_grads<T>(stream, rows, channels, x, y, grad_y, mean, invstd, weight, nullptr, grad_residual, grad_weight,
                  grad_bias, workspace);
  if (rows * channels == 0) return;
  if (grad_residual) {  // it now holds the gradient behind the ReLU: one buffer less to read
    grad_y = grad_residual;
    y = nullptr;
  }
  cuda::with_channel_vectors<T>(
      channels,
      [&]<int V>() {
        const ChannelTiles tiles = cuda::elementwise_tiles<T>(rows, channels, V);
        cuda::launch<cuda::ValuesShared<4, V>>(tiles.config(stream), input_grad_kernel<T, V>, tiles, x, y, grad_y, mean,
                                               invstd, weight, grad_weight, grad_bias, grad_x);
      },
      x, y, grad_y, mean, invstd, weight, grad_weight, grad_bias, grad_x);
}

template <class T>
void batch_norm_backward_eval(CudaStream stream, std::int64_t rows, std::int64_t channels, const T* x, const T* y,
                              const T* grad_y, const Compute<T>* mean, const Compute<T>* invstd,
                              const Compute<T>* weight, T* grad_x, T* grad_residual, Compute<T>* grad_weight,
                              Compute<T>* grad_bias, void* workspace) {
  reduce_grads<T>(stream, rows, channels, x, y, grad_y, mean, invstd, weight, grad_x, grad_residual, grad_weight,
                  grad_bias, workspace);
}

#define LOCKSTEP_INSTANTIATE(T)                                                                                   \
  template void batch_norm_backward<T>(CudaStream, std::int64_t, std::int64_t, const T*, const T*, const T*,      \
                                       const float*, const float*, const float*, T*, T*, float*, float*, void*);  \
  template void batch_norm_backward_eval<T>(CudaStream, std::int64_t, std::int64_t, const T*, const T*, const T*, \
                                            const float*, const float*, const float*, T*, T*, float*, float*, void*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(float16)
LOCKSTEP_INSTANTIATE(bfloat16)

}  // namespace lockstep::kernels
