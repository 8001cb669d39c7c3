// Making tensors, reading them, copies, conversions and in-place operations.
#include <lockstep/core/tensor.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include <lockstep/core/base/error.h>
#include <lockstep/core/ops.h>

using namespace lockstep;

namespace {

using Values = std::vector<double>;

constexpr DType kAllDTypes[] = {DType::float32,  DType::float64, DType::float16,
                                DType::bfloat16, DType::int64,   DType::uint8};

TEST_CASE("An undefined tensor says so") {
  const Tensor none;
  CHECK_FALSE(none.defined());
  CHECK(to_string(none) == "Tensor(undefined)");
  CHECK_THROWS_AS(none.shape(), ValueError);
  CHECK_THROWS_AS(none.dtype(), ValueError);
  CHECK_THROWS_AS(none.device(), ValueError);
  CHECK_THROWS_AS(none.layout(), ValueError);
  CHECK_THROWS_AS(none.numel(), ValueError);
  CHECK_THROWS_AS(none.data_ptr(), ValueError);
  CHECK_THROWS_AS(none.item(), ValueError);
  CHECK_THROWS_AS(none.to_vector<float>(), ValueError);
  CHECK_THROWS_AS(none.clone(), ValueError);
  CHECK_THROWS_AS(none.detach(), ValueError);
  CHECK_THROWS_AS(none.to(DType::float64), ValueError);
  CHECK_THROWS_AS(none.to(Layout::channels_last), ValueError);
  CHECK_THROWS_AS(none.requires_grad(), ValueError);
  CHECK_THROWS_AS(none.grad(), ValueError);
  CHECK_THROWS_AS(none.backward(), ValueError);
  CHECK_THROWS_AS(Tensor().fill_(0.0), ValueError);
  CHECK_THROWS_AS(Tensor().set_requires_grad(), ValueError);
}

TEST_CASE("Factories fill every dtype") {
  for (const DType dtype : kAllDTypes) {
    CAPTURE(name(dtype));
    const TensorOptions options{.dtype = dtype};
    CHECK(Tensor::zeros({2, 3}, options).to_vector<double>() == Values(6, 0.0));
    CHECK(Tensor::ones({2, 3}, options).to_vector<double>() == Values(6, 1.0));
    CHECK(Tensor::full({3}, 7.0, options).to_vector<double>() == Values(3, 7.0));
    CHECK(Tensor::empty({0, 3}, options).numel() == 0);
    const Tensor scalar = Tensor::full({}, 5.0, options);
    CHECK(scalar.item() == 5.0);
    CHECK(scalar.rank() == 0);
    CHECK(scalar.nbytes() == size_of(dtype));
    CHECK(scalar.dtype() == dtype);
  }
  CHECK(Tensor::arange(4).to_vector<std::int64_t>() == std::vector<std::int64_t>{0, 1, 2, 3});
  CHECK(Tensor::arange(0).numel() == 0);
  CHECK_THROWS_AS(Tensor::arange(-1), ShapeError);
}

TEST_CASE("from copies values of four types in row-major order") {
  const Tensor x = Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3});
  CHECK(x.dtype() == DType::float32);
  CHECK(x.shape() == Shape{2, 3});
  CHECK(x.size(1) == 3);
  CHECK(x.size(-2) == 2);
  CHECK(x.to_vector<std::int64_t>() == std::vector<std::int64_t>{1, 2, 3, 4, 5, 6});
  CHECK(Tensor::from(Values{1.5}, {}).dtype() == DType::float64);
  CHECK(Tensor::from(std::vector<std::int64_t>{1}, {1}).dtype() == DType::int64);
  CHECK(Tensor::from(std::vector<std::uint8_t>{255}, {1}).to_vector<double>() == Values{255});
  CHECK_THROWS_AS(Tensor::from(Values{1, 2}, {3}), ShapeError);
}

TEST_CASE("Typed access checks the element type") {
  const Tensor x = Tensor::ones({2});
  CHECK(x.data<float>()[1] == 1.0f);
  CHECK_THROWS_AS(x.data<double>(), DTypeError);
  CHECK_THROWS_AS(x.data<std::int64_t>(), DTypeError);
  CHECK_THROWS_AS(Tensor::ones({2}, {.dtype = DType::float16}).data<bfloat16>(), DTypeError);
  CHECK_THROWS_AS(x.item(), ShapeError);
  CHECK(Tensor::full({1, 1}, 3.0).item() == 3.0);
}

TEST_CASE("Sizes whose bytes cannot be counted are refused, and those that no machine has") {
  const std::int64_t k31 = std::int64_t{1} << 31;
  for (const DType dtype : kAllDTypes) {
    CAPTURE(name(dtype));
    CHECK_THROWS_AS(Tensor::empty({k31, k31}, {.dtype = dtype}),
                    ShapeError);  // 4 bytes each make 2^64, which wraps to 0
    CHECK_THROWS_AS(Tensor::empty({k31, k31 / 4}, {.dtype = dtype}), ShapeError);
    CHECK_THROWS_AS(Tensor::empty({k31, 1 << 20}, {.dtype = dtype}), OutOfMemoryError);
  }
  float value = 0;
  CHECK_THROWS_AS(Tensor::from_blob(&value, {k31, k31}), ShapeError);
}

