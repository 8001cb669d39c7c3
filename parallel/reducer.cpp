#include <lockstep/parallel/reducer.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <optional>
#include <utility>

#include <lockstep/core/base/check.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor_impl.h>

namespace lockstep {
namespace {

constexpr std::int64_t kAlignment = 64;  // elements: parameters begin at multiples, as memory of their own would

/// Some parameters whose gradients travel together: one after the other, then a flag for each (how many replicas used
/// it), then the value.
struct Bucket {
  std::vector<std::size_t> params;
  std::vector<std::int64_t> offsets;  // of params, in elements
  std::int64_t flags = 0, value = 0, size = 0;
  TensorOptions options;

  std::vector<Tensor> pool;                       // every buffer that it has
  Tensor current;                                 // that of the replica whose backward is under way
  std::size_t missing = 0;                        // gradients that it does not have yet
  bool adds = false;                              // the buffer holds gradients of earlier steps
  std::vector<std::pair<TreeNode, Tensor>> sums;  // of the replicas before, nodes from left to right
  std::vector<std::pair<TreeNode, Tensor>> kept;  // of steps that were not reduced: a leaf for each replica
  Tensor result, travelling;                      // the latter as bfloat16, if that is how gradients travel
  std::optional<Work> work;

  /// Elements [begin, begin + shape.numel()) of a buffer.
  static Tensor view(const Tensor& buffer, std::int64_t begin, const Shape& shape, Layout layout) {
    return detail::alias(buffer, shape, layout, static_cast<std::size_t>(begin) * size_of(buffer.dtype()));
  }
  Tensor gradient(const Tensor& buffer, std::size_t place, const Tensor& param) const {
    return view(buffer, offsets[place], param.shape(), param.layout());
  }
  Tensor flag(const Tensor& buffer, std::size_t place) const {
    return view(buffer, flags + static_cast<std::int64_t>(place), {}, Layout::row_major);
  }
  Tensor value_of(const Tensor& buffer) const { return view(buffer, value, {}, Layout::row_major); }

  /// A buffer that nobody uses, all flags 1.
  Tensor acquire() {
    const auto is_free = [](const Tensor& buffer) { return detail::is_exclusive(buffer); };
    const auto found = std::find_if(pool.begin(), pool.end(), is_free);
    Tensor buffer;
    if (found != pool.end()) {
      buffer = *found;
    } else {
      buffer = Tensor::zeros({size}, options);  // what lies between parameters stays 0
      pool.push_back(buffer);
    }
    view(buffer, flags, {static_cast<std::int64_t>(params.size())}, Layout::row_major).fill_(1.0);
    return buffer;
  }
};

}  // namespace

class Reducer::Impl {
 public:
  Impl(std::vector<Tensor> parameters, ProcessGroup& group, const ReplicaOptions& options)
      : params_(std::move(parameters)), group_(group), options_(options) {
    if (options_.replicas == 0) options_.replicas = group.size();
    LOCKSTEP_CHECK(!params_.empty(), ValueError, "Reducer", "expected at least one parameter");
    LOCKSTEP_CHECK(options_.replicas >= group.size(), ValueError, "Reducer",
                   "expected at least as many replicas as ranks, {}, got {}", group.size(), options_.replicas);
    LOCKSTEP_CHECK(options_.first_bucket_bytes > 0 && options_.bucket_bytes > 0, ValueError, "Reducer",
                   "expected buckets of more than 0 bytes");
    LOCKSTEP_CHECK(!options_.bf16_compression || (options_.replicas == group.size() && options_.bitwise), ValueError,
                   "Reducer",
                   "expected one replica for each of {} ranks and bitwise sums with bf16_compression, got {}",
                   group.size(), options_.replicas);
    for (const Tensor& param : params_) {
      LOCKSTEP_CHECK(param.defined() && param.is_leaf() && param.requires_grad(), AutogradError, "Reducer",
                     "expected parameters to be leaves that require a gradient");
      LOCKSTEP_CHECK(param.device() == group.device(), DeviceError, "Reducer",
                     "expected parameters on {}, got one on {}", to_string(group.device()), to_string(param.device()));
    }
    own_ = part_of(options_.replicas, group.size(), group.rank());
    bucket_of_.resize(params_.size());
    ready_.resize(params_.size());
    used_here_.resize(params_.size());
    std::vector<std::size_t> order(params_.size());
    std::iota(order.rbegin(), order.rend(), std::size_t{0});  // backward comes to the last ones first
    build(order);
  }

