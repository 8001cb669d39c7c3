// Entries of normalisation and dropout.
#include <lockstep/tests/support/op_registry.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include <fmt/core.h>

#include <lockstep/core/ops.h>
#include <lockstep/tests/support/reference.h>
#include <lockstep/tests/support/reference_nn.h>

namespace lockstep::test {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

Layout any_layout(Draws& draws, const Shape& shape) { return shape.rank() == 4 ? draws.pick({kRows, kLast}) : kRows; }

// ---- Batch norm. Inputs: x, weight, bias, running_mean, running_var, residual.

struct Norm {
  bool relu, residual, training, running;
  double eps = 1e-5;
};

Tensor run_norm(const Norm& norm, const Inputs& in) {
  const BatchNormOptions o{.training = norm.training, .eps = norm.eps};
  // Training changes the running statistics, and each run must find the same.
  const Tensor mean = in[3].defined() ? in[3].clone() : Tensor(), var = in[4].defined() ? in[4].clone() : Tensor();
  return norm.relu ? batch_norm_relu(in[0], in[1], in[2], mean, var, o, in[5])
                   : batch_norm(in[0], in[1], in[2], mean, var, o);
}

Tensor norm_reference(const Norm& norm, const Inputs& in) {
  const Tensor y =
      reference::batch_norm(in[0], in[1], in[2], in[3], in[4], {.training = norm.training, .eps = norm.eps}, in[5]);
  return norm.relu ? reference::map(y, [](double value) { return value > 0 ? value : 0.0; }) : y;
}

Sample norm_sample(Draws& draws, const Form& x, const Norm& norm, double distance, bool views) {
  const Shape channels{x.shape[1]};
  Inputs in = {draws.uniform(x.shape, x.layout),
               draws.away_from_zero(channels),
               draws.uniform(channels, kRows, -1.0, 1.0),
               norm.running ? draws.uniform(channels) : Tensor(),
               norm.running ? draws.uniform(channels, kRows, 0.5, 2.0) : Tensor(),
               norm.residual ? draws.uniform(x.shape, any_layout(draws, x.shape)) : Tensor()};
  if (norm.relu) {
    const NoGradGuard no_grad;
    Norm linear = norm;
    linear.relu = false;
    in[2].zero_();
    const Tensor y = run_norm(linear, in);
    in[2] = bias_away_from_kink(draws, norm.residual ? y + in[5] : y, distance);
  }
  return {.attributes = fmt::format("training {}, eps {}", norm.training, norm.eps),
          .inputs = in,
          .run = [norm](const Inputs& inputs) { return run_norm(norm, inputs); },
          .constants = {3, 4},
          .views = views,
          .reference = [norm](const Inputs& inputs) { return norm_reference(norm, inputs); }};
}

std::vector<Sample> norm_samples(Draws& draws, bool relu) {
  constexpr double kDistance = 1e-3;
  std::vector<Sample> all;
  for (const Shape& shape : {Shape{4, 3}, Shape{5, 1}, Shape{3, 17}, Shape{2, 3, 2, 2}, Shape{3, 1, 2, 1},
                             Shape{1, 2, 3, 3}, Shape{3, 4, 1, 1}, Shape{2, 16, 2, 2}, Shape{2, 5, 1, 3}}) {
    for (const Layout layout : {kRows, kLast}) {
      if (layout == kLast && shape.rank() != 4) continue;
      for (const bool training : {true, false}) {
        for (const int variant : {0, 1, 2}) {
          const Norm norm{.relu = relu,
                          .residual = relu && variant != 0,
                          .training = training,
                          .running = !training || variant != 1,
                          .eps = variant == 0 ? 1e-5 : 0.25};
          all.push_back(norm_sample(draws, {shape, layout}, norm, kDistance, draws.coin()));
        }
      }
    }
  }
  // Evaluation takes one value for each channel, and none.
  for (const Form& form : {Form{{1, 3}}, Form{{1, 2, 1, 1}, kLast}, Form{{0, 3}}, Form{{0, 2, 3, 3}, kLast}}) {
    all.push_back(norm_sample(draws, form, {relu, false, false, true}, kDistance, false));
  }
  for (int i = 0; i < 60; ++i) {
    const bool training = draws.coin();
    const std::int64_t n = draws.from_to(2, 5), c = draws.from_to(1, 6);
    const Shape shape = draws.coin() ? Shape{n, c} : Shape{n, c, draws.from_to(1, 3), draws.from_to(1, 3)};
    // Few values may lie close together; only a large eps keeps 1 / σ moderate then.
    const Norm norm{relu, relu && draws.coin(), training, !training || draws.coin(), 0.25};
    all.push_back(norm_sample(draws, {shape, any_layout(draws, shape)}, norm, kDistance, draws.coin()));
  }
  return all;
}

Sample norm_problem(Draws& draws, bool relu) {
  const std::int64_t channels =
      draws.pick<std::int64_t>({1, 3, 15, 16, 17, 31, 32, 33, 64, 100, draws.from_to(1, 130)});
  const auto elements = static_cast<std::int64_t>(std::exp2(draws.next(6.0, 17.0)));
  const std::int64_t rows = std::max<std::int64_t>(elements / channels, 8);
  Form x{{rows, channels}};
  if (draws.below(4) != 0) {
    const std::int64_t h = draws.from_to(1, 14), w = draws.from_to(1, 14);
    x = {{rows / (h * w) + 1, channels, h, w}, draws.pick({kRows, kLast})};
  }
  const bool training = draws.below(4) != 0;
  const Norm norm{relu, relu && draws.coin(), training, !training || draws.coin()};
  Sample sample = norm_sample(draws, x, norm, 2e-5, draws.coin());
  // The gradients of weight and bias are sums of either sign over all rows: only the largest of several measures what
  // rounding may cost (x's gradient has the same sums in it).
  if (channels < 8 && rows > 256) sample.constants.insert(sample.constants.end(), {1, 2});
  return sample;
}

std::vector<Sample> norm_benchmarks(Draws& draws, bool relu) {
  const auto sample = [&](const Shape& shape, bool residual, bool training = true) {
    Sample made = norm_sample(draws, {shape, kLast}, {relu, relu && residual, training, true}, 0.0, false);
    if (Tensor& r = made.inputs[5]; r.defined()) r = r.to(kLast);  // as a network hands it on
    return made;
  };
  // ResNet-18 at 32 × 32 pixels, at 224 × 224, and in evaluation.
  return {sample({128, 64, 32, 32}, true), sample({128, 512, 4, 4}, true),  sample({16, 64, 112, 112}, false),
          sample({16, 64, 56, 56}, true),  sample({16, 256, 14, 14}, true), sample({128, 64, 32, 32}, true, false)};
}

/// A call with running statistics of three channels, which it must leave as they are.
std::function<void()> with_statistics(std::function<void(const Tensor& mean, const Tensor& var)> call) {
  return [call = std::move(call)] {
    const Tensor mean = Tensor::full({3}, 5.0), var = Tensor::full({3}, 7.0);
    try {
      call(mean, var);
    } catch (const Error&) {
      if (mean.to_vector<double>() != std::vector(3, 5.0) || var.to_vector<double>() != std::vector(3, 7.0)) {
        throw std::logic_error("the running statistics have changed");
      }
      throw;
    }
  };
}

using BatchNorm = Tensor (*)(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                             const Tensor& running_var, const BatchNormOptions& options);

std::vector<Misuse> norm_misuse(const std::string& op, BatchNorm norm) {
  const Tensor x = f32(2, 3, 4, 4), c = f32(3);
  std::vector<Misuse> all;
  // Another x, weight, bias or options; the running statistics are right.
  const auto add = [&]<class E>(const char* what, const Inputs& in, const BatchNormOptions& o,
                                const std::vector<std::string>& values) {
    all.push_back(wrong<E>(op, what, with_statistics([=](const Tensor& mean, const Tensor& var) {
                             norm(in[0], in[1], in[2], mean, var, o);
                           }),
                           values));
  };
  const auto statistics = [&]<class E>(const char* what, const Tensor& mean, const Tensor& var,
                                       const std::vector<std::string>& values, bool training = true) {
    all.push_back(wrong<E>(
        op, what, [=] { norm(x, c, c, mean, var, {.training = training}); }, values));
  };
  add.operator()<ShapeError>("rank 3", {f32(2, 3, 4), c, c}, {}, {"[2, 3, 4]"});
  add.operator()<ShapeError>("rank 1", {f32(3), c, c}, {}, {"[3]"});
  add.operator()<ShapeError>("a scalar", {f32(), c, c}, {}, {"[]"});
  add.operator()<ShapeError>("five dimensions", {f32(2, 3, 1, 1, 1), c, c}, {}, {"[2, 3, 1, 1, 1]"});
  add.operator()<ShapeError>("other channels", {f32(4, 2), c, c}, {}, {"[4, 2]", "[2]", "[3]"});
  add.operator()<ShapeError>("weight", {x, f32(4), c}, {}, {"[3]", "[4]"});
  add.operator()<ShapeError>("bias", {x, c, f32(3, 1)}, {}, {"[3]", "[3, 1]"});
  add.operator()<ValueError>("undefined x", {{}, c, c}, {}, {"undefined"});
  add.operator()<ValueError>("undefined weight", {x, {}, c}, {}, {"undefined"});
  add.operator()<ValueError>("undefined bias", {x, c, {}}, {}, {"undefined"});
  add.operator()<DTypeError>("dtype of the weight", {x, f64(3), c}, {}, {"float32", "float64"});
  add.operator()<DTypeError>("dtype of the bias", {x, c, f64(3)}, {}, {"float32", "float64"});
  add.operator()<ValueError>("one value per channel", {f32(1, 3), c, c}, {}, {"[1, 3]"});
  add.operator()<ValueError>("one pixel", {f32(1, 3, 1, 1), c, c}, {}, {"[1, 3, 1, 1]"});
  add.operator()<ValueError>("an empty batch in training", {f32(0, 3), c, c}, {}, {"[0, 3]"});
  add.operator()<ValueError>("negative eps", {x, c, c}, {.eps = -1.0}, {"-1"});
  add.operator()<ValueError>("eps 0 in training", {x, c, c}, {.eps = 0.0}, {"0"});
  add.operator()<ValueError>("no eps", {x, c, c}, {.eps = kNaN}, {"nan"});
  add.operator()<ValueError>("negative eps in evaluation", {x, c, c}, {.training = false, .eps = -0.5}, {"-0.5"});
  add.operator()<ValueError>("no eps in evaluation", {x, c, c}, {.training = false, .eps = kNaN}, {"nan"});
  statistics.operator()<ShapeError>("running mean", f32(2), f32(3), {"[3]", "[2]"});
  statistics.operator()<ShapeError>("running variance", f32(3), f32(1, 3), {"[3]", "[1, 3]"});
  statistics.operator()<ShapeError>("running variance in evaluation", f32(3), f32(4), {"[3]", "[4]"}, false);
  statistics.operator()<ValueError>("running mean alone", f32(3), {}, {"running_var"});
  statistics.operator()<ValueError>("running variance alone", {}, f32(3), {"running_mean"});
  statistics.operator()<ValueError>("evaluation without statistics", {}, {}, {"running_mean"}, false);
  statistics.operator()<DTypeError>("dtype of the statistics", f64(3), f64(3), {"float32", "float64"});
  statistics.operator()<DTypeError>("dtype of the running variance", f32(3), f64(3), {"float32", "float64"});
  all.push_back(wrong<DTypeError>(op, "integers", [=] { norm(i64(2, 3), i64(3), i64(3), {}, {}, {}); }, {"int64"}));
  return all;
}

std::vector<Misuse> norm_relu_misuse() {
  std::vector<Misuse> all = norm_misuse(
      "batch_norm_relu", [](const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                            const Tensor& running_var, const BatchNormOptions& options) {
        return batch_norm_relu(x, weight, bias, running_mean, running_var, options);
      });
  const auto with_residual = [](const Tensor& residual) {
    return with_statistics([=](const Tensor& mean, const Tensor& var) {
      batch_norm_relu(f32(2, 3, 4, 4), f32(3), f32(3), mean, var, {}, residual);
    });
  };
  all.push_back(wrong<ShapeError>("batch_norm_relu", "residual", with_residual(f32(2, 3, 4, 5)),
                                  {"[2, 3, 4, 4]", "[2, 3, 4, 5]"}));
  all.push_back(wrong<ShapeError>("batch_norm_relu", "a residual to broadcast", with_residual(f32(1, 3, 1, 1)),
                                  {"[2, 3, 4, 4]", "[1, 3, 1, 1]"}));
  all.push_back(wrong<DTypeError>("batch_norm_relu", "dtype of the residual", with_residual(f64(2, 3, 4, 4)),
                                  {"float32", "float64"}));
  return all;
}

OpEntry norm_entry(const char* name, bool relu, const Tolerance& tolerance, std::vector<Misuse> misuse) {
  return {.name = name,
          .determinism = Determinism::any_threads,
          .tolerance = tolerance,
          .samples = [relu](Draws& draws) { return norm_samples(draws, relu); },
          .problem = [relu](Draws& draws) { return norm_problem(draws, relu); },
          .benchmarks = [relu](Draws& draws) { return norm_benchmarks(draws, relu); },
          .misuse = std::move(misuse)};
}

// ---- Dropout.

Sample dropout_sample(Draws& draws, const Form& form, double p, bool training) {
  const auto seed = static_cast<std::uint64_t>(draws.from_to(0, 1'000'000));
  const auto count = static_cast<std::uint64_t>(draws.from_to(0, 1'000));
  return {.attributes = fmt::format("p {}, training {}, seed {}, draw {}", p, training, seed, count),
          .inputs = {draws.uniform(form.shape, form.layout)},
          .run =
              [=](const Inputs& x) {
                default_generator() = {.seed = seed, .draws = count};
                return dropout(x[0], p, training);
              },
          .views = draws.coin(),
          .reference =
              [=](const Inputs& x) {
                return training ? reference::dropout(x[0], p, seed, count) : reference::dropout(x[0], 0.0, seed, count);
              }};
}

std::vector<Sample> dropout_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const Form& form : forms()) {
    for (const double p : {0.0, 0.25, 0.5}) {
      for (const bool training : {true, false}) all.push_back(dropout_sample(draws, form, p, training));
    }
  }
  for (int i = 0; i < 60; ++i) all.push_back(dropout_sample(draws, small_form(draws), draws.next(0.0, 0.7), true));
  return all;
}

OpEntry dropout_entry() {
  return {
      .name = "dropout",
      .determinism = Determinism::any_threads,
      .tolerance = {Scale::element, 2, 2, "a product with a rounded scale"},
      .samples = dropout_samples,
      .problem =
          [](Draws& draws) {
            const double p = draws.pick({0.0, 0.5, 1.0, draws.next(0.0, 1.0), draws.next(0.0, 1.0)});
            return dropout_sample(draws, large_form(draws), p, draws.below(8) != 0);
          },
      .benchmarks =
          [](Draws& draws) {  // AlexNet's classifier
            return std::vector{dropout_sample(draws, {{128, 9216}}, 0.5, true),
                               dropout_sample(draws, {{128, 4096}}, 0.5, true)};
          },
      .misuse =
          {
              wrong<ValueError>("dropout", "a probability over 1", [] { dropout(f32(4), 1.5); }, {"1.5"}),
              wrong<ValueError>("dropout", "a negative probability", [] { dropout(f32(4), -0.5); }, {"-0.5"}),
              wrong<ValueError>("dropout", "no probability", [] { dropout(f32(4), kNaN); }, {"nan"}),
              wrong<ValueError>("dropout", "a probability over 1 in evaluation", [] { dropout(f32(4), 2.0, false); },
                                {"2"}),
              wrong<ValueError>("dropout", "undefined", [] { dropout({}, 0.5); }, {"undefined"}),
              wrong<ValueError>("dropout", "undefined in evaluation", [] { dropout({}, 0.5, false); }, {"undefined"}),
              wrong<DTypeError>("dropout", "integers", [] { dropout(i64(4), 0.5); }, {"int64"}),
              wrong<DTypeError>("dropout", "bytes", [] { dropout(u8(2, 3), 0.5); }, {"uint8"}),
              wrong<DTypeError>("dropout", "float16", [] { dropout(f32(2).to(DType::float16), 0.5); }, {"float16"}),
          }};
}

}  // namespace

void register_norm_ops(std::vector<OpEntry>& registry) {
  registry.push_back(norm_entry("batch_norm", false,
                                {Scale::tensor, 6, 16, "statistics, a root and a difference of sums"},
                                norm_misuse("batch_norm", batch_norm)));
  registry.push_back(norm_entry("batch_norm_relu", true, {Scale::tensor, 6, 16, "as batch_norm"}, norm_relu_misuse()));
  registry.push_back(dropout_entry());
}

}  // namespace lockstep::test
