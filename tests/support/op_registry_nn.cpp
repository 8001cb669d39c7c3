// Entries of normalisation, dropout, softmax and losses.
#include <lockstep/tests/support/op_registry.h>

#include <algorithm>
#include <cmath>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <lockstep/core/ops.h>

namespace lockstep::test {
namespace {

Layout any_layout(Draws& draws) { return draws.coin() ? kLast : kRows; }

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
