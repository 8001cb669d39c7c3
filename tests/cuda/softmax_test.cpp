#include <lockstep/kernels/softmax.h>

#include <cmath>

#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

struct Sizes {
  std::int64_t rows, n;
};
// Rows for a warp, for a block, and for a larger block that may or may not keep all of one or two; whole vectors and
// not.
constexpr Sizes kSizes[] = {{0, 10},   {3, 0},      {3, 1},      {5, 10},     {33, 31},   {9, 32},   {8, 33},
                            {4, 257},  {2, 1000},   {2, 1024},   {2, 1025},   {3, 1032},  {2, 4097}, {1, 8192},
                            {2, 8200}, {1, 12'289}, {1, 24'576}, {2, 24'584}, {1, 26'001}};

template <class T>
using Forward = void (*)(CudaStream, std::int64_t, std::int64_t, const T*, T*);
template <class T>
using Backward = void (*)(CudaStream, std::int64_t, std::int64_t, const T*, const T*, T*);
using CpuForward = void (*)(Cpu, std::int64_t, std::int64_t, const double*, double*);
using CpuBackward = void (*)(Cpu, std::int64_t, std::int64_t, const double*, const double*, double*);

template <class T>
void check(const Sizes& s, Forward<T> forward, CpuForward cpu_forward, Backward<T> backward, CpuBackward cpu_backward) {
  const auto x = random_elements<T>(s.rows * s.n, -6, 6), g = random_elements<T>(s.rows * s.n, -1, 1, 1);
  std::vector<T> first, first_grad;
  for (const std::int64_t offset : {0, 1}) {
    CAPTURE(s.rows, s.n, offset);
    const DeviceBuffer<T> in(x, offset), out(in.size(), offset);
    forward(cuda_stream(), s.rows, s.n, in.data(), out.data());
    const auto y = out.download();
    std::vector<double> expected(x.size());
    cpu_forward(kOnCpu, s.rows, s.n, converted<double>(x).data(), expected.data());
    // The sum of n terms is a tree below a chain of n / 32 or n / 256 additions.
    const double steps = 16.0 + static_cast<double>(s.n) / 32;
    CHECK(close_to(y, expected, error_bound<T>(steps)));
    forward(cuda_stream(), s.rows, s.n, in.data(), in.data());  // in place
    CHECK(same_bits(in.download(), y));

    const DeviceBuffer<T> grad(g, offset), grad_x(in.size(), offset);
    backward(cuda_stream(), s.rows, s.n, out.data(), grad.data(), grad_x.data());
    const auto result = grad_x.download();
    cpu_backward(kOnCpu, s.rows, s.n, converted<double>(y).data(), converted<double>(g).data(), expected.data());
    // Relative to Σ |g|, which the sum of a row may cancel to much less.
    CHECK(close_to(result, expected, error_bound<T>(4 * steps)));
    backward(cuda_stream(), s.rows, s.n, out.data(), grad.data(), grad.data());
    CHECK(same_bits(grad.download(), result));
    if (offset == 0) {
      first = y;
      first_grad = result;
    } else {  // alignment changes no bit
      CHECK(same_bits(y, first));
      CHECK(same_bits(result, first_grad));
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("CUDA softmax and its gradient agree with the CPU's in double", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  for (const Sizes& s : kSizes) {
    check<T>(s, kernels::softmax_forward<T>, kernels::softmax_forward<double>, kernels::softmax_backward<T>,
             kernels::softmax_backward<double>);
  }
}

TEMPLATE_TEST_CASE("CUDA log_softmax and its gradient agree with the CPU's in double", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  for (const Sizes& s : kSizes) {
    check<T>(s, kernels::log_softmax_forward<T>, kernels::log_softmax_forward<double>, kernels::log_softmax_backward<T>,
             kernels::log_softmax_backward<double>);
  }
}

TEST_CASE("CUDA softmax of huge, infinite and NaN values is the CPU's") {
  if (!have_cuda()) return;
  for (const std::int64_t n : {10, 1500, 9001, 26'000}) {
    std::vector<float> x;
    for (const float special : {1e30f, -1e30f, kInf<float>, -kInf<float>, kNaN<float>}) {
      auto row = random_values<float>(n, -2, 2);
      row[static_cast<std::size_t>(n - 3)] = special;
      x.insert(x.end(), row.begin(), row.end());
    }
    x.insert(x.end(), static_cast<std::size_t>(n), -kInf<float>);
    const std::int64_t rows = 6;
    CAPTURE(n);
    const DeviceBuffer<float> in(x), out(in.size());
    std::vector<double> expected(x.size());
    kernels::softmax_forward<float>(cuda_stream(), rows, n, in.data(), out.data());
    kernels::softmax_forward<double>(kOnCpu, rows, n, converted<double>(x).data(), expected.data());
    CHECK(close_to(out.download(), expected, 1e-5));
    kernels::log_softmax_forward<float>(cuda_stream(), rows, n, in.data(), out.data());
    kernels::log_softmax_forward<double>(kOnCpu, rows, n, converted<double>(x).data(), expected.data());
    CHECK(close_to(out.download(), expected, 1e-5));
  }
}

TEST_CASE("CUDA softmax loops over more rows than there are blocks") {
  if (!have_cuda()) return;
  for (const Sizes& s : {Sizes{4100, 1032}, {32'900, 3}}) {
    CAPTURE(s.rows, s.n);
    const auto x = random_values<float>(s.rows * s.n, -2, 2), g = random_values<float>(s.rows * s.n, -1, 1, 1);
    const DeviceBuffer<float> in(x), out(in.size()), grad(g), grad_x(in.size());
    std::vector<float> y(x.size()), expected(x.size());
    kernels::softmax_forward<float>(kOnCpu, s.rows, s.n, x.data(), y.data());
    kernels::softmax_forward<float>(cuda_stream(), s.rows, s.n, in.data(), out.data());
    CHECK(close(out.download(), y, 1e-5));
    kernels::softmax_backward<float>(kOnCpu, s.rows, s.n, y.data(), g.data(), expected.data());
    kernels::softmax_backward<float>(cuda_stream(), s.rows, s.n, out.data(), grad.data(), grad_x.data());
    CHECK(close(grad_x.download(), expected, 1e-5));
  }
}
