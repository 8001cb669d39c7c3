#include <lockstep/kernels/batch_gather.h>

#include <lockstep/core/base/float16.h>
#include <lockstep/kernels/cuda/device_utils.cuh>
#include <lockstep/kernels/cuda/launch.cuh>

namespace lockstep::kernels {
namespace {

constexpr int kThreads = 256;

struct GatherShared {
  std::int64_t source;  // the image of the block
};

/// A block per chunk of an image of y, which is kThreads vectors of V elements; its first thread reads the index for
/// all, and that of an image's first block brings the label too. Division is a GPU's slow way to scale, but gives the
/// loader's bits, and memory is slower still.
/// The normalisation is __grid_constant__ as a thread's copy, indexed by channel, would be in memory.
template <class T, int V>
__global__ void batch_gather_kernel(std::int64_t batch, std::int64_t chunks, std::int64_t vectors,
                                    const __grid_constant__ ImageNormalization normalization, const std::int64_t* index,
                                    const std::uint8_t* images, const std::int64_t* labels, T* y,
                                    std::int64_t* batch_labels) {
  auto& shared = cuda::block_shared<GatherShared>();
  for (std::int64_t block = blockIdx.x; block < batch * chunks; block += gridDim.x) {
    const std::int64_t image = block / chunks, chunk = block % chunks;
    __syncthreads();  // of the last chunk, all have read it
    if (threadIdx.x == 0) shared.source = index[image];
    __syncthreads();
    const std::int64_t source = shared.source;
    if (labels && chunk == 0 && threadIdx.x == 0) batch_labels[image] = labels[source];
    const std::int64_t vector = chunk * kThreads + threadIdx.x;
    if (vector >= vectors) continue;
    const auto bytes = cuda::load_vector<V>(images, source * vectors + vector);
    auto channel = static_cast<int>(vector * V % normalization.channels);
    cuda::Vector<T, V> out;
    for (int v = 0; v < V; ++v) {
      const float scaled = static_cast<float>(bytes[v]) / 255.0f;
      out[v] = T((scaled - normalization.mean[channel]) / normalization.std[channel]);
      channel = channel + 1 < normalization.channels ? channel + 1 : 0;
    }
    cuda::store_vector(y, out, image * vectors + vector);
  }
}

}  // namespace

template <class T>
void batch_gather(CudaStream stream, std::int64_t batch, std::int64_t pixels, const ImageNormalization& normalization,
                  const std::int64_t* index, const std::uint8_t* images, const std::int64_t* labels, T* y,
                  std::int64_t* batch_labels) {
  if (batch == 0) return;
  const std::int64_t size = pixels * normalization.channels;
  const auto run = [&]<int V>() {
    const std::int64_t vectors = size / V, chunks = vectors <= kThreads ? 1 : (vectors - 1) / kThreads + 1;
    cuda::launch<GatherShared>({.grid = cuda::block_count(batch * chunks, 1), .block = kThreads, .stream = stream},
                               batch_gather_kernel<T, V>, batch, chunks, vectors, normalization, index, images, labels,
                               y, batch_labels);
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
