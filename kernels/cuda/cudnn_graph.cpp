#include <lockstep/kernels/cuda/cudnn_graph.h>

#include <unordered_map>
#include <utility>
#include <vector>

#include <cuda_runtime.h>
#include <cudnn_frontend.h>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/cuda_check.h>
#include <lockstep/core/base/dtype.h>
#include <lockstep/kernels/cuda/plan_cache.h>

namespace lockstep::cudnn {
namespace {

namespace fe = cudnn_frontend;

void check(const char* call, fe::error_t error, const ConvolutionKey& key) {
  const Conv2dShape& s = key.shape;
  LOCKSTEP_CHECK(
      error.is_good(), DeviceError, "conv2d",
      "expected cuDNN's {} to succeed for pass {} of x [{}, {}, {}, {}], w [{}, {}, {}, {}], stride [{}, {}], "
      "padding [{}, {}], dilation [{}, {}], {}; got: {}",
      call, key.pass, s.n, s.c, s.h, s.w, s.k, s.c / s.groups, s.r, s.s, s.stride_h, s.stride_w, s.pad_h, s.pad_w,
      s.dilation_h, s.dilation_w, name(static_cast<DType>(key.dtype)), error.get_message());
}

/// A handle of the current device that no other thread uses meanwhile. They are kept for ever.
class Handle {
 public:
  Handle() : device_(cuda::current_device()) {
    {
      const std::lock_guard lock(mutex());
      auto& idle = idle_handles()[device_];
      if (!idle.empty()) {
        handle_ = idle.back();
        idle.pop_back();
      }
    }
    if (!handle_) require(cudnnCreate(&handle_), "cudnnCreate");
  }
  ~Handle() {
    const std::lock_guard lock(mutex());
    idle_handles()[device_].push_back(handle_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  cudnnHandle_t get() const { return handle_; }
  void use(CudaStream stream) const { require(cudnnSetStream(handle_, stream), "cudnnSetStream"); }

 private:
  static void require(cudnnStatus_t status, const char* call) {
    LOCKSTEP_CHECK(status == CUDNN_STATUS_SUCCESS, DeviceError, "conv2d", "expected {} to succeed, got {}", call,
                   cudnnGetErrorString(status));
  }
  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }
  static std::unordered_map<int, std::vector<cudnnHandle_t>>& idle_handles() {
    static auto& handles = *new std::unordered_map<int, std::vector<cudnnHandle_t>>;
    return handles;
  }

  int device_;
  cudnnHandle_t handle_ = nullptr;
};

fe::DataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::float16: return fe::DataType_t::HALF;
    case DType::bfloat16: return fe::DataType_t::BFLOAT16;
    default: return fe::DataType_t::FLOAT;
  }
}

using TensorHandle = std::shared_ptr<fe::graph::Tensor_attributes>;

/// Sizes in cuDNN's order (batch, channels, rows, columns) of a channels-last buffer.
void set_sizes(fe::graph::Tensor_attributes& tensor, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
  tensor.set_dim({n, c, h, w}).set_stride({h * w * c, 1, w * c, c});
}

template <class Attributes>
Attributes attributes(const Conv2dShape& s) {
  return Attributes()
      .set_padding({s.pad_h, s.pad_w})
      .set_stride({s.stride_h, s.stride_w})
      .set_dilation({s.dilation_h, s.dilation_w});
}

/// Engines that are not to be used.
std::vector<fe::NumericalNote_t> unwanted(const ConvolutionKey& key) {
  std::vector<fe::NumericalNote_t> notes{fe::NumericalNote_t::REDUCED_PRECISION_REDUCTION};
  if (key.deterministic) notes.push_back(fe::NumericalNote_t::NONDETERMINISTIC);
  if (static_cast<DType>(key.dtype) == DType::float32 && !key.tf32) {
    notes.push_back(fe::NumericalNote_t::TENSOR_CORE);
    notes.push_back(fe::NumericalNote_t::DOWN_CONVERT_INPUTS);
  }
  return notes;
}

}  // namespace

struct ConvolutionGraph::Graph {
  fe::graph::Graph graph;
  TensorHandle x, w, y, bias;

