// Entries of ops that change shape, layout or dtype.
#include <lockstep/tests/support/op_registry.h>

#include <algorithm>
#include <cmath>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <lockstep/core/ops.h>
#include <lockstep/tests/support/reference.h>

namespace lockstep::test {
namespace {

constexpr int kRandomSamples = 60;

const Form kBatch{{128, 64, 8, 8}, kRows}, kBatchLast{{128, 64, 8, 8}, kLast};

Tensor draw(Draws& draws, const Form& form) { return draws.uniform(form.shape, form.layout); }

std::vector<std::int64_t> sizes_of(const Shape& shape) { return {shape.begin(), shape.end()}; }

// ---- reshape and flatten.

Sample reshape_sample(Draws& draws, const Form& from, const Shape& to) {
  return {.attributes = "to " + to_string(to),
          .inputs = {draw(draws, from)},
          .run = [to](const Inputs& x) { return reshape(x[0], to); },
          .views = draws.coin(),
          .reference = [to](const Inputs& x) { return reference::reshape(x[0], to); }};
}

/// The sizes of `from` in another order, or some of them merged.
Sample reshape_sample(Draws& draws, const Form& from) {
  std::vector<std::int64_t> sizes = sizes_of(from.shape);
  for (std::size_t i = sizes.size(); i > 1; --i) {
    std::swap(sizes[i - 1], sizes[static_cast<std::size_t>(draws.below(static_cast<std::int64_t>(i)))]);
  }
  while (sizes.size() > 1 && draws.coin()) {
    sizes[sizes.size() - 2] *= sizes.back();
    sizes.pop_back();
  }
  return reshape_sample(draws, from, Shape(std::span(std::as_const(sizes))));
}

std::vector<Sample> reshape_samples(Draws& draws) {
  std::vector<Sample> all;
  const auto add = [&](const Form& from, const Shape& to) { all.push_back(reshape_sample(draws, from, to)); };
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
  for (int i = 0; i < kRandomSamples; ++i) all.push_back(reshape_sample(draws, small_form(draws)));
  return all;
}

Sample flatten_sample(Draws& draws, const Form& form, int first, int last) {
  std::vector<std::int64_t> sizes;
  const int rank = form.shape.rank(), begin = first < 0 ? first + rank : first, end = last < 0 ? last + rank : last;
  for (int i = 0; i < rank; ++i) {
    if (i > begin && i <= end) {
      sizes.back() *= form.shape[i];
    } else {
      sizes.push_back(form.shape[i]);
    }
  }
  if (rank == 0) sizes = {1};
  return {.attributes = fmt::format("dims {} to {}", first, last),
          .inputs = {draw(draws, form)},
          .run = [=](const Inputs& x) { return flatten(x[0], first, last); },
          .views = draws.coin(),
          .reference = [sizes](const Inputs& x) { return reference::reshape(x[0], Shape(std::span(sizes))); }};
}

Sample flatten_sample(Draws& draws, const Form& form) {
  const int rank = form.shape.rank();
  const auto first = static_cast<int>(draws.below(rank)), last = static_cast<int>(draws.from_to(first, rank - 1));
  return flatten_sample(draws, form, draws.coin() ? first : first - rank, draws.coin() ? last : last - rank);
}

std::vector<Sample> flatten_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const Layout layout : {kRows, kLast}) {
    for (const auto& [first, last] : {std::pair{0, -1}, {1, -1}, {1, 2}, {2, 3}, {-2, -1}, {0, 0}, {3, 3}}) {
      all.push_back(flatten_sample(draws, {{2, 3, 2, 4}, layout}, first, last));
    }
  }
  for (const Shape& shape : {Shape{}, Shape{5}, Shape{0, 3}, Shape{2, 1, 3}}) {
    all.push_back(flatten_sample(draws, {shape}, 0, -1));
  }
  for (int i = 0; i < kRandomSamples; ++i) all.push_back(flatten_sample(draws, small_form(draws)));
  return all;
}

