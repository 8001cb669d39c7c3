// How a channels-last buffer [rows, channels] is shared out among blocks where every channel has values of its own: a
// block takes a slab of rows of a few channels, a thread one vector of channels and every some-th row of the slab. All
// cuts depend on the sizes and the element type alone, not on whether the buffers allow vectors, and so do the bits.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include <lockstep/kernels/cuda/device_utils.cuh>
#include <lockstep/kernels/cuda/launch.cuh>

namespace lockstep::cuda {

inline constexpr int kTileThreads = 256;

/// Rows that a thread loads at once: 128 bytes in flight.
template <class T>
inline constexpr int kTileRows = 32 / kVectorSize<T>;

struct ChannelTiles {
  std::int64_t rows, channels;
  std::int64_t slabs, slab_rows;
  int lanes;         ///< threads of a block beside each other, a power of two
  unsigned columns;  ///< blocks beside each other

  __device__ int rows_of(std::int64_t slab) const {
    const std::int64_t left = rows - slab * slab_rows;
    return static_cast<int>(left < slab_rows ? left : slab_rows);
  }
  LaunchConfig config(CudaStream stream) const {
    return {.grid = static_cast<unsigned>(slabs * columns), .block = kTileThreads, .stream = stream};
  }
};

/// Tiles for buffers of T, read in vectors of V channels (kVectorSize<T> or 1). Each thread gets `least` to `most`
/// times kTileRows<T> rows, as many as leave about `blocks` blocks. rows and channels ≥ 1.
template <class T>
ChannelTiles channel_tiles(std::int64_t rows, std::int64_t channels, int vector, std::int64_t blocks,
                           std::int64_t least, std::int64_t most) {
  const std::int64_t vectors = channels % kVectorSize<T> == 0 ? channels / kVectorSize<T> : channels;
  ChannelTiles tiles{};
  tiles.rows = rows;
  tiles.channels = channels;
  tiles.lanes = static_cast<int>(std::bit_ceil(static_cast<std::uint64_t>(std::min<std::int64_t>(vectors, kWarpSize))));
  const std::int64_t smallest = kTileThreads / tiles.lanes * kTileRows<T>;  // slab
  const std::int64_t slabs_wanted = std::max<std::int64_t>(1, blocks / ((vectors - 1) / tiles.lanes + 1));
  tiles.slab_rows = smallest * std::clamp((rows - 1) / (smallest * slabs_wanted) + 1, least, most);
  tiles.slabs = (rows - 1) / tiles.slab_rows + 1;
  tiles.columns = static_cast<unsigned>((channels / vector - 1) / tiles.lanes + 1);
  return tiles;
}

/// Tiles of an elementwise kernel: several rounds of blocks on a large GPU.
template <class T>
ChannelTiles elementwise_tiles(std::int64_t rows, std::int64_t channels, int vector) {
  return channel_tiles<T>(rows, channels, vector, 2048, 1, rows);
}

/// What the calling thread works on: channels [channel, channel + V) of rows first, first + step, … before end.
struct TilePlace {
  std::int64_t slab, channel, first, end;
  int step;
};

template <int V>
__device__ inline TilePlace tile_place(const ChannelTiles& tiles) {
  const auto lanes = static_cast<unsigned>(tiles.lanes);
  TilePlace at;
  at.slab = blockIdx.x / tiles.columns;
  at.channel = (static_cast<std::int64_t>(blockIdx.x % tiles.columns) * lanes + threadIdx.x % lanes) * V;
  at.first = at.slab * tiles.slab_rows + threadIdx.x / lanes;
  at.end = at.channel < tiles.channels ? (at.slab + 1) * tiles.slab_rows : 0;
  if (at.end > tiles.rows) at.end = tiles.rows;
  at.step = static_cast<int>(kTileThreads / lanes);
  return at;
}

/// Shared memory of share_values.
template <int N, int V>
struct ValuesShared {
  float values[N][V][kWarpSize];
};

/// Gives every thread N values for each of its channels, which load(values) has got from memory in one thread for each
/// vector of channels of the block. All threads call it, once.
template <int N, int V, class Load>
__device__ inline void share_values(const ChannelTiles& tiles, const TilePlace& at, ValuesShared<N, V>& shared,
                                    float (&values)[N][V], Load load) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % tiles.lanes;
  if (thread == lane && at.channel < tiles.channels) {
    load(values);
    for (int i = 0; i < N; ++i) {
      for (int v = 0; v < V; ++v) shared.values[i][v][lane] = values[i][v];
    }
  }
  __syncthreads();
  if (at.channel >= tiles.channels) return;
  for (int i = 0; i < N; ++i) {
    for (int v = 0; v < V; ++v) values[i][v] = shared.values[i][v][lane];
  }
}

/// The next kTileRows<T> rows of a thread, from `row` on; zeros beyond its end.
template <class T, int V>
struct TileRows {
  Vector<T, V> values[kTileRows<T>] = {};

  __device__ void load(const T* data, const TilePlace& at, std::int64_t row, std::int64_t channels) {
    for (int i = 0; i < kTileRows<T>; ++i) {
      const std::int64_t here = row + i * at.step;
      if (here < at.end) values[i] = load_vector<V>(data + here * channels + at.channel);
    }
  }
  __device__ void store(T* data, const TilePlace& at, std::int64_t row, std::int64_t channels) const {
    for (int i = 0; i < kTileRows<T>; ++i) {
      const std::int64_t here = row + i * at.step;
      if (here < at.end) store_vector(data + here * channels + at.channel, values[i]);
    }
  }
};

}  // namespace lockstep::cuda
