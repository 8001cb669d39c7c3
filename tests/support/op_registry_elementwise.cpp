// Entries of arithmetic and elementwise functions.
#include <lockstep/tests/support/op_registry.h>

#include <algorithm>
#include <cmath>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <lockstep/core/ops.h>
#include <lockstep/tests/support/reference.h>

namespace lockstep::test {

std::vector<Form> forms() {
  std::vector<Form> all;
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{7}, Shape{0}, Shape{3, 5}, Shape{2, 1, 3}, Shape{0, 4}, Shape{67},
                             Shape{2, 1, 2, 1, 2}}) {
    all.push_back({shape, kRows});
  }
  for (const Shape& shape : {Shape{2, 3, 2, 4}, Shape{1, 1, 3, 2}, Shape{2, 4, 1, 1}, Shape{1, 5, 2, 1},
                             Shape{0, 3, 2, 2}, Shape{2, 17, 1, 3}}) {
    all.push_back({shape, kRows});
    all.push_back({shape, kLast});
  }
  return all;
}

namespace {

Form with_any_layout(Draws& draws, const std::vector<std::int64_t>& sizes) {
  const Shape shape{std::span(sizes)};
  return {shape, shape.rank() == 4 ? draws.pick({kRows, kLast}) : kRows};
}

}  // namespace

Form small_form(Draws& draws) {
  std::vector<std::int64_t> sizes;
  std::int64_t numel = 1;
  for (auto rank = draws.from_to(1, 5); rank > 0; --rank) {
    sizes.push_back(draws.from_to(1, std::min<std::int64_t>(5, 60 / numel)));
    numel *= sizes.back();
  }
  return with_any_layout(draws, sizes);
}

Form large_form(Draws& draws) {
  const auto rank = draws.pick<std::int64_t>({1, 2, 3, 4, 4});
  double left = std::exp2(draws.next(2.0, 17.0));  // elements
  std::vector<std::int64_t> sizes;
  for (auto dims = rank; dims > 0; --dims) {
    const double share = std::pow(left, draws.next(0.5, 1.5) / static_cast<double>(dims));
    sizes.push_back(std::max<std::int64_t>(1, std::llround(dims == 1 ? left : share)));
    left = std::max(1.0, left / static_cast<double>(sizes.back()));
  }
  return with_any_layout(draws, sizes);
}

std::int64_t any_channels(Draws& draws) {
  return draws.coin() ? draws.pick<std::int64_t>({1, 3, 8, 15, 16, 17, 31, 32, 33, 64})
                      : std::llround(std::exp2(draws.next(0.0, 6.13)));
}

Form broadcast_operand(Draws& draws, const Form& form) {
  std::vector<std::int64_t> sizes(form.shape.begin(), form.shape.end());
  for (std::int64_t& size : sizes) {
    if (draws.below(3) == 0) size = 1;
  }
  sizes.erase(sizes.begin(), sizes.begin() + draws.pick({std::int64_t{0}, draws.from_to(0, form.shape.rank())}));
  return with_any_layout(draws, sizes);
}

Tensor one_sign(Draws& draws, const Form& form) {
  return draws.coin() ? draws.uniform(form.shape, form.layout, 0.25, 4.0)
                      : draws.uniform(form.shape, form.layout, -4.0, -0.25);
}

Tensor bias_away_from_kink(Draws& draws, const Tensor& y, double distance) {
  const std::int64_t channels = y.size(1), inner = y.rank() == 4 ? y.size(2) * y.size(3) : 1;
  std::vector<std::vector<double>> of_channel(static_cast<std::size_t>(channels));
  std::int64_t position = 0;
  for (const double value : y.to_vector<double>()) {
    of_channel[static_cast<std::size_t>(position++ / inner % channels)].push_back(value);
  }
  std::vector<double> bias;
  for (const std::vector<double>& values : of_channel) {
    double shift = 0.0;
    const auto near = [&](double value) { return std::abs(value + shift) < distance; };
    do {
      shift = draws.next(-1.0, 1.0);
    } while (std::any_of(values.begin(), values.end(), near));
    bias.push_back(shift);
  }
  return Tensor::from(bias, {channels});
}

Tensor bias_for_relu(Draws& draws, const Tensor& y, const Tensor& bias, double distance) {
  double largest = 1.0, smallest = HUGE_VAL;
  for (const double value : y.to_vector<double>()) {
    largest = std::max(largest, std::abs(value));
    smallest = std::min(smallest, std::abs(value));
  }
  const bool serves = !bias.defined() && smallest >= distance * largest;
  return serves ? bias : bias_away_from_kink(draws, y, distance * largest);
}

