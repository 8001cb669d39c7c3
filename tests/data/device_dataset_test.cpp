#include <lockstep/data/device_dataset.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include <lockstep/core/base/error.h>
#include <lockstep/core/base/stream.h>
#include <lockstep/data/data_loader.h>
#include <lockstep/data/synthetic.h>
#include <lockstep/data/transforms/normalize.h>

using namespace lockstep;

namespace {

/// The CPU and every CUDA device of this machine.
std::vector<Device> devices() {
  std::vector<Device> all{kCpu};
  for (int i = 0; i < cuda_device_count(); ++i) all.push_back({Device::Type::cuda, i});
  std::printf("devices with batches: %zu\n", all.size());
  return all;
}

/// `size` images [channels, 5, 3] of all byte values, in 7 classes.
std::shared_ptr<const TensorDataset> small(std::int64_t size, std::int64_t channels) {
  std::vector<std::uint8_t> pixels;
  std::vector<std::int64_t> labels;
  for (std::int64_t i = 0; i < size; ++i) {
    for (std::int64_t p = 0; p < channels * 15; ++p) pixels.push_back(static_cast<std::uint8_t>(i * 37 + p * 11));
    labels.push_back(i % 7);
  }
  return std::make_shared<TensorDataset>(Tensor::from(pixels, {size, channels, 5, 3}), Tensor::from(labels, {size}),
                                         std::vector<std::string>(7, "class"));
}

bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(kCpu), y = b.to(kCpu);
  return x.shape() == y.shape() && x.dtype() == y.dtype() && x.layout() == y.layout() &&
         (x.nbytes() == 0 || std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0);
}

bool same_batch(const Batch& a, const Batch& b) {
  return same_bits(a.images, b.images) && same_bits(a.labels, b.labels) && a.indices == b.indices;
}

class Flip : public PixelTransform {
 public:
  ImageView apply(const ImageView& image, PhiloxStream&, PixelBuffer&) const override { return image; }
  std::string repr() const override { return "Flip()"; }
};

class OneImage : public Dataset {
 public:
  std::int64_t size() const override { return 1; }
  const std::vector<std::string>& classes() const override { return classes_; }
  ExampleView read(std::int64_t, PixelBuffer& buffer) const override {
    buffer.assign(1, 0);
    return {{buffer.data(), 1, 1, 1}, 0};
  }

 private:
  std::vector<std::string> classes_{"only"};
};

/// f throws E with a message that has `part` in it.
template <class E, class F>
void check_error(const std::string& part, F&& f) {
  CAPTURE(part);
  try {
    f();
    FAIL_CHECK("nothing was thrown");
  } catch (const E& error) {
    CAPTURE(error.what());
    CHECK(std::string(error.what()).find(part) != std::string::npos);
  }
}

}  // namespace

TEST_CASE("Batches made on any device have the bits of the loader's on the CPU") {
  int compared = 0;
  for (const Device device : devices()) {
    for (const std::int64_t channels : {1, 2, 3, 4}) {
      const auto n = static_cast<std::size_t>(channels);
      const std::vector<double> mean{0.4914, 0.4822, 0.4465, 0.5}, std{0.2470, 0.2435, 0.2616, 0.25};
      for (const Compose& transform : {Compose(ToTensor()), Compose(ToTensor(), Normalize({0.3}, {0.7})),
                                       Compose(ToTensor(), Normalize({mean.begin(), mean.begin() + channels},
                                                                     {std.begin(), std.begin() + channels}))}) {
        CAPTURE(to_string(device), n, to_string(transform));
        const auto data = small(23, channels);
        const DataLoader loader(data, transform, {.batch_size = 6, .shuffle = true, .seed = 4});
        const DeviceDataset on_device(data, transform, device);
        for (const Batch& expected : loader.epoch(2)) {
          const Batch batch = on_device.batch(expected.indices);
          CHECK(batch.images.device() == device);
          CHECK(batch.labels.device() == device);
          CHECK(same_batch(batch, expected));
          ++compared;
        }
        CHECK(same_bits(on_device.batch({}).images,
                        Tensor::empty({0, channels, 5, 3}, {.layout = Layout::channels_last})));
      }
    }
  }
  std::printf("batches compared: %d\n", compared);
}

