// Convolution, pooling, normalisation, dropout and losses against values worked out by hand or by plain loops.
#include <algorithm>
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

// ---- Images.

TEST_CASE("conv2d by a plain loop") {
  test::Draws draws(4);
  for (int trial = 0; trial < 60; ++trial) {
    Conv2dOptions o;
    o.groups = draws.from_to(1, 3);
    const std::int64_t cg = draws.from_to(1, 3), kg = draws.from_to(1, 3), r = draws.from_to(1, 3),
                       s = draws.from_to(1, 3);
    const std::int64_t n = draws.from_to(1, 2), h = draws.from_to(5, 8), width = draws.from_to(5, 8);
    for (std::size_t d = 0; d < 2; ++d) {
      o.stride[d] = draws.from_to(1, 3);
      o.padding[d] = draws.from_to(0, 3);
      o.dilation[d] = draws.from_to(1, 2);
    }
    const std::int64_t c = cg * o.groups, k = kg * o.groups;
    const Tensor x = draws.uniform({n, c, h, width}), w = draws.uniform({k, cg, r, s}), b = draws.uniform({k});
    const Values vx = values_of(x), vw = values_of(w), vb = values_of(b);
    const std::int64_t p = (h + 2 * o.padding[0] - o.dilation[0] * (r - 1) - 1) / o.stride[0] + 1;
    const std::int64_t q = (width + 2 * o.padding[1] - o.dilation[1] * (s - 1) - 1) / o.stride[1] + 1;
    Values expected;
    for (std::int64_t i = 0; i < n * k * p * q; ++i) {
      const std::int64_t in = i / (k * p * q), ik = i / (p * q) % k, ip = i / q % p, iq = i % q;
      double y = vb[static_cast<std::size_t>(ik)];
      for (std::int64_t j = 0; j < cg * r * s; ++j) {
        const std::int64_t ic = j / (r * s), ir = j / s % r, is = j % s;
        const std::int64_t ih = ip * o.stride[0] - o.padding[0] + ir * o.dilation[0];
        const std::int64_t iw = iq * o.stride[1] - o.padding[1] + is * o.dilation[1];
        if (ih < 0 || ih >= h || iw < 0 || iw >= width) continue;
        y += vx[static_cast<std::size_t>(((in * c + ik / kg * cg + ic) * h + ih) * width + iw)] *
             vw[static_cast<std::size_t>(((ik * cg + ic) * r + ir) * s + is)];
      }
      expected.push_back(y);
    }
    for (const DType dtype : {DType::float64, DType::float32}) {
      const Tensor y = conv2d(x.to(dtype), w.to(dtype), b.to(dtype), o);
      CHECK(y.shape() == Shape{n, k, p, q});
      CHECK(y.layout() == Layout::channels_last);
      const Values got = values_of(y);
      double worst = 0.0;
      for (std::size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - expected[i]));
      CAPTURE(trial, o.groups, o.stride, o.padding, o.dilation, r, s);
      CHECK(worst < (dtype == DType::float64 ? 1e-12 : 2e-5));
    }
  }
}

TEST_CASE("max_pool2d: padding is −inf, the first of equals gets the gradient") {
  const Tensor x = make({-5, -6, -7, -8}, {1, 1, 2, 2});
  CHECK(values_of(max_pool2d(x, {.kernel_size = {2, 2}, .stride = {1, 1}, .padding = {1, 1}})) ==
        Values{-5, -5, -6, -5, -5, -6, -7, -7, -8});
  // A window of padding alone.
  CHECK(values_of(max_pool2d(make({1}, {1, 1, 1, 1}),
                             {.kernel_size = {2, 1}, .padding = {1, 0}, .dilation = {2, 1}})) == Values{-kInf});
  const Tensor equal = Tensor::ones({1, 1, 2, 2}, {.dtype = DType::float64}).set_requires_grad();
  sum(max_pool2d(equal, {})).backward();
  CHECK(values_of(equal.grad()) == Values{1, 0, 0, 0});
  const Tensor overlap = make({1, 9, 1}, {1, 1, 1, 3}).set_requires_grad();
  sum(max_pool2d(overlap, {.kernel_size = {1, 2}, .stride = {1, 1}})).backward();
  CHECK(values_of(overlap.grad()) == Values{0, 2, 0});
}

