#include <lockstep/core/base/shape.h>

#include <cstdint>
#include <vector>

#include <catch2/catch.hpp>

#include <lockstep/core/base/error.h>

using lockstep::broadcast_shapes;
using lockstep::Shape;
using lockstep::ShapeError;

namespace {

TEST_CASE("A shape knows its sizes") {
  const Shape shape{4, 3, 2};
  CHECK(shape.rank() == 3);
  CHECK(shape.numel() == 24);
  CHECK(shape[0] == 4);
  CHECK(shape[2] == 2);
  CHECK(shape[-1] == 2);
  CHECK(shape[-3] == 4);
  CHECK(std::vector<std::int64_t>(shape.begin(), shape.end()) == std::vector<std::int64_t>{4, 3, 2});
  CHECK(to_string(shape) == "[4, 3, 2]");
  CHECK_THROWS_AS(shape[3], ShapeError);
  CHECK_THROWS_AS(shape[-4], ShapeError);
}

TEST_CASE("Scalars and empty shapes") {
  CHECK(Shape{}.rank() == 0);
  CHECK(Shape{}.numel() == 1);
  CHECK(to_string(Shape{}) == "[]");
  CHECK_THROWS_AS(Shape{}[0], ShapeError);
  CHECK_THROWS_AS(Shape{}[-1], ShapeError);
  CHECK(Shape{0}.numel() == 0);
  CHECK(Shape{3, 0, 5}.numel() == 0);
  CHECK(Shape{3, 0, 5}[2] == 5);
}

TEST_CASE("Shapes compare by rank and sizes") {
  CHECK(Shape{2, 3} == Shape{2, 3});
  CHECK(Shape{2, 3} != Shape{3, 2});
  CHECK(Shape{2, 3} != Shape{2, 3, 1});
  CHECK(Shape{0, 3} != Shape{0, 4});
  CHECK(Shape{} != Shape{1});
}

TEST_CASE("Impossible sizes are refused") {
  CHECK_NOTHROW(Shape{1, 2, 3, 4, 5, 6, 7, 8});
  CHECK_THROWS_AS((Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}), ShapeError);
  CHECK_THROWS_AS((Shape{2, -1}), ShapeError);
  CHECK_THROWS_AS(Shape{INT64_MIN}, ShapeError);
  const std::int64_t k31 = std::int64_t{1} << 31;
  CHECK(Shape{k31, k31}.numel() == std::int64_t{1} << 62);
  CHECK_THROWS_AS((Shape{k31, k31, 2}), ShapeError);
  CHECK_THROWS_AS((Shape{std::int64_t{1} << 33, std::int64_t{1} << 33}), ShapeError);  // 2^66 wraps to 4
  CHECK_THROWS_AS(Shape{INT64_MAX}, ShapeError);
  // Strides of an empty tensor must not overflow either.
  CHECK_THROWS_AS((Shape{0, k31, k31, k31}), ShapeError);
}

TEST_CASE("with replaces one size") {
  CHECK(Shape{4, 3, 2}.with(1, 7) == Shape{4, 7, 2});
  CHECK(Shape{4, 3, 2}.with(-1, 0) == Shape{4, 3, 0});
  CHECK_THROWS_AS(Shape{4}.with(1, 2), ShapeError);
  CHECK_THROWS_AS(Shape{4}.with(0, -2), ShapeError);
}

TEST_CASE("broadcast_shapes follows NumPy") {
  const auto both_ways = [](const Shape& a, const Shape& b) {
    const Shape shape = broadcast_shapes("test", a, b);
    CHECK(broadcast_shapes("test", b, a) == shape);
    return shape;
  };
  CHECK(both_ways({3, 4}, {3, 4}) == Shape{3, 4});
  CHECK(both_ways({3, 4}, {4}) == Shape{3, 4});
  CHECK(both_ways({3, 1}, {1, 4}) == Shape{3, 4});
  CHECK(both_ways({}, {2, 3}) == Shape{2, 3});
  CHECK(both_ways({8, 1, 6, 1}, {7, 1, 5}) == Shape{8, 7, 6, 5});
  CHECK(both_ways({0}, {1}) == Shape{0});
  CHECK(both_ways({2, 0}, {1, 1}) == Shape{2, 0});
  CHECK_THROWS_AS(broadcast_shapes("test", {3}, {4}), ShapeError);
  CHECK_THROWS_AS(broadcast_shapes("test", {0}, {2}), ShapeError);
  try {
    broadcast_shapes("mul", {2, 3}, {4});
    FAIL("expected a ShapeError");
  } catch (const ShapeError& error) {
    CHECK(error.op() == "mul");
    CHECK(std::string(error.what()) == "[mul] expected shapes that broadcast, got [2, 3] and [4]");
  }
}

TEST_CASE("normalize_dim counts negative dimensions from the end") {
  using lockstep::normalize_dim;
  CHECK(normalize_dim("test", 0, 3) == 0);
  CHECK(normalize_dim("test", 2, 3) == 2);
  CHECK(normalize_dim("test", -1, 3) == 2);
  CHECK(normalize_dim("test", -3, 3) == 0);
  CHECK_THROWS_AS(normalize_dim("test", 3, 3), ShapeError);
  CHECK_THROWS_AS(normalize_dim("test", -4, 3), ShapeError);
  CHECK_THROWS_AS(normalize_dim("test", 0, 0), ShapeError);
}

}  // namespace
