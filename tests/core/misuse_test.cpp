// Wrong calls, those of the op registry's entries and those of everything else: each throws the error of its kind,
// which names the op and shows the values, and leaves everything as it was.
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <lockstep/core/allocator.h>
#include <lockstep/core/base/error.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/optim/sgd.h>
#include <lockstep/layers/batch_norm.h>
#include <lockstep/layers/conv2d.h>
#include <lockstep/layers/linear.h>
#include <lockstep/layers/sequential.h>
#include <lockstep/tests/support/op_registry.h>

using namespace lockstep;
using namespace lockstep::test;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

Tensor leaf(std::integral auto... sizes) { return f32(sizes...).set_requires_grad(); }

// ---- What no wrong call may change.

/// Something of every kind that has a state: a model in the middle of its training, and tapes.
struct World {
  Sequential model{Linear(3, 2), BatchNorm1d(2)};
  SGD sgd{model.parameters(), {.lr = 0.1, .momentum = 0.9}};
  Tensor parameter = leaf(2, 3);
  Tensor recorded = exp(parameter);  // its tape is still to be used
  Tensor used;                       // its tape is not
  Tensor constant = f32(2, 3);

  World() {
    const Tensor loss = sum(model(Tensor::randn({4, 3})) * Tensor::randn({4, 2}));
    loss.backward();
    sgd.step();
    used = loss;
  }
};

World& world() {
  static World the_world;
  return the_world;
}

/// Every bit of a tensor and of its gradient, and what it is.
std::string bits_of(const Tensor& x) {
  if (!x.defined()) return "undefined";
  std::string bits = to_string(x.shape()) + std::string(name(x.dtype())) + (x.requires_grad() ? " learns " : " fixed ");
  bits.append(static_cast<const char*>(x.data_ptr()), x.nbytes());
  return x.is_leaf() ? bits + "; gradient " + bits_of(x.grad()) : bits;
}

/// All of the world, of the thread's settings, and how much memory tensors hold.
std::vector<std::string> snapshot() {
  const World& w = world();
  std::vector<std::string> state;
  for (const auto& [name, x] : w.model.named_parameters()) state.push_back(name + bits_of(x));
  for (const auto& [name, x] : w.model.named_buffers()) state.push_back(name + bits_of(x));
  for (const auto& [name, x] : w.sgd.state_dict()) state.push_back(name + bits_of(x));
  for (const Tensor* x : {&w.parameter, &w.recorded, &w.used, &w.constant}) state.push_back(bits_of(*x));
  const Generator& generator = default_generator();
  for (const auto& [what, value] : {std::pair<const char*, std::int64_t>{"seed", generator.seed},
                                    {"draws", generator.draws},
                                    {"recording", grad_enabled()},
                                    {"training", w.model.is_training()},
                                    {"threads", num_threads()},
                                    {"bytes held", memory_stats().live}}) {
    state.push_back(std::string(what) + " " + std::to_string(value));
  }
  return state;
}

// ---- The wrong calls that no entry of the registry has.

std::vector<Misuse> not_differentiable() {
  return {
      wrong<ShapeError>("argmax", "an empty dimension", [] { argmax(f32(0), 0); }, {"[0]"}),
      wrong<ShapeError>("argmax", "a dimension too far", [] { argmax(f32(2), 1); }, {"[-1, 1)", "1"}),
      wrong<DTypeError>("argmax", "integers", [] { argmax(i64(2), 0); }, {"int64"}),
      wrong<ValueError>("argmax", "undefined", [] { argmax({}, 0); }, {"undefined"}),
      wrong<ValueError>("topk", "more than there are", [] { topk(f32(2, 3), 4); }, {"3", "4"}),
      wrong<ValueError>("topk", "none", [] { topk(f32(2, 3), 0); }, {"0"}),
      wrong<ShapeError>("topk", "a scalar", [] { topk(f32(), 1); }, {"scalar"}),
      wrong<DTypeError>("topk", "integers", [] { topk(i64(3), 1); }, {"int64"}),
      wrong<ValueError>("topk", "undefined", [] { topk({}, 1); }, {"undefined"}),
      wrong<ShapeError>("count_correct", "other rows", [] { count_correct(f32(2, 3), i64(3)); }, {"[2, 3]", "[3]"}),
      wrong<ShapeError>("count_correct", "one row", [] { count_correct(f32(3), i64(3)); }, {"[3]"}),
      wrong<DTypeError>("count_correct", "floating targets", [] { count_correct(f32(2, 3), f32(2)); }, {"float32"}),
      wrong<ValueError>("count_correct", "undefined", [] { count_correct({}, i64(2)); }, {"undefined"}),
      wrong<ValueError>("count_correct", "undefined targets", [] { count_correct(f32(2, 3), {}); }, {"undefined"}),
      wrong<ValueError>("count_correct", "the best 0", [] { count_correct(f32(2, 3), i64(2), 0); }, {"0"}),
  };
}

