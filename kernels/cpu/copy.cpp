#include <lockstep/kernels/copy.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/multiversion.h>

namespace lockstep::kernels {
namespace {

constexpr std::int64_t kGrain = 1 << 15;  // elements
constexpr std::int64_t kTile = 16;        // transposes go tile by tile: a tile's lines stay in the first-level cache

/// Calls f with a value of the unsigned integer type of that size.
template <class F>
void with_element(std::size_t size, F&& f) {
  switch (size) {
    case 1: return f(std::uint8_t{});
    case 2: return f(std::uint16_t{});
    case 4: return f(std::uint32_t{});
    default: return f(std::uint64_t{});
  }
}

/// target[c · target_stride + r] = source[r · source_stride + c].
template <class E>
LOCKSTEP_MULTIVERSION void transpose_block(std::int64_t rows, std::int64_t cols, const E* source,
                                           std::int64_t source_stride, E* target, std::int64_t target_stride) {
  std::int64_t c0 = 0;
  for (; c0 + kTile <= cols; c0 += kTile) {
    std::int64_t r0 = 0;
    for (; r0 + kTile <= rows; r0 += kTile) {
      E tile[kTile][kTile];
      for (int r = 0; r < kTile; ++r) {
        const E* from = source + (r0 + r) * source_stride + c0;
        for (int c = 0; c < kTile; ++c) tile[c][r] = from[c];
      }
      for (int c = 0; c < kTile; ++c) {
        std::memcpy(target + (c0 + c) * target_stride + r0, tile[c], sizeof(tile[c]));
      }
    }
    for (std::int64_t c = c0; c < c0 + kTile; ++c) {
      for (std::int64_t r = r0; r < rows; ++r) target[c * target_stride + r] = source[r * source_stride + c];
    }
  }
  for (std::int64_t c = c0; c < cols; ++c) {
    for (std::int64_t r = 0; r < rows; ++r) target[c * target_stride + r] = source[r * source_stride + c];
  }
}

/// Drops dimensions of size 1, orders them by target stride, and joins neighbours that are one run in both buffers.
StridedCopy simplified(const StridedCopy& box) {
  struct Dim {
    std::int64_t size, source, target;
  } dims[StridedCopy::kMaxRank];
  int rank = 0;
  for (int d = 0; d < box.rank; ++d) {
    if (box.sizes[d] != 1) dims[rank++] = {box.sizes[d], box.source_strides[d], box.target_strides[d]};
  }
  std::stable_sort(dims, dims + rank,
                   [](const Dim& a, const Dim& b) { return std::abs(a.target) > std::abs(b.target); });
  StridedCopy out;
  for (int d = 0; d < rank; ++d) {
    const int last = out.rank - 1;
    if (last >= 0 && out.source_strides[last] == dims[d].source * dims[d].size &&
        out.target_strides[last] == dims[d].target * dims[d].size) {
      out.sizes[last] *= dims[d].size;
      out.source_strides[last] = dims[d].source;
      out.target_strides[last] = dims[d].target;
    } else {
      out.sizes[out.rank] = dims[d].size;
      out.source_strides[out.rank] = dims[d].source;
      out.target_strides[out.rank] = dims[d].target;
      ++out.rank;
    }
  }
  return out;
}

template <class E>
void copy_run(std::int64_t n, const E* source, std::int64_t source_stride, E* target, std::int64_t target_stride) {
  if (source_stride == 1 && target_stride == 1) {
    std::memcpy(target, source, static_cast<std::size_t>(n) * sizeof(E));
  } else if (source_stride == 0 && target_stride == 1) {
    std::fill_n(target, n, *source);
  } else {
    for (std::int64_t i = 0; i < n; ++i) target[i * target_stride] = source[i * source_stride];
  }
}

/// Calls body(source offset, target offset) for positions [begin, end) of the first `rank` dimensions.
template <class Body>
void for_each_position(const StridedCopy& box, int rank, std::int64_t begin, std::int64_t end, Body&& body) {
  std::int64_t index[StridedCopy::kMaxRank] = {}, source = 0, target = 0;
  std::int64_t rest = begin;
  for (int d = rank - 1; d >= 0; --d) {
    index[d] = rest % box.sizes[d];
    rest /= box.sizes[d];
    source += index[d] * box.source_strides[d];
    target += index[d] * box.target_strides[d];
  }
  for (std::int64_t position = begin; position < end; ++position) {
    body(source, target);
    for (int d = rank - 1; d >= 0; --d) {
      source += box.source_strides[d];
      target += box.target_strides[d];
      if (++index[d] < box.sizes[d]) break;
      source -= index[d] * box.source_strides[d];
      target -= index[d] * box.target_strides[d];
      index[d] = 0;
    }
  }
}

template <class E>
void copy_box(const StridedCopy& box, const E* source, E* target) {
  if (box.rank == 0) {
    *target = *source;
    return;
  }
  // The last dimension is the target's run. Where another one is the source's run, the two form matrices to transpose.
  const int last = box.rank - 1;
  int source_run = last;
  if (box.target_strides[last] == 1 && box.source_strides[last] != 1) {
    for (int d = 0; d < last; ++d) {
      if (box.source_strides[d] == 1) source_run = d;
    }
  }
  StridedCopy outer = box;
  int outer_rank = last;
  if (source_run != last) {
    std::rotate(outer.sizes + source_run, outer.sizes + source_run + 1, outer.sizes + last);
    std::rotate(outer.source_strides + source_run, outer.source_strides + source_run + 1, outer.source_strides + last);
    std::rotate(outer.target_strides + source_run, outer.target_strides + source_run + 1, outer.target_strides + last);
    outer_rank = last - 1;
  }
  std::int64_t positions = 1;
  for (int d = 0; d < outer_rank; ++d) positions *= outer.sizes[d];
  if (source_run == last) {
    const std::int64_t n = box.sizes[last];
    if (positions == 1) {
      parallel_for(n, kGrain, [&](std::int64_t begin, std::int64_t end) {
        copy_run(end - begin, source + begin * box.source_strides[last], box.source_strides[last],
                 target + begin * box.target_strides[last], box.target_strides[last]);
      });
      return;
    }
    parallel_for(positions, std::max<std::int64_t>(1, kGrain / n), [&](std::int64_t begin, std::int64_t end) {
      for_each_position(outer, outer_rank, begin, end, [&](std::int64_t from, std::int64_t to) {
        copy_run(n, source + from, box.source_strides[last], target + to, box.target_strides[last]);
      });
    });
    return;
  }
  // Matrices cut into bands of columns, so that a single large one is shared by all threads too.
  const std::int64_t rows = box.sizes[last], cols = box.sizes[source_run];
  const std::int64_t bands = (cols + kTile - 1) / kTile;
  const std::int64_t grain = std::max<std::int64_t>(1, kGrain / (rows * kTile));
  parallel_for(positions * bands, grain, [&](std::int64_t begin, std::int64_t end) {
    while (begin < end) {
      const std::int64_t position = begin / bands, band = begin % bands;
      const std::int64_t next = std::min(bands, band + (end - begin));
      for_each_position(outer, outer_rank, position, position + 1, [&](std::int64_t from, std::int64_t to) {
        const std::int64_t c = band * kTile;
        transpose_block(rows, std::min(cols, next * kTile) - c, source + from + c, box.source_strides[last],
                        target + to + c * box.target_strides[source_run], box.target_strides[source_run]);
      });
      begin += next - band;
    }
  });
}

/// The nearest float64 whose last bit is odd where the conversion is inexact: rounding that once more to a format at
/// least two bits narrower gives the correctly rounded result.
double odd_double(std::int64_t v) {
  if (v > -(std::int64_t{1} << 53) && v < (std::int64_t{1} << 53)) return static_cast<double>(v);
  return static_cast<double>((v & ~std::int64_t{0x7ff}) | ((v & 0x7ff) != 0 ? 0x800 : 0));
}

float odd_float(double v) {
  const auto f = static_cast<float>(v);
  if (static_cast<double>(f) == v || v != v) return f;
  auto bits = std::bit_cast<std::uint32_t>(f);
  if (std::fabs(static_cast<double>(f)) > std::fabs(v)) --bits;  // toward zero, then set the last bit
  return std::bit_cast<float>(bits | 1u);
}

template <class To, class From>
LOCKSTEP_INLINE To convert(From v) {
  constexpr bool from_small = std::is_same_v<From, float16> || std::is_same_v<From, bfloat16>;
  constexpr bool to_small = std::is_same_v<To, float16> || std::is_same_v<To, bfloat16>;
  if constexpr (std::is_same_v<To, From>) {
    return v;
  } else if constexpr (from_small) {
    return convert<To>(static_cast<float>(v));
  } else if constexpr (to_small && std::is_same_v<From, double>) {
    return To(odd_float(v));
  } else if constexpr (to_small && std::is_same_v<From, std::int64_t>) {
    return To(odd_float(odd_double(v)));
  } else if constexpr (std::is_same_v<To, std::uint8_t> && std::is_floating_point_v<From>) {
    return static_cast<To>(static_cast<std::int32_t>(v));
  } else {
    return static_cast<To>(v);
  }
}

template <class To, class From>
LOCKSTEP_MULTIVERSION void cast_run(std::int64_t n, const From* __restrict__ source, To* __restrict__ target) {
  for (std::int64_t i = 0; i < n; ++i) target[i] = convert<To>(source[i]);
}

template <class F>
void with_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32: return f(float{});
    case DType::float64: return f(double{});
    case DType::float16: return f(float16{});
    case DType::bfloat16: return f(bfloat16{});
    case DType::int64: return f(std::int64_t{});
    case DType::uint8: return f(std::uint8_t{});
  }
}

}  // namespace

