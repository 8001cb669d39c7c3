// Pinned host memory. While a queued copy will write to it, the host cannot touch the pages that lie in the copy's
// target as a whole, and the rest is poisoned; what a queued copy will read must not change until it has run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace lockstep::emulation {

class PinnedMemory {
 public:
  static PinnedMemory& get();

  void* allocate(std::size_t bytes);
  /// False if no allocation begins here; throws Fault if a queued copy uses it.
  bool release(void* pointer);
  bool contains(const void* pointer) const { return find(pointer) != nullptr; }

  /// A copy that writes here was queued: poison and protect. And has run, or was dropped: unprotect.
  void expect_write(void* pointer, std::size_t bytes);
  void finish_write(void* pointer, std::size_t bytes);
  /// A copy that reads here was queued; the result goes to finish_read(), which tells whether the bytes are the same.
  std::uint64_t expect_read(const void* pointer, std::size_t bytes);
  bool finish_read(const void* pointer, std::size_t bytes, std::uint64_t expected);

  /// The size of the allocation whose protected pages hold this byte, else 0. For signal handlers.
  std::size_t protected_allocation(const void* pointer) const;

 private:
  struct Block {
    std::size_t bytes;
    int queued_uses = 0;
    std::map<std::size_t, int> expected_writes;  // by page, how many copies
  };
  const std::pair<const std::uintptr_t, Block>* find(const void* pointer) const;
  template <class Body>
  static void for_whole_pages(std::uintptr_t start, const Block& block, const void* pointer, std::size_t bytes,
                              Body body);

  std::map<std::uintptr_t, Block> blocks_;
};

}  // namespace lockstep::emulation