std::vector<Misuse> tensors() {
  const auto& w = world();
  const Tensor x = w.constant;
  return {
      wrong<ShapeError>("from", "too few values",
                        [] {
                          Tensor::from(std::vector<float>{1, 2}, {3});
                        },
                        {"3", "2"}),
      wrong<ShapeError>("Shape", "nine dimensions", [] { Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}; }, {"9"}),
      wrong<ShapeError>("Shape", "a negative size",
                        [] {
                          Tensor::zeros({2, -3});
                        },
                        {"[2, -3]"}),
      wrong<ShapeError>("Shape", "a negative size beside an empty one",
                        [] {
                          Tensor::zeros({0, -1});
                        },
                        {"[0, -1]"}),
      wrong<ShapeError>("Shape", "a negative count", [] { Tensor::arange(-1); }, {"-1"}),
      wrong<ShapeError>("Shape", "a product that overflows",
                        [] {
                          Tensor::zeros({kHuge, 4});
                        },
                        {std::to_string(kHuge)}),
      wrong<ShapeError>("empty", "bytes that overflow", [] { Tensor::empty({kHuge}); }, {std::to_string(kHuge)}),
      wrong<OutOfMemoryError>("allocate", "more than any machine has", [] { Tensor::empty({kHuge / 16}); },
                              {std::to_string(kHuge / 4)}),
      wrong<ShapeError>("Shape", "a dimension too far", [=] { x.size(2); }, {"2"}),
      wrong<ShapeError>("Shape", "a dimension too low", [=] { x.size(-3); }, {"-3"}),
      wrong<ValueError>("from_blob", "no memory", [] { Tensor::from_blob(nullptr, {2}); }, {"[2]"}),
      wrong<ShapeError>("empty", "channels_last of rank 3",
                        [] {
                          Tensor::empty({2, 3, 4}, {.layout = kLast});
                        },
                        {"[2, 3, 4]"}),
      wrong<DeviceError>("empty", "a GPU that is not there",
                         [] {
                           Tensor::empty({2}, {.device = {Device::Type::cuda, 99}});
                         },
                         {"cuda:99"}),
      wrong<DeviceError>("to", "a GPU that is not there",
                         [=] {
                           x.to(Device{Device::Type::cuda, 99});
                         },
                         {"cuda:99"}),
      wrong<DTypeError>("randn", "integers", [] { Tensor::randn({2}, {.dtype = DType::int64}); }, {"int64"}),
      wrong<DTypeError>("rand", "bytes", [] { Tensor::rand({2}, {.dtype = DType::uint8}); }, {"uint8"}),
      wrong<ValueError>("Tensor", "the shape of nothing", [] { Tensor().shape(); }, {"undefined"}),
      wrong<ValueError>("Tensor", "the memory of nothing", [] { Tensor().data<float>(); }, {"undefined"}),
      wrong<ValueError>("Tensor", "backward of nothing", [] { Tensor().backward(); }, {"undefined"}),
      wrong<DTypeError>("Tensor::data", "another element type", [=] { x.data<double>(); }, {"float64", "float32"}),
      wrong<ShapeError>("item", "six elements", [=] { x.item(); }, {"[2, 3]"}),
      wrong<ShapeError>("copy_", "another shape", [=] { Tensor(x).copy_(f32(3, 2)); }, {"[2, 3]", "[3, 2]"}),
      wrong<ValueError>("copy_", "undefined", [=] { Tensor(x).copy_({}); }, {"undefined"}),
      wrong<ShapeError>("add_", "another shape", [=] { Tensor(x).add_(f32(3)); }, {"[2, 3]", "[3]"}),
      wrong<DTypeError>("add_", "another dtype", [=] { Tensor(x).add_(f64(2, 3)); }, {"float64"}),
      wrong<ValueError>("add_", "undefined", [=] { Tensor(x).add_({}); }, {"undefined"}),
      wrong<DTypeError>("mul_", "integers", [] { i64(2).mul_(2.0); }, {"int64"}),
      wrong<ValueError>("set_num_threads", "no threads", [] { set_num_threads(0); }, {"0"}),
      wrong<ValueError>("set_num_threads", "too many threads", [] { set_num_threads(1025); }, {"1025"}),
  };
}

