// Entries of softmax and losses.
#include <lockstep/tests/support/op_registry.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/core.h>

#include <lockstep/core/ops.h>
#include <lockstep/tests/support/reference_nn.h>

namespace lockstep::test {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr int kRandomSamples = 70;

/// 1 to 1,100 classes: as often a few as hundreds, and where vectors end.
std::int64_t any_classes(Draws& draws) {
  const auto spread = static_cast<std::int64_t>(std::exp2(draws.next(0.0, 10.1)));
  return draws.pick({spread, spread, draws.from_to(1, 40), std::int64_t{10}, std::int64_t{1000}});
}

/// Rows for that many classes: tens of thousands of logits at most.
std::int64_t any_rows(Draws& draws, std::int64_t classes) {
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::exp2(draws.next(2.0, 16.0))) / classes);
}

// ---- Softmax.

using Softmax = Tensor (*)(const Tensor&, int);

struct SoftmaxOp {
  const char* name;
  Softmax op, reference;
  Tolerance tolerance;
};

Sample softmax_sample(Draws& draws, const SoftmaxOp& s, const Form& form, int dim, double range) {
  return {.attributes = fmt::format("dim {}, |x| up to {}", dim, range),
          .inputs = {draws.uniform(form.shape, form.layout, -range, range)},
          .run = [=, op = s.op](const Inputs& x) { return op(x[0], dim); },
          .views = draws.coin(),
          .reference = [=, reference = s.reference](const Inputs& x) { return reference(x[0], dim); }};
}

std::vector<Sample> softmax_samples(Draws& draws, const SoftmaxOp& s) {
  std::vector<Sample> all;
  for (const Form& form : forms()) {
    const int rank = std::max(form.shape.rank(), 1);
    for (int dim = -rank; dim < rank; ++dim) {
      const bool one = form.shape.rank() == 0 || form.shape[dim] == 1;  // whose softmax is 1, and has no gradient
      if (dim >= 0 || !one) all.push_back(softmax_sample(draws, s, form, dim, 2.0));
    }
  }
  for (int i = 0; i < kRandomSamples; ++i) {
    const Form form = small_form(draws);
    const auto dim = static_cast<int>(draws.from_to(-form.shape.rank(), form.shape.rank() - 1));
    if (form.shape[dim] > 1) all.push_back(softmax_sample(draws, s, form, dim, draws.pick({2.0, 6.0})));
  }
  return all;
}

Sample softmax_problem(Draws& draws, const SoftmaxOp& s) {
  Form form = large_form(draws);
  auto dim = static_cast<int>(draws.from_to(-form.shape.rank(), form.shape.rank() - 1));
  if (draws.coin()) {
    const std::int64_t classes = any_classes(draws), rows = any_rows(draws, classes);
    form = draws.pick({Form{{rows, classes}}, Form{{classes, rows}}});
    dim = form.shape[0] == classes ? 0 : 1;
  }
  return softmax_sample(draws, s, form, dim, draws.pick({2.0, 8.0}));
}

OpEntry softmax_entry(const SoftmaxOp& s) {
  const auto op = s.op;
  return {
      .name = s.name,
      .determinism = Determinism::any_threads,
      .tolerance = s.tolerance,
      .samples = [s](Draws& draws) { return softmax_samples(draws, s); },
      .problem = [s](Draws& draws) { return softmax_problem(draws, s); },
      .benchmarks =
          [s](Draws& draws) {
            return std::vector{softmax_sample(draws, s, {{128, 10}}, 1, 2.0),
                               softmax_sample(draws, s, {{128, 1000}}, 1, 2.0)};
          },
      .misuse = {wrong<ShapeError>(s.name, "a dimension too far", [op] { op(f32(2, 3), 2); }, {"[-2, 2)", "2"}),
                 wrong<ShapeError>(s.name, "a dimension too low", [op] { op(f32(2, 3), -3); }, {"[-2, 2)", "-3"}),
                 wrong<ShapeError>(s.name, "a dimension of a scalar", [op] { op(f32(), 1); }, {"[-1, 1)", "1"}),
                 wrong<ShapeError>(s.name, "a dimension of an empty tensor", [op] { op(f32(0), 1); }, {"[-1, 1)"}),
                 wrong<DTypeError>(s.name, "integers", [op] { op(i64(2, 3), 1); }, {"int64"}),
                 wrong<DTypeError>(s.name, "integers over the first dimension", [op] { op(i64(2, 3), 0); }, {"int64"}),
                 wrong<DTypeError>(s.name, "bytes", [op] { op(u8(2, 3), 1); }, {"uint8"}),
                 wrong<DTypeError>(s.name, "float16", [op] { op(f32(2).to(DType::float16), 0); }, {"float16"}),
                 wrong<ValueError>(s.name, "undefined", [op] { op({}, 0); }, {"undefined"})}};
}

