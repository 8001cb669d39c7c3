// Streams, events, guards, copies between devices, and memory that several streams use. On emulated devices a missing
// wait is an error of the device in whatever order the work runs; on others it is a wrong value, sometimes.
#include <lockstep/core/base/stream.h>

#include <thread>

#include <cuda_runtime.h>
#include <catch2/catch.hpp>

#include <lockstep/core/base/error.h>
#include <lockstep/core/ops.h>
#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

constexpr Device kNext{Device::Type::cuda, 1};

Tensor filled(double value, Device device = kCuda) { return Tensor::full({300}, value, {.device = device}); }

/// `x` times two, by a kernel that is queued in `stream`.
Tensor twice(const Tensor& x, const Stream& stream) {
  const StreamGuard guard(stream);
  return mul(x, filled(2.0, x.device()));
}

std::vector<float> all(float value) { return std::vector<float>(300, value); }

int current_device() {
  int device = -1;
  CHECK(cudaGetDevice(&device) == cudaSuccess);
  return device;
}

TEST_CASE("A stream guard makes a stream current in its thread, and restores the one before") {
  if (!have_cuda()) return;
  const Stream shared = current_stream(kCuda), mine(kCuda), other(kCuda, -1);
  CHECK(shared == current_stream(kCuda));
  CHECK_FALSE(mine == other);
  CHECK(mine.device() == kCuda);
  {
    const StreamGuard guard(mine);
    CHECK(current_stream(kCuda) == mine);
    {
      const StreamGuard inner(other);
      CHECK(current_stream(kCuda) == other);
    }
    CHECK(current_stream(kCuda) == mine);
    std::thread([&] { CHECK(current_stream(kCuda) == shared); }).join();
    CHECK(Stream::external(kCuda, mine.handle()) == mine);
  }
  CHECK(current_stream(kCuda) == shared);
  if (cuda_device_count() > 1) {
    const Stream next(kNext);
    const StreamGuard guard(next);
    CHECK(current_stream(kNext) == next);
    CHECK(current_stream(kCuda) == shared);
  }
}

TEST_CASE("A stream waits for what an event marks, and no longer") {
  if (!have_cuda()) return;
  const Stream a = current_stream(kCuda), b(kCuda);
  const Tensor x = filled(3.0);
  b.wait(Event(a));
  const Tensor y = twice(x, b);
  b.synchronize();
  CHECK(y.to_vector<float>() == all(6.0f));
}

TEST_CASE("The host waits for events and streams, or asks until they are done") {
  if (!have_cuda()) return;
  const Stream b(kCuda);
  for (const int way : {0, 1, 2, 3}) {
    CAPTURE(way);
    Tensor x;
    {
      const StreamGuard guard(b);
      x = filled(static_cast<double>(way));
    }
    const Event done(b);
    switch (way) {
      case 0: done.synchronize(); break;
      case 1:
        while (!done.is_done()) continue;
        break;
      case 2: b.synchronize(); break;
      default:
        while (!b.is_idle()) continue;
    }
    CHECK(done.is_done());
    CHECK(b.is_idle());
    CHECK(x.to_vector<float>() == all(static_cast<float>(way)));  // by the shared stream, which waits for nothing
    x.record_stream(current_stream(kCuda));
  }
}

TEST_CASE("Events tell the time between them") {
  if (!have_cuda()) return;
  const Stream a = current_stream(kCuda);
  const Event start(a);
  const Tensor x = filled(1.0);
  const Event end(a);
  end.synchronize();
  CHECK(end.milliseconds_since(start) >= 0.0);
  CHECK(start.milliseconds_since(end) <= 0.0);
}

TEST_CASE("Memory is not freed before the work of all recorded streams") {
  if (!have_cuda()) return;
  const Stream a = current_stream(kCuda), b(kCuda), c(kCuda);
  for (int round = 0; round < 4; ++round) {
    Tensor x = filled(3.0);
    const Event ready(a);
    b.wait(ready);
    c.wait(ready);
    const Tensor y = twice(x, b), z = twice(x, c);
    for (const Stream& stream : {b, c, b}) x.record_stream(stream);
    x = Tensor();                      // freed in the order of stream a
    const Tensor again = filled(7.0);  // in the same place, perhaps
    b.synchronize();
    c.synchronize();
    a.synchronize();
    CHECK(y.to_vector<float>() == all(6.0f));
    CHECK(z.to_vector<float>() == all(6.0f));
    CHECK(again.to_vector<float>() == all(7.0f));
  }
  CHECK_THROWS_AS(Tensor::ones({2}).record_stream(a), DeviceError);
}

TEST_CASE("Memory is freed in the order of the stream that it was allocated for") {
  if (!have_cuda()) return;
  const Stream b(kCuda);
  for (int round = 0; round < 4; ++round) {
    Tensor x, y;
    {
      const StreamGuard guard(b);
      x = filled(3.0);
      y = mul(x, x);
    }
    x = Tensor();  // while another stream is current
    const Tensor again = filled(7.0);
    b.synchronize();
    CHECK(y.to_vector<float>() == all(9.0f));
    CHECK(again.to_vector<float>() == all(7.0f));
  }
}

TEST_CASE("Copies between devices are in order with the work on both") {
  if (!have_cuda()) return;
  if (cuda_device_count() < 2) return;
  for (int round = 0; round < 4; ++round) {
    Tensor x = filled(1.0), target = filled(2.0, kNext);
    const Tensor y = x.to(kNext);
    x.fill_(5.0);  // after the copy has read it
    target.copy_(y);
    const Tensor back = add(target, y).to(kCuda);
    CHECK(add(back, x).to_vector<float>() == all(7.0f));
    CHECK(y.to_vector<float>() == all(1.0f));
  }
}

TEST_CASE("A copy to the host is there when the call returns, also in pinned memory") {
  if (!have_cuda()) return;
  const Tensor x = filled(4.0);
  CHECK(x.to(kCpu).to_vector<float>() == all(4.0f));
  const Tensor pinned = Tensor::empty_pinned({300});
  detail::copy_bytes(pinned.nbytes(), x.data_ptr(), kCuda, pinned.data_ptr(), kCpu);
  CHECK(pinned.to_vector<float>() == all(4.0f));
  const Tensor there = pinned.to(kCuda);
  CHECK(there.clone().to_vector<float>() == all(4.0f));
}

TEST_CASE("A device guard makes a device current, and restores the one before") {
  if (!have_cuda()) return;
  const DeviceGuard outer(kCuda);
  {
    const DeviceGuard cpu(kCpu);
    const DeviceGuard same(kCuda);
    CHECK(current_device() == 0);
  }
  CHECK(current_device() == 0);
  if (cuda_device_count() < 2) return;
  {
    const DeviceGuard guard(kNext);
    CHECK(current_device() == 1);
    const DeviceGuard inner(kCuda);
    CHECK(current_device() == 0);
  }
  CHECK(current_device() == 0);
  const Stream there(kNext);
  CHECK(current_device() == 0);  // made on its own device
}

TEST_CASE("Streams of devices that are not there are refused") {
  if (!have_cuda()) return;
  const Device missing{Device::Type::cuda, cuda_device_count()};
  CHECK_THROWS_AS(Stream(missing), DeviceError);
  CHECK_THROWS_AS(Stream(kCpu), DeviceError);
  CHECK_THROWS_AS(current_stream(missing), DeviceError);
  CHECK_THROWS_AS(DeviceGuard(missing), DeviceError);
  CHECK_NOTHROW(synchronize(kCpu));
}

}  // namespace
