// Two-stage reductions to two sums per channel over the slabs of channel_tiles.cuh: blocks write the pairs of their
// slab's channels, a second kernel adds them up in double. The order is fixed throughout.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <lockstep/core/base/float16.h>
#include <lockstep/kernels/cuda/channel_tiles.cuh>
#include <lockstep/kernels/cuda/launch.cuh>

namespace lockstep::cuda {

/// Tiles of a reduction. A thread sums at most 32 · kTileRows<T> ≤ 256 rows in float. A block has at least 128 rows, so
/// that writing and reading the pairs costs little beside reading the slabs.
template <class T>
ChannelTiles reduction_tiles(std::int64_t rows, std::int64_t channels, int vector) {
  return channel_tiles<T>(rows, channels, vector, 512, 4, 32);
}

/// Bytes of the pairs: two arrays [slabs, channels] of float, enough for any T.
inline std::size_t channel_pairs_bytes(std::int64_t rows, std::int64_t channels) {
  if (rows * channels == 0) return 0;
  const std::int64_t slabs =
      std::max(reduction_tiles<float>(rows, channels, 1).slabs, reduction_tiles<float16>(rows, channels, 1).slabs);
  return static_cast<std::size_t>(2 * slabs * channels) * sizeof(float);
}

/// The values of a block's threads, element by element of their vectors, that are combined to its slab's pairs.
template <int V>
struct PairsShared {
  float first[V][kTileThreads];
  float second[V][kTileThreads];
};

/// Calls body(channel, v, lane) in one thread for each channel of the block: element v of the vectors that threads
/// lane, lane + lanes, … have.
template <int V, class Body>
__device__ inline void for_block_channels(const ChannelTiles& tiles, Body body) {
  const std::int64_t vector = static_cast<std::int64_t>(blockIdx.x % tiles.columns) * tiles.lanes;
  const int i = static_cast<int>(threadIdx.x), lane = i % tiles.lanes, v = i / tiles.lanes;
  const std::int64_t channel = (vector + lane) * V + v;
  if (v < V && channel < tiles.channels) body(channel, v, lane);
}

// ---- The second stage: a block adds up the slabs of 8 channels, whose floats fill a sector of memory.

inline constexpr int kMergeChannels = 8;
inline constexpr int kMergeShares = 32;  ///< threads that share out the slabs of a channel

struct MergeShared {
  double first[kMergeShares][kMergeChannels];
  double second[kMergeShares][kMergeChannels];
};

/// Calls finish(channel, first, second) in one thread for each channel, after add(slab, channel, first, second) for all
/// slabs has added to the two sums. The whole of a kernel for launch_merge.
template <class Add, class Finish>
__device__ inline void merge_slabs(std::int64_t slabs, std::int64_t channels, Add add, Finish finish) {
  auto& shared = block_shared<MergeShared>();
  const int column = static_cast<int>(threadIdx.x) % kMergeChannels;
  const int share = static_cast<int>(threadIdx.x) / kMergeChannels;
  const std::int64_t channel = static_cast<std::int64_t>(blockIdx.x) * kMergeChannels + column;
  double first = 0, second = 0;
  if (channel < channels) {
    for (std::int64_t slab = share; slab < slabs; slab += kMergeShares) add(slab, channel, first, second);
  }
  shared.first[share][column] = first;
  shared.second[share][column] = second;
  __syncthreads();
  if (share != 0 || channel >= channels) return;
  for (int i = 1; i < kMergeShares; ++i) {
    first += shared.first[i][column];
    second += shared.second[i][column];
  }
  finish(channel, first, second);
}

/// Launches a kernel made of merge_slabs. channels ≥ 1.
template <class... Parameters, class... Arguments>
void launch_merge(std::int64_t channels, CudaStream stream, void (*kernel)(Parameters...), Arguments&&... arguments) {
  launch<MergeShared>({.grid = static_cast<unsigned>((channels - 1) / kMergeChannels + 1),
                       .block = kMergeShares * kMergeChannels,
                       .stream = stream},
                      kernel, arguments...);
}

}  // namespace lockstep::cuda
