#include <algorithm>
#include <array>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/conv2d_internal.h>
#include <lockstep/kernels/cpu/scratch.h>
#include <lockstep/kernels/gemm.h>

namespace lockstep::kernels::conv2d {
namespace {

constexpr std::int64_t kTile = 64;  // output positions whose patches are gathered at a time

/// Calls visit(position, tap, pixel) for the output positions [begin, end) of the whole batch, counted from begin, and
/// the taps of kernel rows [r_begin, r_end), counted from the first. pixel is the input pixel's index in [N, H, W], or
/// −1 in the padding.
template <class Visit>
void for_each_tap(const Conv2dShape& d, std::int64_t begin, std::int64_t end, std::int64_t r_begin, std::int64_t r_end,
                  Visit&& visit) {
  for (std::int64_t position = begin; position < end; ++position) {
    const std::int64_t q = position % d.q, p = position / d.q % d.p, n = position / d.q / d.p;
    std::int64_t tap = 0;
    for (std::int64_t r = r_begin; r < r_end; ++r) {
      const std::int64_t h = p * d.stride_h - d.pad_h + r * d.dilation_h;
      for (std::int64_t s = 0; s < d.s; ++s, ++tap) {
        const std::int64_t w = q * d.stride_w - d.pad_w + s * d.dilation_w;
        const bool inside = h >= 0 && h < d.h && w >= 0 && w < d.w;
        visit(position - begin, tap, inside ? (n * d.h + h) * d.w + w : -1);
      }
    }
  }
}

/// patches [end − begin, r_end − r_begin, S, C / groups] of one group.
template <class T>
void gather(const Conv2dShape& d, std::int64_t group, std::int64_t begin, std::int64_t end, std::int64_t r_begin,
            std::int64_t r_end, const T* x, T* patches) {
  const std::int64_t channels = d.c / d.groups, taps = (r_end - r_begin) * d.s;
  for_each_tap(d, begin, end, r_begin, r_end, [&](std::int64_t row, std::int64_t tap, std::int64_t pixel) {
    T* to = patches + (row * taps + tap) * channels;
    if (pixel < 0) {
      std::fill_n(to, channels, T(0));
    } else {
      std::copy_n(x + pixel * d.c + group * channels, channels, to);
    }
  });
}

}  // namespace

template <class T>
void reference_forward(const Conv2dShape& d, const T* x, const T* w, const T* bias, T* y) {
  const std::int64_t positions = d.n * d.p * d.q, depth = d.r * d.s * (d.c / d.groups), outputs = d.k / d.groups;
  const std::int64_t tiles = (positions + kTile - 1) / kTile;
  parallel_for(tiles, 1, [&](std::int64_t tile_begin, std::int64_t tile_end) {
    T* patches = scratch<T, 3>(kTile * depth);
    for (std::int64_t tile = tile_begin; tile < tile_end; ++tile) {
      const std::int64_t begin = tile * kTile, end = std::min(begin + kTile, positions);
      for (std::int64_t g = 0; g < d.groups; ++g) {
        gather(d, g, begin, end, 0, d.r, x, patches);
        gemm<T>(kOnCpu, false, true, end - begin, outputs, depth, patches, depth, w + g * outputs * depth, depth, T(0),
                y + begin * d.k + g * outputs, d.k);
      }
      if (bias == nullptr) continue;
      for (std::int64_t position = begin; position < end; ++position) {
        for (std::int64_t k = 0; k < d.k; ++k) y[position * d.k + k] += bias[k];
      }
    }
  });
}

template <class T>
void reference_backward_data(const Conv2dShape& d, const T* grad_y, const T* w, T* grad_x) {
  const std::int64_t channels = d.c / d.groups, depth = d.r * d.s * channels, outputs = d.k / d.groups;
  const std::int64_t image = d.p * d.q;
  // A task owns whole images, since patches overlap, and enough of them to fill a tile.
  const std::int64_t images = std::max<std::int64_t>(1, kTile / std::max<std::int64_t>(1, image));
  parallel_for((d.n + images - 1) / images, 1, [&](std::int64_t task_begin, std::int64_t task_end) {
    T* patches = scratch<T, 3>(kTile * depth);
    const std::int64_t n_begin = task_begin * images, n_end = std::min(task_end * images, d.n);
    std::fill(grad_x + n_begin * d.h * d.w * d.c, grad_x + n_end * d.h * d.w * d.c, T(0));
    for (std::int64_t n = n_begin; n < n_end; n += images) {
      const std::int64_t last = std::min(n + images, n_end) * image;
      for (std::int64_t begin = n * image; begin < last; begin += kTile) {
        const std::int64_t end = std::min(begin + kTile, last);
        for (std::int64_t g = 0; g < d.groups; ++g) {
          gemm<T>(kOnCpu, false, false, end - begin, depth, outputs, grad_y + begin * d.k + g * outputs, d.k,
                  w + g * outputs * depth, depth, T(0), patches, depth);
          for_each_tap(d, begin, end, 0, d.r, [&](std::int64_t row, std::int64_t tap, std::int64_t pixel) {
            if (pixel < 0) return;
            const T* from = patches + row * depth + tap * channels;
            T* to = grad_x + pixel * d.c + g * channels;
            for (std::int64_t c = 0; c < channels; ++c) to[c] += from[c];
          });
        }
      }
    }
  });
}

template <class T>
void reference_backward_weight(const Conv2dShape& d, const T* x, const T* grad_y, T* grad_w) {
  constexpr std::int64_t kOutputs = 64;
  const std::int64_t positions = d.n * d.p * d.q, outputs = d.k / d.groups;
  const std::int64_t row = d.s * (d.c / d.groups), depth = d.r * row;
  // A task owns the gradients of some output channels of one group and one kernel row, and sums over all positions in
  // order.
  const std::int64_t blocks = (outputs + kOutputs - 1) / kOutputs;
  parallel_for(d.groups * blocks * d.r, 1, [&](std::int64_t task_begin, std::int64_t task_end) {
    T* patches = scratch<T, 3>(kTile * row);
    for (std::int64_t task = task_begin; task < task_end; ++task) {
      const std::int64_t r = task % d.r, block = task / d.r % blocks, g = task / d.r / blocks;
      const std::int64_t k = g * outputs + block * kOutputs, count = std::min(kOutputs, outputs - block * kOutputs);
      T* to = grad_w + k * depth + r * row;
      gemm<T>(kOnCpu, false, false, count, row, 0, nullptr, 0, nullptr, 0, T(0), to, depth);  // zeros
      for (std::int64_t begin = 0; begin < positions; begin += kTile) {
        const std::int64_t end = std::min(begin + kTile, positions);
        gather(d, g, begin, end, r, r + 1, x, patches);
        gemm<T>(kOnCpu, true, false, count, row, end - begin, grad_y + begin * d.k + k, d.k, patches, row, T(1), to,
                depth);
      }
    }
  });
}

template <class T>
void bias_gradient(std::int64_t rows, std::int64_t channels, const T* grad_y, T* grad_bias) {
  constexpr std::int64_t kBlock = 64;
  parallel_for((channels + kBlock - 1) / kBlock, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin * kBlock; c < std::min(end * kBlock, channels); c += kBlock) {
      const std::int64_t count = std::min(kBlock, channels - c);
      std::array<double, kBlock> sums{};
      for (std::int64_t row = 0; row < rows; ++row) {
        const T* from = grad_y + row * channels + c;
        for (std::int64_t i = 0; i < count; ++i) sums[static_cast<std::size_t>(i)] += static_cast<double>(from[i]);
      }
      for (std::int64_t i = 0; i < count; ++i) grad_bias[c + i] = static_cast<T>(sums[static_cast<std::size_t>(i)]);
    }
  });
}

template void reference_forward(const Conv2dShape&, const float*, const float*, const float*, float*);
template void reference_forward(const Conv2dShape&, const double*, const double*, const double*, double*);
template void reference_backward_data(const Conv2dShape&, const float*, const float*, float*);
template void reference_backward_data(const Conv2dShape&, const double*, const double*, double*);
template void reference_backward_weight(const Conv2dShape&, const float*, const float*, float*);
template void reference_backward_weight(const Conv2dShape&, const double*, const double*, double*);
template void bias_gradient(std::int64_t, std::int64_t, const float*, float*);
template void bias_gradient(std::int64_t, std::int64_t, const double*, double*);

}  // namespace lockstep::kernels::conv2d