TEST_CASE("Output sizes of pools follow PyTorch") {
  const auto size = [](std::int64_t in, std::int64_t kernel, std::int64_t stride, std::int64_t pad, bool ceil) {
    return max_pool2d(Tensor::ones({1, 1, in, 1}),
                      {.kernel_size = {kernel, 1}, .stride = {stride, 1}, .padding = {pad, 0}, .ceil_mode = ceil})
        .size(2);
  };
  CHECK(size(5, 2, 2, 0, false) == 2);
  CHECK(size(5, 2, 2, 0, true) == 3);
  CHECK(size(4, 2, 3, 1, true) == 2);  // a third window would start in the padding
  CHECK(size(112, 3, 2, 1, false) == 56);
  CHECK(size(1, 2, 2, 0, true) == 1);
  CHECK(max_pool2d(Tensor::ones({0, 3, 4, 4}), {}).shape() == Shape{0, 3, 2, 2});
}

TEST_CASE("avg_pool2d divides by the window or by what lies inside") {
  const Tensor x = make({1, 2, 3, 4}, {1, 1, 2, 2});
  const Pool2dOptions o{.kernel_size = {2, 2}, .stride = {1, 1}, .padding = {1, 1}};
  CHECK(values_of(avg_pool2d(x, o)) == Values{0.25, 0.75, 0.5, 1, 2.5, 1.5, 0.75, 1.75, 1});
  Pool2dOptions inside = o;
  inside.count_include_pad = false;
  CHECK(values_of(avg_pool2d(x, inside)) == Values{1, 1.5, 2, 2, 2.5, 3, 3, 3.5, 4});
  // With ceil_mode the part of a window that hangs over the edge never counts.
  CHECK(values_of(avg_pool2d(make({1, 2, 3}, {1, 1, 1, 3}), {.kernel_size = {1, 2}, .ceil_mode = true})) ==
        Values{1.5, 3});
}

TEST_CASE("adaptive_avg_pool2d by hand") {
  const Tensor x = count_up({1, 1, 3, 5});
  CHECK(values_of(adaptive_avg_pool2d(x, {1, 1})) == Values{7});
  CHECK(values_of(adaptive_avg_pool2d(x, {3, 5})) == values_of(x));
  CHECK(values_of(adaptive_avg_pool2d(x, {1, 2})) == Values{6, 8});  // columns 0–2 and 2–4
  CHECK(values_of(adaptive_avg_pool2d(make({1, 2}, {1, 1, 1, 2}), {2, 4})) == Values{1, 1, 2, 2, 1, 1, 2, 2});
}

// ---- Normalisation and regularisation.

TEST_CASE("batch_norm: normalised output, unbiased running variance, momentum") {
  const Tensor x = make({1, 10, 3, 20, 5, 60}, {3, 2});  // channels (1, 3, 5) and (10, 20, 60)
  const Tensor weight = make({1, 2}), bias = make({0, 5}), mean = make({0, 100}), var = make({1, 10});
  const Tensor y = batch_norm(x, weight, bias, mean, var, {.momentum = 0.1, .eps = 1e-5});
  const double s = 1.0 / std::sqrt(8.0 / 3.0 + 1e-5);
  const Values values = values_of(y);
  CHECK(values[0] == Approx(-2 * s));
  CHECK(values[2] == Approx(0.0).margin(1e-12));
  CHECK(values[4] == Approx(2 * s));
  CHECK(values[5] == Approx(5 + 2 * 30 / std::sqrt(1400.0 / 3.0 + 1e-5)));
  CHECK(values_of(mean)[0] == Approx(0.3));
  CHECK(values_of(mean)[1] == Approx(90 + 3));
  CHECK(values_of(var)[0] == Approx(0.9 + 0.1 * 4.0));  // (4 + 0 + 4) / 2
  CHECK(values_of(var)[1] == Approx(9 + 0.1 * 700.0));
}

TEST_CASE("batch_norm in evaluation uses the running statistics and leaves them") {
  const Tensor mean = make({1, 2}), var = make({4, 9});
  const Tensor y =
      batch_norm(make({3, 5}, {1, 2}), make({1, 10}), make({0, 1}), mean, var, {.training = false, .eps = 0.0});
  CHECK(values_of(y) == Values{1, 11});
  CHECK(values_of(mean) == Values{1, 2});
  CHECK(values_of(var) == Values{4, 9});
}

