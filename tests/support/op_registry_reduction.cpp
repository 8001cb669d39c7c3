// Entries of reductions and matrix products.
#include <lockstep/tests/support/op_registry.h>

#include <algorithm>
#include <cmath>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <lockstep/core/ops.h>
#include <lockstep/tests/support/reference.h>

namespace lockstep::test {
namespace {

constexpr int kRandomSamples = 70;

// ---- Sums and means: terms of one sign, so that what float32 loses can be told as a part of the result.

struct Reduction {
  const char* name;
  Tensor (*all)(const Tensor&);
  Tensor (*dims)(const Tensor&, std::span<const int>, bool);
  double (*formula)(const std::vector<double>&);
  bool takes_nothing;  ///< has a value for no elements
  Tolerance tolerance;
};

Sample all_sample(Draws& draws, const Reduction& r, const Form& form) {
  return {
      .attributes = "all",
      .inputs = {one_sign(draws, form)},
      .run = [all = r.all](const Inputs& x) { return all(x[0]); },
      .views = draws.coin(),
      .reference = [formula = r.formula](
                       const Inputs& x) { return Tensor::from(std::vector{formula(x[0].to_vector<double>())}, {}); }};
}

Sample dims_sample(Draws& draws, const Reduction& r, const Form& form, const std::vector<int>& dims, bool keepdim) {
  return {.attributes = fmt::format("dims [{}], keepdim {}", fmt::join(dims, ", "), keepdim),
          .inputs = {one_sign(draws, form)},
          .run = [=, reduce = r.dims](const Inputs& x) { return reduce(x[0], dims, keepdim); },
          .views = draws.coin(),
          .reference = [=, formula =
                               r.formula](const Inputs& x) { return reference::reduce(x[0], dims, keepdim, formula); }};
}

Sample dims_sample(Draws& draws, const Reduction& r, const Form& form) {
  const int rank = form.shape.rank();
  std::vector<int> dims;
  for (int dim = 0; dim < rank; ++dim) {
    if (draws.coin()) dims.push_back(draws.coin() ? dim : dim - rank);
  }
  if (draws.coin()) std::reverse(dims.begin(), dims.end());
  return dims_sample(draws, r, form, dims, draws.coin());
}

std::vector<Sample> reduction_samples(Draws& draws, const Reduction& r) {
  std::vector<Sample> all;
  for (const Form& form : forms()) {
    if (r.takes_nothing || form.shape.numel() > 0) all.push_back(all_sample(draws, r, form));
  }
  const auto add = [&](const Form& form, const std::vector<int>& dims, bool keepdim) {
    all.push_back(dims_sample(draws, r, form, dims, keepdim));
  };
  for (const bool keepdim : {false, true}) {
    for (unsigned subset = 0; subset < 16; ++subset) {
      std::vector<int> dims;
      for (int dim = 0; dim < 4; ++dim) {
        if (subset >> dim & 1u) dims.push_back(draws.coin() ? dim : dim - 4);
      }
      add({{2, 3, 2, 4}, kRows}, dims, keepdim);
      add({{2, 3, 2, 4}, kLast}, dims, keepdim);
    }
    add({{3, 5}}, {1, 0}, keepdim);
    add({{67}}, {0}, keepdim);
    add({{2, 67}}, {-1}, keepdim);
    add({{67, 2}}, {0}, keepdim);
    add({{1, 3}}, {0}, keepdim);
    if (r.takes_nothing) {
      add({{0, 3}}, {0}, keepdim);
      add({{0, 3}}, {1}, keepdim);
    }
  }
  for (int i = 0; i < kRandomSamples; ++i) all.push_back(dims_sample(draws, r, small_form(draws)));
  return all;
}

/// Now and then so many elements that threads share one sum.
Sample reduction_problem(Draws& draws, const Reduction& r) {
  Form form = large_form(draws);
  if (draws.below(8) == 0) {
    const std::int64_t few = draws.from_to(1, 3), many = draws.from_to(100'000, 300'000) / few;
    form.shape = draws.coin() ? Shape{few, many} : Shape{many, few};
    form.layout = kRows;
  }
  return draws.below(4) == 0 ? all_sample(draws, r, form) : dims_sample(draws, r, form);
}

OpEntry reduction(const Reduction& r) {
  return {.name = r.name,
          .determinism = Determinism::any_threads,
          .tolerance = r.tolerance,
          .samples = [r](Draws& draws) { return reduction_samples(draws, r); },
          .problem = [r](Draws& draws) { return reduction_problem(draws, r); },
          .benchmarks =
              [r](Draws& draws) {
                const Form images{{128, 64, 8, 8}, kLast};
                return std::vector{dims_sample(draws, r, images, {0, 2, 3}, false),
                                   dims_sample(draws, r, {{128, 1000}}, {1}, false),
                                   all_sample(draws, r, {{16, 64, 56, 56}})};
              },
          .misuse = {wrong<ValueError>(r.name, "undefined", [all = r.all] { all({}); }, {"undefined"}),
                     wrong<ShapeError>(r.name, "a dimension too far",
                                       [dims = r.dims] { dims(f32(2, 3), std::vector{2}, false); }, {"[-2, 2)", "2"}),
                     wrong<ShapeError>(r.name, "a dimension too low",
                                       [dims = r.dims] { dims(f32(2, 3), std::vector{-3}, true); }, {"[-2, 2)", "-3"}),
                     wrong<ValueError>(r.name, "a dimension twice",
                                       [dims = r.dims] {
                                         dims(f32(2, 3), std::vector{1, -1}, false);
                                       },
                                       {"[1, -1]"}),
                     wrong<DTypeError>(r.name, "integers", [all = r.all] { all(i64(2)); }, {"int64"}),
                     wrong<DTypeError>(r.name, "an integer", [all = r.all] { all(i64()); }, {"int64"}),
                     wrong<DTypeError>(r.name, "bytes", [all = r.all] { all(u8(2)); }, {"uint8"})}};
}

// ---- max.

Sample max_sample(Draws& draws, const Form& form, int dim, bool keepdim) {
  return {.attributes = fmt::format("dim {}, keepdim {}", dim, keepdim),
          .inputs = {draws.distinct(form.shape, form.layout)},
          .run = [=](const Inputs& x) { return max(x[0], dim, keepdim).first; },
          .views = draws.coin(),
          .reference = [=](const Inputs& x) { return reference::reduce(x[0], {dim}, keepdim, reference::max); }};
}

Sample max_sample(Draws& draws, const Form& form) {
  const int rank = form.shape.rank();
  return max_sample(draws, form, static_cast<int>(draws.from_to(-rank, rank - 1)), draws.coin());
}

std::vector<Sample> max_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const auto& form : {Form{{7}}, Form{{1}}, Form{{3, 5}}, Form{{5, 3}}, Form{{2, 1, 3}}, Form{{2, 19}},
                           Form{{19, 2}}, Form{{2, 3, 2, 4}, kRows}, Form{{2, 3, 2, 4}, kLast}, Form{{0, 3}}}) {
    for (int dim = 0; dim < form.shape.rank(); ++dim) {
      for (const bool keepdim : {false, true}) {
        if (form.shape[dim] > 0) all.push_back(max_sample(draws, form, dim, keepdim));
      }
    }
  }
  for (int i = 0; i < kRandomSamples; ++i) all.push_back(max_sample(draws, small_form(draws)));
  return all;
}

