#include <lockstep/parallel/mpi_process_group.h>

#include <signal.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <future>
#include <iostream>
#include <limits>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/parallel/mpi_collectives.h>

namespace lockstep {
namespace {

using detail::MpiCollectives;

constexpr std::chrono::seconds kPatience{5};  // for the others, once this rank can only leave

class Job final : public Work::State {
 public:
  explicit Job(Collective c) : collective(std::move(c)) {}

  void wait() override {
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [&] { return done_; });
    if (error_) std::rethrow_exception(error_);
  }
  bool is_done() const override {
    std::lock_guard lock(mutex_);
    return done_;
  }
  void finish(std::exception_ptr error) {
    std::lock_guard lock(mutex_);
    done_ = true;
    error_ = std::move(error);
    if (!error_) collective = {};  // lets go of the tensors
    finished_.notify_all();
  }

  Collective collective;

 private:
  mutable std::mutex mutex_;
  std::condition_variable finished_;
  bool done_ = false;
  std::exception_ptr error_;
};

/// How a rank leaves the group.
enum class Leave { in_order, by_exception };

/// The thread that MPI belongs to, and its queue.
class MpiThread {
 public:
  /// Returns when MPI has started.
  MpiThread() {
    std::future<void> started = started_.get_future();
    thread_ = std::thread([this] { main(); });
    try {
      started.get();
    } catch (...) {
      thread_.join();
      throw;
    }
  }

  const MpiCollectives& collectives() const { return *collectives_; }

  void push(std::shared_ptr<Job> job) {
    std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
    changed_.notify_one();
  }
  /// Lets it finish what is queued, then leave.
  void leave(Leave how) {
    std::lock_guard lock(mutex_);
    leave_ = how;
    changed_.notify_one();
  }
  void join() { thread_.join(); }

 private:
  void main() {
    sigset_t signals;
    sigfillset(&signals);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // they are for the threads of the program
    prctl(PR_SET_TIMERSLACK, 1);                    // sleeps of microseconds, not 50 longer
    set_num_threads(1);
    try {
      int started = 0, provided = 0;
      MPI_Initialized(&started);
      LOCKSTEP_CHECK(!started, CommError, "mpi_process_group", "expected to start MPI, got a program that has done so");
      // Our waits sleep. A yield in between, as Open MPI does where there are more ranks than processors, costs a
      // time slice: 15 ms for a barrier of 3 ranks instead of 0.3 (measured on 2 busy processors).
      setenv("OMPI_MCA_mpi_yield_when_idle", "0", 0);
      MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
      LOCKSTEP_CHECK(provided >= MPI_THREAD_FUNNELED, CommError, "mpi_process_group",
                     "expected an MPI that bears threads, got one that does not");
      collectives_.emplace();
    } catch (...) {
      return started_.set_exception(std::current_exception());
    }
    started_.set_value();
    while (const std::shared_ptr<Job> job = next()) run(job);
    end();
    collectives_.reset();
    MPI_Finalize();
  }

  std::shared_ptr<Job> next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !jobs_.empty() || leave_; });
    if (jobs_.empty()) return nullptr;
    std::shared_ptr<Job> job = std::move(jobs_.front());
    jobs_.pop_front();
    return job;
  }

  void run(const std::shared_ptr<Job>& job) {
    if (broken_) return job->finish(broken_);
    try {
      collectives_->run(job->collective);
      job->finish(nullptr);
    } catch (const detail::Disagreement&) {
      job->finish(std::current_exception());
    } catch (...) {
      broken_ = std::current_exception();
      stuck_ = job;
      job->finish(broken_);
    }
  }

  /// Returns when all ranks leave, or ends the job.
  void end() {
    const bool in_order = *leave_ == Leave::in_order;
    const std::string why = in_order ? "the end of its process group" : "the end of its process group by an exception";
    auto deadline = in_order ? MpiCollectives::Clock::time_point::max() : MpiCollectives::Clock::now() + kPatience;
    try {
      if (broken_) std::rethrow_exception(broken_);
      while (true) {
        try {
          return collectives_->leave(why, deadline);
        } catch (const detail::Disagreement& error) {
          // The others have thrown it, and are expected to leave in their turn.
          if (in_order && deadline == MpiCollectives::Clock::time_point::max()) {
            std::cerr << "lockstep: rank " << collectives_->rank() << ": " << error.what() << std::endl;
            deadline = MpiCollectives::Clock::now() + kPatience;
          }
          LOCKSTEP_CHECK(MpiCollectives::Clock::now() < deadline, CommError, "~ProcessGroup",
                         "expected the other ranks to leave too, they do not");
        }
      }
    } catch (const std::exception& error) {
      std::cout.flush();
      std::fflush(nullptr);
      std::cerr << "lockstep: rank " << collectives_->rank() << " ends the job: it leaves its process group "
                << (in_order ? "" : "by an exception ") << "without the others: " << error.what() << std::endl;
      MPI_Abort(MPI_COMM_WORLD, 1);
    }
  }

  std::promise<void> started_;
  std::optional<MpiCollectives> collectives_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> jobs_;
  std::optional<Leave> leave_;
  std::exception_ptr broken_;
  std::shared_ptr<Job> stuck_;  // MPI may still write to its memory
  std::thread thread_;
};

class MpiProcessGroup final : public ProcessGroup {
 public:
  explicit MpiProcessGroup(std::unique_ptr<MpiThread> thread)
      : ProcessGroup(thread->collectives().rank(), thread->collectives().size(), kCpu), thread_(std::move(thread)) {}
  ~MpiProcessGroup() override {
    if (std::uncaught_exceptions() <= exceptions_before_) {
      thread_->leave(Leave::in_order);
      thread_->join();
      return;
    }
    // Whoever catches the exception can tell of it while the others are waited for.
    thread_->leave(Leave::by_exception);
    static std::unique_ptr<MpiThread> leaving;
    leaving = std::move(thread_);
    std::atexit([] { leaving->join(); });
  }

  std::string backend() const override { return "mpi"; }

 private:
  Work start(Collective c) override {
    const std::int64_t elements =
        std::max(c.input.defined() ? c.input.numel() : 0, c.output.defined() ? c.output.numel() : 0);
    LOCKSTEP_CHECK(elements <= std::numeric_limits<int>::max(), ShapeError, c.describe().c_str(),
                   "expected at most {} elements, which is what MPI counts to, got {}", std::numeric_limits<int>::max(),
                   elements);
    count_sent(thread_->collectives().bytes_to_send(c));
    auto job = std::make_shared<Job>(std::move(c));
    thread_->push(job);
    return Work(std::move(job));
  }

  std::unique_ptr<MpiThread> thread_;
  int exceptions_before_ = std::uncaught_exceptions();
};

}  // namespace

std::unique_ptr<ProcessGroup> mpi_process_group(const LaunchEnv& env) {
  static std::atomic<bool> made{false};
  LOCKSTEP_CHECK(!made.exchange(true), CommError, "mpi_process_group",
                 "expected one group in the life of a process, got a second one");
  auto group = std::make_unique<MpiProcessGroup>(std::make_unique<MpiThread>());
  // A launcher that launch_env does not know looks like none.
  const bool same = group->rank() == env.rank && group->size() == env.size;
  LOCKSTEP_CHECK(same || env.source == LaunchEnv().source, CommError, "mpi_process_group",
                 "expected {}, got rank {} of {} from MPI, which knows processes that mpirun or srun --mpi has started",
                 to_string(env), group->rank(), group->size());
  return group;
}

}  // namespace lockstep
