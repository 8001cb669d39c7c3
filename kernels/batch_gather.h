// Batches of a small data set that lives where it is trained on: gathered, scaled and normalised in one kernel.
#pragma once

#include <cstdint>

#include <lockstep/core/base/device.h>

namespace lockstep {

/// Channels of images of bytes, 1 to 4, and the mean and standard deviation that Normalize takes for each.
struct ImageNormalization {
  static constexpr std::int64_t kMaxChannels = 4;

  std::int64_t channels = 0;
  float mean[kMaxChannels] = {};
  float std[kMaxChannels] = {};
};

namespace kernels {

/// y[i, h, w, c] = (images[index[i], h, w, c] / 255 − mean[c]) / std[c] and batch_labels[i] = labels[index[i]] for i <
/// batch. images [N, pixels, channels], labels [N] (or both null), y [batch, pixels, channels]; each index in [0, N). T
/// is float or double on the CPU, float, float16 or bfloat16 on CUDA; computed in float, to the same bits as ToTensor
/// and Normalize of the data loader.
template <class T>
void batch_gather(Cpu, std::int64_t batch, std::int64_t pixels, const ImageNormalization& normalization,
                  const std::int64_t* index, const std::uint8_t* images, const std::int64_t* labels, T* y,
                  std::int64_t* batch_labels);
template <class T>
void batch_gather(CudaStream, std::int64_t batch, std::int64_t pixels, const ImageNormalization& normalization,
                  const std::int64_t* index, const std::uint8_t* images, const std::int64_t* labels, T* y,
                  std::int64_t* batch_labels);

}  // namespace kernels
}  // namespace lockstep
