#include <lockstep/kernels/copy.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/common/convert.h>
#include <lockstep/kernels/common/element_types.h>
#include <lockstep/kernels/common/strided_box.h>
#include <lockstep/kernels/cpu/multiversion.h>

namespace lockstep::kernels {
namespace {

constexpr std::int64_t kGrain = 1 << 15;  // elements
constexpr std::int64_t kTile = 16;        // transposes go tile by tile: a tile's lines stay in the first-level cache

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

template <class To, class From>
LOCKSTEP_MULTIVERSION void cast_run(std::int64_t n, const From* __restrict__ source, To* __restrict__ target) {
  for (std::int64_t i = 0; i < n; ++i) target[i] = convert<To>(source[i]);
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
