// Entries of ops that change shape, layout or dtype.
#include <lockstep/tests/support/op_registry.h>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <lockstep/core/ops.h>

namespace lockstep::test {
namespace {

constexpr Tolerance kReductions{Scale::tensor, 2, 2, "sums of at most 100 terms, pairwise or in wider accumulators"};

std::vector<Sample> reshape_samples(Draws& draws) {
  std::vector<Sample> all;
  const auto add = [&](const Form& from, const Shape& to) {
    all.push_back({"to " + to_string(to),
                   {draws.uniform(from.shape, from.layout)},
                   [to](const Inputs& x) { return reshape(x[0], to); },
                   {},
                   draws.coin()});
  };
  for (const Layout layout : {kRows, kLast}) {
    for (const Shape& to :
         {Shape{6, 8}, Shape{48}, Shape{2, 3, 8}, Shape{4, 2, 3, 2}, Shape{2, 3, 2, 4}, Shape{1, 48, 1}}) {
      add({{2, 3, 2, 4}, layout}, to);
    }
    add({{3, 5, 1, 1}, layout}, {15});
  }
  add({Shape{}}, {1, 1});
  add({{1}}, Shape{});
  add({{0, 3}}, {5, 0});
  add({{6}}, {3, 2});
  return all;
}

std::vector<Sample> flatten_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const Layout layout : {kRows, kLast}) {
    for (const auto& [first, last] : {std::pair{0, -1}, {1, -1}, {1, 2}, {2, 3}, {-2, -1}, {0, 0}, {3, 3}}) {
      all.push_back({fmt::format("dims {} to {}", first, last),
                     {draws.uniform({2, 3, 2, 4}, layout)},
                     [first = first, last = last](const Inputs& x) { return flatten(x[0], first, last); }});
    }
  }
  for (const Shape& shape : {Shape{}, Shape{5}, Shape{0, 3}, Shape{2, 1, 3}}) {
    all.push_back({"", {draws.uniform(shape)}, [](const Inputs& x) { return flatten(x[0]); }});
  }
  return all;
}

std::vector<Sample> transpose_samples(Draws& draws) {
  std::vector<Sample> all;
  const auto add = [&](const Form& from, int a, int b) {
    all.push_back({fmt::format("dims {} and {}", a, b),
                   {draws.uniform(from.shape, from.layout)},
                   [a, b](const Inputs& x) { return transpose(x[0], a, b); },
                   {},
                   draws.coin()});
  };
  for (const Layout layout : {kRows, kLast}) {
    for (int a = 0; a < 4; ++a) {
      for (int b = a; b < 4; ++b) add({{2, 3, 2, 5}, layout}, a, b);
    }
  }
  for (const auto& [a, b] : {std::pair{0, 1}, {1, 0}, {-1, -2}, {0, -1}}) add({{5, 3}}, a, b);
  add({{7}}, 0, 0);
  add({{0, 3}}, 0, 1);
  add({{1, 3}}, 0, 1);
  add({{2, 3, 4}}, 0, 2);
  add({{33, 17}}, 0, 1);
  return all;
}

std::vector<Sample> narrow_samples(Draws& draws) {
  std::vector<Sample> all;
  const auto add = [&](const Form& from, int dim, std::int64_t start, std::int64_t length) {
    all.push_back({fmt::format("dim {}, start {}, length {}", dim, start, length),
                   {draws.uniform(from.shape, from.layout)},
                   [=](const Inputs& x) { return narrow(x[0], dim, start, length); },
                   {},
                   draws.coin()});
  };
  for (const Layout layout : {kRows, kLast}) {
    for (int dim = 0; dim < 4; ++dim) {
      add({{3, 4, 3, 5}, layout}, dim, 0, 3);
      add({{3, 4, 3, 5}, layout}, dim, 1, 2);
      add({{3, 4, 3, 5}, layout}, dim - 4, 2, 1);
    }
  }
  add({{7}}, 0, 3, 4);
  add({{7}}, 0, 7, 0);
  add({{7}}, 0, 0, 7);
  add({{0, 3}}, 1, 1, 2);
  return all;
}

