#include <lockstep/kernels/copy.h>

#include <limits>
#include <numeric>

#include <lockstep/core/base/error.h>
#include <lockstep/kernels/common/element_types.h>
#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

constexpr DType kDTypes[] = {DType::float32,  DType::float64, DType::float16,
                             DType::bfloat16, DType::int64,   DType::uint8};

template <class E>
std::vector<E> random_bits(std::int64_t n) {
  PhiloxStream draws(3, 1);
  std::vector<E> values(static_cast<std::size_t>(n));
  for (E& v : values) v = static_cast<E>(draws.next_below(~std::uint64_t{0}));
  return values;
}

/// A box over `sizes` whose strides list the dimensions' order in memory, outermost first.
StridedCopy permuted(const std::vector<std::int64_t>& sizes, const std::vector<int>& source_order,
                     const std::vector<int>& target_order) {
  StridedCopy box;
  box.rank = static_cast<int>(sizes.size());
  std::int64_t source = 1, target = 1;
  for (std::size_t i = sizes.size(); i-- > 0;) {
    const int s = source_order[i], t = target_order[i];
    box.source_strides[s] = source;
    box.target_strides[t] = target;
    source *= sizes[static_cast<std::size_t>(s)];
    target *= sizes[static_cast<std::size_t>(t)];
  }
  std::copy(sizes.begin(), sizes.end(), box.sizes);
  return box;
}

std::int64_t extent(const StridedCopy& box, const std::int64_t* strides) {
  std::int64_t last = 0;
  for (int d = 0; d < box.rank; ++d) {
    if (box.sizes[d] == 0) return 0;
    last += (box.sizes[d] - 1) * strides[d];
  }
  return last + 1;
}

/// Both devices copy between equal buffers; what the box does not touch must stay.
template <class E>
bool copies_as_on_cpu(const StridedCopy& box, std::int64_t source_offset, std::int64_t target_offset) {
  const auto source = random_bits<E>(extent(box, box.source_strides));
  auto target = random_bits<E>(extent(box, box.target_strides));
  const DeviceBuffer<E> source_there(source, source_offset), target_there(target, target_offset);
  kernels::copy_strided(cuda_stream(), box, sizeof(E), source_there.data(), target_there.data());
  kernels::copy_strided(kOnCpu, box, sizeof(E), source.data(), target.data());
  return same_bits(target_there.download(), target);
}

template <class T>
std::vector<T> cast_values() {
  std::vector<T> values;
  if constexpr (std::is_integral_v<T>) {
    for (std::int64_t v = 0; v < 200; ++v) values.push_back(static_cast<T>(v));
    if constexpr (sizeof(T) == 8) {
      for (int bit = 8; bit < 60; ++bit) {
        for (const std::int64_t d : {-1, 0, 1})
          values.push_back((bit % 2 == 0 ? 1 : -1) * ((std::int64_t{3} << bit) + d));
      }
    }
  } else {
    values = converted<T>(random_values<float>(1000, 0, 200));
    for (const double v : {0.0, -0.0, 1.0 + 0x1p-11 + 0x1p-40, 65519.999, 65520.0, 1e-8, 0x1p-149, 3.0e-6}) {
      values.push_back(converted<T>(std::vector<double>{v})[0]);
    }
  }
  return values;
}

}  // namespace

TEMPLATE_TEST_CASE("CUDA copy_strided copies the CPU's bits", "", std::uint8_t, std::uint16_t, std::uint32_t,
                   std::uint64_t) {
  if (!have_cuda()) return;
  using E = TestType;
  std::vector<StridedCopy> boxes;
  StridedCopy box;
  boxes.push_back(box);  // one element
  for (const std::int64_t n : {0, 1, 33, 1000, 4099}) boxes.push_back(permuted({n}, {0}, {0}));
  // Transposes: square tiles, narrow ones on either side, several matrices, small ones.
  for (const auto& [batch, rows, cols] : {std::tuple{1, 64, 64},
                                          {2, 100, 33},
                                          {1, 3, 1000},
                                          {3, 1000, 3},
                                          {2, 31, 130},
                                          {1, 2, 4097},
                                          {5, 4, 4},
                                          {1, 65, 1025},
                                          {2, 17, 40},
                                          {1, 700, 1}}) {
    boxes.push_back(permuted({batch, cols, rows}, {0, 2, 1}, {0, 1, 2}));
  }
  boxes.push_back(permuted({3, 4, 5, 40, 20}, {0, 4, 2, 1, 3}, {0, 1, 2, 3, 4}));
  boxes.push_back(permuted({2, 3, 2, 2, 1, 3, 2, 4}, {7, 6, 5, 4, 3, 2, 1, 0}, {0, 1, 2, 3, 4, 5, 6, 7}));
  for (const std::int64_t width : {16, 17, 24, 6}) {  // rows of a wider matrix, both ways
    for (const std::int64_t stride : {48, 49}) {
      box = permuted({40, width}, {0, 1}, {0, 1});
      box.source_strides[0] = stride;
      boxes.push_back(box);
      std::swap(box.source_strides[0], box.target_strides[0]);
      boxes.push_back(box);
    }
  }
  for (const auto& [source_stride, target_stride] : {std::pair{3, 1}, {1, 2}}) {  // single elements of one side
    box = permuted({100}, {0}, {0});
    box.source_strides[0] = source_stride;
    box.target_strides[0] = target_stride;
    boxes.push_back(box);
    box = permuted({30, 40}, {0, 1}, {0, 1});
    box.source_strides[0] = box.target_strides[0] = 150;
    box.source_strides[1] = source_stride;
    box.target_strides[1] = target_stride;
    boxes.push_back(box);
  }
  box = permuted({30, 7, 16}, {0, 1, 2}, {0, 1, 2});  // repeats
  box.source_strides[0] = 0;
  boxes.push_back(box);
  box = permuted({300, 7}, {0, 1}, {0, 1});
  box.source_strides[1] = 0;
  boxes.push_back(box);
  box = permuted({50, 60}, {0, 1}, {0, 1});  // every third of every second row, to every second
  box.source_strides[0] = 400;
  box.source_strides[1] = 3;
  box.target_strides[0] = 130;
  box.target_strides[1] = 2;
  boxes.push_back(box);
  for (const StridedCopy& b : boxes) {
    CAPTURE(b.rank, std::vector(b.sizes, b.sizes + b.rank), std::vector(b.source_strides, b.source_strides + b.rank));
    CHECK(copies_as_on_cpu<E>(b, 0, 0));
    CHECK(copies_as_on_cpu<E>(b, 1, 0));
    CHECK(copies_as_on_cpu<E>(b, 2, 2));
  }
  if (sizeof(E) == 1) {  // more tiles than there are blocks
    CHECK(copies_as_on_cpu<E>(permuted({4100, 16, 32}, {0, 2, 1}, {0, 1, 2}), 0, 0));
  }
  std::printf("CUDA boxes of %d bytes: %d\n", static_cast<int>(sizeof(E)), static_cast<int>(boxes.size()));
}

