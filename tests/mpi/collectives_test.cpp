// Every collective against a plain computation of what it should give. Values are small integers, so that sums are
// exact in any order; the order itself is tree_all_reduce_test.cpp's subject.
#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <thread>

#include <lockstep/core/base/error.h>
#include <lockstep/tests/mpi/mpi_test.h>

using namespace lockstep;

namespace {

constexpr std::int64_t kSizes[] = {0, 1, 3, 1000, 100'003};

/// What rank `rank` has at place i.
double value(std::int64_t rank, std::int64_t i) { return static_cast<double>((rank * 31 + i * 7) % 101 - 50); }

Tensor tensor_of(DType dtype, const Shape& shape, const std::function<double(std::int64_t)>& value_at) {
  std::vector<float> values(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(value_at(static_cast<std::int64_t>(i)));
  return Tensor::from(values, shape).to(dtype);
}

Tensor tensor_of_rank(std::int64_t rank, DType dtype, std::int64_t n) {
  return tensor_of(dtype, {n}, [&](std::int64_t i) { return value(rank, i); });
}

/// The reduction of all ranks' values at place i.
double reduced(ReduceOp op, DType dtype, std::int64_t i) {
  double sum = 0, max = -std::numeric_limits<double>::infinity();
  for (int r = 0; r < group().size(); ++r) sum += value(r, i), max = std::max(max, value(r, i));
  if (op == ReduceOp::max) return max;
  if (op == ReduceOp::sum) return sum;
  return dtype == DType::float32 ? static_cast<float>(sum) * (1.0f / static_cast<float>(group().size()))
                                 : sum * (1.0 / group().size());
}

void check_equal(const Tensor& x, const std::function<double(std::int64_t)>& expected) {
  const std::vector<double> values = x.to_vector<double>();
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < values.size(); ++i) wrong += values[i] != expected(static_cast<std::int64_t>(i));
  CHECK(wrong == 0);
}

template <class Body>
void for_reductions(Body body) {
  for (const DType dtype : {DType::float32, DType::float64, DType::int64}) {
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::mean, ReduceOp::max}) {
      if (dtype == DType::int64 && op == ReduceOp::mean) continue;
      for (const std::int64_t n : kSizes) {
        CAPTURE(name(dtype), static_cast<int>(op), n);
        body(dtype, op, n);
      }
    }
  }
}

}  // namespace

TEST_CASE("all_reduce gives every rank the reduction") {
  for_reductions([](DType dtype, ReduceOp op, std::int64_t n) {
    const Tensor x = tensor_of_rank(group().rank(), dtype, n);
    group().all_reduce(x, op).wait();
    check_equal(x, [&](std::int64_t i) { return reduced(op, dtype, i); });
  });
}

TEST_CASE("reduce_scatter gives each rank its row of the reduction") {
  for_reductions([](DType dtype, ReduceOp op, std::int64_t n) {
    const Tensor x = tensor_of(dtype, {group().size(), n}, [](std::int64_t i) { return value(group().rank(), i); });
    const Tensor out = Tensor::empty({n}, {.dtype = dtype});
    group().reduce_scatter(x, out, op).wait();
    check_equal(out, [&](std::int64_t i) { return reduced(op, dtype, group().rank() * n + i); });
    check_equal(x, [](std::int64_t i) { return value(group().rank(), i); });
  });
}

TEST_CASE("The largest value is a NaN where a rank has one") {
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (int nan_rank = 0; nan_rank < group().size(); ++nan_rank) {
      const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
      const bool mine = group().rank() == nan_rank;
      const Tensor x = tensor_of(dtype, {3}, [&](std::int64_t i) {
        return i == 0 ? (mine ? nan : infinity) : i == 1 ? -infinity : group().rank();
      });
      group().all_reduce(x, ReduceOp::max).wait();
      const std::vector<double> values = x.to_vector<double>();
      CHECK(std::isnan(values[0]));
      CHECK(values[1] == -infinity);
      CHECK(values[2] == group().size() - 1);
    }
  }
}

TEST_CASE("broadcast, all_gather, send and recv move any dtype") {
  for (const DType dtype :
       {DType::float32, DType::float64, DType::int64, DType::uint8, DType::float16, DType::bfloat16}) {
    const auto small = [](std::int64_t rank, std::int64_t i) { return static_cast<double>((rank * 5 + i) % 100); };
    for (const std::int64_t n : kSizes) {
      CAPTURE(name(dtype), n);
      const Tensor mine = tensor_of(dtype, {n}, [&](std::int64_t i) { return small(group().rank(), i); });
      for (int root = 0; root < group().size(); ++root) {
        const Tensor x = mine.clone();
        group().broadcast(x, root).wait();
        check_equal(x, [&](std::int64_t i) { return small(root, i); });
      }
      const Tensor all = Tensor::empty({group().size(), n}, {.dtype = dtype});
      group().all_gather(mine, all).wait();
      check_equal(all, [&](std::int64_t i) { return small(i / n, i % n); });
      // From each rank to the next, one after the other.
      for (int from = 0; group().size() > 1 && from < group().size(); ++from) {
        const int to = (from + 1) % group().size();
        if (group().rank() == from) group().send(mine, to);
        if (group().rank() != to) continue;
        const Tensor x = Tensor::empty({n}, {.dtype = dtype});
        group().recv(x, from);
        check_equal(x, [&](std::int64_t i) { return small(from, i); });
      }
    }
  }
}

