#include <lockstep/core/optim/sgd.h>

#include <cmath>
#include <limits>

#include <lockstep/core/base/error.h>
#include <lockstep/core/ops.h>
#include <catch2/catch.hpp>

using namespace lockstep;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

Tensor make_param(DType dtype = DType::float64) {
  Tensor param = Tensor::from<double>({0.5, -1.25, 2.0, 0.125}, {4}).to(dtype);
  return param.set_requires_grad();
}

/// The gradient of step t: a pull to 0 and a pattern that changes with t.
void set_grad(const Tensor& param, int t) {
  std::vector<double> grad = param.to_vector<double>();
  for (std::size_t i = 0; i < grad.size(); ++i)
    grad[i] = grad[i] * 0.3 + ((7 * t + 3 * static_cast<int>(i)) % 5 - 2) * 0.25;
  param.set_grad(Tensor::from(grad, param.shape()).to(param.dtype()));
}

void check_near(const Tensor& tensor, const std::vector<double>& expected, double epsilon = 1e-12) {
  const auto values = tensor.to_vector<double>();
  REQUIRE(values.size() == expected.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    CHECK(values[i] == Approx(expected[i]).epsilon(epsilon).margin(1e-15));
}

}  // namespace

TEST_CASE("trajectories are those of torch.optim.SGD") {
  struct Case {
    SGD::Options options;
    std::vector<double> expected;  // after 5 steps
  };
  const Case cases[] = {
      {{.lr = 0.1}, {0.42583665335000004, -1.0734162023749998, 1.7138285466500003, 0.11087143771249999}},
      {{.lr = 0.1, .weight_decay = 0.05},
       {0.4143371003328125, -1.0460337695195312, 1.669432348096875, 0.10867976566914063}},
      {{.lr = 0.1, .momentum = 0.9}, {0.38818724135, -0.7908774923749999, 1.35622495865, 0.007185659712499977}},
      {{.lr = 0.1, .momentum = 0.9, .dampening = 0.3, .weight_decay = 0.01},
       {0.4571577872952175, -0.8959368525031395, 1.4822864035060939, -0.023209525816585135}},
      {{.lr = 0.1, .momentum = 0.9, .weight_decay = 0.01, .nesterov = true},
       {0.3164808307821669, -0.6763438908189437, 1.1480902091091452, 0.021635922651371386}}};
  for (const auto& [options, expected] : cases) {
    const Tensor param = make_param(), single = make_param(DType::float32);
    SGD optimizer({param, single}, options);
    for (int t = 0; t < 5; ++t) {
      set_grad(param, t);
      set_grad(single, t);
      optimizer.step();
    }
    check_near(param, expected);
    check_near(single, expected, 2e-5);
  }
}

TEST_CASE("a parameter without a gradient is left alone, and its momentum starts with its first gradient") {
  const Tensor param = make_param(), idle = make_param(), frozen = make_param().clone().detach();
  SGD optimizer({param, idle, frozen}, {.lr = 0.1, .momentum = 0.9, .dampening = 0.5});
  for (int t = 0; t < 5; ++t) {
    optimizer.zero_grad();
    if (t != 0 && t != 2) set_grad(param, t);
    optimizer.step();
  }
  check_near(param, {0.449626625, -0.9983740625000002, 1.6629258750000002, 0.22309665625});
  CHECK(idle.to_vector<double>() == make_param().to_vector<double>());
  CHECK(frozen.to_vector<double>() == idle.to_vector<double>());
  CHECK_FALSE(optimizer.state_dict().contains("state.1.momentum_buffer"));
}

TEST_CASE("groups have options of their own") {
  const Tensor a = make_param(), b = make_param(), c = make_param();
  SGD optimizer({{{a}, {.lr = 0.1}}, {{b, c}, {.lr = 0.1, .momentum = 0.9}}});
  for (int t = 0; t < 5; ++t) {
    for (const Tensor& param : {a, b, c}) set_grad(param, t);
    optimizer.step();
  }
  check_near(a, {0.42583665335000004, -1.0734162023749998, 1.7138285466500003, 0.11087143771249999});
  check_near(b, {0.38818724135, -0.7908774923749999, 1.35622495865, 0.007185659712499977});
  check_near(c, b.to_vector<double>());
  CHECK(optimizer.num_groups() == 2);
  CHECK(optimizer.params(1).size() == 2);
  CHECK(optimizer.options(1).momentum == 0.9);
}

TEST_CASE("gradients of another layout reach the right elements, and are not changed") {
  const Shape shape{2, 3, 2, 2};
  std::vector<float> values(24);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  Tensor param = Tensor::from(values, shape).to(Layout::channels_last);
  param.set_requires_grad();
  const Tensor grad = Tensor::from(values, shape);
  param.set_grad(grad);
  SGD optimizer({param}, {.lr = 0.5, .momentum = 0.9});
  optimizer.step();
  std::vector<float> expected = values;
  for (float& value : expected) value *= 0.5f;
  CHECK(param.to_vector<float>() == expected);
  CHECK(param.layout() == Layout::channels_last);
  CHECK(grad.to_vector<float>() == values);
}

