// The program of own_op.md: an op of one's own, its registry entry, and the checks that the entry gives.
#include "own_op.h"

#include <lockstep/core/base/thread_pool.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/lockstep.h>
#include <lockstep/tests/support/check_op.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

using namespace lockstep;

namespace mine {

constexpr std::int64_t kGrain = 1 << 13;  // elements worth waking a thread for

template <class T>
void swish_forward(Cpu, std::int64_t n, const T* x, T beta, T* y) {
  parallel_for(n, kGrain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) y[i] = swish_value(x[i], beta);
  });
}

template <class T>
void swish_backward(Cpu, std::int64_t n, const T* x, T beta, const T* grad_y, T* grad_x) {
  parallel_for(n, kGrain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) grad_x[i] = grad_y[i] * swish_slope(x[i], beta);
  });
}

/// x · σ(beta · x) for float32 and float64; torch.nn.functional.silu with beta = 1. Keeps the layout. Throws ValueError
/// unless beta is finite.
Tensor swish(const Tensor& x, double beta = 1.0) {
  require_defined("swish", x, "a tensor");
  if (!std::isfinite(beta)) throw ValueError("swish", "expected a finite beta, got " + std::to_string(beta));
  Tensor y = Tensor::empty(x.shape(), x.options());
  dispatch_floating("swish", x, [&]<class T>(auto on) {
    swish_forward<T>(on, x.numel(), x.data<T>(), static_cast<Compute<T>>(beta), y.data<T>());
  });
  if (must_record(x)) {
    record("swish", y, {&x}, [saved = SavedTensor(x), beta](GradContext& ctx) {
      const Tensor& input = saved.get("swish");
      const Tensor grad = ctx.grad.to(input.layout());
      Tensor grad_x = Tensor::empty(input.shape(), input.options());
      dispatch_floating("swish", input, [&]<class T>(auto on) {
        swish_backward<T>(on, input.numel(), input.data<T>(), static_cast<Compute<T>>(beta), grad.data<T>(),
                          grad_x.data<T>());
      });
      ctx.set(0, std::move(grad_x));
    });
  }
  return y;
}

}  // namespace mine

using namespace lockstep::test;

/// The same by the plainest loop.
Tensor swish_reference(const Tensor& x, double beta) {
  std::vector<double> values = x.to_vector<double>();
  for (double& value : values) value = value / (1.0 + std::exp(-beta * value));
  return Tensor::from(values, x.shape());
}

Sample call_swish(Tensor x, double beta, bool views = false) {
  return {.attributes = "beta " + std::to_string(beta),
          .inputs = {std::move(x)},
          .run = [beta](const std::vector<Tensor>& in) { return mine::swish(in[0], beta); },
          .views = views,
          .reference = [beta](const std::vector<Tensor>& in) { return swish_reference(in[0], beta); }};
}

OpEntry swish_entry() {
  return {
      .name = "swish",
      .determinism = Determinism::any_threads,
      .tolerance = {Tolerance::Scale::tensor, 4, 8, "an exponential, a sum, a quotient, a product"},
      .samples =
          [](Draws& draws) {
            std::vector<Sample> all;
            for (const Shape& shape : {Shape{}, Shape{1}, Shape{0}, Shape{7}, Shape{3, 5}, Shape{2, 1, 3}}) {
              for (const double beta : {1.0, -0.5}) all.push_back(call_swish(draws.uniform(shape), beta, draws.coin()));
            }
            for (const Layout layout : {Layout::row_major, Layout::channels_last}) {
              all.push_back(call_swish(draws.uniform({2, 3, 2, 4}, layout), 1.5));
            }
            return all;
          },
      .problem =
          [](Draws& draws) {
            return call_swish(draws.uniform({draws.from_to(1, 8), draws.from_to(1, 5000)}), draws.next(-2.0, 2.0));
          },
      .benchmarks =
          [](Draws& draws) {
            return std::vector<Sample>{call_swish(draws.uniform({16, 64, 28, 28}, Layout::channels_last), 1.0)};
          },
      .misuse = {wrong<ValueError>("swish", "undefined", [] { mine::swish({}); }, {"undefined"}),
                 wrong<DTypeError>("swish", "integers", [] { mine::swish(Tensor::arange(3)); }, {"int64"}),
                 wrong<ValueError>("swish", "infinite beta", [] { mine::swish(Tensor::ones({2}), HUGE_VAL); },
                                   {"inf"})},
  };
}

int failures = 0;
void expect_nothing(const std::string& what, const std::string& failure) {
  if (failure.empty()) return;
  std::printf("%s: %s\n", what.c_str(), failure.c_str());
  ++failures;
}

int main() {
  const OpEntry entry = swish_entry();

  std::vector<Sample> samples = samples_of(entry);
  std::int64_t elements = 0;
  for (const Sample& sample : samples) {
    const GradientCheck check = check_gradients(sample);
    expect_nothing(describe(entry, sample), check.failure);
    elements += check.elements;
  }
  std::printf("gradients: %zu samples, %lld elements\n", samples.size(), static_cast<long long>(elements));

  for (int number = 0; number < 20; ++number) samples.push_back(problem_of(entry, /*seed=*/1, number));
  for (const Sample& sample : samples) {
    expect_nothing(describe(entry, sample), check_reference(sample));
    expect_nothing(describe(entry, sample), check_precision(sample, entry.tolerance).failure);
    expect_nothing(describe(entry, sample), check_determinism(sample, entry.determinism).failure);
  }
  std::printf("float64 with the loop, float32 with float64, 1 to 5 threads: %zu samples\n", samples.size());

  for (const Misuse& misuse : entry.misuse) {
    try {
      misuse.call();
      expect_nothing(misuse.what, "not refused");
    } catch (const Error& error) {
      if (!misuse.has_type(error)) expect_nothing(misuse.what, "refused with another type of error");
      std::puts(error.what());
    }
  }

  Draws draws(0);
  for (const Sample& sample : entry.benchmarks(draws)) {
    sample.run(make_leaves(sample, DType::float32));
    std::printf("benchmark row: %s\n", describe(entry, sample).c_str());
  }
  std::printf("failures: %d\n", failures);
  return failures != 0;
}
