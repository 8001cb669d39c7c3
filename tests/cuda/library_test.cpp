// Convolutions and products on CUDA: cuDNN and cuBLASLt in a real build, forwards to the CPU in an emulated one.
#include <string>

#include <lockstep/core/base/math_mode.h>
#include <lockstep/kernels/conv2d.h>
#include <lockstep/kernels/gemm.h>

#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

std::size_t count(std::int64_t n) { return static_cast<std::size_t>(n); }

/// k terms below 1, added up in float in any order; then one rounding to T.
template <class T>
double sum_bound(std::int64_t k) {
  return error_bound<T>(2 * static_cast<double>(k + 1)) * std::sqrt(static_cast<double>(k + 1));
}

struct Convolution {
  Conv2dShape shape;
  std::int64_t offset = 0;  ///< of all buffers, in elements
};

/// Sizes n, c, h, w, k; kernel; stride; padding; dilation; groups.
Conv2dShape shape_of(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w, std::int64_t k, std::int64_t r,
                     std::int64_t s, std::int64_t stride = 1, std::int64_t pad = 0, std::int64_t dilation = 1,
                     std::int64_t groups = 1) {
  Conv2dShape d{};
  d.n = n, d.c = c, d.h = h, d.w = w, d.k = k, d.r = r, d.s = s;
  d.stride_h = d.stride_w = stride, d.pad_h = d.pad_w = pad, d.dilation_h = d.dilation_w = dilation, d.groups = groups;
  d.p = (h + 2 * pad - dilation * (r - 1) - 1) / stride + 1;
  d.q = (w + 2 * pad - dilation * (s - 1) - 1) / stride + 1;
  return d;
}

const Convolution kConvolutions[] = {
    {shape_of(2, 8, 7, 6, 16, 3, 3, 1, 1)},    {shape_of(2, 16, 8, 8, 8, 3, 3, 2, 1)},
    {shape_of(1, 3, 9, 9, 8, 5, 5, 2, 2)},     {shape_of(2, 16, 4, 4, 24, 1, 1)},
    {shape_of(2, 8, 9, 9, 8, 3, 3, 1, 2, 2)},  {shape_of(1, 8, 6, 6, 16, 3, 3, 1, 1, 1, 2)},
    {shape_of(2, 8, 7, 6, 16, 3, 3, 1, 1), 1}, {shape_of(0, 8, 7, 6, 16, 3, 3, 1, 1)},
};

template <class T>
void check_convolution(const Convolution& c) {
  const Conv2dShape& s = c.shape;
  CAPTURE(s.n, s.c, s.h, s.w, s.k, s.r, s.groups, c.offset);
  const std::int64_t x_size = s.n * s.h * s.w * s.c, w_size = s.k * s.r * s.s * (s.c / s.groups),
                     y_size = s.n * s.p * s.q * s.k;
  const auto x = random_elements<T>(x_size, -1, 1, 1), w = random_elements<T>(w_size, -1, 1, 2),
             bias = random_elements<T>(s.k, -1, 1, 3), grad_y = random_elements<T>(y_size, -1, 1, 4);
  const DeviceBuffer<T> dx(x, c.offset), dw(w, c.offset), dbias(bias, c.offset), dgrad(grad_y, c.offset);
  const auto wx = converted<double>(x), ww = converted<double>(w), wbias = converted<double>(bias),
             wgrad = converted<double>(grad_y);
  const auto scratch = [&](std::size_t bytes) { return DeviceBuffer<unsigned char>(static_cast<std::int64_t>(bytes)); };
  const std::int64_t terms = s.r * s.s * s.c / s.groups + 1;

  for (const int variant : {0, 1, 2, 3}) {
    const bool biased = variant % 2 == 1, relu = variant >= 2;
    std::vector<double> expected(count(y_size));
    kernels::conv2d_forward<double>(kOnCpu, s, wx.data(), ww.data(), biased ? wbias.data() : nullptr, relu,
                                    expected.data(), nullptr);
    const DeviceBuffer<T> y(y_size, c.offset);
    const auto workspace = scratch(kernels::conv2d_forward_workspace<T>(cuda_stream(), s, biased, relu));
    kernels::conv2d_forward<T>(cuda_stream(), s, dx.data(), dw.data(), biased ? dbias.data() : nullptr, relu, y.data(),
                               workspace.data());
    CHECK(close_to(y.download(), expected, sum_bound<T>(terms)));
  }

  std::vector<double> expected_x(count(x_size)), expected_w(count(w_size)), expected_bias(count(s.k));
  kernels::conv2d_backward_data<double>(kOnCpu, s, wgrad.data(), ww.data(), expected_x.data(), nullptr);
  kernels::conv2d_backward_weight<double>(kOnCpu, s, wx.data(), wgrad.data(), expected_w.data(), expected_bias.data(),
                                          nullptr);
  const DeviceBuffer<T> grad_x(x_size, c.offset), grad_w(w_size, c.offset), grad_bias(s.k, c.offset);
  {
    const auto workspace = scratch(kernels::conv2d_backward_data_workspace<T>(cuda_stream(), s));
    kernels::conv2d_backward_data<T>(cuda_stream(), s, dgrad.data(), dw.data(), grad_x.data(), workspace.data());
    CHECK(close_to(grad_x.download(), expected_x, sum_bound<T>(s.r * s.s * s.k)));
  }
  for (const bool biased : {false, true}) {
    const auto workspace = scratch(kernels::conv2d_backward_weight_workspace<T>(cuda_stream(), s));
    kernels::conv2d_backward_weight<T>(cuda_stream(), s, dx.data(), dgrad.data(), grad_w.data(),
                                       biased ? grad_bias.data() : nullptr, workspace.data());
    CHECK(close_to(grad_w.download(), expected_w, sum_bound<T>(s.n * s.p * s.q)));
  }
  CHECK(close_to(grad_bias.download(), expected_bias, sum_bound<T>(s.n * s.p * s.q)));
}

