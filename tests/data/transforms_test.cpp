#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include <lockstep/core/base/error.h>
#include <lockstep/data/transforms/compose.h>
#include <lockstep/data/transforms/normalize.h>
#include <lockstep/data/transforms/to_tensor.h>

using namespace lockstep;

namespace {

/// [C, 16, 16] with all 256 values in each channel, in another order per channel.
Tensor all_values(std::int64_t channels) {
  std::vector<std::uint8_t> values;
  for (std::int64_t c = 0; c < channels; ++c) {
    for (int i = 0; i < 256; ++i) values.push_back(static_cast<std::uint8_t>(i * (2 * c + 1) + 5 * c));
  }
  return Tensor::from(values, {channels, 16, 16});
}

/// Adds `amount`, in the buffer it gets.
class Add : public PixelTransform {
 public:
  explicit Add(int amount) : amount_(amount) {}
  std::string repr() const override { return "Add()"; }
  ImageView apply(const ImageView& image, PhiloxStream&, PixelBuffer& out) const override {
    CHECK(image.pixels != out.data());
    if (amount_ == 0) return image;
    out.resize(static_cast<std::size_t>(image.numel()));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::uint8_t>(image.pixels[i] + amount_);
    return {out.data(), image.channels, image.height, image.width};
  }

 private:
  int amount_;
};

/// Halves the height: the shape changes.
class TopHalf : public PixelTransform {
 public:
  std::string repr() const override { return "TopHalf()"; }
  ImageView apply(const ImageView& image, PhiloxStream&, PixelBuffer& out) const override {
    const std::int64_t height = image.height / 2, area = height * image.width;
    out.resize(static_cast<std::size_t>(image.channels * area));
    for (std::int64_t c = 0; c < image.channels; ++c) {
      std::memcpy(out.data() + c * area, image.pixels + c * image.height * image.width, static_cast<std::size_t>(area));
    }
    return {out.data(), image.channels, height, image.width};
  }
};

/// Fills the image with its first random byte.
class RandomFill : public PixelTransform {
 public:
  std::string repr() const override { return "RandomFill()"; }
  ImageView apply(const ImageView& image, PhiloxStream& draws, PixelBuffer& out) const override {
    out.assign(static_cast<std::size_t>(image.numel()), static_cast<std::uint8_t>(draws.next_below(256)));
    return {out.data(), image.channels, image.height, image.width};
  }
};

}  // namespace

TEST_CASE("ToTensor and Normalize have torch's float32 values, bit for bit") {
  // Printed by torch 1.13: x.float().div(255), then .sub_(mean).div_(std), for these x.
  const std::vector<std::uint8_t> x = {0, 1, 77, 128, 254, 255};
  const Tensor image = Tensor::from(x, {1, 2, 3});
  CHECK(Compose(ToTensor())(image).to_vector<float>() ==
        std::vector<float>{0x0p+0f, 0x1.010102p-8f, 0x1.353536p-2f, 0x1.010102p-1f, 0x1.fdfdfep-1f, 0x1p+0f});
  CHECK(Compose(ToTensor(), Normalize({0.5}, {0.5}))(image).to_vector<float>() ==
        std::vector<float>{-0x1p+0f, -0x1.fbfbfcp-1f, -0x1.959594p-2f, 0x1.0102p-8f, 0x1.fbfbfcp-1f, 0x1p+0f});
  CHECK(Compose(ToTensor(), Normalize({0.4914}, {0.2470}))(image).to_vector<float>() ==
        std::vector<float>{-0x1.fd4e26p+0f, -0x1.f93da6p+0f, -0x1.88af08p-1f, 0x1.5e428p-5f, 0x1.0588a4p+1f,
                           0x1.0790e6p+1f});

  // Every value, three channels: each operation in double, rounded once (which gives IEEE's float result).
  const std::vector<double> mean = {0.485, 0.456, 0.406}, std = {0.229, 0.224, 0.225};
  const Tensor all = all_values(3);
  const Tensor result = Compose(ToTensor(), Normalize(mean, std))(all);
  CHECK(result.shape() == Shape{3, 16, 16});
  CHECK(result.layout() == Layout::row_major);
  for (std::size_t i = 0; i < 768; ++i) {
    const auto unit = static_cast<float>(all.data<std::uint8_t>()[i] / 255.0);
    const auto centred = static_cast<float>(double{unit} - double{static_cast<float>(mean[i / 256])});
    const auto expected = static_cast<float>(double{centred} / double{static_cast<float>(std[i / 256])});
    REQUIRE(result.data<float>()[i] == expected);
  }
}

TEST_CASE("Any number of channels is normalised, with one value for all or one for each") {
  for (const std::int64_t channels : {1, 2, 3, 4}) {
    const Tensor image = all_values(channels);
    const Tensor one = Compose(ToTensor(), Normalize({0.25}, {2}))(image);
    const auto n = static_cast<std::size_t>(channels);
    const Tensor each = Compose(ToTensor(), Normalize(std::vector<double>(n, 0.25), std::vector<double>(n, 2)))(image);
    for (std::int64_t i = 0; i < image.numel(); ++i) {
      const float expected = (static_cast<float>(image.data<std::uint8_t>()[i]) / 255.0f - 0.25f) / 2.0f;
      REQUIRE(one.data<float>()[i] == expected);
      REQUIRE(each.data<float>()[i] == expected);
    }
  }
  // Two in a row, in their order.
  const Tensor twice = Compose(ToTensor(), Normalize({0.5}, {0.25}), Normalize({0, 1, 2}, {1, 2, 4}))(all_values(3));
  const float unit = static_cast<float>(all_values(3).data<std::uint8_t>()[600]) / 255.0f;
  CHECK(twice.data<float>()[600] == ((unit - 0.5f) / 0.25f - 2.0f) / 4.0f);
}