OpEntry max_entry() {
  return {.name = "max",
          .determinism = Determinism::any_threads,
          .tolerance = kExact,
          .samples = max_samples,
          .problem = [](Draws& draws) { return max_sample(draws, large_form(draws)); },
          .benchmarks =
              [](Draws& draws) {
                return std::vector{max_sample(draws, {{128, 1000}}, 1, false),
                                   max_sample(draws, {{128, 64, 8, 8}}, 1, false)};
              },
          .misuse = {wrong<ShapeError>("max", "an empty dimension", [] { max(f32(2, 0), 1); }, {"[2, 0]"}),
                     wrong<ShapeError>("max", "a dimension too far", [] { max(f32(2), 1); }, {"[-1, 1)", "1"}),
                     wrong<ShapeError>("max", "a scalar", [] { max(f32(), 0); }, {"0"}),
                     wrong<DTypeError>("max", "integers", [] { max(i64(2), 0); }, {"int64"}),
                     wrong<ValueError>("max", "undefined", [] { max({}, 0); }, {"undefined"})}};
}

// ---- Matrix products.

struct Sizes {
  std::int64_t m, k, n;
};

/// Two of them from 1 to 180, and now and then one long enough to be summed in several blocks. Sums of more than a few
/// products stand in matrices of at least eight: there the largest of them is as large as such sums are, and errors can
/// be told as a part of it.
Sizes product_sizes(Draws& draws) {
  const auto size = [&] { return std::llround(std::exp2(draws.next(0.0, 7.5))); };
  for (;;) {
    Sizes s{size(), size(), size()};
    if (draws.below(6) == 0 && s.m * s.k * s.n < 20'000) *draws.pick({&s.m, &s.k, &s.n}) = draws.from_to(200, 1000);
    const auto fits = [](std::int64_t numel, std::int64_t terms) { return numel >= 8 || terms <= 8; };
    if (fits(s.m * s.n, s.k) && fits(s.m * s.k, s.n) && fits(s.k * s.n, s.m)) return s;
  }
}

/// Without a batch for batch = −1.
Sample matmul_sample(Draws& draws, std::int64_t batch, const Sizes& s) {
  const Shape a = batch < 0 ? Shape{s.m, s.k} : Shape{batch, s.m, s.k};
  const Shape b = batch < 0 ? Shape{s.k, s.n} : Shape{batch, s.k, s.n};
  return {.attributes = "",
          .inputs = {draws.uniform(a), draws.uniform(b)},
          .run = [](const Inputs& x) { return matmul(x[0], x[1]); },
          .views = draws.coin(),
          .reference = [](const Inputs& x) { return reference::matmul(x[0], x[1]); }};
}

std::vector<Sample> matmul_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const std::int64_t batch : {-1, 1, 3}) {
    for (const Sizes& s : {Sizes{1, 1, 1},
                           {1, 5, 1},
                           {3, 1, 4},
                           {4, 3, 2},
                           {2, 7, 5},
                           {5, 2, 9},
                           {1, 9, 17},
                           {17, 3, 1},
                           {8, 8, 8},
                           {0, 3, 2},
                           {2, 0, 3},
                           {2, 3, 0}}) {
      all.push_back(matmul_sample(draws, batch, s));
    }
  }
  all.push_back(matmul_sample(draws, 0, {2, 3, 4}));
  for (int i = 0; i < kRandomSamples; ++i) {
    const Sizes s{draws.from_to(1, 9), draws.from_to(1, 20), draws.from_to(1, 9)};
    all.push_back(matmul_sample(draws, draws.from_to(-1, 3), s));
  }
  return all;
}

