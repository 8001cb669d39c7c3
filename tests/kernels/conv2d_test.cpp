#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/conv2d.h>

using lockstep::Conv2dShape;
using lockstep::kOnCpu;
namespace kernels = lockstep::kernels;

namespace {

struct Threads {
  explicit Threads(int threads) : before(lockstep::num_threads()) { lockstep::set_num_threads(threads); }
  ~Threads() { lockstep::set_num_threads(before); }
  int before;
};

std::string describe(const Conv2dShape& d) {
  const auto text = [](std::int64_t value) { return std::to_string(value) + " "; };
  return "n c h w " + text(d.n) + text(d.c) + text(d.h) + text(d.w) + "k r s " + text(d.k) + text(d.r) + text(d.s) +
         "p q " + text(d.p) + text(d.q) + "stride " + text(d.stride_h) + text(d.stride_w) + "pad " + text(d.pad_h) +
         text(d.pad_w) + "dilation " + text(d.dilation_h) + text(d.dilation_w) + "groups " + text(d.groups);
}

std::size_t count_x(const Conv2dShape& d) { return static_cast<std::size_t>(d.n * d.h * d.w * d.c); }
std::size_t count_w(const Conv2dShape& d) { return static_cast<std::size_t>(d.k * d.r * d.s * (d.c / d.groups)); }
std::size_t count_y(const Conv2dShape& d) { return static_cast<std::size_t>(d.n * d.p * d.q * d.k); }

void set_output(Conv2dShape& d) {
  d.p = (d.h + 2 * d.pad_h - d.dilation_h * (d.r - 1) - 1) / d.stride_h + 1;
  d.q = (d.w + 2 * d.pad_w - d.dilation_w * (d.s - 1) - 1) / d.stride_w + 1;
}

Conv2dShape make(std::int64_t n, std::int64_t c, std::int64_t size, std::int64_t k, std::int64_t kernel,
                 std::int64_t stride, std::int64_t pad, std::int64_t dilation = 1, std::int64_t groups = 1) {
  Conv2dShape d{.n = n, .c = c, .h = size, .w = size, .k = k, .r = kernel, .s = kernel, .p = 0, .q = 0};
  d.stride_h = d.stride_w = stride;
  d.pad_h = d.pad_w = pad;
  d.dilation_h = d.dilation_w = dilation;
  d.groups = groups;
  set_output(d);
  return d;
}

Conv2dShape random_shape(std::mt19937_64& random) {
  const auto pick = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  for (;;) {
    Conv2dShape d{.n = pick(1, 5),
                  .c = 0,
                  .h = pick(1, 13),
                  .w = pick(1, 13),
                  .k = 0,
                  .r = pick(1, 4),
                  .s = pick(1, 4),
                  .p = 0,
                  .q = 0};
    const std::int64_t kind = pick(0, 9);
    if (kind < 6) {
      d.c = pick(0, 2) == 0 ? 16 * pick(1, 4) : pick(1, 40);
      d.k = pick(0, 2) == 0 ? 16 * pick(1, 4) : pick(1, 40);
    } else if (kind < 8) {
      d.groups = pick(2, 4);
      d.c = d.groups * pick(1, 20);
      d.k = d.groups * pick(1, 20);
    } else {
      d.groups = d.c = pick(1, 40);  // depthwise, with one or two outputs for each channel
      d.k = d.c * pick(1, 2);
    }
    d.stride_h = pick(1, 3), d.stride_w = pick(1, 3);
    d.pad_h = pick(0, 4), d.pad_w = pick(0, 4);
    d.dilation_h = pick(0, 3) == 0 ? pick(2, 5) : 1, d.dilation_w = pick(0, 3) == 0 ? pick(2, 5) : 1;
    if (d.h + 2 * d.pad_h < d.dilation_h * (d.r - 1) + 1 || d.w + 2 * d.pad_w < d.dilation_w * (d.s - 1) + 1) continue;
    set_output(d);
    return d;
  }
}

template <class T>
std::vector<T> random_values(std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);  // both types get the same values
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(uniform(random));
  return values;
}

