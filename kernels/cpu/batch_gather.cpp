#include <lockstep/kernels/batch_gather.h>

#include <algorithm>
#include <array>
#include <cstddef>

#include <lockstep/core/base/thread_pool.h>

namespace lockstep::kernels {

template <class T>
void batch_gather(Cpu, std::int64_t batch, std::int64_t pixels, const ImageNormalization& normalization,
                  const std::int64_t* index, const std::uint8_t* images, const std::int64_t* labels, T* y,
                  std::int64_t* batch_labels) {
  const std::int64_t channels = normalization.channels, size = pixels * channels;
  std::array<std::array<T, 256>, ImageNormalization::kMaxChannels> values;  // of each byte in each channel
  for (std::int64_t c = 0; c < channels; ++c) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const float scaled = static_cast<float>(byte) / 255.0f;
      values[static_cast<std::size_t>(c)][byte] =
          static_cast<T>((scaled - normalization.mean[c]) / normalization.std[c]);
    }
  }
  const std::int64_t grain = std::max<std::int64_t>(1, (1 << 14) / std::max<std::int64_t>(size, 1));
  parallel_for(batch, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::uint8_t* image = images + index[i] * size;
      T* out = y + i * size;
      for (std::int64_t c = 0; c < channels; ++c) {
        const auto& table = values[static_cast<std::size_t>(c)];
        for (std::int64_t at = c; at < size; at += channels) out[at] = table[image[at]];
      }
      if (labels) batch_labels[i] = labels[index[i]];
    }
  });
}
template void batch_gather(Cpu, std::int64_t, std::int64_t, const ImageNormalization&, const std::int64_t*,
                           const std::uint8_t*, const std::int64_t*, float*, std::int64_t*);
template void batch_gather(Cpu, std::int64_t, std::int64_t, const ImageNormalization&, const std::int64_t*,
                           const std::uint8_t*, const std::int64_t*, double*, std::int64_t*);

}  // namespace lockstep::kernels
