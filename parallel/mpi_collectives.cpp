#include <lockstep/parallel/mpi_collectives.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>
#include <utility>

#include <lockstep/core/base/check.h>
#include <lockstep/parallel/host_reduce.h>

namespace lockstep::detail {
namespace {

constexpr int kDataTag = 1, kAnnouncementTag = 2;

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail<CommError>(call, "expected success, got: {}", std::string(text, static_cast<std::size_t>(length)));
}

MPI_Datatype type_of(DType dtype) {
  switch (dtype) {
    case DType::float32: return MPI_FLOAT;
    case DType::float64: return MPI_DOUBLE;
    case DType::int64: return MPI_INT64_T;
    case DType::uint8: return MPI_UINT8_T;
    case DType::float16:
    case DType::bfloat16: return MPI_UINT16_T;  // moved, never added
  }
  return MPI_BYTE;
}

int count_of(const Tensor& x) { return static_cast<int>(x.numel()); }  // the group refuses more

/// FNV-1a.
std::uint64_t hash_of(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

std::string op_of(const std::string& text) { return text.substr(0, text.find('(')); }

std::byte* at(const Tensor& x, std::int64_t element) {
  return static_cast<std::byte*>(x.data_ptr()) + static_cast<std::size_t>(element) * size_of(x.dtype());
}

}  // namespace

MpiCollectives::MpiCollectives() {
  check(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
  check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  one_each_.assign(static_cast<std::size_t>(size_), 1);
  level_counts_.assign(static_cast<std::size_t>(size_), 0);
}

MpiCollectives::~MpiCollectives() { MPI_Comm_free(&comm_); }

void MpiCollectives::wait(std::vector<MPI_Request>& requests, const std::function<void()>& meanwhile,
                          Clock::time_point deadline) {
  using namespace std::chrono_literals;
  constexpr auto kSpin = 10us, kFirstSleep = 10us, kLongestSleep = 50us;
  const Clock::time_point start = Clock::now();
  auto sleep = kFirstSleep;
  while (true) {
    int done = 0;
    check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE), "MPI_Testall");
    if (done) return;
    const Clock::time_point now = Clock::now();
    if (now - start < kSpin) continue;
    if (now > deadline) throw CommError("~ProcessGroup", "expected the others in time, heard nothing from them");
    if (meanwhile && sleep == kLongestSleep) meanwhile();
    std::this_thread::sleep_for(sleep);
    sleep = std::min(sleep + sleep / 4, kLongestSleep);
  }
}

// ---- What the ranks do is compared before they do it.

/// Whether `unchanged` holds on all ranks. Throws Disagreement unless `same` is the same on all of them.
bool MpiCollectives::agree(const std::string& same, const std::string& text, bool unchanged,
                           Clock::time_point deadline) {
  const std::uint64_t hash = hash_of(same);
  // The minimum of the complement tells the maximum.
  const std::uint64_t mine[3] = {hash, ~hash, unchanged ? 1u : 0u};
  std::uint64_t least[3] = {};
  std::vector<MPI_Request> requests(1);
  check(MPI_Iallreduce(mine, least, 3, MPI_UINT64_T, MPI_MIN, comm_, requests.data()), "MPI_Iallreduce");
  wait(
      requests, [&] { answer_announcement(text); }, deadline);
  ++collectives_;
  if (least[0] != ~least[1]) throw_disagreement(op_of(same), text);
  return least[2] == 1;
}

void MpiCollectives::throw_disagreement(const std::string& op, const std::string& text) {
  const Announcement mine = announcement(text);
  std::vector<Announcement> all(static_cast<std::size_t>(size_));
  std::vector<MPI_Request> requests(1);
  check(MPI_Iallgather(&mine, sizeof(mine), MPI_BYTE, all.data(), sizeof(mine), MPI_BYTE, comm_, requests.data()),
        "MPI_Iallgather");
  wait(requests);
  std::size_t other = 1;
  while (other + 1 < all.size() && std::strcmp(all[0].text, all[other].text) == 0) ++other;
  fail<Disagreement>(op.c_str(), "expected the same collective on every rank, got {} on rank 0 and {} on rank {}",
                     all[0].text, all[other].text, other);
}

MpiCollectives::Announcement MpiCollectives::announcement(const std::string& text) const {
  Announcement result{.collectives = collectives_};
  text.copy(result.text, sizeof(result.text) - 1);
  return result;
}

/// While this rank waits for the others in a collective: tells one that wants to meet it in send or recv instead, which
/// then comes to the collective, so that all learn of it.
void MpiCollectives::answer_announcement(const std::string& text) {
  int found = 0;
  MPI_Status status;
  check(MPI_Iprobe(MPI_ANY_SOURCE, kAnnouncementTag, comm_, &found, &status), "MPI_Iprobe");
  if (!found) return;
  const int peer = status.MPI_SOURCE;
  Announcement theirs;
  check(MPI_Recv(&theirs, sizeof(theirs), MPI_BYTE, peer, kAnnouncementTag, comm_, MPI_STATUS_IGNORE), "MPI_Recv");
  if (theirs.collectives > collectives_) {  // it has this one behind it
    early_[peer] = theirs;
    return;
  }
  const Announcement mine = announcement(text);
  check(MPI_Send(&mine, sizeof(mine), MPI_BYTE, peer, kAnnouncementTag, comm_), "MPI_Send");
}

