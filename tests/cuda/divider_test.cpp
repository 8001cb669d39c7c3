#include <limits>

#include <lockstep/kernels/cuda/divider.cuh>

#include <lockstep/tests/kernels/kernel_test.h>

using namespace lockstep;

TEST_CASE("Divider divides as the processor does") {
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  std::vector<std::int64_t> numbers{0, kMax, kMax - 1};
  for (int bit = 0; bit < 63; ++bit) {
    const std::int64_t power = std::int64_t{1} << bit;
    for (const std::int64_t number : {power - 1, power, power + 1, power + power / 3}) numbers.push_back(number);
  }
  PhiloxStream draws(3, 0);
  for (int i = 0; i < 200; ++i) {
    const std::uint64_t bits = static_cast<std::uint64_t>(draws.next_u32()) << 32 | draws.next_u32();
    numbers.push_back(static_cast<std::int64_t>(bits >> 1 >> (i % 60)));
  }
  int divisions = 0, wrong = 0;
  for (const std::int64_t d : numbers) {
    if (d < 1) continue;
    const cuda::Divider divider(d);
    for (const std::int64_t n : numbers) {
      std::int64_t rest = -1;
      wrong += n < 0 || (divider.divide(n, rest) == n / d && rest == n % d && divider.quotient(n) == n / d) ? 0 : 1;
      ++divisions;
    }
  }
  CHECK(wrong == 0);
  std::printf("divisions: %d\n", divisions);
}
