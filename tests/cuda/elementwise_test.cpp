#include <lockstep/kernels/elementwise.h>

#include <cmath>
#include <limits>

#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

constexpr UnaryOp kUnaryOps[] = {UnaryOp::neg,  UnaryOp::exp,     UnaryOp::log, UnaryOp::sqrt,
                                 UnaryOp::relu, UnaryOp::sigmoid, UnaryOp::tanh};
constexpr BinaryOp kBinaryOps[] = {BinaryOp::add, BinaryOp::sub, BinaryOp::mul, BinaryOp::div};
constexpr std::int64_t kSizes[] = {0, 1, 3, 4, 7, 8, 31, 32, 33, 255, 256, 257, 1023, 1025, 5000};

std::vector<double> unary_on_cpu(UnaryOp op, const std::vector<double>& x) {
  std::vector<double> y(x.size());
  kernels::unary_forward<double>(kOnCpu, op, static_cast<std::int64_t>(x.size()), x.data(), y.data());
  return y;
}

/// Buffers of x and of the result, both `offset` elements behind an aligned address.
template <class T>
std::vector<T> unary_on_cuda(UnaryOp op, const std::vector<T>& x, std::int64_t offset) {
  const DeviceBuffer<T> from(x, offset), to(from.size(), offset);
  kernels::unary_forward<T>(cuda_stream(), op, from.size(), from.data(), to.data());
  return to.download();
}

/// The operands of a broadcast: which of sizes each has (the others are 1).
struct Broadcast {
  std::vector<std::int64_t> sizes;
  std::vector<bool> a_has, b_has;
};
const Broadcast kBroadcasts[] = {
    {{}, {}, {}},
    {{1}, {true}, {false}},
    {{37}, {true}, {false}},
    {{64}, {true}, {false}},
    {{64}, {false}, {true}},
    {{7, 16}, {true, true}, {false, true}},  // a bias in vectors
    {{7, 16}, {true, true}, {true, false}},
    {{5, 13}, {true, true}, {false, true}},  // and in single elements
    {{5, 13}, {true, false}, {false, true}},
    {{3, 4, 32}, {true, false, true}, {false, true, true}},
    {{3, 5, 2, 8}, {true, false, true, false}, {false, true, false, true}},
    {{2, 1, 2, 3, 1, 2, 2, 8},
     {true, true, false, true, true, false, true, true},
     {true, true, true, false, true, true, true, true}},
    {{0, 8}, {true, true}, {false, true}},
    {{300, 1, 40}, {true, true, true}, {false, true, true}},
};

BroadcastShape shape_of(const Broadcast& b) {
  BroadcastShape shape;
  shape.rank = static_cast<int>(b.sizes.size());
  std::int64_t a_stride = 1, b_stride = 1;
  for (std::size_t d = b.sizes.size(); d-- > 0;) {
    shape.sizes[d] = b.sizes[d];
    shape.a_strides[d] = b.a_has[d] ? a_stride : 0;
    shape.b_strides[d] = b.b_has[d] ? b_stride : 0;
    if (b.a_has[d]) a_stride *= b.sizes[d];
    if (b.b_has[d]) b_stride *= b.sizes[d];
  }
  return shape;
}

std::int64_t count(const Broadcast& b, const std::vector<bool>* has) {
  std::int64_t n = 1;
  for (std::size_t d = 0; d < b.sizes.size(); ++d) n *= !has || (*has)[d] ? b.sizes[d] : 1;
  return n;
}

}  // namespace

TEMPLATE_TEST_CASE("CUDA unary ops and their gradients agree with the CPU's in double", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  for (const UnaryOp op : kUnaryOps) {
    for (const std::int64_t n : kSizes) {
      for (const std::int64_t offset : {0, 1}) {
        CAPTURE(static_cast<int>(op), n, offset);
        const bool positive = op == UnaryOp::log || op == UnaryOp::sqrt;
        const auto x = random_elements<T>(n, positive ? 0.01 : -4, 4);
        const auto y = unary_on_cuda(op, x, offset);
        // expf, logf and tanhf are within two units in the last place, a unit being up to two roundings.
        CHECK(close_to(y, unary_on_cpu(op, converted<double>(x)), error_bound<T>(8)));
        CHECK(same_bits(unary_on_cuda(op, x, offset), y));

        const auto& saved = op == UnaryOp::log ? x : y;
        const auto g = random_elements<T>(n, -1, 1, 1);
        const DeviceBuffer<T> saved_there(saved, offset), grad(g, offset), out(n, offset);
        kernels::unary_backward<T>(cuda_stream(), op, n, op == UnaryOp::neg ? nullptr : saved_there.data(), grad.data(),
                                   out.data());
        std::vector<double> expected(x.size());
        const auto saved_here = converted<double>(saved), g_here = converted<double>(g);
        kernels::unary_backward<double>(kOnCpu, op, n, saved_here.data(), g_here.data(), expected.data());
        CHECK(close_to(out.download(), expected, error_bound<T>(6)));
        // In place, on the gradient.
        kernels::unary_backward<T>(cuda_stream(), op, n, op == UnaryOp::neg ? nullptr : saved_there.data(), grad.data(),
                                   grad.data());
        CHECK(same_bits(grad.download(), out.download()));
        kernels::unary_forward<T>(cuda_stream(), op, n, saved_there.data(), saved_there.data());
        if (op == UnaryOp::log) CHECK(same_bits(saved_there.download(), y));
      }
    }
  }
}

