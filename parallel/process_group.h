// Collective operations between ranks, whatever carries them: threads of this process (LocalProcessGroup), processes
// under MPI.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <lockstep/core/tensor.h>

namespace lockstep {

/// How the values of the ranks become one: their sum, their sum over their number, or the largest (a NaN wins).
enum class ReduceOp { sum, mean, max };

/// A collective under way. Copies are handles to the same one; it keeps the tensors that it works on alive.
class Work {
 public:
  /// What a backend makes of it.
  class State {
   public:
    virtual ~State() = default;
    virtual void wait() = 0;           ///< as Work::wait
    virtual bool is_done() const = 0;  ///< as Work::is_done
  };

  /// Made by a process group.
  explicit Work(std::shared_ptr<State> state) : state_(std::move(state)) {}

  /// Returns when the results are there; on a CUDA device, when work queued from now on in the current stream finds
  /// them there. Throws CommError if the ranks do not agree or one of them has failed. May be called again.
  void wait() { state_->wait(); }
  /// Whether wait() would return at once.
  bool is_done() const { return state_->is_done(); }

 private:
  std::shared_ptr<State> state_;
};

/// A node of the canonical tree over replicas, summed by one rank: see kernels/tree_sum.h for `level`.
struct TreeTensor {
  Tensor sum;
  int level = 0;
};

/// One call of a collective, as it is handed to a backend and compared between the ranks.
struct Collective {
  /// Which one.
  enum class Kind { all_reduce, broadcast, all_gather, reduce_scatter, barrier, send, recv, tree_all_reduce };

  Kind kind = Kind::barrier;
  ReduceOp op = ReduceOp::sum;
  int root = 0;                        ///< of broadcast; the other rank of send and recv
  Tensor input = {};                   ///< also the result where it is in place
  Tensor output = {};                  ///< where it is not
  std::vector<TreeTensor> parts = {};  ///< of tree_all_reduce, from left to right

  const char* name() const;  ///< "all_reduce"
  /// The tensor whose elements it is about: `output` of tree_all_reduce, else `input`; undefined for a barrier.
  const Tensor& subject() const { return kind == Kind::tree_all_reduce ? output : input; }
  /// "all_reduce(sum, float32 [1000])": what must be the same on every rank.
  std::string describe() const;
};

/// A rank's end of a group of ranks that call the same collectives in the same order. Tensors are dense, of equal
/// shape, dtype and layout on all ranks, on device() or on the CPU; they must not be touched before wait(). Each call
/// is compared between the ranks: a difference is a CommError on all of them that names both sides. Calls throw
/// ValueError for undefined tensors and ranks that are none, ShapeError and DTypeError for tensors that do not fit each
/// other or the operation (reductions take float32, float64 and int64 on the CPU; float32, float16 and bfloat16 on
/// CUDA). One thread at a time may use it.
class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  int rank() const { return rank_; }         ///< of this end, in [0, size())
  int size() const { return size_; }         ///< number of ranks
  Device device() const { return device_; }  ///< where this rank computes
  virtual std::string backend() const = 0;   ///< "local" or "mpi"

  /// x becomes the sum (mean, maximum) of all ranks' x; the same bits on all of them.
  Work all_reduce(const Tensor& x, ReduceOp op = ReduceOp::sum);
  /// x becomes that of rank `root`.
  Work broadcast(const Tensor& x, int root = 0);
  /// Row r of `out` [size(), x's shape...] becomes rank r's x.
  Work all_gather(const Tensor& x, const Tensor& out);
  /// `out` becomes the sum (mean, maximum) over all ranks of row rank() of their x [size(), out's shape...].
  Work reduce_scatter(const Tensor& x, const Tensor& out, ReduceOp op = ReduceOp::sum);
  /// Returns when all ranks have called it.
  void barrier();
  /// Gives x to rank `to`, which calls recv. Both return when it is there.
  void send(const Tensor& x, int to);
  void recv(const Tensor& x, int from);  ///< x becomes what rank `from` sends
  /// `out` becomes the sum over all replicas along the canonical tree, from nodes that the ranks have summed: each
  /// gives its own from left to right, and the ranks' follow each other. The memory of `out` may be that of a part; the
  /// parts are used up. The same bits however the nodes are spread over ranks. Any floating dtype (float64 on
  /// the CPU only).
  Work tree_all_reduce(std::vector<TreeTensor> parts, const Tensor& out);

  /// What each rank says, in order: a small all_gather of a number, for host code.
  std::vector<std::int64_t> gather_numbers(std::int64_t mine);

  /// Bytes that this rank has handed to others so far.
  std::uint64_t bytes_sent() const { return bytes_sent_.load(std::memory_order_relaxed); }

 protected:
  /// The end of rank `rank` of `size`, which computes on `device`.
  ProcessGroup(int rank, int size, Device device) : rank_(rank), size_(size), device_(device) {}

  /// Starts a call whose arguments have been checked.
  virtual Work start(Collective collective) = 0;
  /// Adds to bytes_sent(); for backends.
  void count_sent(std::uint64_t bytes) { bytes_sent_.fetch_add(bytes, std::memory_order_relaxed); }

 private:
  int rank_, size_;
  Device device_;
  std::atomic<std::uint64_t> bytes_sent_{0};
};

}  // namespace lockstep
