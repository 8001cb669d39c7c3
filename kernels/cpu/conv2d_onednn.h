// A convolution on oneDNN: the plan of one pass of one shape. Internal.
//
// The batch (where it is shorter than the number of threads, also the rows of its images) is cut into parts, one for
// each thread of our pool, and each part is a single-threaded primitive. Weights are reordered to oneDNN's blocked
// format for every call, since they change in every training step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <lockstep/kernels/conv2d.h>
#include <lockstep/kernels/cpu/onednn_utils.h>

namespace lockstep::kernels::conv2d {

enum class Pass : std::int64_t { kForward, kBackwardData, kBackwardWeight };

/// Never changes once made; any number of threads may run it at once. Shapes must not be empty.
class OnednnPlan {
 public:
  /// Null where oneDNN refuses the shape or has only its slow reference code for it.
  static std::unique_ptr<const OnednnPlan> make(const Conv2dShape& shape, Pass pass, std::int64_t threads);

  /// Bytes.
  std::size_t workspace() const { return workspace_; }

  /// The one that is called must be that of the plan's pass. Arguments as in kernels/conv2d.h.
  void forward(const float* x, const float* w, const float* bias, float* y, void* workspace) const;
  void backward_data(const float* grad_y, const float* w, float* grad_x, void* workspace) const;
  void backward_weight(const float* x, const float* grad_y, float* grad_w, void* workspace) const;

  /// A part of the work: some images, or a run of rows of one image. Offsets are in elements.
  struct Part {
    Conv2dShape shape;
    std::int64_t x_offset, y_offset;
    std::size_t primitive;
  };

 private:
  struct Primitive {
    Conv2dShape shape;
    dnnl::primitive primitive;
    dnnl::memory::desc x, y, bias, scratchpad;
  };
  struct Reorder {
    dnnl::memory::desc plain, packed;
    dnnl::primitive primitive;
  };
  /// A run of the outermost blocks of the packed weights, reordered by one thread.
  struct Split {
    std::int64_t plain_offset, packed_begin, packed_end;
    std::size_t reorder;
  };

  bool fill(const Conv2dShape& whole, std::int64_t threads);
  std::optional<Primitive> make_primitive(const Conv2dShape& part);
  void plan_reorder(const dnnl::memory::desc& plain, std::int64_t window_offset, std::int64_t threads);
  void pack_weights(const float* w, float* packed) const;
  float* packed_at(void* workspace, std::size_t part) const;
  void* scratchpad_at(void* workspace, std::size_t part) const;

  Pass pass_{};
  std::vector<Part> parts_;
  std::vector<Primitive> primitives_;  // one for each distinct shape of a part
  dnnl::memory::desc packed_;          // the weights as the primitives take them
  std::vector<Split> splits_;
  std::vector<Reorder> reorders_;
  std::int64_t clear_first_ = 0;  // elements of grad_w to clear, since some taps never meet the image

  // The workspace holds the packed weights (or one packed gradient for each part), the scratchpads of the parts, and
  // for the forward pass a bias of zeros: one primitive serves with and without.
  std::size_t packed_bytes_ = 0, scratchpad_bytes_ = 0, zeros_offset_ = 0, workspace_ = 0;
};

}  // namespace lockstep::kernels::conv2d
