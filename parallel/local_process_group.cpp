#include <lockstep/parallel/local_process_group.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/thread_pool.h>
#include <lockstep/parallel/host_reduce.h>
#include <lockstep/parallel/local_cuda.h>

namespace lockstep {
namespace detail {

using Kind = Collective::Kind;

/// One collective: what each rank has called, then the work on it in blocks.
class LocalMeeting {
 public:
  explicit LocalMeeting(std::size_t ranks) : calls(ranks) {}

  std::vector<std::optional<Collective>> calls;
  std::vector<Event> ready;  // on CUDA: marks what the ranks' tensors wait for, then when the results are there
  std::size_t arrived = 0;
  bool started = false, on_cuda = false;
  std::string error;
  std::int64_t elements = 0, block = 0;
  std::atomic<std::int64_t> next{0}, unfinished{0};  // blocks

  /// The tensor whose elements are cut into blocks.
  const Tensor& subject(std::size_t rank = 0) const { return calls[rank]->subject(); }

  /// When all have come: names the difference, or gets the work ready.
  void prepare() {
    for (std::size_t r = 1; r < calls.size(); ++r) {
      const std::string first = calls[0]->describe(), other = calls[r]->describe();
      if (first != other || (subject().defined() && (subject(r).device() == kCpu) != (subject().device() == kCpu))) {
        error = fmt::format("expected the same collective on every rank, got {} on rank 0 and {} on rank {}", first,
                            other, r);
        return;
      }
    }
    elements = subject().defined() ? subject().numel() : 0;
    on_cuda = subject().defined() && subject().device() != kCpu;
    constexpr std::int64_t kBlock = std::int64_t{1} << 14;
    block = calls.size() == 1 ? std::max<std::int64_t>(elements, 1) : kBlock;  // alone, all threads work on it
    unfinished = (elements + block - 1) / block;
  }

  /// Works on blocks until none is left to take. True if the last one was finished here.
  bool take_blocks() {
    bool last = false;
    for (std::int64_t begin; (begin = next.fetch_add(block)) < elements;) {
      run(begin, std::min(begin + block, elements));
      last = unfinished.fetch_sub(1) == 1;
    }
    return last;
  }

 private:
  std::byte* at(const Tensor& tensor, std::int64_t element) const {
    return static_cast<std::byte*>(tensor.data_ptr()) + static_cast<std::size_t>(element) * size_of(tensor.dtype());
  }

  /// Elements [begin, end) of the subject.
  void run(std::int64_t begin, std::int64_t end) {
    const DType dtype = subject().dtype();
    const auto bytes = static_cast<std::size_t>(end - begin) * size_of(dtype);
    const auto copy = [&](const void* from, void* to) {
      if (from != to) std::memcpy(to, from, bytes);
    };
    switch (calls[0]->kind) {
      case Kind::all_reduce: {
        const std::vector<void*> sources = places(begin);
        host_reduce(calls[0]->op, dtype, end - begin, sources, sources[0]);
        for (void* to : sources) copy(sources[0], to);
        return;
      }
      case Kind::tree_all_reduce: {
        std::vector<void*> parts;
        std::vector<int> levels;
        for (const auto& call : calls) {
          for (const TreeTensor& part : call->parts) {
            parts.push_back(at(part.sum, begin));
            levels.push_back(part.level);
          }
        }
        host_tree_sum(dtype, end - begin, parts, levels, at(calls[0]->output, begin));
        for (const auto& call : calls) copy(at(calls[0]->output, begin), at(call->output, begin));
        return;
      }
      case Kind::broadcast: {
        const std::vector<void*> all = places(begin);
        for (void* to : all) copy(all[static_cast<std::size_t>(calls[0]->root)], to);
        return;
      }
      case Kind::all_gather: {
        const std::vector<void*> sources = places(begin);
        for (const auto& call : calls) {
          for (std::size_t r = 0; r < sources.size(); ++r) {
            copy(sources[r], at(call->output, static_cast<std::int64_t>(r) * elements + begin));
          }
        }
        return;
      }
      case Kind::reduce_scatter: {
        const std::int64_t row = calls[0]->output.numel();
        while (begin < end) {  // a run within one row after the other
          const std::int64_t r = begin / row, stop = std::min(end, (r + 1) * row);
          host_reduce(calls[0]->op, dtype, stop - begin, places(begin),
                      at(calls[static_cast<std::size_t>(r)]->output, begin - r * row));
          begin = stop;
        }
        return;
      }
      case Kind::barrier:
      case Kind::send:
      case Kind::recv: return;
    }
  }