void copy_strided(Cpu, const StridedCopy& box, std::size_t element_size, const void* source, void* target) {
  for (int d = 0; d < box.rank; ++d) {
    if (box.sizes[d] == 0) return;
  }
  const StridedCopy simple = simplified(box);
  with_element(element_size,
               [&]<class E>(E) { copy_box(simple, static_cast<const E*>(source), static_cast<E*>(target)); });
}

void transpose(Cpu, std::int64_t batch, std::int64_t rows, std::int64_t cols, std::size_t element_size,
               const void* source, void* target) {
  StridedCopy box;
  box.rank = 3;
  const std::int64_t sizes[] = {batch, cols, rows}, from[] = {rows * cols, 1, cols}, to[] = {rows * cols, rows, 1};
  std::copy_n(sizes, 3, box.sizes);
  std::copy_n(from, 3, box.source_strides);
  std::copy_n(to, 3, box.target_strides);
  copy_strided(kOnCpu, box, element_size, source, target);
}

void cast(Cpu, std::int64_t n, DType source_dtype, const void* source, DType target_dtype, void* target) {
  with_dtype(source_dtype, [&]<class From>(From) {
    with_dtype(target_dtype, [&]<class To>(To) {
      parallel_for(n, kGrain, [&](std::int64_t begin, std::int64_t end) {
        const auto* from = static_cast<const From*>(source) + begin;
        auto* to = static_cast<To*>(target) + begin;
        if constexpr (std::is_same_v<From, To>) {
          std::memcpy(to, from, static_cast<std::size_t>(end - begin) * sizeof(To));
        } else {
          cast_run(end - begin, from, to);
        }
      });
    });
  });
}

void fill(Cpu, std::int64_t n, DType dtype, double value, void* target) {
  with_dtype(dtype, [&]<class To>(To) {
    const To converted = convert<To>(value);
    parallel_for(n, kGrain, [&](std::int64_t begin, std::int64_t end) {
      std::fill(static_cast<To*>(target) + begin, static_cast<To*>(target) + end, converted);
    });
  });
}

}  // namespace lockstep::kernels
