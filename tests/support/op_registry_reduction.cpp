// Entries of reductions and matrix products.
#include <lockstep/tests/support/op_registry.h>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <lockstep/core/ops.h>

namespace lockstep::test {
namespace {

constexpr Tolerance kReductions{Scale::tensor, 2, 2, "sums of at most 100 terms, pairwise or in wider accumulators"};

constexpr Tolerance kProducts{Scale::tensor, 8, 8, "sums of at most 100 products of size 4"};

// ---- Reductions.

using ReduceAll = Tensor (*)(const Tensor&);
using ReduceDims = Tensor (*)(const Tensor&, std::span<const int>, bool);

std::vector<Sample> reduction_samples(Draws& draws, ReduceAll reduce_all, ReduceDims reduce_dims, bool empty) {
  std::vector<Sample> all;
  for (const Form& form : forms()) {
    if (!empty && form.shape.numel() == 0) continue;
    all.push_back({"all",
                   {draws.uniform(form.shape, form.layout)},
                   [=](const Inputs& x) { return reduce_all(x[0]); },
                   {},
                   draws.coin()});
  }
  const auto add = [&](const Form& form, const std::vector<int>& dims, bool keepdim) {
    all.push_back({fmt::format("dims [{}], keepdim {}", fmt::join(dims, ", "), keepdim),
                   {draws.uniform(form.shape, form.layout)},
                   [=](const Inputs& x) { return reduce_dims(x[0], dims, keepdim); },
                   {},
                   draws.coin()});
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
    if (empty) {
      add({{0, 3}}, {0}, keepdim);
      add({{0, 3}}, {1}, keepdim);
    }
  }
  return all;
}

std::vector<Sample> max_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const auto& form : {Form{{7}}, Form{{1}}, Form{{3, 5}}, Form{{5, 3}}, Form{{2, 1, 3}}, Form{{2, 19}},
                           Form{{19, 2}}, Form{{2, 3, 2, 4}, kRows}, Form{{2, 3, 2, 4}, kLast}, Form{{0, 3}}}) {
    for (int dim = 0; dim < form.shape.rank(); ++dim) {
      for (const bool keepdim : {false, true}) {
        if (form.shape[dim] == 0) continue;
        all.push_back({fmt::format("dim {}, keepdim {}", dim, keepdim),
                       {draws.distinct(form.shape, form.layout)},
                       [=](const Inputs& x) { return max(x[0], dim, keepdim).first; },
                       {},
                       draws.coin()});
      }
    }
  }
  return all;
}

// ---- Matrix products.

std::vector<Sample> matmul_samples(Draws& draws) {
  std::vector<Sample> all;
  const auto add = [&](std::int64_t batch, std::int64_t m, std::int64_t k, std::int64_t n) {
    const Shape a = batch < 0 ? Shape{m, k} : Shape{batch, m, k}, b = batch < 0 ? Shape{k, n} : Shape{batch, k, n};
    all.push_back({"",
                   {draws.uniform(a), draws.uniform(b)},
                   [](const Inputs& x) { return matmul(x[0], x[1]); },
                   {},
                   draws.coin()});
  };
  for (const std::int64_t batch : {-1, 1, 3}) {
    for (const auto& [m, k, n] : {std::tuple{1, 1, 1},
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
      add(batch, m, k, n);
    }
  }
  add(0, 2, 3, 4);
  for (int i = 0; i < 20; ++i)
    add(draws.from_to(-1, 3), draws.from_to(1, 9), draws.from_to(1, 20), draws.from_to(1, 9));
  return all;
}

std::vector<Sample> linear_samples(Draws& draws) {
  std::vector<Sample> all;
  for (const auto& x : {Form{{3, 5}}, Form{{1, 1}}, Form{{0, 4}}, Form{{5}}, Form{{2, 3, 4}}, Form{{17, 2}},
                        Form{{2, 33}}, Form{{2, 3, 2, 4}, kRows}, Form{{2, 3, 2, 4}, kLast}, Form{{2, 0}}}) {
    for (const std::int64_t out : {1, 3, 17}) {
      for (const bool bias : {false, true}) {
        all.push_back({"",
                       {draws.uniform(x.shape, x.layout), draws.uniform({out, x.shape[-1]}),
                        bias ? draws.uniform({out}) : Tensor()},
                       [](const Inputs& in) { return linear(in[0], in[1], in[2]); },
                       {},
                       draws.coin()});
      }
    }
  }
  return all;
}

}  // namespace

void register_reduction_ops(std::vector<OpEntry>& registry) {
  const auto add = [&](OpEntry entry) { registry.push_back(std::move(entry)); };
  add({"sum", [](Draws& draws) { return reduction_samples(draws, sum, sum, true); }, kReductions});
  add({"mean", [](Draws& draws) { return reduction_samples(draws, mean, mean, false); }, kReductions});
  add({"max", max_samples, kExact});
  add({"matmul", matmul_samples, kProducts});
  add({"linear", linear_samples, kProducts});
}

}  // namespace lockstep::test
