// Faults of synchronisation between streams, devices and the host are caught and named, in whatever order the work
// runs; the same programs with the missing call in place pass.
#include <atomic>
#include <chrono>
#include <thread>

#include <lockstep/tests/emulation/fixture.h>
#include <lockstep/tests/emulation/test_kernels.h>

namespace lockstep::test {
namespace {

using Catch::Matchers::Contains;

constexpr std::int64_t kCount = 300;
constexpr std::size_t kBytes = kCount * sizeof(float);

int g_planted_faults = 0;

template <class Body>
void check_fault(const char* name, Body body, std::vector<std::string> words) {
  INFO(name);
  std::vector<std::string> texts;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    emulation::set_seed(seed);
    const std::string twin = fault_of([&] { body(false); });
    CHECK(twin == "");
    const std::string text = fault_of([&] { body(true); });
    if (seed == 0) std::cout << name << ": " << text << "\n";
    for (const std::string& word : words) CHECK_THAT(text, Contains(word));
  }
  ++g_planted_faults;
}

void wait_for(cudaStream_t stream, cudaStream_t other) {
  TestEvent event;
  LOCKSTEP_CUDA_CHECK(cudaEventRecord(event, other));
  LOCKSTEP_CUDA_CHECK(cudaStreamWaitEvent(stream, event));
}

TEST_CASE("order between streams") {
  TestStream a, b;
  Memory<float> x(kCount), y(kCount), z(kCount);
  check_fault("missing event wait, then read",
              [&](bool faulty) {
                launch_fill(x, kCount, 1.0f, a);
                if (!faulty) wait_for(b, a);
                launch_scale(x, y, kCount, 2.0f, b);
                a.synchronize();
                b.synchronize();
              },
              {"scale_kernel<float>"});
  check_fault("missing event wait, then overwrite",
              [&](bool faulty) {
                launch_scale(x, y, kCount, 2.0f, a);
                if (!faulty) wait_for(b, a);
                LOCKSTEP_CUDA_CHECK(cudaMemsetAsync(x, 0, kBytes, b));
                a.synchronize();
                b.synchronize();
              },
              {"race", "cudaMemsetAsync", "scale_kernel<float>", "an event wait is missing"});
  check_fault("two readers, one not waited for",
              [&](bool faulty) {
                launch_fill(x, kCount, 1.0f, a);
                wait_for(b, a);
                launch_scale(x, y, kCount, 2.0f, a);
                launch_scale(x, z, kCount, 2.0f, b);
                if (!faulty) wait_for(a, b);
                launch_fill(x, kCount, 3.0f, a);
                a.synchronize();
                b.synchronize();
              },
              {"race", "an event wait is missing"});
  check_fault("wrong stream: waits for the stream that does not write",
              [&](bool faulty) {
                TestStream c;
                launch_fill(x, kCount, 1.0f, a);
                wait_for(b, faulty ? c : a);
                launch_scale(x, y, kCount, 2.0f, b);
                a.synchronize();
                b.synchronize();
              },
              {"race", "an event wait is missing"});
  check_fault("wait queued before the record",
              [&](bool faulty) {
                TestEvent event;
                if (faulty) LOCKSTEP_CUDA_CHECK(cudaStreamWaitEvent(b, event));
                launch_fill(x, kCount, 1.0f, a);
                LOCKSTEP_CUDA_CHECK(cudaEventRecord(event, a));
                if (!faulty) LOCKSTEP_CUDA_CHECK(cudaStreamWaitEvent(b, event));
                launch_scale(x, y, kCount, 2.0f, b);
                a.synchronize();
                b.synchronize();
              },
              {"race", "an event wait is missing"});
}

TEST_CASE("a stream of another device") {
  TestStream other(1), a(0);
  Memory<float> x(kCount);
  check_fault("launch on a stream of another device",
              [&](bool faulty) { launch_fill(x, kCount, 1.0f, faulty ? other : a); },
              {"fill_kernel", "on stream", "of cuda:1 while the current device is cuda:0"});
  check_fault("the default stream", [&](bool faulty) { launch_fill(x, kCount, 1.0f, faulty ? nullptr : a.handle); },
              {"the default stream is never used here"});
}

float* allocate(cudaStream_t stream) {
  void* pointer = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaMallocAsync(&pointer, kBytes, stream));
  return static_cast<float*>(pointer);
}