TEST_CASE("from_blob uses memory where it is and keeps its owner") {
  auto memory = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3, 4});
  const std::weak_ptr<std::vector<float>> watch = memory;
  Tensor view;
  {
    float* data = memory->data();
    const Tensor x = Tensor::from_blob(data, {2, 2}, {}, std::move(memory));
    CHECK(x.data_ptr() == data);
    data[3] = 40;
    CHECK(x.to_vector<float>() == std::vector<float>{1, 2, 3, 40});
    view = narrow(x, 0, 1, 1);
  }
  CHECK_FALSE(watch.expired());
  CHECK(view.to_vector<float>() == std::vector<float>{3, 40});
  view = Tensor();
  CHECK(watch.expired());
  CHECK_THROWS_AS(Tensor::from_blob(nullptr, {2}), ValueError);
  CHECK(Tensor::from_blob(nullptr, {0}).numel() == 0);
  std::vector<float> hwc = {1, 10, 2, 20};  // two channels, two pixels
  const Tensor image = Tensor::from_blob(hwc.data(), {1, 2, 1, 2}, {.layout = Layout::channels_last});
  CHECK(image.to_vector<float>() == std::vector<float>{1, 2, 10, 20});
}

TEST_CASE("Layouts order memory and not values") {
  Values values(2 * 3 * 2 * 2);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i);
  const Tensor rows = Tensor::from(values, {2, 3, 2, 2});
  const Tensor last = rows.to(Layout::channels_last);
  CHECK(last.layout() == Layout::channels_last);
  CHECK(last.shape() == rows.shape());
  CHECK(last.to_vector<double>() == values);
  const auto* memory = last.data<double>();
  for (std::int64_t n = 0; n < 2; ++n) {
    for (std::int64_t c = 0; c < 3; ++c) {
      for (std::int64_t p = 0; p < 4; ++p)
        CHECK(memory[(n * 4 + p) * 3 + c] == values[static_cast<std::size_t>((n * 3 + c) * 4 + p)]);
    }
  }
  CHECK(last.to(Layout::row_major).to_vector<double>() == values);
  CHECK(rows.to(Layout::row_major).data_ptr() == rows.data_ptr());
  CHECK(last.to(Layout::channels_last).data_ptr() == last.data_ptr());
  CHECK(last.clone().layout() == Layout::channels_last);
  CHECK(last.to(DType::float32).layout() == Layout::channels_last);
  const Tensor gray = Tensor::ones({2, 1, 3, 3});
  CHECK(gray.to(Layout::channels_last).data_ptr() == gray.data_ptr());  // both orders are the same
  CHECK_THROWS_AS(Tensor::ones({2, 3}).to(Layout::channels_last), ShapeError);
  CHECK_THROWS_AS(Tensor::empty({2, 3, 4}, {.layout = Layout::channels_last}), ShapeError);
  for (const DType dtype : kAllDTypes) {
    CHECK(rows.to(dtype).to(Layout::channels_last).to_vector<double>() == values);
  }
}

TEST_CASE("Casts between all dtypes") {
  const Values values = {0, 1, 2, 100, 7};
  for (const DType from : kAllDTypes) {
    for (const DType to : kAllDTypes) {
      CAPTURE(name(from), name(to));
      const Tensor x = Tensor::from(values, {5}).to(from).to(to);
      CHECK(x.dtype() == to);
      CHECK(x.to_vector<double>() == values);
    }
  }
  const Tensor x = Tensor::from(Values{1.75, -1.75, 2.5}, {3});
  CHECK(x.to(DType::int64).to_vector<std::int64_t>() == std::vector<std::int64_t>{1, -1, 2});
  CHECK(x.to(DType::float64).data_ptr() == x.data_ptr());
  CHECK(Tensor::from(Values{1.0 + 0x1p-11}, {}).to(DType::float16).item() == 1.0);  // to even
  CHECK(Tensor::from(Values{1.0 + 3 * 0x1p-11}, {}).to(DType::float16).item() == 1.0 + 0x1p-9);
  CHECK(Tensor::from(Values{1.0 + 0x1p-8}, {}).to(DType::bfloat16).item() == 1.0);
  CHECK(Tensor::from(Values{1e300}, {}).to(DType::float32).item() == std::numeric_limits<double>::infinity());
  // Rounding once, not by way of float32: just above the middle of two halves.
  CHECK(Tensor::from(Values{1.0 + 0x1p-11 + 0x1p-40}, {}).to(DType::float16).item() == 1.0 + 0x1p-10);
  CHECK(Tensor::from(std::vector<std::int64_t>{(std::int64_t{1} << 53) + 2}, {}).to(DType::float64).item() ==
        0x1p53 + 2);
}

