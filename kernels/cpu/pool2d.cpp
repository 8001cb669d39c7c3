#include <lockstep/kernels/pool2d.h>

#include <algorithm>
#include <limits>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/cpu/multiversion.h>

// Forward passes go over output pixels, backward passes gather over input pixels: each output is written by one thread,
// in an order that depends on the shape alone.

namespace lockstep::kernels {
namespace {

constexpr std::int64_t kGrain = 1 << 14;  // elements

std::int64_t row_grain(std::int64_t row_elements) {
  return std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(row_elements, 1));
}

/// Positions [begin, end) of an axis.
struct Range {
  std::int64_t begin, end;
};

/// Windows (of any dilation up to `extent`, the window's reach) that can contain position i: those starting in
/// [i + pad − extent + 1, i + pad].
Range windows_over(std::int64_t i, std::int64_t extent, std::int64_t stride, std::int64_t pad, std::int64_t windows) {
  const std::int64_t first = i + pad - extent + 1;
  return {first <= 0 ? 0 : (first + stride - 1) / stride, std::min(windows, (i + pad) / stride + 1)};
}

/// The taps of a window starting at `start` that fall into [0, size).
Range taps_inside(std::int64_t start, std::int64_t dilation, std::int64_t kernel, std::int64_t size) {
  const std::int64_t begin = start >= 0 ? 0 : (-start + dilation - 1) / dilation;
  const std::int64_t end = size > start ? std::min(kernel, (size - start + dilation - 1) / dilation) : 0;
  return {begin, std::max(begin, end)};
}

/// Goes on with the maxima of one window over the elements of one image row (`positions` of them, in pixels `step`
/// apart), for `lanes` ≤ kLanes channels. The running maximum stays in registers.
template <std::int64_t kLanes, class T>
LOCKSTEP_INLINE void max_over_row(bool first, const T* image, std::int64_t position, std::int64_t positions,
                                  std::int64_t step, std::int64_t channels, std::int64_t lanes, T* y,
                                  std::int32_t* argmax) {
  T best[kLanes];
  std::int32_t where[kLanes];
  for (std::int64_t c = 0; c < lanes; ++c) {
    best[c] = first ? -std::numeric_limits<T>::infinity() : y[c];
    where[c] = first ? -1 : argmax[c];
  }
  for (; positions > 0; --positions, position += step) {
    const T* v = image + position * channels;
    const auto here = static_cast<std::int32_t>(position);
    for (std::int64_t c = 0; c < lanes; ++c) {
      const T old = best[c], value = v[c];
      // Larger, NaN (of several the last), or the window's first element. Bitwise, since a branch would stop
      // vectorisation.
      const bool take = (value > old) | (value != value) | (where[c] < 0);
      best[c] = take ? value : old;
      where[c] = take ? here : where[c];
    }
  }
  for (std::int64_t c = 0; c < lanes; ++c) {
    y[c] = best[c];
    argmax[c] = where[c];
  }
}

/// Rows [begin, end) of the N · P output rows. Each image row under a window row is read from end to end, which the
/// processor's prefetching follows; going window by window was several times slower.
template <class T>
LOCKSTEP_MULTIVERSION void max_forward_rows(const Pool2dShape& s, std::int64_t begin, std::int64_t end, const T* x,
                                            T* y, std::int32_t* argmax) {
  constexpr std::int64_t kLanes = 32;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t top = row % s.p * s.stride_h - s.pad_h;
    const T* image = x + row / s.p * s.h * s.w * s.c;
    Range down = taps_inside(top, s.dilation_h, s.kernel_h, s.h);
    const std::int64_t first = down.begin;
    const bool inside = down.begin < down.end;
    if (!inside) ++down.end;  // windows without any element are written too
    for (std::int64_t i = first; i < down.end; ++i) {
      for (std::int64_t q = 0; q < s.q; ++q) {
        const std::int64_t left = q * s.stride_w - s.pad_w, out = (row * s.q + q) * s.c;
        const Range across = taps_inside(left, s.dilation_w, s.kernel_w, s.w);
        const std::int64_t position = (top + i * s.dilation_h) * s.w + left + across.begin * s.dilation_w;
        const std::int64_t positions = inside ? across.end - across.begin : 0;
        std::int64_t c = 0;
        for (; c + kLanes <= s.c; c += kLanes) {
          max_over_row<kLanes>(i == first, image + c, position, positions, s.dilation_w, s.c, kLanes, y + out + c,
                               argmax + out + c);
        }
        if (c < s.c) {
          max_over_row<kLanes>(i == first, image + c, position, positions, s.dilation_w, s.c, s.c - c, y + out + c,
                               argmax + out + c);
        }
      }
    }
  }
}

