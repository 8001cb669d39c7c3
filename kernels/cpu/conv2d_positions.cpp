#include <algorithm>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/conv2d_internal.h>
#include <lockstep/kernels/cpu/onednn_utils.h>

namespace lockstep::kernels::conv2d {
namespace {

/// Half-open.
struct Range {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
};

/// Cuts channels for the threads in multiples of 16, and where these are too few, also [0, others); every part worth at
/// least some ten microseconds.
template <class Body>
void parallel_over_channels(std::int64_t channels, std::int64_t others, std::int64_t flops, Body&& body) {
  const std::int64_t units = (channels + 15) / 16;
  const std::int64_t runs = std::min(others, (num_threads() + units - 1) / units);
  const std::int64_t grain = std::max<std::int64_t>(1, 2'000'000 * units * runs / flops);
  parallel_for(units * runs, grain, [&](std::int64_t begin, std::int64_t end) {
    const onednn::SingleThread scope;
    while (begin < end) {
      const std::int64_t run = begin / units, first = begin % units, last = std::min(units, first + end - begin);
      body(Range{first * 16, std::min(last * 16, channels)}, Range{run * others / runs, (run + 1) * others / runs});
      begin += last - first;
    }
  });
}

/// Calls visit(r, s, count, h, w) for the taps of some kernel rows that lie inside the image at output (p, q). Where
/// neighbouring taps of a kernel row meet neighbouring pixels, `count` of them come at once.
template <class Visit>
void for_each_live_run(const Conv2dShape& d, std::int64_t p, std::int64_t q, Range rows, Visit&& visit) {
  const std::int64_t w0 = q * d.stride_w - d.pad_w;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t h = p * d.stride_h - d.pad_h + r * d.dilation_h;
    if (h < 0 || h >= d.h) continue;
    if (d.dilation_w == 1) {
      const std::int64_t s_begin = std::max<std::int64_t>(0, -w0), s_end = std::min(d.s, d.w - w0);
      if (s_begin < s_end) visit(r, s_begin, s_end - s_begin, h, w0 + s_begin);
      continue;
    }
    for (std::int64_t s = 0; s < d.s; ++s) {
      const std::int64_t w = w0 + s * d.dilation_w;
      if (w >= 0 && w < d.w) visit(r, s, 1, h, w);
    }
  }
}

/// The multiply-adds of one pass, times two.
std::int64_t flops(const Conv2dShape& d) {
  std::int64_t taps = 0;
  for (std::int64_t p = 0; p < d.p; ++p) {
    for (std::int64_t q = 0; q < d.q; ++q) {
      for_each_live_run(d, p, q, {0, d.r}, [&](auto, auto, std::int64_t count, auto, auto) { taps += count; });
    }
  }
  return std::max<std::int64_t>(1, 2 * d.n * d.k * d.c * taps);
}

void fill_rows(std::int64_t rows, std::int64_t columns, const float* values, float* to, std::int64_t stride) {
  for (std::int64_t i = 0; i < rows; ++i, to += stride) {
    if (values == nullptr) {
      std::fill_n(to, columns, 0.0f);
    } else {
      std::copy_n(values, columns, to);
    }
  }
}

}  // namespace

void positions_forward(const Conv2dShape& d, const float* x, const float* w, const float* bias, float* y) {
  const std::int64_t depth = d.r * d.s * d.c, image_x = d.h * d.w * d.c, image_y = d.p * d.q * d.k;
  parallel_over_channels(d.k, d.n, flops(d), [&](Range k, Range n) {
    for (std::int64_t p = 0; p < d.p; ++p) {
      for (std::int64_t q = 0; q < d.q; ++q) {
        float* to = y + n.begin * image_y + (p * d.q + q) * d.k + k.begin;
        bool written = bias != nullptr;
        if (written) fill_rows(n.size(), k.size(), bias + k.begin, to, image_y);
        for_each_live_run(d, p, q, {0, d.r}, [&](auto r, auto s, auto taps, auto h, auto column) {
          onednn::sgemm(false, true, n.size(), k.size(), taps * d.c, x + n.begin * image_x + (h * d.w + column) * d.c,
                        image_x, w + k.begin * depth + (r * d.s + s) * d.c, depth, written ? 1.0f : 0.0f, to, image_y);
          written = true;
        });
        if (!written) fill_rows(n.size(), k.size(), nullptr, to, image_y);
      }
    }
  });
}

void positions_backward_data(const Conv2dShape& d, const float* grad_y, const float* w, float* grad_x) {
  const std::int64_t depth = d.r * d.s * d.c, image_x = d.h * d.w * d.c, image_y = d.p * d.q * d.k;
  parallel_over_channels(d.c, d.n, flops(d), [&](Range c, Range n) {
    for (std::int64_t h = 0; h < d.h; ++h) {
      for (std::int64_t column = 0; column < d.w; ++column) {
        float* to = grad_x + n.begin * image_x + (h * d.w + column) * d.c + c.begin;
        bool written = false;
        for (std::int64_t r = 0; r < d.r; ++r) {
          const std::int64_t p = (h + d.pad_h - r * d.dilation_h) / d.stride_h;
          if (p < 0 || p >= d.p || p * d.stride_h - d.pad_h + r * d.dilation_h != h) continue;
          for (std::int64_t s = 0; s < d.s; ++s) {
            const std::int64_t q = (column + d.pad_w - s * d.dilation_w) / d.stride_w;
            if (q < 0 || q >= d.q || q * d.stride_w - d.pad_w + s * d.dilation_w != column) continue;
            onednn::sgemm(false, false, n.size(), c.size(), d.k, grad_y + n.begin * image_y + (p * d.q + q) * d.k,
                          image_y, w + (r * d.s + s) * d.c + c.begin, depth, written ? 1.0f : 0.0f, to, image_x);
            written = true;
          }
        }
        if (!written) fill_rows(n.size(), c.size(), nullptr, to, image_x);
      }
    }
  });
}

void positions_backward_weight(const Conv2dShape& d, const float* x, const float* grad_y, float* grad_w) {
  const std::int64_t depth = d.r * d.s * d.c, image_x = d.h * d.w * d.c, image_y = d.p * d.q * d.k;
  const std::int64_t row = d.s * d.c;
  parallel_over_channels(d.k, d.r, flops(d), [&](Range k, Range rows) {
    fill_rows(k.size(), rows.size() * row, nullptr, grad_w + k.begin * depth + rows.begin * row, depth);
    for (std::int64_t p = 0; p < d.p; ++p) {
      for (std::int64_t q = 0; q < d.q; ++q) {
        for_each_live_run(d, p, q, rows, [&](auto r, auto s, auto taps, auto h, auto column) {
          onednn::sgemm(true, false, k.size(), taps * d.c, d.n, grad_y + (p * d.q + q) * d.k + k.begin, image_y,
                        x + (h * d.w + column) * d.c, image_x, 1.0f, grad_w + k.begin * depth + r * row + s * d.c,
                        depth);
        });
      }
    }
  });
}

}  // namespace lockstep::kernels::conv2d