// ---- transpose.

Sample transpose_sample(Draws& draws, const Form& form, int a, int b) {
  return {.attributes = fmt::format("dims {} and {}", a, b),
          .inputs = {draw(draws, form)},
          .run = [a, b](const Inputs& x) { return transpose(x[0], a, b); },
          .views = draws.coin(),
          .reference = [a, b](const Inputs& x) { return reference::transpose(x[0], a, b); }};
}

Sample transpose_sample(Draws& draws, const Form& form) {
  const auto dim = [&] { return static_cast<int>(draws.from_to(-form.shape.rank(), form.shape.rank() - 1)); };
  const int a = dim();
  return transpose_sample(draws, form, a, dim());
}

std::vector<Sample> transpose_samples(Draws& draws) {
  std::vector<Sample> all;
  const auto add = [&](const Form& from, int a, int b) { all.push_back(transpose_sample(draws, from, a, b)); };
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
  for (int i = 0; i < kRandomSamples; ++i) all.push_back(transpose_sample(draws, small_form(draws)));
  return all;
}

// ---- narrow and cat.

Sample narrow_sample(Draws& draws, const Form& form, int dim, std::int64_t start, std::int64_t length) {
  return {.attributes = fmt::format("dim {}, start {}, length {}", dim, start, length),
          .inputs = {draw(draws, form)},
          .run = [=](const Inputs& x) { return narrow(x[0], dim, start, length); },
          .views = draws.coin(),
          .reference = [=](const Inputs& x) { return reference::narrow(x[0], dim, start, length); }};
}

/// At least a quarter of the dimension, so that the gradient is not mostly zeros.
Sample narrow_sample(Draws& draws, const Form& form) {
  const auto dim = static_cast<int>(draws.from_to(-form.shape.rank(), form.shape.rank() - 1));
  const std::int64_t size = form.shape[dim], length = draws.from_to((size + 3) / 4, size);
  return narrow_sample(draws, form, dim, draws.from_to(0, size - length), length);
}

std::vector<Sample> narrow_samples(Draws& draws) {
  std::vector<Sample> all;
  const auto add = [&](const Form& from, int dim, std::int64_t start, std::int64_t length) {
    all.push_back(narrow_sample(draws, from, dim, start, length));
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
  for (int i = 0; i < kRandomSamples; ++i) all.push_back(narrow_sample(draws, small_form(draws)));
  return all;
}

Sample cat_sample(Draws& draws, const std::vector<Form>& parts, int dim) {
  Inputs inputs;
  for (const Form& part : parts) inputs.push_back(draw(draws, part));
  return {.attributes = fmt::format("dim {}", dim),
          .inputs = inputs,
          .run = [dim](const Inputs& x) { return cat(x, dim); },
          .views = draws.coin(),
          .reference = [dim](const Inputs& x) { return reference::cat(x, dim); }};
}

Sample cat_sample(Draws& draws, const Form& form) {
  const auto dim = static_cast<int>(draws.from_to(-form.shape.rank(), form.shape.rank() - 1));
  std::vector<Form> parts;
  for (auto count = draws.from_to(1, 4); count > 0; --count) {
    const Layout layout = form.shape.rank() == 4 ? draws.pick({kRows, kLast}) : kRows;
    parts.push_back({form.shape.with(dim, draws.from_to(0, form.shape[dim] + 2)), layout});
  }
  return cat_sample(draws, parts, dim);
}

std::vector<Sample> cat_samples(Draws& draws) {
  std::vector<Sample> all;
  const auto add = [&](const std::vector<Form>& parts, int dim) { all.push_back(cat_sample(draws, parts, dim)); };
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
  for (int i = 0; i < kRandomSamples; ++i) all.push_back(cat_sample(draws, small_form(draws)));
  return all;
}

// ---- broadcast_to and sum_to.

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

Sample broadcast_to_sample(Draws& draws, const Form& from, const Shape& to) {
  return {.attributes = "to " + to_string(to),
          .inputs = {draw(draws, from)},
          .run = [to](const Inputs& x) { return broadcast_to(x[0], to); },
          .views = draws.coin(),
          .reference = [to](const Inputs& x) { return reference::broadcast_to(x[0], to); }};
}

std::vector<Sample> broadcast_to_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const auto& [small, large] : small_and_large()) all.push_back(broadcast_to_sample(draws, small, large));
  for (int i = 0; i < kRandomSamples; ++i) {
    const Form large = small_form(draws);
    all.push_back(broadcast_to_sample(draws, broadcast_operand(draws, large), large.shape));
  }
  return all;
}

