// The memory of an emulated device. Each byte has a status (allocated? initialised?), each four bytes a cell that
// remembers who wrote and who read them last. Allocations stand apart, so that one element past the end is nobody's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace lockstep::emulation {

/// What a byte of memory is. Bit 0: may be accessed; bit 1: has a value.
enum Status : std::uint8_t { kNowhere = 0, kUninitialised = 1, kInitialised = 3, kFreed = 4 };

/// The last write and the last read of four bytes, as records (see access.h).
struct Cell {
  std::uint64_t write, read;
};
inline constexpr std::size_t kCellBytes = 4;

/// What fresh and freed memory is filled with: NaN as float, half or bfloat16.
inline constexpr int kPoison = 0xff;

struct Allocation {
  std::uint64_t number;
  std::size_t bytes;
  std::string made_by;   ///< cudaMalloc or cudaMallocAsync, with the stream
  std::string freed_by;  ///< empty while it lives
  bool free_queued = false;
};

/// Pages that the host cannot touch, except while kernels run. The emulator itself uses a second view of them.
class Arena {
 public:
  static constexpr std::size_t kCapacity = std::size_t{64} << 30;  ///< of address space; pages come when touched

  explicit Arena(int device);

  /// Poisoned memory, aligned to 256 bytes; null where the limit or the address space is reached.
  void* allocate(std::size_t bytes, std::string made_by);
  /// Poisons; the addresses are not used again until much else has been freed.
  void release(void* pointer, std::string freed_by);
  /// Makes released addresses usable again, the oldest first, until at most `keep` bytes wait.
  void purge(std::size_t keep);

  /// Lets the host's threads (and kernels) access the memory, or not.
  void open();
  void close();

  bool contains(const void* pointer) const { return offset_of(pointer) < kCapacity; }
  std::size_t offset_of(const void* pointer) const {
    return reinterpret_cast<std::uintptr_t>(pointer) - reinterpret_cast<std::uintptr_t>(base_);
  }
  /// The allocation, living or released, with this byte in it, or null.
  Allocation* find(const void* pointer);
  /// The living allocation that begins here, or null.
  Allocation* find_start(const void* pointer);
  /// "byte 8 of the 64-byte allocation #3 of cuda:0", for any address of the arena.
  std::string describe(const void* pointer) const;
  /// As describe, without allocating or locking: for signal handlers.
  void describe_to(char* text, std::size_t size, const void* pointer) const;

  std::byte* base() const { return base_; }
  /// The emulator's own view of the byte at `offset`.
  std::byte* view(std::size_t offset) const { return view_ + offset; }
  std::uint8_t* status() const { return status_; }
  Cell* cells() const { return cells_; }
  /// Bytes from the base that may hold allocations.
  std::size_t extent() const { return end_; }

  std::size_t used() const { return used_; }
  std::size_t peak() const { return peak_; }
  void reset_peak() { peak_ = used_; }
  std::size_t limit() const { return limit_; }
  void set_limit(std::size_t bytes) { limit_ = bytes; }

 private:
  std::size_t take_gap(std::size_t span);

  int device_;
  std::byte *base_, *view_;
  std::uint8_t* status_;
  Cell* cells_;
  std::size_t limit_ = std::size_t{8} << 30, used_ = 0, peak_ = 0, end_ = 0;
  bool open_ = false;
  std::uint64_t allocation_count_ = 0;
  std::map<std::size_t, Allocation> allocations_;  // by offset; released ones too, until purged
  std::map<std::size_t, std::size_t> gaps_;        // offset and span of purged ones below end_
  std::map<std::uint64_t, std::size_t> released_;  // order of release, and offset
  std::uint64_t release_count_ = 0;
  std::size_t released_bytes_ = 0;
  int file_;
};

}  // namespace lockstep::emulation
