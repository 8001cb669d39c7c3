#include <lockstep/parallel/mpi_collectives.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include <lockstep/core/base/check.h>
#include <lockstep/core/base/run.h>
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

/// The larger one; a NaN wins. MPI_MAX leaves open what a NaN does.
template <class T>
void max_of(void* in, void* in_out, int* count, MPI_Datatype*) {
  const auto* a = static_cast<const T*>(in);
  auto* b = static_cast<T*>(in_out);
  for (int i = 0; i < *count; ++i) b[i] = a[i] > b[i] || a[i] != a[i] ? a[i] : b[i];
}

}  // namespace

MpiCollectives::MpiCollectives() {
  check(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
  check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  check(MPI_Op_create(max_of<float>, 1, &max_float_), "MPI_Op_create");
  check(MPI_Op_create(max_of<double>, 1, &max_double_), "MPI_Op_create");
  levels_.resize(static_cast<std::size_t>(size_));
}

MpiCollectives::~MpiCollectives() {
  MPI_Op_free(&max_double_);
  MPI_Op_free(&max_float_);
  MPI_Comm_free(&comm_);
}

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
  switch (c.kind) {
    case Collective::Kind::all_reduce: return 2 * c.input.nbytes() * others / static_cast<std::uint64_t>(size_);
    case Collective::Kind::reduce_scatter: return c.output.nbytes() * others;
    case Collective::Kind::all_gather: return c.input.nbytes() * others;
    case Collective::Kind::broadcast: return rank_ == c.root ? c.input.nbytes() * others : 0;
    case Collective::Kind::send: return c.input.nbytes();
    case Collective::Kind::recv:
    case Collective::Kind::barrier: return 0;
    case Collective::Kind::tree_all_reduce: {
      const auto mine = static_cast<std::uint64_t>(part_of(c.output.numel(), size_, rank_).size());
      return (c.parts.size() * (static_cast<std::uint64_t>(c.output.numel()) - mine) + others * mine) *
             size_of(c.output.dtype());
    }
  }
  return 0;
}

MPI_Op MpiCollectives::op_for(ReduceOp op, DType dtype) const {
  if (op != ReduceOp::max) return MPI_SUM;
  return dtype == DType::float32 ? max_float_ : dtype == DType::float64 ? max_double_ : MPI_MAX;
}

void MpiCollectives::all_reduce(const Collective& c) {
  Tensor x = c.input;
  std::vector<MPI_Request> requests(1);
  check(MPI_Iallreduce(MPI_IN_PLACE, x.data_ptr(), count_of(x), type_of(x.dtype()), op_for(c.op, x.dtype()), comm_,
                       requests.data()),
        "MPI_Iallreduce");
  wait(requests);
  if (c.op == ReduceOp::mean) x.mul_(1.0 / size_);
}

