#include <lockstep/kernels/cuda/emulation/access.h>

#include <algorithm>
#include <bit>

#include <lockstep/core/base/check.h>
#include <lockstep/kernels/cuda/emulation/emulator.h>

namespace lockstep::emulation {
namespace {

[[noreturn]] void fail(cudaError_t code, std::string message) { throw Fault{code, std::move(message)}; }

const char* verb(Access kind) {
  switch (kind) {
    case Access::read: return "reads";
    case Access::write: return "writes";
    case Access::atomic: return "atomically updates";
  }
  return "";
}

}  // namespace

std::unordered_multimap<const Cell*, std::uint64_t>& concurrent_reads() {
  static auto& reads = *new std::unordered_multimap<const Cell*, std::uint64_t>;
  return reads;
}

void DistinctBytes::mark(std::vector<std::uint64_t>& bits, std::int64_t& count, std::size_t offset, std::size_t bytes) {
  if (bits.size() * 64 < offset + bytes) bits.resize((offset + bytes) / 64 + 1);
  for (std::size_t i = offset; i < offset + bytes;) {
    const std::size_t run = std::min(64 - i % 64, offset + bytes - i);
    const std::uint64_t mask = (run == 64 ? ~0ull : (1ull << run) - 1) << i % 64;
    count += std::popcount(mask & ~bits[i / 64]);
    bits[i / 64] |= mask;
    i += run;
  }
}

void Checker::begin(const Clock& clock) {
  clock_ = &clock;
  launch_start_ = block_start_ = now_ = record_of(history_.next_interval());
  const std::uint64_t unknown = history_.first_unknown(clock);
  unsafe_start_ = unknown >= history_.interval() ? launch_start_ : record_of(unknown);
}

std::string Checker::place(const Region& region, std::size_t offset) const {
  return region.arena ? region.arena->describe(reinterpret_cast<const void*>(region.base + offset))
                      : fmt::format("byte {} of the block's shared memory", offset);
}

Region& Checker::other_region(std::uintptr_t address, std::size_t bytes, Access kind) {
  for (Region& peer : peers) {
    if (address - peer.base < peer.span) return peer;
  }
  fail(cudaErrorIllegalAddress, fmt::format("{} {} {} bytes at {:#x}: {}", who(), verb(kind), bytes, address,
                                            describe_address(reinterpret_cast<const void*>(address))));
}

void Checker::fail_alignment(const void* pointer, std::size_t bytes, Access kind) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  Region* region = find_region(address);
  fail(cudaErrorMisalignedAddress,
       fmt::format("{} {} {} bytes at once at an address that is not a multiple of {}: {:#x}{}", who(), verb(kind),
                   bytes, bytes, address, region ? ", " + place(*region, address - region->base) : ""));
}

void Checker::fail_status(Region& region, std::size_t offset, std::size_t bytes, Access kind, bool needs_value) {
  std::size_t first = offset;
  const auto good = [&](std::uint8_t s) { return needs_value ? s == kInitialised : (s & kUninitialised) != 0; };
  while (good(region.status[first])) ++first;
  const std::string access = fmt::format("{} {} {} bytes at {:#x}", who(), verb(kind), bytes, region.base + offset);
  const std::string where = place(region, first);
  switch (region.status[first]) {
    case kUninitialised:
      fail(cudaErrorLaunchFailure, fmt::format("{}, which nobody has written: {} is uninitialised", access, where));
    case kFreed: {
      const Allocation* allocation = region.arena->find(reinterpret_cast<const void*>(region.base + first));
      fail(cudaErrorIllegalAddress, fmt::format("{}, which is used after it was freed by {}: {}", access,
                                                allocation ? allocation->freed_by : "an older operation", where));
    }
    default:
      fail(cudaErrorIllegalAddress,
           region.arena ? fmt::format("{}, out of bounds: {}", access, where)
                        : fmt::format("{}, out of the bounds of the block's {} bytes of shared memory: {}", access,
                                      shared_bytes, where));
  }
}

void Checker::fail_race(Region& region, std::size_t cell, const std::string& other, bool other_wrote, Access kind,
                        const char* missing) {
  fail(cudaErrorLaunchFailure,
       fmt::format("race: {} {} {}, which {} {} without order between them ({})", who(), verb(kind),
                   place(region, cell * kCellBytes), other, other_wrote ? "wrote" : "read", missing));
}

bool Checker::is_ordered(std::uint64_t record) const {
  const unsigned me = thread_of(now_), other = thread_of(record);
  const std::uint64_t epoch = epoch_of(record);
  const WarpClock* clock = warp_clock(me / 32);
  if (!clock || epoch == kEpochLimit) return clock != nullptr;  // too many warp barriers to count: not judged
  const auto& known = clock->known[me % 32];
  if (other != me) return known[other % 32] >= epoch;
  // The record is this lane's, and other lanes, not known which, read too: one that is before now speaks for them.
  return std::any_of(known, known + 32, [&](std::uint16_t k) { return k >= epoch; });
}

const PastOperation* Checker::unordered_operation(std::uint64_t record) {
  const std::uint64_t interval = interval_of(record);
  if (interval >= ordered_begin_ && interval < ordered_end_) return nullptr;
  const PastOperation* o = history_.find(interval);
  if (o && o->number > (*clock_)[o->stream]) return o;
  ordered_begin_ = o ? o->interval : interval;
  ordered_end_ = interval + 1;
  return nullptr;
}