TEST_CASE("memory of the stream-ordered allocator") {
  TestStream a, b;
  Memory<float> y(kCount);
  check_fault("memory freed while another stream uses it",
              [&](bool faulty) {
                float* x = allocate(a);
                launch_fill(x, kCount, 1.0f, a);
                wait_for(b, a);
                launch_scale(x, y, kCount, 2.0f, b);
                if (!faulty) wait_for(a, b);
                LOCKSTEP_CUDA_CHECK(cudaFreeAsync(x, a));
                a.synchronize();
                b.synchronize();
              },
              {"free", "scale_kernel<float>"});
  check_fault("memory used after it was freed",
              [&](bool faulty) {
                float* x = allocate(a);
                launch_fill(x, kCount, 1.0f, a);
                if (faulty) LOCKSTEP_CUDA_CHECK(cudaFreeAsync(x, a));
                launch_scale(x, y, kCount, 2.0f, a);
                if (!faulty) LOCKSTEP_CUDA_CHECK(cudaFreeAsync(x, a));
                a.synchronize();
              },
              {"scale_kernel<float>", "used after it was freed by cudaFreeAsync on stream"});
  check_fault("memory used on a stream that its allocation is not before",
              [&](bool faulty) {
                float* x = allocate(a);
                if (!faulty) wait_for(b, a);
                launch_fill(x, kCount, 1.0f, b);
                b.synchronize();
                LOCKSTEP_CUDA_CHECK(cudaFreeAsync(x, b));
              },
              {"race", "fill_kernel", "cudaMallocAsync on stream"});
  check_fault("a block of our own cache reused while another stream uses it",
              [&](bool faulty) {
                Memory<float> block(kCount);
                launch_fill(block, kCount, 1.0f, a);
                wait_for(b, a);
                launch_scale(block, y, kCount, 2.0f, b);
                // The block is given to another tensor, which stream a fills.
                if (!faulty) wait_for(a, b);
                launch_fill(block, kCount, 0.0f, a);
                a.synchronize();
                b.synchronize();
              },
              {"race", "fill_kernel", "scale_kernel<float>", "an event wait is missing"});
  check_fault("freed twice",
              [&](bool faulty) {
                float* x = allocate(a);
                LOCKSTEP_CUDA_CHECK(cudaFreeAsync(x, a));
                if (faulty) LOCKSTEP_CUDA_CHECK(cudaFreeAsync(x, a));
              },
              {"freed twice", "cudaFreeAsync(x, a)"});
}

TEST_CASE("pinned memory") {
  TestStream a;
  Memory<float> x(kCount);
  check_fault("pinned memory overwritten before the copy ran",
              [&](bool faulty) {
                Pinned<float> host(kCount);
                for (std::int64_t i = 0; i < kCount; ++i) host[i] = 1.0f;
                LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(x, host, kBytes, cudaMemcpyHostToDevice, a));
                if (!faulty) a.synchronize();
                host[7] = 2.0f;
                a.synchronize();
              },
              {"cudaMemcpyAsync of 1200 bytes", "the host changed its pinned source"});
  check_fault("pinned memory freed before the copy ran",
              [&](bool faulty) {
                void* host = nullptr;
                LOCKSTEP_CUDA_CHECK(cudaMallocHost(&host, kBytes));
                LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(host, x, kBytes, cudaMemcpyDeviceToHost, a));
                if (!faulty) a.synchronize();
                const cudaError_t error = cudaFreeHost(host);
                if (faulty) a.synchronize();
                LOCKSTEP_CUDA_CHECK(error == cudaSuccess ? error : (cudaFreeHost(host), cudaErrorInvalidValue));
              },
              {"cudaErrorInvalidValue"});
  Pinned<float> part(4);
  LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(part, x, 8, cudaMemcpyDeviceToHost, a));
  CHECK(part[0] != part[0]);  // only a part of the page is written: it is poisoned, not protected
  a.synchronize();
  CHECK(part[0] == 1.0f);
}

TEST_CASE("pageable memory: sources are copied before the call returns, targets have their values") {
  TestStream a;
  Memory<float> x(kCount);
  std::vector<float> host(kCount, 4.0f);
  LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(x, host.data(), kBytes, cudaMemcpyDefault, a));
  host.assign(kCount, 0.0f);
  CHECK(x.read(a) == std::vector<float>(kCount, 4.0f));
}

TEST_CASE("copies between devices, with and without peer access") {
  TestStream b(1);
  Memory<float> y(kCount);
  TestStream a(0);
  Memory<float> x(std::vector<float>(kCount, 5.0f), a);
  wait_for(b, a);
  LOCKSTEP_CUDA_CHECK(cudaMemcpyPeerAsync(y, 1, x, 0, kBytes, b));
  CHECK(y.read(b) == std::vector<float>(kCount, 5.0f));
  LOCKSTEP_CUDA_CHECK(cudaMemcpyAsync(x, y, kBytes, cudaMemcpyDefault, b));
  CHECK(cudaMemcpyPeerAsync(y, 0, x, 1, kBytes, b) == cudaErrorInvalidValue);
  CHECK(cudaMemcpyAsync(y, x, kBytes, cudaMemcpyHostToDevice, b) == cudaErrorInvalidValue);
  CHECK(cudaMemcpyAsync(y, x, kBytes + 1, cudaMemcpyDefault, b) == cudaErrorInvalidValue);
  CHECK(cudaPeekAtLastError() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaSuccess);
  b.synchronize();
  check_fault("a copy on another device's stream without a wait",
              [&](bool faulty) {
                launch_fill(x, kCount, 1.0f, a);
                if (!faulty) wait_for(b, a);
                LOCKSTEP_CUDA_CHECK(cudaMemcpyPeerAsync(y, 1, x, 0, kBytes, b));
                a.synchronize();
                b.synchronize();
              },
              {"race", "cudaMemcpyAsync", "fill_kernel"});
}

