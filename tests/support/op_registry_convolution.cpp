// Entries of conv2d and conv2d_relu.
#include <lockstep/tests/support/op_registry.h>

#include <algorithm>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <lockstep/core/ops.h>
#include <lockstep/tests/support/reference.h>
#include <lockstep/tests/support/reference_image.h>

namespace lockstep::test {
namespace {

Layout any_layout(Draws& draws) { return draws.pick({kRows, kLast}); }

Sample conv2d_sample(Draws& draws, const Shape& x, const Shape& weight, bool bias, const Conv2dOptions& o) {
  return {.attributes =
              fmt::format("stride {}, padding {}, dilation {}, groups {}", o.stride, o.padding, o.dilation, o.groups),
          .inputs = {draws.uniform(x, any_layout(draws)), draws.uniform(weight, any_layout(draws)),
                     bias ? draws.uniform({weight[0]}) : Tensor()},
          .run = [o](const Inputs& in) { return conv2d(in[0], in[1], in[2], o); },
          .views = draws.coin(),
          .reference = [o](const Inputs& in) { return reference::conv2d(in[0], in[1], in[2], o); }};
}

/// The same with a ReLU behind it, whose kink no value comes near.
Sample conv2d_relu_sample(Draws& draws, const Shape& x, const Shape& weight, bool bias, const Conv2dOptions& o,
                          double distance) {
  Sample sample = conv2d_sample(draws, x, weight, bias, o);
  Inputs& in = sample.inputs;
  in[2] = bias_for_relu(draws, conv2d(in[0], in[1], {}, o), in[2], distance);
  sample.run = [o](const Inputs& inputs) { return conv2d_relu(inputs[0], inputs[1], inputs[2], o); };
  sample.reference = [o](const Inputs& inputs) {
    return reference::map(reference::conv2d(inputs[0], inputs[1], inputs[2], o),
                          [](double value) { return value > 0 ? value : 0.0; });
  };
  return sample;
}

std::vector<Sample> conv2d_samples(Draws& draws, bool relu) {
  std::vector<Sample> all;
  const auto add = [&](const Shape& x, const Shape& weight, bool bias, const Conv2dOptions& o) {
    all.push_back(relu ? conv2d_relu_sample(draws, x, weight, bias, o, 1e-3)
                       : conv2d_sample(draws, x, weight, bias, o));
  };
  // What ResNets are made of, in small.
  add({2, 3, 9, 9}, {4, 3, 7, 7}, false, {.stride = {2, 2}, .padding = {3, 3}});
  add({2, 4, 5, 5}, {4, 4, 3, 3}, false, {.padding = {1, 1}});
  add({2, 4, 5, 5}, {6, 4, 3, 3}, false, {.stride = {2, 2}, .padding = {1, 1}});
  add({2, 4, 5, 5}, {6, 4, 1, 1}, false, {.stride = {2, 2}});
  add({1, 16, 4, 4}, {16, 16, 1, 1}, false, {});
  add({1, 16, 3, 3}, {8, 16, 3, 3}, false, {.padding = {1, 1}});
  // Edges: nothing in the batch, no channels, one pixel, a kernel as large as the padded input, more padding than the
  // kernel covers.
  add({0, 3, 5, 5}, {4, 3, 3, 3}, true, {});
  add({2, 0, 3, 3}, {4, 0, 3, 3}, true, {.padding = {1, 1}});
  add({1, 1, 1, 1}, {1, 1, 1, 1}, true, {});
  add({2, 2, 3, 2}, {3, 2, 5, 4}, true, {.padding = {1, 1}});
  add({1, 2, 2, 2}, {2, 2, 1, 1}, true, {.padding = {2, 2}});
  add({1, 4, 4, 4}, {4, 1, 3, 3}, true, {.padding = {1, 1}, .groups = 4});  // depthwise
  add({1, 3, 4, 4}, {9, 1, 3, 3}, true, {.groups = 3});
  for (int i = 0; i < (relu ? 140 : 560); ++i) {
    Conv2dOptions o;
    o.groups = draws.pick<std::int64_t>({1, 1, 1, 2, 3});
    Shape x{draws.from_to(1, 3), o.groups * draws.from_to(1, 3), 1, 1};
    const Shape weight{o.groups * draws.from_to(1, 3), x[1] / o.groups, draws.from_to(1, 3), draws.from_to(1, 3)};
    for (int d = 0; d < 2; ++d) {
      const auto s = static_cast<std::size_t>(d);
      o.stride[s] = draws.from_to(1, 3);
      o.dilation[s] = draws.from_to(1, 2);
      const std::int64_t reach = o.dilation[s] * (weight[2 + d] - 1) + 1;
      o.padding[s] = draws.from_to(0, std::min<std::int64_t>(2, reach));
      x = x.with(2 + d, std::max<std::int64_t>(1, reach - 2 * o.padding[s]) + draws.below(4));
    }
    add(x, weight, draws.coin(), o);
  }
  return all;
}

/// The sizes of one random convolution.
struct ConvSizes {
  std::int64_t n, channels, outputs;  ///< of one group
  Pair image = {}, kernel = {}, out = {};
  Conv2dOptions options = {};

