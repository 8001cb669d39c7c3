#include <lockstep/core/autograd/node.h>

#include <algorithm>

#include <lockstep/core/base/check.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor_impl.h>

namespace lockstep {

bool GradContext::needs(int i) const { return static_cast<bool>(node_.inputs()[static_cast<std::size_t>(i)]); }

Tensor GradContext::empty(int i, const Shape& shape, const TensorOptions& options) const {
  detail::Node* input = node_.inputs()[static_cast<std::size_t>(i)].get();
  if (input && input->is_leaf()) {
    Tensor lent = static_cast<detail::LeafNode&>(*input).lend_destination(shape, options);
    if (lent.defined()) return lent;
  }
  return Tensor::empty(shape, options);
}

void GradContext::set(int i, Tensor grad_input) {
  if (!needs(i)) return;
  if (watched_) [[unlikely]]
    return detail::accumulate_watched(node_, i, std::move(grad_input));
  node_.inputs()[static_cast<std::size_t>(i)]->accumulate(std::move(grad_input));
}

SavedTensor::SavedTensor(const Tensor& input) : tensor_(input) {
  if (tensor_.defined()) version_ = tensor_.impl()->storage->version;
}

const Tensor& SavedTensor::get(const char* op) const {
  LOCKSTEP_CHECK(
      !tensor_.defined() || tensor_.impl()->storage->version == version_, AutogradError, op,
      "expected a tensor of shape {} saved for backward to be unchanged (version {}), but it was modified in "
      "place since (version {})",
      to_string(tensor_.shape()), version_, tensor_.impl()->storage->version);
  return tensor_;
}

namespace detail {
namespace {

std::atomic<std::uint64_t> g_sequence{1};
std::atomic<std::uint64_t> g_passes{0};
std::atomic<std::uint64_t> g_destination_copies{0};
constinit thread_local Node* t_dead = nullptr;
constinit thread_local bool t_destroying = false;

}  // namespace

Node::Node(const char* op, std::span<const Tensor* const> inputs)
    : input_count_(static_cast<int>(inputs.size())),
      op_(op),
      sequence_(g_sequence.fetch_add(1, std::memory_order_relaxed)) {
  if (inputs.size() > std::size(few_inputs_)) more_inputs_ = std::make_unique<IntrusivePtr<Node>[]>(inputs.size());
  const std::span<IntrusivePtr<Node>> nodes = this->inputs();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i]->defined()) nodes[i] = inputs[i]->impl()->node;
  }
}

// Destroying a node drops its inputs, which may drop theirs: a list instead of recursion, so that depth costs no stack.
void Node::destroy(Node* node) noexcept {
  node->next_dead_ = std::exchange(t_dead, node);
  if (t_destroying) return;
  t_destroying = true;
  while (t_dead) {
    Node* dead = t_dead;
    t_dead = dead->next_dead_;
    delete dead;
  }
  t_destroying = false;
}

void Node::accumulate(Tensor contribution) {
  if (!grad.defined()) {
    grad = std::move(contribution);
  } else if (is_exclusive(grad)) {
    grad.add_(contribution);
  } else {
    grad = add(grad, contribution);
  }
}

void LeafNode::accumulate(Tensor contribution) {
  if (grad.defined()) {
    grad.add_(contribution);
    return;
  }
  lent_ = false;
  if (destination_.defined()) {
    grad = std::exchange(destination_, {});
    if (contribution.data_ptr() != grad.data_ptr()) {
      grad.copy_(contribution);
      g_destination_copies.fetch_add(1, std::memory_order_relaxed);
    }
    return;
  }
  contribution = contribution.to(layout_);
  grad = is_exclusive(contribution) ? std::move(contribution) : contribution.clone();
}

Tensor LeafNode::lend_destination(const Shape& shape, const TensorOptions& options) {
  if (!destination_.defined() || lent_ || grad.defined() || destination_.shape() != shape ||
      destination_.dtype() != options.dtype || destination_.device() != options.device ||
      destination_.layout() != options.layout) {
    return {};
  }
  lent_ = true;
  return destination_;
}

std::uint64_t grad_destination_copies() { return g_destination_copies.load(std::memory_order_relaxed); }

void attach(const Tensor& output, Node* node, std::span<const Tensor* const> inputs) {
  IntrusivePtr<Node> owned(node);
  if (anomaly_enabled()) [[unlikely]] {
    watch_forward(*node, output, inputs);
    const auto needs_grad = [](const IntrusivePtr<Node>& input) { return static_cast<bool>(input); };
    if (!grad_enabled() || std::ranges::none_of(node->inputs(), needs_grad)) return;
  }
  output.impl()->node = std::move(owned);
}

class Tape {
 public:
  /// The nodes that `root` depends on, latest first, leaves left out; counts how often each leaf is used.
  explicit Tape(Node* root) {
    const std::uint64_t pass = g_passes.fetch_add(1, std::memory_order_relaxed) + 1;
    root->visit = pass;
    nodes_.push_back(root);
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      LOCKSTEP_CHECK(!nodes_[i]->is_free(), AutogradError, nodes_[i]->op(),
                     "expected a tape that was not used yet; backward uses it up, unless called with retain_tape{}",
                     recorded_by(*nodes_[i]));
      for (const IntrusivePtr<Node>& input : nodes_[i]->inputs()) {
        if (!input) continue;
        const bool seen = std::exchange(input->visit, pass) == pass;
        if (input->is_leaf()) {
          input->pending = seen ? input->pending + 1 : 1;
        } else if (!seen) {
          nodes_.push_back(input.get());
        }
      }
    }
    const auto later = [](const Node* a, const Node* b) { return a->sequence_ > b->sequence_; };
    if (!std::is_sorted(nodes_.begin(), nodes_.end(), later)) std::sort(nodes_.begin(), nodes_.end(), later);
  }

  /// Gradients that a failed pass leaves behind in the middle of the tape would be added to the next one's.
  ~Tape() {
    for (std::size_t i = done_; i < nodes_.size(); ++i) nodes_[i]->grad = {};
  }

  void run(bool retain) {
    const bool anomaly = anomaly_enabled();
    for (; done_ < nodes_.size(); ++done_) {
      Node& node = *nodes_[done_];
      GradContext context(node, std::exchange(node.grad, {}));
      if (context.grad.defined()) anomaly ? watch_backward(node, context) : node.run(context);
      if (!retain) node.free();
      for (const IntrusivePtr<Node>& input : node.inputs()) {
        if (input && input->is_leaf() && --input->pending == 0) static_cast<LeafNode&>(*input).announce();
      }
    }
  }

 private:
  std::vector<Node*> nodes_;  // kept alive by the links between them
  std::size_t done_ = 0;
};

void run_backward(const Tensor& root, Tensor grad, bool retain_tape) {
  const IntrusivePtr<Node> node = root.impl()->node;
  const NoGradGuard no_grad;
  if (node->is_leaf()) {
    node->accumulate(std::move(grad));
    static_cast<LeafNode*>(node.get())->announce();
    return;
  }
  Tape tape(node.get());
  node->grad = std::move(grad);
  tape.run(retain_tape);
}

}  // namespace detail
}  // namespace lockstep