TEST_CASE("CUDA transposes between NCHW and NHWC and back") {
  if (!have_cuda()) return;
  const std::int64_t batch = 3, channels = 5, pixels = 77;
  const auto x = random_bits<std::uint32_t>(batch * channels * pixels);
  const DeviceBuffer<std::uint32_t> there(x), last(there.size()), back(there.size());
  kernels::transpose(cuda_stream(), batch, channels, pixels, 4, there.data(), last.data());
  kernels::transpose(cuda_stream(), batch, pixels, channels, 4, last.data(), back.data());
  std::vector<std::uint32_t> expected(x.size());
  kernels::transpose(kOnCpu, batch, channels, pixels, 4, x.data(), expected.data());
  CHECK(last.download() == expected);
  CHECK(back.download() == x);
}

TEST_CASE("CUDA casts between all dtypes give the CPU's bits") {
  if (!have_cuda()) return;
  int pairs = 0;
  for (const DType from : kDTypes) {
    for (const DType to : kDTypes) {
      kernels::with_dtype(from, [&]<class From>(From) {
        kernels::with_dtype(to, [&]<class To>(To) {
          auto values = cast_values<From>();
          if (to == DType::uint8)
            std::erase_if(values, [](From v) {
              return !(static_cast<double>(converted<double>(std::vector<From>{v})[0]) >= 0.0 &&
                       static_cast<double>(converted<double>(std::vector<From>{v})[0]) < 256.0);
            });
          for (const std::int64_t offset : {0, 1}) {
            CAPTURE(name(from), name(to), offset);
            const DeviceBuffer<From> source(values, offset);
            const DeviceBuffer<To> target(source.size(), offset);
            kernels::cast(cuda_stream(), source.size(), from, source.data(), to, target.data());
            std::vector<To> expected(values.size());
            kernels::cast(kOnCpu, source.size(), from, values.data(), to, expected.data());
            CHECK(same_bits(target.download(), expected));
          }
          ++pairs;
        });
      });
    }
  }
  std::printf("CUDA casts: %d\n", pairs);
}

TEST_CASE("CUDA casts keep NaN and infinities") {
  if (!have_cuda()) return;
  const std::vector<float> x = {kNaN<float>, kInf<float>, -kInf<float>, 1e30f, -1e30f};
  const DeviceBuffer<float> source(x);
  const auto check = [&]<class T>(T, DType dtype) {
    const DeviceBuffer<T> target(source.size());
    kernels::cast(cuda_stream(), source.size(), DType::float32, source.data(), dtype, target.data());
    CHECK(close(converted<double>(target.download()), converted<double>(converted<T>(x)), 0));
  };
  check(float16{}, DType::float16);
  check(bfloat16{}, DType::bfloat16);
  check(double{}, DType::float64);
}

TEST_CASE("CUDA copies and casts of nothing, and a copy from nowhere") {
  if (!have_cuda()) return;
  for (const DType from : kDTypes) {
    for (const DType to : kDTypes) kernels::cast(cuda_stream(), 0, from, nullptr, to, nullptr);
  }
  synchronize(kCuda);
  const DeviceBuffer<float> target(10);
  CHECK_THROWS_AS(kernels::copy_strided(cuda_stream(), permuted({10}, {0}, {0}), 4, nullptr, target.data()),
                  DeviceError);
}

TEST_CASE("CUDA fill sets every element of every dtype and nothing else") {
  if (!have_cuda()) return;
  for (const DType dtype : kDTypes) {
    kernels::with_dtype(dtype, [&]<class T>(T) {
      for (const std::int64_t n : {0, 1, 15, 16, 17, 1000}) {
        for (const std::int64_t offset : {0, 1}) {
          for (const double value : {42.0, 1.0 + 0x1p-11 + 0x1p-40}) {  // the second is rounded, upwards in one step
            CAPTURE(name(dtype), n, offset, value);
            const std::vector<T> before(static_cast<std::size_t>(n + 2), converted<T>(std::vector<double>{3.0})[0]);
            const DeviceBuffer<T> target(before, offset);
            kernels::fill(cuda_stream(), n, dtype, value, target.data() + 1);
            auto expected = before;
            kernels::fill(kOnCpu, n, dtype, value, expected.data() + 1);
            CHECK(same_bits(target.download(), expected));
          }
        }
      }
    });
  }
}