/// loss.backward() after a change of `x` that the tape is not told about.
void backward_after_change(Tensor x, const Tensor& loss) {
  {
    const NoGradGuard no_grad;
    x.fill_(7.0);
  }
  loss.backward();
}

std::vector<Misuse> tapes() {
  const World& w = world();
  const Tensor p = w.parameter, recorded = w.recorded, used = w.used, constant = w.constant;
  return {
      wrong<AutogradError>("backward", "nothing recorded", [=] { constant.backward(); }),
      wrong<AutogradError>("backward", "nothing recorded under a guard",
                           [=] {
                             const NoGradGuard no_grad;
                             sum(p).backward();
                           }),
      wrong<AutogradError>("backward", "detached", [=] { sum(p).detach().backward(); }),
      wrong<AutogradError>("sum", "a second backward", [=] { used.backward(); }, {"retain_tape"}),
      wrong<AutogradError>("sum", "a sum with a tape that was used up", [=] { (used + sum(p)).backward(); },
                           {"retain_tape"}),
      wrong<ShapeError>("backward", "more than one element", [=] { recorded.backward(); }, {"[2, 3]"}),
      wrong<ShapeError>("backward", "a gradient of another shape", [=] { recorded.backward(f32(3, 2)); },
                        {"[2, 3]", "[3, 2]"}),
      wrong<DTypeError>("backward", "a gradient of another dtype", [=] { recorded.backward(f64(2, 3)); },
                        {"float32", "float64"}),
      wrong<AutogradError>("exp", "a result changed in place",
                           [=] {
                             const Tensor y = exp(p);
                             backward_after_change(y, sum(y));
                           },
                           {"[2, 3]", "modified in place"}),
      wrong<AutogradError>("mul", "an operand changed in place",
                           [=] {
                             const Tensor factor = f32(2, 3);
                             backward_after_change(factor, sum(p * factor));
                           },
                           {"[2, 3]", "modified in place"}),
      wrong<AutogradError>("linear", "an input changed through a view",
                           [=] {
                             const Tensor x = f32(4, 3);
                             backward_after_change(narrow(x, 0, 1, 2), sum(linear(x, p)));
                           },
                           {"[4, 3]", "modified in place"}),
      wrong<AutogradError>("fill_", "a parameter in place", [=] { Tensor(p).fill_(0.0); }),
      wrong<AutogradError>("mul_", "a parameter in place", [=] { Tensor(p).mul_(2.0); }),
      wrong<AutogradError>("add_", "a result in place", [=] { Tensor(recorded).add_(f32(2, 3)); }),
      wrong<AutogradError>("copy_", "a result in place", [=] { Tensor(recorded).copy_(f32(2, 3)); }),
      wrong<AutogradError>("set_grad", "not a parameter", [=] { constant.set_grad(f32(2, 3)); }),
      wrong<AutogradError>("set_grad", "a result", [=] { recorded.set_grad(f32(2, 3)); }),
      wrong<ShapeError>("set_grad", "another shape", [=] { p.set_grad(f32(3)); }, {"[2, 3]", "[3]"}),
      wrong<DTypeError>("set_grad", "another dtype", [=] { p.set_grad(f64(2, 3)); }, {"float64"}),
      wrong<AutogradError>("set_requires_grad", "a result", [=] { Tensor(recorded).set_requires_grad(); }, {"exp"}),
      wrong<DTypeError>("set_requires_grad", "integers", [] { i64(2).set_requires_grad(); }, {"int64"}),
      wrong<AutogradError>("register_grad_ready_hook", "not a parameter",
                           [=] { constant.register_grad_ready_hook([] {}); }),
      wrong<AutogradError>("register_grad_ready_hook", "a result", [=] { recorded.register_grad_ready_hook([] {}); }),
      wrong<ValueError>("register_grad_ready_hook", "no function", [=] { p.register_grad_ready_hook({}); }),
  };
}

