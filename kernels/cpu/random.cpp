#include <lockstep/kernels/random.h>

#include <algorithm>
#include <type_traits>

#include <lockstep/core/base/philox.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/common/random_draws.h>
#include <lockstep/kernels/cpu/multiversion.h>

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
  UniformRange<T> range;

  LOCKSTEP_INLINE void operator()(const std::uint32_t (&words)[4][kBatch], T* out) const {
    if constexpr (std::is_same_v<T, float>) {
      for (int j = 0; j < kBatch; ++j) {
        for (int w = 0; w < 4; ++w) out[4 * j + w] = range.scaled(uniform_float(words[w][j]));
      }
    } else {
      for (int j = 0; j < kBatch; ++j) {
        out[2 * j] = range.scaled(uniform_double(words[0][j], words[1][j]));
        out[2 * j + 1] = range.scaled(uniform_double(words[2][j], words[3][j]));
      }
    }
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
                                           DropoutFactors<T> factors, std::uint64_t seed, std::uint64_t stream, T* y) {
  for (std::int64_t batch = begin; batch < end; ++batch) {
    std::uint32_t words[4][kBatch];
    philox_batch(seed, static_cast<std::uint64_t>(batch) * kBatch, stream, words);
    std::uint32_t draws[kWords];
    for (int j = 0; j < kBatch; ++j) {
      for (int w = 0; w < 4; ++w) draws[4 * j + w] = words[w][j];
    }
    const std::int64_t offset = batch * kWords, count = std::min(kWords, n - offset);
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) y[offset + i] = factors.apply(x[offset + i], draws[i]);
  }
}

}  // namespace

template <class T>
void fill_uniform(Cpu, std::int64_t n, T low, T high, std::uint64_t seed, std::uint64_t stream, T* out) {
  parallel_fill(n, seed, stream, out, Uniform<T>{UniformRange<T>(low, high)});
}

template <class T>
void fill_normal(Cpu, std::int64_t n, T mean, T stddev, std::uint64_t seed, std::uint64_t stream, T* out) {
  parallel_fill(n, seed, stream, out, Normal<T>{mean, stddev});
}

template <class T>
void dropout(Cpu, std::int64_t n, const T* x, double p, std::uint64_t seed, std::uint64_t stream, T* y) {
  const DropoutFactors<T> factors(p);
  parallel_for((n + kWords - 1) / kWords, kGrain, [=](std::int64_t begin, std::int64_t end) {
    dropout_batches(begin, end, n, x, factors, seed, stream, y);
  });
}

#define LOCKSTEP_INSTANTIATE(T)                                                             \
  template void fill_uniform<T>(Cpu, std::int64_t, T, T, std::uint64_t, std::uint64_t, T*); \
  template void fill_normal<T>(Cpu, std::int64_t, T, T, std::uint64_t, std::uint64_t, T*);  \
  template void dropout<T>(Cpu, std::int64_t, const T*, double, std::uint64_t, std::uint64_t, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(double)

}  // namespace lockstep::kernels