  void register_hooks(const std::shared_ptr<Impl>& self) {
    for (std::size_t i = 0; i < params_.size(); ++i) {
      params_[i].register_grad_ready_hook([weak = std::weak_ptr(self), i] {
        if (const auto impl = weak.lock()) impl->on_ready(i);
      });
    }
  }

  void backward(const Tensor& root, const Tensor& grad, const Tensor& value) {
    begin_replica();
    for (Bucket& bucket : buckets_) open(bucket);
    put_value(value);
    in_backward_ = true;
    root.backward(grad);
    in_backward_ = false;
    for (Bucket& bucket : buckets_) {
      if (bucket.missing > 0) zero_missing(bucket);
    }
    end_replica();
  }

  void skip() {
    begin_replica();
    for (Bucket& bucket : buckets_) {
      if (!take_kept(bucket)) {
        bucket.current = bucket.acquire();
        bucket.current.zero_();
      }
    }
    put_value({});
    for (Bucket& bucket : buckets_) close(bucket);
    end_replica();
  }

  void set_sync(bool on) {
    LOCKSTEP_CHECK(next_ == 0, ValueError, "set_sync", "expected to be called between steps, got {} replicas done",
                   next_);
    sync_ = on;
  }

  Tensor finish() {
    LOCKSTEP_CHECK(next_ == own_.size(), ValueError, "finish", "expected {} replicas on this rank first, got {}",
                   own_.size(), next_);
    next_ = 0;
    if (!sync_) {
      for (Bucket& bucket : buckets_) bucket.kept = std::exchange(bucket.sums, {});
      restore_grads();
      return {};
    }
    const auto start = std::chrono::steady_clock::now();
    launch_until(buckets_.size());
    for (Bucket& bucket : buckets_) {
      bucket.work->wait();
      bucket.work.reset();
      if (bucket.travelling.defined()) bucket.result.copy_(std::exchange(bucket.travelling, {}));
      bucket.sums.clear();
    }
    stats_.seconds_waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const Tensor value = buckets_[0].value_of(buckets_[0].result).clone();
    for (Bucket& bucket : buckets_) hand_out(bucket);
    before_.clear();
    launched_ = 0;
    std::fill(used_here_.begin(), used_here_.end(), false);
    if (stats_.steps++ == 0) rebuild();
    return value;
  }

  void reset() {
    in_backward_ = false;
    next_ = 0;
    launched_ = 0;
    std::fill(used_here_.begin(), used_here_.end(), false);
    for (Bucket& bucket : buckets_) {
      bucket.current = {};
      bucket.sums.clear();
      bucket.kept.clear();
      bucket.result = bucket.travelling = {};
      bucket.work.reset();
    }
    restore_grads();
  }

  ReducerStats stats() const {
    ReducerStats stats = stats_;
    stats.buckets = static_cast<std::int64_t>(buckets_.size());
    return stats;
  }

  const ReplicaOptions& options() const { return options_; }
  Run own() const { return own_; }

 private:
  // ---- Buckets

  void build(const std::vector<std::size_t>& order) {
    buckets_.clear();
    std::size_t room = 0;  // bytes left in the last bucket
    for (const std::size_t i : order) {
      const Tensor& param = params_[i];
      const bool fits = !buckets_.empty() && param.nbytes() <= room && buckets_.back().options.dtype == param.dtype();
      if (!fits) {
        room = buckets_.empty() ? options_.first_bucket_bytes : options_.bucket_bytes;
        buckets_.emplace_back().options = {.dtype = param.dtype(), .device = param.device()};
      }
      Bucket& bucket = buckets_.back();
      bucket_of_[i] = {buckets_.size() - 1, bucket.params.size()};
      bucket.params.push_back(i);
      bucket.offsets.push_back(bucket.flags);
      bucket.flags += (param.numel() + kAlignment - 1) / kAlignment * kAlignment;
      room -= std::min(room, param.nbytes());
    }
    for (Bucket& bucket : buckets_) {
      bucket.value = bucket.flags + static_cast<std::int64_t>(bucket.params.size());
      bucket.size = bucket.value + 1;
    }
  }