/// load_state_dict of something else than was saved. `state` has other values too, so that a part that was taken shows.
template <class Target>
Misuse wrong_state(Target& target, const std::string& what, const std::function<void(StateDict&)>& change,
                   std::vector<std::string> values) {
  return wrong<StateDictError>(
      "load_state_dict", what,
      [&target, change] {
        StateDict state;
        for (const auto& [name, tensor] : target.state_dict()) state.insert(name, Tensor::full(tensor.shape(), 0.5));
        change(state);
        target.load_state_dict(state);
      },
      std::move(values));
}

std::vector<Misuse> state_dicts() {
  Sequential& model = world().model;
  SGD& sgd = world().sgd;
  return {
      wrong_state(model, "a missing parameter", [](StateDict& s) { s.erase("0.bias"); },
                  {"Sequential", "missing: 0.bias"}),
      wrong_state(model, "a missing buffer", [](StateDict& s) { s.erase("1.running_var"); },
                  {"missing: 1.running_var"}),
      wrong_state(model, "an unexpected entry", [](StateDict& s) { s.insert("2.weight", f32(1)); },
                  {"unexpected: 2.weight"}),
      wrong_state(model, "another shape", [](StateDict& s) { s.set("1.weight", f32(3)); },
                  {"wrong shape: 1.weight", "[2]", "[3]"}),
      wrong_state(model, "another rank", [](StateDict& s) { s.set("1.running_mean", f32(2, 1)); }, {"[2]", "[2, 1]"}),
      wrong_state(model, "a transposed weight", [](StateDict& s) { s.set("0.weight", f32(3, 2)); },
                  {"[2, 3]", "[3, 2]"}),
      wrong_state(model, "an undefined tensor", [](StateDict& s) { s.set("1.bias", Tensor()); }, {"undefined"}),
      wrong_state(model, "nothing at all", [](StateDict& s) { s = StateDict(); },
                  {"missing: 0.weight", "missing: 1.running_mean"}),
      wrong_state(model, "the names of another model",
                  [](StateDict& s) {
                    s.erase("0.weight");
                    s.insert("fc.weight", f32(2, 3));
                  },
                  {"missing: 0.weight", "unexpected: fc.weight"}),
      wrong<StateDictError>("load_state_dict", "another shape where it is not strict",
                            [&model] {
                              model.load_state_dict({{"0.bias", f32(2)}, {"1.bias", f32(5)}}, false);
                            },
                            {"1.bias", "[2]", "[5]"}),
      wrong_state(sgd, "an optimizer's missing option", [](StateDict& s) { s.erase("param_groups.0.lr"); },
                  {"missing: param_groups.0.lr"}),
      wrong_state(sgd, "an optimizer's option out of range",
                  [](StateDict& s) { s.set("param_groups.0.momentum", Tensor::full({}, -1.0)); }, {"momentum", "-1"}),
      wrong_state(sgd, "an optimizer's option that is no number",
                  [](StateDict& s) { s.set("param_groups.0.momentum", f32(2)); }, {"param_groups.0.momentum"}),
      wrong_state(sgd, "an optimizer's buffer of another shape",
                  [](StateDict& s) { s.set("state.1.momentum_buffer", f32(3)); }, {"[2]", "[3]"}),
      wrong_state(sgd, "an optimizer's unexpected buffer",
                  [](StateDict& s) { s.insert("state.9.momentum_buffer", f32(2)); },
                  {"unexpected: state.9.momentum_buffer"}),
      wrong<ValueError>("StateDict", "a name that is not there", [&model] { model.state_dict().at("2.weight"); },
                        {"'2.weight'"}),
      wrong<ValueError>("StateDict", "a name that is taken",
                        [&model] {
                          StateDict state = model.state_dict();
                          state.insert("0.weight", f32(2, 3));
                        },
                        {"0.weight"}),
  };
}

