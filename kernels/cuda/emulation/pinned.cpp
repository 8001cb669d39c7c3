#include <lockstep/kernels/cuda/emulation/pinned.h>

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include <lockstep/core/base/check.h>
#include <lockstep/kernels/cuda/emulation/fault.h>
#include <lockstep/kernels/cuda/emulation/memory.h>

namespace lockstep::emulation {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::uint64_t kUnknownHash = 0;

std::size_t round_up(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

std::uint64_t hash_of(const void* data, std::size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(data);
  std::uint64_t hash = bytes + 1;
  for (; bytes > 0; p += std::min<std::size_t>(bytes, 8), bytes -= std::min<std::size_t>(bytes, 8)) {
    std::uint64_t word = 0;
    std::memcpy(&word, p, std::min<std::size_t>(bytes, 8));
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
  }
  return hash == kUnknownHash ? 1 : hash;
}

}  // namespace

PinnedMemory& PinnedMemory::get() {
  static PinnedMemory& memory = *new PinnedMemory;
  return memory;
}

void* PinnedMemory::allocate(std::size_t bytes) {
  void* pages = mmap(nullptr, round_up(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return nullptr;
  std::memset(pages, kPoison, bytes);
  blocks_.emplace(reinterpret_cast<std::uintptr_t>(pages), Block{bytes, 0, {}});
  return pages;
}

const std::pair<const std::uintptr_t, PinnedMemory::Block>* PinnedMemory::find(const void* pointer) const {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  const auto next = blocks_.upper_bound(address);
  if (next == blocks_.begin()) return nullptr;
  const auto& block = *std::prev(next);
  return address - block.first < block.second.bytes ? &block : nullptr;
}

bool PinnedMemory::release(void* pointer) {
  const auto found = blocks_.find(reinterpret_cast<std::uintptr_t>(pointer));
  if (found == blocks_.end()) return false;
  if (found->second.queued_uses > 0) {
    throw Fault{cudaErrorInvalidValue, fmt::format("pinned memory of {} bytes is freed while {} queued copies use it",
                                                   found->second.bytes, found->second.queued_uses)};
  }
  munmap(pointer, round_up(found->second.bytes));
  blocks_.erase(found);
  return true;
}

/// Pages of which every byte that belongs to the allocation lies in the range.
template <class Body>
void PinnedMemory::for_whole_pages(std::uintptr_t start, const Block& block, const void* pointer, std::size_t bytes,
                                   Body body) {
  const std::size_t begin = reinterpret_cast<std::uintptr_t>(pointer) - start, end = begin + bytes;
  for (std::size_t page = round_up(begin); page < block.bytes && std::min(page + kPage, block.bytes) <= end;
       page += kPage) {
    body(page, reinterpret_cast<void*>(start + page));
  }
}

void PinnedMemory::expect_write(void* pointer, std::size_t bytes) {
  const auto* found = find(pointer);
  Block& block = blocks_.at(found->first);
  ++block.queued_uses;
  if (block.expected_writes.empty()) std::memset(pointer, kPoison, bytes);
  for_whole_pages(found->first, block, pointer, bytes, [&](std::size_t page, void* address) {
    if (block.expected_writes[page]++ == 0) mprotect(address, kPage, PROT_NONE);
  });
}

void PinnedMemory::finish_write(void* pointer, std::size_t bytes) {
  const auto* found = find(pointer);
  Block& block = blocks_.at(found->first);
  --block.queued_uses;
  for_whole_pages(found->first, block, pointer, bytes, [&](std::size_t page, void* address) {
    if (--block.expected_writes[page] > 0) return;
    block.expected_writes.erase(page);
    mprotect(address, kPage, PROT_READ | PROT_WRITE);
  });
}

std::uint64_t PinnedMemory::expect_read(const void* pointer, std::size_t bytes) {
  Block& block = blocks_.at(find(pointer)->first);
  ++block.queued_uses;
  // While a copy to the block is queued, its contents are not known yet.
  return block.expected_writes.empty() ? hash_of(pointer, bytes) : kUnknownHash;
}

bool PinnedMemory::finish_read(const void* pointer, std::size_t bytes, std::uint64_t expected) {
  Block& block = blocks_.at(find(pointer)->first);
  --block.queued_uses;
  return expected == kUnknownHash || !block.expected_writes.empty() || hash_of(pointer, bytes) == expected;
}

std::size_t PinnedMemory::protected_allocation(const void* pointer) const {
  const auto* found = find(pointer);
  if (!found) return 0;
  const std::size_t page = (reinterpret_cast<std::uintptr_t>(pointer) - found->first) / kPage * kPage;
  return found->second.expected_writes.contains(page) ? found->second.bytes : 0;
}

}  // namespace lockstep::emulation