  /// Once, when the order in which gradients get ready is known. Rank 0's is taken.
  void rebuild() {
    std::vector<std::int64_t> order(ready_order_.begin(), ready_order_.end());
    for (std::size_t i = params_.size(); i-- > 0;) {  // parameters that were not used come last
      const auto index = static_cast<std::int64_t>(i);
      if (std::find(order.begin(), order.end(), index) == order.end()) order.push_back(index);
    }
    const Tensor shared = Tensor::from(order, {static_cast<std::int64_t>(order.size())});
    group_.broadcast(shared).wait();
    const auto agreed = shared.to_vector<std::int64_t>();
    build({agreed.begin(), agreed.end()});
    ready_order_.clear();
    ++stats_.rebuilds;
  }

  // ---- A replica

  std::int64_t replica() const { return own_.begin + next_; }
  bool is_last() const { return next_ + 1 == own_.size(); }

  void begin_replica() {
    LOCKSTEP_CHECK(next_ < own_.size(), ValueError, "Reducer", "expected {} replicas on this rank, got one more",
                   own_.size());
    if (next_ == 0) {
      before_.clear();
      for (const Tensor& param : params_) before_.push_back(param.grad());
    }
    ready_order_.clear();
    std::fill(ready_.begin(), ready_.end(), false);
  }

  void end_replica() {
    for (const Tensor& param : params_) {
      param.set_grad({});
      param.set_grad_destination({});
    }
    ++next_;
  }

  /// Goes on with what the replica has from steps that were not reduced, if there is any.
  bool take_kept(Bucket& bucket) {
    bucket.adds = !bucket.kept.empty();
    if (!bucket.adds) return false;
    bucket.current = std::exchange(bucket.kept[static_cast<std::size_t>(next_)].second, {});
    if (is_last()) bucket.kept.clear();
    return true;
  }

  void open(Bucket& bucket) {
    const bool adds = take_kept(bucket);
    if (!adds) bucket.current = bucket.acquire();
    bucket.missing = bucket.params.size();
    for (std::size_t place = 0; place < bucket.params.size(); ++place) {
      const Tensor& param = params_[bucket.params[place]];
      const Tensor place_of_grad = bucket.gradient(bucket.current, place, param);
      param.set_grad(adds ? place_of_grad : Tensor());
      param.set_grad_destination(adds ? Tensor() : place_of_grad);
    }
  }

  void put_value(const Tensor& value) {
    for (std::size_t b = 0; b < buckets_.size(); ++b) {
      Tensor place = buckets_[b].value_of(buckets_[b].current);
      if (b == 0 && value.defined()) {
        place.copy_(reshape(value.detach(), {}).to(place.dtype()));
      } else {
        place.zero_();
      }
    }
  }

  /// The gradient of a parameter is complete.
  void on_ready(std::size_t i) {
    if (!in_backward_ || !params_[i].grad().defined()) return;
    if (stats_.steps == 0) ready_order_.push_back(i);
    used_here_[i] = ready_[i] = true;
    const auto [number, place] = bucket_of_[i];
    Bucket& bucket = buckets_[number];
    if (bucket.adds) bucket.flag(bucket.current, place).fill_(1.0);  // earlier steps may not have used it
    if (--bucket.missing > 0) return;
    close(bucket);
    if (!is_last() || !options_.overlap || !sync_) return;
    std::size_t end = launched_;
    while (end < buckets_.size() && !buckets_[end].current.defined()) ++end;
    stats_.reduced_in_backward += static_cast<std::int64_t>(end - launched_);
    launch_until(end);
  }

  /// Parameters that the replica did not use contribute nothing; what was kept of earlier steps stays as it is.
  void zero_missing(Bucket& bucket) {
    for (std::size_t place = 0; place < bucket.params.size() && !bucket.adds; ++place) {
      const std::size_t i = bucket.params[place];
      if (ready_[i]) continue;
      bucket.gradient(bucket.current, place, params_[i]).zero_();
      bucket.flag(bucket.current, place).zero_();
    }
    bucket.missing = 0;
    close(bucket);
  }