TEST_CASE("the learning rate can be changed between steps, for all groups or one") {
  const Tensor a = make_param(), b = make_param();
  SGD optimizer({{{a}, {.lr = 0.1}}, {{b}, {.lr = 0.2}}});
  optimizer.set_lr(1, 0.0);
  for (const Tensor& param : {a, b}) set_grad(param, 0);
  optimizer.step();
  CHECK(b.to_vector<double>() == make_param().to_vector<double>());
  CHECK(a.to_vector<double>() != make_param().to_vector<double>());
  optimizer.set_lr(0.7);
  CHECK(optimizer.lr(0) == 0.7);
  CHECK(optimizer.options(1).lr == 0.7);
  CHECK(optimizer.initial_lr(1) == 0.2);
  CHECK_THROWS_AS(optimizer.set_lr(-0.1), ValueError);
  CHECK_THROWS_AS(optimizer.set_lr(kNaN), ValueError);
  CHECK_THROWS_AS(optimizer.set_lr(2, 0.1), ValueError);
  CHECK_THROWS_AS(optimizer.lr(2), ValueError);
}

TEST_CASE("a step between forward and backward is noticed") {
  const Tensor param = make_param();
  const Tensor loss = sum(param * param);
  SGD optimizer({param}, {.lr = 0.1});
  set_grad(param, 0);
  optimizer.step();
  CHECK_THROWS_AS(loss.backward(), AutogradError);
}

TEST_CASE("options out of range are refused") {
  const std::vector<Tensor> params{make_param()};
  CHECK_THROWS_AS(SGD(params, {.lr = -0.1}), ValueError);
  CHECK_THROWS_AS(SGD(params, {.lr = kNaN}), ValueError);
  CHECK_THROWS_AS(SGD(params, {.momentum = -0.1}), ValueError);
  CHECK_THROWS_AS(SGD(params, {.weight_decay = -0.1}), ValueError);
  CHECK_THROWS_AS(SGD(params, {.nesterov = true}), ValueError);
  CHECK_THROWS_AS(SGD(params, {.momentum = 0.9, .dampening = 0.1, .nesterov = true}), ValueError);
  SGD optimizer(params, {.lr = 0.0});
  CHECK_THROWS_AS(optimizer.set_options(0, {.lr = -1.0}), ValueError);
  CHECK_THROWS_AS(optimizer.set_options(1, {}), ValueError);
}

TEST_CASE("parameters that cannot be optimized are refused") {
  const Tensor param = make_param();
  CHECK_THROWS_AS(SGD(std::vector<Tensor>{}, {}), ValueError);
  CHECK_THROWS_AS(SGD(std::vector<SGD::ParamGroup>{}), ValueError);
  CHECK_THROWS_AS(SGD({Tensor()}, {}), ValueError);
  CHECK_THROWS_WITH(SGD({param * 2.0}, {}), Catch::Contains("expected leaves"));
  CHECK_THROWS_WITH(SGD({param, param}, {}), Catch::Contains("each parameter once"));
  CHECK_THROWS_AS(SGD({{{param}, {}}, {{param}, {}}}), ValueError);
  CHECK_THROWS_AS(SGD({Tensor::arange(3)}, {}), DTypeError);
}

TEST_CASE("a saved state continues the run exactly") {
  const SGD::Options options{.lr = 0.1, .momentum = 0.9, .weight_decay = 0.01, .nesterov = true};
  const Tensor a = make_param(), b = make_param();
  SGD first({{{a}, options}, {{b}, {.lr = 0.3}}});
  const auto run = [](SGD& optimizer, int begin, int end) {
    for (int t = begin; t < end; ++t) {
      for (std::size_t g = 0; g < 2; ++g) set_grad(optimizer.params(g)[0], t);
      optimizer.step();
    }
  };
  run(first, 0, 3);
  first.set_lr(1, 0.05);

  Tensor a2 = a.detach().clone(), b2 = b.detach().clone();
  SGD second({{{a2.set_requires_grad()}, {}}, {{b2.set_requires_grad()}, {.lr = 0.3}}});
  second.load_state_dict(first.state_dict());
  CHECK(second.lr(0) == 0.1);
  CHECK(second.options(0).nesterov);
  CHECK(second.lr(1) == 0.05);
  CHECK(second.initial_lr(1) == 0.3);
  run(first, 3, 6);
  run(second, 3, 6);
  CHECK(a2.to_vector<double>() == a.to_vector<double>());
  CHECK(b2.to_vector<double>() == b.to_vector<double>());
}

TEST_CASE("a state that does not fit is refused whole") {
  const Tensor a = make_param(), b = make_param();
  SGD optimizer({a, b}, {.lr = 0.1, .momentum = 0.9});
  set_grad(a, 0);
  set_grad(b, 0);
  optimizer.step();
  const auto buffer = optimizer.state_dict().at("state.0.momentum_buffer").to_vector<double>();
  StateDict state = optimizer.state_dict();
  state.set("state.0.momentum_buffer", Tensor::zeros({4}));
  state.set("state.1.momentum_buffer", Tensor::zeros({5}));
  state.insert("state.2.momentum_buffer", Tensor::zeros({4}));
  state.set("param_groups.0.lr", Tensor::full({}, 7.0));
  state.set("param_groups.0.weight_decay", Tensor::full({}, -1.0));
  state.erase("param_groups.0.nesterov");
  try {
    optimizer.load_state_dict(state);
    FAIL("expected an exception");
  } catch (const StateDictError& error) {
    const std::string text = error.what();
    CHECK_THAT(text, Catch::Contains("state.1.momentum_buffer: expected [4], got [5]"));
    CHECK_THAT(text, Catch::Contains("unexpected: state.2.momentum_buffer"));
    CHECK_THAT(text, Catch::Contains("missing: param_groups.0.nesterov"));
    CHECK_THAT(text, Catch::Contains("expected weight_decay >= 0, got -1"));
  }
  CHECK(optimizer.lr() == 0.1);
  CHECK(optimizer.state_dict().at("state.0.momentum_buffer").to_vector<double>() == buffer);
}