TEST_CASE("batch_norm with a large mean keeps its digits in float32") {
  manual_seed(9);
  const Tensor noise = Tensor::randn({64, 4, 8, 8});
  const Tensor ones = Tensor::ones({4}), zeros = Tensor::zeros({4});
  const Tensor var = Tensor::zeros({4});
  batch_norm(noise * 0.01 + 100.0, ones, zeros, Tensor::zeros({4}), var, {.momentum = 1.0});
  for (const double value : values_of(var))
    CHECK(value == Approx(1e-4).epsilon(0.1));  // E[x²] − E[x]² would give noise
}

TEST_CASE("batch_norm_relu equals its parts") {
  test::Draws draws(6);
  for (const bool training : {true, false}) {
    const Tensor x = draws.uniform({3, 5, 2, 3}), r = draws.uniform({3, 5, 2, 3}, Layout::channels_last);
    const Tensor w = draws.uniform({5}), b = draws.uniform({5}), m = draws.uniform({5}),
                 v = draws.uniform({5}, {}, 0.5, 2.0);
    const BatchNormOptions o{.training = training};
    const Values fused = values_of(batch_norm_relu(x, w, b, m.clone(), v.clone(), o, r));
    const Values parts = values_of(relu(batch_norm(x, w, b, m.clone(), v.clone(), o) + r));
    for (std::size_t i = 0; i < parts.size(); ++i) CHECK(fused[i] == Approx(parts[i]).margin(1e-13));
  }
}

TEST_CASE("conv2d_relu and linear_relu equal their parts, NaN and gradients included") {
  test::Draws draws(7);
  const auto check = [&](const Shape& x_shape, const Shape& w_shape, const auto& fused, const auto& parts) {
    for (const DType dtype : {DType::float32, DType::float64}) {
      Tensor x = draws.uniform(x_shape);
      x.data<double>()[3] = kNaN;
      x = x.to(dtype);
      const Tensor w = draws.uniform(w_shape).to(dtype), b = draws.uniform({w_shape[0]}).to(dtype);
      std::vector<Values> results[2];
      for (const bool whole : {true, false}) {
        const std::vector<Tensor> leaves = {x.clone().set_requires_grad(), w.clone().set_requires_grad(),
                                            b.clone().set_requires_grad()};
        const Tensor y = whole ? fused(leaves[0], leaves[1], leaves[2]) : parts(leaves[0], leaves[1], leaves[2]);
        sum(y * y).backward();
        results[whole].push_back(values_of(y));
        for (const Tensor& leaf : leaves) results[whole].push_back(values_of(leaf.grad()));
      }
      CHECK(std::any_of(results[1][0].begin(), results[1][0].end(), [](double value) { return std::isnan(value); }));
      CHECK(std::count(results[1][0].begin(), results[1][0].end(), 0.0) > 0);
      for (std::size_t i = 0; i < 4; ++i) CHECK(same(results[0][i], results[1][i]));
    }
  };
  const Conv2dOptions o{.padding = {1, 1}};
  check(
      {3, 4, 5, 6}, {5, 4, 3, 3}, [=](auto... in) { return conv2d_relu(in..., o); },
      [=](auto... in) { return relu(conv2d(in..., o)); });
  check(
      {17, 9}, {5, 9}, [](auto... in) { return linear_relu(in...); }, [](auto... in) { return relu(linear(in...)); });
}

