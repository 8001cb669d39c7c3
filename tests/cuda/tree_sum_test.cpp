#include <lockstep/kernels/tree_sum.h>

#include <cstring>

#include <lockstep/core/base/error.h>
#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

TEMPLATE_TEST_CASE("the CUDA tree sum has the CPU's bits, any size, alignment and number of parts", "", float, float16,
                   bfloat16) {
  if (!have_cuda()) return;
  using T = TestType;
  int cases = 0;
  // Leaves of trees of many shapes, and inner nodes that ranks have summed: levels from left to right.
  const std::vector<std::vector<int>> trees = {{0},
                                               {0, 0},
                                               {0, 0, 0},
                                               {1, 0, 0, 1, 1},
                                               {2, 1, 0},
                                               {3, 2, 1, 0},
                                               {4, 3, 2, 1, 0},
                                               {11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0},
                                               std::vector<int>(16, 0),
                                               std::vector<int>(128, 0),
                                               std::vector<int>(100, 0)};
  for (const std::vector<int>& levels : trees) {
    for (const std::int64_t n : {0, 1, 7, 64, 515}) {
      for (const std::int64_t offset : {0, 1}) {
        if (levels.size() > 20 && n > 64) continue;
        std::vector<DeviceBuffer<T>> buffers;
        std::vector<std::vector<T>> values;
        std::vector<TreePart<T>> there, here;
        for (std::size_t k = 0; k < levels.size(); ++k) {
          values.push_back(random_elements<T>(n, -1, 1, k));
          buffers.emplace_back(values.back(), k == 0 ? offset : 0);  // one part is enough to be out of step
        }
        for (std::size_t k = 0; k < levels.size(); ++k) {
          there.push_back({buffers[k].data(), levels[k]});
          here.push_back({values[k].data(), levels[k]});
        }
        std::vector<T> expected(static_cast<std::size_t>(n));
        kernels::tree_sum<T>(kOnCpu, n, here, expected.data());
        const bool in_place = n == 64;
        const DeviceBuffer<T> out(n, offset);
        T* to = in_place ? buffers.back().data() : out.data();
        kernels::tree_sum<T>(cuda_stream(), n, there, to);
        const auto actual = in_place ? buffers.back().download() : out.download();
        CAPTURE(levels.size(), n, offset);
        CHECK((n == 0 || std::memcmp(actual.data(), expected.data(), actual.size() * sizeof(T)) == 0));
        ++cases;
      }
    }
  }
  std::printf("tree_sums: %d\n", cases);
}

TEST_CASE("the CUDA tree sum refuses what does not fit its parameters") {
  if (!have_cuda()) return;
  float x = 0;
  const std::vector<TreePart<float>> many(129, {&x, 0});
  std::vector<TreePart<float>> deep;
  for (int level = 12; level >= 0; --level) deep.push_back({&x, level});
  CHECK_THROWS_AS(kernels::tree_sum<float>(cuda_stream(), 1, many, &x), ValueError);
  CHECK_THROWS_AS(kernels::tree_sum<float>(cuda_stream(), 1, deep, &x), ValueError);
  CHECK_THROWS_AS(kernels::tree_sum<float>(cuda_stream(), 1, {}, &x), ValueError);
}
