// Arithmetic, functions and shapes against values worked out by hand or by plain loops.
#include <cmath>
#include <cstdint>
#include <vector>

#include <catch2/catch.hpp>

#include <lockstep/core/ops.h>
#include <lockstep/tests/support/check_op.h>
#include <lockstep/tests/support/values.h>

using namespace lockstep;
using namespace lockstep::test;

namespace {

// ---- Arithmetic.

TEST_CASE("Broadcasting by hand") {
  const Tensor a = make({1, 2, 3, 4, 5, 6}, {2, 3}), row = make({10, 20, 30}), column = make({100, 200}, {2, 1});
  CHECK(values_of(a + row) == Values{11, 22, 33, 14, 25, 36});
  CHECK(values_of(row - a) == Values{9, 18, 27, 6, 15, 24});
  CHECK(values_of(a * column) == Values{100, 200, 300, 800, 1000, 1200});
  CHECK(values_of(column / make({1, 2}, {1, 2})) == Values{100, 50, 200, 100});
  CHECK((row + column).shape() == Shape{2, 3});
  CHECK(values_of(make({5}, {}) + row) == Values{15, 25, 35});
  CHECK((make({}, {0, 3}) + row).shape() == Shape{0, 3});
}

TEST_CASE("Broadcasting by a plain loop, in every layout") {
  test::Draws draws(1);
  const auto offset = [](const Shape& shape, const std::int64_t(&index)[4]) {
    std::int64_t at = 0;
    for (int d = 0; d < shape.rank(); ++d) {
      at = at * shape[d] + (shape[d] == 1 ? 0 : index[4 - shape.rank() + d]);
    }
    return static_cast<std::size_t>(at);
  };
  const Shape whole{2, 3, 4, 5};
  for (const Shape& other : {Shape{2, 3, 4, 5}, Shape{3, 1, 1}, Shape{1, 3, 1, 5}, Shape{2, 1, 4, 1}, Shape{5}, Shape{},
                             Shape{1, 1, 4, 5}}) {
    for (const Layout la : {Layout::row_major, Layout::channels_last}) {
      for (const Layout lb : {Layout::row_major, Layout::channels_last}) {
        if (lb == Layout::channels_last && other.rank() != 4) continue;
        const Tensor a = draws.uniform(whole, la), b = draws.uniform(other, lb);
        const Values va = values_of(a), vb = values_of(b);
        Values expected;
        for (std::int64_t i[4] = {0, 0, 0, 0}; i[0] < 2; ++i[0]) {
          for (i[1] = 0; i[1] < 3; ++i[1]) {
            for (i[2] = 0; i[2] < 4; ++i[2]) {
              for (i[3] = 0; i[3] < 5; ++i[3]) expected.push_back(va[offset(whole, i)] - vb[offset(other, i)]);
            }
          }
        }
        CHECK(values_of(a - b) == expected);
        if (la == Layout::channels_last) CHECK((a - b).layout() == la);
      }
    }
  }
}

TEST_CASE("Operators with numbers") {
  const Tensor x = make({1, -2});
  CHECK(values_of(x + 3.0) == Values{4, 1});
  CHECK(values_of(x - 3.0) == Values{-2, -5});
  CHECK(values_of(x * 3.0) == Values{3, -6});
  CHECK(values_of(3.0 * x) == Values{3, -6});
  CHECK(values_of(x / 2.0) == Values{0.5, -1});
  CHECK(values_of(-x) == Values{-1, 2});
  CHECK(values_of(affine(x, 2.0, 1.0)) == Values{3, -3});
}

TEST_CASE("Functions at special values") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    CAPTURE(name(dtype));
    const auto of = [&](Tensor (*op)(const Tensor&), double value) { return op(make({value}, {}).to(dtype)).item(); };
    CHECK(of(exp, 0.0) == 1.0);
    CHECK(of(exp, -kInf) == 0.0);
    CHECK(of(exp, kInf) == kInf);
    CHECK(of(exp, 1000.0) == kInf);
    CHECK(of(exp, -1000.0) == 0.0);
    CHECK(of(log, 1.0) == 0.0);
    CHECK(of(log, 0.0) == -kInf);
    CHECK(std::isnan(of(log, -1.0)));
    CHECK(of(sqrt, 9.0) == 3.0);
    CHECK(std::isnan(of(sqrt, -1.0)));
    CHECK(of(relu, -3.0) == 0.0);
    CHECK(of(relu, kInf) == kInf);
    CHECK(of(relu, -kInf) == 0.0);
    CHECK(of(sigmoid, 0.0) == 0.5);
    CHECK(of(sigmoid, 1000.0) == 1.0);
    CHECK(of(sigmoid, -1000.0) == 0.0);
    CHECK(of(tanh, 0.0) == 0.0);
    CHECK(of(tanh, 1000.0) == 1.0);
    CHECK(of(tanh, -kInf) == -1.0);
    for (const auto op : {neg, exp, log, sqrt, relu, sigmoid, tanh}) CHECK(std::isnan(of(op, kNaN)));
    const Tensor zero = make({0, 0, 1, -1}).to(dtype);
    CHECK(same(values_of(make({1, 0, 0, -0.0}).to(dtype) / zero), {kInf, kNaN, 0, 0}));
  }
}