// ---- Cross-entropy. Inputs: logits, target.

enum class Target {
  indices,
  some_ignored,
  probabilities,
  weights,  ///< for each class, with any sum
};

Tensor draw_target(Draws& draws, Target kind, std::int64_t rows, std::int64_t classes, std::int64_t ignore_index) {
  const Shape shape{rows, classes};
  switch (kind) {
    case Target::probabilities:  // exact in float32
      return softmax(draws.uniform(shape), 1).to(DType::float32).to(DType::float64);
    case Target::weights: return draws.uniform(shape, kRows, 0.0, 1.0);
    case Target::indices:
    case Target::some_ignored: break;
  }
  Tensor target = draws.indices({rows}, classes);
  if (kind == Target::some_ignored) {
    auto* index = target.data<std::int64_t>();
    for (std::int64_t row = 0; row < rows; row += 2) index[row] = ignore_index;
    index[rows - 1 - rows % 2] = classes - 1;  // not ignored: the last class is never ignore_index
  }
  return target;
}

struct Loss {
  std::int64_t rows, classes;
  Target kind = Target::indices;
  Reduction reduction = Reduction::mean;
  double smoothing = 0.0;
};

Sample cross_entropy_sample(Draws& draws, const Loss& loss, double range = 2.0) {
  CrossEntropyOptions o{.reduction = loss.reduction, .label_smoothing = loss.smoothing};
  if (loss.kind == Target::some_ignored && draws.coin()) o.ignore_index = 0;
  const char* const targets[] = {"indices", "indices, some ignored", "probabilities", "weights"};
  const char* const reductions[] = {"none", "mean", "sum"};
  return {.attributes = fmt::format("{}, reduction {}, smoothing {}, ignore_index {}, |x| up to {}",
                                    targets[static_cast<int>(loss.kind)], reductions[static_cast<int>(o.reduction)],
                                    o.label_smoothing, o.ignore_index, range),
          .inputs = {draws.uniform({loss.rows, loss.classes}, kRows, -range, range),
                     draw_target(draws, loss.kind, loss.rows, loss.classes, o.ignore_index)},
          .run = [o](const Inputs& x) { return cross_entropy(x[0], x[1], o); },
          .constants = {1},
          .views = draws.coin(),
          .reference = [o](const Inputs& x) { return reference::cross_entropy(x[0], x[1], o); }};
}

Loss random_loss(Draws& draws, std::int64_t rows, std::int64_t classes) {
  Loss loss{rows, classes, draws.pick({Target::indices, Target::some_ignored, Target::probabilities, Target::weights}),
            draws.pick({Reduction::none, Reduction::mean, Reduction::sum}),
            draws.pick({0.0, 0.1, draws.next(0.0, 1.0)})};
  if (loss.kind == Target::some_ignored && (rows < 2 || classes < 2)) loss.kind = Target::indices;
  return loss;
}

std::vector<Sample> cross_entropy_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const Shape& shape : {Shape{1, 2}, Shape{3, 7}, Shape{5, 3}, Shape{4, 19}, Shape{17, 10}}) {
    for (const Reduction reduction : {Reduction::none, Reduction::mean, Reduction::sum}) {
      for (const double smoothing : {0.0, 0.1, 1.0}) {
        for (const Target kind : {Target::indices, Target::some_ignored, Target::probabilities, Target::weights}) {
          if (kind == Target::some_ignored && shape[0] == 1) continue;
          all.push_back(cross_entropy_sample(draws, {shape[0], shape[1], kind, reduction, smoothing}));
        }
      }
    }
  }
  for (const Target kind : {Target::indices, Target::weights}) {
    all.push_back(cross_entropy_sample(draws, {2, 1, kind}));  // one class: no gradient
    for (const Reduction reduction : {Reduction::none, Reduction::sum}) {
      all.push_back(cross_entropy_sample(draws, {0, 3, kind, reduction}));
    }
  }
  for (int i = 0; i < kRandomSamples; ++i) {
    const Loss loss = random_loss(draws, draws.from_to(1, 7), draws.from_to(2, 12));
    all.push_back(cross_entropy_sample(draws, loss, draws.pick({2.0, 6.0})));
  }
  return all;
}