void Checker::conflict(Region& region, std::size_t cell, std::uint64_t record, bool record_wrote, Access kind) {
  if (record >= block_start_) {
    if (interval_of(record) != interval_of(now_)) return;  // a barrier of the block lies between
    const unsigned me = thread_of(now_), other = thread_of(record);
    if (me == other) return;
    if (me / 32 != other / 32) {
      fail_race(region, cell, thread_name(other), record_wrote, kind, "a __syncthreads is missing");
    }
    if (is_ordered(record)) return;
    fail_race(region, cell, thread_name(other) + " of the same warp", record_wrote, kind, "a __syncwarp is missing");
  }
  if (record >= launch_start_) {
    if (acquired(interval_of(record))) return;
    fail_race(region, cell, "another block of this launch", record_wrote, kind, "blocks have no order");
  }
  if (const PastOperation* o = unordered_operation(record)) {
    fail_race(region, cell, o->name, record_wrote, kind, "an event wait is missing");
  }
}

void Checker::conflict_with_reads(Region& region, std::size_t cell, std::uint64_t record, Access kind) {
  if ((record & kOtherStreams) != 0) {
    const auto [begin, end] = concurrent_reads().equal_range(&region.cells[cell]);
    for (auto it = begin; it != end; ++it) conflict(region, cell, it->second, false, kind);
    concurrent_reads().erase(begin, end);  // all before this write, and so before what comes after it
    region.cells[cell].read &= ~kOtherStreams;
  }
  conflict(region, cell, record, false, kind);
  if (record < launch_start_) return;
  if ((record & kOtherBlocks) != 0 && !acquired(interval_of(block_start_) - 1)) {
    fail_race(region, cell, "another block of this launch", false, kind, "blocks have no order");
  }
  if (interval_of(record) != interval_of(now_)) return;
  if ((record & kOtherWarps) != 0) {
    fail_race(region, cell, "a thread of another warp", false, kind, "a __syncthreads is missing");
  }
  if ((record & kOtherLanes) != 0 && !is_ordered(record)) {
    fail_race(region, cell, "another lane of the same warp", false, kind, "a __syncwarp is missing");
  }
}

void Checker::read_slowly(Region& region, std::size_t index, std::uint64_t mask) {
  Cell& cell = region.cells[index];
  const std::uint64_t read = cell.read, common = read & mask;
  if (common == 0) {  // other bytes: the older record is given up
    cell.read = now_ | mask;
    return;
  }
  const std::uint64_t others = read & (kOtherBlocks | kOtherStreams);
  const std::uint64_t mine = now_ | (others != 0 ? common | others : mask);
  if (read >= block_start_) {
    if (interval_of(read) != interval_of(now_)) {
      cell.read = mine;
    } else if (thread_of(read) / 32 != thread_of(now_) / 32) {
      cell.read = (read & ~std::uint64_t{0xf}) | common | kOtherWarps;
    } else {
      // Lanes of one warp: the later one stands for all that read in its epoch or before.
      cell.read = now_ | common | (read & 0xf0) | kOtherLanes;
    }
  } else if (read >= launch_start_) {
    cell.read = now_ | common | others | kOtherBlocks;
  } else if (unordered_operation(read)) {
    auto& reads = concurrent_reads();
    for (auto [it, end] = reads.equal_range(&cell); it != end;) {
      it = unordered_operation(it->second) ? std::next(it) : reads.erase(it);
    }
    reads.emplace(&cell, read & ~std::uint64_t{0xf0});
    cell.read = now_ | common | others | kOtherStreams;
  } else {
    cell.read = now_ | (others & kOtherStreams ? common | kOtherStreams : mask);
  }
}

void Checker::check_range(const void* pointer, std::size_t bytes, Access kind, bool needs_value) {
  if (bytes == 0) return;
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  Region* found = find_region(address);
  if (!found) {
    if (is_private(address, bytes, kind)) return;
    found = &other_region(address, bytes, kind);
  }
  Region& region = *found;
  const std::size_t offset = address - region.base, end = offset + bytes;
  std::uint8_t* const status = region.status;
  for (std::size_t i = offset; i < end; ++i) {
    const bool good = needs_value ? status[i] == kInitialised : (status[i] & kUninitialised) != 0;
    if (!good) fail_status(region, offset, bytes, kind, needs_value);
    if (kind == Access::write) status[i] = kInitialised;
  }
  count(region, offset, bytes, kind);
  for (std::size_t i = offset; i < end;) {
    const std::size_t next = std::min(end, (i / kCellBytes + 1) * kCellBytes);
    const std::uint64_t mask = ((1u << (next - i)) - 1) << i % kCellBytes;
    check_cell(region, i / kCellBytes, mask, kind);
    i = next;
  }
}

void Checker::check_unused(Region& region, std::size_t offset, std::size_t bytes) {
  for (std::size_t cell = offset / kCellBytes; cell < (offset + bytes + kCellBytes - 1) / kCellBytes; ++cell) {
    const auto [write, read] = region.cells[cell];
    for (const std::uint64_t record : {write, read}) {
      if ((record & 0xf) == 0 || record < unsafe_start_) continue;
      if (const PastOperation* o = unordered_operation(record)) {
        fail(cudaErrorIllegalAddress, fmt::format("{} frees memory while {} uses it: nothing orders the two ({})",
                                                  who(), o->name, place(region, cell * kCellBytes)));
      }
    }
    if ((read & kOtherStreams) == 0) continue;
    const auto [begin, end] = concurrent_reads().equal_range(&region.cells[cell]);
    for (auto it = begin; it != end; ++it) {
      if (const PastOperation* o = unordered_operation(it->second)) {
        fail(cudaErrorIllegalAddress, fmt::format("{} frees memory while {} uses it: nothing orders the two ({})",
                                                  who(), o->name, place(region, cell * kCellBytes)));
      }
    }
  }
}

}  // namespace lockstep::emulation