template <class T>
struct Inputs {
  explicit Inputs(const Conv2dShape& d)
      : x(random_values<T>(count_x(d), 1)),
        w(random_values<T>(count_w(d), 2)),
        bias(random_values<T>(static_cast<std::size_t>(d.k), 3)),
        grad_y(random_values<T>(count_y(d), 4)) {}
  std::vector<T> x, w, bias, grad_y;
};

template <class T>
struct Results {
  std::vector<T> y, y_biased, grad_x, grad_w, grad_bias;
  bool operator==(const Results&) const = default;
};

/// Shows what is written beyond its end, which no sanitizer does: oneDNN's code is made at run time.
template <class T>
class Workspace {
 public:
  explicit Workspace(std::size_t bytes)
      : data(static_cast<T*>(std::aligned_alloc(64, (bytes + kBeyond + 63) / 64 * 64))), bytes_(bytes) {
    std::memset(static_cast<void*>(data), 0xFF, bytes + kBeyond);  // NaN: contents must not matter
  }
  ~Workspace() {
    const auto* beyond = reinterpret_cast<const unsigned char*>(data) + bytes_;
    CHECK(std::all_of(beyond, beyond + kBeyond, [](unsigned char byte) { return byte == 0xFF; }));
    std::free(data);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  T* data;

 private:
  static constexpr std::size_t kBeyond = 4096;
  std::size_t bytes_;
};

/// All passes with the library; every output starts as NaN.
template <class T>
Results<T> run(const Conv2dShape& d, const Inputs<T>& in) {
  const T nan = std::numeric_limits<T>::quiet_NaN();
  Results<T> out{std::vector<T>(count_y(d), nan), std::vector<T>(count_y(d), nan), std::vector<T>(count_x(d), nan),
                 std::vector<T>(count_w(d), nan), std::vector<T>(static_cast<std::size_t>(d.k), nan)};
  for (const bool biased : {false, true}) {
    Workspace<T> workspace(kernels::conv2d_forward_workspace<T>(kOnCpu, d, biased, false));
    kernels::conv2d_forward<T>(kOnCpu, d, in.x.data(), in.w.data(), biased ? in.bias.data() : nullptr, false,
                               biased ? out.y_biased.data() : out.y.data(), workspace.data);
  }
  {
    Workspace<T> workspace(kernels::conv2d_backward_data_workspace<T>(kOnCpu, d));
    kernels::conv2d_backward_data<T>(kOnCpu, d, in.grad_y.data(), in.w.data(), out.grad_x.data(), workspace.data);
  }
  {
    Workspace<T> workspace(kernels::conv2d_backward_weight_workspace<T>(kOnCpu, d));
    kernels::conv2d_backward_weight<T>(kOnCpu, d, in.x.data(), in.grad_y.data(), out.grad_w.data(),
                                       out.grad_bias.data(), workspace.data);
    auto without_bias = out.grad_w;
    kernels::conv2d_backward_weight<T>(kOnCpu, d, in.x.data(), in.grad_y.data(), without_bias.data(), nullptr,
                                       workspace.data);
    CHECK(without_bias == out.grad_w);
  }
  return out;
}

/// The definition: seven loops.
Results<double> naive(const Conv2dShape& d, const Inputs<double>& in) {
  Results<double> out{std::vector<double>(count_y(d)), std::vector<double>(count_y(d)), std::vector<double>(count_x(d)),
                      std::vector<double>(count_w(d)), std::vector<double>(static_cast<std::size_t>(d.k))};
  const std::int64_t channels = d.c / d.groups, outputs = d.k / d.groups;
  for (std::int64_t n = 0; n < d.n; ++n) {
    for (std::int64_t p = 0; p < d.p; ++p) {
      for (std::int64_t q = 0; q < d.q; ++q) {
        for (std::int64_t k = 0; k < d.k; ++k) {
          const auto at_y = static_cast<std::size_t>(((n * d.p + p) * d.q + q) * d.k + k);
          for (std::int64_t r = 0; r < d.r; ++r) {
            for (std::int64_t s = 0; s < d.s; ++s) {
              const std::int64_t h = p * d.stride_h - d.pad_h + r * d.dilation_h;
              const std::int64_t w = q * d.stride_w - d.pad_w + s * d.dilation_w;
              if (h < 0 || h >= d.h || w < 0 || w >= d.w) continue;
              for (std::int64_t c = 0; c < channels; ++c) {
                const auto at_x =
                    static_cast<std::size_t>(((n * d.h + h) * d.w + w) * d.c + k / outputs * channels + c);
                const auto at_w = static_cast<std::size_t>(((k * d.r + r) * d.s + s) * channels + c);
                out.y[at_y] += in.x[at_x] * in.w[at_w];
                out.grad_x[at_x] += in.grad_y[at_y] * in.w[at_w];
                out.grad_w[at_w] += in.grad_y[at_y] * in.x[at_x];
              }
            }
          }
          out.y_biased[at_y] = out.y[at_y] + in.bias[static_cast<std::size_t>(k)];
          out.grad_bias[static_cast<std::size_t>(k)] += in.grad_y[at_y];
        }
      }
    }
  }
  return out;
}

template <class A>
void check_close(const char* what, const std::vector<A>& got, const std::vector<double>& expected,
                 std::int64_t length) {
  // Each addition rounds a partial sum of about sqrt(length) / 3.
  const double steps = static_cast<double>(length);
  const double tolerance =
      static_cast<double>(std::numeric_limits<A>::epsilon()) * (8 * std::sqrt(steps + 1) + steps / 4);
  REQUIRE(got.size() == expected.size());
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(static_cast<double>(got[i]) - expected[i]);
    if (!(difference <= worst)) worst = difference;  // a NaN stays
  }
  INFO(what << " differs by " << worst << ", allowed " << tolerance);
  CHECK(worst <= tolerance);
}

