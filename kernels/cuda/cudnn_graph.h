// A convolution that cuDNN has planned. Internal; what it is made with is included in cudnn_graph.cpp only, as that
// takes the compiler long.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include <lockstep/core/base/cuda.h>
#include <lockstep/kernels/conv2d.h>

namespace lockstep::cudnn {

enum class Pass : std::int32_t { forward, backward_data, backward_weight };

/// Everything that a plan depends on. Fields of equal size, so that the bytes tell keys apart.
struct ConvolutionKey {
  Conv2dShape shape;
  std::int64_t device;
  std::int32_t pass;           ///< a Pass
  std::int32_t dtype;          ///< a DType: float32, float16 or bfloat16; sums are float32
  std::int32_t bias;           ///< whether the forward pass adds one
  std::int32_t relu;           ///< whether it ends in a ReLU; cuDNN has none without a bias
  std::int32_t tf32;           ///< whether float32 may be rounded to TF32
  std::int32_t deterministic;  ///< whether the same bits are asked for in each run
  std::int64_t benchmark;      ///< whether the plan is the fastest of several that are timed

  friend bool operator==(const ConvolutionKey&, const ConvolutionKey&) = default;
};

class ConvolutionGraph {
 public:
  /// Plans it for the current device. Throws DeviceError if cuDNN has no engine for it. `stream` is where plans are
  /// timed.
  ConvolutionGraph(const ConvolutionKey& key, CudaStream stream);
  ~ConvolutionGraph();
  ConvolutionGraph(const ConvolutionGraph&) = delete;
  ConvolutionGraph& operator=(const ConvolutionGraph&) = delete;

  /// Bytes that run() needs.
  std::size_t workspace() const { return workspace_; }
  /// Queues it on a stream of its device: the pass's output is computed from the others. Pointers are aligned to 16
  /// bytes; `bias` is null unless the key has one. For any threads.
  void run(CudaStream stream, void* x, void* w, void* y, void* bias, void* workspace);

 private:
  struct Graph;

  void choose_fastest(const ConvolutionKey& key, CudaStream stream);

  std::unique_ptr<Graph> graph_;
  std::size_t workspace_ = 0;
  std::mutex mutex_;  ///< running a graph is not promised to be safe on several threads at once
};

}  // namespace lockstep::cudnn
