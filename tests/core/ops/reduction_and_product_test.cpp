// Reductions and matrix products against values worked out by hand or by plain loops.
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <tuple>
#include <vector>

#include <catch2/catch.hpp>

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/core/ops.h>
#include <lockstep/tests/support/check_op.h>
#include <lockstep/tests/support/values.h>

using namespace lockstep;
using namespace lockstep::test;

namespace {

// ---- Reductions.

TEST_CASE("Sums and means over all subsets of dimensions, by a plain loop") {
  test::Draws draws(2);
  const Shape shape{2, 3, 4, 5};
  for (const Layout layout : {Layout::row_major, Layout::channels_last}) {
    const Tensor x = draws.uniform(shape, layout);
    const Values values = values_of(x);
    for (unsigned subset = 0; subset < 16; ++subset) {
      CAPTURE(subset);
      std::vector<int> dims;
      std::vector<std::int64_t> kept, with_ones;
      std::int64_t count = 1;
      for (int d = 0; d < 4; ++d) {
        if (subset >> d & 1u) {
          dims.push_back(d);
          count *= shape[d];
          with_ones.push_back(1);
        } else {
          kept.push_back(shape[d]);
          with_ones.push_back(shape[d]);
        }
      }
      Values expected(static_cast<std::size_t>(shape.numel() / count), 0.0);
      for (std::int64_t i = 0; i < shape.numel(); ++i) {
        const std::int64_t index[4] = {i / 60, i / 20 % 3, i / 5 % 4, i % 5};
        std::int64_t at = 0;
        for (int d = 0; d < 4; ++d) {
          if (!(subset >> d & 1u)) at = at * shape[d] + index[d];
        }
        expected[static_cast<std::size_t>(at)] += values[static_cast<std::size_t>(i)];
      }
      const Tensor total = sum(x, dims), average = mean(x, dims, true);
      CHECK(total.shape() == Shape(std::span<const std::int64_t>(kept)));
      CHECK(average.shape() == Shape(std::span<const std::int64_t>(with_ones)));
      const Values got = values_of(total), got_mean = values_of(average);
      REQUIRE(got.size() == expected.size());
      for (std::size_t i = 0; i < got.size(); ++i) {
        CHECK(got[i] == Approx(expected[i]).margin(1e-12));
        CHECK(got_mean[i] == Approx(expected[i] / static_cast<double>(count)).margin(1e-12));
      }
    }
    CHECK(sum(x).item() == Approx(std::accumulate(values.begin(), values.end(), 0.0)));
    CHECK(sum(x).rank() == 0);
  }
}

TEST_CASE("Sums of nothing are 0, means of nothing NaN") {
  CHECK(sum(make({}, {0, 3})).item() == 0.0);
  CHECK(values_of(sum(make({}, {0, 3}), {0})) == Values{0, 0, 0});
  CHECK(sum(make({}, {0, 3}), {1}).shape() == Shape{0});
  CHECK(std::isnan(mean(make({}, {0})).item()));
}

TEST_CASE("Long float32 sums keep their digits") {
  constexpr std::int64_t kMany = 10'000'000;
  CHECK(sum(Tensor::full({kMany}, 0.1)).item() == Approx(1e6).epsilon(1e-6));  // one accumulator gives 1,087,937
  CHECK(mean(Tensor::full({kMany / 1000, 1000}, 0.1), {0}).to_vector<float>()[7] == Approx(0.1).epsilon(1e-6));
}

TEST_CASE("Sums have the same bits for any number of threads") {
  const int before = num_threads();
  manual_seed(8);
  const Tensor x = Tensor::randn({1000, 300});
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3, 5}) {
    set_num_threads(threads);
    std::vector<float> all = sum(x, {0}).to_vector<float>();
    const std::vector<float> rows = sum(x, {1}).to_vector<float>();
    all.insert(all.end(), rows.begin(), rows.end());
    all.push_back(static_cast<float>(sum(x).item()));
    results.push_back(all);
  }
  set_num_threads(before);
  for (const auto& result : results) CHECK(result == results[0]);
}

