// Memory of CUDA devices: its statistics, and what happens where it runs out.
#include <catch2/catch.hpp>

#include <lockstep/core/allocator.h>
#include <lockstep/core/base/error.h>
#include <lockstep/core/tensor.h>
#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

TEST_CASE("The statistics of a CUDA device count the bytes that tensors hold") {
  if (!have_cuda()) return;
  const std::int64_t before = memory_stats(kCuda).live;
  reset_peak_memory(kCuda);
  {
    const Tensor x = Tensor::empty({1000}, {.device = kCuda});
    CHECK(memory_stats(kCuda).live == before + 4000);
    {
      const Tensor y = Tensor::empty({500}, {.device = kCuda});
      CHECK(memory_stats(kCuda).peak == before + 6000);
    }
    CHECK(memory_stats(kCuda).live == before + 4000);
    CHECK(memory_stats(kCuda).peak == before + 6000);
    reset_peak_memory(kCuda);
    CHECK(memory_stats(kCuda).peak == before + 4000);
    CHECK(x.nbytes() == 4000);
  }
  CHECK(memory_stats(kCuda).live == before);
  empty_cache(kCuda);
  CHECK(memory_stats(kCuda).cached >= 0);
  CHECK_THAT(memory_summary(kCuda), Catch::Contains("live"));
  CHECK(Tensor::empty({0}, {.device = kCuda}).numel() == 0);
  CHECK(memory_stats(kCuda).live == before);
}

TEST_CASE("A CUDA device that has not enough memory says what it has, and goes on working") {
  if (!have_cuda()) return;
  const std::int64_t before = memory_stats(kCuda).live;
  CHECK_THROWS_AS(Tensor::empty({std::int64_t{1} << 44}, {.device = kCuda}), OutOfMemoryError);
  CHECK_THROWS_WITH(Tensor::empty({std::int64_t{1} << 44}, {.device = kCuda}),
                    Catch::Contains("cuda:0") && Catch::Contains("free") && Catch::Contains("live"));
  CHECK(memory_stats(kCuda).live == before);
  CHECK(Tensor::full({3}, 2.0, {.device = kCuda}).to_vector<float>() == std::vector<float>(3, 2.0f));
}

}  // namespace
