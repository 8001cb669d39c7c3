#include <lockstep/kernels/random.h>

#include <algorithm>
#include <cmath>

#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

constexpr std::int64_t kSizes[] = {0, 1, 3, 4, 5, 31, 255, 1023, 1025, 4099};
constexpr std::uint64_t kSeed = 0x123456789abcdef0u, kStream = 0xfedcba9876543210u;

}  // namespace

TEMPLATE_TEST_CASE("CUDA fills are the CPU's float draws, rounded to the dtype", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  for (const std::int64_t n : kSizes) {
    for (const std::int64_t offset : {0, 1}) {
      CAPTURE(n, offset);
      const DeviceBuffer<T> out(n, offset);
      std::vector<float> expected(static_cast<std::size_t>(n));
      kernels::fill_uniform<T>(cuda_stream(), n, -0.5f, 1.5f, kSeed, kStream, out.data());
      kernels::fill_uniform<float>(kOnCpu, n, -0.5f, 1.5f, kSeed, kStream, expected.data());
      const auto uniform = out.download();
      if constexpr (sizeof(T) == 4) {
        CHECK(same_bits(uniform, expected));
      } else {
        for (std::size_t i = 0; i < uniform.size(); ++i) {
          const T rounded(expected[i]);
          REQUIRE((uniform[i].bits == rounded.bits || static_cast<float>(rounded) == 1.5f));
          REQUIRE(static_cast<float>(uniform[i]) < 1.5f);
        }
      }
      kernels::fill_normal<T>(cuda_stream(), n, 0.25f, 2.0f, kSeed, kStream, out.data());
      kernels::fill_normal<float>(kOnCpu, n, 0.25f, 2.0f, kSeed, kStream, expected.data());
      CHECK(same_bits(out.download(), converted<T>(expected)));
    }
  }
}

TEMPLATE_TEST_CASE("CUDA uniform draws stay below the upper bound", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  const std::int64_t n = 4000;
  const DeviceBuffer<T> out(n);
  int clamped = 0;
  for (const auto& [low, high] :
       {std::pair{0.0f, 1.0f}, {-1.0f, 0.0f}, {-2.0f, -1.0f}, {0.0f, 0.1f}, {0.0f, 0.3f}, {0.0f, 0.7f}, {5.0f, 5.0f}}) {
    CAPTURE(low, high);
    kernels::fill_uniform<T>(cuda_stream(), n, low, high, kSeed, kStream, out.data());
    float largest = -10, smallest = 10;
    for (const T v : out.download()) {
      largest = std::max(largest, static_cast<float>(v));
      smallest = std::min(smallest, static_cast<float>(v));
    }
    CHECK(smallest >= low);
    if (low == high) {
      CHECK(largest == high);
    } else {
      CHECK(largest < high);
      CHECK(largest >= high - 0.01f * (high - low));
    }
    ++clamped;
  }
  // Half the draws of a range between neighbours would round to the upper one.
  kernels::fill_uniform<T>(cuda_stream(), n, 1.0f, 1.0f + 0x1p-23f, kSeed, kStream, out.data());
  CHECK(same_bits(out.download(), std::vector<T>(static_cast<std::size_t>(n), T(1.0f))));
  std::printf("CUDA uniform ranges: %d\n", clamped);
}

TEMPLATE_TEST_CASE("CUDA dropout keeps what the CPU keeps", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  for (const std::int64_t n : kSizes) {
    for (const double p : {0.0, 0.3, 0.5, 1.0}) {
      for (const std::int64_t offset : {0, 1}) {
        CAPTURE(n, p, offset);
        auto wide = random_values<float>(n, -2, 2);
        if (n > 40) wide[17] = wide[29] = kNaN<float>;
        if (n > 40) wide[30] = wide[33] = kInf<float>;
        const auto x = converted<T>(wide);
        const DeviceBuffer<T> in(x, offset), out(n, offset);
        kernels::dropout<T>(cuda_stream(), n, in.data(), p, kSeed, kStream, out.data());
        std::vector<float> expected(x.size());
        kernels::dropout<float>(kOnCpu, n, converted<float>(x).data(), p, kSeed, kStream, expected.data());
        const auto y = out.download();
        CHECK(close(converted<double>(y), converted<double>(converted<T>(expected)), 0));
        kernels::dropout<T>(cuda_stream(), n, in.data(), p, kSeed, kStream, in.data());
        CHECK(close(converted<double>(in.download()), converted<double>(y), 0));
      }
    }
  }
}
