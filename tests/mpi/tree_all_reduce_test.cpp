// tree_all_reduce gives the bits of kernels::tree_sum over all summands, for any number of summands and ranks.
#include <catch2/catch.hpp>
#include <cstring>
#include <iostream>

#include <lockstep/core/base/error.h>
#include <lockstep/core/base/philox.h>
#include <lockstep/core/base/run.h>
#include <lockstep/kernels/tree_sum.h>
#include <lockstep/tests/mpi/mpi_test.h>

using namespace lockstep;

namespace {

/// Summand `index`: of such different sizes that another order of additions gives other bits.
template <class T>
Tensor summand(std::int64_t index, std::int64_t n) {
  PhiloxStream stream(42, static_cast<std::uint64_t>(index));
  std::vector<T> values(static_cast<std::size_t>(n));
  for (T& value : values) {
    value = static_cast<T>(static_cast<double>(stream.next_below(1u << 20)) / (1 << 20) - 0.5);
    value *= static_cast<T>(1 << stream.next_below(12));
  }
  return Tensor::from(values, {n});
}

template <class T>
Tensor sum_of(const std::vector<Tensor>& summands) {
  std::vector<TreePart<T>> parts;
  for (const Tensor& x : summands) parts.push_back({x.data<T>(), 0});
  const Tensor out = Tensor::empty(summands[0].shape(), summands[0].options());
  kernels::tree_sum<T>(kOnCpu, out.numel(), parts, out.data<T>());
  return out;
}

/// The largest nodes below [first, first + 2^level) that lie within `run`, summed.
template <class T>
void sum_nodes(const std::vector<Tensor>& summands, Run run, std::int64_t first, int level,
               std::vector<TreeTensor>& nodes) {
  const auto all = static_cast<std::int64_t>(summands.size());
  const std::int64_t end = std::min(first + (std::int64_t{1} << level), all);
  if (first >= run.end || end <= run.begin || first >= all) return;
  if (first >= run.begin && end <= run.end) {
    nodes.push_back({sum_of<T>({summands.begin() + first, summands.begin() + end}), level});
    return;
  }
  sum_nodes<T>(summands, run, first, level - 1, nodes);
  sum_nodes<T>(summands, run, first + (std::int64_t{1} << (level - 1)), level - 1, nodes);
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.nbytes() == b.nbytes() && (a.nbytes() == 0 || std::memcmp(a.data_ptr(), b.data_ptr(), a.nbytes()) == 0);
}

template <class T>
int check_all(int& order_matters) {
  int cases = 0;
  for (const std::int64_t n : {0, 1, 3, 1000, 100'003}) {
    for (std::int64_t replicas = 1; replicas <= 9; ++replicas) {
      std::vector<Tensor> summands;
      for (std::int64_t index = 0; index < replicas; ++index) summands.push_back(summand<T>(index, n));
      const Tensor expected = sum_of<T>(summands);
      Tensor in_row = summands[0].clone();
      for (std::int64_t index = 1; index < replicas; ++index) in_row.add_(summands[static_cast<std::size_t>(index)]);
      order_matters += !same_bits(in_row, expected);
      const Run mine = part_of(replicas, group().size(), group().rank());  // none, where there are fewer than ranks
      for (const bool summed : {false, true}) {
        for (const bool in_place : {false, true}) {
          std::vector<TreeTensor> parts;
          if (summed) {
            sum_nodes<T>(summands, mine, 0, 4, parts);
          } else {
            for (std::int64_t index = mine.begin; index < mine.end; ++index) {
              parts.push_back({summands[static_cast<std::size_t>(index)].clone(), 0});
            }
          }
          const Tensor out = in_place && !parts.empty() ? parts.back().sum : Tensor::empty({n}, expected.options());
          group().tree_all_reduce(std::move(parts), out).wait();
          CAPTURE(n, replicas, summed, in_place);
          CHECK(same_bits(out, expected));
          ++cases;
        }
      }
    }
  }
  return cases;
}

}  // namespace

TEST_CASE("tree_all_reduce gives the same bits however the summands are spread") {
  int order_matters = 0;
  const int cases = check_all<float>(order_matters) + check_all<double>(order_matters);
  CHECK(order_matters > 0);
  if (group().rank() == 0)
    std::cout << "tree sums: " << cases << "\ntree sums unlike sums in a row: " << order_matters << '\n';
}

TEST_CASE("tree_all_reduce without any part is refused on all ranks") {
  const Tensor out = Tensor::empty({3});
  Work work = group().tree_all_reduce({}, out);
  CHECK_THROWS_AS(work.wait(), CommError);
  group().barrier();
}
