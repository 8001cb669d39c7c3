#include <lockstep/data/data_loader.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <functional>
#include <optional>
#include <stdexcept>
#include <thread>

#include <lockstep/core/allocator.h>
#include <lockstep/core/base/error.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/core/ops.h>
#include <lockstep/data/tensor_dataset.h>

using namespace lockstep;

namespace {

/// `size` images [3, 4, 5] that tell their index, in 7 classes.
std::shared_ptr<const Dataset> numbered(std::int64_t size) {
  std::vector<std::uint8_t> pixels;
  std::vector<std::int64_t> labels;
  for (std::int64_t i = 0; i < size; ++i) {
    for (std::int64_t p = 0; p < 60; ++p) pixels.push_back(static_cast<std::uint8_t>(i * 31 + p));
    labels.push_back(i % 7);
  }
  return std::make_shared<TensorDataset>(Tensor::from(pixels, {size, 3, 4, 5}), Tensor::from(labels, {size}),
                                         std::vector<std::string>(7, "class"));
}

/// A data set that decodes into the buffer, and does what it is told at some indices.
class Scripted : public Dataset {
 public:
  explicit Scripted(std::int64_t size) : size_(size) {}
  std::int64_t size() const override { return size_; }
  const std::vector<std::string>& classes() const override { return classes_; }
  ExampleView read(std::int64_t index, PixelBuffer& buffer) const override {
    ++reads;
    if (on_read) on_read(index);
    const std::int64_t side = index == odd_shape ? 3 : 2;
    buffer.assign(static_cast<std::size_t>(side * side), static_cast<std::uint8_t>(index));
    return {{buffer.data(), 1, side, side}, index % 2};
  }

  std::function<void(std::int64_t)> on_read;
  std::int64_t odd_shape = -1;
  mutable std::atomic<int> reads{0};

 private:
  std::int64_t size_;
  std::vector<std::string> classes_{"even", "odd"};
};

/// Adds a random amount to all pixels.
class RandomAdd : public PixelTransform {
 public:
  std::string repr() const override { return "RandomAdd()"; }
  ImageView apply(const ImageView& image, PhiloxStream& draws, PixelBuffer& out) const override {
    const auto amount = draws.next_below(256);
    out.resize(static_cast<std::size_t>(image.numel()));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::uint8_t>(image.pixels[i] + amount);
    return {out.data(), image.channels, image.height, image.width};
  }
};

/// Everything that an epoch gives, to compare.
struct Record {
  std::vector<std::vector<std::int64_t>> indices;
  std::vector<float> pixels;  // in memory order
  std::vector<std::int64_t> labels;
  bool operator==(const Record&) const = default;
};

Record record(DataLoader::Epoch epoch) {
  Record result;
  for (const Batch& batch : epoch) {
    result.indices.push_back(batch.indices);
    const float* pixels = batch.images.data<float>();
    result.pixels.insert(result.pixels.end(), pixels, pixels + batch.images.numel());
    const auto labels = batch.labels.to_vector<std::int64_t>();
    result.labels.insert(result.labels.end(), labels.begin(), labels.end());
  }
  return result;
}

}  // namespace

TEST_CASE("A loader gives the data set in batches") {
  const auto data = numbered(10);
  const int workers = GENERATE(0, 2);
  const DataLoader loader(data, Compose(ToTensor()), {.batch_size = 4, .workers = workers});
  CHECK(loader.size() == 3);
  CHECK(&loader.dataset() == data.get());
  std::int64_t next = 0, batches = 0;
  for (Batch batch : loader.epoch(0)) {
    const std::int64_t n = batches++ < 2 ? 4 : 2;
    REQUIRE(batch.size() == n);
    REQUIRE(batch.images.shape() == Shape{n, 3, 4, 5});
    REQUIRE(batch.images.layout() == Layout::channels_last);
    REQUIRE(batch.images.dtype() == DType::float32);
    REQUIRE(batch.labels.shape() == Shape{n});
    const auto pixels = batch.images.to_vector<float>();
    const auto labels = batch.labels.to_vector<std::int64_t>();
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i, ++next) {
      CHECK(batch.indices[i] == next);
      CHECK(labels[i] == next % 7);
      for (std::size_t p = 0; p < 60; ++p) {
        REQUIRE(pixels[60 * i + p] ==
                static_cast<float>(static_cast<std::uint8_t>(next * 31 + static_cast<std::int64_t>(p))) / 255.0f);
      }
    }
  }
  CHECK(next == 10);
}

TEST_CASE("The number of workers changes no bit") {
  const auto data = numbered(103);
  const Compose transform{RandomAdd(), ToTensor()};
  const auto run = [&](int workers, int prefetch) {
    const DataLoader loader(data, transform,
                            {.batch_size = 8, .shuffle = true, .seed = 5, .workers = workers, .prefetch = prefetch});
    return std::array{record(loader.epoch(0)), record(loader.epoch(1))};
  };
  const auto alone = run(0, 2);
  CHECK(alone[0].indices != alone[1].indices);
  CHECK(alone[0].pixels != alone[1].pixels);
  CHECK(alone[0].indices.size() == 13);
  for (const int workers : {1, 2, 7, 20}) CHECK(run(workers, 2) == alone);
  CHECK(run(3, 1) == alone);
  CHECK(run(2, 50) == alone);
}

