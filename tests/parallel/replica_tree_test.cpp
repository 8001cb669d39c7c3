// The canonical tree: which replicas a rank computes, what it may sum of them, and that the sum is the same whoever
// adds.
#include <lockstep/parallel/replica_tree.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <set>

#include <catch2/catch.hpp>

#include <lockstep/kernels/tree_sum.h>
#include <lockstep/tests/parallel/models.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

/// The definition in kernels/tree_sum.h, level by level.
template <class T>
T tree_value(std::vector<T> values) {
  while (values.size() > 1) {
    std::vector<T> above;
    for (std::size_t i = 0; i < values.size(); i += 2) {
      above.push_back(i + 1 < values.size() ? static_cast<T>(values[i] + values[i + 1]) : values[i]);
    }
    values = above;
  }
  return values[0];
}

/// What a rank sends that computes this run: neighbours are summed as far as are_siblings allows.
template <class T>
void sum_run(Run run, const std::vector<T>& values, std::int64_t replicas, std::vector<T>& sums,
             std::vector<int>& levels) {
  std::vector<std::pair<TreeNode, T>> stack;
  for (std::int64_t r = run.begin; r < run.end; ++r) {
    TreeNode node{r, 0};
    T sum = values[static_cast<std::size_t>(r)];
    while (!stack.empty() && are_siblings(stack.back().first, node, replicas)) {
      sum = stack.back().second + sum;
      node = {stack.back().first.first, stack.back().first.level + 1};
      stack.pop_back();
    }
    stack.emplace_back(node, sum);
  }
  for (const auto& [node, sum] : stack) {
    sums.push_back(sum);
    levels.push_back(node.level);
  }
}

}  // namespace

TEST_CASE("parts are runs that follow each other, sizes one apart at most") {
  for (std::int64_t n = 0; n <= 40; ++n) {
    for (std::int64_t parts = 1; parts <= 12; ++parts) {
      std::int64_t next = 0, largest = 0, smallest = n;
      for (std::int64_t i = 0; i < parts; ++i) {
        const Run run = part_of(n, parts, i);
        CHECK(run.begin == next);
        next = run.end;
        largest = std::max(largest, run.size());
        smallest = std::min(smallest, run.size());
      }
      CHECK(next == n);
      CHECK(largest - smallest <= 1);
    }
  }
  CHECK_THROWS_AS(part_of(3, 2, 2), ValueError);
  CHECK_THROWS_AS(part_of(-1, 2, 0), ValueError);
}

TEST_CASE("the sum along the tree is the same bits for every way to spread replicas over ranks") {
  int ways = 0, differs_from_a_chain = 0;
  for (std::int64_t replicas = 1; replicas <= 33; ++replicas) {
    const Tensor drawn = Tensor::randn({replicas});
    const auto values = drawn.to_vector<float>();
    const float expected = tree_value(values);
    float chain = values[0];
    for (std::size_t i = 1; i < values.size(); ++i) chain += values[i];
    differs_from_a_chain += chain != expected;
    // Every way to cut them into runs, for few replicas; the even ones for many.
    std::vector<std::vector<Run>> cuts;
    if (replicas <= 12) {
      for (int bits = 0; bits < 1 << (replicas - 1); ++bits) {
        std::vector<Run> runs = {{0, 1}};
        for (std::int64_t r = 1; r < replicas; ++r) {
          if (bits >> (r - 1) & 1) {
            runs.push_back({r, r + 1});
          } else {
            ++runs.back().end;
          }
        }
        cuts.push_back(runs);
      }
    } else {
      for (std::int64_t ranks = 1; ranks <= replicas; ++ranks) {
        cuts.emplace_back();
        for (std::int64_t rank = 0; rank < ranks; ++rank) cuts.back().push_back(part_of(replicas, ranks, rank));
      }
    }
    for (const auto& runs : cuts) {
      std::vector<float> sums;
      std::vector<int> levels;
      for (const Run run : runs) {
        const std::size_t before = sums.size();
        sum_run(run, values, replicas, sums, levels);
        CHECK(sums.size() - before <= 12);  // at most 2 log2 of the replicas
      }
      std::vector<TreePart<float>> parts;
      for (std::size_t k = 0; k < sums.size(); ++k) parts.push_back({&sums[k], levels[k]});
      float sum = 0;
      kernels::tree_sum<float>(kOnCpu, 1, parts, &sum);
      if (std::memcmp(&sum, &expected, sizeof(sum)) != 0)
        FAIL_CHECK(replicas << " replicas in " << runs.size() << " runs");
      ++ways;
    }
  }
  CHECK(differs_from_a_chain > 10);  // or the comparison could not fail
  std::printf("ways_to_spread: %d\n", ways);
}

TEST_CASE("a rank sends one sum where ranks are a power of two that divides the replicas") {
  for (const std::int64_t replicas : {1, 2, 4, 8, 16, 12, 24, 40}) {
    for (std::int64_t ranks = 1; ranks <= replicas; ranks *= 2) {
      if (replicas % ranks != 0 || (replicas & (replicas - 1)) != 0) continue;
      for (std::int64_t rank = 0; rank < ranks; ++rank) {
        std::vector<float> sums;
        std::vector<int> levels;
        sum_run(part_of(replicas, ranks, rank), std::vector<float>(static_cast<std::size_t>(replicas), 1.0f), replicas,
                sums, levels);
        CHECK(sums.size() == 1);
      }
    }
  }
}

TEST_CASE(
    "a rank sends one sum of a whole subtree that the last replica cuts short, and several of what is no subtree") {
  const auto sent = [](Run run, std::int64_t replicas) {
    std::vector<float> sums;
    std::vector<int> levels;
    sum_run(run, std::vector<float>(static_cast<std::size_t>(replicas), 1.0f), replicas, sums, levels);
    return sums.size();
  };
  CHECK(sent({4, 7}, 7) == 1);
  CHECK(sent({4, 6}, 6) == 1);
  CHECK(sent({8, 13}, 13) == 1);
  CHECK(sent({0, 5}, 5) == 1);
  CHECK(sent({4, 7}, 8) == 2);
  CHECK(sent({1, 3}, 4) == 2);
  CHECK(sent({3, 7}, 7) == 2);
}

TEST_CASE("the CPU kernel sums arrays of any size along the tree, in place too") {
  int problems = 0;
  for (const std::int64_t n : {0, 1, 7, 1023, 1024, 1025, 50000}) {
    for (const std::size_t count : {1, 2, 3, 5, 8, 13}) {
      std::vector<std::vector<double>> values;
      for (std::size_t k = 0; k < count; ++k)
        values.push_back(Tensor::randn({n}, {.dtype = DType::float64}).to_vector<double>());
      const auto original = values;
      std::vector<TreePart<double>> parts;
      for (const auto& part : values) parts.push_back({part.data(), 0});
      double* out = values[count / 2].data();  // the result takes the place of a part
      kernels::tree_sum<double>(kOnCpu, n, parts, out);
      bool same = true;
      for (std::int64_t i = 0; i < n; ++i) {
        std::vector<double> column;
        for (const auto& part : original) column.push_back(part[static_cast<std::size_t>(i)]);
        same = same && out[i] == tree_value(column);
      }
      CAPTURE(n, count);
      CHECK(same);
      ++problems;
    }
  }
  CHECK_THROWS_AS(kernels::tree_sum<float>(kOnCpu, 1, {}, nullptr), ValueError);
  std::printf("tree_sum_problems: %d\n", problems);
}
