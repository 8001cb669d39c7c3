#include <lockstep/parallel/local_process_group.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <mutex>

#include <fmt/core.h>
#include <catch2/catch.hpp>

#include <lockstep/tests/parallel/models.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

/// Differs between ranks, exact in every dtype.
double value_of(std::int64_t i, int rank) { return static_cast<double>((i * 7 + rank * 13) % 31 - 12); }

std::vector<double> values_of(std::int64_t n, int rank) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < n; ++i) values.push_back(value_of(i, rank));
  return values;
}

Tensor tensor_of(const std::vector<double>& values, const Shape& shape, DType dtype, Device device) {
  if (dtype == DType::int64) return Tensor::from(std::vector<std::int64_t>(values.begin(), values.end()), shape);
  return Tensor::from(values, shape).to(dtype).to(device);
}

std::vector<double> doubles(const Tensor& x) { return x.to(kCpu).to_vector<double>(); }

double reduced(ReduceOp op, std::int64_t i, int ranks) {
  double result = op == ReduceOp::max ? -1e9 : 0;
  for (int r = 0; r < ranks; ++r) {
    const double value = value_of(i, r);
    result = op == ReduceOp::max ? std::max(result, value) : result + value;
  }
  return op == ReduceOp::mean ? result / ranks : result;
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const CommError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("every collective does what its description says, over sizes, ranks, dtypes and devices") {
  int cases = 0;
  std::mutex mutex;
  for (const Device::Type type : device_types()) {
    const std::vector<DType> dtypes = type == Device::Type::cpu
                                          ? std::vector{DType::float32, DType::float64, DType::int64}
                                          : std::vector{DType::float32, DType::float16, DType::bfloat16};
    for (const int ranks : {1, 2, 3, 4, 7}) {
      for (const std::int64_t n : {0, 1, 3, 1000, 70001}) {
        if (type == Device::Type::cuda && (n > 1000 || ranks == 3)) continue;  // each emulated thread takes its time
        for (const DType dtype : dtypes) {
          spawn(devices_of(type, ranks), [&](ProcessGroup& group) {
            const int me = group.rank();
            const Tensor mine = tensor_of(values_of(n, me), {n}, dtype, group.device());
            const TensorOptions options{dtype, mine.device()};
            std::string wrong;
            const auto check = [&](const char* what, const Tensor& actual, auto expected) {
              const std::vector<double> got = doubles(actual);
              for (std::size_t i = 0; i < got.size(); ++i) {
                const double want = expected(static_cast<std::int64_t>(i));
                if (std::abs(got[i] - want) > 1e-2 * std::abs(want)) wrong += fmt::format(" {}[{}]", what, i);
                if (dtype != DType::bfloat16 && dtype != DType::float16 && std::abs(got[i] - want) > 1e-6)
                  wrong += what;
              }
              if (static_cast<std::int64_t>(got.size()) != actual.numel()) wrong += " size";
            };
            for (const ReduceOp op : {ReduceOp::sum, ReduceOp::mean, ReduceOp::max}) {
              if (dtype == DType::int64 && op == ReduceOp::mean) continue;
              const Tensor x = mine.clone();
              Work work = group.all_reduce(x, op);
              work.wait();
              if (!work.is_done()) wrong += " not done";
              check("all_reduce", x, [&](std::int64_t i) { return reduced(op, i, ranks); });
              if (n % ranks != 0 || n == 0) continue;
              const Tensor row = Tensor::empty({n / ranks}, options);
              group.reduce_scatter(reshape(mine, {ranks, n / ranks}), row, op).wait();
              check("reduce_scatter", row, [&](std::int64_t i) { return reduced(op, me * (n / ranks) + i, ranks); });
            }
            const int root = ranks - 1;
            const Tensor sent = mine.clone();
            group.broadcast(sent, root).wait();
            check("broadcast", sent, [&](std::int64_t i) { return value_of(i, root); });
            const Tensor all = Tensor::empty({ranks, n}, options);
            group.all_gather(mine, all).wait();
            check("all_gather", all, [&](std::int64_t i) { return value_of(i % n, static_cast<int>(i / n)); });
            if (ranks > 1) {  // around a ring
              const Tensor from_left = Tensor::empty({n}, options);
              if (me % 2 == 0) group.send(mine, (me + 1) % ranks);
              if (me != 0 || ranks % 2 == 0) group.recv(from_left, (me + ranks - 1) % ranks);
              if (me % 2 == 1) group.send(mine, (me + 1) % ranks);
              if (me == 0 && ranks % 2 == 1) group.recv(from_left, ranks - 1);
              check("send", from_left, [&](std::int64_t i) { return value_of(i, (me + ranks - 1) % ranks); });
            }
            group.barrier();
            if (group.gather_numbers(me * 10) != [&] {
                  std::vector<std::int64_t> numbers;
                  for (int r = 0; r < ranks; ++r) numbers.push_back(r * 10);
                  return numbers;
                }()) {
              wrong += " gather_numbers";
            }
            std::lock_guard lock(mutex);
            INFO(to_string(group.device()) << ", " << ranks << " ranks, " << n << " x " << name(dtype));
            CHECK(wrong == "");
          });
          ++cases;
        }
      }
    }
  }
  std::printf("collective_problems: %d\n", cases);
}

TEST_CASE("a maximum keeps NaN") {
  spawn(devices_of(Device::Type::cpu, 3), [&](ProcessGroup& group) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const Tensor x = Tensor::from(std::vector{group.rank() == 1 ? nan : 1.0f, 2.0f}, {2});
    group.all_reduce(x, ReduceOp::max).wait();
    if (!std::isnan(x.to_vector<float>()[0]) || x.to_vector<float>()[1] != 2.0f)
      throw ValueError("test", "NaN was lost");
  });
}

