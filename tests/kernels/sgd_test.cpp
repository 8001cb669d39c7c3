#include <lockstep/kernels/sgd.h>

#include <lockstep/tests/kernels/kernel_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

constexpr std::int64_t kSizes[] = {0, 1, 3, 15, 64, 17, 0, 1000, 50'000, 1};

/// Many tensors with their gradients and buffers.
template <class T>
struct Model {
  std::vector<std::vector<T>> params, grads, buffers;

  Model() {
    for (std::uint64_t i = 0; i < std::size(kSizes); ++i) {
      params.push_back(random_values<T>(kSizes[i], -1, 1, 10 + i));
      grads.push_back(random_values<T>(kSizes[i], -1, 1, 30 + i));
      buffers.push_back(random_values<T>(kSizes[i], -1, 1, 50 + i));
    }
  }
  void step(const SgdOptions& options) {
    std::vector<SgdTensor<T>> tensors;
    for (std::size_t i = 0; i < params.size(); ++i) {
      tensors.push_back({params[i].data(), grads[i].data(), options.momentum != 0 ? buffers[i].data() : nullptr,
                         static_cast<std::int64_t>(params[i].size())});
    }
    kernels::sgd_step<T>(kOnCpu, tensors, options);
  }
  std::vector<T> joined() const {
    std::vector<T> all;
    for (const auto* group : {&params, &grads, &buffers}) {
      for (const auto& v : *group) all.insert(all.end(), v.begin(), v.end());
    }
    return all;
  }
};

/// torch.optim.SGD, operation by operation.
template <class T>
void plain_step(Model<T>& model, const SgdOptions& o) {
  for (std::size_t t = 0; t < model.params.size(); ++t) {
    for (std::size_t i = 0; i < model.params[t].size(); ++i) {
      T& param = model.params[t][i];
      T d = model.grads[t][i];
      if (o.weight_decay != 0) d = d + static_cast<T>(o.weight_decay) * param;
      if (o.momentum != 0) {
        T& buffer = model.buffers[t][i];
        if (o.first_step) {
          buffer = d;
        } else {
          buffer = buffer * static_cast<T>(o.momentum);
          buffer = buffer + static_cast<T>(1 - o.dampening) * d;
        }
        d = o.nesterov ? d + static_cast<T>(o.momentum) * buffer : buffer;
      }
      param = param + static_cast<T>(-o.lr) * d;
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("sgd_step does PyTorch's arithmetic, bit for bit", "", float, double) {
  using T = TestType;
  for (const double momentum : {0.0, 0.9}) {
    for (const double dampening : {0.0, 0.3}) {
      for (const double weight_decay : {0.0, 5e-4}) {
        for (const bool nesterov : {false, true}) {
          for (const bool first_step : {false, true}) {
            CAPTURE(momentum, dampening, weight_decay, nesterov, first_step);
            const SgdOptions options{0.1, momentum, dampening, weight_decay, nesterov && momentum != 0, first_step};
            Model<T> expected;
            plain_step(expected, options);
            const auto actual = on_any_threads([&] {
              Model<T> model;
              model.step(options);
              return model.joined();
            });
            CHECK(same_bits(actual, expected.joined()));
          }
        }
      }
    }
  }
}

TEMPLATE_TEST_CASE("the first step ignores what the buffer holds, and no decay ignores an infinite parameter", "",
                   float, double) {
  using T = TestType;
  std::vector<T> param(20, kInf<T>), grad(20, T(2)), buffer(20, kNaN<T>);
  const SgdTensor<T> tensor{param.data(), grad.data(), buffer.data(), 20};
  kernels::sgd_step<T>(kOnCpu, std::span(&tensor, 1), {.lr = 0.1, .momentum = 0.9, .first_step = true});
  CHECK(buffer == grad);
  CHECK(param == std::vector<T>(20, kInf<T>));
  kernels::sgd_step<T>(kOnCpu, std::span<const SgdTensor<T>>{}, {});
}
