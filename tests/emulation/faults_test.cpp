// Faults planted in kernels are caught and named; their twins without the fault pass.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <lockstep/tests/emulation/fixture.h>
#include <lockstep/tests/emulation/test_kernels.h>

namespace lockstep::test {
namespace {

using Catch::Matchers::Contains;

int g_planted_faults = 0;

/// The faulty one is caught with a text that has all of `words`, for several seeds; the twin passes.
template <class Body>
void check_fault(const char* name, Body body, std::vector<std::string> words) {
  INFO(name);
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    emulation::set_seed(seed);
    const std::string twin = fault_of([&] { body(false); });
    CHECK(twin == "");
    const std::string text = fault_of([&] { body(true); });
    if (seed == 0) std::cout << name << ": " << text << "\n";
    for (const std::string& word : words) CHECK_THAT(text, Contains(word));
  }
  ++g_planted_faults;
}

TEST_CASE("accesses out of bounds by one element") {
  TestStream stream;
  Memory<float> x(std::vector<float>(50, 1.0f), stream), y(50);
  check_fault("read one past the end", [&](bool faulty) { launch_read_past(x, y, 50, faulty, stream); },
              {"read_past_kernel", "block (0, 0, 0), thread (49, 0, 0)", "reads 4 bytes", "out of bounds",
               "byte 200, past the end of the 200-byte allocation", "cuda:0"});
  check_fault("write one past the end", [&](bool faulty) { launch_write_past(y, 50, faulty, stream); },
              {"write_past_kernel", "thread (50, 0, 0)", "writes 4 bytes", "past the end of the 200-byte allocation"});
  check_fault("write one before the start", [&](bool faulty) { launch_write_before(y, 50, faulty, stream); },
              {"write_before_kernel", "thread (0, 0, 0)", "4 bytes before the 200-byte allocation"});
  Memory<float> z(64);
  check_fault("write past the shared memory", [&](bool faulty) { launch_past_shared(z, faulty, stream); },
              {"past_shared_kernel", "thread (63, 0, 0)", "the block's 256 bytes of shared memory", "byte 256"});
}

TEST_CASE("barriers") {
  TestStream stream;
  Memory<float> y(64);
  check_fault("missing __syncthreads", [&](bool faulty) { launch_missing_barrier(y, faulty, stream); },
              {"race", "missing_barrier_kernel<true>", "shared memory", "a __syncthreads is missing"});
  check_fault("barrier after an exit", [&](bool faulty) { launch_divergent_exit(y, faulty, stream); },
              {"divergent barrier", "divergent_exit_kernel<true>", "thread (40, 0, 0) has exited"});
  check_fault("two barriers", [&](bool faulty) { launch_divergent_barriers(y, faulty, stream); },
              {"divergent barrier", "divergent_barriers_kernel<true>", "faulty_kernels.cu"});
}

TEST_CASE("warps") {
  TestStream stream;
  Memory<float> y(64);
  check_fault("missing __syncwarp", [&](bool faulty) { launch_missing_warp_sync(y, faulty, stream); },
              {"missing_warp_sync_kernel<true>", "race", "of the same warp", "a __syncwarp is missing"});
  check_fault("shuffle with an exited lane", [&](bool faulty) { launch_shuffle_with_exited(y, faulty, stream); },
              {"shuffle_with_exited_kernel<true>", "thread (4, 0, 0)", "reads lane 5", "has exited"});
  check_fault("shuffle from outside the mask", [&](bool faulty) { launch_shuffle_outside_mask(y, faulty, stream); },
              {"shuffle_outside_mask_kernel<true>", "is not in the mask"});
  check_fault("lanes at different shuffles", [&](bool faulty) { launch_divergent_shuffle(y, faulty, stream); },
              {"divergent warp", "divergent_shuffle_kernel<true>", "__shfl_xor_sync"});
}

TEST_CASE("memory of another device, and of the host") {
  TestStream stream;
  Memory<float> x(std::vector<float>(50, 1.0f), stream), y(50);
  TestStream other_stream(1);
  Memory<float> other(std::vector<float>(50, 1.0f), other_stream);
  other_stream.synchronize();
  LOCKSTEP_CUDA_CHECK(cudaSetDevice(0));
  check_fault("pointer of another device", [&](bool faulty) { launch_scale(faulty ? other : x, y, 50, 2.0f, stream); },
              {"scale_kernel<float>", "of cuda:0", "allocation #", "of cuda:1, to which this device has no access"});
  const std::vector<float> host(50, 1.0f);
  check_fault("pointer of the host",
              [&](bool faulty) { launch_scale(faulty ? host.data() : x.data, y, 50, 2.0f, stream); },
              {"scale_kernel<float>", "memory of the host"});
  LOCKSTEP_CUDA_CHECK(cudaDeviceEnablePeerAccess(1, 0));
  CHECK(fault_of([&] { launch_scale(other, y, 50, 2.0f, stream); }) == "");
  LOCKSTEP_CUDA_CHECK(cudaDeviceDisablePeerAccess(1));
}

TEST_CASE("uninitialised memory") {
  TestStream stream;
  check_fault(
      "uninitialised device memory",
      [&](bool faulty) {
        Memory<float> x(50), y(50);
        launch_fill(x, faulty ? 49 : 50, 1.0f, stream);
        launch_scale(x, y, 50, 2.0f, stream);
        stream.synchronize();
      },
      {"scale_kernel<float>", "thread (49, 0, 0)", "nobody has written", "byte 196 of the 200-byte allocation"});
  Memory<float> y(64);
  check_fault("uninitialised shared memory", [&](bool faulty) { launch_uninitialised_shared(y, faulty, stream); },
              {"uninitialised_shared_kernel<true>", "thread (9, 0, 0)",
               "byte 36 of the block's shared memory is uninitialised"});
  check_fault("copied uninitialised memory",
              [&](bool faulty) {
                Memory<float> x(8), copy(8), z(8);
                launch_fill(x, faulty ? 7 : 8, 1.0f, stream);
                LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(copy, x, 32, cudaMemcpyDefault, stream));
                launch_scale(copy, z, 8, 2.0f, stream);
                stream.synchronize();
              },
              {"scale_kernel<float>", "uninitialised"});
  check_fault("uninitialised memory read by the host",
              [&](bool faulty) {
                Memory<float> x(8);
                launch_fill(x, faulty ? 7 : 8, 1.0f, stream);
                x.read(stream);
              },
              {"cudaMemcpyAsync of 32 bytes", "byte 28 of the 32-byte allocation", "uninitialised"});
}