void MpiCollectives::reduce_scatter(const Collective& c) {
  Tensor out = c.output;
  std::vector<MPI_Request> requests(1);
  check(MPI_Ireduce_scatter_block(c.input.data_ptr(), out.data_ptr(), count_of(out), type_of(out.dtype()),
                                  op_for(c.op, out.dtype()), comm_, requests.data()),
        "MPI_Ireduce_scatter_block");
  wait(requests);
  if (c.op == ReduceOp::mean) out.mul_(1.0 / size_);
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

void MpiCollectives::send_or_recv(const Collective& c) {
  const Tensor& x = c.input;
  std::vector<MPI_Request> requests(1);
  if (c.kind == Collective::Kind::send) {
    check(MPI_Isend(x.data_ptr(), count_of(x), type_of(x.dtype()), c.root, kDataTag, comm_, requests.data()),
          "MPI_Isend");
  } else {
    check(MPI_Irecv(x.data_ptr(), count_of(x), type_of(x.dtype()), c.root, kDataTag, comm_, requests.data()),
          "MPI_Irecv");
  }
  wait(requests);
}

// ---- tree_all_reduce: the elements are cut into a chunk for each rank. A rank gets its chunk of everyone's parts,
// adds
// ---- them up in the order of the tree, and sends the sum to all.

void MpiCollectives::share_levels(const std::vector<int>& mine) {
  const int mine_count = static_cast<int>(mine.size());
  std::vector<int> counts(static_cast<std::size_t>(size_)), places;
  std::vector<MPI_Request> requests(1);
  check(MPI_Iallgather(&mine_count, 1, MPI_INT, counts.data(), 1, MPI_INT, comm_, requests.data()), "MPI_Iallgather");
  wait(requests);
  int total = 0;
  for (const int count : counts) places.push_back(std::exchange(total, total + count));
  std::vector<int> all(static_cast<std::size_t>(total));
  check(MPI_Iallgatherv(mine.data(), mine_count, MPI_INT, all.data(), counts.data(), places.data(), MPI_INT, comm_,
                        requests.data()),
        "MPI_Iallgatherv");
  wait(requests);
  for (std::size_t r = 0; r < counts.size(); ++r) {
    levels_[r].assign(all.begin() + places[r], all.begin() + places[r] + counts[r]);
  }
}

void MpiCollectives::tree_all_reduce(const Collective& c) {
  const Tensor& out = c.output;
  std::vector<int> levels;
  for (const TreeTensor& part : c.parts) levels.push_back(part.level);
  const std::string text = c.describe();
  if (!agree(text, text, levels == levels_[static_cast<std::size_t>(rank_)])) share_levels(levels);
  std::size_t foreign_parts = 0;
  for (const std::vector<int>& of_rank : levels_) foreign_parts += of_rank.size();
  if (foreign_parts == 0) throw Disagreement("tree_all_reduce", "expected at least one part, got none on any rank");
  foreign_parts -= levels.size();

  const std::size_t width = size_of(out.dtype());
  const MPI_Datatype type = type_of(out.dtype());
  const auto chunk_of = [&](int rank) { return part_of(out.numel(), size_, rank); };
  const auto at = [&](const Tensor& x, std::int64_t i) {
    return static_cast<std::byte*>(x.data_ptr()) + static_cast<std::size_t>(i) * width;
  };
  const Run mine = chunk_of(rank_);
  const std::size_t mine_bytes = static_cast<std::size_t>(mine.size()) * width;
  if (received_size_ < foreign_parts * mine_bytes) {
    received_size_ = foreign_parts * mine_bytes;
    received_.reset();
    received_ = std::make_unique_for_overwrite<std::byte[]>(received_size_);
  }

  std::vector<MPI_Request> requests;
  const auto send = [&](const Tensor& x, Run run, int to) {
    check(
        MPI_Isend(at(x, run.begin), static_cast<int>(run.size()), type, to, kDataTag, comm_, &requests.emplace_back()),
        "MPI_Isend");
  };
  const auto receive = [&](void* to, Run run, int from) {
    check(MPI_Irecv(to, static_cast<int>(run.size()), type, from, kDataTag, comm_, &requests.emplace_back()),
          "MPI_Irecv");
  };
  // Starting with the next rank spreads the load.
  const auto others = [&](auto&& body) {
    for (int step = 1; step < size_; ++step) body((rank_ + step) % size_);
  };
  std::vector<void*> parts;  // this rank's chunk of all parts, in order
  std::vector<int> part_levels;
  std::byte* place = received_.get();
  for (int r = 0; r < size_; ++r) {
    for (std::size_t k = 0; k < levels_[static_cast<std::size_t>(r)].size(); ++k) {
      if (r == rank_) {
        parts.push_back(at(c.parts[k].sum, mine.begin));
      } else {
        receive(place, mine, r);
        parts.push_back(std::exchange(place, place + mine_bytes));
      }
      part_levels.push_back(levels_[static_cast<std::size_t>(r)][k]);
    }
  }
  others([&](int r) {
    for (const TreeTensor& part : c.parts) send(part.sum, chunk_of(r), r);
  });
  wait(requests);

  host_tree_sum(out.dtype(), mine.size(), parts, part_levels, at(out, mine.begin));

  requests.clear();
  others([&](int r) {
    receive(at(out, chunk_of(r).begin), chunk_of(r), r);
    send(out, mine, r);
  });
  wait(requests);
}

}  // namespace lockstep::detail
