// Rows shared out to warps or blocks: what the reductions, softmax and cross-entropy have in common. A short row
// belongs to a warp, a long one to a block; between the passes over it its values stay in shared memory, so that it is
// read once, or as much of it as fits. How a row is cut depends on the sizes alone.
#pragma once

#include <cstdint>
#include <type_traits>

#include <lockstep/kernels/cuda/device_utils.cuh>
#include <lockstep/kernels/cuda/launch.cuh>

namespace lockstep::cuda {

inline constexpr int kRowThreads = 256;                    ///< per block, unless rows are large
inline constexpr int kRowWarps = kRowThreads / kWarpSize;  ///< rows of a block, if short
inline constexpr int kLargeRowThreads = 1024;              ///< per block, for large rows
inline constexpr int kRowBlocks = 1 << 12;                 ///< at most: some for each place on any device

/// Who works on a row and how many of its values stay in shared memory after the first pass.
enum class RowKind {
  warp,   ///< a warp, all
  block,  ///< a block, all
  large   ///< a block, as many as fit; the rest is read again in each pass
};

/// Floats that a block keeps; 96 KiB for large rows, which every device since sm_80 has for a block.
template <RowKind kKind>
inline constexpr int kRowCache = kKind == RowKind::large ? 24576 : 8192;

/// The threads that work on one row together.
template <RowKind kKind>
class RowTeam {
 public:
  static constexpr bool kIsWarp = kKind == RowKind::warp;
  static constexpr int kThreads = kKind == RowKind::large ? kLargeRowThreads : kRowThreads;  ///< of a block
  static constexpr int kSize = kIsWarp ? kWarpSize : kThreads;
  static constexpr int kTeams = kThreads / kSize;  ///< of a block
  /// Per multiprocessor at least, for __launch_bounds__: leaves a thread 80 registers, or 64.
  static constexpr int kBlocks = kKind == RowKind::large ? 1 : 3;

  /// This thread's number in its team, and the team's in its block.
  __device__ int rank() const { return static_cast<int>(threadIdx.x) % kSize; }
  __device__ int number() const { return static_cast<int>(threadIdx.x) / kSize; }
  /// The team's first row, and from one of its rows to the next.
  __device__ std::int64_t first_row() const { return static_cast<std::int64_t>(blockIdx.x) * kTeams + number(); }
  __device__ std::int64_t row_stride() const { return static_cast<std::int64_t>(gridDim.x) * kTeams; }

  /// The reduction over the team, in every thread.
  template <class T, class Op>
  __device__ T reduce(T value, Op op, BlockReduceShared<T>& shared) const {
    if constexpr (kIsWarp) {
      return warp_reduce(value, op);
    } else {
      return block_reduce(value, op, shared);
    }
  }

  /// Waits for the team: what its threads wrote to shared memory is visible to all of them afterwards.
  __device__ void sync() const {
    if constexpr (kIsWarp) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  /// `*value`, read once and given to every thread; `shared` has a place for each team.
  template <class T>
  __device__ T broadcast(const T* value, T* shared) const {
    sync();
    if (rank() == 0) shared[number()] = *value;
    sync();
    return shared[number()];
  }
};

/// Calls f(std::integral_constant<RowKind>) with a warp or a block, whichever suits rows of n elements that are read
/// once.
template <class F>
void with_row_team(std::int64_t n, F&& f) {
  if (n <= kRowCache<RowKind::warp> / kRowWarps) return f(std::integral_constant<RowKind, RowKind::warp>{});
  f(std::integral_constant<RowKind, RowKind::block>{});
}

/// The same for rows of which `floats` values are to be kept.
template <class F>
void with_row_kind(std::int64_t floats, F&& f) {
  if (floats <= kRowCache<RowKind::block>) return with_row_team(floats, f);
  f(std::integral_constant<RowKind, RowKind::large>{});
}

/// The launch that gives each of `rows` ≥ 1 rows a team.
inline LaunchConfig row_launch(std::int64_t rows, RowKind kind, CudaStream stream) {
  return {.grid = block_count(rows, kind == RowKind::warp ? kRowWarps : 1, kRowBlocks),
          .block = kind == RowKind::large ? kLargeRowThreads : kRowThreads,
          .stream = stream};
}

/// The width of the vectors that rows of n elements of T are cut into: whole vectors or single elements.
template <class T, class F>
void with_row_width(std::int64_t n, F&& f) {
  if (n % kVectorSize<T> == 0) return f(std::integral_constant<int, kVectorSize<T>>{});
  f(std::integral_constant<int, 1>{});
}

/// Neighbouring elements as floats.
template <int kWidth>
struct Floats {
  float values[kWidth];