TEST_CASE("ranks that differ in what they call get an error that names both calls") {
  struct Mismatch {
    std::function<void(ProcessGroup&)> first, second;
    std::string says_first, says_second;
  };
  const Tensor eight = Tensor::zeros({8}), nine = Tensor::zeros({9});
  const Tensor doubles8 = Tensor::zeros({8}, {.dtype = DType::float64});
  const std::vector<Mismatch> mismatches = {
      {[&](ProcessGroup& g) { g.all_reduce(eight).wait(); }, [&](ProcessGroup& g) { g.all_reduce(nine).wait(); },
       "all_reduce(sum, float32 [8])", "all_reduce(sum, float32 [9])"},
      {[&](ProcessGroup& g) { g.all_reduce(eight).wait(); }, [&](ProcessGroup& g) { g.broadcast(eight).wait(); },
       "all_reduce(sum, float32 [8])", "broadcast(from rank 0, float32 [8])"},
      {[&](ProcessGroup& g) { g.all_reduce(eight).wait(); }, [&](ProcessGroup& g) { g.all_reduce(doubles8).wait(); },
       "float32 [8]", "float64 [8]"},
      {[&](ProcessGroup& g) { g.all_reduce(eight, ReduceOp::max).wait(); },
       [&](ProcessGroup& g) { g.all_reduce(eight).wait(); }, "max", "sum"},
      {[&](ProcessGroup& g) { g.broadcast(eight, 1).wait(); }, [&](ProcessGroup& g) { g.broadcast(eight, 0).wait(); },
       "from rank 1", "from rank 0"},
      {[&](ProcessGroup& g) { g.barrier(); }, [&](ProcessGroup& g) { g.all_reduce(eight).wait(); }, "barrier()",
       "all_reduce"},
      {[&](ProcessGroup& g) {
         g.tree_all_reduce({{eight.clone(), 0}}, eight.clone()).wait();
       },
       [&](ProcessGroup& g) { g.all_reduce(eight).wait(); }, "tree_all_reduce(float32 [8])", "all_reduce"},
  };
  std::mutex mutex;
  for (const Mismatch& mismatch : mismatches) {
    std::vector<std::string> messages;
    spawn(devices_of(Device::Type::cpu, 2), [&](ProcessGroup& group) {
      const std::string message =
          message_of([&] { group.rank() == 0 ? mismatch.first(group) : mismatch.second(group); });
      std::lock_guard lock(mutex);
      messages.push_back(message);
    });
    REQUIRE(messages.size() == 2);
    for (const std::string& message : messages) {
      CHECK_THAT(message, Catch::Matchers::Contains(mismatch.says_first));
      CHECK_THAT(message, Catch::Matchers::Contains(mismatch.says_second));
      CHECK_THAT(message, Catch::Matchers::Contains(" on rank 0 and "));
    }
  }
}

TEST_CASE("a rank that throws fails the collectives of the others instead of leaving them waiting") {
  int failed = 0;
  std::mutex mutex;
  CHECK_THROWS_WITH(spawn(devices_of(Device::Type::cpu, 3),
                          [&](ProcessGroup& group) {
                            if (group.rank() == 1) throw ValueError("test", "this rank gives up");
                            const std::string message = message_of([&] { group.barrier(); });
                            std::lock_guard lock(mutex);
                            failed += message.find("rank 1 failed: [test] this rank gives up") != std::string::npos;
                          }),
                    "[test] this rank gives up");
  CHECK(failed == 2);
}

TEST_CASE("collectives refuse what they cannot do, and go on afterwards") {
  int refused = 0;
  spawn(devices_of(Device::Type::cpu, 1), [&](ProcessGroup& group) {
    const Tensor x = Tensor::zeros({4}), bytes = Tensor::zeros({4}, {.dtype = DType::uint8});
    const Tensor integers = Tensor::zeros({4}, {.dtype = DType::int64});
    const auto refuses = [&]<class E>(E*, const std::function<void()>& call) {
      CHECK_THROWS_AS(call(), E);
      ++refused;
    };
    constexpr ValueError* value = nullptr;
    constexpr ShapeError* shape = nullptr;
    constexpr DTypeError* dtype = nullptr;
    refuses(value, [&] { group.all_reduce(Tensor()); });
    refuses(value, [&] { group.broadcast(x, 1); });
    refuses(value, [&] { group.broadcast(x, -1); });
    refuses(value, [&] { group.send(x, 0); });
    refuses(value, [&] { group.recv(x, 3); });
    refuses(dtype, [&] { group.all_reduce(bytes); });
    refuses(dtype, [&] { group.all_reduce(integers, ReduceOp::mean); });
    refuses(dtype, [&] { group.tree_all_reduce({{integers, 0}}, integers); });
    refuses(shape, [&] { group.all_gather(x, x); });
    refuses(shape, [&] { group.reduce_scatter(x, x); });
    refuses(shape, [&] { group.tree_all_reduce({{x, 0}}, Tensor::zeros({5})); });
    refuses(dtype, [&] { group.all_gather(x, Tensor::zeros({1, 4}, {.dtype = DType::float64})); });
    const Tensor ones = Tensor::ones({4});
    group.all_reduce(ones).wait();
    CHECK(ones.to_vector<float>() == std::vector{1.0f, 1.0f, 1.0f, 1.0f});
  });
  CHECK_THROWS_AS(spawn(std::vector<Device>(), [](ProcessGroup&) {}), ValueError);
  CHECK_THROWS_AS(spawn(std::vector{Device{Device::Type::cuda, 99}}, [](ProcessGroup&) {}), DeviceError);
  std::printf("refused: %d\n", refused);
}
