// Entries of ops that rearrange what is there.
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

OpEntry reshape_entry() {
  return {.name = "reshape",
          .determinism = Determinism::any_threads,
          .tolerance = kExact,
          .samples = reshape_samples,
          .problem = [](Draws& draws) { return reshape_sample(draws, large_form(draws)); },
          .benchmarks =
              [](Draws& draws) {
                return std::vector{reshape_sample(draws, kBatch, {128, 4096}),
                                   reshape_sample(draws, kBatchLast, {128, 4096})};
              },
          .misuse = {wrong<ShapeError>("reshape", "another number of elements", [] { reshape(f32(2, 3), {4}); },
                                       {"6", "[2, 3]", "[4]"}),
                     wrong<ShapeError>("reshape", "−1 that does not divide",
                                       [] {
                                         reshape(f32(2, 3), {4, -1});
                                       },
                                       {"6", "[4, -1]"}),
                     wrong<ShapeError>("reshape", "−1 beside 0",
                                       [] {
                                         reshape(f32(0), {0, -1});
                                       },
                                       {"[0, -1]"}),
                     wrong<ShapeError>("reshape", "−1 twice",
                                       [] {
                                         reshape(f32(6), {-1, -1});
                                       },
                                       {"[-1, -1]"}),
                     wrong<ShapeError>("Shape", "a negative size of reshape",
                                       [] {
                                         reshape(f32(6), {-2, -3});
                                       },
                                       {"[-2, -3]"}),
                     wrong<ShapeError>("Shape", "sizes of reshape that overflow",
                                       [] {
                                         reshape(f32(6), {kHuge, kHuge, 6});
                                       },
                                       {std::to_string(kHuge)}),
                     wrong<ValueError>("reshape", "undefined", [] { reshape({}, {1}); }, {"undefined"})}};
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

OpEntry flatten_entry() {
  return {
      .name = "flatten",
      .determinism = Determinism::any_threads,
      .tolerance = kExact,
      .samples = flatten_samples,
      .problem = [](Draws& draws) { return flatten_sample(draws, large_form(draws)); },
      .benchmarks = [](Draws& draws) { return std::vector{flatten_sample(draws, kBatchLast, 1, -1)}; },
      .misuse = {wrong<ShapeError>("flatten", "first after last", [] { flatten(f32(2, 3, 4), 2, 1); }, {"2", "1"}),
                 wrong<ShapeError>("flatten", "a dimension too far", [] { flatten(f32(2, 3), 0, 2); },
                                   {"[-2, 2)", "2"}),
                 wrong<ShapeError>("flatten", "a dimension too low", [] { flatten(f32(2), -2, 0); }, {"[-1, 1)", "-2"}),
                 wrong<ValueError>("flatten", "undefined", [] { flatten({}); }, {"undefined"})}};
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

OpEntry transpose_entry() {
  return {.name = "transpose",
          .determinism = Determinism::any_threads,
          .tolerance = kExact,
          .samples = transpose_samples,
          .problem = [](Draws& draws) { return transpose_sample(draws, large_form(draws)); },
          .benchmarks =
              [](Draws& draws) {
                return std::vector{transpose_sample(draws, {{1000, 512}}, 0, 1), transpose_sample(draws, kBatch, 1, 3)};
              },
          .misuse = {wrong<ShapeError>("transpose", "a dimension too far", [] { transpose(f32(2, 3), 0, 2); },
                                       {"[-2, 2)", "2"}),
                     wrong<ShapeError>("transpose", "a dimension too low", [] { transpose(f32(2, 3), -3, 0); }, {"-3"}),
                     wrong<ShapeError>("transpose", "a scalar", [] { transpose(f32(), 0, 0); }, {"0"}),
                     wrong<ValueError>("transpose", "undefined", [] { transpose({}, 0, 0); }, {"undefined"})}};
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

OpEntry narrow_entry() {
  return {
      .name = "narrow",
      .determinism = Determinism::any_threads,
      .tolerance = kExact,
      .samples = narrow_samples,
      .problem = [](Draws& draws) { return narrow_sample(draws, large_form(draws)); },
      .benchmarks =
          [](Draws& draws) {
            return std::vector{narrow_sample(draws, kBatchLast, 0, 32, 64), narrow_sample(draws, kBatch, 1, 16, 32)};
          },
      .misuse = {wrong<ValueError>("narrow", "beyond the end", [] { narrow(f32(5), 0, 3, 3); }, {"[5]", "3"}),
                 wrong<ValueError>("narrow", "a negative start", [] { narrow(f32(5), 0, -1, 2); }, {"-1"}),
                 wrong<ValueError>("narrow", "a negative length", [] { narrow(f32(5), 0, 1, -2); }, {"-2"}),
                 wrong<ValueError>("narrow", "start + length overflows",
                                   [] { narrow(f32(5), 0, INT64_MAX, INT64_MAX); }, {"[5]"}),
                 wrong<ShapeError>("narrow", "a dimension too far", [] { narrow(f32(5), 1, 0, 1); }, {"1"}),
                 wrong<ValueError>("narrow", "undefined", [] { narrow({}, 0, 0, 1); }, {"undefined"})}};
}

Tensor join(const Tensor& a, const Tensor& b, int dim) { return cat(std::vector{a, b}, dim); }

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

OpEntry cat_entry() {
  return {
      .name = "cat",
      .determinism = Determinism::any_threads,
      .tolerance = kExact,
      .samples = cat_samples,
      .problem = [](Draws& draws) { return cat_sample(draws, large_form(draws)); },
      .benchmarks =
          [](Draws& draws) {
            return std::vector{cat_sample(draws, {kBatch, kBatch}, 0), cat_sample(draws, {kBatch, kBatch}, 1)};
          },
      .misuse = {wrong<ValueError>("cat", "no tensors", [] { cat({}, 0); }, {"none"}),
                 wrong<ShapeError>("cat", "other sizes", [] { join(f32(2, 3), f32(2, 4), 0); }, {"[2, 3]", "[2, 4]"}),
                 wrong<ShapeError>("cat", "other ranks", [] { join(f32(2, 3), f32(2), 0); }, {"[2, 3]", "[2]"}),
                 wrong<DTypeError>("cat", "two dtypes", [] { join(f32(2), f64(2), 0); }, {"float32", "float64"}),
                 wrong<ShapeError>("cat", "scalars", [] { join(f32(), f32(), 0); }, {"0"}),
                 wrong<ShapeError>("cat", "a dimension too far", [] { join(f32(2), f32(2), 1); }, {"[-1, 1)", "1"}),
                 wrong<ShapeError>("cat", "sizes that overflow", [] { join(f32(kHuge, 0), f32(kHuge, 0), 0); },
                                   {std::to_string(kHuge)}),
                 wrong<ValueError>("cat", "undefined", [] { join(f32(2), Tensor(), 0); }, {"undefined"})}};
}

}  // namespace

void register_shape_ops(std::vector<OpEntry>& registry) {
  for (const auto entry : {reshape_entry, flatten_entry, transpose_entry, narrow_entry, cat_entry}) {
    registry.push_back(entry());
  }
}

}  // namespace lockstep::test