  /// Where this element of the subject is on each rank.
  std::vector<void*> places(std::int64_t element) const {
    std::vector<void*> result;
    for (std::size_t r = 0; r < calls.size(); ++r) result.push_back(at(subject(r), element));
    return result;
  }
};

/// A tensor on its way from one rank to another.
struct LocalParcel {
  Tensor tensor;
  std::optional<Event> ready;
  bool taken = false;
  std::string error;
};

/// What the ranks of a group share.
class LocalRoom : public std::enable_shared_from_this<LocalRoom> {
 public:
  explicit LocalRoom(std::span<const Device> devices) : devices_(devices.begin(), devices.end()) {
    next_.resize(devices.size());
  }

  /// Bytes that `rank` hands to others in this call, if chunks of equal size are summed by one rank each.
  static std::uint64_t bytes_to_send(const Collective& call, std::size_t rank, std::size_t ranks) {
    const Tensor& x = call.subject();
    if (!x.defined()) return 0;
    const std::uint64_t bytes = x.nbytes(), others = ranks - 1;
    switch (call.kind) {
      case Kind::all_reduce: return 2 * bytes * others / ranks;
      case Kind::tree_all_reduce: return (call.parts.size() + 1) * bytes * others / ranks;
      case Kind::broadcast: return static_cast<std::size_t>(call.root) == rank ? bytes * others : 0;
      case Kind::all_gather: return bytes * others;
      case Kind::reduce_scatter: return bytes * others / ranks;
      case Kind::send: return bytes;
      case Kind::recv:
      case Kind::barrier: return 0;
    }
    return 0;
  }

  std::shared_ptr<LocalMeeting> meet(std::size_t rank, Collective call) {
    std::unique_lock lock(mutex_);
    check_not_aborted(call.name());
    const std::uint64_t number = next_[rank]++;
    std::shared_ptr<LocalMeeting>& slot = meetings_[number];
    if (!slot) slot = std::make_shared<LocalMeeting>(devices_.size());
    const std::shared_ptr<LocalMeeting> meeting = slot;
    const Tensor& subject = call.subject();
    if (subject.defined() && subject.device() != kCpu) meeting->ready.emplace_back(current_stream(subject.device()));
    meeting->calls[rank] = std::move(call);
    if (++meeting->arrived == devices_.size()) {
      meeting->prepare();
      if (meeting->error.empty() && meeting->on_cuda) start_on_cuda(*meeting);
      meeting->started = true;
      meetings_.erase(number);
      changed_.notify_all();
    }
    return meeting;
  }