TEMPLATE_TEST_CASE("CUDA unary ops treat NaN and infinities as the CPU does", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  std::vector<T> x;
  for (const float v : {kNaN<float>, kInf<float>, -kInf<float>, 0.0f, -0.0f, -1.0f, 80.0f, -80.0f, 1e-7f})
    x.push_back(T(v));
  const auto n = static_cast<std::int64_t>(x.size());
  for (const UnaryOp op : kUnaryOps) {
    CAPTURE(static_cast<int>(op));
    const auto wide = converted<double>(x);
    const auto y = converted<double>(unary_on_cuda(op, x, 0));
    const auto expected = unary_on_cpu(op, wide);
    std::vector<double> rounded;  // to T: beyond its range lies infinity
    for (const double v : expected) rounded.push_back(converted<double>(converted<T>(std::vector<double>{v}))[0]);
    CHECK(close(y, rounded, error_bound<T>(8)));
    for (std::size_t i = 0; i < x.size(); ++i)
      CHECK((std::isnan(y[i]) || std::signbit(y[i]) == std::signbit(expected[i])));
    const std::vector<T> g(x.size(), T(1.0f));
    const DeviceBuffer<T> saved(x), grad(g), out(n);
    kernels::unary_backward<T>(cuda_stream(), op, n, saved.data(), grad.data(), out.data());
    std::vector<double> expected_grad(x.size());
    kernels::unary_backward<double>(kOnCpu, op, n, wide.data(), std::vector<double>(x.size(), 1.0).data(),
                                    expected_grad.data());
    const auto rounded_grad = converted<double>(converted<T>(expected_grad));
    CHECK(close(converted<double>(out.download()), rounded_grad, error_bound<T>(6)));
  }
  if constexpr (std::is_same_v<T, float>) {  // small results keep their relative precision
    const auto y = unary_on_cuda(UnaryOp::sigmoid, std::vector<float>{-80.0f, -30.0f}, 0);
    CHECK(static_cast<double>(y[0]) == Approx(1 / (1 + std::exp(80.0))).epsilon(1e-6));
    CHECK(static_cast<double>(y[1]) == Approx(1 / (1 + std::exp(30.0))).epsilon(1e-6));
  }
}

TEMPLATE_TEST_CASE("CUDA binary ops broadcast as the CPU's do", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  int cases = 0;
  for (const Broadcast& b : kBroadcasts) {
    for (const BinaryOp op : kBinaryOps) {
      for (const std::int64_t a_offset : {0, 1}) {
        for (const std::int64_t b_offset : {0, 1}) {
          CAPTURE(b.sizes, static_cast<int>(op), a_offset, b_offset);
          const BroadcastShape shape = shape_of(b);
          const auto a = random_elements<T>(count(b, &b.a_has)), c = random_elements<T>(count(b, &b.b_has), 0.5, 2, 1);
          const std::int64_t n = count(b, nullptr);
          const DeviceBuffer<T> a_there(a, a_offset), b_there(c, b_offset), out(n, a_offset);
          kernels::binary<T>(cuda_stream(), op, shape, a_there.data(), b_there.data(), out.data());
          std::vector<double> expected(static_cast<std::size_t>(n));
          kernels::binary<double>(kOnCpu, op, shape, converted<double>(a).data(), converted<double>(c).data(),
                                  expected.data());
          const auto result = out.download();
          CHECK(close_to(result, expected, error_bound<T>(1)));
          if (count(b, &b.a_has) == n) {
            kernels::binary<T>(cuda_stream(), op, shape, a_there.data(), b_there.data(), a_there.data());
            CHECK(same_bits(a_there.download(), result));
          }
          ++cases;
        }
      }
    }
  }
  std::printf("CUDA broadcasts: %d\n", cases);
}