Sample linear_sample(Draws& draws, const Form& x, std::int64_t out, bool bias) {
  return {.attributes = "",
          .inputs = {draws.uniform(x.shape, x.layout), draws.uniform({out, x.shape[-1]}),
                     bias ? draws.uniform({out}) : Tensor()},
          .run = [](const Inputs& in) { return linear(in[0], in[1], in[2]); },
          .views = draws.coin(),
          .reference = [](const Inputs& in) { return reference::linear(in[0], in[1], in[2]); }};
}

/// The same with a ReLU behind it, whose kink no value comes near.
Sample linear_relu_sample(Draws& draws, const Form& x, std::int64_t out, bool bias, double distance) {
  Sample sample = linear_sample(draws, x, out, bias);
  Inputs& in = sample.inputs;
  in[2] = bias_for_relu(draws, reshape(linear(in[0], in[1]), {x.shape.with(-1, 1).numel(), out}), in[2], distance);
  sample.run = [](const Inputs& inputs) { return linear_relu(inputs[0], inputs[1], inputs[2]); };
  sample.reference = [](const Inputs& inputs) {
    return reference::map(reference::linear(inputs[0], inputs[1], inputs[2]),
                          [](double value) { return value > 0 ? value : 0.0; });
  };
  return sample;
}

std::vector<Sample> linear_samples(Draws& draws, bool relu) {
  std::vector<Sample> all;
  const auto add = [&](const Form& x, std::int64_t out, bool bias) {
    all.push_back(relu ? linear_relu_sample(draws, x, out, bias, 1e-3) : linear_sample(draws, x, out, bias));
  };
  for (const auto& x : {Form{{3, 5}}, Form{{1, 1}}, Form{{0, 4}}, Form{{5}}, Form{{2, 3, 4}}, Form{{17, 2}},
                        Form{{2, 33}}, Form{{2, 3, 2, 4}, kRows}, Form{{2, 3, 2, 4}, kLast}, Form{{2, 0}}}) {
    for (const std::int64_t out : {1, 3, 17}) {
      for (const bool bias : {false, true}) add(x, out, bias);
    }
  }
  for (int i = 0; i < kRandomSamples; ++i) {
    const Form x = small_form(draws);
    const std::int64_t out = draws.from_to(1, 7);
    add(x, out, draws.coin());
  }
  return all;
}

