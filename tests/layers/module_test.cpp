#include <lockstep/layers/module.h>

#include <lockstep/core/base/error.h>
#include <lockstep/core/ops.h>
#include <lockstep/layers/activation.h>
#include <lockstep/layers/linear.h>
#include <lockstep/layers/sequential.h>
#include <catch2/catch.hpp>

using namespace lockstep;

namespace {

/// y = x · scale + offset: a parameter, a buffer, and a parameter that is absent.
struct Scale : Module {
  Tensor scale = Tensor::full({2}, 3.0);
  Tensor offset = Tensor::full({2}, 1.0);
  Tensor calls = Tensor::zeros({}, {.dtype = DType::int64});
  Tensor absent;

  Scale() {
    register_parameter("scale", scale);
    register_parameter("absent", absent);
    register_buffer("offset", offset);
    register_buffer("calls", calls);
  }
  Tensor forward(const Tensor& x) override { return x * scale + offset; }
};

struct Net : Module {
  Linear fc{2, 2};
  Sequential body;
  Scale out;

  Net() {
    body.push_back(Scale());
    body.push_back(Sequential(Scale(), Linear(2, 2, {.bias = false})));
    register_module("fc", fc);
    register_module("body", body);
    register_module("out", out);
  }
  Tensor forward(const Tensor& x) override { return out(body(fc(x))); }
};

/// One tensor under two names.
struct Tied : Module {
  Tensor first = Tensor::ones({2}), second = first;
  Tied() {
    register_parameter("first", first);
    register_parameter("second", second);
  }
};

template <class Named>
std::vector<std::string> names_of(const Named& named) {
  std::vector<std::string> names;
  for (const auto& entry : named) names.push_back(entry.first);
  return names;
}

using Names = std::vector<std::string>;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("names are dotted paths in order of registration") {
  Net net;
  CHECK(names_of(net.named_parameters()) ==
        Names{"fc.weight", "fc.bias", "body.0.scale", "body.1.0.scale", "body.1.1.weight", "out.scale"});
  CHECK(names_of(net.named_buffers()) ==
        Names{"body.0.offset", "body.0.calls", "body.1.0.offset", "body.1.0.calls", "out.offset", "out.calls"});
  CHECK(names_of(net.named_modules()) == Names{"", "fc", "body", "body.0", "body.1", "body.1.0", "body.1.1", "out"});
  CHECK(names_of(net.state_dict()) == Names{"fc.weight", "fc.bias", "body.0.scale", "body.0.offset", "body.0.calls",
                                            "body.1.0.scale", "body.1.0.offset", "body.1.0.calls", "body.1.1.weight",
                                            "out.scale", "out.offset", "out.calls"});
  CHECK(net.named_modules().front().second == &net);
  CHECK(net.named_modules().back().second == &net.out);
  CHECK(net.parameters().size() == 6);
}

TEST_CASE("registered parameters require a gradient, buffers do not") {
  Net net;
  for (const Tensor& parameter : net.parameters()) CHECK(parameter.requires_grad());
  for (const auto& [name, buffer] : net.named_buffers()) CHECK_FALSE(buffer.requires_grad());
}

TEST_CASE("a tensor under two names is one parameter and two entries of the state dict") {
  Tied tied;
  CHECK(names_of(tied.named_parameters()) == Names{"first"});
  CHECK(names_of(tied.state_dict()) == Names{"first", "second"});
}

TEST_CASE("registration refuses what could not work") {
  struct BadName : Module {
    Tensor a = Tensor::ones({1}), b = Tensor::ones({1});
    explicit BadName(const char* first, const char* second) {
      register_parameter(first, a);
      register_buffer(second, b);
    }
  };
  CHECK_NOTHROW(BadName("a", "b"));
  CHECK_THROWS_AS(BadName("", "b"), ValueError);
  CHECK_THROWS_AS(BadName("a.b", "b"), ValueError);
  CHECK_THROWS_WITH(BadName("same", "same"), Catch::Contains("BadName already has a member 'same'"));

  struct NotMember : Module {
    explicit NotMember(Tensor& tensor) { register_parameter("elsewhere", tensor); }
  };
  const auto heap = std::make_unique<Tensor>(Tensor::ones({1}));
  CHECK_THROWS_WITH(NotMember(*heap), Catch::Contains("expected 'elsewhere' to be a data member of NotMember"));

  struct IntegerParameter : Module {
    Tensor counts = Tensor::arange(3);
    IntegerParameter() { register_parameter("counts", counts); }
  };
  CHECK_THROWS_AS(IntegerParameter(), DTypeError);
}

TEST_CASE("a copy shares parameters and gradients, and has its own members and mode") {
  Net net;
  Net copy = net;
  copy.eval();
  CHECK(net.body.is_training());
  CHECK_FALSE(copy.body.at<Scale>(0).is_training());

  copy.out.scale.data<float>()[0] = 7.0f;
  copy.body.at<Scale>(0).offset.data<float>()[1] = -2.0f;
  CHECK(net.out.scale.to_vector<float>()[0] == 7.0f);
  CHECK(net.body.at<Scale>(0).offset.to_vector<float>()[1] == -2.0f);
  sum(copy(Tensor::ones({1, 2}))).backward();
  CHECK(net.out.scale.grad().defined());

  // The copy's registry points at the copy's members.
  copy.out.scale = Tensor::full({2}, 5.0);
  CHECK(copy.state_dict().at("out.scale").to_vector<float>()[0] == 5.0f);
  CHECK(net.state_dict().at("out.scale").to_vector<float>()[0] == 7.0f);
}

TEST_CASE("a copy outlives what it was copied from, and a moved module keeps its registry") {
  auto original = std::make_unique<Net>();
  const Tensor x = Tensor::ones({1, 2});
  const auto expected = (*original)(x).to_vector<float>();
  Net copy = *original;
  original.reset();
  CHECK(copy(x).to_vector<float>() == expected);
  Net moved = std::move(copy);
  CHECK(moved(x).to_vector<float>() == expected);
  CHECK(moved.state_dict().size() == 12);
  Net assigned;
  assigned = moved;
  CHECK(assigned(x).to_vector<float>() == expected);
}

TEST_CASE("a clone is independent") {
  Net net;
  net.out.scale.set_requires_grad(false);  // frozen
  net.eval();
  const Tensor x = Tensor::ones({1, 2});
  sum(net(x)).backward();
  const Net copy = clone(net);
  CHECK_FALSE(copy.out.scale.requires_grad());
  CHECK(copy.fc.weight.requires_grad());
  CHECK_FALSE(copy.fc.weight.grad().defined());
  CHECK_FALSE(copy.is_training());
  CHECK(copy.fc.weight.layout() == net.fc.weight.layout());
  const StateDict ours = net.state_dict(), theirs = copy.state_dict();
  REQUIRE(names_of(ours) == names_of(theirs));
  for (const auto& [name, tensor] : ours) {
    CHECK(theirs.at(name).data_ptr() != tensor.data_ptr());
    CHECK(theirs.at(name).to_vector<double>() == tensor.to_vector<double>());
  }
  net.body.at<Scale>(0).scale.data<float>()[0] = 100.0f;
  CHECK(theirs.at("body.0.scale").to_vector<float>()[0] == 3.0f);
}

TEST_CASE("a clone keeps shared tensors shared") {
  const Tied copy = clone(Tied());
  CHECK(copy.first.data_ptr() == copy.second.data_ptr());
  CHECK(copy.parameters().size() == 1);
}

TEST_CASE("a member can be replaced by assignment") {
  Net net;
  net.fc = Linear(5, 2);
  CHECK(net.state_dict().at("fc.weight").shape() == Shape{2, 5});
  CHECK(net(Tensor::ones({3, 5})).shape() == Shape{3, 2});
}

TEST_CASE("train and eval reach every module below") {
  Net net;
  net.eval();
  for (const auto& [name, module] : net.named_modules()) CHECK_FALSE(module->is_training());
  net.body.train();
  CHECK(net.body.at<Scale>(0).is_training());
  CHECK_FALSE(net.fc.is_training());
  net.train();
  for (const auto& [name, module] : net.named_modules()) CHECK(module->is_training());
}

TEST_CASE("conversion replaces floating tensors and leaves counters") {
  Net net;
  net.out.scale.set_requires_grad(false);
  const auto weight = net.fc.weight.to_vector<double>();
  net.to(DType::float64);
  CHECK(net.fc.weight.dtype() == DType::float64);
  CHECK(net.fc.weight.is_leaf());
  CHECK(net.fc.weight.requires_grad());
  CHECK_FALSE(net.out.scale.requires_grad());
  CHECK(net.out.offset.dtype() == DType::float64);
  CHECK(net.out.calls.dtype() == DType::int64);
  CHECK(net.fc.weight.to_vector<double>() == weight);
  CHECK(net(Tensor::ones({1, 2}, {.dtype = DType::float64})).dtype() == DType::float64);
  CHECK_THROWS_AS(net.to(DType::int64), DTypeError);

  const void* before = net.fc.weight.data_ptr();
  net.to(kCpu);
  CHECK(net.fc.weight.data_ptr() == before);

  Tied tied;
  tied.to(DType::float64);
  CHECK(tied.first.data_ptr() == tied.second.data_ptr());
}

TEST_CASE("zero_grad drops gradients and requires_grad freezes") {
  Net net;
  sum(net(Tensor::ones({1, 2}))).backward();
  for (const Tensor& parameter : net.parameters()) REQUIRE(parameter.grad().defined());
  net.zero_grad();
  for (const Tensor& parameter : net.parameters()) CHECK_FALSE(parameter.grad().defined());
  net.requires_grad(false);
  CHECK_FALSE(net(Tensor::ones({1, 2})).requires_grad());
  CHECK_NOTHROW(net.zero_grad());
}

TEST_CASE("a state dict shares memory and is off the tape") {
  Net net;
  const StateDict state = net.state_dict();
  CHECK(state.at("out.scale").data_ptr() == net.out.scale.data_ptr());
  CHECK_FALSE(state.at("out.scale").requires_grad());
}

TEST_CASE("load_state_dict copies values, converting dtypes") {
  Net source, target;
  source.out.calls.data<std::int64_t>()[0] = 5;
  source.to(DType::float64);
  const void* memory = target.fc.weight.data_ptr();
  CHECK(target.load_state_dict(source.state_dict()).missing.empty());
  CHECK(target.fc.weight.data_ptr() == memory);
  CHECK(target.fc.weight.dtype() == DType::float32);
  CHECK(target.fc.weight.requires_grad());
  CHECK(target.fc.weight.to_vector<double>() == source.fc.weight.to_vector<double>());
  CHECK(target.out.calls.item() == 5.0);
  CHECK_NOTHROW(target.load_state_dict(target.state_dict()));  // itself
}

TEST_CASE("a state dict that does not fit is refused whole, with everything listed") {
  Net net;
  const StateDict before = clone(net).state_dict();
  StateDict state = clone(net).state_dict();
  for (const auto& [name, tensor] : state) Tensor(tensor).fill_(9.0);
  state.erase("fc.bias");
  state.erase("out.offset");
  state.set("body.0.scale", Tensor::ones({3}));
  state.set("body.1.0.scale", Tensor());
  state.insert("head.weight", Tensor::ones({1}));
  try {
    net.load_state_dict(state);
    FAIL("expected an exception");
  } catch (const StateDictError& error) {
    const std::string text = error.what();
    CHECK(contains(text, "does not fit Net"));
    CHECK(contains(text, "missing: fc.bias"));
    CHECK(contains(text, "missing: out.offset"));
    CHECK(contains(text, "unexpected: head.weight"));
    CHECK(contains(text, "body.0.scale: expected [2], got [3]"));
    CHECK(contains(text, "body.1.0.scale: expected [2], got an undefined tensor"));
  }
  for (const auto& [name, tensor] : net.state_dict()) {
    CHECK(tensor.to_vector<double>() == before.at(name).to_vector<double>());
  }
}

TEST_CASE("a load that is not strict reports what did not match, but still refuses wrong shapes") {
  Net net;
  StateDict state({{"fc.bias", Tensor::full({2}, 4.0)}, {"other", Tensor::ones({1})}});
  const StateDictMismatch mismatch = net.load_state_dict(state, /*strict=*/false);
  CHECK(mismatch.missing.size() == 11);
  CHECK(mismatch.unexpected == Names{"other"});
  CHECK(net.fc.bias.to_vector<float>() == std::vector<float>{4.0f, 4.0f});
  state.set("fc.bias", Tensor::ones({3}));
  CHECK_THROWS_AS(net.load_state_dict(state, /*strict=*/false), StateDictError);
}

TEST_CASE("forward hooks see input and output, in order, until removed") {
  Net net;
  std::vector<std::string> calls;
  const Tensor x = Tensor::ones({1, 2});
  Tensor seen_input, seen_output;
  HookHandle first = net.fc.register_forward_hook([&](Module& module, const Tensor& input, const Tensor& output) {
    CHECK(&module == &net.fc);
    seen_input = input;
    seen_output = output;
    calls.push_back("first");
  });
  HookHandle second =
      net.fc.register_forward_hook([&](Module&, const Tensor&, const Tensor&) { calls.push_back("second"); });
  net.register_forward_hook([&](Module&, const Tensor&, const Tensor&) { calls.push_back("net"); });
  net(x);
  CHECK(calls == Names{"first", "second", "net"});
  CHECK(seen_input.data_ptr() == x.data_ptr());
  CHECK(seen_output.to_vector<float>() == net.fc.forward(x).to_vector<float>());

  calls.clear();
  HookHandle stale = first;
  first.remove();
  first.remove();  // a second time does nothing
  net.fc.register_forward_hook([](Module&, const Tensor&, const Tensor&) {}).remove();
  stale.remove();
  net(x);
  CHECK(calls == Names{"second", "net"});
  second.remove();
  CHECK_FALSE(net.fc.has_forward_hooks());
  CHECK(net.has_forward_hooks());
  CHECK_THROWS_AS(net.register_forward_hook(nullptr), ValueError);
}

TEST_CASE("a hook may remove itself, and hooks are not copied") {
  Scale scale;
  int calls = 0;
  HookHandle handle;
  handle = scale.register_forward_hook([&](Module&, const Tensor&, const Tensor&) {
    ++calls;
    handle.remove();
  });
  Scale copy = scale;
  copy(Tensor::ones({2}));
  CHECK(calls == 0);
  scale(Tensor::ones({2}));
  scale(Tensor::ones({2}));
  CHECK(calls == 1);

  auto gone = std::make_unique<Scale>();
  HookHandle dangling = gone->register_forward_hook([](Module&, const Tensor&, const Tensor&) {});
  gone.reset();
  CHECK_NOTHROW(dangling.remove());
}

TEST_CASE("a module without a forward of one tensor says so") {
  struct Container : Module {};
  Container container;
  CHECK_THROWS_WITH(container(Tensor::ones({1})), Catch::Contains("Container has no forward"));
}

namespace {

template <class T>
struct Holder : Module {};
struct Described : Module {
  Linear inner{1, 2};
  Described() { register_module("inner", inner); }
  std::string extra_repr() const override { return "two\nlines"; }
};

}  // namespace

TEST_CASE("printing follows PyTorch's layout") {
  struct Local : Module {};
  CHECK(to_string(Local()) == "Local()");
  CHECK(to_string(Scale()) == "Scale()");
  CHECK(Holder<int>().type_name() == "Holder<int>");
  CHECK(to_string(Described()) ==
        "Described(\n  two\n  lines\n  (inner): Linear(in_features=1, out_features=2, bias=True)\n)");
  std::ostringstream stream;
  stream << Sequential(ReLU(), Sequential(ReLU(true)));
  CHECK(stream.str() == "Sequential(\n  (0): ReLU()\n  (1): Sequential(\n    (0): ReLU(inplace=True)\n  )\n)");
}