Sample sum_to_sample(Draws& draws, const Form& from, const Shape& to) {
  return {.attributes = "to " + to_string(to),
          .inputs = {one_sign(draws, from)},
          .run = [to](const Inputs& x) { return sum_to(x[0], to); },
          .views = draws.coin(),
          .reference = [to](const Inputs& x) { return reference::sum_to(x[0], to); }};
}

std::vector<Sample> sum_to_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const auto& [small, large] : small_and_large()) {
    all.push_back(sum_to_sample(draws, {large, kRows}, small.shape));
    if (large.rank() == 4) all.push_back(sum_to_sample(draws, {large, kLast}, small.shape));
  }
  for (int i = 0; i < kRandomSamples; ++i) {
    const Form large = small_form(draws);
    all.push_back(sum_to_sample(draws, large, broadcast_operand(draws, large).shape));
  }
  return all;
}

// ---- Copies and conversions.

Sample layout_sample(Draws& draws, const Form& from, Layout to) {
  return {.attributes = to == kLast ? "to channels_last" : "to row_major",
          .inputs = {draw(draws, from)},
          .run = [to](const Inputs& x) { return x[0].to(to); },
          .views = draws.coin(),
          .reference = [](const Inputs& x) { return reference::reshape(x[0], x[0].shape()); }};
}

Form random_image(Draws& draws, std::int64_t most) {
  const auto size = [&] { return draws.from_to(1, most); };
  return {{size(), size(), size(), size()}, draws.pick({kRows, kLast})};
}

std::vector<Sample> layout_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const Form& form : forms()) {
    if (form.shape.rank() != 4) continue;
    for (const Layout to : {kRows, kLast}) all.push_back(layout_sample(draws, form, to));
  }
  for (int i = 0; i < kRandomSamples; ++i) {
    all.push_back(layout_sample(draws, random_image(draws, 4), draws.pick({kRows, kLast})));
  }
  return all;
}

/// There and back. On a grid that the narrow dtypes have too, with a step on that grid, a cast is the identity.
Sample dtype_sample(Draws& draws, const Form& form, DType middle) {
  Tensor x = draws.uniform(form.shape, form.layout, -15.0, 15.0);
  for (std::int64_t i = 0; i < x.numel(); ++i) x.data<double>()[i] = std::floor(x.data<double>()[i]) / 8.0;
  return {.attributes = fmt::format("by {}", name(middle)),
          .inputs = {x},
          .run = [middle](const Inputs& in) { return in[0].to(middle).to(in[0].dtype()); },
          .step = 0.125,
          .reference = [](const Inputs& in) { return reference::reshape(in[0], in[0].shape()); }};
}

DType any_floating(Draws& draws) {
  return draws.pick({DType::float32, DType::float64, DType::float16, DType::bfloat16});
}

std::vector<Sample> dtype_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const Form& form : forms()) {
    for (const DType middle : {DType::float32, DType::float64, DType::float16, DType::bfloat16}) {
      all.push_back(dtype_sample(draws, form, middle));
    }
  }
  return all;
}

// ---- The wrong calls.

const char* const kUndefined = "undefined";