std::vector<Misuse> layers() {
  Sequential& model = world().model;
  return {
      wrong<ValueError>("Linear", "no features", [] { Linear(0, 3); }, {"0", "3"}),
      wrong<ValueError>("Conv2d", "negative channels", [] { Conv2d(3, -16, 3); }, {"-16"}),
      wrong<ValueError>("Conv2d", "groups that do not divide", [] { Conv2d(4, 6, 3, {.groups = 4}); }, {"4", "6"}),
      wrong<ValueError>("BatchNorm", "no features", [] { BatchNorm2d(0); }, {"0"}),
      wrong<ShapeError>("batch_norm", "an image for BatchNorm1d", [] { BatchNorm1d(3)(f32(2, 3, 4, 4)); },
                        {"[2, 3, 4, 4]"}),
      wrong<ShapeError>("linear", "features of another layer", [&model] { model(f32(4, 5)); }, {"[4, 5]", "[2, 3]"}),
      wrong<ValueError>("Sequential", "an index too far", [&model] { model[2]; }, {"2"}),
      wrong<DTypeError>("to", "a model of integers", [&model] { model.to(DType::int64); }, {"int64"}),
      wrong<DeviceError>("to", "a model on a GPU that is not there",
                         [&model] {
                           model.to(Device{Device::Type::cuda, 99});
                         },
                         {"cuda:99"}),
      wrong<ValueError>("register_forward_hook", "no function", [&model] { model.register_forward_hook(nullptr); }),
  };
}

std::vector<Misuse> optimizers() {
  SGD& sgd = world().sgd;
  const Tensor p = world().parameter;
  return {
      wrong<ValueError>("SGD", "no parameters", [] { SGD(std::vector<Tensor>{}, {}); }),
      wrong<ValueError>("SGD", "a parameter twice",
                        [=] {
                          SGD({p, p}, {});
                        },
                        {"[2, 3]"}),
      wrong<ValueError>("SGD", "a result as a parameter", [=] { SGD({p * 2.0}, {}); }, {"[2, 3]"}),
      wrong<DTypeError>("SGD", "integers as a parameter", [] { SGD({i64(2)}, {}); }, {"int64"}),
      wrong<ValueError>("SGD", "an undefined parameter",
                        [=] {
                          SGD({p, Tensor()}, {});
                        }),
      wrong<ValueError>("SGD", "a negative learning rate", [=] { SGD({p}, {.lr = -0.5}); }, {"-0.5"}),
      wrong<ValueError>("SGD", "no learning rate", [=] { SGD({p}, {.lr = kNaN}); }, {"nan"}),
      wrong<ValueError>("SGD", "Nesterov without momentum", [=] { SGD({p}, {.nesterov = true}); }, {"momentum"}),
      wrong<ValueError>("SGD", "options out of range",
                        [&sgd] { sgd.set_options(0, {.lr = 1.0, .weight_decay = -2.0}); }, {"-2"}),
      wrong<ValueError>("set_lr", "a negative learning rate", [&sgd] { sgd.set_lr(-0.25); }, {"-0.25"}),
      wrong<ValueError>("Optimizer", "a group that is not there", [&sgd] { sgd.set_lr(1, 0.1); }, {"1"}),
  };
}

TEST_CASE("Wrong calls throw the right error, which names the op and shows the values, and change nothing") {
  std::vector<Misuse> all;
  for (const auto& part : {not_differentiable(), tensors(), tapes(), state_dicts(), layers(), optimizers()}) {
    all.insert(all.end(), part.begin(), part.end());
  }
  for (const OpEntry& entry : op_registry()) all.insert(all.end(), entry.misuse.begin(), entry.misuse.end());

  std::set<std::string> distinct;
  for (const Misuse& misuse : all) {
    const std::string name = misuse.op + ": " + misuse.what;
    CAPTURE(name);
    CHECK(distinct.insert(name).second);
    const auto before = snapshot();
    try {
      misuse.call();
      FAIL_CHECK("no error");
    } catch (const Error& error) {
      const std::string message = error.what();
      CAPTURE(message);
      CHECK(misuse.has_type(error));
      CHECK(error.op() == misuse.op);
      CHECK_THAT(message, Catch::StartsWith("[" + misuse.op + "] "));
      for (const std::string& value : misuse.values) CHECK_THAT(message, Catch::Contains(value));
    } catch (const std::exception& error) {
      FAIL_CHECK("not an error of ours: " << error.what());
    }
    CHECK(snapshot() == before);
  }
  std::printf("misuse_cases: %zu\n", distinct.size());
  CHECK(distinct.size() >= 200);

  // What was recorded before them all is still there: d exp(p) / dp = e at 1.
  sum(world().recorded).backward();
  CHECK(world().parameter.grad().to_vector<double>() == std::vector<double>(6, static_cast<double>(std::exp(1.0f))));
}

}  // namespace
