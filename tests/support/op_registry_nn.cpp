// Entries of convolution, pooling, normalisation, dropout, softmax and losses.
#include <lockstep/tests/support/op_registry.h>

#include <algorithm>
#include <cmath>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <lockstep/core/ops.h>

namespace lockstep::test {
namespace {

Layout any_layout(Draws& draws) { return draws.coin() ? kLast : kRows; }

// ---- Convolution.

Sample conv2d_sample(Draws& draws, const Shape& x, const Shape& weight, bool bias, const Conv2dOptions& o) {
  const std::string attributes =
      fmt::format("stride {}, padding {}, dilation {}, groups {}", o.stride, o.padding, o.dilation, o.groups);
  return {attributes,
          {draws.uniform(x, any_layout(draws)), draws.uniform(weight, any_layout(draws)),
           bias ? draws.uniform({weight[0]}) : Tensor()},
          [o](const Inputs& in) { return conv2d(in[0], in[1], in[2], o); },
          {},
          draws.coin()};
}

std::vector<Sample> conv2d_samples(Draws& draws) {
  std::vector<Sample> all;
  // What ResNets are made of, in small.
  all.push_back(conv2d_sample(draws, {2, 3, 9, 9}, {4, 3, 7, 7}, false, {.stride = {2, 2}, .padding = {3, 3}}));
  all.push_back(conv2d_sample(draws, {2, 4, 5, 5}, {4, 4, 3, 3}, false, {.padding = {1, 1}}));
  all.push_back(conv2d_sample(draws, {2, 4, 5, 5}, {6, 4, 3, 3}, false, {.stride = {2, 2}, .padding = {1, 1}}));
  all.push_back(conv2d_sample(draws, {2, 4, 5, 5}, {6, 4, 1, 1}, false, {.stride = {2, 2}}));
  all.push_back(conv2d_sample(draws, {1, 16, 4, 4}, {16, 16, 1, 1}, false, {}));
  all.push_back(conv2d_sample(draws, {1, 16, 3, 3}, {8, 16, 3, 3}, false, {.padding = {1, 1}}));
  // Edges: nothing in the batch, one pixel, a kernel as large as the padded input, more padding than the kernel covers.
  all.push_back(conv2d_sample(draws, {0, 3, 5, 5}, {4, 3, 3, 3}, true, {}));
  all.push_back(conv2d_sample(draws, {1, 1, 1, 1}, {1, 1, 1, 1}, true, {}));
  all.push_back(conv2d_sample(draws, {2, 2, 3, 2}, {3, 2, 5, 4}, true, {.padding = {1, 1}}));
  all.push_back(conv2d_sample(draws, {1, 2, 2, 2}, {2, 2, 1, 1}, true, {.padding = {2, 2}}));
  all.push_back(conv2d_sample(draws, {1, 4, 4, 4}, {4, 1, 3, 3}, true, {.padding = {1, 1}, .groups = 4}));  // depthwise
  all.push_back(conv2d_sample(draws, {1, 3, 4, 4}, {9, 1, 3, 3}, true, {.groups = 3}));
  for (int i = 0; i < 500; ++i) {
    Conv2dOptions o;
    o.groups = draws.pick<std::int64_t>({1, 1, 1, 2, 3});
    Shape x{draws.from_to(1, 3), o.groups * draws.from_to(1, 3), 1, 1};
    const Shape weight{o.groups * draws.from_to(1, 3), x[1] / o.groups, draws.from_to(1, 3), draws.from_to(1, 3)};
    for (int d = 0; d < 2; ++d) {
      const auto s = static_cast<std::size_t>(d);
      o.stride[s] = draws.from_to(1, 3);
      o.padding[s] = draws.from_to(0, 2);
      o.dilation[s] = draws.from_to(1, 2);
      const std::int64_t reach = o.dilation[s] * (weight[2 + d] - 1) + 1;
      x = x.with(2 + d, std::max<std::int64_t>(1, reach - 2 * o.padding[s]) + draws.below(4));
    }
    all.push_back(conv2d_sample(draws, x, weight, draws.coin(), o));
  }
  return all;
}

// ---- Pooling.

using Pool = Tensor (*)(const Tensor&, const Pool2dOptions&);

std::vector<Sample> pool2d_samples(Draws& draws, Pool pool, bool maximum) {
  std::vector<Sample> all;
  const auto add = [&](const Shape& shape, const Pool2dOptions& o) {
    const Layout layout = any_layout(draws);
    const Tensor input = maximum ? draws.distinct(shape, layout) : draws.uniform(shape, layout);
    // With dilation a window can consist of padding alone; its maximum is −inf and not for these checks.
    const std::vector<double> result = pool(input, o).to_vector<double>();
    if (!std::all_of(result.begin(), result.end(), [](double value) { return std::isfinite(value); })) return;
    all.push_back({fmt::format("kernel {}, stride {}, padding {}, dilation {}, ceil {}, include_pad {}", o.kernel_size,
                               o.stride, o.padding, o.dilation, o.ceil_mode, o.count_include_pad),
                   {input},
                   [=](const Inputs& x) { return pool(x[0], o); },
                   {},
                   draws.coin()});
  };
  add({2, 4, 8, 8}, {.kernel_size = {3, 3}, .stride = {2, 2}, .padding = {1, 1}});  // ResNet's
  add({0, 3, 4, 4}, {});
  add({1, 1, 1, 1}, {.kernel_size = {1, 1}});
  add({2, 17, 4, 4}, {});
  // The last window would start in the padding beyond the input, and is left out.
  add({1, 2, 4, 4}, {.kernel_size = {2, 2}, .stride = {3, 3}, .padding = {1, 1}, .ceil_mode = true});
  for (int i = 0; i < 200; ++i) {
    Pool2dOptions o;
    Shape x{draws.from_to(1, 3), draws.from_to(1, 4), 1, 1};
    o.ceil_mode = draws.coin();
    o.count_include_pad = maximum || draws.coin();
    for (std::size_t d = 0; d < 2; ++d) {
      o.kernel_size[d] = draws.from_to(1, 3);
      o.stride[d] = draws.from_to(0, 3);
      o.padding[d] = draws.from_to(0, o.kernel_size[d] / 2);
      o.dilation[d] = maximum ? draws.from_to(1, 2) : 1;
      const std::int64_t reach = o.dilation[d] * (o.kernel_size[d] - 1) + 1;
      x = x.with(static_cast<int>(2 + d), std::max<std::int64_t>(1, reach - 2 * o.padding[d]) + draws.below(6));
    }
    add(x, o);
  }
  return all;
}

std::vector<Sample> adaptive_avg_pool2d_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const Shape& shape :
       {Shape{2, 3, 4, 6}, Shape{1, 1, 7, 5}, Shape{2, 4, 1, 1}, Shape{0, 2, 3, 3}, Shape{1, 17, 3, 2}}) {
    for (const Layout layout : {kRows, kLast}) {
      for (const Pair output : {Pair{1, 1}, Pair{2, 3}, Pair{3, 2}, Pair{4, 5}, Pair{6, 6}}) {
        all.push_back({fmt::format("to {}", output),
                       {draws.uniform(shape, layout)},
                       [output](const Inputs& x) { return adaptive_avg_pool2d(x[0], output); },
                       {},
                       draws.coin()});
      }
    }
  }
  return all;
}

