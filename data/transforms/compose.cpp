#include <lockstep/data/transforms/compose.h>

#include <algorithm>

#include <lockstep/core/base/check.h>
#include <lockstep/data/transforms/normalize.h>
#include <lockstep/data/transforms/to_tensor.h>

namespace lockstep {

Compose::Compose(std::vector<std::shared_ptr<const Transform>> transforms) : transforms_(std::move(transforms)) {
  for (const auto& transform : transforms_) {
    LOCKSTEP_CHECK(transform != nullptr, ValueError, "Compose", "expected transforms, got a null pointer");
    const bool before_floats = tables_.empty();
    if (const auto* pixels = dynamic_cast<const PixelTransform*>(transform.get())) {
      LOCKSTEP_CHECK(before_floats, ValueError, "Compose", "expected {} before ToTensor, got it after",
                     transform->repr());
      pixel_transforms_.push_back(pixels);
    } else if (dynamic_cast<const ToTensor*>(transform.get())) {
      LOCKSTEP_CHECK(before_floats, ValueError, "Compose", "expected one ToTensor, got another");
      tables_.resize(1);
      for (std::size_t x = 0; x < 256; ++x) tables_[0][x] = static_cast<float>(x) / 255.0f;
    } else if (const auto* normalize = dynamic_cast<const Normalize*>(transform.get())) {
      LOCKSTEP_CHECK(!before_floats, ValueError, "Compose", "expected ToTensor before {}, got none", transform->repr());
      const std::size_t channels = normalize->mean().size();
      LOCKSTEP_CHECK(channels == 1 || tables_.size() == 1 || channels == tables_.size(), ValueError, "Compose",
                     "expected Normalize for 1 or {} channels, got {}", tables_.size(), channels);
      if (tables_.size() < channels) tables_.resize(channels, tables_[0]);
      for (std::size_t c = 0; c < tables_.size(); ++c) {
        const auto mean = static_cast<float>(normalize->mean()[channels == 1 ? 0 : c]);
        const auto std = static_cast<float>(normalize->std()[channels == 1 ? 0 : c]);
        for (float& value : tables_[c]) value = (value - mean) / std;
      }
    } else {
      detail::fail<ValueError>("Compose", "expected PixelTransform, ToTensor or Normalize, got {}", transform->repr());
    }
  }
  LOCKSTEP_CHECK(!tables_.empty(), ValueError, "Compose", "expected ToTensor among the transforms, got none");
}

ImageView Compose::apply_pixels(ImageView image, const Visit& visit, Workspace& workspace) const {
  std::size_t out = 0;
  for (std::size_t i = 0; i < pixel_transforms_.size(); ++i) {
    PhiloxStream stream = draws(visit, static_cast<int>(i) + 1);
    image = pixel_transforms_[i]->apply(image, stream, workspace[out]);
    if (image.pixels == workspace[out].data()) out ^= 1;
  }
  return image;
}

void Compose::to_floats(const ImageView& image, float* out) const {
  const std::int64_t channels = image.channels, area = image.height * image.width;
  LOCKSTEP_CHECK(tables_.size() == 1 || static_cast<std::int64_t>(tables_.size()) == channels, ShapeError, "Normalize",
                 "expected an image with {} channels, got {}", tables_.size(), channels);
  const auto table = [&](std::int64_t c) {
    return tables_[tables_.size() == 1 ? 0 : static_cast<std::size_t>(c)].data();
  };
  const std::uint8_t* pixels = image.pixels;
  if (channels == 3) {  // whole pixels at a time: consecutive stores
    const float *red = table(0), *green = table(1), *blue = table(2);
    for (std::int64_t i = 0; i < area; ++i) {
      out[3 * i] = red[pixels[i]];
      out[3 * i + 1] = green[pixels[area + i]];
      out[3 * i + 2] = blue[pixels[2 * area + i]];
    }
    return;
  }
  for (std::int64_t c = 0; c < channels; ++c) {
    const float* values = table(c);
    for (std::int64_t i = 0; i < area; ++i) out[channels * i + c] = values[pixels[c * area + i]];
  }
}

Tensor Compose::operator()(const Tensor& image, const Visit& visit) const {
  LOCKSTEP_CHECK(image.dtype() == DType::uint8, DTypeError, "Compose", "expected a uint8 image, got {}",
                 name(image.dtype()));
  LOCKSTEP_CHECK(image.rank() == 3, ShapeError, "Compose", "expected an image [C, H, W], got {}",
                 to_string(image.shape()));
  Workspace workspace;
  const ImageView view =
      apply_pixels({image.data<std::uint8_t>(), image.size(0), image.size(1), image.size(2)}, visit, workspace);
  const std::int64_t area = view.height * view.width;
  std::vector<float> interleaved(static_cast<std::size_t>(view.numel()));
  to_floats(view, interleaved.data());
  Tensor result = Tensor::empty({view.channels, view.height, view.width});
  float* out = result.data<float>();
  for (std::int64_t c = 0; c < view.channels; ++c) {
    for (std::int64_t i = 0; i < area; ++i)
      out[c * area + i] = interleaved[static_cast<std::size_t>(i * view.channels + c)];
  }
  return result;
}

std::string to_string(const Compose& compose) {
  std::string text = "Compose(";
  for (const auto& transform : compose.transforms_) text += "\n    " + transform->repr();
  return text + "\n)";
}

}  // namespace lockstep
