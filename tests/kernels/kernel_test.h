// What the kernel tests share: reproducible data, and runs on several numbers of threads that must agree bit for bit.
#pragma once

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <lockstep/core/base/philox.h>
#include <lockstep/core/base/thread_pool.h>

namespace lockstep::testing {

template <class T>
inline constexpr T kInf = std::numeric_limits<T>::infinity();
template <class T>
inline constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();

/// n values in [low, high).
template <class T>
std::vector<T> random_values(std::int64_t n, double low = -1, double high = 1, std::uint64_t stream = 0) {
  PhiloxStream draws(7, stream);
  std::vector<T> values(static_cast<std::size_t>(n));
  for (T& value : values) value = static_cast<T>(low + (high - low) * static_cast<double>(draws.next_uniform()));
  return values;
}

/// The relative error that a test of T allows, of `scale` rounding steps.
template <class T>
constexpr double rounding(double scale) {
  return scale * static_cast<double>(std::numeric_limits<T>::epsilon());
}

/// Equal within `tolerance` · max(1, |expected|), NaN equal to NaN, infinities exactly.
template <class A, class B>
bool close(const std::vector<A>& actual, const std::vector<B>& expected, double tolerance) {
  if (actual.size() != expected.size()) return false;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const auto a = static_cast<double>(actual[i]), e = static_cast<double>(expected[i]);
    if (std::isnan(a) && std::isnan(e)) continue;
    if (a == e) continue;
    if (!(std::fabs(a - e) <= tolerance * std::fmax(1.0, std::fabs(e)))) {
      UNSCOPED_INFO("element " << i << ": " << a << ", expected " << e);
      return false;
    }
  }
  return true;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// The result of `run()`, a vector, on one thread; fails unless 2, 3 and 5 threads give the same bits.
template <class Run>
auto on_any_threads(Run&& run) {
  const int before = num_threads();
  set_num_threads(1);
  auto expected = run();
  for (const int threads : {2, 3, 5}) {
    set_num_threads(threads);
    CAPTURE(threads);
    CHECK(same_bits(run(), expected));
  }
  set_num_threads(before);
  return expected;
}

}  // namespace lockstep::testing
