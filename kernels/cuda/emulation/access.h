// Checks of every access that kernels, copies and fills make to device and shared memory: ownership, bounds, alignment,
// values that were never written, and races.
//
// A record is one access in 64 bits: from above, the interval of time (35 bits; a new one begins with each operation,
// each block and each barrier of a block), the thread (10), the thread's count of warp barriers (11), four flags, and
// which of a cell's four bytes. Blocks of a launch run one after another, so comparing intervals tells whether a record
// is of this barrier phase, this block, this launch, or an older operation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <lockstep/kernels/cuda/emulation/fault.h>
#include <lockstep/kernels/cuda/emulation/history.h>
#include <lockstep/kernels/cuda/emulation/memory.h>

namespace lockstep::emulation {

inline constexpr int kIntervalShift = 29, kThreadShift = 19, kEpochShift = 8;
inline constexpr std::uint64_t kEpochLimit = 0x7ff;
// Flags of write records:
inline constexpr std::uint64_t kAtomic = 0x10;
// Flags of read records: others read the same bytes too.
inline constexpr std::uint64_t kOtherLanes = 0x10, kOtherWarps = 0x20, kOtherBlocks = 0x40, kOtherStreams = 0x80;

constexpr std::uint64_t record_of(std::uint64_t interval, unsigned thread = 0, std::uint64_t epoch = 0) {
  return interval << kIntervalShift | std::uint64_t{thread} << kThreadShift | epoch << kEpochShift;
}
constexpr std::uint64_t interval_of(std::uint64_t record) { return record >> kIntervalShift; }
constexpr unsigned thread_of(std::uint64_t record) { return record >> kThreadShift & 0x3ff; }
constexpr std::uint64_t epoch_of(std::uint64_t record) { return record >> kEpochShift & kEpochLimit; }

enum class Access { read, write, atomic };

/// A run of bytes with statuses and cells: a device's arena or a block's shared memory.
struct Region {
  std::uintptr_t base = 0;
  std::size_t span = 0;
  std::uint8_t* status = nullptr;
  Cell* cells = nullptr;
  Arena* arena = nullptr;  // null for shared memory
};

/// What each lane of a warp knows of the others': known[i][j] is the last epoch of lane j that is before lane i's now.
struct WarpClock {
  std::uint16_t known[32][32];
};

/// Counts of distinct bytes of one launch.
struct DistinctBytes {
  std::vector<std::uint64_t> read, written;  // a bit per byte of the arena
  std::int64_t read_count = 0, written_count = 0;

  static void mark(std::vector<std::uint64_t>& bits, std::int64_t& count, std::size_t offset, std::size_t bytes);
};

/// The access checks of one running operation. All throw Fault.
class Checker {
 public:
  Checker(History& history, std::string operation) : history_(history), operation_(std::move(operation)) {}
  virtual ~Checker() = default;

  /// Called before the operation's first access.
  void begin(const Clock& clock);
  /// One access of N bytes of a kernel's thread at `pointer`; `aligned`: the type needs alignment to N.
  template <std::size_t N, Access kind>
  void check(const void* pointer, bool aligned);
  /// An access of any number of bytes.
  void check_range(const void* pointer, std::size_t bytes, Access kind, bool needs_value);
  /// Throws unless no operation without order to this one has accessed the bytes.
  void check_unused(Region& region, std::size_t offset, std::size_t bytes);

  std::int64_t bytes_read() const { return bytes_read_; }
  std::int64_t bytes_written() const { return bytes_written_; }

  Region device_memory;
  Region shared_memory;
  std::vector<Region> peers;
  std::size_t shared_bytes = 0;  ///< how much of shared_memory the launch asked for
  DistinctBytes* distinct = nullptr;

 protected:
  /// Says who accesses: the operation, for kernels also block and thread.
  virtual std::string who() const { return operation_; }
  virtual std::string thread_name(unsigned) const { return "another thread"; }
  /// Whether the access is to memory that is no region and needs no more checks.
  virtual bool is_private(std::uintptr_t, std::size_t, Access) const { return false; }
  /// Whether this block has synchronised with the block that an interval of this launch belongs to.
  virtual bool acquired(std::uint64_t) const { return false; }
  virtual const WarpClock* warp_clock(unsigned) const { return nullptr; }

  History& history_;
  std::string operation_;
  // As records: the current thread now, and where its phase, block and launch began, and the first operation that may
  // be without order to this one.
  std::uint64_t now_ = 0, block_start_ = 0, launch_start_ = 0, unsafe_start_ = 0;

 private:
  Region* find_region(std::uintptr_t address);
  [[gnu::noinline]] Region& other_region(std::uintptr_t address, std::size_t bytes, Access kind);
  void check_cell(Region& region, std::size_t cell, std::uint64_t mask, Access kind);
  [[gnu::noinline]] void read_slowly(Region& region, std::size_t cell, std::uint64_t mask);
  [[gnu::noinline]] void conflict(Region& region, std::size_t cell, std::uint64_t record, bool record_wrote,
                                  Access kind);
  [[gnu::noinline]] void conflict_with_reads(Region& region, std::size_t cell, std::uint64_t record, Access kind);
  bool is_ordered(std::uint64_t record) const;
  const PastOperation* unordered_operation(std::uint64_t record);
  [[noreturn, gnu::noinline]] void fail_status(Region& region, std::size_t offset, std::size_t bytes, Access kind,
                                               bool needs_value);
  [[noreturn, gnu::noinline]] void fail_alignment(const void* pointer, std::size_t bytes, Access kind);
  [[noreturn]] void fail_race(Region& region, std::size_t cell, const std::string& other, bool other_wrote, Access kind,
                              const char* missing);
  std::string place(const Region& region, std::size_t offset) const;
  void count(const Region& region, std::size_t offset, std::size_t bytes, Access kind);

