#include <lockstep/layers/init.h>

#include <algorithm>
#include <cmath>

#include <lockstep/core/base/error.h>
#include <catch2/catch.hpp>

using namespace lockstep;

namespace {

struct Moments {
  double mean = 0, stddev = 0, low = 0, high = 0;
};

Moments moments_of(const Tensor& tensor) {
  const auto values = tensor.to_vector<double>();
  Moments m;
  for (const double v : values) m.mean += v / static_cast<double>(values.size());
  for (const double v : values) m.stddev += (v - m.mean) * (v - m.mean) / static_cast<double>(values.size());
  m.stddev = std::sqrt(m.stddev);
  m.low = *std::min_element(values.begin(), values.end());
  m.high = *std::max_element(values.begin(), values.end());
  return m;
}

const Shape kWeight{64, 32, 5,
                    3};  // fan_in 480, fan_out 960; 30720 elements: means are within 0.02 standard deviations

}  // namespace

TEST_CASE("kaiming initialisation has the spread of its formula") {
  manual_seed(1);
  const DType dtype = GENERATE(DType::float32, DType::float64);
  const Tensor weight = Tensor::zeros(kWeight, {.dtype = dtype, .layout = Layout::channels_last});
  double expected = 0;
  SECTION("normal, fan out, relu") {
    init::kaiming_normal_(weight, {.mode = init::FanMode::fan_out, .nonlinearity = init::Nonlinearity::relu});
    expected = std::sqrt(2.0 / 960.0);
    CHECK(moments_of(weight).high > 3.0 * expected);
  }
  SECTION("normal, fan in, linear") {
    init::kaiming_normal_(weight, {.nonlinearity = init::Nonlinearity::linear});
    expected = std::sqrt(1.0 / 480.0);
  }
  SECTION("uniform, fan in, leaky relu") {
    init::kaiming_uniform_(weight, {.a = std::sqrt(5.0)});
    const double bound = 1.0 / std::sqrt(480.0);
    expected = bound / std::sqrt(3.0);
    const Moments m = moments_of(weight);
    CHECK(m.low >= -bound * (1 + 1e-6));
    CHECK(m.high <= bound * (1 + 1e-6));
    CHECK(m.high > 0.99 * bound);
  }
  const Moments m = moments_of(weight);
  CHECK(m.stddev == Approx(expected).epsilon(0.02));
  CHECK(std::abs(m.mean) < 0.025 * expected);
}

TEST_CASE("draws depend on the seed and advance the generator") {
  const auto draw = [] {
    const Tensor tensor = Tensor::zeros({100});
    init::normal_(tensor, 1.0, 2.0);
    return tensor.to_vector<float>();
  };
  manual_seed(7);
  const auto first = draw(), second = draw();
  manual_seed(7);
  CHECK(draw() == first);
  CHECK(first != second);
  manual_seed(8);
  CHECK(draw() != first);
}

TEST_CASE("initialisation of parameters is not recorded") {
  Tensor parameter = Tensor::zeros({2, 2});
  parameter.set_requires_grad();
  init::constant_(parameter, 3.0);
  CHECK(parameter.is_leaf());
  CHECK(parameter.to_vector<float>() == std::vector<float>(4, 3.0f));
  init::uniform_(parameter, 5.0, 6.0);
  CHECK(parameter.is_leaf());
  CHECK(moments_of(parameter).low >= 5.0);
}

TEST_CASE("initialisation refuses what it cannot fill") {
  CHECK_THROWS_AS(init::kaiming_normal_(Tensor::zeros({3})), ShapeError);
  CHECK_THROWS_AS(init::normal_(Tensor::arange(3)), DTypeError);
  CHECK_THROWS_AS(init::normal_(Tensor()), ValueError);
  CHECK_THROWS_AS(init::normal_(Tensor::zeros({3}), 0.0, -1.0), ValueError);
  CHECK_THROWS_AS(init::uniform_(Tensor::zeros({3}), 1.0, 0.0), ValueError);
  CHECK_NOTHROW(init::kaiming_uniform_(Tensor::zeros({0, 4})));
  CHECK_NOTHROW(init::kaiming_uniform_(Tensor::zeros({4, 0})));
}
