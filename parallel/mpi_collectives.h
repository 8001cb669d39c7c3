// The collectives of a process group by MPI calls, one after the other on one thread. Reductions are ours: each rank
// adds up its chunk of the elements in one order, so that the bits are those of other groups (and MPI_Iallreduce of
// Open MPI 4.1 takes four times the processor time: 60 ms and 14 for 45 MB between 2 ranks, measured). Internal:
// includes mpi.h.
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
#include <lockstep/core/base/run.h>
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

  /// Bytes that run() will send from here; of broadcast, all that reach others.
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

  using RunOf = std::function<Run(int rank)>;  // of a tensor's elements
  std::vector<void*> collect(const std::vector<Tensor>& parts, DType dtype, const std::vector<std::size_t>& counts,
                             const RunOf& run_of);
  void spread(const Tensor& x, const RunOf& run_of);
  void send(const Tensor& x, Run run, int to, std::vector<MPI_Request>& requests);
  void receive(void* data, DType dtype, std::int64_t count, int from, std::vector<MPI_Request>& requests);

  void wait(std::vector<MPI_Request>& requests, const std::function<void()>& meanwhile = {},
            Clock::time_point deadline = Clock::time_point::max());

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  std::uint64_t collectives_ = 0;
  std::map<int, Announcement> early_;  // of ranks that are ahead of this one
  std::vector<std::size_t> one_each_;  // 1 for each rank
  // Of the parts of the last tree_all_reduce: this rank's levels, how many each rank has, and the levels of all.
  std::vector<int> own_levels_;
  std::vector<std::size_t> level_counts_;
  std::vector<int> levels_;
  std::unique_ptr<std::byte[]> received_;
  std::size_t received_size_ = 0;
};

}  // namespace lockstep::detail
