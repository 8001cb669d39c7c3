#include <catch2/catch.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/kernels/gemm.h>

namespace {

struct Case {
  bool transpose_a, transpose_b;
  std::int64_t m, n, k, pad;  // pad: how much longer than needed the stored rows are
  bool accumulate;

  std::int64_t lda() const { return (transpose_a ? m : k) + pad; }
  std::int64_t ldb() const { return (transpose_b ? k : n) + pad; }
  std::int64_t ldc() const { return n + pad; }
  std::size_t size_a() const { return static_cast<std::size_t>((transpose_a ? k : m) * lda()); }
  std::size_t size_b() const { return static_cast<std::size_t>((transpose_b ? n : k) * ldb()); }
  std::size_t size_c() const { return static_cast<std::size_t>(m * ldc()); }
};

template <class T>
std::vector<T> random_values(std::size_t count, unsigned seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(uniform(random));
  return values;
}

/// C starts random; where it is not read it starts as NaN. The gaps between the rows must stay as they are.
template <class T>
std::vector<T> start_of_c(const Case& c) {
  std::vector<T> values = random_values<T>(c.size_c(), 3);
  if (c.accumulate) return values;
  for (std::int64_t i = 0; i < c.m; ++i) {
    for (std::int64_t j = 0; j < c.n; ++j) {
      values[static_cast<std::size_t>(i * c.ldc() + j)] = std::numeric_limits<T>::quiet_NaN();
    }
  }
  return values;
}

template <class T>
std::vector<T> run(const Case& c, int threads) {
  const auto a = random_values<T>(c.size_a(), 1), b = random_values<T>(c.size_b(), 2);
  std::vector<T> result = start_of_c<T>(c);
  const int before = lockstep::num_threads();
  lockstep::set_num_threads(threads);
  lockstep::kernels::gemm<T>(lockstep::kOnCpu, c.transpose_a, c.transpose_b, c.m, c.n, c.k, a.data(), c.lda(), b.data(),
                             c.ldb(), c.accumulate ? T(1) : T(0), result.data(), c.ldc());
  lockstep::set_num_threads(before);
  return result;
}

std::vector<double> naive(const Case& c) {
  const auto a = random_values<double>(c.size_a(), 1), b = random_values<double>(c.size_b(), 2);
  std::vector<double> result = start_of_c<double>(c);
  for (std::int64_t i = 0; i < c.m; ++i) {
    for (std::int64_t j = 0; j < c.n; ++j) {
      double sum = 0;
      for (std::int64_t l = 0; l < c.k; ++l) {
        sum += a[static_cast<std::size_t>(c.transpose_a ? l * c.lda() + i : i * c.lda() + l)] *
               b[static_cast<std::size_t>(c.transpose_b ? j * c.ldb() + l : l * c.ldb() + j)];
      }
      double& to = result[static_cast<std::size_t>(i * c.ldc() + j)];
      to = c.accumulate ? to + sum : sum;
    }
  }
  return result;
}

template <class T>
void check(const Case& c) {
  const std::vector<double> expected = naive(c);
  // Each of the k additions rounds a partial sum of about sqrt(k) / 3.
  const double length = static_cast<double>(c.k);
  const double tolerance =
      static_cast<double>(std::numeric_limits<T>::epsilon()) * (8 * std::sqrt(length + 1) + length / 4);
  for (const int threads : {1, 2, 3}) {
    const std::vector<T> got = run<T>(c, threads);
    double worst = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double difference = std::abs(static_cast<double>(got[i]) - expected[i]);
      if (!(difference <= worst)) worst = difference;  // a NaN stays
    }
    INFO("transpose " << c.transpose_a << c.transpose_b << " m n k " << c.m << " " << c.n << " " << c.k << " pad "
                      << c.pad << " accumulate " << c.accumulate << " threads " << threads << ": differs by " << worst);
    CHECK(worst <= tolerance);
    CHECK(run<T>(c, threads) == got);
    if (sizeof(T) == sizeof(double)) CHECK(run<T>(c, 1) == got);
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      for (const bool accumulate : {false, true}) {
        for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{{1, 1, 1},
                                                                              {4, 4, 4},
                                                                              {8, 8, 8},
                                                                              {9, 8, 8},
                                                                              {5, 3, 0},
                                                                              {0, 3, 4},
                                                                              {3, 0, 4},
                                                                              {1, 700, 300},
                                                                              {700, 1, 300},
                                                                              {128, 10, 512},
                                                                              {10, 512, 128},
                                                                              {130, 257, 300},
                                                                              {64, 128, 256},
                                                                              {65, 129, 513}}) {
          all.push_back({transpose_a, transpose_b, m, n, k, (m + n) % 3, accumulate});
        }
      }
    }
  }
  std::mt19937_64 random(5);
  const auto pick = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  for (int i = 0; i < 200; ++i) {
    const std::int64_t limit = i % 4 == 0 ? 150 : 20;
    all.push_back({pick(0, 1) == 1, pick(0, 1) == 1, pick(1, limit), pick(1, limit), pick(1, limit), pick(0, 5),
                   pick(0, 1) == 1});
  }
  return all;
}

}  // namespace

TEST_CASE("gemm in double equals the definition, with the same bits for every number of threads", "[gemm]") {
  for (const Case& c : cases()) check<double>(c);
}

TEST_CASE("gemm in float equals the definition", "[gemm]") {
  for (const Case& c : cases()) check<float>(c);
}
