// Entries of pooling.
#include <lockstep/tests/support/op_registry.h>

#include <algorithm>
#include <cmath>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <lockstep/core/ops.h>
#include <lockstep/tests/support/reference_image.h>

namespace lockstep::test {
namespace {

constexpr int kRandomSamples = 260;

/// At most 30,000 elements, which is enough for two threads.
Form image_form(Draws& draws) {
  for (;;) {
    const Shape shape{draws.from_to(1, 4), any_channels(draws), draws.from_to(1, 20), draws.from_to(1, 20)};
    if (shape.numel() <= 30'000) return {shape, draws.pick({kRows, kLast})};
  }
}

// ---- Max and average pooling.

struct Pool {
  const char* name;
  Tensor (*op)(const Tensor&, const Pool2dOptions&);
  Tensor (*formula)(const Tensor&, const Pool2dOptions&);
  bool maximum;
  Tolerance tolerance;
};

Sample pool_sample(Draws& draws, const Pool& pool, const Form& form, const Pool2dOptions& o) {
  return {.attributes = fmt::format("kernel {}, stride {}, padding {}, dilation {}, ceil {}, include_pad {}",
                                    o.kernel_size, o.stride, o.padding, o.dilation, o.ceil_mode, o.count_include_pad),
          .inputs = {pool.maximum ? draws.distinct(form.shape, form.layout) : draws.uniform(form.shape, form.layout)},
          .run = [o, op = pool.op](const Inputs& x) { return op(x[0], o); },
          .views = draws.coin(),
          .reference = [o, formula = pool.formula](const Inputs& x) { return formula(x[0], o); }};
}

/// Windows of up to `most` × `most` that fit the image, or hang over its edge where that is allowed. Not such that one
/// of them lies in the padding alone, as dilation makes possible: its maximum is −inf, and −inf − −inf is no error.
Sample random_pool(Draws& draws, const Pool& pool, const Form& form, std::int64_t most) {
  for (;;) {
    Pool2dOptions o;
    o.ceil_mode = draws.coin();
    o.count_include_pad = pool.maximum || draws.coin();
    bool fits = true;
    for (std::size_t d = 0; d < 2; ++d) {
      o.kernel_size[d] = draws.from_to(1, most);
      o.stride[d] = draws.from_to(0, 3);
      o.padding[d] = draws.from_to(0, o.kernel_size[d] / 2);
      o.dilation[d] = pool.maximum ? draws.pick<std::int64_t>({1, 1, 2, 3}) : 1;
      const std::int64_t room =
          form.shape[static_cast<int>(d) + 2] + 2 * o.padding[d] - o.dilation[d] * (o.kernel_size[d] - 1) - 1;
      const std::int64_t stride = o.stride[d] == 0 ? o.kernel_size[d] : o.stride[d];
      fits = fits && room + (o.ceil_mode ? stride - 1 : 0) >= 0;
    }
    if (!fits) continue;
    Sample sample = pool_sample(draws, pool, form, o);
    const std::vector<double> result = sample.reference(sample.inputs).to_vector<double>();
    if (std::all_of(result.begin(), result.end(), [](double value) { return std::isfinite(value); })) return sample;
  }
}

std::vector<Sample> pool_samples(Draws& draws, const Pool& pool) {
  std::vector<Sample> all;
  const auto add = [&](const Shape& shape, const Pool2dOptions& o) {
    for (const Layout layout : {kRows, kLast}) all.push_back(pool_sample(draws, pool, {shape, layout}, o));
  };
  add({2, 4, 8, 8}, {.kernel_size = {3, 3}, .stride = {2, 2}, .padding = {1, 1}});  // ResNet's
  add({0, 3, 4, 4}, {});
  add({1, 1, 1, 1}, {.kernel_size = {1, 1}});
  add({2, 17, 4, 4}, {});
  // The last window would start in the padding beyond the input, and is left out.
  add({1, 2, 4, 4}, {.kernel_size = {2, 2}, .stride = {3, 3}, .padding = {1, 1}, .ceil_mode = true});
  // The only window is larger than the image, and hangs over its edge.
  add({2, 3, 2, 2}, {.kernel_size = {3, 3}, .stride = {2, 2}, .ceil_mode = true});
  for (int i = 0; i < kRandomSamples; ++i) {
    const Shape shape{draws.from_to(1, 3), draws.from_to(1, 4), draws.from_to(1, 7), draws.from_to(1, 7)};
    all.push_back(random_pool(draws, pool, {shape, draws.pick({kRows, kLast})}, 3));
  }
  return all;
}

std::vector<Misuse> pool_misuse(const Pool& pool) {
  const auto call = [op = pool.op](const Tensor& x, const Pool2dOptions& o) { return [=] { op(x, o); }; };
  const auto options = [&](std::string what, const Pool2dOptions& o, std::vector<std::string> values) {
    return wrong<ValueError>(pool.name, std::move(what), call(f32(1, 4, 5, 5), o), std::move(values));
  };
  const auto shape = [&](std::string what, const Tensor& x, std::vector<std::string> values,
                         const Pool2dOptions& o = {.kernel_size = {1, 1}}) {
    return wrong<ShapeError>(pool.name, std::move(what), call(x, o), std::move(values));
  };
  const Tensor x = f32(1, 4, 5, 5);
  return {
      options("empty window", {.kernel_size = {0, 2}}, {"got 0, 0 and 1"}),
      options("negative window", {.kernel_size = {2, -3}, .stride = {1, 1}}, {"-3"}),
      options("window that overflows", {.kernel_size = {2, kHuge}}, {std::to_string(kHuge)}),
      options("negative stride", {.stride = {-1, 1}}, {"-1"}),
      options("stride that overflows", {.stride = {1, kHuge}}, {std::to_string(kHuge)}),
      options("dilation 0", {.dilation = {0, 1}}, {"2, 2 and 0"}),
      options("negative padding", {.padding = {0, -1}}, {"-1"}),
      options("padding over half the window", {.kernel_size = {3, 3}, .padding = {2, 0}}, {"3", "2"}),
      options("padding that overflows", {.padding = {kHuge, 0}}, {std::to_string(kHuge)}),
      shape("window larger than the input", x, {"6", "5"}, {.kernel_size = {6, 1}}),
      shape("window larger than the padded input", f32(1, 2, 4, 3), {"6", "3", "1"},
            {.kernel_size = {2, 6}, .padding = {0, 1}}),
      shape("window that hangs over by more than its stride", f32(1, 2, 2, 2), {"4", "2"},
            {.kernel_size = {4, 4}, .stride = {2, 2}, .ceil_mode = true}),
      shape("no batch", f32(4, 5, 5), {"[4, 5, 5]"}),
      shape("a matrix", f32(5, 5), {"[5, 5]"}),
      shape("an empty image", f32(1, 2, 0, 4), {"[1, 2, 0, 4]"}),
      shape("no channels", f32(1, 0, 4, 4), {"[1, 0, 4, 4]"}),
      wrong<DTypeError>(pool.name, "integers", call(i64(1, 1, 4, 4), {}), {"int64"}),
      wrong<DTypeError>(pool.name, "bytes", call(u8(1, 1, 4, 4), {}), {"uint8"}),
      wrong<ValueError>(pool.name, "undefined", call({}, {}), {"undefined"}),
  };
}

OpEntry pool_entry(const Pool& pool) {
  return {.name = pool.name,
          .determinism = Determinism::any_threads,
          .tolerance = pool.tolerance,
          .samples = [pool](Draws& draws) { return pool_samples(draws, pool); },
          .problem = [pool](Draws& draws) { return random_pool(draws, pool, image_form(draws), 5); },
          .benchmarks =
              [pool](Draws& draws) {
                const Pool2dOptions overlapping{.kernel_size = {3, 3}, .stride = {2, 2}, .padding = {1, 1}};
                return std::vector{
                    pool_sample(draws, pool, {{16, 64, 112, 112}, kLast}, overlapping),
                    pool_sample(draws, pool, {{16, 192, 27, 27}, kLast}, {.kernel_size = {3, 3}, .stride = {2, 2}}),
                    pool_sample(draws, pool, {{128, 64, 16, 16}, kLast}, {})};
              },
          .misuse = pool_misuse(pool)};
}

OpEntry avg_pool2d_entry() {
  OpEntry entry = pool_entry(
      {"avg_pool2d", avg_pool2d, reference::avg_pool2d, false, {Scale::tensor, 3, 3, "means of up to 25 elements"}});
  entry.misuse.push_back(wrong<ValueError>("avg_pool2d", "dilation",
                                           [] {
                                             avg_pool2d(f32(1, 4, 5, 5), {.dilation = {2, 1}});
                                           },
                                           {"[2, 1]"}));
  return entry;
}

// ---- Adaptive pooling.

Sample adaptive_sample(Draws& draws, const Form& form, const Pair& output) {
  return {.attributes = fmt::format("to {}", output),
          .inputs = {draws.uniform(form.shape, form.layout)},
          .run = [output](const Inputs& x) { return adaptive_avg_pool2d(x[0], output); },
          .views = draws.coin(),
          .reference = [output](const Inputs& x) { return reference::adaptive_avg_pool2d(x[0], output); }};
}

std::vector<Sample> adaptive_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const Shape& shape :
       {Shape{2, 3, 4, 6}, Shape{1, 1, 7, 5}, Shape{2, 4, 1, 1}, Shape{0, 2, 3, 3}, Shape{1, 17, 3, 2}}) {
    for (const Layout layout : {kRows, kLast}) {
      for (const Pair output : {Pair{1, 1}, Pair{2, 3}, Pair{3, 2}, Pair{4, 5}, Pair{6, 6}}) {
        all.push_back(adaptive_sample(draws, {shape, layout}, output));
      }
    }
  }
  for (int i = 0; i < kRandomSamples; ++i) {
    const Shape shape{draws.from_to(1, 3), draws.from_to(1, 4), draws.from_to(1, 7), draws.from_to(1, 7)};
    all.push_back(
        adaptive_sample(draws, {shape, draws.pick({kRows, kLast})}, {draws.from_to(1, 8), draws.from_to(1, 8)}));
  }
  return all;
}

OpEntry adaptive_avg_pool2d_entry() {
  const auto to = [](std::string what, const Tensor& x, const Pair& output, std::vector<std::string> values) {
    return wrong<ShapeError>(
        "adaptive_avg_pool2d", std::move(what), [=] { adaptive_avg_pool2d(x, output); }, std::move(values));
  };
  const Tensor x = f32(1, 4, 5, 5);
  return {.name = "adaptive_avg_pool2d",
          .determinism = Determinism::any_threads,
          .tolerance = {Scale::tensor, 3, 3, "means of up to 400 elements"},
          .samples = adaptive_samples,
          .problem =
              [](Draws& draws) {
                const Form form = image_form(draws);
                const bool few = draws.coin();
                const Pair output{draws.from_to(1, few ? 3 : 22), draws.from_to(1, few ? 3 : 22)};
                return adaptive_sample(draws, form, output);
              },
          .benchmarks =
              [](Draws& draws) {
                return std::vector{adaptive_sample(draws, {{128, 512, 7, 7}, kLast}, {1, 1}),
                                   adaptive_sample(draws, {{128, 64, 8, 8}, kLast}, {1, 1}),
                                   adaptive_sample(draws, {{16, 256, 13, 13}, kLast}, {6, 6})};
              },
          .misuse = {to("no output", x, {0, 1}, {"[0, 1]"}), to("negative output", x, {1, -1}, {"[1, -1]"}),
                     to("no batch", f32(4, 5, 5), {1, 1}, {"[4, 5, 5]"}), to("a matrix", f32(2, 3), {1, 1}, {"[2, 3]"}),
                     to("five dimensions", f32(1, 2, 3, 4, 5), {1, 1}, {"[1, 2, 3, 4, 5]"}),
                     to("an empty image", f32(2, 3, 0, 4), {1, 1}, {"[2, 3, 0, 4]"}),
                     to("no channels", f32(2, 0, 4, 4), {1, 1}, {"[2, 0, 4, 4]"}),
                     wrong<ShapeError>("Shape", "a result of adaptive_avg_pool2d that overflows",
                                       [=] {
                                         adaptive_avg_pool2d(x, {kHuge, 4});
                                       },
                                       {"[1, 4, " + std::to_string(kHuge) + ", 4]"}),
                     wrong<DTypeError>("adaptive_avg_pool2d", "integers",
                                       [] {
                                         adaptive_avg_pool2d(i64(1, 1, 4, 4), {1, 1});
                                       },
                                       {"int64"}),
                     wrong<ValueError>("adaptive_avg_pool2d", "undefined",
                                       [] {
                                         adaptive_avg_pool2d({}, {1, 1});
                                       },
                                       {"undefined"})}};
}

}  // namespace

void register_pool_ops(std::vector<OpEntry>& registry) {
  registry.push_back(pool_entry({"max_pool2d",
                                 max_pool2d,
                                 reference::max_pool2d,
                                 true,
                                 {Scale::tensor, 0, 4, "values are moved; a gradient is a sum over windows"}}));
  registry.push_back(avg_pool2d_entry());
  registry.push_back(adaptive_avg_pool2d_entry());
}

}  // namespace lockstep::test