  __device__ float& operator[](int i) { return values[i]; }
  __device__ float operator[](int i) const { return values[i]; }
};

/// The k-th run of kWidth elements, read at once if `aligned`; the same values either way.
template <int kWidth, class T>
__device__ inline Floats<kWidth> load_floats(const T* data, std::int64_t k, bool aligned) {
  Floats<kWidth> floats;
  if (kWidth > 1 && aligned) {
    const auto vector = load_vector<kWidth>(data, k);
    for (int j = 0; j < kWidth; ++j) floats[j] = to_compute(vector[j]);
  } else {
    for (int j = 0; j < kWidth; ++j) floats[j] = to_compute(data[k * kWidth + j]);
  }
  return floats;
}

/// Rounds and stores what load_floats reads.
template <int kWidth, class T>
__device__ inline void store_floats(T* data, const Floats<kWidth>& floats, std::int64_t k, bool aligned) {
  if (kWidth > 1 && aligned) {
    Vector<T, kWidth> vector;
    for (int j = 0; j < kWidth; ++j) vector[j] = static_cast<T>(floats[j]);
    store_vector(data, vector, k);
  } else {
    for (int j = 0; j < kWidth; ++j) data[k * kWidth + j] = static_cast<T>(floats[j]);
  }
}

/// Shared memory through which teams talk: for sums, and a place for each team.
struct TeamShared {
  BlockReduceShared<float> reduce;
  std::int64_t target[kRowWarps];  // of the team's row, in cross-entropy
  float value[kRowWarps];
};

/// Shared memory of kernels that keep rows.
template <RowKind kKind>
struct RowShared {
  float cache[kRowCache<kKind>];
  TeamShared team;
};

/// A row of n elements, in vectors of kWidth. Thread `rank` of the team takes vectors rank, rank + kSize, …: a thread
/// sees in shared memory what it wrote itself, so that passes need no barrier between them.
template <RowKind kKind, int kWidth, class T>
class Row {
 public:
  static constexpr bool kWhole = kKind != RowKind::large;  ///< whether all of it is kept

  /// The team keeps `slots` rows at the same time; this one is number `slot`.
  __device__ Row(RowTeam<kKind> team, RowShared<kKind>& shared, int slot, int slots, const T* data, std::int64_t n,
                 bool aligned)
      : data_(data), vectors_(n / kWidth), aligned_(aligned) {
    constexpr int kRoom = kRowCache<kKind> / RowTeam<kKind>::kTeams;
    const int room = kRoom / slots / kWidth;
    kept_ = vectors_ < room ? static_cast<int>(vectors_) : room;
    cache_ = shared.cache + team.number() * kRoom + slot * kept_ * kWidth;
  }

  __device__ std::int64_t vectors() const { return vectors_; }

  /// The k-th vector from memory, kept for get() if there is room.
  __device__ Floats<kWidth> load(std::int64_t k) const {
    const auto floats = load_floats<kWidth>(data_, k, aligned_);
    if (is_kept(k)) put(k, floats);
    return floats;
  }
  /// What load() or put() kept; what was not is loaded.
  __device__ Floats<kWidth> get(std::int64_t k) const {
    if (!is_kept(k)) return load_floats<kWidth>(data_, k, aligned_);
    Floats<kWidth> floats;
    for (int j = 0; j < kWidth; ++j) floats[j] = cache_[place(k, j)];
    return floats;
  }
  /// Replaces what get() returns. Only for whole rows.
  __device__ void put(std::int64_t k, const Floats<kWidth>& floats) const {
    for (int j = 0; j < kWidth; ++j) cache_[place(k, j)] = floats[j];
  }

 private:
  __device__ bool is_kept(std::int64_t k) const { return kWhole || k < kept_; }
  /// First elements together, then second ones, …: neighbouring threads use neighbouring banks.
  __device__ int place(std::int64_t k, int j) const { return j * kept_ + static_cast<int>(k); }

  const T* data_;
  float* cache_;
  std::int64_t vectors_;
  int kept_;  // vectors
  bool aligned_;
};

}  // namespace lockstep::cuda
