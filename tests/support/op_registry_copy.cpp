// Entries of ops that repeat, sum up, copy or convert.
#include <lockstep/tests/support/op_registry.h>

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

OpEntry broadcast_to_entry() {
  return {.name = "broadcast_to",
          .determinism = Determinism::any_threads,
          .tolerance = {Scale::tensor, 0, 4, "values are repeated; a gradient is a sum"},
          .samples = broadcast_to_samples,
          .problem =
              [](Draws& draws) {
                const Form large = large_form(draws);
                return broadcast_to_sample(draws, broadcast_operand(draws, large), large.shape);
              },
          .benchmarks =
              [](Draws& draws) {
                return std::vector{broadcast_to_sample(draws, {{64, 1, 1}}, kBatch.shape)};
              },
          .misuse = {wrong<ShapeError>("broadcast_to", "a smaller shape", [] { broadcast_to(f32(2, 3), {3}); },
                                       {"[2, 3]", "[3]"}),
                     wrong<ShapeError>("broadcast_to", "a size other than 1", [] { broadcast_to(f32(2), {4}); },
                                       {"[2]", "[4]"}),
                     wrong<ShapeError>("broadcast_to", "down to 1", [] { broadcast_to(f32(2), {1}); }, {"[2]", "[1]"}),
                     wrong<ShapeError>("Shape", "a negative size of broadcast_to",
                                       [] {
                                         broadcast_to(f32(1), {2, -1});
                                       },
                                       {"[2, -1]"}),
                     wrong<ValueError>("broadcast_to", "undefined", [] { broadcast_to({}, {1}); }, {"undefined"})}};
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

OpEntry sum_to_entry() {
  return {
      .name = "sum_to",
      .determinism = Determinism::any_threads,
      .tolerance = {Scale::element, 4, 0, "of terms of one sign, in lanes of float32 added up in float64"},
      .samples = sum_to_samples,
      .problem =
          [](Draws& draws) {
            const Form large = large_form(draws);
            return sum_to_sample(draws, large, broadcast_operand(draws, large).shape);
          },
      .benchmarks =
          [](Draws& draws) {
            return std::vector{sum_to_sample(draws, kBatch, {64, 1, 1}), sum_to_sample(draws, kBatchLast, {64, 1, 1}),
                               sum_to_sample(draws, {{128, 1000}}, {1000})};
          },
      .misuse = {wrong<ShapeError>("sum_to", "not its transpose", [] { sum_to(f32(2, 3), {2}); }, {"[2, 3]", "[2]"}),
                 wrong<ShapeError>("sum_to", "a larger shape",
                                   [] {
                                     sum_to(f32(3), {2, 3});
                                   },
                                   {"[3]", "[2, 3]"}),
                 wrong<DTypeError>("sum_to", "integers", [] { sum_to(i64(2, 3), {3}); }, {"int64"}),
                 wrong<ValueError>("sum_to", "undefined", [] { sum_to({}, {1}); }, {"undefined"})}};
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

OpEntry layout_entry() {
  return {.name = "to(Layout)",
          .determinism = Determinism::any_threads,
          .tolerance = kExact,
          .samples = layout_samples,
          .problem =
              [](Draws& draws) {
                return layout_sample(draws, random_image(draws, 17), draws.pick({kRows, kLast}));
              },
          .benchmarks =
              [](Draws& draws) {
                return std::vector{layout_sample(draws, {{128, 3, 32, 32}}, kLast), layout_sample(draws, kBatch, kLast),
                                   layout_sample(draws, kBatchLast, kRows)};
              },
          .misuse = {wrong<ShapeError>("to", "channels_last of a matrix", [] { f32(2, 3).to(kLast); }, {"[2, 3]"}),
                     wrong<ShapeError>("to", "channels_last of five dimensions", [] { f32(1, 2, 3, 4, 5).to(kLast); },
                                       {"[1, 2, 3, 4, 5]"}),
                     wrong<ValueError>("Tensor", "undefined to a layout", [] { Tensor().to(kLast); }, {"undefined"})}};
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

OpEntry dtype_entry() {
  const auto recorded = [] { return exp(f32(2).set_requires_grad()); };
  return {.name = "to(DType)",
          .determinism = Determinism::any_threads,
          .tolerance = kExact,
          .samples = dtype_samples,
          .problem =
              [](Draws& draws) {
                const Form form = large_form(draws);
                return dtype_sample(draws, form, any_floating(draws));
              },
          .benchmarks =
              [](Draws& draws) {
                return std::vector{dtype_sample(draws, kBatchLast, DType::float16),
                                   dtype_sample(draws, kBatchLast, DType::bfloat16)};
              },
          .misuse = {wrong<ValueError>("Tensor", "undefined to a dtype", [] { Tensor().to(DType::float64); },
                                       {"undefined"}),
                     wrong<AutogradError>("backward", "after a cast to integers", [recorded] {
                       recorded().to(DType::int64).to(DType::float32).backward(f32(2));
                     })}};
}

}  // namespace

void register_copy_ops(std::vector<OpEntry>& registry) {
  for (const auto entry : {broadcast_to_entry, sum_to_entry, layout_entry, dtype_entry}) registry.push_back(entry());
}

}  // namespace lockstep::test
