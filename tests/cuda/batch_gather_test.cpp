#include <lockstep/kernels/batch_gather.h>

#include <lockstep/tests/cuda/cuda_test.h>

using namespace lockstep;
using namespace lockstep::testing;

namespace {

ImageNormalization normalization(std::int64_t channels) {
  ImageNormalization n{channels, {0.4914f, 0.4822f, 0.4465f, 0.5f}, {0.2470f, 0.2435f, 0.2616f, 0.25f}};
  return n;
}

std::vector<std::uint8_t> random_bytes(std::int64_t n) {
  const auto values = random_values<float>(n, 0, 256, 1);
  return {values.begin(), values.end()};
}

/// The CPU's kernel in float, rounded to T.
template <class T>
void check_gather(std::int64_t images, std::int64_t batch, std::int64_t pixels, std::int64_t channels,
                  std::int64_t offset, std::int64_t y_offset, bool with_labels) {
  const std::int64_t size = pixels * channels;
  const auto bytes = random_bytes(images * size);
  std::vector<std::int64_t> index(static_cast<std::size_t>(batch)), labels(static_cast<std::size_t>(images));
  for (std::int64_t i = 0; i < batch; ++i) index[static_cast<std::size_t>(i)] = (i * 7 + 3) % images;
  for (std::int64_t i = 0; i < images; ++i) labels[static_cast<std::size_t>(i)] = i * i + (std::int64_t{1} << 40);

  std::vector<float> expected(static_cast<std::size_t>(batch * size));
  std::vector<std::int64_t> expected_labels(index.size());
  kernels::batch_gather<float>(kOnCpu, batch, pixels, normalization(channels), index.data(), bytes.data(),
                               with_labels ? labels.data() : nullptr, expected.data(), expected_labels.data());

  const DeviceBuffer<std::uint8_t> resident(bytes, offset);
  const DeviceBuffer<std::int64_t> places(index), resident_labels(labels), batch_labels(batch);
  const DeviceBuffer<T> y(batch * size, y_offset);
  kernels::batch_gather<T>(cuda_stream(), batch, pixels, normalization(channels), places.data(), resident.data(),
                           with_labels ? resident_labels.data() : nullptr, y.data(),
                           with_labels ? batch_labels.data() : nullptr);
  CHECK(same_bits(y.download(), converted<T>(expected)));
  if (with_labels) CHECK(batch_labels.download() == expected_labels);
}

}  // namespace

TEMPLATE_TEST_CASE("batch_gather on CUDA has the bits of the CPU's", "", float, float16, bfloat16) {
  if (!have_cuda()) return;
  check_gather<TestType>(5, 4, 64, 3, 0, 0, true);
  check_gather<TestType>(5, 4, 64, 3, 1, 1, true);  // aligned for single elements only
  check_gather<TestType>(5, 4, 64, 3, 0, 1, true);
  check_gather<TestType>(5, 4, 64, 3, 1, 0, true);
  check_gather<TestType>(3, 7, 49, 1, 0, 0, true);  // images that are no whole vectors
  check_gather<TestType>(9, 3, 28 * 28, 1, 0, 0, true);
  check_gather<TestType>(2, 5, 33, 4, 0, 0, false);
  check_gather<TestType>(2, 3, 10, 2, 0, 0, true);
  check_gather<TestType>(1, 1, 1, 1, 0, 0, true);
  check_gather<TestType>(4, 0, 64, 3, 0, 0, true);
  check_gather<TestType>(3, 2, 0, 3, 0, 0, true);            // labels alone
  check_gather<TestType>(2, 3, 96 * 96 + 1, 3, 0, 0, true);  // several blocks for an image, the last not full
  check_gather<TestType>(2, 3, 96 * 96, 3, 0, 0, true);      // likewise in vectors
  check_gather<TestType>(2, 20'000, 1, 4, 0, 0, true);       // more images than blocks
}
