#include <lockstep/data/tensor_dataset.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>
#include <vector>

#include <lockstep/core/base/error.h>

using namespace lockstep;

namespace {

constexpr TensorOptions kBytes{.dtype = DType::uint8}, kIndices{.dtype = DType::int64};

/// Counts how often it is loaded, and fails the first `failures` times.
class Lazy : public TensorDataset {
 public:
  explicit Lazy(int failures = 0) : TensorDataset(3, {"a", "b"}), failures_(failures) {}
  mutable std::atomic<int> loads{0};

 private:
  Contents load() const override {
    if (loads++ < failures_) throw FileError("Lazy", "not yet");
    return {Tensor::full({3, 1, 2, 2}, 9, kBytes), Tensor::zeros({3}, kIndices)};
  }
  int failures_;
};

}  // namespace

TEST_CASE("A TensorDataset gives views and copies of its tensors") {
  std::vector<std::uint8_t> pixels(2 * 3 * 2 * 4);
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<std::uint8_t>(i);
  const TensorDataset data(Tensor::from(pixels, {2, 3, 2, 4}), Tensor::from(std::vector<std::int64_t>{1, 0}, {2}),
                           {"cat", "dog"});
  CHECK(data.size() == 2);
  CHECK(data.classes() == std::vector<std::string>{"cat", "dog"});
  PixelBuffer buffer;
  const ExampleView view = data.read(1, buffer);
  CHECK(view.label == 0);
  CHECK((view.image.channels == 3 && view.image.height == 2 && view.image.width == 4));
  CHECK(view.image.pixels == data.images().data<std::uint8_t>() + 24);
  CHECK(buffer.empty());

  const Example copy = data.get(0);
  CHECK(copy.label == 1);
  CHECK(copy.image.shape() == Shape{3, 2, 4});
  CHECK(copy.image.to_vector<std::uint8_t>() == std::vector<std::uint8_t>(pixels.begin(), pixels.begin() + 24));
  CHECK(copy.image.data_ptr() != data.images().data_ptr());
  CHECK_THROWS_AS(data.get(2), ValueError);
  CHECK_THROWS_AS(data.get(-1), ValueError);
}

TEST_CASE("A TensorDataset checks its tensors") {
  const auto make = [](const Tensor& images, const Tensor& labels) { TensorDataset(images, labels, {"a", "b"}); };
  const Tensor images = Tensor::zeros({2, 3, 4, 4}, kBytes), labels = Tensor::zeros({2}, kIndices);
  make(images, labels);
  make(Tensor::zeros({0, 3, 4, 4}, kBytes), Tensor::zeros({0}, kIndices));
  CHECK_THROWS_AS(make(Tensor::zeros({2, 3, 4, 4}), labels), DTypeError);
  CHECK_THROWS_AS(make(images, Tensor::zeros({2})), DTypeError);
  CHECK_THROWS_AS(make(images, Tensor::zeros({3}, kIndices)), ShapeError);
  CHECK_THROWS_AS(make(images, Tensor::zeros({2, 1}, kIndices)), ShapeError);
  CHECK_THROWS_AS(make(Tensor::zeros({2, 4, 4}, kBytes), labels), ShapeError);
  CHECK_THROWS_AS(make(images.to(Layout::channels_last), labels), ShapeError);
  CHECK_THROWS_AS(make(images, Tensor::full({2}, 2, kIndices)), ValueError);
  CHECK_THROWS_AS(make(images, Tensor::full({2}, -1, kIndices)), ValueError);
  CHECK_THROWS_AS(make({}, labels), ValueError);
}

TEST_CASE("A lazy data set is filled once, at first use") {
  const Lazy data;
  CHECK(data.size() == 3);
  CHECK(data.classes().size() == 2);
  CHECK(data.loads == 0);
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      PixelBuffer buffer;
      for (std::int64_t i = 0; i < 3; ++i) good += data.read(i, buffer).image.pixels[3] == 9;
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(good == 12);
  CHECK(data.loads == 1);
}

TEST_CASE("A lazy data set that failed tries again") {
  const Lazy data(1);
  CHECK_THROWS_AS(data.prepare(), FileError);
  CHECK(data.get(0).image.data<std::uint8_t>()[0] == 9);
  CHECK(data.loads == 2);
}
