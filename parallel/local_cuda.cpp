#include <lockstep/parallel/local_cuda.h>

#include <memory>

#include <lockstep/core/base/check.h>
#include <lockstep/core/cuda_memory.h>
#include <lockstep/core/dispatch.h>
#include <lockstep/core/ops.h>
#include <lockstep/core/tensor_impl.h>
#include <lockstep/kernels/tree_sum.h>
#include <lockstep/parallel/host_reduce.h>
#include <lockstep/parallel/replica_tree.h>

namespace lockstep::detail {
namespace {

using Kind = Collective::Kind;

/// Elements [run) of a tensor as a vector over the same memory.
Tensor piece(const Tensor& x, Run run) {
  return alias(x, {run.size()}, Layout::row_major, static_cast<std::size_t>(run.begin) * size_of(x.dtype()));
}

void copy(const Tensor& from, const Tensor& to) {
  if (from.data_ptr() != to.data_ptr()) {
    copy_bytes(from.nbytes(), from.data_ptr(), from.device(), to.data_ptr(), to.device());
  }
}

/// out = the sum of the parts along the canonical tree, on the device of `out`; the parts may be on others.
void tree_sum_to(const std::vector<TreeTensor>& parts, const Tensor& out) {
  if (out.numel() == 0) return;
  std::vector<Tensor> here;  // keeps the copies
  for (const TreeTensor& part : parts) here.push_back(part.sum.to(out.device()));
  dispatch_floating("tree_all_reduce", out, [&]<class T>(auto on) {
    std::vector<TreePart<T>> typed;
    for (std::size_t k = 0; k < parts.size(); ++k) typed.push_back({here[k].data<T>(), parts[k].level});
    kernels::tree_sum<T>(on, out.numel(), typed, out.data<T>());
  });
}

/// The parts of all ranks, in order: of tree_all_reduce, or else a leaf for each rank.
std::vector<TreeTensor> all_parts(std::span<const Collective> calls) {
  std::vector<TreeTensor> parts;
  for (const Collective& call : calls) {
    if (call.kind != Kind::tree_all_reduce) {
      parts.push_back({call.input, 0});
    } else {
      parts.insert(parts.end(), call.parts.begin(), call.parts.end());
    }
  }
  return parts;
}

std::vector<TreeTensor> pieces(const std::vector<TreeTensor>& parts, Run run) {
  std::vector<TreeTensor> result;
  for (const TreeTensor& part : parts) result.push_back({piece(part.sum, run), part.level});
  return result;
}

/// The largest of the parts: rare enough to be found on the host.
void max_to(const std::vector<TreeTensor>& parts, Tensor out) {
  std::vector<Tensor> values;
  std::vector<void*> sources;
  for (const TreeTensor& part : parts) {
    values.push_back(part.sum.to(kCpu).to(DType::float32).clone());
    sources.push_back(values.back().data_ptr());
  }
  host_reduce(ReduceOp::max, DType::float32, out.numel(), sources, sources[0]);
  out.copy_(values[0]);
}

void reduce_to(ReduceOp op, const std::vector<TreeTensor>& parts, std::size_t ranks, Tensor out) {
  if (op == ReduceOp::max) return max_to(parts, out);
  tree_sum_to(parts, out);
  if (op == ReduceOp::mean && out.numel() > 0) out.mul_(1.0 / static_cast<double>(ranks));
}

/// Each rank sums one run of the elements, then all get all runs.
void queue_all_reduce(std::span<const Collective> calls) {
  constexpr std::int64_t kUnit = 64;  // elements; runs begin at multiples, which keeps vectors aligned
  const std::vector<TreeTensor> parts = all_parts(calls);
  const auto ranks = static_cast<std::int64_t>(calls.size());
  const std::int64_t n = calls[0].subject().numel(), units = (n + kUnit - 1) / kUnit;
  for (std::int64_t r = 0; r < ranks; ++r) {
    const Run unit_run = part_of(units, ranks, r);
    const Run run{std::min(unit_run.begin * kUnit, n), std::min(unit_run.end * kUnit, n)};
    const Tensor sum = piece(calls[static_cast<std::size_t>(r)].subject(), run);
    reduce_to(calls[0].op, pieces(parts, run), calls.size(), sum);
    for (const Collective& call : calls) copy(sum, piece(call.subject(), run));
  }
}

void queue_one(std::span<const Collective> calls) {
  const Collective& first = calls[0];
  const std::int64_t n = first.subject().numel();
  switch (first.kind) {
    case Kind::all_reduce:
    case Kind::tree_all_reduce: return queue_all_reduce(calls);
    case Kind::broadcast:
      for (const Collective& call : calls) copy(calls[static_cast<std::size_t>(first.root)].input, call.input);
      return;
    case Kind::all_gather:
      for (const Collective& to : calls) {
        for (std::int64_t r = 0; r < static_cast<std::int64_t>(calls.size()); ++r) {
          copy(calls[static_cast<std::size_t>(r)].input, piece(to.output, {r * n, (r + 1) * n}));
        }
      }
      return;
    case Kind::reduce_scatter: {
      const std::vector<TreeTensor> parts = all_parts(calls);
      const std::int64_t row = first.output.numel();
      for (std::int64_t r = 0; r < static_cast<std::int64_t>(calls.size()); ++r) {
        reduce_to(first.op, pieces(parts, {r * row, (r + 1) * row}), calls.size(),
                  calls[static_cast<std::size_t>(r)].output);
      }
      return;
    }
    case Kind::barrier:
    case Kind::send:
    case Kind::recv: return;
  }
}

}  // namespace

std::vector<Event> LocalCuda::queue(std::span<const Collective> calls, std::span<const Event> ready) {
  const NoGradGuard no_grad;
  std::vector<std::unique_ptr<StreamGuard>> guards;
  std::vector<Stream*> streams;  // of each rank
  for (const Collective& call : calls) {
    const Device device = call.subject().device();
    auto found = streams_.find(device.index);
    if (found == streams_.end()) found = streams_.emplace(device.index, Stream(device, -1)).first;
    streams.push_back(&found->second);
    guards.push_back(std::make_unique<StreamGuard>(found->second));
  }
  for (std::size_t r = 0; r < calls.size(); ++r) {
    for (Stream* stream : streams) stream->wait(ready[r]);
  }
  for (const Collective& call : calls) {
    for (const Tensor* tensor : {&call.input, &call.output}) {
      if (tensor->defined()) {
        for (Stream* stream : streams) {
          if (stream->device() == tensor->device()) tensor->record_stream(*stream);
        }
      }
    }
    for (const TreeTensor& part : call.parts) {
      for (Stream* stream : streams) {
        if (stream->device() == part.sum.device()) part.sum.record_stream(*stream);
      }
    }
  }
  queue_one(calls);
  std::vector<Event> done;
  for (Stream* stream : streams) done.emplace_back(*stream);
  while (!guards.empty()) guards.pop_back();  // in reverse order, as they were made
  return done;
}

}  // namespace lockstep::detail