  explicit Graph(const ConvolutionKey& key) {
    const Conv2dShape& s = key.shape;
    graph.set_io_data_type(data_type(static_cast<DType>(key.dtype)))
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    const auto input = [&](const char* label, auto... sizes) {
      fe::graph::Tensor_attributes made;
      set_sizes(made.set_name(label), sizes...);
      return graph.tensor(made);
    };
    const auto input_x = [&] { return input("x", s.n, s.c, s.h, s.w); };
    const auto input_w = [&] { return input("w", s.k, s.c / s.groups, s.r, s.s); };
    const auto input_y = [&] { return input("y", s.n, s.k, s.p, s.q); };
    switch (static_cast<Pass>(key.pass)) {
      case Pass::forward:
        x = input_x();
        w = input_w();
        y = graph.conv_fprop(x, w, attributes<fe::graph::Conv_fprop_attributes>(s));
        if (key.bias) {
          set_sizes(*y, s.n, s.k, s.p, s.q);
          bias = input("bias", std::int64_t{1}, s.k, std::int64_t{1}, std::int64_t{1});
          y = graph.pointwise(y, bias, fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::ADD));
        }
        if (key.relu) {
          set_sizes(*y, s.n, s.k, s.p, s.q);
          y = graph.pointwise(y, fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::RELU_FWD));
        }
        y->set_output(true);
        set_sizes(*y, s.n, s.k, s.p, s.q);
        break;
      case Pass::backward_data:
        y = input_y();
        w = input_w();
        x = graph.conv_dgrad(y, w, attributes<fe::graph::Conv_dgrad_attributes>(s));
        x->set_output(true);
        set_sizes(*x, s.n, s.c, s.h, s.w);
        break;
      case Pass::backward_weight:
        x = input_x();
        y = input_y();
        w = graph.conv_wgrad(y, x, attributes<fe::graph::Conv_wgrad_attributes>(s));
        w->set_output(true);
        set_sizes(*w, s.k, s.c / s.groups, s.r, s.s);
        break;
    }
  }
};

ConvolutionGraph::ConvolutionGraph(const ConvolutionKey& key, CudaStream stream)
    : graph_(std::make_unique<Graph>(key)) {
  const Handle handle;
  fe::graph::Graph& graph = graph_->graph;
  check("validate", graph.validate(), key);
  check("build_operation_graph", graph.build_operation_graph(handle.get()), key);
  check("create_execution_plans", graph.create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}), key);
  graph.deselect_numeric_notes(unwanted(key));
  check("check_support", graph.check_support(), key);
  if (key.benchmark) {
    choose_fastest(key, stream);
  } else {
    check("build_plans", graph.build_plans(fe::BuildPlanPolicy_t::HEURISTICS_CHOICE), key);
  }
  std::int64_t bytes = 0;
  check("get_workspace_size", graph.get_workspace_size(bytes), key);
  workspace_ = static_cast<std::size_t>(bytes);
}

/// Builds the first few plans that can be built and keeps the one that is fastest on zeros.
void ConvolutionGraph::choose_fastest(const ConvolutionKey& key, CudaStream stream) {
  constexpr int kCandidates = 8;
  fe::graph::Graph& graph = graph_->graph;
  graph.deselect_workspace_greater_than(std::int64_t{1} << 30);
  int built = 0;
  for (std::int64_t i = 0; i < graph.get_execution_plan_count() && built < kCandidates; ++i) {
    if (graph.build_plan_at_index(i).is_good()) ++built;
  }
  // None of moderate workspace: what the heuristics choose.
  if (built == 0) return check("build_plans", graph.build_plans(fe::BuildPlanPolicy_t::HEURISTICS_CHOICE), key);

  std::vector<std::unique_ptr<cuda::StreamMemory>> memory;
  std::unordered_map<TensorHandle, void*> buffers;
  for (const TensorHandle& tensor : {graph_->x, graph_->w, graph_->y, graph_->bias}) {
    if (!tensor) continue;
    std::size_t bytes = size_of(static_cast<DType>(key.dtype));
    for (const std::int64_t size : tensor->get_dim()) bytes *= static_cast<std::size_t>(size);
    memory.push_back(std::make_unique<cuda::StreamMemory>(stream, bytes));
    LOCKSTEP_CUDA_CHECK(cudaMemsetAsync(memory.back()->data(), 0, bytes, stream));
    buffers.emplace(tensor, memory.back()->data());
  }
  const cuda::StreamMemory workspace(stream, static_cast<std::size_t>(graph.get_autotune_workspace_size()));
  const Handle handle;
  handle.use(stream);
  check("autotune", graph.autotune(handle.get(), buffers, workspace.data()), key);
}

ConvolutionGraph::~ConvolutionGraph() = default;

void ConvolutionGraph::run(CudaStream stream, void* x, void* w, void* y, void* bias, void* workspace) {
  std::unordered_map<TensorHandle, void*> buffers{{graph_->x, x}, {graph_->w, w}, {graph_->y, y}};
  if (graph_->bias) buffers.emplace(graph_->bias, bias);
  const Handle handle;
  handle.use(stream);
  const std::lock_guard lock(mutex_);
  auto error = graph_->graph.execute(handle.get(), buffers, workspace);
  LOCKSTEP_CHECK(error.is_good(), DeviceError, "conv2d", "expected cuDNN to run a convolution, got: {}",
                 error.get_message());
}

}  // namespace lockstep::cudnn
