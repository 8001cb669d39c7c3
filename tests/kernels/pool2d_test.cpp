#include <lockstep/kernels/pool2d.h>

#include <algorithm>

#include <lockstep/tests/kernels/kernel_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

Pool2dShape shape_of(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w, std::int64_t kernel_h,
                     std::int64_t kernel_w, std::int64_t stride_h, std::int64_t stride_w, std::int64_t pad_h,
                     std::int64_t pad_w, std::int64_t dilation_h, std::int64_t dilation_w, bool ceil_mode) {
  const auto outputs = [&](std::int64_t size, std::int64_t kernel, std::int64_t stride, std::int64_t pad,
                           std::int64_t dilation) {
    const std::int64_t room = size + 2 * pad - dilation * (kernel - 1) - 1;
    std::int64_t out = (room + (ceil_mode ? stride - 1 : 0)) / stride + 1;
    if (ceil_mode && (out - 1) * stride >= size + pad) --out;  // a window must start inside
    return out;
  };
  Pool2dShape s{};
  s.n = n, s.c = c, s.h = h, s.w = w;
  s.p = outputs(h, kernel_h, stride_h, pad_h, dilation_h);
  s.q = outputs(w, kernel_w, stride_w, pad_w, dilation_w);
  s.kernel_h = kernel_h, s.kernel_w = kernel_w, s.stride_h = stride_h, s.stride_w = stride_w;
  s.pad_h = pad_h, s.pad_w = pad_w, s.dilation_h = dilation_h, s.dilation_w = dilation_w;
  return s;
}

const Pool2dShape kShapes[] = {
    shape_of(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, false),   shape_of(2, 64, 16, 16, 3, 3, 2, 2, 1, 1, 1, 1, false),
    shape_of(3, 3, 7, 9, 3, 2, 1, 2, 1, 0, 1, 1, false),   shape_of(2, 17, 11, 10, 3, 3, 2, 2, 0, 0, 1, 1, true),
    shape_of(1, 16, 9, 13, 2, 3, 2, 1, 1, 1, 2, 3, false), shape_of(2, 513, 6, 5, 2, 2, 2, 2, 0, 0, 1, 1, false),
    shape_of(1, 5, 4, 4, 2, 2, 3, 3, 0, 0, 1, 1, false),   shape_of(0, 8, 4, 4, 2, 2, 2, 2, 0, 0, 1, 1, false),
    shape_of(1, 8, 5, 5, 3, 3, 2, 2, 1, 1, 2, 2, true),    shape_of(8, 32, 20, 21, 3, 3, 2, 2, 1, 1, 1, 1, true),
};

std::size_t x_size(const Pool2dShape& s) { return static_cast<std::size_t>(s.n * s.h * s.w * s.c); }
std::size_t y_size(const Pool2dShape& s) { return static_cast<std::size_t>(s.n * s.p * s.q * s.c); }

/// Calls f(output index, input index, position in the image) for each pair of an output and an element in its window.
template <class F>
void for_taps(const Pool2dShape& s, F f) {
  for (std::int64_t y = 0; y < static_cast<std::int64_t>(y_size(s)); ++y) {
    const std::int64_t c = y % s.c, q = y / s.c % s.q, p = y / s.c / s.q % s.p, n = y / s.c / s.q / s.p;
    for (std::int64_t i = 0; i < s.kernel_h; ++i) {
      for (std::int64_t j = 0; j < s.kernel_w; ++j) {
        const std::int64_t ih = p * s.stride_h - s.pad_h + i * s.dilation_h,
                           iw = q * s.stride_w - s.pad_w + j * s.dilation_w;
        if (ih < 0 || ih >= s.h || iw < 0 || iw >= s.w) continue;
        const std::int64_t position = ih * s.w + iw;
        f(static_cast<std::size_t>(y), static_cast<std::size_t>((n * s.h * s.w + position) * s.c + c),
          static_cast<std::int32_t>(position));
      }
    }
  }
}

template <class T>
void check_max(const Pool2dShape& s, const std::vector<T>& x) {
  std::vector<T> expected(y_size(s), -kInf<T>);
  std::vector<std::int32_t> expected_argmax(y_size(s), -1);
  for_taps(s, [&](std::size_t y, std::size_t i, std::int32_t position) {
    if (expected_argmax[y] == -1 || std::isnan(x[i]) || x[i] > expected[y]) {
      expected[y] = x[i];
      expected_argmax[y] = position;
    }
  });
  std::vector<std::int32_t> argmax;
  const auto y = on_any_threads([&] {
    std::vector<T> out(y_size(s));
    argmax.assign(y_size(s), -7);
    kernels::max_pool2d_forward<T>(kOnCpu, s, x.data(), out.data(), argmax.data());
    CHECK(argmax == expected_argmax);
    return out;
  });
  CHECK(close(y, expected, 0));

  const auto g = random_values<T>(static_cast<std::int64_t>(y_size(s)), -1, 1, 3);
  std::vector<double> expected_grad(x_size(s));
  for_taps(s, [&](std::size_t o, std::size_t i, std::int32_t position) {
    if (argmax[o] == position) expected_grad[i] += static_cast<double>(g[o]);
  });
  const auto grad = on_any_threads([&] {
    std::vector<T> out(x_size(s), T(9));
    kernels::max_pool2d_backward<T>(kOnCpu, s, g.data(), argmax.data(), out.data());
    return out;
  });
  CHECK(close(grad, expected_grad, rounding<T>(8)));
}

}  // namespace