template <class A>
void check_close(const Conv2dShape& d, const Results<A>& got, const Results<double>& expected) {
  const std::int64_t taps = d.r * d.s;
  check_close("y", got.y, expected.y, taps * d.c / d.groups);
  check_close("y with bias", got.y_biased, expected.y_biased, taps * d.c / d.groups + 1);
  check_close("grad_x", got.grad_x, expected.grad_x, taps * d.k / d.groups);
  check_close("grad_w", got.grad_w, expected.grad_w, d.n * d.p * d.q);
  check_close("grad_bias", got.grad_bias, expected.grad_bias, d.n * d.p * d.q);
}

/// Shapes met in networks, and those that reach every way of computing.
std::vector<Conv2dShape> chosen_shapes() {
  std::vector<Conv2dShape> shapes{
      make(3, 3, 32, 64, 7, 2, 3),        // the stem of ResNet
      make(5, 64, 8, 64, 3, 1, 1),        // layer1 at 32×32
      make(3, 64, 8, 128, 3, 2, 1),       // …
      make(3, 64, 8, 128, 1, 2, 0),       // a shortcut
      make(5, 48, 2, 40, 3, 1, 1),        // 2×2 images
      make(5, 40, 2, 48, 3, 2, 1),        // 2×2 to 1×1
      make(7, 64, 1, 48, 3, 1, 1),        // only the centre tap
      make(130, 32, 1, 48, 1, 1, 0),      // a matrix product
      make(2, 16, 16, 32, 3, 1, 24, 24),  // only the centre tap is alive in a large output
      make(1, 16, 40, 32, 3, 1, 1),       // one image: cut by rows
      make(1, 16, 41, 20, 3, 2, 1),        make(1, 16, 41, 20, 1, 2, 0),
      make(1, 3, 64, 64, 11, 4, 2),                                            // the stem of AlexNet
      make(2, 32, 14, 32, 3, 1, 1, 1, 32),                                     // depthwise
      make(2, 32, 14, 32, 3, 2, 1, 1, 32), make(2, 64, 9, 64, 3, 1, 1, 1, 2),  // grouped
      make(2, 12, 9, 8, 3, 1, 1, 1, 4),    make(2, 17, 9, 33, 3, 1, 2, 2),
      make(1, 1, 1, 1, 1, 1, 0),           make(2, 3, 1, 5, 3, 3, 4),    // outputs that see nothing but padding
      make(2, 3, 7, 5, 1, 3, 2),           make(2, 5, 16, 16, 1, 2, 0),  // for which oneDNN's scratchpad is too small
  };
  return shapes;
}

}  // namespace