TEST_CASE("max, argmax and topk") {
  const Tensor x = make({3, 9, 9, 1, 7, 2}, {2, 3});
  auto [values, index] = max(x, 1);
  CHECK(values_of(values) == Values{9, 7});
  CHECK(indices_of(index) == Indices{1, 1});  // the first of equals
  CHECK(index.dtype() == DType::int64);
  CHECK(values.shape() == Shape{2});
  CHECK(max(x, 1, true).first.shape() == Shape{2, 1});
  CHECK(values_of(max(x, 0).first) == Values{3, 9, 9});
  CHECK(indices_of(argmax(x, 0)) == Indices{0, 0, 0});
  CHECK(indices_of(argmax(x, -1)) == Indices{1, 1});
  std::tie(values, index) = topk(x, 2);
  CHECK(values_of(values) == Values{9, 9, 7, 2});
  CHECK(indices_of(index) == Indices{1, 2, 1, 2});
  CHECK(indices_of(topk(make({5, 5, 5}), 3).second) == Indices{0, 1, 2});
  CHECK(values_of(max(make({-kInf, -kInf}), 0).first) == Values{-kInf});
  const Tensor image = count_up({2, 3, 2, 2}, Layout::channels_last);
  CHECK(indices_of(argmax(image, 1)) == Indices(8, 2));
}

TEST_CASE("NaN wins a maximum") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    const Tensor x = make({1, kNaN, 3, kNaN, 5, 6, 7, 8}, {2, 4}).to(dtype);
    const auto [values, index] = max(x, 1);
    CHECK(same(values_of(values), {kNaN, 8}));
    CHECK(indices_of(index) == Indices{1, 3});
    CHECK(indices_of(argmax(x, 0)) == Indices{1, 0, 1, 0});
    const auto [best, place] = topk(x, 3);
    CHECK(same(values_of(best), {kNaN, kNaN, 3, 8, 7, 6}));
    CHECK(indices_of(place) == Indices{1, 3, 2, 3, 2, 1});
    const Tensor image = reshape(x, {1, 1, 2, 4});
    CHECK(same(values_of(max_pool2d(image, {})), {kNaN, kNaN}));
    CHECK(same(values_of(relu(x)), values_of(x)));
  }
}

TEST_CASE("The gradient of max goes to the first of equals") {
  const Tensor x = make({2, 5, 5, 1}).set_requires_grad();
  max(x, 0).first.backward();
  CHECK(values_of(x.grad()) == Values{0, 1, 0, 0});
}

TEST_CASE("count_correct counts rows whose target is among the best") {
  const Tensor logits = make({0.1, 0.7, 0.2, 0.5, 0.2, 0.3, 0.3, 0.3, 0.4}, {3, 3});
  const Tensor target = Tensor::from(Indices{1, 2, 0}, {3});
  CHECK(count_correct(logits, target) == 1);
  CHECK(count_correct(logits, target, 2) == 3);
  CHECK(count_correct(logits, target, 3) == 3);
  CHECK(count_correct(logits, target, 99) == 3);
  CHECK(count_correct(logits, Tensor::from(Indices{-100, 5, 0}, {3})) == 0);
  CHECK(count_correct(make({}, {0, 3}), Tensor::arange(0)) == 0);
}

// ---- Products.

TEST_CASE("matmul and linear by plain loops") {
  test::Draws draws(3);
  for (const auto& [batch, m, k, n] :
       {std::array<std::int64_t, 4>{1, 1, 1, 1}, {2, 3, 4, 5}, {3, 1, 7, 2}, {1, 33, 17, 19}, {2, 2, 0, 3}}) {
    const Tensor a = draws.uniform({batch, m, k}), b = draws.uniform({batch, k, n});
    Values expected;
    const Values va = values_of(a), vb = values_of(b);
    for (std::int64_t i = 0; i < batch * m * n; ++i) {
      const std::int64_t image = i / (m * n), row = i / n % m, column = i % n;
      double dot = 0.0;
      for (std::int64_t j = 0; j < k; ++j) {
        dot += va[static_cast<std::size_t>((image * m + row) * k + j)] *
               vb[static_cast<std::size_t>((image * k + j) * n + column)];
      }
      expected.push_back(dot);
    }
    for (const DType dtype : {DType::float64, DType::float32}) {
      const Values got = values_of(matmul(a.to(dtype), b.to(dtype)));
      REQUIRE(got.size() == expected.size());
      for (std::size_t i = 0; i < got.size(); ++i) {
        CHECK(got[i] == Approx(expected[i]).margin(dtype == DType::float64 ? 1e-12 : 2e-5));
      }
    }
  }
  const Tensor x = make({1, 2, 3, 4}, {2, 2}), w = make({1, 0, 0, 1, 1, 1}, {3, 2});
  CHECK(values_of(linear(x, w)) == Values{1, 2, 3, 3, 4, 7});
  CHECK(values_of(linear(x, w, make({10, 20, 30}))) == Values{11, 22, 33, 13, 24, 37});
  CHECK(linear(reshape(x, {2, 1, 2}), w).shape() == Shape{2, 1, 3});
  CHECK(values_of(linear(make({1, 2}), w)) == Values{1, 2, 3});
}

}  // namespace
