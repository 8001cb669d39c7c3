// Only +, −, ×, ÷, square roots and comparisons of float32, which IEEE 754 fixes to the bit: no call into libm, whose
// results differ between machines.
#include <lockstep/data/synthetic.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <utility>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/philox.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/multiversion.h>

namespace lockstep {
namespace {

constexpr int kSide = 32, kArea = kSide * kSide, kClasses = 10;
constexpr std::uint64_t kKey = 0x73796e74'68657469u;  // keeps clear of other draws from the same seed

enum Kind { disc, ring, square, triangle, cross, horizontal, vertical, diagonal, checkerboard, dots };

LOCKSTEP_INLINE float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

float uniform(PhiloxStream& draws, float low, float high) { return low + (high - low) * draws.next_uniform(); }

/// Where, how large and which way round the figure is.
struct Pose {
  float x, y, cosine, sine, size;
};

/// A rotation by 4·atan(t) for t in [−limit, limit]: cosine and sine without calling them.
void rotate(Pose& pose, float t) {
  const float c = (1 - t * t) / (1 + t * t), s = 2 * t / (1 + t * t);
  pose.cosine = c * c - s * s;
  pose.sine = 2 * c * s;
}

/// Distance in pixels from the nearest edge of stripes of width `width`, positive inside.
LOCKSTEP_INLINE float stripes(float u, float width) {
  const float phase = u / (2 * width) + 64;  // positive, so that the cast rounds down
  const float fraction = phase - static_cast<float>(static_cast<int>(phase));
  return (0.25f - std::abs(fraction - 0.5f)) * 2 * width;
}

/// How far (u, v) lies inside the figure, in pixels; negative outside.
template <Kind kind>
LOCKSTEP_INLINE float depth(float u, float v, float size) {
  const float au = std::abs(u), av = std::abs(v);
  switch (kind) {
    case disc: return size - std::sqrt(u * u + v * v);
    case ring: return 0.22f * size - std::abs(std::sqrt(u * u + v * v) - 0.78f * size);
    case square: return 0.85f * size - std::max(au, av);
    case triangle: return 0.55f * size - std::max(v, 0.8660254f * au - 0.5f * v);
    case cross: {
      const float arm = 0.3f * size;
      return std::max(std::min(arm - au, size - av), std::min(arm - av, size - au));
    }
    case horizontal: return stripes(v, 0.35f * size);
    case vertical: return stripes(u, 0.35f * size);
    case diagonal: return stripes(0.70710678f * (u + v), 0.35f * size);
    case checkerboard: {
      const float a = stripes(u, 0.45f * size), b = stripes(v, 0.45f * size);
      return std::max(std::min(a, b), std::min(-a, -b));
    }
    case dots: {
      // Distances to the centres of the lighter stripes both ways, from the depth in them.
      const float pitch = 0.45f * size;
      const float du = 0.5f * pitch - stripes(u, pitch), dv = 0.5f * pitch - stripes(v, pitch);
      return 0.6f * pitch - std::sqrt(du * du + dv * dv);
    }
  }
  return 0;
}

/// How much of each pixel the figure covers, 0 to 1.
template <Kind kind>
LOCKSTEP_INLINE void cover(const Pose& pose, float* coverage) {
  for (int row = 0; row < kSide; ++row) {
    const float dy = static_cast<float>(row) + 0.5f - pose.y;
    for (int column = 0; column < kSide; ++column) {
      const float dx = static_cast<float>(column) + 0.5f - pose.x;
      const float u = pose.cosine * dx + pose.sine * dy, v = pose.cosine * dy - pose.sine * dx;
      coverage[row * kSide + column] = clamp(depth<kind>(u, v, pose.size) + 0.5f, 0.0f, 1.0f);
    }
  }
}

LOCKSTEP_MULTIVERSION void cover(Kind kind, const Pose& pose, float* coverage) {
  switch (kind) {
    case disc: return cover<disc>(pose, coverage);
    case ring: return cover<ring>(pose, coverage);
    case square: return cover<square>(pose, coverage);
    case triangle: return cover<triangle>(pose, coverage);
    case cross: return cover<cross>(pose, coverage);
    case horizontal: return cover<horizontal>(pose, coverage);
    case vertical: return cover<vertical>(pose, coverage);
    case diagonal: return cover<diagonal>(pose, coverage);
    case checkerboard: return cover<checkerboard>(pose, coverage);
    case dots: return cover<dots>(pose, coverage);
  }
}

/// 4 · `blocks` random words.
LOCKSTEP_MULTIVERSION void random_words(std::uint64_t key, std::uint64_t stream, int blocks, std::uint32_t* words) {
  for (int i = 0; i < blocks; ++i) {
    const auto draw = philox4x32(key, static_cast<std::uint64_t>(i), stream);
    for (int w = 0; w < 4; ++w) words[4 * i + w] = draw[static_cast<std::size_t>(w)];
  }
}

/// One plane: two colours mixed by `coverage`, light that falls off to one side, and noise.
LOCKSTEP_MULTIVERSION void paint(const float* coverage, float back, float front, float slope_x, float slope_y,
                                 float noise, const std::uint8_t* random, std::uint8_t* pixels) {
  for (int row = 0; row < kSide; ++row) {
    const float base = back + slope_y * static_cast<float>(row - kSide / 2);
    for (int column = 0; column < kSide; ++column) {
      const int i = row * kSide + column;
      const float value = base + slope_x * static_cast<float>(column - kSide / 2) + coverage[i] * (front - back) +
                          noise * (static_cast<float>(random[i]) - 127.5f);
      pixels[i] = static_cast<std::uint8_t>(static_cast<int>(clamp(value, 0.0f, 255.0f) + 0.5f));
    }
  }
}

void draw_image(Kind kind, std::uint64_t key, std::uint64_t stream, std::uint8_t* pixels) {
  PhiloxStream draws(key, stream);
  Pose pose;
  pose.size = uniform(draws, 9.0f, 13.0f);
  pose.x = uniform(draws, pose.size, kSide - pose.size);
  pose.y = uniform(draws, pose.size, kSide - pose.size);
  // Textures have a direction that tells them apart: they are only turned by up to 9 degrees. Figures turn freely.
  rotate(pose, kind >= horizontal ? uniform(draws, -0.04f, 0.04f) : uniform(draws, -1.0f, 1.0f));
  if (kind == diagonal && draws.next_below(2) == 1) {  // the other diagonal
    pose.sine = -pose.sine;
    std::swap(pose.cosine, pose.sine);
  }

  // Two colours far enough apart. Which of them is the lighter one is open, so that no pixel by itself says anything.
  std::array<float, 3> back, front;
  float contrast;
  do {
    contrast = 0;
    for (std::size_t c = 0; c < 3; ++c) {
      back[c] = uniform(draws, 16, 240);
      front[c] = uniform(draws, 16, 240);
      contrast += std::abs(front[c] - back[c]);
    }
  } while (contrast < 200);
  const float slope_x = uniform(draws, -1.5f, 1.5f), slope_y = uniform(draws, -1.5f, 1.5f);
  const float noise = uniform(draws, 0.05f, 0.2f);

  float coverage[kArea];
  std::uint32_t words[3 * kArea / 4];
  static_assert(std::endian::native == std::endian::little, "the order of the bytes of a word is part of the images");
  const auto* random = reinterpret_cast<const std::uint8_t*>(words);
  cover(kind, pose, coverage);
  random_words(~key, stream, 3 * kArea / 16, words);
  for (int c = 0; c < 3; ++c) {
    const auto channel = static_cast<std::size_t>(c);
    paint(coverage, back[channel], front[channel], slope_x, slope_y, noise, random + c * kArea, pixels + c * kArea);
  }
}

}  // namespace

SyntheticDataset::SyntheticDataset(Split split, std::int64_t size, std::uint64_t seed)
    : TensorDataset(size, {"disc", "ring", "square", "triangle", "cross", "horizontal", "vertical", "diagonal",
                           "checkerboard", "dots"}),
      split_(split),
      seed_(seed) {}

TensorDataset::Contents SyntheticDataset::load() const {
  Contents contents{Tensor::empty({size(), 3, kSide, kSide}, {.dtype = DType::uint8}),
                    Tensor::empty({size()}, {.dtype = DType::int64})};
  auto* pixels = contents.images.data<std::uint8_t>();
  auto* labels = contents.labels.data<std::int64_t>();
  parallel_for(size(), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      labels[i] = i % kClasses;
      const auto stream = static_cast<std::uint64_t>(i) << 1 | (split_ == Split::test ? 1 : 0);
      draw_image(static_cast<Kind>(labels[i]), seed_ ^ kKey, stream, pixels + i * (3 * kArea));
    }
  });
  return contents;
}

}  // namespace lockstep
