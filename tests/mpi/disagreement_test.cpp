// Ranks that call different things all get a CommError that names both sides, and the group goes on.
#include <catch2/catch.hpp>
#include <functional>

#include <lockstep/core/base/error.h>
#include <lockstep/tests/mpi/mpi_test.h>

using namespace lockstep;
using Catch::Matchers::Contains;

namespace {

/// The message that `call` fails with.
std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const CommError& error) {
    return error.what();
  }
  return "no error";
}

/// Runs `odd` on rank `rank` and `call` on the others, and looks for both texts in what each of them throws.
void check_disagreement(int rank, const std::function<void()>& odd, const std::string& odd_text,
                        const std::function<void()>& call, const std::string& text) {
  CAPTURE(rank, odd_text, text);
  const std::string error = error_of(group().rank() == rank ? odd : call);
  CHECK_THAT(error, Contains("got " + (rank == 0 ? odd_text : text) + " on rank 0"));
  CHECK_THAT(error, Contains(rank == 0 ? "and " + text + " on rank 1"
                                       : "and " + odd_text + " on rank " + std::to_string(rank)));
  const std::vector<std::int64_t> ranks = group().gather_numbers(group().rank());
  CHECK(ranks.back() == group().size() - 1);
}

}  // namespace

TEST_CASE("Collectives that do not match are an error that names both sides") {
  const Tensor x = Tensor::zeros({8}), longer = Tensor::zeros({2, 6}), integers = Tensor::arange(8);
  const std::function<void()> call = [&] { group().all_reduce(x).wait(); };
  const std::string text = "all_reduce(sum, float32 [8])";
  for (int rank = 0; group().size() > 1 && rank < group().size(); ++rank) {
    check_disagreement(
        rank, [&] { group().broadcast(x, 1).wait(); }, "broadcast(from rank 1, float32 [8])", call, text);
    check_disagreement(
        rank, [&] { group().all_reduce(longer).wait(); }, "all_reduce(sum, float32 [2, 6])", call, text);
    check_disagreement(
        rank, [&] { group().all_reduce(integers).wait(); }, "all_reduce(sum, int64 [8])", call, text);
    check_disagreement(
        rank, [&] { group().all_reduce(x, ReduceOp::max).wait(); }, "all_reduce(max, float32 [8])", call, text);
    check_disagreement(
        rank, [&] { group().barrier(); }, "barrier()", call, text);
    check_disagreement(
        rank,
        [&] {
          group().tree_all_reduce({{x, 0}}, x).wait();
        },
        "tree_all_reduce(float32 [8])", call, text);
    const int other = (rank + 1) % group().size();
    check_disagreement(
        rank, [&] { group().send(x, other); }, "send(float32 [8])", call, text);
    check_disagreement(
        rank, [&] { group().recv(x, other); }, "recv(float32 [8])", call, text);
  }
  CHECK(x.to_vector<float>() == std::vector<float>(8, 0.0f));
}

TEST_CASE("A call under way when another one fails is not hurt by it") {
  if (group().size() == 1) return;
  const Tensor x = Tensor::ones({1000}), y = Tensor::ones({8}), z = Tensor::ones({1000});
  Work before = group().all_reduce(x);
  Work failing = group().rank() == 0 ? group().all_reduce(y) : group().broadcast(y);
  Work after = group().all_reduce(z);
  before.wait();
  CHECK_THAT(error_of([&] { failing.wait(); }), Contains("on rank 0 and broadcast"));
  CHECK_THAT(error_of([&] { failing.wait(); }), Contains("on rank 0 and broadcast"));
  after.wait();
  CHECK(x.to_vector<float>() == std::vector<float>(1000, static_cast<float>(group().size())));
  CHECK(z.to_vector<float>() == std::vector<float>(1000, static_cast<float>(group().size())));
}

TEST_CASE("send meets recv of the same") {
  if (group().size() == 1 || group().rank() > 1) return;
  const Tensor x = Tensor::ones({8}), longer = Tensor::zeros({9});
  const int other = 1 - group().rank();
  const std::string both_send = error_of([&] { group().send(x, other); });
  CHECK_THAT(both_send, Contains("[send] expected send on one rank and recv of the same on the other"));
  const std::string lengths =
      error_of([&] { group().rank() == 0 ? group().send(x, other) : group().recv(longer, other); });
  CHECK_THAT(lengths, Contains("send(float32 [8])") && Contains("recv(float32 [9])"));
  group().rank() == 0 ? group().send(x, other) : group().recv(x, other);
}
