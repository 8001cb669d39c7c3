// Values and gradients of the ops equal PyTorch's, in float64.
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include <lockstep/core/ops.h>
#include <lockstep/tests/core/ops/pytorch_values.h>

using namespace lockstep;
namespace pytorch = lockstep::test::pytorch;

namespace {

using Values = std::vector<double>;

/// 2 sin(0.7 i + phase) for element i, as `wave` of pytorch_values.py.
Tensor wave(double phase, const Shape& shape) {
  Values values(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = 2.0 * std::sin(0.7 * static_cast<double>(i) + phase);
  return Tensor::from(values, shape).set_requires_grad();
}
Tensor data(double phase, const Shape& shape) { return wave(phase, shape).detach(); }

void check_equal(const Tensor& got, const Values& expected) {
  const Values values = got.to_vector<double>();
  REQUIRE(values.size() == expected.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    CAPTURE(i);
    CHECK(values[i] == Approx(expected[i]).epsilon(1e-12).margin(1e-12));
  }
}

/// Compares the result, and the gradients of Σ wave(0.5) · y.
void check_all(const Tensor& y, const Values& expected, const std::vector<std::pair<Tensor, Values>>& gradients) {
  check_equal(y, expected);
  y.backward(data(0.5, y.shape()));
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    INFO("gradient " << i);
    check_equal(gradients[i].first.grad(), gradients[i].second);
  }
}

TEST_CASE("conv2d as PyTorch") {
  const Tensor x = wave(0.0, {2, 4, 5, 4}), w = wave(1.0, {6, 2, 3, 2}), b = wave(2.0, {6});
  check_all(conv2d(x, w, b, {.stride = {2, 1}, .padding = {1, 2}, .dilation = {1, 2}, .groups = 2}), pytorch::conv2d,
            {{x, pytorch::conv2d_grad_x}, {w, pytorch::conv2d_grad_w}, {b, pytorch::conv2d_grad_b}});
}

TEST_CASE("Pools as PyTorch") {
  for (const bool ceil : {false, true}) {
    const Tensor x = wave(0.1, {1, 2, 6, 5});
    check_all(
        max_pool2d(x,
                   {.kernel_size = {3, 2}, .stride = {2, 2}, .padding = {1, 1}, .dilation = {1, 2}, .ceil_mode = ceil}),
        ceil ? pytorch::max_pool2d_ceil : pytorch::max_pool2d_floor,
        {{x, ceil ? pytorch::max_pool2d_ceil_grad_x : pytorch::max_pool2d_floor_grad_x}});
  }
  const auto average = [](bool ceil, bool include, const Values& expected, const Values& gradient) {
    const Tensor x = wave(0.2, {1, 2, 6, 5});
    check_all(avg_pool2d(x, {.kernel_size = {3, 2},
                             .stride = {2, 3},
                             .padding = {1, 1},
                             .ceil_mode = ceil,
                             .count_include_pad = include}),
              expected, {{x, gradient}});
  };
  average(false, false, pytorch::avg_pool2d_floor_without_pad, pytorch::avg_pool2d_floor_without_pad_grad_x);
  average(false, true, pytorch::avg_pool2d_floor_with_pad, pytorch::avg_pool2d_floor_with_pad_grad_x);
  average(true, false, pytorch::avg_pool2d_ceil_without_pad, pytorch::avg_pool2d_ceil_without_pad_grad_x);
  average(true, true, pytorch::avg_pool2d_ceil_with_pad, pytorch::avg_pool2d_ceil_with_pad_grad_x);
  const Tensor x = wave(0.3, {1, 2, 5, 7});
  check_all(adaptive_avg_pool2d(x, {3, 4}), pytorch::adaptive_avg_pool2d, {{x, pytorch::adaptive_avg_pool2d_grad_x}});
}

TEST_CASE("batch_norm as PyTorch, running statistics included") {
  Tensor x = wave(0.4, {2, 3, 2, 2}), w = wave(1.4, {3}), b = wave(2.4, {3});
  const Tensor mean = data(3.4, {3}), var = data(4.4, {3}) + 2.5;
  check_all(batch_norm(x, w, b, mean, var, {.training = false, .momentum = 0.3, .eps = 1e-3}), pytorch::batch_norm_eval,
            {{x, pytorch::batch_norm_eval_grad_x},
             {w, pytorch::batch_norm_eval_grad_w},
             {b, pytorch::batch_norm_eval_grad_b}});
  for (Tensor* t : {&x, &w, &b}) t->set_grad({});
  check_all(batch_norm(x, w, b, mean, var, {.training = true, .momentum = 0.3, .eps = 1e-3}), pytorch::batch_norm_train,
            {{x, pytorch::batch_norm_train_grad_x},
             {w, pytorch::batch_norm_train_grad_w},
             {b, pytorch::batch_norm_train_grad_b}});
  check_equal(mean, pytorch::batch_norm_running_mean);
  check_equal(var, pytorch::batch_norm_running_var);
}

TEST_CASE("batch_norm_relu as PyTorch's relu(batch_norm(x) + residual)") {
  const Tensor x = wave(0.4, {2, 3, 2, 2}), w = wave(1.4, {3}), b = wave(2.4, {3}), r = wave(5.4, {2, 3, 2, 2});
  check_all(batch_norm_relu(x, w, b, {}, {}, {.training = true}, r), pytorch::batch_norm_relu,
            {{x, pytorch::batch_norm_relu_grad_x},
             {w, pytorch::batch_norm_relu_grad_w},
             {b, pytorch::batch_norm_relu_grad_b},
             {r, pytorch::batch_norm_relu_grad_r}});
}

TEST_CASE("softmax and log_softmax as PyTorch, over any dimension") {
  const Values* expected[3][4] = {
      {&pytorch::softmax_0, &pytorch::softmax_0_grad_x, &pytorch::log_softmax_0, &pytorch::log_softmax_0_grad_x},
      {&pytorch::softmax_1, &pytorch::softmax_1_grad_x, &pytorch::log_softmax_1, &pytorch::log_softmax_1_grad_x},
      {&pytorch::softmax_2, &pytorch::softmax_2_grad_x, &pytorch::log_softmax_2, &pytorch::log_softmax_2_grad_x}};
  for (int dim = 0; dim < 3; ++dim) {
    const Tensor x = wave(0.6, {2, 3, 4}), y = wave(0.6, {2, 3, 4});
    check_all(softmax(x, dim), *expected[dim][0], {{x, *expected[dim][1]}});
    check_all(log_softmax(y, dim), *expected[dim][2], {{y, *expected[dim][3]}});
  }
}

TEST_CASE("cross_entropy as PyTorch") {
  const Tensor target = Tensor::from(std::vector<std::int64_t>{1, 3, 0, 3}, {4});
  const Tensor wide = wave(0.8, {4, 4}).detach();
  Values magnitudes = wide.to_vector<double>();
  for (double& value : magnitudes) value = std::abs(value);
  const Tensor probabilities = Tensor::from(magnitudes, {4, 4});
  const auto check = [&](Reduction reduction, double smoothing, const Values& y, const Values& grad, const Values& yp,
                         const Values& gradp) {
    const Tensor a = wave(0.7, {4, 4}), b = wave(0.7, {4, 4});
    check_all(cross_entropy(a, target, {.reduction = reduction, .ignore_index = 3, .label_smoothing = smoothing}), y,
              {{a, grad}});
    check_all(cross_entropy(b, probabilities, {.reduction = reduction, .label_smoothing = smoothing}), yp,
              {{b, gradp}});
  };
  using namespace pytorch;
  check(Reduction::none, 0.0, cross_entropy_none_plain, cross_entropy_none_plain_grad_x,
        cross_entropy_probabilities_none_plain, cross_entropy_probabilities_none_plain_grad_x);
  check(Reduction::none, 0.2, cross_entropy_none_smooth, cross_entropy_none_smooth_grad_x,
        cross_entropy_probabilities_none_smooth, cross_entropy_probabilities_none_smooth_grad_x);
  check(Reduction::mean, 0.0, cross_entropy_mean_plain, cross_entropy_mean_plain_grad_x,
        cross_entropy_probabilities_mean_plain, cross_entropy_probabilities_mean_plain_grad_x);
  check(Reduction::mean, 0.2, cross_entropy_mean_smooth, cross_entropy_mean_smooth_grad_x,
        cross_entropy_probabilities_mean_smooth, cross_entropy_probabilities_mean_smooth_grad_x);
  check(Reduction::sum, 0.0, cross_entropy_sum_plain, cross_entropy_sum_plain_grad_x,
        cross_entropy_probabilities_sum_plain, cross_entropy_probabilities_sum_plain_grad_x);
  check(Reduction::sum, 0.2, cross_entropy_sum_smooth, cross_entropy_sum_smooth_grad_x,
        cross_entropy_probabilities_sum_smooth, cross_entropy_probabilities_sum_smooth_grad_x);
}

TEST_CASE("Products as PyTorch") {
  const Tensor a = wave(0.9, {2, 3, 4}), b = wave(1.9, {2, 4, 2});
  check_all(matmul(a, b), pytorch::matmul, {{a, pytorch::matmul_grad_a}, {b, pytorch::matmul_grad_b}});
  const Tensor x = wave(0.9, {2, 2, 3}), w = wave(1.9, {4, 3}), bias = wave(2.9, {4});
  check_all(linear(x, w, bias), pytorch::linear,
            {{x, pytorch::linear_grad_x}, {w, pytorch::linear_grad_w}, {bias, pytorch::linear_grad_b}});
}

TEST_CASE("Functions and broadcasting as PyTorch") {
  const Tensor x = wave(0.35, {3, 4});
  check_all(exp(x) + log(x * x + 1.0) + sqrt(x * x + 0.5) + relu(x) + sigmoid(x) + tanh(x) - x / 3.0,
            pytorch::functions, {{x, pytorch::functions_grad_x}});
  const Tensor a = wave(0.45, {2, 3, 1}), b = wave(1.45, {3, 4});
  check_all(a * b - a / (b + 3.0) + b, pytorch::broadcast,
            {{a, pytorch::broadcast_grad_a}, {b, pytorch::broadcast_grad_b}});
}

}  // namespace
