// Entries of arithmetic and elementwise functions.
#include <lockstep/tests/support/op_registry.h>

#include <algorithm>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <lockstep/core/ops.h>

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

constexpr Tolerance kSums{Scale::tensor, 1, 6,
                          "one rounding forward; gradients are sums where an operand was broadcast"};

using UnaryFunction = Tensor (*)(const Tensor&);
using Draw = std::function<Tensor(Draws&, const Form&)>;

Tensor draw_uniform(Draws& draws, const Form& form) { return draws.uniform(form.shape, form.layout); }
Tensor draw_away_from_zero(Draws& draws, const Form& form) { return draws.away_from_zero(form.shape, form.layout); }
Tensor draw_positive(Draws& draws, const Form& form) { return draws.uniform(form.shape, form.layout, 0.25, 4.0); }

OpEntry unary(const char* name, UnaryFunction op, const Draw& draw, const Tolerance& tolerance) {
  const auto samples = [op, draw](Draws& draws) {
    std::vector<Sample> all;
    for (const Form& form : forms()) {
      for (const bool views : {false, true}) {
        all.push_back({"", {draw(draws, form)}, [op](const Inputs& x) { return op(x[0]); }, {}, views});
      }
    }
    return all;
  };
  return {name, samples, tolerance};
}

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

OpEntry binary(const char* name, Tensor (*op)(const Tensor&, const Tensor&)) {
  const auto samples = [op](Draws& draws) {
    std::vector<Sample> all;
    bool views = false;
    std::vector<std::string> seen;
    for (const auto& [a, b] : broadcast_pairs()) {
      const std::string key =
          fmt::format("{}{} {}{}", to_string(a.shape), a.layout == kLast, to_string(b.shape), b.layout == kLast);
      if (std::find(seen.begin(), seen.end(), key) != seen.end()) continue;
      seen.push_back(key);
      all.push_back({"",
                     {draws.uniform(a.shape, a.layout), draws.away_from_zero(b.shape, b.layout)},
                     [op](const Inputs& x) { return op(x[0], x[1]); },
                     {},
                     views});
      views = !views;
    }
    return all;
  };
  return {name, samples, kSums};
}

std::vector<Sample> affine_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const Form& form : forms()) {
    for (const auto& [scale, shift] : {std::pair{2.0, -0.5}, {-0.25, 0.0}, {1.0, 3.0}}) {
      all.push_back({fmt::format("scale {}, shift {}", scale, shift),
                     {draws.uniform(form.shape, form.layout)},
                     [scale = scale, shift = shift](const Inputs& x) { return affine(x[0], scale, shift); },
                     {},
                     draws.coin()});
    }
  }
  return all;
}

}  // namespace

void register_elementwise_ops(std::vector<OpEntry>& registry) {
  const auto add = [&](OpEntry entry) { registry.push_back(std::move(entry)); };
  add(binary("add", lockstep::add));
  add(binary("sub", sub));
  add(binary("mul", mul));
  add(binary("div", div));
  add({"affine", affine_samples, kSums});
  add(unary("neg", neg, draw_uniform, kExact));
  add(unary("exp", exp, draw_uniform, {Scale::element, 2, 3, "exp within 1 unit in the last place"}));
  add(unary("log", log, draw_positive, {Scale::tensor, 1, 1, "log within 1 unit of the tensor's largest, or of 1"}));
  add(unary("sqrt", sqrt, draw_positive, {Scale::element, 1, 3, "sqrt is correctly rounded"}));
  add(unary("relu", relu, draw_away_from_zero, kExact));
  add(unary("sigmoid", sigmoid, draw_uniform, {Scale::element, 3, 6, "an exponential, a sum and a quotient"}));
  add(unary("tanh", tanh, draw_uniform, {Scale::tensor, 1, 2, "1 − y² loses bits where |y| is near 1"}));
  add(unary(
      "clone", [](const Tensor& x) { return x.clone(); }, draw_uniform, kExact));
}

}  // namespace lockstep::test
