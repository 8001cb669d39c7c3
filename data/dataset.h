// What a data set is: a number of labelled images, each reached by its index.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <lockstep/core/tensor.h>

namespace lockstep {

/// The two parts that data sets come in.
enum class Split : std::uint8_t { train, test };

/// Pixels that someone else holds: uint8, [channels, height, width] in row-major order.
struct ImageView {
  const std::uint8_t* pixels = nullptr;
  std::int64_t channels = 0, height = 0, width = 0;

  std::int64_t numel() const { return channels * height * width; }  ///< number of pixel values
};

/// Room for pixels that had to be made (decoded, cropped). Meant to be used again: it grows to the largest image and
/// stays.
using PixelBuffer = std::vector<std::uint8_t>;

/// One labelled image with memory of its own: uint8 [C, H, W] and the index of its class.
struct Example {
  Tensor image;
  std::int64_t label = 0;
};

/// The same without a copy.
struct ExampleView {
  ImageView image;
  std::int64_t label = 0;
};

/// A number of labelled images. To make your own, implement size(), classes() and read(). All members may be called
/// from several threads at once.
class Dataset {
 public:
  Dataset() = default;
  Dataset(const Dataset&) = delete;
  Dataset& operator=(const Dataset&) = delete;
  virtual ~Dataset() = default;

  virtual std::int64_t size() const = 0;  ///< number of examples
  /// Class names; labels are indices into them.
  virtual const std::vector<std::string>& classes() const = 0;

  /// The example at `index`, in [0, size()). A data set that lies in memory answers with its own pixels, which stay
  /// valid while it lives; one that decodes puts them into `buffer`, where they stay until its next use.
  virtual ExampleView read(std::int64_t index, PixelBuffer& buffer) const = 0;

  /// Does now what would else be done by the first read (filling the memory of a data set that lies there), with the
  /// threads of the caller. DataLoader calls it at the start of an epoch.
  virtual void prepare() const {}

  /// A copy of the example at `index`. Throws ValueError outside [0, size()).
  Example get(std::int64_t index) const;
};

}  // namespace lockstep