std::vector<Misuse> reshape_misuse() {
  return {
      wrong<ShapeError>("reshape", "another number of elements",
                        [] {
                          reshape(f32({2, 3}), {4});
                        },
                        {"6", "[2, 3]", "[4]"}),
      wrong<ShapeError>("reshape", "−1 that does not divide",
                        [] {
                          reshape(f32({2, 3}), {4, -1});
                        },
                        {"6", "[4, -1]"}),
      wrong<ShapeError>("reshape", "−1 beside 0",
                        [] {
                          reshape(f32({0}), {0, -1});
                        },
                        {"[0, -1]"}),
      wrong<ShapeError>("reshape", "−1 twice",
                        [] {
                          reshape(f32({6}), {-1, -1});
                        },
                        {"[-1, -1]"}),
      wrong<ShapeError>("Shape", "a negative size of reshape",
                        [] {
                          reshape(f32({6}), {-2, -3});
                        },
                        {"[-2, -3]"}),
      wrong<ShapeError>("Shape", "sizes of reshape that overflow",
                        [] {
                          reshape(f32({6}), {kHuge, kHuge, 6});
                        },
                        {std::to_string(kHuge)}),
      wrong<ValueError>("reshape", "undefined", [] { reshape({}, {1}); }, {kUndefined}),
  };
}

std::vector<Misuse> flatten_misuse() {
  return {
      wrong<ShapeError>("flatten", "first after last",
                        [] {
                          flatten(f32({2, 3, 4}), 2, 1);
                        },
                        {"2", "1"}),
      wrong<ShapeError>("flatten", "a dimension too far",
                        [] {
                          flatten(f32({2, 3}), 0, 2);
                        },
                        {"[-2, 2)", "2"}),
      wrong<ShapeError>("flatten", "a dimension too low", [] { flatten(f32({2}), -2, 0); }, {"[-1, 1)", "-2"}),
      wrong<ValueError>("flatten", "undefined", [] { flatten({}); }, {kUndefined}),
  };
}

std::vector<Misuse> transpose_misuse() {
  return {
      wrong<ShapeError>("transpose", "a dimension too far",
                        [] {
                          transpose(f32({2, 3}), 0, 2);
                        },
                        {"[-2, 2)", "2"}),
      wrong<ShapeError>("transpose", "a dimension too low",
                        [] {
                          transpose(f32({2, 3}), -3, 0);
                        },
                        {"-3"}),
      wrong<ShapeError>("transpose", "a scalar", [] { transpose(f32({}), 0, 0); }, {"0"}),
      wrong<ValueError>("transpose", "undefined", [] { transpose({}, 0, 0); }, {kUndefined}),
  };
}

std::vector<Misuse> narrow_misuse() {
  return {
      wrong<ValueError>("narrow", "beyond the end", [] { narrow(f32({5}), 0, 3, 3); }, {"[5]", "3"}),
      wrong<ValueError>("narrow", "a negative start", [] { narrow(f32({5}), 0, -1, 2); }, {"-1"}),
      wrong<ValueError>("narrow", "a negative length", [] { narrow(f32({5}), 0, 1, -2); }, {"-2"}),
      wrong<ValueError>("narrow", "start + length overflows", [] { narrow(f32({5}), 0, INT64_MAX, INT64_MAX); },
                        {"[5]"}),
      wrong<ShapeError>("narrow", "a dimension too far", [] { narrow(f32({5}), 1, 0, 1); }, {"1"}),
      wrong<ValueError>("narrow", "undefined", [] { narrow({}, 0, 0, 1); }, {kUndefined}),
  };
}