  const Clock* clock_ = nullptr;
  std::int64_t bytes_read_ = 0, bytes_written_ = 0;
  // The last answer of unordered_operation: for intervals from the first to before the second, ordered.
  std::uint64_t ordered_begin_ = 0, ordered_end_ = 0;
};

/// Reads of operations that ran without order to each other, by address of the cell: a cell holds only one.
std::unordered_multimap<const Cell*, std::uint64_t>& concurrent_reads();

inline Region* Checker::find_region(std::uintptr_t address) {
  if (address - device_memory.base < device_memory.span) return &device_memory;
  if (address - shared_memory.base < shared_memory.span) return &shared_memory;
  return nullptr;
}

inline void Checker::count(const Region& region, std::size_t offset, std::size_t bytes, Access kind) {
  if (!region.arena) return;
  if (kind != Access::write) bytes_read_ += static_cast<std::int64_t>(bytes);
  if (kind != Access::read) bytes_written_ += static_cast<std::int64_t>(bytes);
  if (distinct && region.base == device_memory.base) [[unlikely]] {
    if (kind != Access::write) DistinctBytes::mark(distinct->read, distinct->read_count, offset, bytes);
    if (kind != Access::read) DistinctBytes::mark(distinct->written, distinct->written_count, offset, bytes);
  }
}

inline void Checker::check_cell(Region& region, std::size_t index, std::uint64_t mask, Access kind) {
  Cell& cell = region.cells[index];
  const std::uint64_t written = cell.write, read = cell.read;
  // Only records of another thread or another phase, on the same bytes, can conflict.
  if ((written & mask) != 0 && ((written ^ now_) >> kThreadShift) != 0 && written >= unsafe_start_ &&
      !(kind == Access::atomic && (written & kAtomic) != 0)) [[unlikely]] {
    conflict(region, index, written, true, kind);
  }
  if (kind == Access::read) {
    if (read < unsafe_start_) [[likely]] {
      cell.read = now_ | mask;
    } else if (((read ^ now_) >> kThreadShift) == 0) {
      cell.read = now_ | (read & 0xff) | mask;
    } else if (((read ^ now_) >> kIntervalShift) == 0 && (read & mask) == mask) {
      // Lanes of one warp: the later one stands for all that read in its epoch or before.
      cell.read = ((read ^ now_) >> (kThreadShift + 5)) != 0 ? (read & ~std::uint64_t{0xf}) | mask | kOtherWarps
                                                             : now_ | (read & 0xf0) | mask | kOtherLanes;
    } else {
      read_slowly(region, index, mask);
    }
    return;
  }
  if ((read & mask) != 0 && read >= unsafe_start_ && (((read ^ now_) >> kThreadShift) != 0 || (read & 0xf0) != 0))
      [[unlikely]] {
    conflict_with_reads(region, index, read, kind);
  }
  const bool same = ((written ^ now_) >> kThreadShift) == 0;
  cell.write = now_ | mask | (kind == Access::atomic ? kAtomic : 0) | (same ? written & 0xf : 0);
}

template <std::size_t N, Access kind>
inline void Checker::check(const void* pointer, bool aligned) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  Region* found = find_region(address);
  if (!found) [[unlikely]] {
    if (is_private(address, N, kind)) return;
    found = &other_region(address, N, kind);
  }
  Region& region = *found;
  const std::size_t offset = address - region.base;
  if (aligned && address % N != 0) [[unlikely]]
    fail_alignment(pointer, N, kind);
  std::uint8_t* const status = region.status + offset;
  for (std::size_t i = 0; i < N; i += 8) {
    constexpr std::size_t kPart = N < 8 ? N : 8;
    constexpr std::uint64_t kOnes = 0x0101010101010101ull & (~0ull >> (8 - kPart) * 8);
    std::uint64_t bytes = 0;
    __builtin_memcpy(&bytes, status + i, kPart);
    if constexpr (kind == Access::write) {
      if ((bytes & kOnes) != kOnes) [[unlikely]]
        fail_status(region, offset, N, kind, kind != Access::write);
      bytes = kOnes * kInitialised;
      __builtin_memcpy(status + i, &bytes, kPart);
    } else {
      if (bytes != kOnes * kInitialised) [[unlikely]]
        fail_status(region, offset, N, kind, kind != Access::write);
    }
  }
  count(region, offset, N, kind);
  std::size_t cell = offset / kCellBytes;
  if (N >= kCellBytes && offset % kCellBytes == 0) {
    for (std::size_t i = 0; i < N / kCellBytes; ++i) check_cell(region, cell + i, 0xf, kind);
  } else {
    std::uint64_t mask = ((std::uint64_t{1} << N) - 1) << offset % kCellBytes;
    for (; mask != 0; mask >>= kCellBytes, ++cell) {
      if ((mask & 0xf) != 0) check_cell(region, cell, mask & 0xf, kind);
    }
  }
}

}  // namespace lockstep::emulation
