#include <lockstep/parallel/process_group.h>

#include <lockstep/core/base/check.h>
#include <lockstep/core/dispatch.h>

namespace lockstep {
namespace {

const char* name_of(ReduceOp op) { return op == ReduceOp::sum ? "sum" : op == ReduceOp::mean ? "mean" : "max"; }

void check_tensor(const ProcessGroup& group, const char* op, const Tensor& x) {
  require_defined(op, x, "a tensor");
  LOCKSTEP_CHECK(x.device() == kCpu || x.device() == group.device(), DeviceError, op,
                 "expected a tensor on the CPU or on {}, where this rank computes, got one on {}",
                 to_string(group.device()), to_string(x.device()));
}

/// Of all_reduce and reduce_scatter.
void check_reducible(const char* op, const Tensor& x, ReduceOp how) {
  if (how != ReduceOp::mean && x.device() == kCpu && x.dtype() == DType::int64) return;
  require_floating(op, x);
}

void check_rank(const ProcessGroup& group, const char* op, int rank) {
  LOCKSTEP_CHECK(rank >= 0 && rank < group.size(), ValueError, op, "expected a rank in [0, {}), got {}", group.size(),
                 rank);
}

void check_rows(const ProcessGroup& group, const char* op, const Tensor& rows, const Tensor& row) {
  require_same(op, rows, row);
  LOCKSTEP_CHECK(
      rows.numel() == group.size() * row.numel() && rows.rank() == row.rank() + 1 && rows.size(0) == group.size() &&
          rows.layout() == Layout::row_major && row.layout() == Layout::row_major,
      ShapeError, op, "expected row-major tensors of which one has {} times the shape of the other, got {} and {}",
      group.size(), to_string(rows.shape()), to_string(row.shape()));
}

}  // namespace

const char* Collective::name() const {
  switch (kind) {
    case Kind::all_reduce: return "all_reduce";
    case Kind::broadcast: return "broadcast";
    case Kind::all_gather: return "all_gather";
    case Kind::reduce_scatter: return "reduce_scatter";
    case Kind::barrier: return "barrier";
    case Kind::send: return "send";
    case Kind::recv: return "recv";
    case Kind::tree_all_reduce: return "tree_all_reduce";
  }
  return "?";
}

std::string Collective::describe() const {
  std::string text = name();
  text += '(';
  if (kind == Kind::all_reduce || kind == Kind::reduce_scatter) text += fmt::format("{}, ", name_of(op));
  if (kind == Kind::broadcast) text += fmt::format("from rank {}, ", root);
  if (const Tensor& x = subject(); x.defined()) {
    text += fmt::format("{} {}", lockstep::name(x.dtype()), to_string(x.shape()));
  }
  return text + ')';
}

Work ProcessGroup::all_reduce(const Tensor& x, ReduceOp op) {
  check_tensor(*this, "all_reduce", x);
  check_reducible("all_reduce", x, op);
  return start({.kind = Collective::Kind::all_reduce, .op = op, .input = x.detach()});
}

Work ProcessGroup::broadcast(const Tensor& x, int root) {
  check_tensor(*this, "broadcast", x);
  check_rank(*this, "broadcast", root);
  return start({.kind = Collective::Kind::broadcast, .root = root, .input = x.detach()});
}

Work ProcessGroup::all_gather(const Tensor& x, const Tensor& out) {
  check_tensor(*this, "all_gather", x);
  check_tensor(*this, "all_gather", out);
  check_rows(*this, "all_gather", out, x);
  return start({.kind = Collective::Kind::all_gather, .input = x.detach(), .output = out.detach()});
}

Work ProcessGroup::reduce_scatter(const Tensor& x, const Tensor& out, ReduceOp op) {
  check_tensor(*this, "reduce_scatter", x);
  check_tensor(*this, "reduce_scatter", out);
  check_rows(*this, "reduce_scatter", x, out);
  check_reducible("reduce_scatter", x, op);
  return start({.kind = Collective::Kind::reduce_scatter, .op = op, .input = x.detach(), .output = out.detach()});
}

void ProcessGroup::barrier() { start({.kind = Collective::Kind::barrier}).wait(); }

void ProcessGroup::send(const Tensor& x, int to) {
  check_tensor(*this, "send", x);
  check_rank(*this, "send", to);
  LOCKSTEP_CHECK(to != rank_, ValueError, "send", "expected another rank than this one, {}", rank_);
  start({.kind = Collective::Kind::send, .root = to, .input = x.detach()}).wait();
}

void ProcessGroup::recv(const Tensor& x, int from) {
  check_tensor(*this, "recv", x);
  check_rank(*this, "recv", from);
  LOCKSTEP_CHECK(from != rank_, ValueError, "recv", "expected another rank than this one, {}", rank_);
  start({.kind = Collective::Kind::recv, .root = from, .input = x.detach()}).wait();
}

Work ProcessGroup::tree_all_reduce(std::vector<TreeTensor> parts, const Tensor& out) {
  check_tensor(*this, "tree_all_reduce", out);
  LOCKSTEP_CHECK(is_floating(out.dtype()) && (out.device() == kCpu || out.dtype() != DType::float64), DTypeError,
                 "tree_all_reduce", "expected a floating dtype, not float64 on CUDA, got {}", name(out.dtype()));
  for (TreeTensor& part : parts) {
    require_same("tree_all_reduce", part.sum, out);
    LOCKSTEP_CHECK(part.sum.shape() == out.shape() && part.sum.layout() == out.layout(), ShapeError, "tree_all_reduce",
                   "expected parts like the result {}, got {}", to_string(out.shape()), to_string(part.sum.shape()));
    part.sum = part.sum.detach();
  }
  return start({.kind = Collective::Kind::tree_all_reduce, .output = out.detach(), .parts = std::move(parts)});
}

std::vector<std::int64_t> ProcessGroup::gather_numbers(std::int64_t mine) {
  const Tensor all = Tensor::empty({size_, 1}, {.dtype = DType::int64});
  all_gather(Tensor::from(std::vector{mine}, {1}), all).wait();
  return all.to_vector<std::int64_t>();
}

}  // namespace lockstep
