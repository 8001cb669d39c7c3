#include <lockstep/kernels/random.h>

#include <algorithm>
#include <bit>

#include <lockstep/tests/kernels/kernel_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

constexpr std::uint64_t kSeed = 0x123456789abcdefu, kStream = 0xfedcba9876543210u;
constexpr std::int64_t kSizes[] = {0, 1, 3, 4, 15, 17, 31, 32, 33, 63, 64, 65, 1000, 20'001};

template <class T>
std::vector<T> normal(std::int64_t n, T mean = 0, T stddev = 1, std::uint64_t seed = kSeed,
                      std::uint64_t stream = kStream) {
  return on_any_threads([&] {
    std::vector<T> out(static_cast<std::size_t>(n) + 1, T(99));
    kernels::fill_normal<T>(kOnCpu, n, mean, stddev, seed, stream, out.data());
    REQUIRE(out.back() == 99);
    out.pop_back();
    return out;
  });
}

template <class T>
std::vector<T> uniform(std::int64_t n, T low = 0, T high = 1, std::uint64_t seed = kSeed,
                       std::uint64_t stream = kStream) {
  return on_any_threads([&] {
    std::vector<T> out(static_cast<std::size_t>(n) + 1, T(99));
    kernels::fill_uniform<T>(kOnCpu, n, low, high, seed, stream, out.data());
    REQUIRE(out.back() == 99);
    out.pop_back();
    return out;
  });
}

std::uint32_t word(std::int64_t i, std::int64_t w) {
  return philox4x32(kSeed, static_cast<std::uint64_t>(i), kStream)[static_cast<std::size_t>(w)];
}

struct Moments {
  double mean = 0, variance = 0, skew = 0, kurtosis = 0, neighbours = 0;
};
template <class T>
Moments moments(const std::vector<T>& v) {
  Moments m;
  const auto n = static_cast<double>(v.size());
  for (const T x : v) m.mean += static_cast<double>(x) / n;
  for (const T x : v) m.variance += std::pow(static_cast<double>(x) - m.mean, 2) / n;
  const double deviation = std::sqrt(m.variance);
  for (std::size_t i = 0; i < v.size(); ++i) {
    const double z = (static_cast<double>(v[i]) - m.mean) / deviation;
    m.skew += z * z * z / n;
    m.kurtosis += z * z * z * z / n;
    if (i > 0) m.neighbours += z * (static_cast<double>(v[i - 1]) - m.mean) / deviation / n;
  }
  return m;
}

}  // namespace

TEMPLATE_TEST_CASE("uniform draws are the documented words", "", float, double) {
  using T = TestType;
  for (const std::int64_t n : kSizes) {
    std::vector<T> expected;
    for (std::int64_t i = 0; i < n; ++i) {
      if constexpr (std::is_same_v<T, float>) {
        expected.push_back(2.0f + 3.0f * uniform_float(word(i / 4, i % 4)));
      } else {
        const std::uint64_t high = word(i / 2, i % 2 * 2), low = word(i / 2, i % 2 * 2 + 1);
        expected.push_back(2.0 + 3.0 * (static_cast<double>((high << 21) | (low >> 11)) * 0x1p-53));
      }
    }
    CHECK(same_bits(uniform<T>(n, 2, 5), expected));
  }
}

TEMPLATE_TEST_CASE("normal draws are Box-Muller of the documented words", "", float, double) {
  using T = TestType;
  for (const std::int64_t n : kSizes) {
    std::vector<double> expected;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t pair = i % 4 / 2 * 2;
      const double radius = std::sqrt(-2 * std::log((word(i / 4, pair) + 1.0) * 0x1p-32));
      const double angle = 2 * std::acos(-1.0) * (word(i / 4, pair + 1) * 0x1p-32);
      expected.push_back(0.5 + 2 * radius * (i % 2 == 0 ? std::cos(angle) : std::sin(angle)));
    }
    CHECK(close(normal<T>(n, T(0.5), 2), expected, rounding<T>(40)));  // the reference's own angle is rounded
  }
}