TEMPLATE_TEST_CASE("max pooling matches plain loops, forward and backward", "", float, double) {
  using T = TestType;
  for (const Pool2dShape& s : kShapes) {
    CAPTURE(s.n, s.c, s.h, s.w, s.p, s.q, s.kernel_h, s.kernel_w);
    auto x = random_values<T>(static_cast<std::int64_t>(x_size(s)), -3, 3);
    check_max(s, x);
    for (T& v : x) v = std::round(v);  // ties
    check_max(s, x);
    for (std::size_t i = 0; i < x.size(); i += 23) x[i] = kNaN<T>;
    for (std::size_t i = 5; i < x.size(); i += 29) x[i] = kInf<T>;
    check_max(s, x);
    check_max(s, std::vector<T>(x.size(), -kInf<T>));
  }
}

TEMPLATE_TEST_CASE("a max pooling window without any element has index -1 and no gradient", "", float, double) {
  using T = TestType;
  const Pool2dShape s = shape_of(1, 3, 1, 1, 2, 2, 1, 1, 1, 1, 2, 2, false);  // taps at -1 and 1 only
  REQUIRE(s.p == 1);
  check_max(s, std::vector<T>(3, T(4)));
}

TEMPLATE_TEST_CASE("average pooling counts padding as PyTorch does", "", float, double) {
  using T = TestType;
  for (Pool2dShape s : kShapes) {
    if (s.dilation_h != 1) continue;
    for (const bool count_include_pad : {true, false}) {
      s.count_include_pad = count_include_pad;
      CAPTURE(s.n, s.c, s.h, s.w, s.p, s.q, count_include_pad);
      const auto x = random_values<T>(static_cast<std::int64_t>(x_size(s)));
      const auto g = random_values<T>(static_cast<std::int64_t>(y_size(s)), -1, 1, 4);
      std::vector<double> counts(y_size(s)), expected(y_size(s)), expected_grad(x_size(s));
      for_taps(s, [&](std::size_t y, std::size_t, std::int32_t) { counts[y] += 1; });
      if (count_include_pad) {
        for (std::size_t y = 0; y < counts.size(); ++y) {
          // Padding counts, but not what ceil mode adds beyond it.
          const auto i = static_cast<std::int64_t>(y);
          const std::int64_t top = i / s.c / s.q % s.p * s.stride_h - s.pad_h,
                             left = i / s.c % s.q * s.stride_w - s.pad_w;
          counts[y] = static_cast<double>((std::min(top + s.kernel_h, s.h + s.pad_h) - top) *
                                          (std::min(left + s.kernel_w, s.w + s.pad_w) - left));
        }
      }
      for_taps(s, [&](std::size_t y, std::size_t i, std::int32_t) {
        expected[y] += static_cast<double>(x[i]) / counts[y];
        expected_grad[i] += static_cast<double>(g[y]) / counts[y];
      });
      const auto y = on_any_threads([&] {
        std::vector<T> out(y_size(s), T(9));
        kernels::avg_pool2d_forward<T>(kOnCpu, s, x.data(), out.data());
        return out;
      });
      const auto grad = on_any_threads([&] {
        std::vector<T> out(x_size(s), T(9));
        kernels::avg_pool2d_backward<T>(kOnCpu, s, g.data(), out.data());
        return out;
      });
      CHECK(close(y, expected, rounding<T>(8)));
      CHECK(close(grad, expected_grad, rounding<T>(8)));
    }
  }
}

TEMPLATE_TEST_CASE("adaptive average pooling", "", float, double) {
  using T = TestType;
  struct Case {
    std::int64_t n, h, w, c, p, q;
  };
  for (const Case& a : {Case{2, 7, 7, 64, 1, 1},
                        {1, 1, 1, 3, 1, 1},
                        {3, 13, 10, 17, 6, 6},
                        {1, 3, 4, 5, 7, 9},
                        {0, 4, 4, 2, 2, 2},
                        {4, 12, 12, 33, 5, 12}}) {
    CAPTURE(a.n, a.h, a.w, a.c, a.p, a.q);
    const auto x = random_values<T>(a.n * a.h * a.w * a.c), g = random_values<T>(a.n * a.p * a.q * a.c, -1, 1, 5);
    std::vector<double> expected(g.size()), expected_grad(x.size());
    for (std::int64_t o = 0; o < static_cast<std::int64_t>(g.size()); ++o) {
      const std::int64_t c = o % a.c, q = o / a.c % a.q, p = o / a.c / a.q % a.p, n = o / a.c / a.q / a.p;
      const std::int64_t top = p * a.h / a.p, bottom = ((p + 1) * a.h + a.p - 1) / a.p;
      const std::int64_t left = q * a.w / a.q, right = ((q + 1) * a.w + a.q - 1) / a.q;
      const auto count = static_cast<double>((bottom - top) * (right - left));
      for (std::int64_t i = top; i < bottom; ++i) {
        for (std::int64_t j = left; j < right; ++j) {
          const auto at = static_cast<std::size_t>(((n * a.h + i) * a.w + j) * a.c + c);
          expected[static_cast<std::size_t>(o)] += static_cast<double>(x[at]) / count;
          expected_grad[at] += static_cast<double>(g[static_cast<std::size_t>(o)]) / count;
        }
      }
    }
    const auto y = on_any_threads([&] {
      std::vector<T> out(g.size(), T(9));
      kernels::adaptive_avg_pool2d_forward<T>(kOnCpu, a.n, a.h, a.w, a.c, a.p, a.q, x.data(), out.data());
      return out;
    });
    const auto grad = on_any_threads([&] {
      std::vector<T> out(x.size(), T(9));
      kernels::adaptive_avg_pool2d_backward<T>(kOnCpu, a.n, a.h, a.w, a.c, a.p, a.q, g.data(), out.data());
      return out;
    });
    CHECK(close(y, expected, rounding<T>(16)));
    CHECK(close(grad, expected_grad, rounding<T>(16)));
  }
}