/// Before send and recv: sees that the other side does the opposite with the same tensor.
void MpiCollectives::meet(int peer, const std::string& text) {
  const Announcement mine = announcement(text);
  Announcement theirs;
  std::vector<MPI_Request> requests(1);
  check(MPI_Isend(&mine, sizeof(mine), MPI_BYTE, peer, kAnnouncementTag, comm_, requests.data()), "MPI_Isend");
  if (const auto early = early_.find(peer); early != early_.end()) {
    theirs = early->second;
    early_.erase(early);
  } else {
    requests.emplace_back();
    check(MPI_Irecv(&theirs, sizeof(theirs), MPI_BYTE, peer, kAnnouncementTag, comm_, &requests[1]), "MPI_Irecv");
  }
  wait(requests);
  const std::string said = theirs.text, own_op = op_of(text), op = op_of(said);
  if (op != "send" && op != "recv") agree(text, text);  // throws, as it does there
  if (op == own_op || said.substr(op.size()) != text.substr(own_op.size())) {
    fail<Disagreement>(own_op.c_str(),
                       "expected send on one rank and recv of the same on the other, got {} on rank {} "
                       "and {} on rank {}",
                       text, rank_, said, peer);
  }
}

void MpiCollectives::leave(const std::string& why, Clock::time_point deadline) {
  agree("~ProcessGroup", why, true, deadline);
}

// ---- The collectives.

void MpiCollectives::run(const Collective& c) {
  const std::string text = c.describe();
  switch (c.kind) {
    case Collective::Kind::send:
    case Collective::Kind::recv: meet(c.root, text); return send_or_recv(c);
    case Collective::Kind::tree_all_reduce: return tree_all_reduce(c);
    default: break;
  }
  agree(text, text);
  switch (c.kind) {
    case Collective::Kind::all_reduce: return all_reduce(c);
    case Collective::Kind::reduce_scatter: return reduce_scatter(c);
    case Collective::Kind::all_gather: return all_gather(c);
    case Collective::Kind::broadcast: return broadcast(c);
    default: return;  // a barrier is done when the ranks agree
  }
}

std::uint64_t MpiCollectives::bytes_to_send(const Collective& c) const {
  const std::uint64_t others = static_cast<std::uint64_t>(size_ - 1);
  const auto reduce_chunks = [&](const Tensor& x, std::uint64_t parts) {
    const auto mine = static_cast<std::uint64_t>(part_of(x.numel(), size_, rank_).size());
    return (parts * (static_cast<std::uint64_t>(x.numel()) - mine) + others * mine) * size_of(x.dtype());
  };
  switch (c.kind) {
    case Collective::Kind::all_reduce: return reduce_chunks(c.input, 1);
    case Collective::Kind::tree_all_reduce: return reduce_chunks(c.output, c.parts.size());
    case Collective::Kind::reduce_scatter: return c.output.nbytes() * others;
    case Collective::Kind::all_gather: return c.input.nbytes() * others;
    case Collective::Kind::broadcast: return rank_ == c.root ? c.input.nbytes() * others : 0;
    case Collective::Kind::send: return c.input.nbytes();
    case Collective::Kind::recv:
    case Collective::Kind::barrier: return 0;
  }
  return 0;
}

void MpiCollectives::all_gather(const Collective& c) {
  const Tensor& x = c.input;
  std::vector<MPI_Request> requests(1);
  check(MPI_Iallgather(x.data_ptr(), count_of(x), type_of(x.dtype()), c.output.data_ptr(), count_of(x),
                       type_of(x.dtype()), comm_, requests.data()),
        "MPI_Iallgather");
  wait(requests);
}

void MpiCollectives::broadcast(const Collective& c) {
  const Tensor& x = c.input;
  std::vector<MPI_Request> requests(1);
  check(MPI_Ibcast(x.data_ptr(), count_of(x), type_of(x.dtype()), c.root, comm_, requests.data()), "MPI_Ibcast");
  wait(requests);
}

void MpiCollectives::send(const Tensor& x, Run run, int to, std::vector<MPI_Request>& requests) {
  check(MPI_Isend(at(x, run.begin), static_cast<int>(run.size()), type_of(x.dtype()), to, kDataTag, comm_,
                  &requests.emplace_back()),
        "MPI_Isend");
}

void MpiCollectives::receive(void* data, DType dtype, std::int64_t count, int from,
                             std::vector<MPI_Request>& requests) {
  check(MPI_Irecv(data, static_cast<int>(count), type_of(dtype), from, kDataTag, comm_, &requests.emplace_back()),
        "MPI_Irecv");
}