std::vector<Misuse> cat_misuse() {
  return {
      wrong<ValueError>("cat", "no tensors", [] { cat({}, 0); }, {"none"}),
      wrong<ShapeError>("cat", "other sizes",
                        [] {
                          cat(std::vector{f32({2, 3}), f32({2, 4})}, 0);
                        },
                        {"[2, 3]", "[2, 4]"}),
      wrong<ShapeError>("cat", "other ranks",
                        [] {
                          cat(std::vector{f32({2, 3}), f32({2})}, 0);
                        },
                        {"[2, 3]", "[2]"}),
      wrong<DTypeError>("cat", "two dtypes",
                        [] {
                          cat(std::vector{f32({2}), f64({2})}, 0);
                        },
                        {"float32", "float64"}),
      wrong<ShapeError>("cat", "scalars",
                        [] {
                          cat(std::vector{f32({}), f32({})}, 0);
                        },
                        {"0"}),
      wrong<ShapeError>("cat", "a dimension too far",
                        [] {
                          cat(std::vector{f32({2}), f32({2})}, 1);
                        },
                        {"[-1, 1)", "1"}),
      wrong<ShapeError>("cat", "sizes that overflow",
                        [] {
                          cat(std::vector{f32({kHuge, 0}), f32({kHuge, 0})}, 0);
                        },
                        {std::to_string(kHuge)}),
      wrong<ValueError>("cat", kUndefined,
                        [] {
                          cat(std::vector{f32({2}), Tensor()}, 0);
                        },
                        {kUndefined}),
  };
}

std::vector<Misuse> broadcast_to_misuse() {
  return {
      wrong<ShapeError>("broadcast_to", "a smaller shape",
                        [] {
                          broadcast_to(f32({2, 3}), {3});
                        },
                        {"[2, 3]", "[3]"}),
      wrong<ShapeError>("broadcast_to", "a size other than 1", [] { broadcast_to(f32({2}), {4}); }, {"[2]", "[4]"}),
      wrong<ShapeError>("broadcast_to", "down to 1", [] { broadcast_to(f32({2}), {1}); }, {"[2]", "[1]"}),
      wrong<ShapeError>("Shape", "a negative size of broadcast_to",
                        [] {
                          broadcast_to(f32({1}), {2, -1});
                        },
                        {"[2, -1]"}),
      wrong<ValueError>("broadcast_to", "undefined", [] { broadcast_to({}, {1}); }, {kUndefined}),
  };
}

std::vector<Misuse> sum_to_misuse() {
  return {
      wrong<ShapeError>("sum_to", "not its transpose",
                        [] {
                          sum_to(f32({2, 3}), {2});
                        },
                        {"[2, 3]", "[2]"}),
      wrong<ShapeError>("sum_to", "a larger shape",
                        [] {
                          sum_to(f32({3}), {2, 3});
                        },
                        {"[3]", "[2, 3]"}),
      wrong<DTypeError>("sum_to", "integers",
                        [] {
                          sum_to(i64({2, 3}), {3});
                        },
                        {"int64"}),
      wrong<ValueError>("sum_to", "undefined", [] { sum_to({}, {1}); }, {kUndefined}),
  };
}

std::vector<Misuse> layout_misuse() {
  return {
      wrong<ShapeError>("to", "channels_last of a matrix",
                        [] {
                          f32({2, 3}).to(kLast);
                        },
                        {"[2, 3]"}),
      wrong<ShapeError>("to", "channels_last of five dimensions",
                        [] {
                          f32({1, 2, 3, 4, 5}).to(kLast);
                        },
                        {"[1, 2, 3, 4, 5]"}),
      wrong<ValueError>("Tensor", "undefined to a layout", [] { Tensor().to(kLast); }, {kUndefined}),
  };
}

std::vector<Misuse> dtype_misuse() {
  const auto recorded = [] { return exp(f32({2}).set_requires_grad()); };
  return {
      wrong<ValueError>("Tensor", "undefined to a dtype", [] { Tensor().to(DType::float64); }, {kUndefined}),
      wrong<AutogradError>("backward", "after a cast to integers",
                           [recorded] { recorded().to(DType::int64).to(DType::float32).backward(f32({2})); }),
  };
}

}  // namespace