namespace {

constexpr int kRandomSamples = 45;

const Form kImages{{128, 64, 8, 8}, kLast}, kLargeImages{{16, 64, 56, 56}, kLast};

// ---- Functions of one tensor.

using Draw = Tensor (*)(Draws&, const Form&);

Tensor draw_uniform(Draws& draws, const Form& form) { return draws.uniform(form.shape, form.layout); }
Tensor draw_away_from_zero(Draws& draws, const Form& form) { return draws.away_from_zero(form.shape, form.layout); }
Tensor draw_positive(Draws& draws, const Form& form) { return draws.uniform(form.shape, form.layout, 0.25, 4.0); }

struct Unary {
  const char* name;
  Tensor (*op)(const Tensor&);
  double (*formula)(double);
  Draw draw;
  Tolerance tolerance;
};

OpEntry unary(const Unary& u) {
  const auto sample = [u](Draws& draws, const Form& form, bool views) -> Sample {
    return {.attributes = "",
            .inputs = {u.draw(draws, form)},
            .run = [op = u.op](const Inputs& x) { return op(x[0]); },
            .views = views,
            .reference = [formula = u.formula](const Inputs& x) { return reference::map(x[0], formula); }};
  };
  const auto samples = [sample](Draws& draws) {
    std::vector<Sample> all;
    for (const Form& form : forms()) {
      for (const bool views : {false, true}) all.push_back(sample(draws, form, views));
    }
    for (int i = 0; i < kRandomSamples; ++i) all.push_back(sample(draws, small_form(draws), draws.coin()));
    return all;
  };
  return {
      .name = u.name,
      .determinism = Determinism::any_threads,
      .tolerance = u.tolerance,
      .samples = samples,
      .problem = [sample](Draws& draws) { return sample(draws, large_form(draws), draws.coin()); },
      .benchmarks =
          [sample](Draws& draws) {
            return std::vector{sample(draws, kImages, false), sample(draws, kLargeImages, false)};
          },
      .misuse = {wrong<ValueError>(u.name, "undefined", [op = u.op] { op({}); }, {"undefined"}),
                 wrong<DTypeError>(u.name, "integers", [op = u.op] { op(i64(2)); }, {"int64"}),
                 wrong<DTypeError>(u.name, "bytes", [op = u.op] { op(u8(2, 3)); }, {"uint8"}),
                 wrong<DTypeError>(u.name, "float16", [op = u.op] { op(f32(2).to(DType::float16)); }, {"float16"})}};
}

// ---- Functions of two tensors.

/// Pairs that broadcast in every way.
std::vector<std::pair<Form, Form>> broadcast_pairs() {
  const Form image{{2, 3, 4, 5}, kRows}, image_last{{2, 3, 4, 5}, kLast};
  std::vector<std::pair<Form, Form>> pairs = {{{{3, 5}}, {{3, 5}}},
                                              {{{3, 5}}, {{5}}},
                                              {{{5}}, {{3, 5}}},
                                              {{{3, 1}}, {{1, 5}}},
                                              {{Shape{}}, {{3, 5}}},
                                              {{{3, 5}}, {Shape{}}},
                                              {{Shape{}}, {Shape{}}},
                                              {{{1}}, {{7}}},
                                              {{{7}}, {{1}}},
                                              {{{0}}, {{1}}},
                                              {{{0, 3}}, {{3}}},
                                              {{{2, 1, 3}}, {{4, 1}}},
                                              {{{1, 1}}, {{1}}},
                                              {{{2, 3, 1}}, {{4}}},
                                              {{{2, 1, 3, 1, 2}}, {{2, 1, 2, 1}}},
                                              {{{67}}, {{67}}},
                                              {{{2, 33}}, {{33}}},
                                              {{{33, 2}}, {{33, 1}}},
                                              {{{2, 3, 4}}, {{2, 3, 4}}}};
  for (const Form& a : {image, image_last}) {
    for (const Form& b : {image, image_last, Form{{3, 1, 1}}, Form{{1, 3, 1, 1}, kRows}, Form{{1, 3, 1, 1}, kLast},
                          Form{{5}}, Form{{4, 5}}, Form{{2, 1, 4, 5}, kRows}, Form{{2, 1, 4, 5}, kLast},
                          Form{{2, 3, 1, 1}, kLast}, Form{Shape{}}, Form{{2, 1, 1, 5}, kLast}}) {
      pairs.push_back({a, b});
      pairs.push_back({b, a});
    }
    pairs.push_back({a, {{2, 2, 3, 4, 5}}});
    pairs.push_back({{{1, 3, 1, 5}, a.layout}, {{2, 1, 4, 1}, kLast}});
  }
  return pairs;
}

/// Two operands of one random form: as often the whole as a part that is repeated.
std::pair<Form, Form> operands(Draws& draws, const Form& form) {
  const auto operand = [&] { return draws.coin() ? form : broadcast_operand(draws, form); };
  const Form a = operand();
  return {a, operand()};
}

struct Binary {
  const char* name;
  Tensor (*op)(const Tensor&, const Tensor&);
  double (*formula)(double, double);
  Tolerance tolerance;
};

Sample binary_sample(Draws& draws, const Binary& b, const std::pair<Form, Form>& operands, bool views) {
  return {.attributes = "",
          .inputs = {draws.uniform(operands.first.shape, operands.first.layout),
                     draws.away_from_zero(operands.second.shape, operands.second.layout)},
          .run = [op = b.op](const Inputs& x) { return op(x[0], x[1]); },
          .views = views,
          .reference = [formula = b.formula](const Inputs& x) { return reference::map(x[0], x[1], formula); }};
}

Sample binary_problem(Draws& draws, const Binary& b) {
  Sample sample = binary_sample(draws, b, operands(draws, large_form(draws)), draws.coin());
  // The rounding errors of a sum of n terms of either sign grow with √n, while the sum itself may be anything; only
  // where there are several sums is the largest of them a measure. The sums themselves are sum_to's to check.
  for (std::size_t i = 0; i < 2; ++i) {
    const std::int64_t others = sample.inputs[1 - i].numel(), own = sample.inputs[i].numel();
    if (own < 8 && others > 32 * own) sample.constants.push_back(i);
  }
  return sample;
}

OpEntry binary(const Binary& b) {
  const auto op = b.op;
  return {.name = b.name,
          .determinism = Determinism::any_threads,
          .tolerance = b.tolerance,
          .samples =
              [b](Draws& draws) {
                std::vector<Sample> all;
                for (const auto& pair : broadcast_pairs()) all.push_back(binary_sample(draws, b, pair, draws.coin()));
                for (int i = 0; i < kRandomSamples; ++i) {
                  all.push_back(binary_sample(draws, b, operands(draws, small_form(draws)), draws.coin()));
                }
                return all;
              },
          .problem = [b](Draws& draws) { return binary_problem(draws, b); },
          .benchmarks =
              [b](Draws& draws) {
                return std::vector{binary_sample(draws, b, {kImages, kImages}, false),
                                   binary_sample(draws, b, {kLargeImages, {{64, 1, 1}}}, false),
                                   binary_sample(draws, b, {{{128, 1000}}, {{1000}}}, false)};
              },
          .misuse = {wrong<ShapeError>(b.name, "shapes", [op] { op(f32(2, 3), f32(4)); }, {"[2, 3]", "[4]"}),
                     wrong<ShapeError>(b.name, "an empty dimension", [op] { op(f32(0), f32(2)); }, {"[0]", "[2]"}),
                     wrong<DTypeError>(b.name, "two dtypes", [op] { op(f32(2), f64(2)); }, {"float32", "float64"}),
                     wrong<DTypeError>(b.name, "integers", [op] { op(i64(2), i64(2)); }, {"int64"}),
                     wrong<ValueError>(b.name, "undefined left", [op] { op({}, f32(2)); }, {"undefined"}),
                     wrong<ValueError>(b.name, "undefined right", [op] { op(f32(2), {}); }, {"undefined"}),
                     wrong<ShapeError>("Shape", std::string("sizes that overflow in ") + b.name,
                                       [op] { op(f32(kHuge, 0, 1), f32(1, 1, 1, 4)); }, {std::to_string(kHuge)})}};
}

// ---- affine.

Sample affine_sample(Draws& draws, const Form& form, double scale, double shift) {
  return {.attributes = fmt::format("scale {}, shift {}", scale, shift),
          .inputs = {draws.uniform(form.shape, form.layout)},
          .run = [scale, shift](const Inputs& x) { return affine(x[0], scale, shift); },
          .views = draws.coin(),
          .reference =
              [scale, shift](const Inputs& x) {
                return reference::map(x[0], [=](double value) { return value * scale + shift; });
              }};
}

/// Scale and shift are exact in float32.
Sample affine_sample(Draws& draws, const Form& form) {
  const double scale = static_cast<double>(draws.from_to(-40, 40)) / 16.0;
  return affine_sample(draws, form, scale, draws.coin() ? 0.0 : static_cast<double>(draws.from_to(-40, 40)) / 16.0);
}

OpEntry affine_entry(const Tolerance& tolerance) {
  return {
      .name = "affine",
      .determinism = Determinism::any_threads,
      .tolerance = tolerance,
      .samples =
          [](Draws& draws) {
            std::vector<Sample> all;
            for (const Form& form : forms()) {
              for (const auto& [scale, shift] : {std::pair{2.0, -0.5}, {-0.25, 0.0}, {1.0, 3.0}}) {
                all.push_back(affine_sample(draws, form, scale, shift));
              }
            }
            for (int i = 0; i < kRandomSamples; ++i) all.push_back(affine_sample(draws, small_form(draws)));
            return all;
          },
      .problem = [](Draws& draws) { return affine_sample(draws, large_form(draws)); },
      .benchmarks =
          [](Draws& draws) {
            return std::vector{affine_sample(draws, kImages, 0.5, 0.25), affine_sample(draws, kLargeImages, 0.5, 0.25)};
          },
      .misuse = {wrong<ValueError>("affine", "undefined", [] { affine({}, 1.0, 0.0); }, {"undefined"}),
                 wrong<DTypeError>("affine", "bytes", [] { u8(2) * 2.0; }, {"uint8"}),
                 wrong<DTypeError>("affine", "integers", [] { i64(2) + 1.0; }, {"int64"})}};
}

}  // namespace

