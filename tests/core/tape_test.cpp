// Recording and backward: what a gradient is, when it is there, and what is refused.
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include <lockstep/core/allocator.h>
#include <lockstep/core/autograd/node.h>
#include <lockstep/core/base/error.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor.h>

using namespace lockstep;

namespace {

using Values = std::vector<double>;

Tensor leaf(const Values& values, const Shape& shape) { return Tensor::from(values, shape).set_requires_grad(); }
Tensor leaf(const Values& values) { return leaf(values, Shape{static_cast<std::int64_t>(values.size())}); }
Values grad_of(const Tensor& x) { return x.grad().to_vector<double>(); }

// ---- Sums over uses.

TEST_CASE("A leaf used twice by one op gets both contributions") {
  const Tensor x = leaf({1, 2, 3});
  sum(x * x).backward();
  CHECK(grad_of(x) == Values{2, 4, 6});
  const Tensor y = leaf({1, 2, 3});
  sum(y + y).backward();
  CHECK(grad_of(y) == Values{2, 2, 2});
  const Tensor z = leaf({2, 4});
  sum(z / z).backward();
  CHECK(grad_of(z) == Values{0, 0});
}

TEST_CASE("A leaf used by several consumers gets the sum of their gradients") {
  const Tensor x = leaf({1, 2});
  sum(x * 2.0 + x * x + exp(x * 0.0) * x).backward();  // 2 + 2x + 1
  CHECK(grad_of(x) == Values{5, 7});
}

TEST_CASE("Diamonds: a value in the middle with several consumers is differentiated once, complete") {
  const Tensor x = leaf({3});
  const Tensor y = x * 2.0;
  const Tensor left = y * y, right = y * 3.0;
  sum(left * right).backward();  // 3 y³ with y = 2x: 24 x³
  CHECK(grad_of(x) == Values{72 * 9});
  const Tensor a = leaf({1});
  Tensor b = a;
  for (int i = 0; i < 20; ++i) b = b + b;  // 2^20 paths
  b.backward();
  CHECK(grad_of(a) == Values{1 << 20});
}

TEST_CASE("Consumers recorded later than other parts of the graph are waited for") {
  const Tensor x = leaf({2});
  const Tensor early = x * 3.0;
  Tensor late = x;
  for (int i = 0; i < 5; ++i) late = late * 1.0;
  sum(early * late).backward();  // 3x²
  CHECK(grad_of(x) == Values{12});
}

TEST_CASE("Gradients add up over backwards until they are dropped") {
  const Tensor x = leaf({1, 2});
  sum(x * 3.0).backward();
  sum(x * 4.0).backward();
  CHECK(grad_of(x) == Values{7, 7});
  x.set_grad({});
  CHECK_FALSE(x.grad().defined());
  sum(x).backward();
  CHECK(grad_of(x) == Values{1, 1});
}

TEST_CASE("A contribution is never written into a gradient that someone else sees") {
  const Tensor x = leaf({1, 2}), y = leaf({3, 4});
  const Tensor z = x + y;  // both get the same gradient tensor
  (sum(z * z) + sum(x * 10.0)).backward();
  CHECK(grad_of(x) == Values{18, 22});
  CHECK(grad_of(y) == Values{8, 12});
  const Tensor seed = Tensor::from(Values{1, 1}, {2});
  const Tensor a = leaf({5, 6});
  relu(a).backward(seed);
  neg(exp(a * 0.0) * a).backward(seed);
  CHECK(seed.to_vector<double>() == Values{1, 1});
}

// ---- backward's argument.

TEST_CASE("backward starts at 1 for one element and from the given gradient otherwise") {
  const Tensor x = leaf({1, 2, 3});
  const Tensor y = x * 2.0;
  CHECK_THROWS_AS(y.backward(), ShapeError);
  y.backward(Tensor::from(Values{1, 10, 100}, {3}));
  CHECK(grad_of(x) == Values{2, 20, 200});
  const Tensor one = leaf({4}, {1, 1, 1});
  (one * 3.0).backward();
  CHECK(grad_of(one) == Values{3});
}

TEST_CASE("backward on a leaf is its own gradient") {
  const Tensor x = leaf({1, 2});
  const Tensor seed = Tensor::from(Values{5, 6}, {2});
  x.backward(seed);
  x.backward(seed);
  CHECK(grad_of(x) == Values{10, 12});
  CHECK(seed.to_vector<double>() == Values{5, 6});
}

TEST_CASE("A wrong start gradient is refused before anything happens") {
  const Tensor x = leaf({1, 2});
  const Tensor y = x * 2.0;
  CHECK_THROWS_AS(y.backward(Tensor::ones({3}, {.dtype = DType::float64})), ShapeError);
  CHECK_THROWS_AS(y.backward(Tensor::ones({2})), DTypeError);
  CHECK_FALSE(x.grad().defined());
  y.backward(Tensor::ones({2}, {.dtype = DType::float64}));
  CHECK(grad_of(x) == Values{2, 2});
}

TEST_CASE("What was not recorded cannot be differentiated") {
  CHECK_THROWS_AS(Tensor::ones({}).backward(), AutogradError);
  CHECK_THROWS_AS(sum(Tensor::ones({2})).backward(), AutogradError);
  const Tensor x = leaf({1});
  CHECK_THROWS_AS(sum(x).detach().backward(), AutogradError);
}

// ---- Using a tape up.

TEST_CASE("A second backward is an AutogradError and changes no gradient") {
  const Tensor x = leaf({1, 2});
  const Tensor loss = sum(exp(x));
  loss.backward();
  const Values before = grad_of(x);
  CHECK_THROWS_AS(loss.backward(), AutogradError);
  CHECK_THROWS_WITH(loss.backward(), Catch::Contains("retain_tape"));
  CHECK(grad_of(x) == before);
  // Also where only a part of the tape was used up.
  const Tensor y = x * 2.0;
  sum(y).backward();
  const Values after = grad_of(x);
  CHECK_THROWS_AS((sum(y) + sum(x)).backward(), AutogradError);
  CHECK(grad_of(x) == after);
}

TEST_CASE("A retained tape works again") {
  const Tensor x = leaf({2});
  const Tensor loss = sum(x * x * x);
  loss.backward({}, true);
  CHECK(grad_of(x) == Values{12});
  loss.backward({}, true);
  CHECK(grad_of(x) == Values{24});
  loss.backward();
  CHECK(grad_of(x) == Values{36});
  CHECK_THROWS_AS(loss.backward(), AutogradError);
}

TEST_CASE("Backward frees what was saved for it, though the loss lives on") {
  const Tensor x = Tensor::ones({1 << 16}).set_requires_grad();
  const std::int64_t bytes = x.nbytes();
  const std::int64_t before = memory_stats().live;
  const Tensor loss = sum(exp(exp(exp(x * 0.1) * 0.1)));
  CHECK(memory_stats().live >= before + 3 * bytes);
  loss.backward();
  CHECK(memory_stats().live <= before + bytes + bytes / 8 + 4096);  // the gradient
}

TEST_CASE("Dropping the result of a forward frees everything") {
  const std::int64_t before = memory_stats().live;
  {
    const Tensor x = Tensor::ones({1 << 14}).set_requires_grad();
    const Tensor y = sum(exp(x) * x + relu(x));
  }
  CHECK(memory_stats().live == before);
}

TEST_CASE("Ten thousand recorded forwards without a backward leave memory flat") {
  const Tensor x = Tensor::ones({64, 32}).set_requires_grad();
  const Tensor w = Tensor::ones({8, 32}).set_requires_grad();
  const auto forward = [&] { return mean(relu(linear(x, w)) * 2.0); };
  forward();
  const MemoryStats before = memory_stats();
  for (int i = 0; i < 10000; ++i) forward();
  const MemoryStats after = memory_stats();
  CHECK(after.live == before.live);
  CHECK(after.small == before.small);
  CHECK(after.cached <= before.cached + (1 << 16));
}

TEST_CASE("Training steps leave memory flat") {
  const Tensor x = Tensor::ones({64, 32});
  Tensor w = Tensor::ones({8, 32}).set_requires_grad();
  const auto step = [&] {
    mean(relu(linear(x, w))).backward();
    const NoGradGuard no_grad;
    w.add_(w.grad(), -0.01);
    w.set_grad({});
  };
  for (int i = 0; i < 3; ++i) step();
  const MemoryStats before = memory_stats();
  for (int i = 0; i < 500; ++i) step();
  const MemoryStats after = memory_stats();
  CHECK(after.live == before.live);
  CHECK(after.small == before.small);
#if !defined(__SANITIZE_ADDRESS__)  // under which nothing is cached
  CHECK(after.system_allocations - before.system_allocations <= 5);
#endif
}

TEST_CASE("A chain of a million ops needs no stack: forward, backward, destruction") {
  constexpr int kDepth = 1'000'000;
  const Tensor x = leaf({1.0});
  {
    Tensor y = x;
    for (int i = 0; i < kDepth; ++i) y = affine(y, 1.0, 1e-6);
    CHECK(y.item() == Approx(2.0));
    y.backward();
    CHECK(grad_of(x) == Values{1});
  }
  {
    Tensor y = x;  // dropped without a backward, with tensors saved along the way
    for (int i = 0; i < kDepth; ++i) y = y * x;
  }
  CHECK(x.requires_grad());
}

// ---- Changes in place.

TEST_CASE("Changing a saved tensor in place is detected in backward") {
  const std::vector<std::pair<const char*, std::function<Tensor(const Tensor&)>>> ops = {
      {"mul", [](const Tensor& t) { return t * t; }},
      {"log", [](const Tensor& t) { return log(t); }},
      {"matmul", [](const Tensor& t) { return matmul(t, t); }},
      {"conv2d",
       [](const Tensor& t) {
         return conv2d(reshape(t, {1, 1, 2, 2}), reshape(t, {1, 1, 2, 2}));
       }},
      {"cross_entropy", [](const Tensor& t) { return cross_entropy(t, Tensor::arange(2)); }},
      {"linear", [](const Tensor& t) { return linear(t, t); }}};
  for (const auto& [op, run] : ops) {
    CAPTURE(op);
    Tensor x = leaf({1, 2, 3, 4}, {2, 2});
    const Tensor loss = sum(run(x));
    {
      const NoGradGuard no_grad;
      x.mul_(2.0);
    }
    CHECK_THROWS_AS(loss.backward(), AutogradError);
    const Tensor again = sum(run(x));
    CHECK_NOTHROW(again.backward());
  }
}

TEST_CASE("Changing a saved result in place is detected too") {
  const std::vector<std::pair<const char*, std::function<Tensor(const Tensor&)>>> ops = {
      {"exp", [](const Tensor& t) { return exp(t); }},
      {"relu", [](const Tensor& t) { return relu(t); }},
      {"sqrt", [](const Tensor& t) { return sqrt(t); }},
      {"sigmoid", [](const Tensor& t) { return sigmoid(t); }},
      {"softmax", [](const Tensor& t) { return softmax(t, 0); }},
      {"div", [](const Tensor& t) { return t / (t + 1.0); }}};
  for (const auto& [op, run] : ops) {
    CAPTURE(op);
    const Tensor x = leaf({1, 2, 3});
    Tensor y = run(x);
    const Tensor loss = sum(y);
    {
      const NoGradGuard no_grad;
      y.fill_(7.0);
    }
    CHECK_THROWS_WITH(loss.backward(),
                      Catch::Contains(std::string("[") + op + "]") && Catch::Contains("modified in place"));
  }
}

TEST_CASE("A change through a view or an alias is detected as well") {
  const Tensor x = leaf({1, 2, 3, 4});
  const Tensor y = exp(x);
  const Tensor loss = sum(y);
  narrow(y.detach(), 0, 1, 2).fill_(0.0);
  CHECK_THROWS_AS(loss.backward(), AutogradError);
}

TEST_CASE("Changing what no backward needs is fine") {
  const Tensor x = leaf({1, 2});
  const Tensor c = Tensor::from(Values{3, 4}, {2});
  Tensor y = x + c;
  const Tensor loss = sum(y);
  c.detach().fill_(0.0);
  y.detach().fill_(0.0);
  loss.backward();
  CHECK(grad_of(x) == Values{1, 1});
}

TEST_CASE("Changing a recorded tensor in place while recording is refused, and changes nothing") {
  Tensor x = leaf({1, 2});
  Tensor y = x * 2.0;
  const Tensor other = Tensor::ones({2}, {.dtype = DType::float64});
  for (Tensor* t : {&x, &y}) {
    const Values before = t->to_vector<double>();
    CHECK_THROWS_AS(t->fill_(0.0), AutogradError);
    CHECK_THROWS_AS(t->zero_(), AutogradError);
    CHECK_THROWS_AS(t->mul_(2.0), AutogradError);
    CHECK_THROWS_AS(t->add_(other), AutogradError);
    CHECK_THROWS_AS(t->copy_(other), AutogradError);
    CHECK(t->to_vector<double>() == before);
  }
  const NoGradGuard no_grad;
  CHECK_NOTHROW(x.mul_(2.0));
}

// ---- Not recording.

TEST_CASE("Nothing is recorded under NoGradGuard") {
  const Tensor x = leaf({1, 2});
  CHECK(grad_enabled());
  {
    const NoGradGuard no_grad;
    CHECK_FALSE(grad_enabled());
    CHECK_FALSE((x * 2.0).requires_grad());
    CHECK_FALSE(reshape(x, {2, 1}).requires_grad());
    CHECK_FALSE(x.clone().requires_grad());
    CHECK(x.requires_grad());
    {
      const GradModeGuard on(true);
      CHECK((x * 2.0).requires_grad());
    }
    CHECK_FALSE(grad_enabled());
    bool elsewhere = false;
    std::thread([&] { elsewhere = grad_enabled(); }).join();
    CHECK(elsewhere);  // a matter of the thread
  }
  CHECK((x * 2.0).requires_grad());
  try {
    const NoGradGuard no_grad;
    throw std::runtime_error("out");
  } catch (const std::runtime_error&) {
  }
  CHECK(grad_enabled());
}

TEST_CASE("detach cuts the tape and shares the memory") {
  const Tensor x = leaf({1, 2});
  const Tensor y = x * 3.0;
  const Tensor cut = y.detach();
  CHECK_FALSE(cut.requires_grad());
  CHECK(cut.data_ptr() == y.data_ptr());
  sum(cut * x).backward();
  CHECK(grad_of(x) == Values{3, 6});
}

TEST_CASE("Leaves, results and their flags") {
  Tensor x = Tensor::ones({2});
  CHECK(x.is_leaf());
  CHECK_FALSE(x.requires_grad());
  CHECK_FALSE((x * 2.0).requires_grad());
  x.set_requires_grad();
  CHECK((x.requires_grad() && x.is_leaf()));
  Tensor y = x * 2.0;
  CHECK((y.requires_grad() && !y.is_leaf()));
  CHECK_FALSE(y.grad().defined());
  sum(y).backward();
  CHECK_FALSE(y.grad().defined());  // only leaves keep theirs
  CHECK_THROWS_AS(y.set_requires_grad(), AutogradError);
  CHECK_THROWS_AS(y.set_requires_grad(false), AutogradError);
  x.set_requires_grad(false);
  CHECK_FALSE((x * 2.0).requires_grad());
  CHECK_FALSE(x.grad().defined());
  Tensor index = Tensor::arange(3);
  CHECK_THROWS_AS(index.set_requires_grad(), DTypeError);
  CHECK_NOTHROW(index.set_requires_grad(false));
}

TEST_CASE("Copies of a handle share the gradient") {
  const Tensor x = leaf({1, 2});
  const Tensor same = x;
  sum(same * 2.0).backward();
  CHECK(grad_of(x) == Values{2, 2});
  CHECK(same.grad().data_ptr() == x.grad().data_ptr());
}

TEST_CASE("Integer results carry no gradient") {
  const Tensor x = leaf({3, 1, 2});
  const auto [values, index] = max(x, 0);
  CHECK(values.requires_grad());
  CHECK_FALSE(index.requires_grad());
  CHECK_FALSE(argmax(x, 0).requires_grad());
  CHECK_FALSE(topk(x, 2).first.requires_grad());
  CHECK_FALSE(x.to(DType::int64).requires_grad());
}

TEST_CASE("Only what requires a gradient gets one") {
  const Tensor x = leaf({1, 2}), c = Tensor::from(Values{3, 4}, {2});
  sum(x * c).backward();
  CHECK(grad_of(x) == Values{3, 4});
  CHECK_FALSE(c.grad().defined());
}

// ---- Views.

TEST_CASE("Gradients of views reach the tensor they were taken from") {
  const Tensor x = leaf({1, 2, 3, 4, 5, 6});
  const Tensor rows = reshape(x, {3, 2});
  const Tensor middle = narrow(rows, 0, 1, 1), column = narrow(rows, 1, 0, 1);
  (sum(middle * 10.0) + sum(column * 100.0) + sum(flatten(rows))).backward();
  CHECK(grad_of(x) == Values{101, 1, 111, 11, 101, 1});
}

TEST_CASE("Overlapping views add up") {
  const Tensor x = leaf({1, 2, 3, 4});
  (sum(narrow(x, 0, 0, 3)) + sum(narrow(x, 0, 1, 3))).backward();
  CHECK(grad_of(x) == Values{1, 2, 2, 1});
}

TEST_CASE("Gradients have the layout of their parameter") {
  for (const Layout layout : {Layout::row_major, Layout::channels_last}) {
    const Tensor w = Tensor::ones({4, 3, 3, 3}, {.layout = layout}).set_requires_grad();
    const Tensor x = Tensor::ones({2, 3, 5, 5}, {.layout = layout}).set_requires_grad();
    sum(conv2d(x, w)).backward();
    sum(reshape(w, {4, 27})).backward();
    CHECK(w.grad().layout() == layout);
    CHECK(x.grad().layout() == layout);
    CHECK(w.grad().to_vector<float>() == std::vector<float>(108, 2 * 3 * 3 + 1));
  }
}

// ---- Hooks.

TEST_CASE("A hook announces a leaf's gradient once per backward, when it is complete") {
  const Tensor x = leaf({1, 2}), unused = leaf({5});
  std::vector<Values> seen;
  int unused_calls = 0;
  x.register_grad_ready_hook([&] { seen.push_back(grad_of(x)); });
  unused.register_grad_ready_hook([&] { ++unused_calls; });
  const Tensor early = x * 2.0;
  const Tensor loss = sum(early * early + x * x + narrow(x, 0, 0, 1));
  loss.backward({}, true);
  REQUIRE(seen.size() == 1);
  CHECK(seen[0] == Values{12, 20});
  CHECK(seen[0] == grad_of(x));
  loss.backward();
  REQUIRE(seen.size() == 2);
  CHECK(seen[1] == Values{24, 40});
  CHECK(unused_calls == 0);
  x.backward(Tensor::ones({2}, {.dtype = DType::float64}));
  CHECK(seen.size() == 3);
}

TEST_CASE("Hooks fire in the order in which gradients become complete, last layer first") {
  const Tensor first = leaf({2}), second = leaf({3}), third = leaf({4});
  std::vector<int> order;
  first.register_grad_ready_hook([&] { order.push_back(1); });
  second.register_grad_ready_hook([&] { order.push_back(2); });
  third.register_grad_ready_hook([&] { order.push_back(3); });
  const Tensor input = Tensor::ones({1}, {.dtype = DType::float64});
  sum(exp(exp(input * first) * second * 0.1) * third).backward();
  CHECK(order == std::vector<int>{3, 2, 1});
}

TEST_CASE("Several hooks on one leaf all fire; on anything but a leaf they are refused") {
  const Tensor x = leaf({1});
  int calls = 0;
  for (int i = 0; i < 3; ++i) x.register_grad_ready_hook([&] { ++calls; });
  sum(x).backward();
  CHECK(calls == 3);
  CHECK_THROWS_AS((x * 2.0).register_grad_ready_hook([] {}), AutogradError);
  CHECK_THROWS_AS(Tensor::ones({1}).register_grad_ready_hook([] {}), AutogradError);
}

// ---- Failure in the middle.

/// x, with a backward that throws the first `failures` times.
Tensor failing(const Tensor& x, int& failures) {
  Tensor y = x.detach().clone();
  record("failing", y, {&x}, [&failures](GradContext& ctx) {
    if (failures-- > 0) throw std::runtime_error("no gradient today");
    ctx.set(0, std::move(ctx.grad));
  });
  return y;
}

TEST_CASE("After an exception in the middle of a backward the tape holds no half-made gradients") {
  const Tensor x = leaf({1, 2});
  int failures = 1;
  const Tensor y = x * 5.0;
  // The branch through y has delivered to it when the other one throws.
  const Tensor loss = sum(failing(y, failures)) + sum(exp(y * 0.0) * y);
  CHECK_THROWS_WITH(loss.backward({}, true), "no gradient today");
  CHECK_FALSE(x.grad().defined());
  CHECK(grad_enabled());
  loss.backward();
  CHECK(grad_of(x) == Values{10, 10});
}

TEST_CASE("An exception out of a hook leaves the tape usable") {
  const Tensor x = leaf({1});
  bool angry = true;
  x.register_grad_ready_hook([&] {
    if (std::exchange(angry, false)) throw std::runtime_error("hook");
  });
  CHECK_THROWS_WITH(sum(x * 2.0).backward(), "hook");
  CHECK(grad_enabled());
  x.set_grad({});
  sum(x * 2.0).backward();
  CHECK(grad_of(x) == Values{2});
}

// ---- Your own op.

TEST_CASE("An op made with record takes part like any other") {
  const auto cube = [](const Tensor& x) {
    Tensor y = x.detach() * x.detach() * x.detach();
    if (must_record(x)) {
      record("cube", y, {&x}, [x = SavedTensor(x)](GradContext& ctx) {
        const Tensor& saved = x.get("cube");
        ctx.set(0, ctx.grad * (saved * saved * 3.0));
      });
    }
    return y;
  };
  const Tensor x = leaf({1, 2});
  sum(cube(x) * 2.0).backward();
  CHECK(grad_of(x) == Values{6, 24});
  CHECK_FALSE(cube(x.detach()).requires_grad());
}

TEST_CASE("Threads record and differentiate side by side") {
  std::vector<std::thread> threads;
  std::vector<Values> grads(4);
  const Tensor shared = Tensor::from(Values{1, 2, 3}, {3});
  for (std::size_t t = 0; t < grads.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const Tensor x = leaf({1, 1, 1});
        sum(exp(x * 0.0) * x * shared * static_cast<double>(t + 1)).backward();
        grads[t] = grad_of(x);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t t = 0; t < grads.size(); ++t) {
    const double factor = static_cast<double>(t + 1);
    CHECK(grads[t] == Values{factor, 2 * factor, 3 * factor});
  }
}

}  // namespace