void register_shape_ops(std::vector<OpEntry>& registry) {
  const auto add = [&](const char* name, const Tolerance& tolerance, std::vector<Sample> (*samples)(Draws&),
                       std::function<Sample(Draws&)> problem, std::function<std::vector<Sample>(Draws&)> benchmarks,
                       std::vector<Misuse> misuse) {
    registry.push_back({name, Determinism::any_threads, tolerance, samples, std::move(problem), std::move(benchmarks),
                        std::move(misuse)});
  };
  constexpr Tolerance kRepeated{Scale::tensor, 0, 4, "values are repeated; a gradient is a sum"};
  constexpr Tolerance kSummed{Scale::element, 4, 0, "of terms of one sign, in lanes of float32 added up in float64"};
  add(
      "reshape", kExact, reshape_samples, [](Draws& draws) { return reshape_sample(draws, large_form(draws)); },
      [](Draws& draws) {
        return std::vector{reshape_sample(draws, kBatch, {128, 4096}), reshape_sample(draws, kBatchLast, {128, 4096})};
      },
      reshape_misuse());
  add(
      "flatten", kExact, flatten_samples, [](Draws& draws) { return flatten_sample(draws, large_form(draws)); },
      [](Draws& draws) { return std::vector{flatten_sample(draws, kBatchLast, 1, -1)}; }, flatten_misuse());
  add(
      "transpose", kExact, transpose_samples, [](Draws& draws) { return transpose_sample(draws, large_form(draws)); },
      [](Draws& draws) {
        return std::vector{transpose_sample(draws, {{1000, 512}}, 0, 1), transpose_sample(draws, kBatch, 1, 3)};
      },
      transpose_misuse());
  add(
      "narrow", kExact, narrow_samples, [](Draws& draws) { return narrow_sample(draws, large_form(draws)); },
      [](Draws& draws) {
        return std::vector{narrow_sample(draws, kBatchLast, 0, 32, 64), narrow_sample(draws, kBatch, 1, 16, 32)};
      },
      narrow_misuse());
  add(
      "cat", kExact, cat_samples, [](Draws& draws) { return cat_sample(draws, large_form(draws)); },
      [](Draws& draws) {
        return std::vector{cat_sample(draws, {kBatch, kBatch}, 0), cat_sample(draws, {kBatch, kBatch}, 1)};
      },
      cat_misuse());
  add(
      "broadcast_to", kRepeated, broadcast_to_samples,
      [](Draws& draws) {
        const Form large = large_form(draws);
        return broadcast_to_sample(draws, broadcast_operand(draws, large), large.shape);
      },
      [](Draws& draws) {
        return std::vector{broadcast_to_sample(draws, {{64, 1, 1}}, kBatch.shape)};
      },
      broadcast_to_misuse());
  add(
      "sum_to", kSummed, sum_to_samples,
      [](Draws& draws) {
        const Form large = large_form(draws);
        return sum_to_sample(draws, large, broadcast_operand(draws, large).shape);
      },
      [](Draws& draws) {
        return std::vector{sum_to_sample(draws, kBatch, {64, 1, 1}), sum_to_sample(draws, kBatchLast, {64, 1, 1}),
                           sum_to_sample(draws, {{128, 1000}}, {1000})};
      },
      sum_to_misuse());
  add(
      "to(Layout)", kExact, layout_samples,
      [](Draws& draws) {
        return layout_sample(draws, random_image(draws, 17), draws.pick({kRows, kLast}));
      },
      [](Draws& draws) {
        return std::vector{layout_sample(draws, {{128, 3, 32, 32}}, kLast), layout_sample(draws, kBatch, kLast),
                           layout_sample(draws, kBatchLast, kRows)};
      },
      layout_misuse());
  add(
      "to(DType)", kExact, dtype_samples,
      [](Draws& draws) {
        const Form form = large_form(draws);
        return dtype_sample(draws, form, any_floating(draws));
      },
      [](Draws& draws) {
        return std::vector{dtype_sample(draws, kBatchLast, DType::float16),
                           dtype_sample(draws, kBatchLast, DType::bfloat16)};
      },
      dtype_misuse());
}

}  // namespace lockstep::test
