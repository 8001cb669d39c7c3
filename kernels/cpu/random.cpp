#include <lockstep/kernels/random.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include <lockstep/core/base/philox.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/multiversion.h>
#include <lockstep/kernels/cpu/vector_math.h>

// Draws are made for kBatch counters at once: four words each, words[w][j] being word w of counter `first + j`.

namespace lockstep::kernels {
namespace {

constexpr int kBatch = 16;
constexpr std::int64_t kWords = 4 * kBatch;
constexpr std::int64_t kGrain = 1 << 6;  // batches

LOCKSTEP_INLINE void philox_batch(std::uint64_t seed, std::uint64_t first, std::uint64_t stream,
                                  std::uint32_t (&words)[4][kBatch]) {
  for (int j = 0; j < kBatch; ++j) {
    const auto block = philox4x32(seed, first + static_cast<std::uint64_t>(j), stream);
    for (std::size_t w = 0; w < 4; ++w) words[w][j] = block[w];
  }
}

/// Two normals from two words: radius from (w0 + 1) · 2^-32, which is never 0, angle from w1 · 2^-32 of a turn.
LOCKSTEP_INLINE void box_muller(std::uint32_t w0, std::uint32_t w1, double& first, double& second) {
  const double radius = std::sqrt(-2.0 * math::log_normal((math::small_integer(w0) + 1.0) * 0x1p-32));
  double sine, cosine;
  math::sincos_turns(math::small_integer(w1) * 0x1p-32, sine, cosine);
  first = radius * cosine;
  second = radius * sine;
}

template <class T>
struct Normal {
  static constexpr std::int64_t kPerBatch = kWords;
  T mean, stddev;

  LOCKSTEP_INLINE void operator()(const std::uint32_t (&words)[4][kBatch], T* out) const {
    double z[4][kBatch];
    for (int j = 0; j < kBatch; ++j) box_muller(words[0][j], words[1][j], z[0][j], z[1][j]);
    for (int j = 0; j < kBatch; ++j) box_muller(words[2][j], words[3][j], z[2][j], z[3][j]);
    for (int j = 0; j < kBatch; ++j) {
      for (int w = 0; w < 4; ++w) out[4 * j + w] = mean + stddev * static_cast<T>(z[w][j]);
    }
  }
};

template <class T>
struct Uniform {
  static constexpr std::int64_t kPerBatch = std::is_same_v<T, float> ? kWords : kWords / 2;
  T low, range, last;  // `last`: the largest value below high, which rounding may otherwise reach

  LOCKSTEP_INLINE T scaled(T u) const {
    const T value = low + range * u;
    return value > last ? last : value;
  }
  LOCKSTEP_INLINE void operator()(const std::uint32_t (&words)[4][kBatch], T* out) const {
    if constexpr (std::is_same_v<T, float>) {
      for (int j = 0; j < kBatch; ++j) {
        for (int w = 0; w < 4; ++w) out[4 * j + w] = scaled(uniform_float(words[w][j]));
      }
    } else {
      for (int j = 0; j < kBatch; ++j) {
        out[2 * j] = scaled(uniform_double(words[0][j], words[1][j]));
        out[2 * j + 1] = scaled(uniform_double(words[2][j], words[3][j]));
      }
    }
  }
  LOCKSTEP_INLINE static double uniform_double(std::uint32_t high_word, std::uint32_t low_word) {
    return math::small_integer(high_word) * 0x1p-32 + math::small_integer(low_word >> 11) * 0x1p-53;
  }
};

template <class T, class Draw>
LOCKSTEP_MULTIVERSION void fill_batches(std::int64_t begin, std::int64_t end, std::int64_t n, std::uint64_t seed,
                                        std::uint64_t stream, T* out, Draw draw) {
  for (std::int64_t batch = begin; batch < end; ++batch) {
    std::uint32_t words[4][kBatch];
    philox_batch(seed, static_cast<std::uint64_t>(batch) * kBatch, stream, words);
    const std::int64_t offset = batch * Draw::kPerBatch;
    if (offset + Draw::kPerBatch <= n) {
      draw(words, out + offset);
    } else {
      T values[Draw::kPerBatch];
      draw(words, values);
      std::copy_n(values, n - offset, out + offset);
    }
  }
}

template <class T, class Draw>
void parallel_fill(std::int64_t n, std::uint64_t seed, std::uint64_t stream, T* out, Draw draw) {
  const std::int64_t batches = (n + Draw::kPerBatch - 1) / Draw::kPerBatch;
  parallel_for(batches, kGrain,
               [=](std::int64_t begin, std::int64_t end) { fill_batches(begin, end, n, seed, stream, out, draw); });
}

template <class T>
LOCKSTEP_MULTIVERSION void dropout_batches(std::int64_t begin, std::int64_t end, std::int64_t n, const T* x,
                                           std::uint32_t threshold, T scale, std::uint64_t seed, std::uint64_t stream,
                                           T* y) {
  for (std::int64_t batch = begin; batch < end; ++batch) {
    std::uint32_t words[4][kBatch];
    philox_batch(seed, static_cast<std::uint64_t>(batch) * kBatch, stream, words);
    std::uint32_t draws[kWords];
    for (int j = 0; j < kBatch; ++j) {
      for (int w = 0; w < 4; ++w) draws[4 * j + w] = words[w][j] >> 8;
    }
    const std::int64_t offset = batch * kWords, count = std::min(kWords, n - offset);
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) y[offset + i] = x[offset + i] * (draws[i] >= threshold ? scale : T(0));
  }
}

}  // namespace

template <class T>
void fill_uniform(Cpu, std::int64_t n, T low, T high, std::uint64_t seed, std::uint64_t stream, T* out) {
  parallel_fill(n, seed, stream, out, Uniform<T>{low, high - low, std::nextafter(high, low)});
}

template <class T>
void fill_normal(Cpu, std::int64_t n, T mean, T stddev, std::uint64_t seed, std::uint64_t stream, T* out) {
  parallel_fill(n, seed, stream, out, Normal<T>{mean, stddev});
}

template <class T>
void dropout(Cpu, std::int64_t n, const T* x, double p, std::uint64_t seed, std::uint64_t stream, T* y) {
  // uniform_float(word) ≥ p in integers: both sides times 2^24. At p = 1 no draw reaches the threshold.
  const auto threshold = static_cast<std::uint32_t>(std::ceil(p * 0x1p24));
  const T scale = static_cast<T>(1.0 / (1.0 - p));
  parallel_for((n + kWords - 1) / kWords, kGrain, [=](std::int64_t begin, std::int64_t end) {
    dropout_batches(begin, end, n, x, threshold, scale, seed, stream, y);
  });
}

#define LOCKSTEP_INSTANTIATE(T)                                                             \
  template void fill_uniform<T>(Cpu, std::int64_t, T, T, std::uint64_t, std::uint64_t, T*); \
  template void fill_normal<T>(Cpu, std::int64_t, T, T, std::uint64_t, std::uint64_t, T*);  \
  template void dropout<T>(Cpu, std::int64_t, const T*, double, std::uint64_t, std::uint64_t, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(double)

}  // namespace lockstep::kernels
