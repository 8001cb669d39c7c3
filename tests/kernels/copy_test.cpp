#include <lockstep/kernels/copy.h>

#include <numeric>

#include <lockstep/tests/kernels/kernel_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

template <class E>
std::vector<E> counting(std::int64_t n) {
  std::vector<E> v(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<E>(i * 2654435761u + 1);
  return v;
}

struct Box {
  std::vector<std::int64_t> sizes, source, target;
  std::int64_t source_size, target_size;
};

const Box kBoxes[] = {
    {{}, {}, {}, 1, 1},
    {{0, 4}, {4, 1}, {4, 1}, 4, 4},
    {{7}, {1}, {1}, 7, 7},
    {{100'003}, {1}, {1}, 100'003, 100'003},
    {{100'003}, {0}, {1}, 1, 100'003},
    {{5, 6, 7}, {42, 7, 1}, {42, 7, 1}, 210, 210},
    {{70, 33}, {1, 70}, {33, 1}, 2310, 2310},                             // transpose
    {{300, 257}, {1, 300}, {257, 1}, 77'100, 77'100},                     // large enough for threads
    {{4, 5, 18, 17}, {1, 4, 20, 360}, {1530, 306, 17, 1}, 6120, 6120},    // all dimensions reversed
    {{2, 19, 3, 18}, {1026, 1, 342, 19}, {1026, 54, 18, 1}, 2052, 2052},  // batches of transposes
    {{3, 40}, {40, 1}, {100, 1}, 120, 340},                               // into part of a wider buffer (cat)
    {{3, 40}, {90, 2}, {40, 1}, 300, 120},                                // every second element
    {{20, 30}, {1, 0}, {30, 1}, 20, 600},                                 // repeated columns
    {{20, 30}, {0, 1}, {1, 20}, 30, 600},                                 // target runs along the first dimension
    {{2, 1, 2, 2, 1, 3, 2, 2}, {48, 9, 1, 2, 9, 16, 4, 8}, {48, 5, 24, 12, 5, 4, 2, 1}, 96, 96},
};

template <class E>
void check_box(const Box& b) {
  StridedCopy box;
  box.rank = static_cast<int>(b.sizes.size());
  std::int64_t n = 1;
  for (std::size_t d = 0; d < b.sizes.size(); ++d) {
    box.sizes[d] = b.sizes[d];
    box.source_strides[d] = b.source[d];
    box.target_strides[d] = b.target[d];
    n *= b.sizes[d];
  }
  CAPTURE(b.sizes, b.source, b.target, sizeof(E));
  const auto source = counting<E>(b.source_size);
  std::vector<E> expected(static_cast<std::size_t>(b.target_size), E(99));
  for (std::int64_t i = 0; i < n; ++i) {
    std::int64_t rest = i, from = 0, to = 0;
    for (std::size_t d = b.sizes.size(); d-- > 0; rest /= b.sizes[d]) {
      from += rest % b.sizes[d] * b.source[d];
      to += rest % b.sizes[d] * b.target[d];
    }
    expected[static_cast<std::size_t>(to)] = source[static_cast<std::size_t>(from)];
  }
  const auto target = on_any_threads([&] {
    std::vector<E> out(static_cast<std::size_t>(b.target_size), E(99));
    kernels::copy_strided(kOnCpu, box, sizeof(E), source.data(), out.data());
    return out;
  });
  CHECK(same_bits(target, expected));
}

template <class From, class To>
std::vector<To> cast(const std::vector<From>& source) {
  return on_any_threads([&] {
    std::vector<To> out(source.size());
    kernels::cast(kOnCpu, static_cast<std::int64_t>(source.size()), dtype_of<From>, source.data(), dtype_of<To>,
                  out.data());
    return out;
  });
}

template <class From, class To>
void check_exact_cast() {
  for (const std::int64_t n : {0, 1, 3, 15, 17, 64, 1000, 70'001}) {
    std::vector<From> source;
    std::vector<double> expected;
    for (std::int64_t i = 0; i < n; ++i) {
      source.push_back(static_cast<From>(static_cast<float>(i % 251)));
      expected.push_back(static_cast<double>(i % 251));
    }
    std::vector<double> actual;
    for (const To v : cast<From, To>(source)) {
      if constexpr (sizeof(To) == 2) {
        actual.push_back(static_cast<double>(static_cast<float>(v)));
      } else {
        actual.push_back(static_cast<double>(v));
      }
    }
    CHECK(same_bits(actual, expected));
  }
}

}  // namespace

TEST_CASE("copy_strided moves every element where its strides say") {
  for (const Box& box : kBoxes) {
    check_box<std::uint8_t>(box);
    check_box<std::uint16_t>(box);
    check_box<std::uint32_t>(box);
    check_box<std::uint64_t>(box);
  }
}

TEST_CASE("transpose of odd sizes, and back") {
  for (const std::int64_t batch : {0, 1, 3}) {
    for (const std::int64_t rows : {1, 3, 16, 17, 33, 64}) {
      for (const std::int64_t cols : {1, 3, 15, 16, 49, 1024}) {
        CAPTURE(batch, rows, cols);
        const auto source = counting<std::uint32_t>(batch * rows * cols);
        const auto there = on_any_threads([&] {
          std::vector<std::uint32_t> out(source.size());
          kernels::transpose(kOnCpu, batch, rows, cols, 4, source.data(), out.data());
          return out;
        });
        for (std::int64_t b = 0, wrong = 0; b < batch; ++b) {
          for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t c = 0; c < cols; ++c) {
              wrong += there[static_cast<std::size_t>((b * cols + c) * rows + r)] !=
                       source[static_cast<std::size_t>((b * rows + r) * cols + c)];
            }
          }
          REQUIRE(wrong == 0);
        }
        std::vector<std::uint32_t> back(source.size());
        kernels::transpose(kOnCpu, batch, cols, rows, 4, there.data(), back.data());
        CHECK(same_bits(back, source));
      }
    }
  }
}

TEMPLATE_TEST_CASE("small integers survive a cast from any dtype to any", "", float, double, float16, bfloat16,
                   std::int64_t, std::uint8_t) {
  check_exact_cast<TestType, float>();
  check_exact_cast<TestType, double>();
  check_exact_cast<TestType, float16>();
  check_exact_cast<TestType, bfloat16>();
  check_exact_cast<TestType, std::int64_t>();
  check_exact_cast<TestType, std::uint8_t>();
}

TEST_CASE("casts round to nearest even, once, and truncate to integers") {
  const double just_above_tie = 1.0 + 0x1p-11 + 0x1p-40;  // through float it would become the tie, and then 1
  CHECK(static_cast<float>(cast<double, float16>({just_above_tie})[0]) == 1.0f + 0x1p-10f);
  CHECK(static_cast<float>(cast<double, float16>({-just_above_tie})[0]) == -(1.0f + 0x1p-10f));
  CHECK(static_cast<float>(cast<double, float16>({1.0 + 0x1p-11})[0]) == 1.0f);
  CHECK(static_cast<float>(cast<double, float16>({1.0 + 0x1p-11 - 0x1p-40})[0]) == 1.0f);
  CHECK(static_cast<float>(cast<double, bfloat16>({1.0 + 0x1p-8 + 0x1p-45})[0]) == 1.0f + 0x1p-7f);
  const std::int64_t above = (std::int64_t{1} << 60) + (std::int64_t{1} << 52) + 1;
  CHECK(static_cast<float>(cast<std::int64_t, bfloat16>({above})[0]) == 0x1p60f + 0x1p53f);
  CHECK(static_cast<float>(cast<std::int64_t, bfloat16>({-above})[0]) == -(0x1p60f + 0x1p53f));
  CHECK(static_cast<float>(cast<std::int64_t, bfloat16>({above - 1})[0]) == 0x1p60f);
  CHECK(cast<double, float>({1e300})[0] == kInf<float>);
  CHECK(static_cast<float>(cast<double, float16>({1e300})[0]) == kInf<float>);
  CHECK(static_cast<float>(cast<double, bfloat16>({-kInf<double>})[0]) == -kInf<float>);
  CHECK(std::isnan(static_cast<float>(cast<double, float16>({kNaN<double>})[0])));
  CHECK(std::isnan(cast<float, double>({kNaN<float>})[0]));
  CHECK(cast<float, std::int64_t>({2.9f, -2.9f, 1e15f}) == std::vector<std::int64_t>{2, -2, 999'999'986'991'104});
  CHECK(cast<double, std::uint8_t>({254.9, 0.5}) == std::vector<std::uint8_t>{254, 0});
}

TEST_CASE("float16 rounds like the exact value between its neighbours") {
  for (const double x : random_values<double>(5000, -70'000, 70'000)) {
    const auto h = static_cast<double>(static_cast<float>(cast<double, float16>({x})[0]));
    const double step = std::exp2(std::fmax(std::floor(std::log2(std::fabs(x))), -14) - 10);
    const double expected = std::fabs(x) >= 65520 ? std::copysign(kInf<double>, x) : std::nearbyint(x / step) * step;
    REQUIRE(h == expected);
  }
}

TEST_CASE("fill sets every dtype") {
  for (const std::int64_t n : {0, 1, 17, 70'000}) {
    std::vector<float> f(static_cast<std::size_t>(n) + 1, 5.0f);
    kernels::fill(kOnCpu, n, DType::float32, -1.5, f.data());
    CHECK(std::count(f.begin(), f.end() - 1, -1.5f) == n);
    CHECK(f.back() == 5.0f);
    std::vector<std::int64_t> i(static_cast<std::size_t>(n));
    kernels::fill(kOnCpu, n, DType::int64, -3, i.data());
    CHECK(std::count(i.begin(), i.end(), -3) == n);
    std::vector<bfloat16> b(static_cast<std::size_t>(n));
    kernels::fill(kOnCpu, n, DType::bfloat16, 2, b.data());
    for (const bfloat16 v : b) REQUIRE(static_cast<float>(v) == 2.0f);
  }
}