TEST_CASE("alignment") {
  TestStream stream;
  Memory<float> x(std::vector<float>(8, 1.0f), stream), y(8);
  check_fault(
      "misaligned vector load", [&](bool faulty) { launch_vector_load(x + (faulty ? 1 : 0), y, stream); },
      {"vector_load_kernel", "reads 16 bytes at once", "not a multiple of 16", "byte 4 of the 32-byte allocation"});
}

TEST_CASE("limits of a launch") {
  TestStream stream;
  Memory<float> y(64);
  check_fault("too many threads", [&](bool faulty) { launch_empty(stream, 1, faulty ? 1025 : 1024); },
              {"[launch]", "empty_kernel", "block (1025, 1, 1)", "is 1025, not 1 to 1024"});
  check_fault("too much shared memory",
              [&](bool faulty) { faulty ? launch_too_much_shared(y, stream) : launch_large_shared(y, stream); },
              {"[launch]", "too_much_shared_kernel", "240000 bytes of shared memory", "more than 232448"});
  check_fault("an empty grid", [&](bool faulty) { launch_empty(stream, faulty ? 0 : 1); },
              {"empty_kernel", "grid's size along x is 0"});
}

TEST_CASE("races between blocks") {
  TestStream stream;
  Memory<float> y(std::vector<float>(128, 1.0f), stream);
  check_fault("two blocks write the same", [&](bool faulty) { launch_block_race(y, faulty, stream); },
              {"race", "block_race_kernel<true>", "another block", "wrote", "blocks have no order"});
  check_fault("a block reads what another writes",
              [&](bool faulty) { launch_read_write_block_race(y, faulty, stream); },
              {"race", "read_write_block_race_kernel<true>", "another block"});
  Memory<unsigned> count(std::vector<unsigned>{0}, stream);
  check_fault("count without atomics", [&](bool faulty) { launch_plain_count(count, faulty, stream); },
              {"race", "plain_count_kernel<true>"});
}

/// Standard error and the exit of a child process that runs `body`.
template <class Body>
std::string output_of_child(Body body, bool* crashed) {
  int pipe_ends[2];
  REQUIRE(pipe(pipe_ends) == 0);
  std::cout.flush();
  const pid_t child = fork();
  if (child == 0) {
    dup2(pipe_ends[1], STDERR_FILENO);
    signal(SIGSEGV, SIG_DFL);  // instead of the test framework's report
    cudaDeviceSynchronize();
    body();
    _exit(0);
  }
  close(pipe_ends[1]);
  std::string text;
  char buffer[256];
  for (ssize_t n; (n = read(pipe_ends[0], buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(n));
  close(pipe_ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  *crashed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
  return text;
}

TEST_CASE("host access of device memory ends the program and says what was touched") {
  TestStream stream;
  Memory<float> x(std::vector<float>(50, 1.0f), stream);
  stream.synchronize();
  bool crashed = false;
  const std::string text = output_of_child(
      [&] {
        const volatile float value = x.data[3];
        (void)value;
      },
      &crashed);
  CHECK(crashed);
  CHECK_THAT(text,
             Contains("the host accesses device memory: byte 12 of the 200-byte allocation") && Contains("cuda:0"));
  std::cout << "host access of device memory: " << text;
  CHECK(output_of_child([&] { x.read(stream); }, &crashed) == "");
  CHECK(!crashed);
  ++g_planted_faults;
}

TEST_CASE("host access of pinned memory before the copy has run") {
  TestStream stream;
  Memory<float> x(std::vector<float>(50, 1.0f), stream);
  Pinned<float> host(50);
  bool crashed = false;
  const auto read_back = [&](bool wait) {
    LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(host, x, 200, cudaMemcpyDeviceToHost, stream));
    if (wait) stream.synchronize();
    const volatile float value = host.data[3];
    if (value != 1.0f) _exit(2);
  };
  const std::string text = output_of_child([&] { read_back(false); }, &crashed);
  CHECK(crashed);
  CHECK_THAT(text, Contains("the host accesses pinned memory (of 200 bytes) that a queued copy will write"));
  std::cout << "host read before synchronisation: " << text;
  CHECK(output_of_child([&] { read_back(true); }, &crashed) == "");
  CHECK(!crashed);
  ++g_planted_faults;
}

TEST_CASE("the number of kinds of faults that were planted in kernels") {
  std::cout << "planted_faults: " << g_planted_faults << "\n";
  CHECK(g_planted_faults >= 20);
}

}  // namespace
}  // namespace lockstep::test