TEMPLATE_TEST_CASE("CUDA binary ops take operands of any strides, and any one buffer that is not aligned", "", float,
                   float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  struct Strides {
    std::int64_t row, column;
  };
  const std::int64_t rows = 10, columns = 32;
  for (const Strides& of_a : {Strides{32, 1}, {0, 1}, {33, 1}, {1, 10}, {70, 2}}) {
    for (const Strides& of_b : {Strides{32, 1}, {32, 0}, {33, 1}, {1, 10}}) {
      for (const int unaligned : {0, 1, 2, 3}) {  // none, a, b, out
        CAPTURE(of_a.row, of_a.column, of_b.row, of_b.column, unaligned);
        BroadcastShape shape;
        shape.rank = 2;
        shape.sizes[0] = rows;
        shape.sizes[1] = columns;
        shape.a_strides[0] = of_a.row;
        shape.a_strides[1] = of_a.column;
        shape.b_strides[0] = of_b.row;
        shape.b_strides[1] = of_b.column;
        const auto a = random_elements<T>(700), b = random_elements<T>(700, 0.5, 2, 1);
        const DeviceBuffer<T> a_there(a, unaligned == 1), b_there(b, unaligned == 2), out(320, unaligned == 3);
        kernels::binary<T>(cuda_stream(), BinaryOp::sub, shape, a_there.data(), b_there.data(), out.data());
        std::vector<double> expected(320);
        kernels::binary<double>(kOnCpu, BinaryOp::sub, shape, converted<double>(a).data(), converted<double>(b).data(),
                                expected.data());
        CHECK(close_to(out.download(), expected, error_bound<T>(1)));
      }
    }
  }
  const auto a = random_elements<T>(320), b = random_elements<T>(320, 0.5, 2, 1);
  BroadcastShape equal;
  equal.rank = 1;
  equal.sizes[0] = 320;
  equal.a_strides[0] = equal.b_strides[0] = 1;
  std::vector<double> expected(320);
  kernels::binary<double>(kOnCpu, BinaryOp::mul, equal, converted<double>(a).data(), converted<double>(b).data(),
                          expected.data());
  for (const int unaligned : {0, 1, 2, 3}) {
    CAPTURE(unaligned);
    const DeviceBuffer<T> a_there(a, unaligned == 1), b_there(b, unaligned == 2), out(320, unaligned == 3);
    kernels::binary<T>(cuda_stream(), BinaryOp::mul, equal, a_there.data(), b_there.data(), out.data());
    CHECK(close_to(out.download(), expected, error_bound<T>(1)));
  }
}

TEMPLATE_TEST_CASE("CUDA binary ops, affine and add_scaled over equal operands", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  for (const std::int64_t n : kSizes) {
    for (const std::int64_t offset : {0, 1}) {
      CAPTURE(n, offset);
      const auto a = random_elements<T>(n), b = random_elements<T>(n, 0.5, 2, 1);
      const auto a_here = converted<double>(a), b_here = converted<double>(b);
      const DeviceBuffer<T> a_there(a, offset), b_there(b), out(n, offset);
      BroadcastShape shape;
      shape.rank = 1;
      shape.sizes[0] = n;
      shape.a_strides[0] = shape.b_strides[0] = 1;
      std::vector<double> expected(a.size());
      for (const BinaryOp op : kBinaryOps) {
        kernels::binary<T>(cuda_stream(), op, shape, a_there.data(), b_there.data(), out.data());
        kernels::binary<double>(kOnCpu, op, shape, a_here.data(), b_here.data(), expected.data());
        CHECK(close_to(out.download(), expected, error_bound<T>(1)));
      }
      kernels::affine<T>(cuda_stream(), n, a_there.data(), 0.3f, -1.7f, out.data());
      kernels::affine<double>(kOnCpu, n, a_here.data(), static_cast<double>(0.3f), static_cast<double>(-1.7f),
                              expected.data());
      CHECK(close_to(out.download(), expected, error_bound<T>(3)));
      out.upload(b);
      kernels::add_scaled<T>(cuda_stream(), n, a_there.data(), -0.6f, out.data());
      expected = b_here;
      kernels::add_scaled<double>(kOnCpu, n, a_here.data(), static_cast<double>(-0.6f), expected.data());
      CHECK(close_to(out.download(), expected, error_bound<T>(3)));
      if constexpr (std::is_same_v<T, float>) {  // no contraction: the CPU's bits
        auto y = b;
        kernels::add_scaled<float>(kOnCpu, n, a.data(), -0.6f, y.data());
        CHECK(same_bits(out.download(), y));
      }
    }
  }
}
