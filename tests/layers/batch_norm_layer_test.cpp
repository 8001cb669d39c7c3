#include <lockstep/layers/batch_norm.h>

#include <cmath>
#include <optional>
#include <vector>

#include <lockstep/core/base/error.h>
#include <lockstep/core/ops.h>
#include <catch2/catch.hpp>

using namespace lockstep;

namespace {

/// 0, 0.1, 0.4, 0.9, …: the input of the values below, which are torch.nn.BatchNorm2d's.
Tensor squares() {
  std::vector<double> values;
  for (int i = 0; i < 16; ++i) values.push_back(i * i / 10.0);
  return Tensor::from(values, {2, 2, 2, 2});
}

void check_near(const Tensor& tensor, const std::vector<double>& expected) {
  const auto values = tensor.to_vector<double>();
  REQUIRE(values.size() >= expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(values[i] == Approx(expected[i]).epsilon(1e-12));
}

}  // namespace

TEST_CASE("running statistics are PyTorch's") {
  BatchNorm2d norm(2);
  norm.to(DType::float64);
  const Tensor x = squares();
  norm(x);
  norm(x + 1.0);
  check_near(norm.running_mean, {1.0025, 2.1425});
  check_near(norm.running_var, {5.5182, 14.507914285714286});
  CHECK(norm.num_batches_tracked.item() == 2.0);
  check_near(norm(x), {-1.02009080277019804, -0.99861520692240435, -0.93418841937902342, -0.82681044014005523,
                       -1.15203748783176918});
}

TEST_CASE("without a momentum running statistics are averages, and evaluation uses them") {
  BatchNorm2d norm(2, {.momentum = std::nullopt});
  norm.to(DType::float64);
  const Tensor x = squares();
  norm(x);
  norm(x + 1.0);
  check_near(norm.running_mean, {5.25, 11.25});
  check_near(norm.running_var, {24.78, 72.094285714285714});
  norm.eval();
  check_near(norm(x), {-1.05465050454078546, -1.03456192350191345, -0.97429618038529708, -0.87385327519093658,
                       -1.13651942137492368});
  CHECK(norm.num_batches_tracked.item() == 2.0);
}

TEST_CASE("training, evaluation and training again are PyTorch's; evaluation and refused batches leave no trace") {
  struct Case {
    std::optional<double> momentum;
    std::vector<double> mean, var, evaluated, single;  // evaluated: the first values of x / 2 after one batch
  };
  const Case cases[] = {
      {0.0, {0, 0}, {1, 1}, {0, 0.04999975000187499}, {1.9999900000749995, 2.999985000112499}},
      {1.0,
       {10.5, 22.5},
       {99.11999999999999, 288.3771428571428},
       {-0.9542075993464249, -0.9441633088269888},
       {-0.8537648233537204, -1.1482968844341401}},
      {0.25,
       {3.515625, 7.640625},
       {29.988749999999996, 86.17446428571427},
       {-0.4506062182623505, -0.4316333248618305},
       {-0.27676585273329085, -0.499904624138847}},
      {std::nullopt,
       {7.625, 16.625},
       {61.949999999999996, 180.23571428571427},
       {-0.9542075993464249, -0.9441633088269888},
       {-0.7146638857627294, -1.0148832221413222}},
  };
  const Tensor x = squares(), single = Tensor::from(std::vector<double>{2, 3}, {1, 2, 1, 1});
  for (const Case& expected : cases) {
    CAPTURE(expected.momentum.value_or(-1.0));
    BatchNorm2d norm(2, {.momentum = expected.momentum});
    norm.to(DType::float64);
    norm(x);
    norm.eval();
    check_near(norm(affine(x, 0.5, 0.0)), expected.evaluated);
    norm(x);
    CHECK(norm.num_batches_tracked.item() == 1.0);
    norm.train();
    norm(affine(x, 2.0, 1.0));
    ReLU relu;
    CHECK_THROWS_AS(norm(single), ValueError);  // one value per channel has no variance
    CHECK_THROWS_AS(batch_norm_relu(norm, relu, single, {}), ValueError);
    norm.eval();
    check_near(norm(single), expected.single);
    check_near(norm.running_mean, expected.mean);
    check_near(norm.running_var, expected.var);
    CHECK(norm.num_batches_tracked.item() == 2.0);  // where PyTorch counts the refused batches too
  }
}

TEST_CASE("a batch norm without running statistics normalises with the batch in evaluation too") {
  BatchNorm2d norm(2, {.track_running_stats = false});
  CHECK(norm.named_buffers().empty());
  const Tensor x = squares().to(DType::float32);
  const auto trained = norm(x).to_vector<float>();
  norm.eval();
  CHECK(norm(x).to_vector<float>() == trained);
}

TEST_CASE("a batch norm without affine has no parameters") {
  BatchNorm2d norm(2, {.affine = false});
  CHECK(norm.parameters().empty());
  const Tensor y = mean(norm(squares().to(DType::float32)), {0, 2, 3});
  for (const double channel_mean : y.to_vector<double>()) CHECK(std::abs(channel_mean) < 1e-6);
}

TEST_CASE("BatchNorm1d takes [N, C], BatchNorm2d [N, C, H, W]") {
  BatchNorm1d norm1(3);
  BatchNorm2d norm2(3);
  CHECK(norm1(Tensor::randn({4, 3})).shape() == Shape{4, 3});
  CHECK_THROWS_AS(norm1(Tensor::randn({4, 3, 2, 2})), ShapeError);
  CHECK_THROWS_AS(norm2(Tensor::randn({4, 3})), ShapeError);
  CHECK_THROWS_AS(norm2(Tensor::randn({4, 2, 2, 2})), ShapeError);
  CHECK(norm2.num_batches_tracked.item() == 0.0);  // refused batches are not counted
  CHECK_THROWS_AS(norm1(Tensor::randn({1, 3})), ValueError);
  CHECK_THROWS_AS(BatchNorm2d(0), ValueError);
}

TEST_CASE("num_batches_tracked may be missing from a state dict") {
  BatchNorm2d norm(2);
  *norm.num_batches_tracked.data<std::int64_t>() = 4;
  StateDict state = norm.state_dict();
  CHECK(state.erase("num_batches_tracked"));
  CHECK_NOTHROW(norm.load_state_dict(state));
  CHECK(norm.num_batches_tracked.item() == 4.0);
}

TEST_CASE("the fused batch norm and its parts give the same values, gradients and statistics") {
  const Tensor x0 = squares(), residual0 = affine(squares(), -0.5, 3.0);
  const bool with_residual = GENERATE(true, false);
  const bool training = GENERATE(true, false);
  // 0: fused; 1: a hook on the norm; 2: a hook on the relu
  std::vector<std::vector<double>> results[3];
  for (int variant = 0; variant < 3; ++variant) {
    BatchNorm2d norm(2);
    norm.to(DType::float64);
    norm.train(training);
    ReLU relu(true);
    int calls = 0;
    const auto count = [&](Module&, const Tensor&, const Tensor&) { ++calls; };
    if (variant == 1) norm.register_forward_hook(count);
    if (variant == 2) relu.register_forward_hook(count);
    Tensor x = x0.clone(), residual = residual0.clone();
    x.set_requires_grad();
    residual.set_requires_grad();
    const Tensor y = batch_norm_relu(norm, relu, x, with_residual ? residual : Tensor());
    sum(y * y).backward();
    CHECK(calls == (variant == 0 ? 0 : 1));
    for (const Tensor& tensor : {y, x.grad(), norm.weight.grad(), norm.bias.grad(), norm.running_mean, norm.running_var,
                                 norm.num_batches_tracked}) {
      results[variant].push_back(tensor.to_vector<double>());
    }
    if (with_residual) results[variant].push_back(residual.grad().to_vector<double>());
  }
  for (int variant = 1; variant < 3; ++variant) {
    REQUIRE(results[variant].size() == results[0].size());
    for (std::size_t i = 0; i < results[0].size(); ++i) {
      REQUIRE(results[variant][i].size() == results[0][i].size());
      for (std::size_t j = 0; j < results[0][i].size(); ++j) {
        CHECK(results[variant][i][j] == Approx(results[0][i][j]).epsilon(1e-9).margin(1e-9));
      }
    }
  }
}