  void wait(LocalMeeting& meeting, std::size_t rank, const char* op) {
    if (!meeting.calls[rank]) return;  // waited for before
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return meeting.started || aborted_; });
      if (!meeting.started) check_not_aborted(op);
      LOCKSTEP_CHECK(meeting.error.empty(), CommError, op, "{}", meeting.error);
    }
    if (meeting.on_cuda) {
      current_stream(devices_[rank]).wait(meeting.ready[rank]);
    } else {
      work(meeting);
    }
    meeting.calls[rank].reset();  // lets go of the tensors
  }

  bool is_done(const LocalMeeting& meeting) {
    std::lock_guard lock(mutex_);
    if (!meeting.started) return aborted_;
    return !meeting.error.empty() || meeting.on_cuda || meeting.unfinished.load() == 0;
  }

  std::shared_ptr<LocalParcel> post(int from, int to, const Tensor& tensor) {
    auto parcel = std::make_shared<LocalParcel>();
    parcel->tensor = tensor;
    if (tensor.device() != kCpu) parcel->ready.emplace(current_stream(tensor.device()));
    std::lock_guard lock(mutex_);
    check_not_aborted("send");
    parcels_[{from, to}].push_back(parcel);
    changed_.notify_all();
    return parcel;
  }

  void wait_until_taken(LocalParcel& parcel) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return parcel.taken || aborted_; });
    if (!parcel.taken) check_not_aborted("send");
    LOCKSTEP_CHECK(parcel.error.empty(), CommError, "send", "{}", parcel.error);
  }

  void take(int from, int to, Tensor x) {
    std::unique_lock lock(mutex_);
    auto& waiting = parcels_[{from, to}];
    changed_.wait(lock, [&] { return !waiting.empty() || aborted_; });
    if (waiting.empty()) check_not_aborted("recv");
    const std::shared_ptr<LocalParcel> parcel = waiting.front();
    waiting.pop_front();
    lock.unlock();
    const Tensor& sent = parcel->tensor;
    std::string error;
    if (sent.shape() != x.shape() || sent.dtype() != x.dtype()) {
      error = fmt::format("expected what is received to be what is sent, got {} {} from rank {} and {} {} on rank {}",
                          name(sent.dtype()), to_string(sent.shape()), from, name(x.dtype()), to_string(x.shape()), to);
    } else {
      if (parcel->ready) current_stream(sent.device()).wait(*parcel->ready);
      x.copy_(sent);
    }
    lock.lock();
    parcel->taken = true;
    parcel->error = error;
    changed_.notify_all();
    LOCKSTEP_CHECK(error.empty(), CommError, "recv", "{}", error);
  }

  void abort(const std::string& reason) {
    std::lock_guard lock(mutex_);
    if (!std::exchange(aborted_, true)) reason_ = reason;
    changed_.notify_all();
  }

 private:
  void check_not_aborted(const char* op) const {
    LOCKSTEP_CHECK(!aborted_, CommError, op, "expected all ranks to go on, but {}", reason_);
  }

  /// Does a share of a collective on the CPU and waits for the others' shares.
  void work(LocalMeeting& meeting) {
    if (meeting.take_blocks()) {
      std::lock_guard lock(mutex_);  // so that nobody is between looking and sleeping
      changed_.notify_all();
    }
    for (int spins = 0; spins < 200 && meeting.unfinished.load() > 0; ++spins) std::this_thread::yield();
    if (meeting.unfinished.load() == 0) return;
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return meeting.unfinished.load() == 0; });
  }

  void start_on_cuda(LocalMeeting& meeting) {
    std::vector<Collective> calls;
    for (const auto& call : meeting.calls) calls.push_back(*call);
    try {
      meeting.ready = cuda_.queue(calls, meeting.ready);
    } catch (const std::exception& error) {
      meeting.error = fmt::format("expected to queue it on the devices, got: {}", error.what());
    }
  }

  const std::vector<Device> devices_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint64_t> next_;                                  // number of each rank's next collective
  std::map<std::uint64_t, std::shared_ptr<LocalMeeting>> meetings_;  // that some ranks have not come to yet
  std::map<std::pair<int, int>, std::deque<std::shared_ptr<LocalParcel>>> parcels_;  // by sender and receiver
  LocalCuda cuda_;
  bool aborted_ = false;
  std::string reason_;
};

namespace {

class MeetingState final : public Work::State {
 public:
  MeetingState(std::shared_ptr<LocalRoom> room, std::shared_ptr<LocalMeeting> meeting, std::size_t rank, const char* op)
      : room_(std::move(room)), meeting_(std::move(meeting)), rank_(rank), op_(op) {}

  void wait() override { room_->wait(*meeting_, rank_, op_); }
  bool is_done() const override { return room_->is_done(*meeting_); }