Sample linear_problem(Draws& draws, bool relu) {
  const auto [rows, in, out] = product_sizes(draws);
  Form x{{rows, in}};
  if (rows == 1 && draws.coin()) x = {{in}};
  if (rows % 2 == 0 && draws.coin()) x = {{rows / 2, 2, in}};
  if (rows % 4 == 0 && draws.coin()) x = {{2, rows / 4, 2, in}, draws.pick({kRows, kLast})};
  return relu ? linear_relu_sample(draws, x, out, draws.coin(), 2e-5) : linear_sample(draws, x, out, draws.coin());
}

std::vector<Misuse> matmul_misuse() {
  return {
      wrong<ShapeError>("matmul", "inner sizes", [] { matmul(f32(2, 3), f32(4, 5)); }, {"[2, 3]", "[4, 5]"}),
      wrong<ShapeError>("matmul", "vectors", [] { matmul(f32(3), f32(3)); }, {"[3]"}),
      wrong<ShapeError>("matmul", "scalars", [] { matmul(f32(), f32()); }, {"[]"}),
      wrong<ShapeError>("matmul", "a matrix and a batch", [] { matmul(f32(2, 3), f32(1, 3, 2)); },
                        {"[2, 3]", "[1, 3, 2]"}),
      wrong<ShapeError>("matmul", "batches", [] { matmul(f32(2, 2, 3), f32(3, 3, 2)); }, {"[2, 2, 3]", "[3, 3, 2]"}),
      wrong<ShapeError>("matmul", "four dimensions", [] { matmul(f32(1, 1, 2, 3), f32(1, 1, 3, 2)); },
                        {"[1, 1, 2, 3]"}),
      wrong<ShapeError>("Shape", "a product of sizes of matmul that overflows",
                        [] { matmul(f32(kHuge, 0), f32(0, 4)); }, {std::to_string(kHuge)}),
      wrong<DTypeError>("matmul", "two dtypes", [] { matmul(f32(2, 3), f64(3, 2)); }, {"float32", "float64"}),
      wrong<DTypeError>("matmul", "integers", [] { matmul(i64(2, 3), i64(3, 2)); }, {"int64"}),
      wrong<ValueError>("matmul", "undefined", [] { matmul(f32(2, 3), {}); }, {"undefined"}),
  };
}

std::vector<Misuse> linear_relu_misuse() {  // the checks are linear's: that they name this op
  return {
      wrong<ShapeError>("linear_relu", "features", [] { linear_relu(f32(2, 3), f32(5, 4)); }, {"[2, 3]", "[5, 4]"}),
      wrong<ShapeError>("linear_relu", "bias", [] { linear_relu(f32(2, 3), f32(5, 3), f32(4)); }, {"[5]", "[4]"}),
      wrong<DTypeError>("linear_relu", "integers", [] { linear_relu(i64(2, 3), i64(5, 3)); }, {"int64"}),
      wrong<ValueError>("linear_relu", "undefined input", [] { linear_relu({}, f32(2, 3)); }, {"undefined"}),
  };
}

