#include <lockstep/kernels/cuda/emulation/memory.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

#include <lockstep/core/base/check.h>

namespace lockstep::emulation {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::size_t kGap = 256;  // between allocations
constexpr std::size_t kKeepReleased = std::size_t{64} << 20;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kReturnToSystem = std::size_t{1} << 20;

std::size_t round_up(std::size_t bytes, std::size_t step) { return (bytes + step - 1) / step * step; }

void* map_pages(std::size_t bytes, int protection, int flags, int file) {
  void* pages = mmap(nullptr, bytes, protection, flags | MAP_NORESERVE, file, 0);
  LOCKSTEP_CHECK(pages != MAP_FAILED, OutOfMemoryError, "emulation",
                 "expected {} bytes of address space to be available", bytes);
  madvise(pages, bytes, MADV_DONTDUMP);
  return pages;
}

/// Zeroes a part of a private mapping, by giving its whole pages back where that pays.
void clear(void* data, std::size_t bytes) {
  auto* const begin = static_cast<std::byte*>(data);
  if (bytes < kReturnToSystem) {
    std::memset(begin, 0, bytes);
    return;
  }
  const auto address = reinterpret_cast<std::uintptr_t>(begin);
  const std::size_t head = round_up(address, kPage) - address, pages = (bytes - head) / kPage * kPage;
  std::memset(begin, 0, head);
  madvise(begin + head, pages, MADV_DONTNEED);
  std::memset(begin + head + pages, 0, bytes - head - pages);
}

}  // namespace

Arena::Arena(int device) : device_(device) {
  file_ = memfd_create("lockstep_emulated_device", MFD_CLOEXEC);
  LOCKSTEP_CHECK(file_ >= 0 && ftruncate(file_, static_cast<off_t>(kCapacity)) == 0, OutOfMemoryError, "emulation",
                 "expected a memory file for cuda:{} to be available", device);
  base_ = static_cast<std::byte*>(map_pages(kCapacity, PROT_NONE, MAP_SHARED, file_));
  view_ = static_cast<std::byte*>(map_pages(kCapacity, PROT_READ | PROT_WRITE, MAP_SHARED, file_));
  constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;
  status_ = static_cast<std::uint8_t*>(map_pages(kCapacity, PROT_READ | PROT_WRITE, kPrivate, -1));
  cells_ = static_cast<Cell*>(map_pages(kCapacity / kCellBytes * sizeof(Cell), PROT_READ | PROT_WRITE, kPrivate, -1));
}

std::size_t Arena::take_gap(std::size_t span) {
  for (auto gap = gaps_.begin(); gap != gaps_.end(); ++gap) {
    const auto [offset, size] = *gap;
    if (size < span) continue;
    gaps_.erase(gap);
    if (size > span) gaps_.emplace(offset + span, size - span);
    return offset;
  }
  if (end_ + span > kCapacity - kGap) return kCapacity;
  if (end_ == 0) end_ = kGap;  // so that one element before the first allocation is nobody's
  return std::exchange(end_, end_ + span);
}

void* Arena::allocate(std::size_t bytes, std::string made_by) {
  if (bytes > limit_ || used_ > limit_ - bytes) return nullptr;
  const std::size_t offset = take_gap(round_up(bytes, kAlignment) + kGap);
  if (offset == kCapacity) return nullptr;
  allocations_.insert_or_assign(offset, Allocation{++allocation_count_, bytes, std::move(made_by), {}});
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  std::memset(view(offset), kPoison, bytes);
  std::memset(status_ + offset, kUninitialised, bytes);
  if (std::exchange(open_, false)) open();  // the new pages too
  return base_ + offset;
}

void Arena::release(void* pointer, std::string freed_by) {
  const std::size_t offset = offset_of(pointer);
  Allocation& allocation = allocations_.at(offset);
  allocation.freed_by = std::move(freed_by);
  std::memset(view(offset), kPoison, allocation.bytes);
  std::memset(status_ + offset, kFreed, allocation.bytes);
  used_ -= allocation.bytes;
  released_.emplace(release_count_++, offset);
  released_bytes_ += allocation.bytes;
  purge(kKeepReleased);
}

void Arena::purge(std::size_t keep) {
  while (released_bytes_ > keep) {
    const std::size_t offset = released_.begin()->second;
    released_.erase(released_.begin());
    const std::size_t bytes = allocations_.at(offset).bytes;
    allocations_.erase(offset);
    released_bytes_ -= bytes;
    clear(status_ + offset, bytes);
    clear(cells_ + offset / kCellBytes, round_up(bytes, kCellBytes) / kCellBytes * sizeof(Cell));
    const std::size_t first_page = round_up(offset, kPage), pages = (bytes - std::min(bytes, kPage)) / kPage * kPage;
    if (bytes >= kReturnToSystem) {
      fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(first_page),
                static_cast<off_t>(pages));
    }
    auto gap = gaps_.emplace(offset, round_up(bytes, kAlignment) + kGap).first;
    if (const auto next = std::next(gap); next != gaps_.end() && gap->first + gap->second == next->first) {
      gap->second += next->second;
      gaps_.erase(next);
    }
    if (gap != gaps_.begin()) {
      const auto before = std::prev(gap);
      if (before->first + before->second == gap->first) {
        before->second += gap->second;
        gaps_.erase(gap);
      }
    }
  }
}

void Arena::open() {
  if (!std::exchange(open_, true)) mprotect(base_, round_up(end_, kPage), PROT_READ | PROT_WRITE);
}

void Arena::close() {
  if (std::exchange(open_, false)) mprotect(base_, round_up(end_, kPage), PROT_NONE);
}

Allocation* Arena::find(const void* pointer) {
  auto next = allocations_.upper_bound(offset_of(pointer));
  if (next == allocations_.begin()) return nullptr;
  const auto found = std::prev(next);
  return offset_of(pointer) < found->first + found->second.bytes ? &found->second : nullptr;
}

Allocation* Arena::find_start(const void* pointer) {
  const auto found = allocations_.find(offset_of(pointer));
  return found != allocations_.end() && found->second.freed_by.empty() ? &found->second : nullptr;
}

void Arena::describe_to(char* text, std::size_t size, const void* pointer) const {
  const std::size_t offset = offset_of(pointer);
  const auto next = allocations_.upper_bound(offset);
  // An address between two allocations is told by the nearer one.
  const bool has_before = next != allocations_.begin(), has_next = next != allocations_.end();
  const auto before = has_before ? std::prev(next) : next;
  const std::size_t past = has_before ? offset - before->first : 0;
  if (has_before && past < before->second.bytes) {
    std::snprintf(text, size, "byte %zu of the %zu-byte allocation #%lu of cuda:%d%s", past, before->second.bytes,
                  static_cast<unsigned long>(before->second.number), device_,
                  before->second.freed_by.empty() ? "" : ", which is freed");
  } else if (has_before && (!has_next || past - before->second.bytes <= next->first - offset)) {
    std::snprintf(text, size, "byte %zu, past the end of the %zu-byte allocation #%lu of cuda:%d", past,
                  before->second.bytes, static_cast<unsigned long>(before->second.number), device_);
  } else if (has_next) {
    std::snprintf(text, size, "%zu bytes before the %zu-byte allocation #%lu of cuda:%d", next->first - offset,
                  next->second.bytes, static_cast<unsigned long>(next->second.number), device_);
  } else {
    std::snprintf(text, size, "memory of cuda:%d that was never allocated", device_);
  }
}

std::string Arena::describe(const void* pointer) const {
  char text[200];
  describe_to(text, sizeof text, pointer);
  return text;
}

}  // namespace lockstep::emulation