TEST_CASE("to_floats writes whole pixels side by side") {
  const Tensor image = all_values(3);
  const ImageView view{image.data<std::uint8_t>(), 3, 16, 16};
  std::vector<float> out(768);
  Compose(ToTensor()).to_floats(view, out.data());
  for (std::size_t i = 0; i < 256; ++i) {
    for (std::size_t c = 0; c < 3; ++c) {
      REQUIRE(out[3 * i + c] == static_cast<float>(view.pixels[256 * c + i]) / 255.0f);
    }
  }
}

TEST_CASE("Transforms print as torchvision's") {
  CHECK(to_string(ToTensor()) == "ToTensor()");
  CHECK(to_string(Normalize({0.5, 0.5, 0.5}, {0.5, 0.5, 0.5})) ==
        "Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))");
  CHECK(to_string(Normalize({0.1307}, {0.3081})) == "Normalize(mean=(0.1307,), std=(0.3081,))");
  CHECK(to_string(Normalize({0, 1e-5, 1e20}, {1, -2, 255})) ==
        "Normalize(mean=(0.0, 1e-05, 1e+20), std=(1.0, -2.0, 255.0))");
  CHECK(to_string(Compose(ToTensor(), Normalize({0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}))) ==
        "Compose(\n    ToTensor()\n    Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))\n)");
}

TEST_CASE("Pixel transforms run in their order, on buffers of their own") {
  const Tensor image = all_values(3);
  const Tensor plain = Compose(ToTensor())(image);
  const Tensor moved = Compose(Add(3), Add(0), Add(4), Add(5), ToTensor())(image);
  for (std::int64_t i = 0; i < image.numel(); ++i) {
    REQUIRE(moved.data<float>()[i] == static_cast<float>((image.data<std::uint8_t>()[i] + 12) & 255) / 255.0f);
  }
  const Tensor half = Compose(Add(0), TopHalf(), ToTensor())(image);
  CHECK(half.shape() == Shape{3, 8, 16});
  CHECK(half.data<float>()[128] == plain.data<float>()[256]);
}

TEST_CASE("Random transforms draw from seed, epoch, index and place") {
  const Compose one{RandomFill(), ToTensor()}, second{Add(0), RandomFill(), ToTensor()};
  const Tensor image = all_values(1);
  std::vector<float> seen;
  for (const Visit& visit : {Visit{1, 0, 0}, Visit{2, 0, 0}, Visit{1, 1, 0}, Visit{1, 0, 1}, Visit{1, 1, 1}}) {
    seen.push_back(one(image, visit).data<float>()[0]);
    CHECK(one(image, visit).data<float>()[0] == seen.back());
    seen.push_back(second(image, visit).data<float>()[0]);
  }
  std::sort(seen.begin(), seen.end());
  // 10 draws of 256 values; equal arguments would give at most 5 different ones.
  CHECK(std::unique(seen.begin(), seen.end()) - seen.begin() >= 8);
}

TEST_CASE("Streams of draws differ for all visits and places") {
  std::vector<std::uint32_t> firsts;
  for (std::int64_t epoch : {0, 1, 2, (1 << 20) - 1}) {
    for (std::int64_t index : {std::int64_t{0}, std::int64_t{1}, std::int64_t{49'999}, (std::int64_t{1} << 36) - 1}) {
      for (int place : {0, 1, 2, 255}) firsts.push_back(draws({5, epoch, index}, place).next_u32());
    }
  }
  std::sort(firsts.begin(), firsts.end());
  CHECK(std::unique(firsts.begin(), firsts.end()) == firsts.end());
}

TEST_CASE("Pipelines that make no sense are refused") {
  CHECK_THROWS_AS(Compose(), ValueError);
  CHECK_THROWS_AS(Compose(Normalize({0.5}, {0.5})), ValueError);
  CHECK_THROWS_AS(Compose(Normalize({0.5}, {0.5}), ToTensor()), ValueError);
  CHECK_THROWS_AS(Compose(ToTensor(), ToTensor()), ValueError);
  CHECK_THROWS_AS(Compose(ToTensor(), Add(1)), ValueError);
  CHECK_THROWS_AS(Compose(std::vector<std::shared_ptr<const Transform>>{nullptr}), ValueError);
  CHECK_THROWS_AS(Compose(ToTensor(), Normalize({1, 2}, {1, 2}), Normalize({1, 2, 3}, {1, 2, 3})), ValueError);
  CHECK_THROWS_AS(Normalize({}, {}), ValueError);
  CHECK_THROWS_AS(Normalize({0.5}, {0.5, 0.5}), ValueError);
  CHECK_THROWS_AS(Normalize({0.5}, {0}), ValueError);
  CHECK_THROWS_AS(Normalize({0.5}, {1e-60}), ValueError);
  CHECK_THROWS_AS(Normalize({0.5}, {INFINITY}), ValueError);
  CHECK_THROWS_AS(Compose(ToTensor(), Normalize({1, 2}, {1, 2}))(all_values(3)), ShapeError);
  CHECK_THROWS_AS(Compose(ToTensor())(Tensor::zeros({3, 4, 4})), DTypeError);
  CHECK_THROWS_AS(Compose(ToTensor())(Tensor::zeros({4, 4}, {.dtype = DType::uint8})), ShapeError);
}
