// The collectives of a process group by MPI calls, one after the other on one thread. Internal: includes mpi.h.
#pragma once

#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <lockstep/core/base/error.h>
#include <lockstep/parallel/process_group.h>

namespace lockstep::detail {

/// What the ranks found before anything was sent: all of them throw it, and the group can go on.
class Disagreement final : public CommError {
  using CommError::CommError;
};

/// Waits are polled: a spin of some microseconds, then sleeps, so that a waiting rank leaves its core to those that
/// compute. To be used, from its making to its end, on the thread that has started MPI.
class MpiCollectives {
 public:
  using Clock = std::chrono::steady_clock;

  MpiCollectives();
  ~MpiCollectives();
  MpiCollectives(const MpiCollectives&) = delete;
  MpiCollectives& operator=(const MpiCollectives&) = delete;

  int rank() const { return rank_; }  ///< in MPI_COMM_WORLD
  int size() const { return size_; }  ///< of MPI_COMM_WORLD

  /// Bytes that run() will send from here. Of MPI's own reductions: those that a ring of ranks sends.
  std::uint64_t bytes_to_send(const Collective& collective) const;
  /// Does it; returns when the results are there. Throws Disagreement; CommError for what MPI reports, after which
  /// nothing more is possible.
  void run(const Collective& collective);
  /// Returns when all ranks have called it. Throws Disagreement where others call a collective: `why` is what they read
  /// of this rank. CommError when `deadline` has passed.
  void leave(const std::string& why, Clock::time_point deadline);

 private:
  struct Announcement {
    std::uint64_t collectives = 0;  // done by the one who says it
    char text[248] = {};            // what it does
  };

  bool agree(const std::string& same, const std::string& text, bool unchanged = true,
             Clock::time_point deadline = Clock::time_point::max());
  [[noreturn]] void throw_disagreement(const std::string& op, const std::string& text);
  void answer_announcement(const std::string& text);
  Announcement announcement(const std::string& text) const;
  void meet(int peer, const std::string& text);

  void all_reduce(const Collective& collective);
  void reduce_scatter(const Collective& collective);
  void all_gather(const Collective& collective);
  void broadcast(const Collective& collective);
  void send_or_recv(const Collective& collective);
  void tree_all_reduce(const Collective& collective);
  void share_levels(const std::vector<int>& mine);
  MPI_Op op_for(ReduceOp op, DType dtype) const;

  void wait(std::vector<MPI_Request>& requests, const std::function<void()>& meanwhile = {},
            Clock::time_point deadline = Clock::time_point::max());

  MPI_Comm comm_ = MPI_COMM_NULL;
  MPI_Op max_float_ = MPI_OP_NULL, max_double_ = MPI_OP_NULL;
  int rank_ = 0, size_ = 1;
  std::uint64_t collectives_ = 0;
  std::map<int, Announcement> early_;     // of ranks that are ahead of this one
  std::vector<std::vector<int>> levels_;  // of the parts of the last tree_all_reduce, by rank
  std::unique_ptr<std::byte[]> received_;
  std::size_t received_size_ = 0;
};

}  // namespace lockstep::detail
