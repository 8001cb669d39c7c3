#include <lockstep/kernels/pool2d.h>

#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

struct Case {
  Pool2dShape shape;
  std::int64_t offset;  ///< of all buffers, in elements
};

/// Sizes n, c, h, w; kernel, stride, padding and dilation for both axes (rows, columns).
Pool2dShape shape_of(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w, std::int64_t kernel_h,
                     std::int64_t kernel_w, std::int64_t stride_h, std::int64_t stride_w, std::int64_t pad_h = 0,
                     std::int64_t pad_w = 0, std::int64_t dilation_h = 1, std::int64_t dilation_w = 1) {
  Pool2dShape s{};
  s.n = n, s.c = c, s.h = h, s.w = w;
  s.p = (h + 2 * pad_h - dilation_h * (kernel_h - 1) - 1) / stride_h + 1;
  s.q = (w + 2 * pad_w - dilation_w * (kernel_w - 1) - 1) / stride_w + 1;
  s.kernel_h = kernel_h, s.kernel_w = kernel_w, s.stride_h = stride_h, s.stride_w = stride_w;
  s.pad_h = pad_h, s.pad_w = pad_w, s.dilation_h = dilation_h, s.dilation_w = dilation_w;
  return s;
}

/// The last windows hang over the edges by as much as ceil_mode allows.
Pool2dShape overhanging() {
  Pool2dShape s = shape_of(2, 8, 6, 8, 3, 3, 2, 2);
  s.p += 1, s.q += 1;
  return s;
}

const Case kCases[] = {
    {shape_of(1, 1, 1, 1, 1, 1, 1, 1), 0},
    {shape_of(2, 64, 9, 8, 3, 3, 2, 2, 1, 1), 0},
    {shape_of(2, 64, 9, 8, 3, 3, 2, 2, 1, 1), 1},  // aligned for single elements only
    {shape_of(3, 3, 7, 9, 3, 2, 1, 2, 1, 0), 0},   // channels that fill no vector
    {shape_of(2, 12, 5, 6, 2, 2, 2, 2), 0},        // vectors of float, not of 16-bit types
    {overhanging(), 0},
    {shape_of(1, 16, 9, 13, 2, 3, 2, 1, 1, 1, 2, 3), 0},
    {shape_of(1, 8, 5, 5, 3, 3, 2, 2, 1, 1, 2, 2), 0},
    {shape_of(1, 40, 4, 4, 2, 2, 3, 3), 0},  // stride beyond the kernel: pixels in no window
    {shape_of(1, 8, 1, 1, 2, 2, 1, 1, 1, 1, 2, 2), 0},
    {shape_of(1, 264, 7, 7, 7, 7, 1, 1), 0},        // one large window, more vectors than a warp has lanes
    {shape_of(2, 9, 12, 11, 9, 8, 2, 3, 4, 3), 0},  // large windows, some of them in the padding
    {shape_of(0, 8, 4, 4, 2, 2, 2, 2), 0},
};

std::int64_t x_size(const Pool2dShape& s) { return s.n * s.h * s.w * s.c; }
std::int64_t y_size(const Pool2dShape& s) { return s.n * s.p * s.q * s.c; }

template <class T>
struct Maxima {
  std::vector<T> y;
  std::vector<std::int32_t> argmax;
};

template <class T>
Maxima<T> max_forward(const Case& c, const std::vector<T>& x) {
  const DeviceBuffer<T> on_device(x, c.offset), y(y_size(c.shape), c.offset);
  const DeviceBuffer<std::int32_t> argmax(y_size(c.shape), c.offset);
  kernels::max_pool2d_forward<T>(cuda_stream(), c.shape, on_device.data(), y.data(), argmax.data());
  return {y.download(), argmax.download()};
}

/// Equal to the CPU's in every element: a maximum is one of the inputs.
template <class T>
void check_max(const Case& c, const std::vector<T>& x) {
  const Pool2dShape& s = c.shape;
  const auto wide = converted<double>(x);
  std::vector<double> expected(static_cast<std::size_t>(y_size(s)));
  std::vector<std::int32_t> expected_argmax(expected.size());
  kernels::max_pool2d_forward<double>(kOnCpu, s, wide.data(), expected.data(), expected_argmax.data());
  const auto [y, argmax] = max_forward(c, x);
  CHECK(close_to(y, expected, 0));
  CHECK(same_bits(argmax, expected_argmax));

  const auto grad_y = random_elements<T>(y_size(s), -1, 1, 2);
  const auto wide_grad = converted<double>(grad_y);
  std::vector<double> expected_grad(x.size());
  kernels::max_pool2d_backward<double>(kOnCpu, s, wide_grad.data(), expected_argmax.data(), expected_grad.data());
  const DeviceBuffer<T> grads(grad_y, c.offset), grad_x(x_size(s), c.offset);
  const DeviceBuffer<std::int32_t> where(argmax, c.offset);
  kernels::max_pool2d_backward<T>(cuda_stream(), s, grads.data(), where.data(), grad_x.data());
  const auto first = grad_x.download();
  CHECK(close_to(first, expected_grad, error_bound<T>(8)));  // up to 9 windows share an element
  kernels::max_pool2d_backward<T>(cuda_stream(), s, grads.data(), where.data(), grad_x.data());
  CHECK(same_bits(grad_x.download(), first));
}

