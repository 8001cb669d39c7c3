#include <lockstep/core/base/device.h>

#include <catch2/catch.hpp>

#include <lockstep/core/base/error.h>

using namespace lockstep;

namespace {

TEST_CASE("Devices are read from text") {
  CHECK(parse_device("cpu") == kCpu);
  CHECK(to_string(kCpu) == "cpu");
  CHECK(to_string(Device{Device::Type::cuda, 3}) == "cuda:3");
  const Device best = parse_device("auto");
  CHECK((best.type == Device::Type::cuda) == (cuda_device_count() > 0));
}

TEST_CASE("Text that names no device is a ValueError that says what does") {
  for (const char* text : {"", "tpu", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cuda: 1", "cuda1", "1",
                           "cuda:99999999999999999999"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse_device(text), ValueError);
    CHECK_THROWS_WITH(parse_device(text),
                      Catch::Contains("'cuda:N'") && Catch::Contains("'" + std::string(text) + "'"));
  }
}

TEST_CASE("A device that is not there is a DeviceError") {
  const std::string missing = "cuda:" + std::to_string(cuda_device_count());
  CHECK_THROWS_AS(parse_device(missing), DeviceError);
  CHECK_THROWS_WITH(parse_device(missing), Catch::Contains(missing));
}

}  // namespace