TEST_CASE("A DataLoader's device changes where batches are, and nothing else") {
  const auto data = std::make_shared<SyntheticDataset>(Split::train, 50);
  const Compose transform(ToTensor(), Normalize({0.5}, {0.5}));
  for (const Device device : devices()) {
    CAPTURE(to_string(device));
    for (const bool drop_last : {false, true}) {
      DataLoaderOptions options{.batch_size = 16, .shuffle = true, .seed = 9, .workers = 2, .drop_last = drop_last};
      const DataLoader on_cpu(data, transform, options);
      options.device = device;
      const DataLoader loader(data, transform, options);
      CHECK(loader.size() == on_cpu.size());
      for (const std::int64_t first : {0, 2}) {
        auto expected = on_cpu.epoch(1, first), epoch = loader.epoch(1, first);
        while (auto batch = expected.next()) {
          CHECK(epoch.position() == expected.position() - 1);
          const auto made = epoch.next();
          REQUIRE(made.has_value());
          CHECK(made->images.device() == device);
          CHECK(same_batch(*made, *batch));
        }
        CHECK(!epoch.next().has_value());
      }
    }
  }
}

TEST_CASE("Threads with streams of their own can share a data set on a device") {
  const auto data = small(40, 3);
  const Compose transform(ToTensor(), Normalize({0.5}, {0.5}));
  for (const Device device : devices()) {
    std::optional<DeviceDataset> on_device(std::in_place, data, transform, device);
    const Batch expected = DeviceDataset(data, transform, kCpu).batch({7, 3, 39});
    std::vector<Batch> made(3);
    std::vector<std::thread> threads;
    for (Batch& batch : made) {
      threads.emplace_back([&] {
        std::optional<StreamGuard> guard;
        if (device.type == Device::Type::cuda) guard.emplace(Stream(device));
        batch = on_device->batch({7, 3, 39});
        batch.images = batch.images.to(kCpu);
        batch.labels = batch.labels.to(kCpu);
      });
    }
    for (std::thread& thread : threads) thread.join();
    on_device.reset();
    for (const Batch& batch : made) CHECK(same_batch(batch, expected));
  }
}

TEST_CASE("Images moved to a device on one stream can be used on another, and outlive the data set until then") {
  const auto data = small(40, 3);
  const Compose transform{ToTensor()};
  const Batch expected = DeviceDataset(data, transform, kCpu).batch({7, 3, 39});
  for (const Device device : devices()) {
    if (device == kCpu) continue;
    std::optional<DeviceDataset> on_device(std::in_place, data, transform, device);
    const Stream moving(device), training(device);
    {
      const StreamGuard guard(moving);
      on_device->prepare();
    }
    const StreamGuard guard(training);
    const Batch batch = on_device->batch({7, 3, 39});
    on_device.reset();
    CHECK(same_batch(batch, expected));
  }
}

TEST_CASE("What a device cannot make batches of is refused with the reason") {
  const Compose plain{ToTensor()};
  for (const Device device : devices()) {
    const auto refused = [&](const Compose& transform) { DeviceDataset(small(2, 3), transform, device); };
    check_error<ValueError>("Flip()", [&] { refused(Compose(Flip(), ToTensor())); });
    check_error<ValueError>("Normalize",
                            [&] { refused(Compose(ToTensor(), Normalize({0.5}, {0.5}), Normalize({0.5}, {0.5}))); });
    check_error<ValueError>("null", [&] { DeviceDataset(nullptr, plain, device); });
    check_error<ShapeError>("2 channels, got 3", [&] {
      DeviceDataset(small(2, 3), Compose(ToTensor(), Normalize({0.5, 0.5}, {0.5, 0.5})), device).prepare();
    });
    check_error<ValueError>("1 to 4 channels, got 5", [&] { DeviceDataset(small(2, 5), plain, device).prepare(); });
    const DeviceDataset on_device(small(2, 3), plain, device);
    for (const std::int64_t index : {-1, 2}) {
      check_error<ValueError>(std::to_string(index), [&] { on_device.batch({0, index}); });
    }
    if (device == kCpu) continue;
    check_error<ValueError>("TensorDataset",
                            [&] { DataLoader(std::make_shared<OneImage>(), plain, {.device = device}); });
    check_error<ValueError>("Flip()",
                            [&] { DataLoader(small(2, 3), Compose(Flip(), ToTensor()), {.device = device}); });
    check_error<DeviceError>("on the CPU", [&] {
      TensorDataset(small(2, 3)->images().to(device), small(2, 3)->labels(), {"a", "b"});
    });
  }
  const Device none{Device::Type::cuda, cuda_device_count()};
  check_error<DeviceError>("cuda", [&] { DeviceDataset(small(2, 3), plain, none); });
  check_error<DeviceError>("cuda", [&] { DataLoader(small(2, 3), plain, {.device = none}); });
}