TEST_CASE("Devices that are not there are refused") {
  const Tensor x = Tensor::ones({2});
  CHECK(x.to(kCpu).data_ptr() == x.data_ptr());
  if (cuda_device_count() > 0) return;
  CHECK_THROWS_AS(x.to(Device{Device::Type::cuda, 0}), DeviceError);
  CHECK_THROWS_AS(Tensor::ones({2}, {.device = {Device::Type::cuda, 1}}), DeviceError);
}

TEST_CASE("A clone has its own memory, a handle has not") {
  Tensor x = Tensor::ones({3});
  Tensor same = x;
  const Tensor copy = x.clone();
  same.fill_(5.0);
  CHECK(x.to_vector<double>() == Values{5, 5, 5});
  CHECK(copy.to_vector<double>() == Values{1, 1, 1});
}

TEST_CASE("In-place operations") {
  Tensor x = Tensor::from(Values{1, 2, 3, 4}, {2, 2});
  CHECK(x.add_(Tensor::from(Values{1, 1, 1, 1}, {2, 2}), -2.0).to_vector<double>() == Values{-1, 0, 1, 2});
  CHECK(x.mul_(3.0).to_vector<double>() == Values{-3, 0, 3, 6});
  CHECK(x.copy_(Tensor::from(std::vector<std::int64_t>{9, 8, 7, 6}, {2, 2})).to_vector<double>() == Values{9, 8, 7, 6});
  CHECK(x.zero_().to_vector<double>() == Values(4, 0.0));
  CHECK(x.dtype() == DType::float64);
  x.copy_(x);

  Values values(24);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i);
  const Tensor rows = Tensor::from(values, {2, 3, 2, 2});
  Tensor last = Tensor::zeros({2, 3, 2, 2}, {.dtype = DType::float64, .layout = Layout::channels_last});
  CHECK(last.copy_(rows).to_vector<double>() == values);
  CHECK(last.add_(rows, 2.0).to_vector<double>()[5] == 15.0);
  CHECK(last.layout() == Layout::channels_last);
  narrow(rows, 0, 1, 1).fill_(-1.0);
  CHECK(rows.to_vector<double>()[11] == 11.0);
  CHECK(rows.to_vector<double>()[12] == -1.0);
}

TEST_CASE("Random draws are a function of the seed and their number") {
  manual_seed(3);
  const std::vector<float> first = Tensor::randn({100}).to_vector<float>();
  const std::vector<float> second = Tensor::randn({100}).to_vector<float>();
  CHECK(first != second);
  manual_seed(3);
  CHECK(Tensor::randn({100}).to_vector<float>() == first);
  CHECK(default_generator().draws == 1);
  CHECK(Tensor::randn({100}).to_vector<float>() == second);
  manual_seed(4);
  CHECK(Tensor::randn({100}).to_vector<float>() != first);
  std::vector<float> elsewhere;
  std::thread([&] {
    manual_seed(3);
    elsewhere = Tensor::randn({100}).to_vector<float>();
  }).join();
  CHECK(elsewhere == first);
  CHECK(default_generator().seed == 4);
}

TEST_CASE("randn and rand have the moments of their distributions") {
  manual_seed(11);
  for (const DType dtype : {DType::float32, DType::float64}) {
    constexpr int kDraws = 100'000;
    double sum = 0, squares = 0, fourth = 0;
    for (const double z : Tensor::randn({kDraws}, {.dtype = dtype}).to_vector<double>()) {
      sum += z;
      squares += z * z;
      fourth += z * z * z * z;
    }
    CHECK(sum / kDraws == Approx(0.0).margin(0.02));  // six standard deviations each
    CHECK(squares / kDraws == Approx(1.0).margin(0.03));
    CHECK(fourth / kDraws == Approx(3.0).margin(0.2));
    double low = 1, high = 0, total = 0;
    for (const double u : Tensor::rand({kDraws}, {.dtype = dtype}).to_vector<double>()) {
      low = std::min(low, u);
      high = std::max(high, u);
      total += u;
    }
    CHECK((low >= 0.0 && low < 0.001 && high < 1.0 && high > 0.999));
    CHECK(total / kDraws == Approx(0.5).margin(0.006));
  }
  CHECK_THROWS_AS(Tensor::randn({2}, {.dtype = DType::int64}), DTypeError);
  CHECK_THROWS_AS(Tensor::rand({2}, {.dtype = DType::float16}), DTypeError);
}

TEST_CASE("Tensors print for people") {
  CHECK(to_string(Tensor::from(std::vector<float>{1, 2.5f, -3}, {3})) == "Tensor([3], float32, cpu: 1, 2.5, -3)");
  CHECK(to_string(Tensor::full({}, 7.0, {.dtype = DType::int64})) == "Tensor([], int64, cpu: 7)");
  CHECK(to_string(Tensor::zeros({0, 2})) == "Tensor([0, 2], float32, cpu: )");
  CHECK_THAT(to_string(Tensor::ones({1, 2, 1, 1}, {.layout = Layout::channels_last})),
             Catch::Contains("channels_last"));
  const std::string many = to_string(Tensor::arange(1000));
  CHECK_THAT(many, Catch::Contains("0, 1, 2, 3, 4, 5, 6, 7, …, 992, 993") && Catch::EndsWith("998, 999)"));
}

}  // namespace