TEST_CASE("The gradient of relu at its kink is 0") {
  const Tensor x = make({-1, 0, 2}).set_requires_grad();
  sum(relu(x)).backward();
  CHECK(values_of(x.grad()) == Values{0, 0, 1});
}

// ---- Shape.

TEST_CASE("reshape, flatten and views") {
  const Tensor x = count_up({2, 3, 4});
  CHECK(reshape(x, {4, -1}).shape() == Shape{4, 6});
  CHECK(reshape(x, {-1}).shape() == Shape{24});
  CHECK(values_of(reshape(x, {6, 4})) == values_of(x));
  CHECK(reshape(x, {6, 4}).data_ptr() == x.data_ptr());
  CHECK(flatten(x).shape() == Shape{24});
  CHECK(flatten(x, 1).shape() == Shape{2, 12});
  CHECK(flatten(x, 0, 1).shape() == Shape{6, 4});
  CHECK(flatten(make({7}, {})).shape() == Shape{1});
  CHECK(reshape(make({}, {0, 3}), {-1, 3}).shape() == Shape{0, 3});
  const Tensor image = count_up({2, 3, 2, 2}, Layout::channels_last);
  CHECK(values_of(flatten(image, 1)) == values_of(count_up({2, 12})));
  CHECK(flatten(image, 1).layout() == Layout::row_major);
}

TEST_CASE("transpose by hand and by a plain loop") {
  CHECK(values_of(transpose(make({1, 2, 3, 4, 5, 6}, {2, 3}), 0, 1)) == Values{1, 4, 2, 5, 3, 6});
  for (const Layout layout : {Layout::row_major, Layout::channels_last}) {
    const Tensor x = count_up({2, 3, 4, 5}, layout);
    const Values swapped = values_of(transpose(x, 1, -1));
    Values expected;
    for (int n = 0; n < 2; ++n) {
      for (int w = 0; w < 5; ++w) {
        for (int h = 0; h < 4; ++h) {
          for (int c = 0; c < 3; ++c) expected.push_back(((n * 3 + c) * 4 + h) * 5 + w);
        }
      }
    }
    CHECK(swapped == expected);
  }
  for (const DType dtype : {DType::uint8, DType::int64, DType::float16}) {
    CHECK(values_of(transpose(make({1, 2, 3, 4, 5, 6}, {2, 3}).to(dtype), 0, 1)) == Values{1, 4, 2, 5, 3, 6});
  }
}

TEST_CASE("narrow and cat") {
  const Tensor x = count_up({3, 4});
  CHECK(values_of(narrow(x, 0, 1, 2)) == Values{4, 5, 6, 7, 8, 9, 10, 11});
  CHECK(values_of(narrow(x, 1, 1, 2)) == Values{1, 2, 5, 6, 9, 10});
  CHECK(narrow(x, 0, 1, 2).data_ptr() == x.data<double>() + 4);
  CHECK(narrow(x, 1, 4, 0).shape() == Shape{3, 0});
  const std::vector<Tensor> parts = {narrow(x, 1, 0, 1), narrow(x, 1, 1, 3)};
  CHECK(values_of(cat(parts, 1)) == values_of(x));
  CHECK(values_of(cat(parts, -1)) == values_of(x));
  const std::vector<Tensor> rows = {narrow(x, 0, 2, 1), narrow(x, 0, 0, 0), narrow(x, 0, 0, 2)};
  CHECK(values_of(cat(rows, 0)) == Values{8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7});
  const Tensor image = count_up({2, 3, 2, 2}, Layout::channels_last);
  const std::vector<Tensor> channels = {narrow(image, 1, 0, 2), narrow(image, 1, 2, 1).to(Layout::row_major)};
  CHECK(values_of(cat(channels, 1)) == values_of(image));
  CHECK(values_of(narrow(image, 0, 1, 1))[0] == 12.0);
  const std::vector<Tensor> labels = {Tensor::arange(2), Tensor::arange(3)};
  CHECK(indices_of(cat(labels, 0)) == Indices{0, 1, 0, 1, 2});
}

TEST_CASE("broadcast_to and sum_to are each other's transpose") {
  const Tensor x = make({1, 2}, {2, 1});
  CHECK(values_of(broadcast_to(x, {2, 3})) == Values{1, 1, 1, 2, 2, 2});
  CHECK(values_of(broadcast_to(make({1, 2}), {2, 2})) == Values{1, 2, 1, 2});
  CHECK(values_of(sum_to(make({1, 2, 3, 4, 5, 6}, {2, 3}), {2, 1})) == Values{6, 15});
  CHECK(values_of(sum_to(make({1, 2, 3, 4, 5, 6}, {2, 3}), {3})) == Values{5, 7, 9});
  CHECK(values_of(sum_to(make({1, 2, 3, 4, 5, 6}, {2, 3}), Shape{})) == Values{21});
  CHECK(values_of(sum_to(make({}, {0, 2}), {2})) == Values{0, 0});
}

}  // namespace
