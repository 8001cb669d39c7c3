#include <lockstep/kernels/batch_gather.h>

#include <lockstep/core/base/float16.h>
#include <lockstep/kernels/cuda/device_utils.cuh>
#include <lockstep/kernels/cuda/divider.cuh>
#include <lockstep/kernels/cuda/launch.cuh>

namespace lockstep::kernels {
namespace {

/// A thread per V elements of an image of y; the first of an image brings its label too. n is their number, `vectors`
/// that of an image. Division is a GPU's slow way to scale, but gives the loader's bits, and memory is slower still.
/// The index of an image, which all its threads load, comes from the cache.
/// The normalisation is __grid_constant__ as a thread's copy, indexed by channel, would be in memory.
template <class T, int V>
__global__ void batch_gather_kernel(std::int64_t n, cuda::Divider vectors,
                                    const __grid_constant__ ImageNormalization normalization, const std::int64_t* index,
                                    const std::uint8_t* images, const std::int64_t* labels, T* y,
                                    std::int64_t* batch_labels) {
  for (std::int64_t i = cuda::first_element(); i < n; i += cuda::element_stride()) {
    std::int64_t vector = 0;
    const std::int64_t image = vectors.divide(i, vector), source = index[image];
    const auto bytes = cuda::load_vector<V>(images, source * vectors.divisor() + vector);
    auto channel = static_cast<int>(vector * V % normalization.channels);
    cuda::Vector<T, V> out;
    for (int v = 0; v < V; ++v) {
      const float scaled = static_cast<float>(bytes[v]) / 255.0f;
      out[v] = T((scaled - normalization.mean[channel]) / normalization.std[channel]);
      channel = channel + 1 < normalization.channels ? channel + 1 : 0;
    }
    cuda::store_vector(y, out, i);
    if (labels && vector == 0) batch_labels[image] = labels[source];
  }
}

}  // namespace

template <class T>
void batch_gather(CudaStream stream, std::int64_t batch, std::int64_t pixels, const ImageNormalization& normalization,
                  const std::int64_t* index, const std::uint8_t* images, const std::int64_t* labels, T* y,
                  std::int64_t* batch_labels) {
  const std::int64_t size = pixels * normalization.channels;
  if (batch * size == 0) return;
  const auto run = [&]<int V>() {
    cuda::launch_elements(batch * (size / V), stream, batch_gather_kernel<T, V>, cuda::Divider(size / V), normalization,
                          index, images, labels, y, batch_labels);
  };
  constexpr int kVector = cuda::kVectorSize<T>;
  if (size % kVector == 0 && cuda::is_aligned(kVector, images) && cuda::is_aligned(16, y)) {
    run.template operator()<kVector>();
  } else {
    run.template operator()<1>();
  }
}

#define LOCKSTEP_INSTANTIATE(T)                                                                    \
  template void batch_gather<T>(CudaStream, std::int64_t, std::int64_t, const ImageNormalization&, \
                                const std::int64_t*, const std::uint8_t*, const std::int64_t*, T*, std::int64_t*);
LOCKSTEP_INSTANTIATE(float)
LOCKSTEP_INSTANTIATE(float16)
LOCKSTEP_INSTANTIATE(bfloat16)

}  // namespace lockstep::kernels