std::vector<Misuse> linear_misuse() {
  return {
      wrong<ShapeError>("linear", "features", [] { linear(f32(2, 3), f32(5, 4)); }, {"[2, 3]", "[5, 4]"}),
      wrong<ShapeError>("linear", "a scalar", [] { linear(f32(), f32(5, 4)); }, {"[]"}),
      wrong<ShapeError>("linear", "weight of rank 1", [] { linear(f32(2, 3), f32(3)); }, {"[3]"}),
      wrong<ShapeError>("linear", "bias", [] { linear(f32(2, 3), f32(5, 3), f32(4)); }, {"[5]", "[4]"}),
      wrong<DTypeError>("linear", "dtype of the weight", [] { linear(f32(2, 3), f64(5, 3)); }, {"float32", "float64"}),
      wrong<DTypeError>("linear", "dtype of the bias", [] { linear(f32(2, 3), f32(5, 3), f64(5)); }, {"float64"}),
      wrong<DTypeError>("linear", "integers", [] { linear(i64(2, 3), i64(5, 3)); }, {"int64"}),
      wrong<ValueError>("linear", "undefined weight", [] { linear(f32(2, 3), {}); }, {"undefined"}),
      wrong<ValueError>("linear", "undefined input", [] { linear({}, f32(2, 3)); }, {"undefined"}),
  };
}

}  // namespace

void register_reduction_ops(std::vector<OpEntry>& registry) {
  const auto add = [&](OpEntry entry) { registry.push_back(std::move(entry)); };
  const char* const sums = "of terms of one sign, in lanes of float32 added up in float64";
  add(reduction({"sum", sum, sum, reference::sum, true, {Scale::element, 4, 0, sums}}));
  add(reduction({"mean", mean, mean, reference::mean, false, {Scale::element, 4, 2, sums}}));
  add(max_entry());
  constexpr Tolerance kProducts{Scale::tensor, 32, 32,
                                "sums of up to 1,000 products of either sign, one after another"};
  add({.name = "matmul",
       .determinism = Determinism::same_threads,  // oneDNN's order of summing may depend on the size of a thread's part
       .tolerance = kProducts,
       .samples = matmul_samples,
       .problem =
           [](Draws& draws) {
             const std::int64_t batch = draws.coin() ? -1 : draws.from_to(0, 3);
             return matmul_sample(draws, batch, product_sizes(draws));
           },
       .benchmarks =
           [](Draws& draws) {
             return std::vector{matmul_sample(draws, -1, {128, 512, 1000}), matmul_sample(draws, 32, {64, 64, 64})};
           },
       .misuse = matmul_misuse()});
  add({.name = "linear",
       .determinism = Determinism::same_threads,
       .tolerance = kProducts,
       .samples = [](Draws& draws) { return linear_samples(draws, false); },
       .problem = [](Draws& draws) { return linear_problem(draws, false); },
       .benchmarks =
           [](Draws& draws) {
             return std::vector{linear_sample(draws, {{128, 512}}, 1000, true),
                                linear_sample(draws, {{128, 9216}}, 1024, true)};
           },
       .misuse = linear_misuse()});
  add({.name = "linear_relu",
       .determinism = Determinism::same_threads,
       .tolerance = kProducts,
       .samples = [](Draws& draws) { return linear_samples(draws, true); },
       .problem = [](Draws& draws) { return linear_problem(draws, true); },
       .benchmarks =
           [](Draws& draws) {
             return std::vector{linear_relu_sample(draws, {{128, 9216}}, 4096, true, 0.0)};  // AlexNet's first
           },
       .misuse = linear_relu_misuse()});
}

}  // namespace lockstep::test