void MpiCollectives::send_or_recv(const Collective& c) {
  const Tensor& x = c.input;
  std::vector<MPI_Request> requests;
  if (c.kind == Collective::Kind::send) {
    send(x, {0, x.numel()}, c.root, requests);
  } else {
    receive(x.data_ptr(), x.dtype(), x.numel(), c.root, requests);
  }
  wait(requests);
}

// ---- Reductions. Each rank has its run of the elements: it collects that of everyone's tensors, makes one of them,
// and
// ---- spreads it where all are to have it.

/// Sends the others their runs of `parts`, of which each rank has counts[rank]; returns where this rank's run of all
/// parts is, those of rank 0 first.
std::vector<void*> MpiCollectives::collect(const std::vector<Tensor>& parts, DType dtype,
                                           const std::vector<std::size_t>& counts, const RunOf& run_of) {
  const Run mine = run_of(rank_);
  const std::size_t bytes = static_cast<std::size_t>(mine.size()) * size_of(dtype);
  const std::size_t foreign = std::accumulate(counts.begin(), counts.end(), std::size_t{0}) - parts.size();
  if (received_size_ < foreign * bytes) {
    received_.reset();
    received_size_ = foreign * bytes;
    received_ = std::make_unique_for_overwrite<std::byte[]>(received_size_);
  }
  std::vector<MPI_Request> requests;
  std::vector<void*> runs;
  std::byte* place = received_.get();
  for (int rank = 0; rank < size_; ++rank) {
    for (std::size_t k = 0; k < counts[static_cast<std::size_t>(rank)]; ++k) {
      runs.push_back(rank == rank_ ? at(parts[k], mine.begin) : std::exchange(place, place + bytes));
      if (rank != rank_) receive(runs.back(), dtype, mine.size(), rank, requests);
    }
  }
  for (int step = 1; step < size_; ++step) {  // starting with the next rank spreads the load
    const int to = (rank_ + step) % size_;
    for (const Tensor& part : parts) send(part, run_of(to), to, requests);
  }
  wait(requests);
  return runs;
}

/// Gives this rank's run of x to the others, and gets theirs.
void MpiCollectives::spread(const Tensor& x, const RunOf& run_of) {
  std::vector<MPI_Request> requests;
  for (int step = 1; step < size_; ++step) {
    const int other = (rank_ + step) % size_;
    receive(at(x, run_of(other).begin), x.dtype(), run_of(other).size(), other, requests);
    send(x, run_of(rank_), other, requests);
  }
  wait(requests);
}

void MpiCollectives::all_reduce(const Collective& c) {
  const Tensor& x = c.input;
  const RunOf run_of = [&](int rank) { return part_of(x.numel(), size_, rank); };
  const Run mine = run_of(rank_);
  host_reduce(c.op, x.dtype(), mine.size(), collect({x}, x.dtype(), one_each_, run_of), at(x, mine.begin));
  spread(x, run_of);
}

void MpiCollectives::reduce_scatter(const Collective& c) {
  const Tensor& out = c.output;
  const RunOf row_of = [&](int rank) { return Run{rank * out.numel(), (rank + 1) * out.numel()}; };
  host_reduce(c.op, out.dtype(), out.numel(), collect({c.input}, out.dtype(), one_each_, row_of), out.data_ptr());
}

/// Tells all ranks the levels of the others' parts.
void MpiCollectives::share_levels(const std::vector<int>& mine) {
  const int mine_count = static_cast<int>(mine.size());
  std::vector<int> counts(static_cast<std::size_t>(size_)), places;
  std::vector<MPI_Request> requests(1);
  check(MPI_Iallgather(&mine_count, 1, MPI_INT, counts.data(), 1, MPI_INT, comm_, requests.data()), "MPI_Iallgather");
  wait(requests);
  int total = 0;
  for (const int count : counts) places.push_back(std::exchange(total, total + count));
  levels_.resize(static_cast<std::size_t>(total));
  check(MPI_Iallgatherv(mine.data(), mine_count, MPI_INT, levels_.data(), counts.data(), places.data(), MPI_INT, comm_,
                        requests.data()),
        "MPI_Iallgatherv");
  wait(requests);
  level_counts_.assign(counts.begin(), counts.end());
  own_levels_ = mine;
}

void MpiCollectives::tree_all_reduce(const Collective& c) {
  std::vector<Tensor> parts;
  std::vector<int> levels;
  for (const TreeTensor& part : c.parts) {
    parts.push_back(part.sum);
    levels.push_back(part.level);
  }
  const std::string text = c.describe();
  if (!agree(text, text, levels == own_levels_)) share_levels(levels);
  if (levels_.empty()) throw Disagreement("tree_all_reduce", "expected at least one part, got none on any rank");
  const Tensor& out = c.output;
  const RunOf run_of = [&](int rank) { return part_of(out.numel(), size_, rank); };
  const Run mine = run_of(rank_);
  host_tree_sum(out.dtype(), mine.size(), collect(parts, out.dtype(), level_counts_, run_of), levels_,
                at(out, mine.begin));
  spread(out, run_of);
}

}  // namespace lockstep::detail