TEST_CASE("A random transform sees the seed, the epoch and the index in the data set") {
  const auto data = numbered(10);
  const Compose transform{RandomAdd(), ToTensor()};
  const DataLoader loader(data, transform, {.batch_size = 4, .shuffle = true, .seed = 5});
  for (const Batch& batch : loader.epoch(3)) {
    for (std::int64_t i = 0; i < batch.size(); ++i) {
      const std::int64_t index = batch.indices[static_cast<std::size_t>(i)];
      const Tensor expected = transform(data->get(index).image, {.seed = 5, .epoch = 3, .index = index});
      CHECK(narrow(batch.images, 0, i, 1).to_vector<float>() == expected.to_vector<float>());
    }
  }
}

TEST_CASE("An epoch can be entered anywhere") {
  const auto data = numbered(50);
  for (const int workers : {0, 3}) {
    const DataLoader loader(data, Compose(RandomAdd(), ToTensor()),
                            {.batch_size = 8, .shuffle = true, .seed = 1, .workers = workers});
    const Record whole = record(loader.epoch(4));
    for (std::int64_t first = 0; first <= loader.size(); ++first) {
      const Record rest = record(loader.epoch(4, first));
      const std::ptrdiff_t skipped = std::min<std::ptrdiff_t>(first * 8, 50);
      CHECK(rest.indices == std::vector(whole.indices.begin() + first, whole.indices.end()));
      CHECK(rest.pixels == std::vector(whole.pixels.begin() + skipped * 60, whole.pixels.end()));
      CHECK(rest.labels == std::vector(whole.labels.begin() + skipped, whole.labels.end()));
    }
    auto epoch = loader.epoch(4, 2);
    CHECK(epoch.position() == 2);
    epoch.next();
    CHECK(epoch.position() == 3);
  }
}

TEST_CASE("drop_last leaves out a batch that is not full") {
  const auto count = [](std::int64_t size, std::int64_t batch_size, bool drop_last) {
    const DataLoader loader(numbered(size), Compose(ToTensor()),
                            {.batch_size = batch_size, .workers = 2, .drop_last = drop_last});
    const Record all = record(loader.epoch(0));
    CHECK(static_cast<std::int64_t>(all.indices.size()) == loader.size());
    return std::pair(loader.size(), all.labels.size());
  };
  CHECK(count(10, 4, true) == std::pair<std::int64_t, std::size_t>(2, 8));
  CHECK(count(10, 4, false) == std::pair<std::int64_t, std::size_t>(3, 10));
  CHECK(count(8, 4, true) == std::pair<std::int64_t, std::size_t>(2, 8));
  CHECK(count(8, 4, false) == std::pair<std::int64_t, std::size_t>(2, 8));
  CHECK(count(3, 4, true) == std::pair<std::int64_t, std::size_t>(0, 0));
  CHECK(count(3, 4, false) == std::pair<std::int64_t, std::size_t>(1, 3));
  CHECK(count(0, 4, false) == std::pair<std::int64_t, std::size_t>(0, 0));
  CHECK(count(1, 1, false) == std::pair<std::int64_t, std::size_t>(1, 1));
}

TEST_CASE("A sampler of one's own decides what comes") {
  struct Backwards : Sampler {
    std::int64_t size() const override { return 5; }
    std::vector<std::int64_t> indices(std::int64_t epoch) const override { return {9, 7, 5, 3, epoch}; }
  };
  const DataLoader loader(numbered(10), Compose(ToTensor()),
                          {.batch_size = 2, .workers = 1, .sampler = std::make_shared<Backwards>()});
  CHECK(loader.size() == 3);
  CHECK(record(loader.epoch(1)).indices == std::vector<std::vector<std::int64_t>>{{9, 7}, {5, 3}, {1}});
  auto outside = loader.epoch(10);
  outside.next();
  outside.next();
  CHECK_THROWS_AS(outside.next(), ValueError);
}

TEST_CASE("An exception comes with its batch, and the next batch after it") {
  for (const int workers : {0, 1, 3}) {
    auto data = std::make_shared<Scripted>(20);
    data->on_read = [](std::int64_t index) {
      if (index == 9) throw FileError("read", "image 9 is damaged");
      if (index == 17) throw std::runtime_error("something else");
    };
    const DataLoader loader(data, Compose(ToTensor()), {.batch_size = 4, .workers = workers});
    auto epoch = loader.epoch(0);
    CHECK(epoch.next()->indices[0] == 0);
    CHECK(epoch.next()->indices[0] == 4);
    CHECK_THROWS_WITH(epoch.next(), "[read] image 9 is damaged");
    CHECK(epoch.next()->indices[0] == 12);
    CHECK_THROWS_WITH(epoch.next(), "something else");
    CHECK_FALSE(epoch.next().has_value());
    CHECK_FALSE(epoch.next().has_value());
  }
}