void register_elementwise_ops(std::vector<OpEntry>& registry) {
  const auto add = [&](OpEntry entry) { registry.push_back(std::move(entry)); };
  constexpr Tolerance kSums{Scale::tensor, 1, 4, "one rounding; gradients are sums where an operand was broadcast"};
  constexpr Tolerance kProducts{Scale::tensor, 1, 8, "as add, of up to three roundings", 16};
  constexpr Tolerance kQuotients{Scale::tensor, 1, 24, "as mul, of terms that b near 0 makes large", 32};
  add(binary({"add", lockstep::add, [](double a, double b) { return a + b; }, kSums}));
  add(binary({"sub", sub, [](double a, double b) { return a - b; }, kSums}));
  add(binary({"mul", mul, [](double a, double b) { return a * b; }, kProducts}));
  add(binary({"div", div, [](double a, double b) { return a / b; }, kQuotients}));
  add(affine_entry({Scale::tensor, 2, 1, "a product and a sum"}));
  add(unary({"neg", neg, [](double x) { return -x; }, draw_uniform, kExact}));
  add(unary({"exp", exp, std::exp, draw_uniform, {Scale::element, 2, 3, "exp within 1 unit in the last place"}}));
  add(unary({"log",
             log,
             std::log,
             draw_positive,
             {Scale::tensor, 1, 1, "log within 1 unit of the tensor's largest, or of 1"}}));
  add(unary({"sqrt", sqrt, std::sqrt, draw_positive, {Scale::element, 1, 3, "sqrt is correctly rounded"}}));
  add(unary({"relu", relu, [](double x) { return x > 0 ? x : 0.0; }, draw_away_from_zero, kExact}));
  add(unary({"sigmoid",
             sigmoid,
             [](double x) { return 1.0 / (1.0 + std::exp(-x)); },
             draw_uniform,
             {Scale::element, 3, 6, "an exponential, a sum and a quotient", 16}}));
  add(unary({"tanh", tanh, std::tanh, draw_uniform, {Scale::tensor, 1, 2, "1 − y² loses bits where |y| is near 1"}}));

  OpEntry clone =
      unary({"clone", [](const Tensor& x) { return x.clone(); }, [](double x) { return x; }, draw_uniform, kExact});
  clone.misuse = {
      wrong<ValueError>("Tensor", "a clone of nothing", [] { Tensor().clone(); }, {"undefined"}),
      wrong<AutogradError>("mul_", "a recorded clone in place", [] { f32(2).set_requires_grad().clone().mul_(2.0); })};
  add(clone);
}

}  // namespace lockstep::test
