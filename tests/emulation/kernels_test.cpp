// Right kernels compute what they should on emulated devices, and no fault is seen where there is none.
#include <ctime>
#include <numeric>

#include <lockstep/tests/emulation/fixture.h>
#include <lockstep/tests/emulation/test_kernels.h>

namespace lockstep::test {
namespace {

std::vector<float> counting(std::size_t n) {
  std::vector<float> values(n);
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

TEST_CASE("block reductions give the sum for any number of threads and seed") {
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    emulation::set_seed(seed);
    for (const int threads : {32, 64, 96, 1024}) {
      TestStream stream;
      Memory<float> x(counting(1000), stream), sum(1);
      launch_sum(x, sum, 1000, threads, stream);
      CHECK(sum.read(stream)[0] == 499500.0f);
    }
  }
}

TEST_CASE("argmax finds the first of the largest") {
  TestStream stream;
  std::vector<float> values = counting(777);
  values[123] = values[600] = 5000.0f;
  Memory<float> x(values, stream);
  Memory<std::int64_t> index(1);
  launch_argmax(x, index, 777, stream);
  CHECK(index.read(stream)[0] == 123);
}

TEST_CASE("warp shuffles add the lanes of each warp") {
  TestStream stream;
  Memory<float> x(counting(128), stream), sums(4);
  launch_warp_sums(x, sums, 4, stream);
  CHECK(sums.read(stream) == std::vector<float>{496, 1520, 2544, 3568});
}

TEST_CASE("a tiled transpose with 16-byte loads and stores") {
  TestStream stream;
  const int rows = 96, columns = 64;
  Memory<float> x(counting(rows * columns), stream), y(rows * columns);
  emulation::clear_kernel_log();
  emulation::count_distinct_bytes(true);
  launch_transpose(x, y, rows, columns, stream);
  const std::vector<float> result = y.read(stream);
  emulation::count_distinct_bytes(false);
  bool same = true;
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c)
      same &= result[static_cast<std::size_t>(c * rows + r)] == static_cast<float>(r * columns + c);
  }
  CHECK(same);
  const auto log = emulation::kernel_log();
  REQUIRE(log.size() == 1);
  const auto& [name, stats] = *log.begin();
  CHECK(name.find("transpose_kernel") != std::string::npos);
  CHECK(stats.launches == 1);
  CHECK(stats.threads == 6 * 256);
  CHECK(stats.bytes_read == rows * columns * 4);
  CHECK(stats.bytes_written == rows * columns * 4);
  CHECK(stats.distinct_bytes_read == rows * columns * 4);
  CHECK(stats.distinct_bytes_written == rows * columns * 4);
}

TEST_CASE("a histogram by atomics in shared and device memory") {
  TestStream stream;
  std::vector<std::uint8_t> values(5000);
  std::vector<unsigned> expected(256);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<std::uint8_t>(i * i % 251);
    ++expected[values[i]];
  }
  Memory<std::uint8_t> x(values, stream);
  Memory<unsigned> counts(256);
  LOCKSTEP_CUDA_CHECK(cudaMemsetAsync(counts, 0, 256 * sizeof(unsigned), stream));
  launch_histogram(x, counts, 5000, stream);
  CHECK(counts.read(stream) == expected);
}

TEST_CASE("grids and blocks of one to three dimensions") {
  TestStream stream;
  Memory<unsigned> y(2 * 3 * 2 * 4 * 3 * 2);
  launch_coordinates(y, 2, 3, 2, 4, 3, 2, stream);
  const auto values = y.read(stream);
  std::size_t i = 0;
  bool same = true;
  for (unsigned bz = 0; bz < 2; ++bz)
    for (unsigned by = 0; by < 3; ++by)
      for (unsigned bx = 0; bx < 2; ++bx)
        for (unsigned tz = 0; tz < 2; ++tz)
          for (unsigned ty = 0; ty < 3; ++ty)
            for (unsigned tx = 0; tx < 4; ++tx)
              same &= values[i++] == tx + 10 * ty + 100 * tz + 1000 * bx + 10000 * by + 100000 * bz;
  CHECK(same);
}