std::vector<Sample> cat_samples(Draws& draws) {
  std::vector<Sample> all;
  const auto add = [&](const std::vector<Form>& parts, int dim) {
    Inputs inputs;
    for (const Form& part : parts) inputs.push_back(draws.uniform(part.shape, part.layout));
    all.push_back(
        {fmt::format("dim {}", dim), inputs, [dim](const Inputs& x) { return cat(x, dim); }, {}, draws.coin()});
  };
  add({{{3}}, {{1}}, {{4}}}, 0);
  add({{{2, 3}}, {{4, 3}}}, 0);
  add({{{2, 3}}, {{2, 1}}, {{2, 5}}}, -1);
  add({{{2, 3}}}, 1);
  add({{{0, 3}}, {{2, 3}}}, 0);
  add({{{2, 3}}, {{2, 0}}, {{2, 1}}}, 1);
  add({{{2, 1, 3}}, {{2, 2, 3}}}, 1);
  add({{{1}}, {{1}}, {{1}}, {{1}}, {{1}}, {{1}}}, 0);  // more inputs than a node keeps inline
  for (const Layout a : {kRows, kLast}) {
    for (const Layout b : {kRows, kLast}) {
      add({{{2, 3, 2, 2}, a}, {{1, 3, 2, 2}, b}}, 0);
      add({{{2, 3, 2, 2}, a}, {{2, 2, 2, 2}, b}}, 1);
      add({{{2, 3, 2, 2}, a}, {{2, 3, 2, 1}, b}}, 3);
    }
  }
  return all;
}

/// Pairs of a shape and a larger one that it broadcasts to.
const std::vector<std::pair<Form, Shape>>& small_and_large() {
  static const std::vector<std::pair<Form, Shape>> pairs = {{{Shape{}}, {2, 3}},
                                                            {{{1}}, {4}},
                                                            {{{3}}, {2, 3}},
                                                            {{{2, 1}}, {2, 5}},
                                                            {{{2, 3}}, {2, 3}},
                                                            {{{1, 3, 1}}, {4, 3, 2}},
                                                            {{{0}}, {3, 0}},
                                                            {{{1}}, {0}},
                                                            {{{3, 1, 1}}, {2, 3, 2, 2}},
                                                            {{{1, 3, 1, 1}, kRows}, {2, 3, 2, 2}},
                                                            {{{1, 3, 1, 1}, kLast}, {2, 3, 2, 2}},
                                                            {{{2, 1, 2, 3}, kLast}, {2, 4, 2, 3}},
                                                            {{{2, 3, 2, 1}, kRows}, {2, 3, 2, 5}},
                                                            {{{2, 3, 2, 1}, kLast}, {2, 3, 2, 5}},
                                                            {{{2, 3, 2, 1}, kLast}, {2, 2, 3, 2, 3}}};
  return pairs;
}

std::vector<Sample> broadcast_to_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const auto& [small, large] : small_and_large()) {
    all.push_back({"to " + to_string(large),
                   {draws.uniform(small.shape, small.layout)},
                   [to = large](const Inputs& x) { return broadcast_to(x[0], to); },
                   {},
                   draws.coin()});
  }
  return all;
}

std::vector<Sample> sum_to_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const auto& [small, large] : small_and_large()) {
    for (const Layout layout : {kRows, kLast}) {
      if (layout == kLast && large.rank() != 4) continue;
      all.push_back({"to " + to_string(small.shape) + (small.layout == kLast ? " again" : ""),
                     {draws.uniform(large, layout)},
                     [to = small.shape](const Inputs& x) { return sum_to(x[0], to); },
                     {},
                     draws.coin()});
    }
  }
  return all;
}

// ---- Copies and conversions.

std::vector<Sample> layout_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const Form& form : forms()) {
    if (form.shape.rank() != 4) continue;
    for (const Layout to : {kRows, kLast}) {
      all.push_back({to == kLast ? "to channels_last" : "to row_major",
                     {draws.uniform(form.shape, form.layout)},
                     [to](const Inputs& x) { return x[0].to(to); },
                     {},
                     draws.coin()});
    }
  }
  return all;
}

/// There and back. On a grid that the narrow dtypes have too, with a step on that grid, a cast is the identity.
std::vector<Sample> dtype_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const Form& form : forms()) {
    for (const DType middle : {DType::float32, DType::float64, DType::float16, DType::bfloat16}) {
      Tensor x = draws.uniform(form.shape, form.layout, -15.0, 15.0);
      for (std::int64_t i = 0; i < x.numel(); ++i) x.data<double>()[i] = std::floor(x.data<double>()[i]) / 8.0;
      const auto there_and_back = [middle](const Inputs& in) { return in[0].to(middle).to(in[0].dtype()); };
      all.push_back({fmt::format("by {}", name(middle)), {x}, there_and_back, {}, false, 0.125});
    }
  }
  return all;
}

}  // namespace

void register_shape_ops(std::vector<OpEntry>& registry) {
  const auto add = [&](OpEntry entry) { registry.push_back(std::move(entry)); };
  add({"reshape", reshape_samples, kExact});
  add({"flatten", flatten_samples, kExact});
  add({"transpose", transpose_samples, kExact});
  add({"narrow", narrow_samples, kExact});
  add({"cat", cat_samples, kExact});
  add({"broadcast_to", broadcast_to_samples, kReductions});
  add({"sum_to", sum_to_samples, kReductions});
  add({"to(Layout)", layout_samples, kExact});
  add({"to(DType)", dtype_samples, kExact});
}

}  // namespace lockstep::test