TEST_CASE("normal draws have the same bits on every processor") {
  std::uint64_t hash = 1469598103934665603u;  // FNV-1a
  for (const float z : normal<float>(100'000)) hash = (hash ^ std::bit_cast<std::uint32_t>(z)) * 1099511628211u;
  CHECK(hash == 538196390008538235u);
}

TEST_CASE("float64 normals are the float32 ones before rounding") {
  const auto single = normal<float>(1001);
  const auto twice = normal<double>(1001);
  CHECK(std::vector<float>(twice.begin(), twice.end()) == single);
}

TEMPLATE_TEST_CASE("normal draws have a normal's moments, tails and independence", "", float, double) {
  using T = TestType;
  const std::int64_t n = 1'000'000;
  const auto v = normal<T>(n);
  const Moments m = moments(v);
  const double sigma = 1 / std::sqrt(static_cast<double>(n));
  CHECK(std::fabs(m.mean) < 4 * sigma);
  CHECK(std::fabs(m.variance - 1) < 4 * sigma * std::sqrt(2.0));
  CHECK(std::fabs(m.skew) < 4 * sigma * std::sqrt(6.0));
  CHECK(std::fabs(m.kurtosis - 3) < 4 * sigma * std::sqrt(24.0));
  CHECK(std::fabs(m.neighbours) < 4 * sigma);
  for (const double bound : {1.0, 2.0, 3.0, 4.0}) {
    const double expected = std::erfc(bound / std::sqrt(2.0));
    const auto beyond = std::count_if(v.begin(), v.end(), [&](T x) { return std::fabs(x) > bound; });
    CHECK(std::fabs(static_cast<double>(beyond) / n - expected) < 4 * std::sqrt(expected) * sigma);
  }
}

TEMPLATE_TEST_CASE("uniform draws are flat and stay below the upper bound", "", float, double) {
  using T = TestType;
  const std::int64_t n = 1'000'000;
  const auto v = uniform<T>(n, -1, 1);
  const Moments m = moments(v);
  const double sigma = 1 / std::sqrt(static_cast<double>(n));
  CHECK(std::fabs(m.mean) < 4 * sigma * std::sqrt(1.0 / 3));
  CHECK(std::fabs(m.variance - 1.0 / 3) < 4 * sigma * std::sqrt(4.0 / 45));
  CHECK(std::fabs(m.neighbours) < 4 * sigma);
  for (int tenth = 0; tenth < 10; ++tenth) {
    const double low = -1 + 0.2 * tenth;
    const auto inside = std::count_if(v.begin(), v.end(), [&](T x) { return x >= low && x < low + 0.2; });
    CHECK(std::fabs(static_cast<double>(inside) / n - 0.1) < 4 * std::sqrt(0.09) * sigma);
  }
  // A range of a few representable values, where rounding would reach `high`.
  const T low = T(1), high = T(1) + 4 * std::numeric_limits<T>::epsilon();
  const auto narrow = uniform<T>(10'000, low, high);
  CHECK(*std::max_element(narrow.begin(), narrow.end()) < high);
  CHECK(*std::min_element(narrow.begin(), narrow.end()) == low);
  CHECK(uniform<T>(100, T(3), T(3)) == std::vector<T>(100, T(3)));
}

TEST_CASE("seeds and streams give unrelated draws, sizes the same ones") {
  const auto a = uniform<float>(1000), b = uniform<float>(1000, 0, 1, kSeed + 1),
             c = uniform<float>(1000, 0, 1, kSeed, 1);
  int equal = 0;
  for (std::size_t i = 0; i < a.size(); ++i) equal += (a[i] == b[i]) + (a[i] == c[i]) + (b[i] == c[i]);
  CHECK(equal < 3);
  const auto longer = uniform<float>(1037);
  CHECK(std::equal(a.begin(), a.end(), longer.begin()));
}

TEMPLATE_TEST_CASE("dropout keeps where the draw reaches p", "", float, double) {
  using T = TestType;
  for (const std::int64_t n : kSizes) {
    for (const double p : {0.0, 0.1, 0.5, 0.999, 1.0}) {
      CAPTURE(n, p);
      const auto x = random_values<T>(n, 1, 2);
      std::vector<T> expected;
      for (std::int64_t i = 0; i < n; ++i) {
        const bool keep = static_cast<double>(uniform_float(word(i / 4, i % 4))) >= p;
        expected.push_back(keep ? x[static_cast<std::size_t>(i)] * static_cast<T>(1 / (1 - p)) : T(0));
      }
      const auto y = on_any_threads([&] {
        std::vector<T> out = x;  // in place
        kernels::dropout<T>(kOnCpu, n, out.data(), p, kSeed, kStream, out.data());
        return out;
      });
      CHECK(same_bits(y, expected));
    }
  }
  std::vector<T> ones(100'000, T(1));
  kernels::dropout<T>(kOnCpu, 100'000, ones.data(), 0.3, 1, 2, ones.data());
  CHECK(std::fabs(static_cast<double>(std::count(ones.begin(), ones.end(), T(0))) / 1e5 - 0.3) < 0.006);
}