TEST_CASE("queries come to an end; events tell time; the host waits for events") {
  TestStream a, b;
  Memory<float> x(kCount);
  TestEvent start, end;
  LOCKSTEP_CUDA_CHECK(cudaEventRecord(start, a));
  launch_fill(x, kCount, 1.0f, a);
  LOCKSTEP_CUDA_CHECK(cudaEventRecord(end, a));
  CHECK(cudaEventQuery(end) == cudaErrorNotReady);
  int queries = 1;
  while (cudaEventQuery(end) == cudaErrorNotReady) ++queries;
  CHECK(queries >= 1);
  float milliseconds = -1.0f;
  LOCKSTEP_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, start, end));
  CHECK(milliseconds >= 0.0f);
  launch_fill(x, kCount, 2.0f, b);  // after the host has seen the event: ordered
  b.synchronize();
  launch_fill(x, kCount, 2.0f, a);
  CHECK(cudaStreamQuery(a) == cudaErrorNotReady);
  while (cudaStreamQuery(a) == cudaErrorNotReady) continue;
}

TEST_CASE("a host function runs though nobody waits for its stream") {
  TestStream a;
  std::atomic<bool> called = false;
  LOCKSTEP_CUDA_CHECK(cudaLaunchHostFunc(
      a, [](void* flag) { static_cast<std::atomic<bool>*>(flag)->store(true); }, &called));
  for (int i = 0; i < 500 && !called; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CHECK(called);
}

TEST_CASE("a device's error stays until reset, and other devices work") {
  TestStream b(1);
  Memory<float> y(kCount);
  TestStream a(0);
  Memory<float> x(kCount), z(kCount);
  launch_scale(x, z, kCount, 1.0f, a);  // x has no values
  CHECK(cudaStreamSynchronize(a) == cudaErrorLaunchFailure);
  CHECK(cudaStreamSynchronize(a) == cudaErrorLaunchFailure);
  CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  CHECK_THROWS_AS(launch_fill(x, kCount, 1.0f, a), DeviceError);
  LOCKSTEP_CUDA_CHECK(cudaSetDevice(1));
  launch_fill(y, kCount, 1.0f, b);
  b.synchronize();
  LOCKSTEP_CUDA_CHECK(cudaSetDevice(0));
  emulation::reset();
  launch_fill(x, kCount, 1.0f, a);
  a.synchronize();
}

TEST_CASE("memory runs out at the limit, and queued frees count") {
  TestStream a;
  std::size_t free_bytes = 0, total = 0;
  LOCKSTEP_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total));
  const std::size_t used = total - free_bytes;
  emulation::set_memory_limit(0, used + 2 * kBytes);
  float *one = allocate(a), *two = allocate(a);
  void* three = nullptr;
  CHECK_THROWS_AS(allocate(a), OutOfMemoryError);
  CHECK(cudaGetLastError() == cudaSuccess);
  LOCKSTEP_CUDA_CHECK(cudaFreeAsync(one, a));
  three = allocate(a);
  LOCKSTEP_CUDA_CHECK(cudaFreeAsync(two, a));
  LOCKSTEP_CUDA_CHECK(cudaFreeAsync(three, a));
  a.synchronize();
  emulation::set_memory_limit(0, total);
}

TEST_CASE("host code that stands in for a library's kernel keeps the stream's order") {
  TestStream a, b;
  Memory<float> x(kCount), y(kCount);
  emulation::clear_kernel_log();
  const auto forward = [&](cudaStream_t stream) {
    emulation::run_on_stream("twice", stream, {{x, kBytes}}, {{y, kBytes}}, [&] {
      for (std::int64_t i = 0; i < kCount; ++i) y.data[i] = 2.0f * x.data[i];
    });
  };
  check_fault("forwarded kernel without an order to its input",
              [&](bool faulty) {
                launch_fill(x, kCount, 3.0f, a);
                forward(faulty ? b : a);
                a.synchronize();
                b.synchronize();
              },
              {"forwarded kernel twice", "race"});
  launch_fill(x, kCount, 3.0f, a);
  forward(a);
  CHECK(y.read(a) == std::vector<float>(kCount, 6.0f));
  CHECK(emulation::kernel_log().at("twice").forwarded);
}

TEST_CASE("several host threads drive several devices") {
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int device = 0; device < 4; ++device) {
    threads.emplace_back([device, &right] {
      TestStream stream(device);
      for (int i = 0; i < 20; ++i) {
        Memory<float> x(kCount), y(kCount);
        launch_fill(x, kCount, static_cast<float>(i), stream);
        launch_scale(x, y, kCount, 2.0f, stream);
        right += y.read(stream) == std::vector<float>(kCount, 2.0f * static_cast<float>(i));
      }
    });
  }
  for (std::thread& t : threads) t.join();
  CHECK(right == 80);
}

TEST_CASE("the number of kinds of faults that were planted in synchronisation") {
  std::cout << "planted_faults: " << g_planted_faults << "\n";
  CHECK(g_planted_faults >= 12);
}

}  // namespace
}  // namespace lockstep::test