 private:
  std::shared_ptr<LocalRoom> room_;
  std::shared_ptr<LocalMeeting> meeting_;
  std::size_t rank_;
  const char* op_;
};

/// A send is over when the receiver has copied; a receive at once, since it is done when it is started.
class ParcelState final : public Work::State {
 public:
  ParcelState(std::shared_ptr<LocalRoom> room, std::shared_ptr<LocalParcel> parcel)
      : room_(std::move(room)), parcel_(std::move(parcel)) {}

  void wait() override {
    if (parcel_) room_->wait_until_taken(*parcel_);
  }
  bool is_done() const override { return !parcel_; }

 private:
  std::shared_ptr<LocalRoom> room_;
  std::shared_ptr<LocalParcel> parcel_;
};

}  // namespace
}  // namespace detail

LocalProcessGroup::LocalProcessGroup(std::shared_ptr<detail::LocalRoom> room, int rank, int size, Device device)
    : ProcessGroup(rank, size, device), room_(std::move(room)) {}

LocalProcessGroup::~LocalProcessGroup() = default;

std::vector<std::unique_ptr<LocalProcessGroup>> LocalProcessGroup::create(std::span<const Device> devices) {
  LOCKSTEP_CHECK(!devices.empty(), ValueError, "LocalProcessGroup", "expected at least one device");
  for (const Device device : devices) {
    LOCKSTEP_CHECK(device.type == devices[0].type, DeviceError, "LocalProcessGroup",
                   "expected all ranks on the CPU or all on CUDA, got {} and {}", to_string(devices[0]),
                   to_string(device));
    LOCKSTEP_CHECK(device == kCpu || device.index < cuda_device_count(), DeviceError, "LocalProcessGroup",
                   "expected one of {} CUDA devices, got {}", cuda_device_count(), to_string(device));
  }
  const auto room = std::make_shared<detail::LocalRoom>(devices);
  std::vector<std::unique_ptr<LocalProcessGroup>> groups;
  for (const Device device : devices) {
    groups.emplace_back(
        new LocalProcessGroup(room, static_cast<int>(groups.size()), static_cast<int>(devices.size()), device));
  }
  return groups;
}

void LocalProcessGroup::abort(const std::string& reason) { room_->abort(reason); }

Work LocalProcessGroup::start(Collective collective) {
  using Kind = Collective::Kind;
  const auto me = static_cast<std::size_t>(rank());
  count_sent(detail::LocalRoom::bytes_to_send(collective, me, static_cast<std::size_t>(size())));
  if (collective.kind == Kind::send) {
    return Work(std::make_shared<detail::ParcelState>(room_, room_->post(rank(), collective.root, collective.input)));
  }
  if (collective.kind == Kind::recv) {
    room_->take(collective.root, rank(), collective.input);
    return Work(std::make_shared<detail::ParcelState>(room_, nullptr));
  }
  const char* op = collective.name();
  return Work(std::make_shared<detail::MeetingState>(room_, room_->meet(me, std::move(collective)), me, op));
}

void spawn(std::span<const Device> devices, const std::function<void(ProcessGroup& group)>& body, int threads) {
  const auto groups = LocalProcessGroup::create(devices);
  const int rank_threads = threads > 0 ? threads : devices.size() > 1 ? 1 : num_threads();
  const Generator generator = default_generator();
  std::mutex mutex;
  std::exception_ptr first;
  const auto run = [&](LocalProcessGroup& group) {
    try {
      set_num_threads(rank_threads);
      default_generator() = generator;
      body(group);
    } catch (const std::exception& error) {
      std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
      group.abort(fmt::format("rank {} failed: {}", group.rank(), error.what()));
    }
  };
  std::vector<std::thread> others;
  try {
    for (const auto& group : groups) others.emplace_back(run, std::ref(*group));
  } catch (...) {
    groups[0]->abort("a thread could not be started");
    for (std::thread& thread : others) thread.join();
    throw;
  }
  for (std::thread& thread : others) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace lockstep
