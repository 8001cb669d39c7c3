#include <lockstep/parallel/distributed_data_parallel.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include <lockstep/core/base/check.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor_impl.h>
#include <lockstep/layers/batch_norm.h>
#include <lockstep/parallel/replica_scope.h>

namespace lockstep {
namespace {

std::vector<Tensor> trained(const Module& module) {
  std::vector<Tensor> parameters = module.parameters();
  std::erase_if(parameters, [](const Tensor& parameter) { return !parameter.requires_grad(); });
  return parameters;
}

std::string line_of(const std::string& name, const Tensor& tensor) {
  return fmt::format("{}: {} {}{}", name, lockstep::name(tensor.dtype()), to_string(tensor.shape()),
                     tensor.requires_grad() ? ", trained" : "");
}

}  // namespace

DistributedDataParallel::DistributedDataParallel(Module& module, ProcessGroup& group, const ReplicaOptions& options)
    : module_(module),
      group_(group),
      broadcast_buffers_(options.broadcast_buffers),
      reducer_((check_models(options), trained(module)), group, options),
      threads_(options.threads > 0       ? options.threads
               : reducer_.replicas() > 1 ? 1
                                         : num_threads()) {
  for (const auto& [name, child] : module_.named_modules()) {
    const auto* norm = dynamic_cast<const BatchNorm*>(child);
    LOCKSTEP_CHECK(!norm || !norm->is_synchronized() || replicas() == group_.size(), ValueError,
                   "DistributedDataParallel",
                   "expected one replica for each of {} ranks, which {} normalises together, got {} replicas",
                   group_.size(), name, replicas());
  }
  const Tensor seed = Tensor::from(std::vector{static_cast<std::int64_t>(default_generator().seed)}, {1});
  group_.broadcast(seed).wait();
  seed_ = static_cast<std::uint64_t>(*seed.data<std::int64_t>());
  broadcast(trained(module_));
  std::vector<Tensor> frozen = module_.parameters();
  std::erase_if(frozen, [](const Tensor& parameter) { return parameter.requires_grad(); });
  broadcast(frozen);
  broadcast(buffers());
}

DistributedDataParallel::~DistributedDataParallel() = default;

/// Compares what must be the same on all ranks, line by line with rank 0's.
void DistributedDataParallel::check_models(const ReplicaOptions& options) {
  std::vector<std::string> lines = {fmt::format(
      "replicas {}, threads {}, bitwise {}, bf16_compression {}, buckets of {} and {} bytes, broadcast_buffers {}",
      options.replicas == 0 ? group_.size() : options.replicas, options.threads, options.bitwise,
      options.bf16_compression, options.first_bucket_bytes, options.bucket_bytes, options.broadcast_buffers)};
  for (const auto& [name, tensor] : module_.named_parameters()) lines.push_back("parameter " + line_of(name, tensor));
  for (const auto& [name, tensor] : module_.named_buffers()) lines.push_back("buffer " + line_of(name, tensor));
  lines.push_back("the end");
  const auto share = [&](std::string text, int root) {
    const Tensor size = Tensor::from(std::vector{static_cast<std::int64_t>(text.size())}, {1});
    group_.broadcast(size, root).wait();
    text.resize(static_cast<std::size_t>(*size.data<std::int64_t>()));
    const Tensor bytes = Tensor::empty({static_cast<std::int64_t>(text.size())}, {.dtype = DType::uint8});
    std::copy(text.begin(), text.end(), bytes.data<std::uint8_t>());
    group_.broadcast(bytes, root).wait();
    return std::string(bytes.data<std::uint8_t>(), bytes.data<std::uint8_t>() + text.size());
  };
  const std::string mine = fmt::format("{}", fmt::join(lines, "\n"));
  const std::string first = share(mine, 0);
  const std::vector<std::int64_t> differs = group_.gather_numbers(mine != first);
  const auto rank = std::find(differs.begin(), differs.end(), 1) - differs.begin();
  if (rank == static_cast<std::ptrdiff_t>(differs.size())) return;
  const std::string other = share(mine, static_cast<int>(rank));
  const auto at = std::mismatch(first.begin(), first.end(), other.begin(), other.end());
  const auto line_at = [](const std::string& text, std::string::const_iterator place) {
    const auto position = static_cast<std::size_t>(place - text.begin());
    const std::size_t before = position == 0 ? std::string::npos : text.rfind('\n', position - 1);
    const std::size_t begin = before == std::string::npos ? 0 : before + 1;
    return text.substr(begin, text.find('\n', position) - begin);
  };
  detail::fail<CommError>("DistributedDataParallel",
                          "expected the same model and options on every rank, got '{}' on rank 0 and '{}' on rank {}",
                          line_at(first, at.first), line_at(other, at.second), rank);
}

std::vector<Tensor> DistributedDataParallel::buffers() const {
  std::vector<Tensor> result;
  for (auto& [name, tensor] : module_.named_buffers()) result.push_back(tensor);
  return result;
}

/// Rank 0's values of some tensors, gathered by dtype so that they travel at once.
void DistributedDataParallel::broadcast(const std::vector<Tensor>& tensors) {
  if (group_.size() == 1) return;
  const NoGradGuard no_grad;
  std::vector<std::vector<Tensor>> kinds;
  for (const Tensor& tensor : tensors) {
    const auto same = [&](const std::vector<Tensor>& kind) {
      return kind[0].dtype() == tensor.dtype() && kind[0].device() == tensor.device();
    };
    const auto found = std::find_if(kinds.begin(), kinds.end(), same);
    (found != kinds.end() ? *found : kinds.emplace_back()).push_back(tensor);
  }
  for (const std::vector<Tensor>& kind : kinds) {
    const std::int64_t size = std::accumulate(kind.begin(), kind.end(), std::int64_t{0},
                                              [](std::int64_t sum, const Tensor& x) { return sum + x.numel(); });
    const Tensor flat = Tensor::empty({size}, {kind[0].dtype(), kind[0].device()});
    std::size_t offset = 0;
    const auto each = [&](auto&& visit) {
      offset = 0;
      for (const Tensor& tensor : kind) {
        visit(tensor.detach(), detail::alias(flat, tensor.shape(), tensor.layout(), offset));
        offset += tensor.nbytes();
      }
    };
    if (group_.rank() == 0) each([](const Tensor& tensor, Tensor place) { place.copy_(tensor); });
    group_.broadcast(flat).wait();
    if (group_.rank() != 0) each([](Tensor tensor, const Tensor& place) { tensor.copy_(place); });
  }
}

Tensor DistributedDataParallel::backward(const Batch& batch, const LossFunction& loss) try {
  const std::int64_t mine = batch.size();
  const auto sizes = group_.gather_numbers(mine);
  const std::int64_t all = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
  if (all == 0) return {};
  const Run own = reducer_.own();
  const std::vector<Tensor> live = broadcast_buffers_ ? buffers() : std::vector<Tensor>();
  std::vector<Tensor> kept;  // buffers as replica 0, or the step before, has left them
  const auto keep_buffers = [&] {
    for (const Tensor& buffer : live) kept.push_back(buffer.detach().clone());
  };
  Tensor sum;  // of this rank's losses
  if (own.begin > 0) keep_buffers();
  for (std::int64_t replica = own.begin; replica < own.end; ++replica) {
    const Run rows = part_of(mine, own.size(), replica - own.begin);
    if (rows.size() == 0) {
      reducer_.skip();
    } else {
      const detail::ReplicaScope scope(seed_, step_, replica, threads_);
      Batch images{detail::rows_on(batch.images, rows, group_.device()),
                   detail::rows_on(batch.labels, rows, group_.device()),
                   {batch.indices.begin() + rows.begin, batch.indices.begin() + rows.end}};
      const Tensor mean = loss(images);
      LOCKSTEP_CHECK(mean.defined() && mean.numel() == 1 && mean.requires_grad(), ValueError, "backward",
                     "expected a loss of one element that depends on the model");
      const double weight = static_cast<double>(rows.size()) / static_cast<double>(all);
      const Tensor share = affine(mean.detach(), weight, 0.0);
      reducer_.backward(mean, Tensor::full(mean.shape(), weight, mean.options()), share);
      sum = sum.defined() ? add(sum, share) : share;
    }
    if (replica == 0) keep_buffers();
  }
  if (own.size() > 1 || own.begin > 0) {
    for (std::size_t i = 0; i < live.size(); ++i) live[i].detach().copy_(kept[i]);
  }
  const Tensor result = reducer_.finish();
  ++step_;
  if (!sync_) return mine > 0 ? affine(sum, static_cast<double>(all) / static_cast<double>(mine), 0.0) : Tensor();
  if (broadcast_buffers_) broadcast(live);
  return result;
} catch (...) {
  reducer_.reset();
  throw;
}

DistributedDataParallel::NoSync::NoSync(DistributedDataParallel& ddp) : ddp_(ddp) {
  ddp_.sync_ = false;
  ddp_.reducer_.set_sync(false);
}

DistributedDataParallel::NoSync::~NoSync() {
  ddp_.sync_ = true;
  ddp_.reducer_.set_sync(true);
}

}  // namespace lockstep