/// forward and backward are called with where they run and with their two buffers. `roundings` bounds those of an
/// average in float.
template <class T, class Forward, class Backward>
void check_average(std::int64_t inputs, std::int64_t outputs, std::int64_t offset, double roundings, Forward forward,
                   Backward backward) {
  const auto check = [&](std::int64_t from, std::int64_t to, auto run) {
    const auto in = random_elements<T>(from, -1, 1, 3);
    const auto wide = converted<double>(in);
    std::vector<double> expected(static_cast<std::size_t>(to));
    run(kOnCpu, wide.data(), expected.data());
    const DeviceBuffer<T> source(in, offset), target(to, offset);
    run(cuda_stream(), source.data(), target.data());
    const auto first = target.download();
    CHECK(close_to(first, expected, error_bound<T>(roundings)));
    run(cuda_stream(), source.data(), target.data());
    CHECK(same_bits(target.download(), first));
  };
  check(inputs, outputs, forward);
  check(outputs, inputs, backward);
}

}  // namespace

TEMPLATE_TEST_CASE("max_pool2d on CUDA equals the CPU's", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  for (const Case& c : kCases) {
    CAPTURE(c.shape.n, c.shape.c, c.shape.h, c.shape.w, c.shape.kernel_h, c.shape.kernel_w, c.offset);
    // Few different values, so that there are equal ones, whose first counts.
    auto x = random_elements<float>(x_size(c.shape), -3, 3, 1);
    for (float& value : x) value = std::round(value);
    check_max(c, converted<TestType>(x));
  }
}

TEMPLATE_TEST_CASE("max_pool2d on CUDA lets NaN win, and knows infinities", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  for (const std::int64_t offset : {0, 1}) {
    const Case c{shape_of(2, 16, 8, 9, 3, 3, 2, 2, 1, 1), offset};
    auto x = random_elements<float>(x_size(c.shape), -1, 1, 4);
    for (std::size_t i = 0; i < x.size(); i += 7)
      x[i] = i % 3 == 0 ? kNaN<float> : i % 3 == 1 ? kInf<float> : -kInf<float>;
    check_max(c, converted<TestType>(x));
    check_max(c, std::vector<TestType>(x.size(), TestType(-kInf<float>)));
    check_max(c, std::vector<TestType>(x.size(), TestType(kNaN<float>)));
  }
}

TEMPLATE_TEST_CASE("avg_pool2d on CUDA agrees with the CPU's", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  for (const Case& c : kCases) {
    if (c.shape.dilation_h != 1) continue;
    for (const bool include_pad : {true, false}) {
      CAPTURE(c.shape.n, c.shape.c, c.shape.h, c.shape.w, c.shape.kernel_h, c.shape.kernel_w, c.offset, include_pad);
      Pool2dShape s = c.shape;
      s.count_include_pad = include_pad;
      check_average<TestType>(
          x_size(s), y_size(s), c.offset, 40,
          [&]<class T>(auto on, const T* x, T* y) { kernels::avg_pool2d_forward<T>(on, s, x, y); },
          [&]<class T>(auto on, const T* g, T* grad_x) { kernels::avg_pool2d_backward<T>(on, s, g, grad_x); });
    }
  }
}

TEMPLATE_TEST_CASE("adaptive_avg_pool2d on CUDA agrees with the CPU's", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  struct Sizes {
    std::int64_t n, h, w, c, p, q, offset;
  };
  const Sizes cases[] = {{2, 7, 7, 64, 1, 1, 0}, {1, 13, 11, 24, 6, 5, 0}, {2, 3, 4, 16, 5, 7, 0},
                         {1, 6, 6, 9, 6, 6, 0},  {2, 7, 7, 64, 1, 1, 1},   {1, 33, 3, 3, 2, 1, 0},
                         {1, 1, 1, 8, 1, 1, 0},  {0, 4, 4, 8, 1, 1, 0},    {1, 7, 9, 272, 1, 1, 0}};
  for (const auto& [n, h, w, c, p, q, offset] : cases) {
    CAPTURE(n, h, w, c, p, q, offset);
    check_average<TestType>(
        n * h * w * c, n * p * q * c, offset, 40,
        [&]<class T>(auto on, const T* x, T* y) {
          kernels::adaptive_avg_pool2d_forward<T>(on, n, h, w, c, p, q, x, y);
        },
        [&]<class T>(auto on, const T* g, T* grad_x) {
          kernels::adaptive_avg_pool2d_backward<T>(on, n, h, w, c, p, q, g, grad_x);
        });
  }
}

TEST_CASE("adaptive_avg_pool2d on CUDA loops over more large windows than there are blocks") {
  if (!have_cuda()) return;
  const std::int64_t n = 16'500, h = 6, w = 6;
  check_average<float>(
      n * h * w, n, 0, 40,
      [&]<class T>(auto on, const T* x, T* y) { kernels::adaptive_avg_pool2d_forward<T>(on, n, h, w, 1, 1, 1, x, y); },
      [&]<class T>(auto on, const T* g, T* grad_x) {
        kernels::adaptive_avg_pool2d_backward<T>(on, n, h, w, 1, 1, 1, g, grad_x);
      });
}

TEST_CASE("A pooled sum has the same bits whatever the buffers' alignment") {
  if (!have_cuda()) return;
  const std::int64_t n = 1, h = 9, w = 11, c = 64;
  const auto x = random_elements<float>(n * h * w * c, 0, 1, 5);
  std::vector<std::vector<float>> results;
  for (const std::int64_t offset : {0, 1}) {
    const DeviceBuffer<float> source(x, offset), target(n * c, offset);
    kernels::adaptive_avg_pool2d_forward<float>(cuda_stream(), n, h, w, c, 1, 1, source.data(), target.data());
    results.push_back(target.download());
  }
  CHECK(same_bits(results[0], results[1]));
}