/// Rows [begin, end) of the N · H input rows.
template <class T>
LOCKSTEP_MULTIVERSION void max_backward_rows(const Pool2dShape& s, std::int64_t begin, std::int64_t end,
                                             const T* grad_y, const std::int32_t* argmax, T* grad_x) {
  const std::int64_t reach_h = (s.kernel_h - 1) * s.dilation_h + 1, reach_w = (s.kernel_w - 1) * s.dilation_w + 1;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t h = row % s.h;
    const std::int64_t image = row / s.h * s.p * s.q * s.c;
    const Range down = windows_over(h, reach_h, s.stride_h, s.pad_h, s.p);
    for (std::int64_t w = 0; w < s.w; ++w) {
      const Range across = windows_over(w, reach_w, s.stride_w, s.pad_w, s.q);
      T* __restrict__ out = grad_x + (row * s.w + w) * s.c;
      const auto here = static_cast<std::int32_t>(h * s.w + w);
      std::fill_n(out, s.c, T(0));
      for (std::int64_t p = down.begin; p < down.end; ++p) {
        for (std::int64_t q = across.begin; q < across.end; ++q) {
          const T* __restrict__ g = grad_y + image + (p * s.q + q) * s.c;
          const std::int32_t* __restrict__ where = argmax + image + (p * s.q + q) * s.c;
          for (std::int64_t c = 0; c < s.c; ++c) out[c] += where[c] == here ? g[c] : T(0);
        }
      }
    }
  }
}

/// The part of an average window inside the image, and the number of elements it is divided by.
struct AvgWindow {
  std::int64_t begin, end, padded;
};
AvgWindow avg_window(std::int64_t i, std::int64_t kernel, std::int64_t stride, std::int64_t pad, std::int64_t size) {
  const std::int64_t start = i * stride - pad, end = std::min(start + kernel, size + pad);
  return {std::max<std::int64_t>(start, 0), std::min(end, size), end - start};
}
template <class T>
T avg_divisor(const Pool2dShape& s, const AvgWindow& down, const AvgWindow& across) {
  const std::int64_t count =
      s.count_include_pad ? down.padded * across.padded : (down.end - down.begin) * (across.end - across.begin);
  return static_cast<T>(std::max<std::int64_t>(count, 1));
}

/// out = Σ of the pixels of `down` × `across` / divisor.
template <class T>
LOCKSTEP_INLINE void average(Range down, Range across, std::int64_t w, std::int64_t channels, T divisor, const T* image,
                             T* __restrict__ out) {
  std::fill_n(out, channels, T(0));
  for (std::int64_t i = down.begin; i < down.end; ++i) {
    for (std::int64_t j = across.begin; j < across.end; ++j) {
      const T* __restrict__ v = image + (i * w + j) * channels;
      for (std::int64_t c = 0; c < channels; ++c) out[c] += v[c];
    }
  }
  for (std::int64_t c = 0; c < channels; ++c) out[c] /= divisor;
}

template <class T>
LOCKSTEP_INLINE void add_share(std::int64_t channels, T divisor, const T* __restrict__ g, T* __restrict__ out) {
  for (std::int64_t c = 0; c < channels; ++c) out[c] += g[c] / divisor;
}

template <class T>
LOCKSTEP_MULTIVERSION void avg_forward_rows(const Pool2dShape& s, std::int64_t begin, std::int64_t end, const T* x,
                                            T* y) {
  for (std::int64_t row = begin; row < end; ++row) {
    const AvgWindow down = avg_window(row % s.p, s.kernel_h, s.stride_h, s.pad_h, s.h);
    const T* image = x + row / s.p * s.h * s.w * s.c;
    for (std::int64_t q = 0; q < s.q; ++q) {
      const AvgWindow across = avg_window(q, s.kernel_w, s.stride_w, s.pad_w, s.w);
      average({down.begin, down.end}, {across.begin, across.end}, s.w, s.c, avg_divisor<T>(s, down, across), image,
              y + (row * s.q + q) * s.c);
    }
  }
}

template <class T>
LOCKSTEP_MULTIVERSION void avg_backward_rows(const Pool2dShape& s, std::int64_t begin, std::int64_t end,
                                             const T* grad_y, T* grad_x) {
  for (std::int64_t row = begin; row < end; ++row) {
    const T* image = grad_y + row / s.h * s.p * s.q * s.c;
    const Range ps = windows_over(row % s.h, s.kernel_h, s.stride_h, s.pad_h, s.p);
    for (std::int64_t w = 0; w < s.w; ++w) {
      const Range qs = windows_over(w, s.kernel_w, s.stride_w, s.pad_w, s.q);
      T* out = grad_x + (row * s.w + w) * s.c;
      std::fill_n(out, s.c, T(0));
      for (std::int64_t p = ps.begin; p < ps.end; ++p) {
        const AvgWindow down = avg_window(p, s.kernel_h, s.stride_h, s.pad_h, s.h);
        for (std::int64_t q = qs.begin; q < qs.end; ++q) {
          const AvgWindow across = avg_window(q, s.kernel_w, s.stride_w, s.pad_w, s.w);
          add_share(s.c, avg_divisor<T>(s, down, across), image + (p * s.q + q) * s.c, out);
        }
      }
    }
  }
}

/// Adaptive pooling: what output element i of `outputs` averages.
Range adaptive_window(std::int64_t i, std::int64_t size, std::int64_t outputs) {
  return {i * size / outputs, ((i + 1) * size + outputs - 1) / outputs};
}
/// And the output elements that average input element i.
Range adaptive_outputs(std::int64_t i, std::int64_t size, std::int64_t outputs) {
  return {i * outputs / size, ((i + 1) * outputs + size - 1) / size};
}