  bool fits() const { return out[0] >= 1 && out[1] >= 1; }
  std::int64_t products() const { return n * options.groups * outputs * out[0] * out[1] * depth(channels); }
  std::int64_t depth(std::int64_t terms) const { return terms * kernel[0] * kernel[1]; }
  /// Sums have up to 4,000 terms, and long ones stand in tensors of at least eight: there the largest of them is as
  /// large as such sums are, and errors can be told as a part of it.
  bool can_tell_errors() const {
    const auto can = [](std::int64_t numel, std::int64_t terms) {
      return terms <= 8 || (numel >= 8 && terms <= 4'000);
    };
    return can(n * options.groups * outputs * out[0] * out[1], depth(channels)) &&
           can(n * options.groups * channels * image[0] * image[1], depth(outputs)) &&
           can(options.groups * outputs * depth(channels), n * out[0] * out[1]);
  }
};

ConvSizes draw_conv(Draws& draws) {
  ConvSizes s{.n = draws.below(8) == 0 ? draws.from_to(5, 33) : draws.from_to(1, 4),
              .channels = any_channels(draws),
              .outputs = any_channels(draws)};
  Conv2dOptions& o = s.options;
  switch (draws.below(8)) {
    case 0: o.groups = any_channels(draws), s.channels = s.outputs = 1; break;  // depthwise
    case 1: o.groups = any_channels(draws), s.channels = draws.from_to(1, 4), s.outputs = draws.from_to(1, 4); break;
    case 2: o.groups = draws.from_to(2, 4); break;
    default: break;
  }
  const bool square = draws.coin();
  for (std::size_t d = 0; d < 2; ++d) {
    s.image[d] = draws.below(4) == 0 ? draws.from_to(1, 4) : draws.from_to(1, 20);
    s.kernel[d] = draws.pick<std::int64_t>({1, 1, 2, 3, 3, 3, 4, 5, 7});
    o.stride[d] = draws.pick<std::int64_t>({1, 1, 1, 2, 2, 3, 4});
    o.padding[d] = draws.coin() ? s.kernel[d] / 2 : draws.from_to(0, 3);
    o.dilation[d] = draws.pick<std::int64_t>({1, 1, 1, 1, 2, 3});
    if (square && d == 1) {
      s.image[1] = s.image[0], s.kernel[1] = s.kernel[0];
      o.stride[1] = o.stride[0], o.padding[1] = o.padding[0], o.dilation[1] = o.dilation[0];
    }
    const std::int64_t room = s.image[d] + 2 * o.padding[d] - o.dilation[d] * (s.kernel[d] - 1) - 1;
    s.out[d] = room < 0 ? 0 : room / o.stride[d] + 1;
  }
  return s;
}

/// Few positions of many channels over a large batch, which has a method of its own.
ConvSizes draw_deep_conv(Draws& draws) {
  ConvSizes s{.n = draws.from_to(15, 18), .channels = draws.from_to(63, 66), .outputs = draws.from_to(63, 66)};
  s.kernel = draws.pick({Pair{1, 2}, Pair{2, 1}, Pair{2, 2}, Pair{3, 3}});
  s.out = {draws.from_to(1, 3), draws.from_to(1, 3)};
  for (std::size_t d = 0; d < 2; ++d) {
    s.options.padding[d] = (s.kernel[d] - 1) / 2;
    s.image[d] = s.out[d] + s.kernel[d] - 1 - 2 * s.options.padding[d];
  }
  return s;
}

Sample conv2d_problem(Draws& draws, bool relu) {
  const bool deep = draws.below(100) == 0;
  const std::int64_t most = deep ? 8'000'000 : 300'000;
  for (;;) {
    const ConvSizes s = deep ? draw_deep_conv(draws) : draw_conv(draws);
    if (!s.fits() || s.products() > most || !s.can_tell_errors()) continue;
    const Shape x{s.n, s.options.groups * s.channels, s.image[0], s.image[1]};
    const Shape weight{s.options.groups * s.outputs, s.channels, s.kernel[0], s.kernel[1]};
    return relu ? conv2d_relu_sample(draws, x, weight, draws.coin(), s.options, 2e-5)
                : conv2d_sample(draws, x, weight, draws.coin(), s.options);
  }
}

std::vector<Sample> conv2d_benchmarks(Draws& draws) {
  const auto row = [&](const Shape& x, const Shape& weight, std::int64_t stride, std::int64_t padding,
                       std::int64_t groups = 1) {
    Sample sample = conv2d_sample(draws, x, weight, false,
                                  {.stride = {stride, stride}, .padding = {padding, padding}, .groups = groups});
    for (Tensor& input : sample.inputs) input = input.defined() ? input.to(kLast) : input;
    return sample;
  };
  return {row({16, 3, 224, 224}, {64, 3, 7, 7}, 2, 3),      // ResNets' first
          row({16, 64, 56, 56}, {64, 64, 3, 3}, 1, 1),      // and what follows
          row({16, 64, 56, 56}, {128, 64, 1, 1}, 2, 0),     //
          row({16, 512, 7, 7}, {512, 512, 3, 3}, 1, 1),     //
          row({128, 16, 32, 32}, {16, 16, 3, 3}, 1, 1),     // ResNet-20's
          row({128, 64, 8, 8}, {64, 64, 3, 3}, 1, 1),       //
          row({16, 3, 224, 224}, {64, 3, 11, 11}, 4, 2),    // AlexNet's first
          row({16, 64, 56, 56}, {64, 1, 3, 3}, 1, 1, 64)};  // depthwise
}

std::vector<Sample> conv2d_relu_benchmarks(Draws& draws) {
  const auto row = [&](const Shape& x, const Shape& weight, std::int64_t stride, std::int64_t padding) {
    Sample sample =
        conv2d_relu_sample(draws, x, weight, true, {.stride = {stride, stride}, .padding = {padding, padding}}, 0.0);
    for (const std::size_t i : {0, 1}) sample.inputs[i] = sample.inputs[i].to(kLast);
    return sample;
  };
  return {row({16, 3, 224, 224}, {64, 3, 11, 11}, 4, 2),  // AlexNet's first three
          row({16, 64, 27, 27}, {192, 64, 5, 5}, 1, 2), row({16, 192, 13, 13}, {384, 192, 3, 3}, 1, 1)};
}

std::vector<Misuse> conv2d_relu_misuse() {  // the checks are conv2d's: that they name this op
  const Tensor x = f32(1, 4, 5, 5), w = f32(6, 4, 3, 3);
  return {
      wrong<ValueError>("conv2d_relu", "stride 0",
                        [=] {
                          conv2d_relu(x, w, {}, {.stride = {0, 1}});
                        },
                        {"0, 0 and 1"}),
      wrong<ShapeError>("conv2d_relu", "channels", [=] { conv2d_relu(f32(1, 3, 5, 5), w); }, {"[1, 3, 5, 5]"}),
      wrong<ShapeError>("conv2d_relu", "bias", [=] { conv2d_relu(x, w, f32(4)); }, {"[6]", "[4]"}),
      wrong<DTypeError>("conv2d_relu", "integers", [] { conv2d_relu(i64(1, 4, 5, 5), i64(6, 4, 3, 3)); }, {"int64"}),
      wrong<ValueError>("conv2d_relu", "undefined weight", [=] { conv2d_relu(x, {}); }, {"undefined"}),
  };
}

std::vector<Misuse> conv2d_misuse() {
  const Tensor x = f32(1, 4, 5, 5), w = f32(6, 4, 3, 3);
  const auto options = [=](std::string what, const Conv2dOptions& o, std::vector<std::string> values) {
    return wrong<ValueError>(
        "conv2d", std::move(what), [=] { conv2d(x, w, {}, o); }, std::move(values));
  };
  const auto shapes = [](std::string what, const Tensor& input, const Tensor& weight, std::vector<std::string> values,
                         const Conv2dOptions& o = {}) {
    return wrong<ShapeError>(
        "conv2d", std::move(what), [=] { conv2d(input, weight, {}, o); }, std::move(values));
  };
  return {
      options("stride 0", {.stride = {0, 1}}, {"0, 0 and 1"}),
      options("negative stride", {.stride = {1, -2}}, {"-2"}),
      options("stride that overflows", {.stride = {1, kHuge}}, {std::to_string(kHuge)}),
      options("negative padding", {.padding = {-1, 0}}, {"-1"}),
      options("padding that overflows", {.padding = {kHuge, 0}}, {std::to_string(kHuge)}),
      options("dilation 0", {.dilation = {1, 0}}, {"1, 0 and 0"}),
      options("negative dilation", {.dilation = {-3, 1}}, {"-3"}),
      options("dilation that overflows", {.dilation = {1, kHuge}}, {std::to_string(kHuge)}),
      options("groups 0", {.groups = 0}, {"got 0"}),
      options("negative groups", {.groups = -2}, {"-2"}),
      options("groups that do not divide the input's channels", {.groups = 3}, {"4", "6", "3"}),
      options("groups that do not divide the output's channels", {.groups = 4}, {"6", "4"}),
      shapes("groups and the weight", x, w, {"[1, 4, 5, 5]", "2 groups", "[6, 4, 3, 3]"}, {.groups = 2}),
      shapes("channels", f32(1, 3, 5, 5), w, {"[1, 3, 5, 5]", "[6, 4, 3, 3]"}),
      shapes("no batch", f32(4, 5, 5), w, {"[4, 5, 5]"}),
      shapes("a matrix", f32(4, 5), w, {"[4, 5]"}),
      shapes("a scalar", f32(), w, {"[]"}),
      shapes("rank of the weight", x, f32(6, 4, 3), {"[6, 4, 3]"}),
      shapes("no output channels", x, f32(0, 4, 3, 3), {"[0, 4, 3, 3]"}),
      shapes("empty kernel", x, f32(6, 4, 0, 3), {"[6, 4, 0, 3]"}),
      shapes("empty image", f32(1, 4, 0, 5), w, {"[1, 4, 0, 5]"}, {.padding = {2, 2}}),
      shapes("kernel larger than the input", f32(1, 4, 2, 5), w, {"[6, 4, 3, 3]", "[1, 4, 2, 5]"}),
      shapes("kernel larger than the padded input", f32(1, 4, 5, 1), f32(6, 4, 3, 4), {"[6, 4, 3, 4]", "[1, 4, 5, 1]"},
             {.padding = {1, 1}}),
      shapes("dilated kernel larger than the input", x, w, {"[6, 4, 3, 3]", "[1, 4, 5, 5]"}, {.dilation = {1, 3}}),
      shapes("kernel that overflows", f32(1, 0, 5, 5), f32(6, 0, kHuge / 8, 1), {std::to_string(kHuge / 8)}),
      wrong<ShapeError>("Shape", "a result of conv2d that overflows",
                        [] {
                          conv2d(f32(1, 1, 1, 1), f32(4, 1, 1, 1), {}, {.padding = {1 << 30, 1 << 30}});
                        },
                        {"[1, 4, 2147483649, 2147483649]"}),
      wrong<ShapeError>("conv2d", "bias", [=] { conv2d(x, w, f32(4)); }, {"[6]", "[4]"}),
      wrong<ShapeError>("conv2d", "rank of the bias", [=] { conv2d(x, w, f32(6, 1)); }, {"[6]", "[6, 1]"}),
      wrong<DTypeError>("conv2d", "two dtypes", [=] { conv2d(x, f64(6, 4, 3, 3)); }, {"float32", "float64"}),
      wrong<DTypeError>("conv2d", "dtype of the bias", [=] { conv2d(x, w, f64(6)); }, {"float32", "float64"}),
      wrong<DTypeError>("conv2d", "integers", [] { conv2d(i64(1, 4, 5, 5), i64(6, 4, 3, 3)); }, {"int64"}),
      wrong<DTypeError>("conv2d", "bytes", [] { conv2d(u8(1, 4, 5, 5), u8(6, 4, 3, 3)); }, {"uint8"}),
      wrong<ValueError>("conv2d", "undefined weight", [=] { conv2d(x, {}); }, {"undefined"}),
      wrong<ValueError>("conv2d", "undefined", [=] { conv2d({}, w); }, {"undefined"}),
  };
}

}  // namespace

void register_convolution_ops(std::vector<OpEntry>& registry) {
  constexpr Tolerance kSums{Scale::tensor, 32, 32, "sums of up to 4,000 products of either sign"};
  registry.push_back({.name = "conv2d",
                      .determinism = Determinism::same_threads,  // the weight's gradient: threads sum parts of a batch
                      .tolerance = kSums,
                      .samples = [](Draws& draws) { return conv2d_samples(draws, false); },
                      .problem = [](Draws& draws) { return conv2d_problem(draws, false); },
                      .benchmarks = conv2d_benchmarks,
                      .misuse = conv2d_misuse()});
  registry.push_back({.name = "conv2d_relu",
                      .determinism = Determinism::same_threads,
                      .tolerance = kSums,
                      .samples = [](Draws& draws) { return conv2d_samples(draws, true); },
                      .problem = [](Draws& draws) { return conv2d_problem(draws, true); },
                      .benchmarks = conv2d_relu_benchmarks,
                      .misuse = conv2d_relu_misuse()});
}

}  // namespace lockstep::test