TEST_CASE("Images of one batch must have one shape") {
  for (const int workers : {0, 2}) {
    auto data = std::make_shared<Scripted>(8);
    data->odd_shape = 6;
    const DataLoader loader(data, Compose(ToTensor()), {.batch_size = 4, .workers = workers});
    auto epoch = loader.epoch(0);
    epoch.next();
    CHECK_THROWS_AS(epoch.next(), ShapeError);
  }
}

TEST_CASE("An epoch that is left early ends at once") {
  auto data = std::make_shared<Scripted>(100'000);
  data->on_read = [](std::int64_t) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  const DataLoader loader(data, Compose(ToTensor()), {.batch_size = 5'000, .workers = 4});
  const auto begin = std::chrono::steady_clock::now();
  { auto untouched = loader.epoch(0); }
  auto epoch = loader.epoch(0);
  epoch = loader.epoch(1);  // a batch would take 5 seconds
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(2));
}

TEST_CASE("An epoch outlives its loader") {
  std::optional<DataLoader::Epoch> epoch;
  {
    const DataLoader loader(numbered(10), Compose(ToTensor()), {.batch_size = 4, .workers = 2});
    epoch.emplace(loader.epoch(0));
  }
  CHECK(record(std::move(*epoch)).labels.size() == 10);
}

TEST_CASE("Workers run ahead, but not further than they may") {
  auto data = std::make_shared<Scripted>(1000);
  const DataLoader loader(data, Compose(ToTensor()), {.batch_size = 10, .workers = 2, .prefetch = 3});
  auto epoch = loader.epoch(0);
  const auto settle = [&](int expected) {
    for (int i = 0; i < 200 && data->reads < expected; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return data->reads.load();
  };
  CHECK(settle(60) == 60);
  epoch.next();
  epoch.next();
  CHECK(settle(80) == 80);
}

TEST_CASE("Workers leave the thread pool alone") {
  auto data = std::make_shared<Scripted>(8);
  std::atomic<int> most{0};
  data->on_read = [&](std::int64_t) { most = std::max(most.load(), num_threads()); };
  const int before = num_threads();
  record(DataLoader(data, Compose(ToTensor()), {.batch_size = 2, .workers = 2}).epoch(0));
  CHECK(most == 1);
  CHECK(num_threads() == before);
}

TEST_CASE("A steady epoch asks the system for no memory") {
  for (const int workers : {0, 2}) {
    const DataLoader loader(numbered(4000), Compose(ToTensor()),
                            {.batch_size = 100, .shuffle = true, .workers = workers});
    record(loader.epoch(0));
    auto epoch = loader.epoch(1);
    for (int i = 0; i < 10; ++i) epoch.next();
    const std::int64_t live = memory_stats().live, cached = memory_stats().cached;
    for (int i = 0; i < 25; ++i) epoch.next();
    // A few batches are under way at any time; 25 would be 600 KiB.
    CHECK(memory_stats().live + memory_stats().cached - live - cached <= 6 * 100 * 60 * 4);
  }
}

TEST_CASE("Several epochs may run side by side") {
  const DataLoader loader(numbered(60), Compose(RandomAdd(), ToTensor()),
                          {.batch_size = 7, .shuffle = true, .workers = 2});
  const Record first = record(loader.epoch(0)), second = record(loader.epoch(1));
  std::array<Record, 4> results;
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] { results[t] = record(loader.epoch(static_cast<std::int64_t>(t % 2))); });
  }
  for (auto& thread : threads) thread.join();
  for (std::size_t t = 0; t < 4; ++t) CHECK(results[t] == (t % 2 ? second : first));
}

TEST_CASE("Options that make no sense are refused") {
  const auto data = numbered(4);
  const auto make = [&](DataLoaderOptions options) { DataLoader(data, Compose(ToTensor()), options); };
  CHECK_THROWS_AS(make({.batch_size = 0}), ValueError);
  CHECK_THROWS_AS(make({.batch_size = -1}), ValueError);
  CHECK_THROWS_AS(make({.workers = -1}), ValueError);
  CHECK_THROWS_AS(make({.workers = 1025}), ValueError);
  CHECK_THROWS_AS(make({.prefetch = 0}), ValueError);
  CHECK_THROWS_AS(make({.shuffle = true, .sampler = std::make_shared<SequentialSampler>(4)}), ValueError);
  CHECK_THROWS_AS(DataLoader(nullptr), ValueError);
  const DataLoader loader(data, Compose(ToTensor()), {.batch_size = 2});
  CHECK_THROWS_AS(loader.epoch(-1), ValueError);
  CHECK_THROWS_AS(loader.epoch(0, -1), ValueError);
  CHECK_THROWS_AS(loader.epoch(0, 3), ValueError);
  CHECK_FALSE(loader.epoch(0, 2).next().has_value());
}