struct Product {
  std::int64_t m, n, k;
  std::int64_t padding = 0;  ///< of each matrix's rows as stored
  std::int64_t offset = 0;   ///< of all buffers, in elements
};

template <class T>
void check_product(const Product& p, bool transpose_a, bool transpose_b, float beta) {
  CAPTURE(p.m, p.n, p.k, p.padding, p.offset, transpose_a, transpose_b, beta);
  const std::int64_t lda = (transpose_a ? p.m : p.k) + p.padding, ldb = (transpose_b ? p.k : p.n) + p.padding;
  const std::int64_t ldc = p.n + p.padding;
  const auto a = random_elements<T>((transpose_a ? p.k : p.m) * lda, -1, 1, 1);
  const auto b = random_elements<T>((transpose_b ? p.n : p.k) * ldb, -1, 1, 2);
  auto c = random_elements<T>(p.m * ldc, -1, 1, 3);
  if (beta == 0) {  // not to be read; what lies between the rows stays as it was
    for (std::int64_t i = 0; i < p.m * ldc; ++i) {
      if (i % ldc < p.n) c[count(i)] = T(kNaN<float>);
    }
  }
  const auto wide_a = converted<double>(a), wide_b = converted<double>(b);
  auto expected = converted<double>(c);
  kernels::gemm<double>(kOnCpu, transpose_a, transpose_b, p.m, p.n, p.k, wide_a.data(), lda, wide_b.data(), ldb, beta,
                        expected.data(), ldc);
  const DeviceBuffer<T> left(a, p.offset), right(b, p.offset), out(c, p.offset);
  kernels::gemm<T>(cuda_stream(), transpose_a, transpose_b, p.m, p.n, p.k, left.data(), lda, right.data(), ldb, beta,
                   out.data(), ldc);
  CHECK(close_to(out.download(), expected, sum_bound<T>(p.k)));
}

template <class T>
void check_linear(std::int64_t rows, std::int64_t out, std::int64_t in) {
  const auto x = random_elements<T>(rows * in, -1, 1, 1), w = random_elements<T>(out * in, -1, 1, 2),
             bias = random_elements<T>(out, -1, 1, 3);
  const auto wx = converted<double>(x), ww = converted<double>(w), wbias = converted<double>(bias);
  const DeviceBuffer<T> dx(x), dw(w), dbias(bias), y(rows * out);
  for (const int variant : {0, 1, 2, 3}) {
    const bool biased = variant % 2 == 1, relu = variant >= 2;
    CAPTURE(rows, out, in, biased, relu);
    std::vector<double> expected(count(rows * out));
    kernels::linear_forward<double>(kOnCpu, rows, out, in, wx.data(), ww.data(), biased ? wbias.data() : nullptr, relu,
                                    expected.data());
    kernels::linear_forward<T>(cuda_stream(), rows, out, in, dx.data(), dw.data(), biased ? dbias.data() : nullptr,
                               relu, y.data());
    CHECK(close_to(y.download(), expected, sum_bound<T>(in + 1)));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("conv2d on CUDA agrees with the CPU's in all passes", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  for (const Convolution& c : kConvolutions) check_convolution<TestType>(c);
}

TEST_CASE("conv2d on CUDA with the fastest of the timed plans") {
  if (!have_cuda()) return;
  cudnn_benchmark(true);
  check_convolution<float>(kConvolutions[0]);
  cudnn_benchmark(false);
  CHECK(!is_cudnn_benchmark());
}

TEMPLATE_TEST_CASE("gemm on CUDA agrees with the CPU's", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  const Product products[] = {{1, 1, 1},    {16, 24, 32},      {17, 9, 13, 1}, {33, 20, 31, 4},
                              {7, 5, 0, 2}, {12, 16, 8, 0, 1}, {0, 5, 3},      {5, 0, 3}};
  for (const Product& p : products) {
    for (const bool transpose_a : {false, true}) {
      for (const bool transpose_b : {false, true}) {
        check_product<TestType>(p, transpose_a, transpose_b, 0);
        check_product<TestType>(p, transpose_a, transpose_b, 1);
      }
    }
  }
}

TEMPLATE_TEST_CASE("linear_forward on CUDA agrees with the CPU's", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  check_linear<TestType>(5, 10, 33);
  check_linear<TestType>(32, 16, 64);
  check_linear<TestType>(3, 4, 0);
  check_linear<TestType>(0, 4, 3);
}
