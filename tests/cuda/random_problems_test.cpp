// A few of the registry's random problems on a CUDA device, in every dtype: against float64 on the CPU, and the same
// bits the second time. The problems are a function of LOCKSTEP_SEED.
#include <cstdio>
#include <cstdlib>

#include <catch2/catch.hpp>

#include <lockstep/tests/cuda/cuda_test.h>
#include <lockstep/tests/support/check_op.h>

using namespace lockstep;
using namespace lockstep::test;
using lockstep::testing::have_cuda;
using lockstep::testing::kCuda;

namespace {

constexpr std::int64_t kProblems = 3;  // of each op and dtype: emulated devices are slow

TEST_CASE("Random problems on CUDA agree with float64, and give the same bits again") {
  if (!have_cuda()) return;
  const char* text = std::getenv("LOCKSTEP_SEED");
  const std::uint64_t seed = text ? std::strtoull(text, nullptr, 10) : 1;
  std::printf("random_seed: %llu\n", static_cast<unsigned long long>(seed));
  std::int64_t number = 0, problems = 0;
  for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16}) {
    double worst = 0.0;
    for (const OpEntry& entry : op_registry()) {
      for (std::int64_t i = 0; i < kProblems; ++i) {
        const Sample sample = problem_of(entry, seed, number++);
        CAPTURE(describe(entry, sample), name(dtype));
        const PrecisionCheck check = check_precision(sample, entry.tolerance, dtype, kCuda);
        CHECK(check.failure == "");
        CHECK(repeats_its_bits(sample, dtype, kCuda));
        worst = std::max(worst, check.worst);
        ++problems;
      }
    }
    std::printf("cuda_worst_error_%s: %.2f of its bound\n", std::string(name(dtype)).c_str(), worst);
  }
  std::printf("cuda_random_problems: %lld\n", static_cast<long long>(problems));
}

}  // namespace