TEST_CASE("Ranks may send to each other while others are in the next collective") {
  for (int round = 0; round < 20; ++round) {
    if (group().size() > 1 && group().rank() < 2) {
      const Tensor x = tensor_of_rank(group().rank(), DType::float32, 1000);
      if (group().rank() == round % 2) {
        group().send(x, 1 - group().rank());
      } else {
        group().recv(x, 1 - group().rank());
        check_equal(x, [&](std::int64_t i) { return value(1 - group().rank(), i); });
      }
    }
    group().barrier();
  }
}

TEST_CASE("Collectives go on by themselves, in the order in which they were called") {
  const Tensor x = tensor_of_rank(group().rank(), DType::float32, 100'003);
  const Tensor y = tensor_of_rank(group().rank(), DType::float64, 1000);
  Work first = group().all_reduce(x);
  Work second = group().broadcast(y, group().size() - 1);
  Work third = group().all_reduce(y);
  third.wait();
  CHECK(first.is_done());
  CHECK(second.is_done());
  first.wait();
  first.wait();
  check_equal(x, [](std::int64_t i) { return reduced(ReduceOp::sum, DType::float32, i); });
  check_equal(y, [](std::int64_t i) { return group().size() * value(group().size() - 1, i); });
}

TEST_CASE("A call keeps its tensors alive") {
  Work work = group().all_reduce(tensor_of_rank(group().rank(), DType::float32, 100'003));
  work.wait();
  CHECK(work.is_done());
}

TEST_CASE("gather_numbers tells what each rank says") {
  const std::vector<std::int64_t> numbers = group().gather_numbers((std::int64_t{1} << 60) + group().rank());
  REQUIRE(numbers.size() == static_cast<std::size_t>(group().size()));
  for (int r = 0; r < group().size(); ++r) CHECK(numbers[static_cast<std::size_t>(r)] == (std::int64_t{1} << 60) + r);
}

TEST_CASE("No rank passes a barrier before all have come to it") {
  const auto now = [] {
    return std::chrono::steady_clock::now().time_since_epoch().count();
  };  // one clock on a machine
  for (int late = 0; late < group().size(); ++late) {
    if (group().rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const std::int64_t came = now();
    group().barrier();
    const std::int64_t passed = now();
    const std::vector<std::int64_t> all_came = group().gather_numbers(came);
    CHECK(*std::max_element(all_came.begin(), all_came.end()) <= passed);
  }
}

TEST_CASE("bytes_sent counts what a rank hands to others") {
  const auto sent_by = [](const std::function<void()>& call) {
    const std::uint64_t before = group().bytes_sent();
    call();
    return group().bytes_sent() - before;
  };
  const auto others = static_cast<std::uint64_t>(group().size() - 1);
  const Tensor x = Tensor::zeros({1200}), rows = Tensor::zeros({group().size(), 1200});
  CHECK(sent_by([&] { group().all_reduce(x).wait(); }) == 2 * 4800 * others / (others + 1));
  CHECK(sent_by([&] { group().all_gather(x, rows).wait(); }) == 4800 * others);
  CHECK(sent_by([&] { group().reduce_scatter(rows, x).wait(); }) == 4800 * others);
  CHECK(sent_by([&] { group().broadcast(x).wait(); }) == (group().rank() == 0 ? 4800 * others : 0));
  CHECK(sent_by([&] { group().barrier(); }) == 0);
  // One part on each rank: as much as a ring sends; two: their chunks twice.
  CHECK(sent_by([&] { group().tree_all_reduce({{x, 0}}, x).wait(); }) == 2 * 4800 * others / (others + 1));
  CHECK(sent_by([&] {
          group().tree_all_reduce({{x, 0}, {x.clone(), 0}}, x).wait();
        }) == 3 * 4800 * others / (others + 1));
}

TEST_CASE("What MPI cannot count is refused, and so is a second group") {
  float element = 0;
  const Tensor huge = Tensor::from_blob(&element, {std::int64_t{1} << 31});
  CHECK_THROWS_AS(group().all_reduce(huge), ShapeError);
  CHECK_THROWS_AS(group().broadcast(huge), ShapeError);
  CHECK_THROWS_AS(group().tree_all_reduce({{huge, 0}}, huge), ShapeError);
  CHECK_THROWS_AS(mpi_process_group(), CommError);
  CHECK(group().backend() == "mpi");
  CHECK(group().device() == kCpu);
}