// ---- Batch norm. Inputs: x, weight, bias, running_mean, running_var, residual.

std::vector<Sample> batch_norm_samples(Draws& draws, bool relu) {
  std::vector<Sample> all;
  const auto run = [relu](const BatchNormOptions& o, const Inputs& in) {
    // Training changes the running statistics, and each run must start from the same.
    const Tensor mean = in[3].defined() ? in[3].clone() : Tensor(), var = in[4].defined() ? in[4].clone() : Tensor();
    return relu ? batch_norm_relu(in[0], in[1], in[2], mean, var, o, in[5])
                : batch_norm(in[0], in[1], in[2], mean, var, o);
  };
  for (const Shape& shape : {Shape{4, 3}, Shape{5, 1}, Shape{3, 17}, Shape{2, 3, 2, 2}, Shape{3, 1, 2, 1},
                             Shape{1, 2, 3, 3}, Shape{3, 4, 1, 1}, Shape{2, 16, 2, 2}, Shape{2, 5, 1, 3}}) {
    for (const Layout layout : {kRows, kLast}) {
      if (layout == kLast && shape.rank() != 4) continue;
      for (const bool training : {true, false}) {
        for (const int variant : {0, 1, 2}) {
          const BatchNormOptions o{.training = training, .eps = variant == 0 ? 1e-5 : 0.25};
          const bool running = !training || variant != 1, residual = relu && variant != 0;
          const Shape channels{shape[1]};
          Inputs in;
          double nearest = 0.0;  // of the ReLU's inputs to its kink
          do {
            in = {draws.uniform(shape, layout),
                  draws.away_from_zero(channels),
                  draws.uniform(channels),
                  running ? draws.uniform(channels) : Tensor(),
                  running ? draws.uniform(channels, {}, 0.5, 2.0) : Tensor(),
                  residual ? draws.uniform(shape, shape.rank() == 4 ? any_layout(draws) : layout) : Tensor()};
            nearest = 1.0;
            const NoGradGuard no_grad;
            Tensor sum = batch_norm(in[0], in[1], in[2], in[3].defined() ? in[3].clone() : Tensor(),
                                    in[4].defined() ? in[4].clone() : Tensor(), o);
            if (residual) sum = sum + in[5];
            for (const double value : sum.to_vector<double>()) nearest = std::min(nearest, std::abs(value));
          } while (relu && nearest < 1e-3);
          all.push_back({fmt::format("training {}, eps {}", training, o.eps),
                         in,
                         [=](const Inputs& inputs) { return run(o, inputs); },
                         {3, 4},
                         draws.coin()});
        }
      }
    }
  }
  return all;
}