  /// Adds the replica's buffer to those before it, as far as the tree allows.
  void close(Bucket& bucket) {
    TreeNode node{replica(), 0};
    Tensor sum = std::exchange(bucket.current, {});
    const auto may_add = [&](TreeNode left) {
      return !options_.bitwise || are_siblings(left, node, options_.replicas);
    };
    while (sync_ && !bucket.sums.empty() && may_add(bucket.sums.back().first)) {
      auto [left, left_sum] = std::move(bucket.sums.back());
      bucket.sums.pop_back();
      left_sum.add_(sum);
      sum = std::move(left_sum);
      node = {left.first, left.level + 1};
    }
    bucket.sums.emplace_back(node, std::move(sum));
  }

  // ---- The reduction

  /// Starts those of the buckets before `end` that have not been, in their order, which is the same on all ranks.
  void launch_until(std::size_t end) {
    for (; launched_ < end; ++launched_) {
      ++stats_.reduced;
      Bucket& bucket = buckets_[launched_];
      bucket.result = bucket.sums[0].second;
      if (!options_.bitwise) {
        bucket.work = group_.all_reduce(bucket.result);
        continue;
      }
      if (options_.bf16_compression) bucket.travelling = bucket.result.to(DType::bfloat16);
      std::vector<TreeTensor> parts;
      for (const auto& [node, sum] : bucket.sums) {
        parts.push_back({options_.bf16_compression ? bucket.travelling : sum, node.level});
      }
      const Tensor result = parts[0].sum;
      bucket.work = group_.tree_all_reduce(std::move(parts), result);
    }
  }

  void hand_out(Bucket& bucket) {
    for (std::size_t place = 0; place < bucket.params.size(); ++place) {
      const std::size_t i = bucket.params[place];
      const Tensor& before = before_[i];
      const bool used = used_here_[i] || bucket.flag(bucket.result, place).item() != 0.0;
      if (!used) {
        params_[i].set_grad(before);
        continue;
      }
      Tensor sum = bucket.gradient(bucket.result, place, params_[i]);
      if (before.defined()) sum.add_(before);
      params_[i].set_grad(sum);
    }
    bucket.result = {};
  }

  void restore_grads() {
    for (std::size_t i = 0; i < params_.size(); ++i) {
      params_[i].set_grad_destination({});
      params_[i].set_grad(i < before_.size() ? before_[i] : Tensor());
    }
    before_.clear();
  }

  std::vector<Tensor> params_;
  ProcessGroup& group_;
  ReplicaOptions options_;
  Run own_;
  std::vector<Bucket> buckets_;
  std::vector<std::pair<std::size_t, std::size_t>> bucket_of_;  // bucket and place in it, by parameter
  std::vector<Tensor> before_;                                  // gradients that the parameters had before this step
  std::vector<bool> used_here_;                                 // by some replica of this rank
  std::vector<bool> ready_;                                     // in the backward under way
  std::vector<std::size_t> ready_order_;
  std::int64_t next_ = 0;     // replicas done in this step
  std::size_t launched_ = 0;  // buckets whose reduction has started
  bool in_backward_ = false, sync_ = true;
  ReducerStats stats_;
};

Reducer::Reducer(std::vector<Tensor> parameters, ProcessGroup& group, const ReplicaOptions& options)
    : impl_(std::make_shared<Impl>(std::move(parameters), group, options)) {
  impl_->register_hooks(impl_);
}
Reducer::~Reducer() = default;

std::int64_t Reducer::replicas() const { return impl_->options().replicas; }
Run Reducer::own() const { return impl_->own(); }
void Reducer::backward(const Tensor& root, const Tensor& grad, const Tensor& value) {
  impl_->backward(root, grad, value);
}
void Reducer::skip() { impl_->skip(); }
Tensor Reducer::finish() { return impl_->finish(); }
void Reducer::set_sync(bool on) { impl_->set_sync(on); }
void Reducer::reset() { impl_->reset(); }
ReducerStats Reducer::stats() const { return impl_->stats(); }

}  // namespace lockstep
