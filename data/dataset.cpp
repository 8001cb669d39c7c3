#include <lockstep/data/dataset.h>

#include <cstring>

#include <lockstep/core/base/check.h>

namespace lockstep {

Example Dataset::get(std::int64_t index) const {
  LOCKSTEP_CHECK(index >= 0 && index < size(), ValueError, "Dataset::get", "expected an index in [0, {}), got {}",
                 size(), index);
  PixelBuffer buffer;
  const auto [image, label] = read(index, buffer);
  Example example{Tensor::empty({image.channels, image.height, image.width}, {.dtype = DType::uint8}), label};
  if (image.numel() > 0) std::memcpy(example.image.data_ptr(), image.pixels, static_cast<std::size_t>(image.numel()));
  return example;
}

}  // namespace lockstep
