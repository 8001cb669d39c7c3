// The tape. An op that takes part in differentiation makes one Node: what it was computed from, and a function from the
// gradient of its output to the gradients of its inputs. Nodes belong to the output tensors (and to the nodes made from
// them), so that a forward without a backward leaves nothing behind. Their sequence numbers are the tape: a node's
// number is higher than those of its inputs, so walking reachable nodes from the highest number down meets each one
// after everything that uses it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <lockstep/core/allocator.h>
#include <lockstep/core/autograd/anomaly.h>
#include <lockstep/core/base/call_site.h>
#include <lockstep/core/base/intrusive_ptr.h>
#include <lockstep/core/tensor.h>

namespace lockstep {

/// What a backward function gets: the gradient of the op's output, and where to put the gradients of its inputs.
class GradContext {
 public:
  /// Made by the tape.
  GradContext(detail::Node& node, Tensor grad_output) : grad(std::move(grad_output)), node_(node) {}

  /// Gradient of the output, of the output's shape and dtype; the layout may be another. May be moved from: if
  /// detail::is_exclusive(grad), its memory may be used for a result.
  Tensor grad;

  /// Whether input `i` (in the order given to record) needs a gradient.
  bool needs(int i) const;
  /// Memory for the gradient of input `i`, contents undefined: where that leaf wants it (set_grad_destination) if this
  /// is its first gradient, new memory otherwise. For gradients that are parameters' more often than not.
  Tensor empty(int i, const Shape& shape, const TensorOptions& options) const;
  /// Hands over the gradient of input `i`; ignored if that is not needed.
  void set(int i, Tensor grad);

 private:
  friend void detail::watch_backward(detail::Node& node, GradContext& context);

  detail::Node& node_;
  bool watched_ = false;  // AnomalyMode is on, and `grad` came without NaN: those of the inputs must have none
};

/// A tensor kept for backward, with a check that it was not overwritten in between.
class SavedTensor {
 public:
  /// Keeps an input of the op (or a tensor that only the op knows).
  explicit SavedTensor(const Tensor& input);
  /// Keeps the output of the op, without the reference cycle that keeping the handle itself would make.
  static SavedTensor output(const Tensor& output) { return SavedTensor(output.detach()); }

  /// Throws AutogradError naming `op` if the memory was changed in place since. Undefined if it was so.
  const Tensor& get(const char* op) const;

 private:
  Tensor tensor_;
  std::uint32_t version_ = 0;
};

namespace detail {

class Node : public SmallObject {
 public:
  Node(const char* op, std::span<const Tensor* const> inputs);
  virtual ~Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  void retain() const noexcept { count_.fetch_add(1, std::memory_order_relaxed); }
  void release() const noexcept {
    if (count_.load(std::memory_order_acquire) == 1 || count_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      destroy(const_cast<Node*>(this));
    }
  }

  const char* op() const { return op_; }
  std::span<IntrusivePtr<Node>> inputs() {
    return {more_inputs_ ? more_inputs_.get() : few_inputs_, static_cast<std::size_t>(input_count_)};
  }
  /// A leaf has no inputs and keeps its gradient.
  virtual bool is_leaf() const { return false; }
  /// Calls the backward function.
  virtual void run(GradContext& context) = 0;
  /// Drops the backward function with all that it has saved.
  virtual void free() {}
  virtual bool is_free() const { return false; }
  /// Adds to `grad`.
  virtual void accumulate(Tensor grad);

  Tensor grad;                          // of a leaf: what users see; else: collected during one backward
  std::uint64_t visit = 0;              // the backward pass that has seen this node last
  int pending = 0;                      // of a leaf, during backward: uses that have not delivered yet
  bool result_had_nan = false;          // seen by AnomalyMode
  std::unique_ptr<CallSite> call_site;  // where it was recorded, if under AnomalyMode

 private:
  friend class Tape;
  static void destroy(Node* node) noexcept;

  mutable std::atomic<std::uint32_t> count_{0};
  int input_count_ = 0;
  const char* op_;
  std::uint64_t sequence_;
  IntrusivePtr<Node> few_inputs_[4];
  std::unique_ptr<IntrusivePtr<Node>[]> more_inputs_;
  Node* next_dead_ = nullptr;
};

/// Node of a leaf tensor. Remembers what its gradient must look like.
class LeafNode final : public Node {
 public:
  LeafNode(const Shape& shape, DType dtype, Layout layout)
      : Node("leaf", {}), shape_(shape), dtype_(dtype), layout_(layout) {}

  bool is_leaf() const override { return true; }
  void run(GradContext&) override {}
  void accumulate(Tensor grad) override;

  void set_destination(Tensor destination) {
    destination_ = std::move(destination);
    lent_ = false;
  }
  /// The destination, once for each time that it is free.
  Tensor lend_destination(const Shape& shape, const TensorOptions& options);

  void add_hook(std::function<void()> hook) { hooks_.push_back(std::move(hook)); }
  void announce() {
    for (const auto& hook : hooks_) hook();
  }

  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }

 private:
  Shape shape_;
  DType dtype_;
  Layout layout_;
  Tensor destination_;  // where the next first gradient goes, if someone wants it in a place of his own
  bool lent_ = false;   // an op is writing it there
  std::vector<std::function<void()>> hooks_;
};

/// How many gradients had to be copied to their destination, in this process so far: ops that write it there
/// themselves, by GradContext::empty, need no copy.
std::uint64_t grad_destination_copies();

template <class Backward>
class OpNode final : public Node {
 public:
  OpNode(const char* op, std::span<const Tensor* const> inputs, Backward&& backward)
      : Node(op, inputs), backward_(std::move(backward)) {}

  void run(GradContext& context) override { (*backward_)(context); }
  void free() override { backward_.reset(); }
  bool is_free() const override { return !backward_; }

 private:
  std::optional<Backward> backward_;
};

/// Takes the new `node`, and makes it that of `output`.
void attach(const Tensor& output, Node* node, std::span<const Tensor* const> inputs);
void run_backward(const Tensor& root, Tensor grad, bool retain_tape);

}  // namespace detail

/// Whether an op on these inputs must be handed to record: gradients are enabled and one of them requires one, or
/// AnomalyMode wants to see the result.
template <class... Tensors>
bool must_record(const Tensors&... inputs) {
  return (grad_enabled() && ((inputs.defined() && inputs.requires_grad()) || ...)) || anomaly_enabled();
}

/// Puts an op on the tape: `output` was computed from `inputs` (undefined ones allowed), and `backward(GradContext&)`
/// turns its gradient into theirs. `op` must be a string literal. Call it only if must_record(inputs...); a backward
/// function may use ops freely, nothing it does is recorded.
template <class Backward>
void record(const char* op, const Tensor& output, std::span<const Tensor* const> inputs, Backward backward) {
  detail::attach(output, new detail::OpNode<Backward>(op, inputs, std::move(backward)), inputs);
}
/// The same for inputs written out: `record("mul", y, {&a, &b}, …)`.
template <class Backward>
void record(const char* op, const Tensor& output, std::initializer_list<const Tensor*> inputs, Backward backward) {
  record(op, output, std::span(inputs.begin(), inputs.size()), std::move(backward));
}

}  // namespace lockstep