TEST_CASE("conv2d in double equals the definition", "[conv2d]") {
  std::mt19937_64 random(7);
  std::vector<Conv2dShape> shapes = chosen_shapes();
  for (int i = 0; i < 60; ++i) shapes.push_back(random_shape(random));
  for (const Conv2dShape& d : shapes) {
    INFO(describe(d));
    const Inputs<double> in(d);
    const Threads scope(2);
    check_close(d, run(d, in), naive(d, in));
  }
}

TEST_CASE("conv2d in double gives the same bits for every number of threads", "[conv2d]") {
  std::mt19937_64 random(8);
  std::vector<Conv2dShape> shapes = chosen_shapes();
  for (int i = 0; i < 20; ++i) shapes.push_back(random_shape(random));
  for (const Conv2dShape& d : shapes) {
    INFO(describe(d));
    const Inputs<double> in(d);
    const auto with = [&](int threads) {
      const Threads scope(threads);
      return run(d, in);
    };
    const Results<double> one = with(1);
    CHECK(with(2) == one);
    CHECK(with(3) == one);
    CHECK(with(7) == one);
  }
}

TEST_CASE("conv2d in float equals double, run to run alike", "[conv2d]") {
  std::mt19937_64 random(9);
  std::vector<Conv2dShape> shapes = chosen_shapes();
  std::set<std::string> seen;
  for (const Conv2dShape& d : shapes) seen.insert(describe(d));
  while (shapes.size() < 320) {
    const Conv2dShape d = random_shape(random);
    if (seen.insert(describe(d)).second) shapes.push_back(d);
  }
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const Conv2dShape& d = shapes[i];
    const Inputs<double> in(d);
    const Inputs<float> in_float(d);
    const Results<double> expected = run(d, in);
    // The chosen shapes with each number of threads, the random ones in turn; 9 threads cut single images.
    for (const int threads : {1, 2, 3, 9}) {
      if (i >= chosen_shapes().size() && threads != std::array{1, 2, 3, 9}[i % 4]) continue;
      INFO(describe(d) << "threads " << threads);
      const Threads scope(threads);
      const Results<float> got = run(d, in_float);
      check_close(d, got, expected);
      CHECK(run(d, in_float) == got);
    }
  }
}

TEST_CASE("conv2d of empty tensors", "[conv2d]") {
  const auto check = [](Conv2dShape d) {
    INFO(describe(d));
    check_close(d, run(d, Inputs<double>(d)), naive(d, Inputs<double>(d)));
    check_close(d, run(d, Inputs<float>(d)), naive(d, Inputs<double>(d)));
  };
  check(make(0, 3, 8, 16, 3, 1, 1));
  check(make(2, 0, 8, 16, 3, 1, 1));
  check(make(2, 3, 8, 0, 3, 1, 1));
  check(make(2, 3, 0, 4, 1, 1, 1));  // an empty image with padding: outputs are the bias
  Conv2dShape none = make(2, 3, 2, 4, 3, 1, 0);
  none.p = none.q = 0;
  check(none);
}

TEST_CASE("conv2d keeps apart what runs at once", "[conv2d]") {
  // Two threads of the program, as two replicas are, with plans that they share.
  const Conv2dShape d = make(4, 32, 9, 48, 3, 1, 1);
  const Inputs<float> in(d);
  const Results<float> expected = run(d, in);
  std::vector<int> equal(2, 0);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i) equal[t] += run(d, in) == expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(equal == std::vector<int>{20, 20});
}