TEST_CASE("elements: none, one, and more than the grid has threads") {
  TestStream stream;
  emulation::clear_kernel_log();
  launch_fill(nullptr, 0, 1.0f, stream);
  stream.synchronize();
  CHECK(emulation::kernel_log().empty());
  for (const std::int64_t n : {std::int64_t{1}, std::int64_t{257}, std::int64_t{(1 << 22) + 3}}) {
    Memory<float> y(static_cast<std::size_t>(n));
    launch_fill(y, n, 2.0f, stream);
    launch_scale(y, y, n, 3.0f, stream);
    CHECK(y.read(stream) == std::vector<float>(static_cast<std::size_t>(n), 6.0f));
  }
}

TEST_CASE("half elements share a word without a race") {
  TestStream stream;
  std::vector<float16> values;
  for (int i = 0; i < 999; ++i) values.emplace_back(static_cast<float>(i));
  Memory<float16> x(values, stream);
  launch_scale_half(x, x, 999, 2.0f, stream);
  const auto result = x.read(stream);
  CHECK(static_cast<float>(result[998]) == 1996.0f);
}

TEST_CASE("the last block of a launch may read what the others fenced") {
  TestStream stream;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    emulation::set_seed(seed);
    Memory<float> x(std::vector<float>(64 * 8, 1.0f), stream), partial(8), sum(1);
    Memory<unsigned> counter(std::vector<unsigned>{0}, stream);
    launch_last_block_sum(x, partial, counter, sum, 8, true, stream);
    CHECK(sum.read(stream)[0] == 512.0f);
    LOCKSTEP_CUDA_CHECK(cudaMemsetAsync(counter, 0, 4, stream));
    const std::string fault = fault_of([&] { launch_last_block_sum(x, partial, counter, sum, 8, false, stream); });
    CHECK(fault.find("race") != std::string::npos);
  }
}

TEST_CASE("shared memory past 48 KB, constants, votes, bits") {
  TestStream stream;
  Memory<float> y(64);
  launch_large_shared(y, stream);
  CHECK(y.read(stream)[3] == 49996.0f);
  Memory<int> table(8);
  launch_constant_table(table, stream);
  CHECK(table.read(stream) == std::vector<int>{1, 3, 6, 2, 9, 5, 1, 4});
  Memory<unsigned> votes(4);
  launch_vote(votes, stream);
  CHECK(votes.read(stream) == std::vector<unsigned>{0xaaaaaaaau, 1, 0, 16 + 4 + 31 + 0x80000000u});
}

TEST_CASE("an empty kernel runs, and threads cost little") {
  TestStream stream;
  // Processor time, the second of two runs: stacks and pages are there then.
  const auto nanoseconds_per_thread = [&](unsigned blocks, auto launch) {
    double time = 0;
    for (int run = 0; run < 2; ++run) {
      const std::clock_t start = std::clock();
      launch(blocks);
      stream.synchronize();
      time = 1e9 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    }
    return time / (blocks * 256.0);
  };
  const double empty = nanoseconds_per_thread(4000, [&](unsigned b) { launch_empty(stream, b, 256); });
  Memory<float> x(std::vector<float>(256 * 400 + 97, 1.0f), stream), y(256 * 400);
  const double loads = nanoseconds_per_thread(400, [&](unsigned b) { launch_loads(x, y, b, stream); });
  const double warp_sums = nanoseconds_per_thread(400, [&](unsigned b) {
    for (unsigned i = 0; i < b; ++i) launch_warp_sums(x, y, 8, stream);
  });
  std::cout << "empty_thread_ns: " << empty << "\nthread_with_98_accesses_ns: " << loads
            << "\nthread_with_5_shuffles_ns: " << warp_sums << "\n";
  CHECK(loads > 0);
}

}  // namespace
}  // namespace lockstep::test