template <class T>
LOCKSTEP_MULTIVERSION void adaptive_forward_pixels(std::int64_t begin, std::int64_t end, std::int64_t h, std::int64_t w,
                                                   std::int64_t c, std::int64_t p, std::int64_t q, const T* x, T* y) {
  for (std::int64_t pixel = begin; pixel < end; ++pixel) {
    const Range down = adaptive_window(pixel / q % p, h, p), across = adaptive_window(pixel % q, w, q);
    const auto count = static_cast<T>((down.end - down.begin) * (across.end - across.begin));
    average(down, across, w, c, count, x + pixel / (p * q) * h * w * c, y + pixel * c);
  }
}

template <class T>
LOCKSTEP_MULTIVERSION void adaptive_backward_pixels(std::int64_t begin, std::int64_t end, std::int64_t h,
                                                    std::int64_t w, std::int64_t c, std::int64_t p, std::int64_t q,
                                                    const T* grad_y, T* grad_x) {
  for (std::int64_t pixel = begin; pixel < end; ++pixel) {
    const Range ps = adaptive_outputs(pixel / w % h, h, p), qs = adaptive_outputs(pixel % w, w, q);
    T* out = grad_x + pixel * c;
    std::fill_n(out, c, T(0));
    for (std::int64_t i = ps.begin; i < ps.end; ++i) {
      const Range down = adaptive_window(i, h, p);
      for (std::int64_t j = qs.begin; j < qs.end; ++j) {
        const Range across = adaptive_window(j, w, q);
        const auto count = static_cast<T>((down.end - down.begin) * (across.end - across.begin));
        add_share(c, count, grad_y + ((pixel / (h * w) * p + i) * q + j) * c, out);
      }
    }
  }
}

}  // namespace

template <class T>
void max_pool2d_forward(Cpu, const Pool2dShape& s, const T* x, T* y, std::int32_t* argmax) {
  parallel_for(s.n * s.p, row_grain(s.q * s.c * s.kernel_h),
               [&](std::int64_t begin, std::int64_t end) { max_forward_rows(s, begin, end, x, y, argmax); });
}

template <class T>
void max_pool2d_backward(Cpu, const Pool2dShape& s, const T* grad_y, const std::int32_t* argmax, T* grad_x) {
  parallel_for(s.n * s.h, row_grain(s.w * s.c),
               [&](std::int64_t begin, std::int64_t end) { max_backward_rows(s, begin, end, grad_y, argmax, grad_x); });
}

template <class T>
void avg_pool2d_forward(Cpu, const Pool2dShape& s, const T* x, T* y) {
  parallel_for(s.n * s.p, row_grain(s.q * s.c * s.kernel_h),
               [&](std::int64_t begin, std::int64_t end) { avg_forward_rows(s, begin, end, x, y); });
}

template <class T>
void avg_pool2d_backward(Cpu, const Pool2dShape& s, const T* grad_y, T* grad_x) {
  parallel_for(s.n * s.h, row_grain(s.w * s.c),
               [&](std::int64_t begin, std::int64_t end) { avg_backward_rows(s, begin, end, grad_y, grad_x); });
}

template <class T>
void adaptive_avg_pool2d_forward(Cpu, std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c, std::int64_t p,
                                 std::int64_t q, const T* x, T* y) {
  if (n * p * q == 0) return;
  parallel_for(n * p * q, row_grain(h * w * c / (p * q)),
               [=](std::int64_t begin, std::int64_t end) { adaptive_forward_pixels(begin, end, h, w, c, p, q, x, y); });
}

template <class T>
void adaptive_avg_pool2d_backward(Cpu, std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c, std::int64_t p,
                                  std::int64_t q, const T* grad_y, T* grad_x) {
  parallel_for(n * h * w, row_grain(c), [=](std::int64_t begin, std::int64_t end) {
    adaptive_backward_pixels(begin, end, h, w, c, p, q, grad_y, grad_x);
  });
}

#define LOCKSTEP_INSTANTIATE(T)                                                                              \
  template void max_pool2d_forward<T>(Cpu, const Pool2dShape&, const T*, T*, std::int32_t*);                 \
  template void max_pool2d_backward<T>(Cpu, const Pool2dShape&, const T*, const std::int32_t*, T*);          \
  template void avg_pool2d_forward<T>(Cpu, const Pool2dShape&, const T*, T*);                                \
  template void avg_pool2d_backward<T>(Cpu, const Pool2dShape&, const T*, T*);                               \
  template void adaptive_avg_pool2d_forward<T>(Cpu, std::int64_t, std::int64_t, std::int64_t, std::int64_t,  \
                                               std::int64_t, std::int64_t, const T*, T*);                    \
  template void adaptive_avg_pool2d_backward<T>(Cpu, std::int64_t, std::int64_t, std::int64_t, std::int64_t, \
                                                std::int64_t, std::int64_t, const T*, T*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(double)

}  // namespace lockstep::kernels