std::vector<Misuse> cross_entropy_misuse() {
  const Tensor logits = f32(2, 3);
  const auto classes = [](const std::vector<std::int64_t>& values) {
    return Tensor::from(values, Shape{static_cast<std::int64_t>(values.size())});
  };
  const Tensor three = classes({0, 3}), negative = classes({-1, 0}), late = classes({1, -100, -101});
  const auto smoothed = [=](double smoothing) {
    return [=] { cross_entropy(logits, i64(2), {.label_smoothing = smoothing}); };
  };
  const char* const op = "cross_entropy";
  return {
      wrong<ShapeError>(op, "logits of rank 3", [] { cross_entropy(f32(2, 3, 4), i64(2)); }, {"[2, 3, 4]"}),
      wrong<ShapeError>(op, "logits of one row", [] { cross_entropy(f32(3), i64(1)); }, {"[3]"}),
      wrong<ShapeError>(op, "no classes", [] { cross_entropy(f32(2, 0), i64(2)); }, {"[2, 0]"}),
      wrong<ShapeError>(op, "other rows", [=] { cross_entropy(logits, i64(3)); }, {"[2]", "[3]", "[2, 3]"}),
      wrong<ShapeError>(op, "indices for every class", [=] { cross_entropy(logits, i64(2, 3)); }, {"[2]", "[2, 3]"}),
      wrong<ShapeError>(op, "probabilities of other classes", [=] { cross_entropy(logits, f32(2, 4)); }, {"[2, 4]"}),
      wrong<ShapeError>(op, "a probability for each row", [=] { cross_entropy(logits, f32(2)); }, {"[2, 3]", "[2]"}),
      wrong<DTypeError>(op, "dtype of the probabilities", [=] { cross_entropy(logits, f64(2, 3)); },
                        {"float32", "float64"}),
      wrong<DTypeError>(op, "bytes as targets", [=] { cross_entropy(logits, u8(2)); }, {"float32", "uint8"}),
      wrong<DTypeError>(op, "integer logits", [] { cross_entropy(i64(2, 3), i64(2)); }, {"int64"}),
      wrong<DTypeError>(op, "float16 logits", [=] { cross_entropy(logits.to(DType::float16), i64(2)); }, {"float16"}),
      wrong<ValueError>(op, "a class too high", [=] { cross_entropy(logits, three); }, {"3", "row 1"}),
      wrong<ValueError>(op, "a negative class", [=] { cross_entropy(logits, negative); }, {"-1", "row 0"}),
      wrong<ValueError>(op, "a class that is not the ignored one", [=] { cross_entropy(f32(3, 3), late); },
                        {"-100", "-101", "row 2"}),
      wrong<ValueError>(op, "an ignored class of probabilities",
                        [=] { cross_entropy(logits, f32(2, 3), {.ignore_index = 1}); }, {"ignore_index", "1"}),
      wrong<ValueError>(op, "smoothing over 1", smoothed(1.5), {"1.5"}),
      wrong<ValueError>(op, "negative smoothing", smoothed(-0.25), {"-0.25"}),
      wrong<ValueError>(op, "no smoothing", smoothed(kNaN), {"nan"}),
      wrong<ValueError>(op, "undefined target", [=] { cross_entropy(logits, {}); }, {"undefined"}),
      wrong<ValueError>(op, "undefined logits", [] { cross_entropy({}, i64(2)); }, {"undefined"}),
  };
}

OpEntry cross_entropy_entry(const Tolerance& tolerance) {
  return {.name = "cross_entropy",
          .determinism = Determinism::any_threads,
          .tolerance = tolerance,
          .samples = cross_entropy_samples,
          .problem =
              [](Draws& draws) {
                const std::int64_t classes = any_classes(draws);
                const Loss loss = random_loss(draws, any_rows(draws, classes), classes);
                return cross_entropy_sample(draws, loss, draws.pick({2.0, 8.0}));
              },
          .benchmarks =
              [](Draws& draws) {
                return std::vector{cross_entropy_sample(draws, {128, 10}), cross_entropy_sample(draws, {128, 1000}),
                                   cross_entropy_sample(draws, {128, 1000, Target::indices, Reduction::mean, 0.1})};
              },
          .misuse = cross_entropy_misuse()};
}

}  // namespace

void register_loss_ops(std::vector<OpEntry>& registry) {
  const auto add = [&](OpEntry entry) { registry.push_back(std::move(entry)); };
  add(softmax_entry({"softmax",
                     softmax,
                     reference::softmax,
                     {Scale::tensor, 4, 8, "a quotient by a sum; its product with a difference"}}));
  add(softmax_entry(
      {"log_softmax", log_softmax, reference::log_softmax, {Scale::tensor, 2, 4, "logits and a logarithm of a sum"}}));
  add(cross_entropy_entry({Scale::tensor, 8, 8, "log_softmax, and sums over classes and rows"}));
}

}  // namespace lockstep::test