std::vector<Sample> dropout_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const Shape& shape :
       {Shape{}, Shape{7}, Shape{0}, Shape{3, 5}, Shape{67}, Shape{2, 3, 2, 4}, Shape{1, 1, 3, 2}}) {
    for (const Layout layout : {kRows, kLast}) {
      if (layout == kLast && shape.rank() != 4) continue;
      for (const double p : {0.0, 0.25, 0.5}) {
        for (const bool training : {true, false}) {
          all.push_back({fmt::format("p {}, training {}", p, training),
                         {draws.uniform(shape, layout)},
                         [=](const Inputs& x) {
                           manual_seed(5);
                           return dropout(x[0], p, training);
                         },
                         {},
                         draws.coin()});
        }
      }
    }
  }
  return all;
}

// ---- Softmax and losses.

std::vector<Sample> softmax_samples(Draws& draws, Tensor (*op)(const Tensor&, int)) {
  std::vector<Sample> all;
  const auto add = [&](const Shape& shape, Layout layout, int dim) {
    all.push_back({fmt::format("dim {}", dim),
                   {draws.uniform(shape, layout)},
                   [=](const Inputs& x) { return op(x[0], dim); },
                   {},
                   draws.coin()});
  };
  for (const Shape& shape : {Shape{}, Shape{7}, Shape{1}, Shape{3, 5}, Shape{3, 1}, Shape{2, 19}, Shape{2, 3, 4},
                             Shape{0, 3}, Shape{2, 3, 2, 4}}) {
    for (int dim = -1; dim < shape.rank(); ++dim) add(shape, kRows, dim);
  }
  for (int dim = 0; dim < 4; ++dim) add({2, 3, 2, 4}, kLast, dim);
  return all;
}

std::vector<Sample> cross_entropy_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const Shape& shape : {Shape{1, 2}, Shape{3, 7}, Shape{5, 3}, Shape{4, 19}, Shape{2, 1}, Shape{17, 10}}) {
    for (const Reduction reduction : {Reduction::none, Reduction::mean, Reduction::sum}) {
      for (const double smoothing : {0.0, 0.1, 1.0}) {
        for (const int kind : {0, 1, 2, 3}) {  // indices, indices with ignored rows, distributions, any weights
          if (shape[1] == 1 && (kind != 0 || smoothing != 0.0)) continue;  // one class has no gradient
          CrossEntropyOptions o{.reduction = reduction, .label_smoothing = smoothing};
          Tensor target;
          if (kind <= 1) {
            target = draws.indices({shape[0]}, shape[1]);
            if (kind == 1) {
              if (shape[0] == 1) continue;
              o.ignore_index = draws.coin() ? -100 : 0;
              auto* index = target.data<std::int64_t>();
              for (std::int64_t i = 0; i < shape[0]; i += 2) index[i] = o.ignore_index;
              index[1] = shape[1] - 1;
            }
          } else {
            target = draws.uniform(shape, {}, 0.0, 1.0);
            if (kind == 2) target = softmax(target, 1).to(DType::float32).to(DType::float64);
          }
          all.push_back({fmt::format("reduction {}, smoothing {}, ignore_index {}{}", static_cast<int>(reduction),
                                     smoothing, o.ignore_index, kind == 3 ? ", not normalised" : ""),
                         {draws.uniform(shape), target},
                         [o](const Inputs& x) { return cross_entropy(x[0], x[1], o); },
                         {1}});
        }
      }
    }
  }
  return all;
}

}  // namespace

void register_nn_ops(std::vector<OpEntry>& registry) {
  const auto add = [&](OpEntry entry) { registry.push_back(std::move(entry)); };
  add({"conv2d", conv2d_samples, {Scale::tensor, 8, 16, "sums of at most 150 products of size 4"}});
  add({"max_pool2d",
       [](Draws& draws) { return pool2d_samples(draws, max_pool2d, true); },
       {Scale::tensor, 0, 4, "values are moved; a gradient is the sum over at most 9 windows"}});
  add({"avg_pool2d",
       [](Draws& draws) { return pool2d_samples(draws, avg_pool2d, false); },
       {Scale::tensor, 4, 4, "sums of at most 9 terms"}});
  add({"adaptive_avg_pool2d", adaptive_avg_pool2d_samples, {Scale::tensor, 3, 3, "sums of at most 36 terms"}});
  add({"batch_norm",
       [](Draws& draws) { return batch_norm_samples(draws, false); },
       {Scale::tensor, 6, 16, "variance, root and a difference of sums; 1 / σ magnifies what x has lost"}});
  add({"batch_norm_relu",
       [](Draws& draws) { return batch_norm_samples(draws, true); },
       {Scale::tensor, 6, 16, "as batch_norm"}});
  add({"dropout", dropout_samples, {Scale::element, 2, 2, "a product with a rounded scale"}});
  add({"softmax",
       [](Draws& draws) { return softmax_samples(draws, softmax); },
       {Scale::tensor, 2, 4, "values up to 1"}});
  add({"log_softmax",
       [](Draws& draws) { return softmax_samples(draws, log_softmax); },
       {Scale::tensor, 2, 4, "values up to 5"}});
  add({"cross_entropy", cross_entropy_samples, {Scale::tensor, 8, 8, "log_softmax and sums of 19 terms"}});
}

}  // namespace lockstep::test