TEST_CASE("dropout: fraction, scale, mask in backward, reproducible") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const double p : {0.1, 0.5, 0.8}) {
      manual_seed(42);
      const Tensor x = Tensor::ones({50, 400}, {.dtype = dtype}).set_requires_grad();
      const Tensor y = dropout(x, p);
      const Values values = values_of(y);
      const double scale = 1.0 / (1.0 - p);
      std::int64_t dropped = 0;
      for (const double value : values) {
        dropped += value == 0.0;
        if (value != 0.0) REQUIRE(value == Approx(scale));
      }
      const double sigma = std::sqrt(20000 * p * (1 - p));
      CHECK(std::abs(static_cast<double>(dropped) - 20000 * p) < 6 * sigma);
      sum(y).backward();
      CHECK(values_of(x.grad()) == values);  // 1 / (1 − p) where it passed, 0 where not
      CHECK(values_of(dropout(x, p)) != values);
      manual_seed(42);
      CHECK(values_of(dropout(x, p)) == values);
    }
  }
  const Tensor x = make({1, 2, 3});
  CHECK(dropout(x, 0.5, false).data_ptr() == x.data_ptr());
  CHECK(values_of(dropout(x, 0.0)) == values_of(x));
  CHECK(same(values_of(dropout(make({1, -2, kInf}), 1.0)), {0, 0, kNaN}));  // 0 · ∞, as PyTorch
}

// ---- Softmax and losses.

TEST_CASE("softmax and losses with huge logits") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    const Tensor x = make({1000, 0, -1000, 1000, 1000, 1000}, {2, 3}).to(dtype);
    const Values third(3, static_cast<double>(dtype == DType::float32 ? 1.0f / 3.0f : 1.0 / 3.0));
    const Values soft = values_of(softmax(x, 1));
    CHECK(Values(soft.begin(), soft.begin() + 3) == Values{1, 0, 0});
    CHECK(soft[4] == Approx(1.0 / 3.0));
    CHECK(values_of(log_softmax(x, 1))[2] == -2000.0);
    const Tensor loss = cross_entropy(x, Tensor::from(Indices{1, 0}, {2}), {.reduction = Reduction::none});
    CHECK(values_of(loss)[0] == 1000.0);
    CHECK(values_of(loss)[1] == Approx(std::log(3.0)));
  }
  // A class that cannot be.
  CHECK(same(values_of(softmax(make({0, -kInf, 0}), 0)), {0.5, 0, 0.5}));
  CHECK(same(values_of(softmax(make({-kInf, -kInf}), 0)), {kNaN, kNaN}));
}

TEST_CASE("cross_entropy by hand: reductions, ignored rows") {
  const Tensor logits = make({0, 0, std::log(3.0), 0}, {2, 2});  // probabilities ½ ½ and ¾ ¼
  const Tensor target = Tensor::from(Indices{0, 1}, {2});
  const double first = std::log(2.0), second = std::log(4.0);
  const Values rows = values_of(cross_entropy(logits, target, {.reduction = Reduction::none}));
  CHECK(rows[0] == Approx(first));
  CHECK(rows[1] == Approx(second));
  CHECK(cross_entropy(logits, target).item() == Approx((first + second) / 2));
  CHECK(cross_entropy(logits, target, {.reduction = Reduction::sum}).item() == Approx(first + second));
  CHECK(cross_entropy(logits, target, {.ignore_index = 0}).item() == Approx(second));
  CHECK(values_of(cross_entropy(logits, target, {.reduction = Reduction::none, .ignore_index = 1}))[1] == 0.0);
  CHECK(cross_entropy(logits, Tensor::from(Indices{-100, 0}, {2})).item() == Approx(std::log(4.0 / 3.0)));
  const Tensor probabilities = make({0.5, 0.5, 1, 0}, {2, 2});
  CHECK(cross_entropy(logits, probabilities).item() == Approx((std::log(2.0) + std::log(4.0 / 3.0)) / 2));
  CHECK(cross_entropy(logits, target, {.label_smoothing = 1.0}).item() ==
        Approx((first + (std::log(4.0 / 3.0) + std::log(4.0)) / 2) / 2));
}

TEST_CASE("cross_entropy over no rows: NaN as a mean, 0 as a sum, no gradient for ignored rows") {
  const Tensor logits = make({1, 2, 3, 4}, {2, 2}).set_requires_grad();
  const Tensor ignored = Tensor::from(Indices{-100, -100}, {2});
  CHECK(std::isnan(cross_entropy(logits, ignored).item()));
  const Tensor total = cross_entropy(logits, ignored, {.reduction = Reduction::sum});
  CHECK(total.item() == 0.0);
  total.backward();
  CHECK(values_of(logits.grad()) == Values(4, 0.0));
  CHECK(std::isnan(cross_entropy(make({}, {0, 3}), Tensor::arange(0)).item()));
}

}  // namespace
