// An error that a kernel makes shows at the next synchronisation, which names the kernel and the ops queued last.
#include <catch2/catch.hpp>

#include <lockstep/core/base/error.h>
#include <lockstep/core/ops.h>
#include <lockstep/kernels/cuda/emulation/emulation.h>
#include <lockstep/kernels/elementwise.h>
#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

using Catch::Contains;

TEST_CASE("A fault shows at the next synchronisation, with the ops that were queued before it, the latest first") {
  const DeviceBuffer<float> x(10), y(20);
  {
    const Tensor a = Tensor::ones({8}, {.device = kCuda});
    const Tensor b = exp(a), c = neg(b);
    kernels::unary_forward<float>(cuda_stream(), UnaryOp::relu, 20, x.data(), y.data());
    const Stream stream = current_stream(kCuda);
    CHECK_THROWS_AS(stream.synchronize(), DeviceError);
    CHECK_THROWS_WITH(stream.synchronize(),
                      Contains("cuda:0") && Contains("map_kernel") && Contains("queued last: neg, exp, full"));
    CHECK_THROWS_AS(stream.is_idle(), DeviceError);
    CHECK_THROWS_AS(synchronize(kCuda), DeviceError);
  }
  emulation::reset();
  CHECK(Tensor::ones({2}, {.device = kCuda}).to_vector<float>() == std::vector<float>{1.0f, 1.0f});
}

}  // namespace
