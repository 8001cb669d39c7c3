#include <lockstep/core/allocator.h>

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include <lockstep/core/base/check.h>
#include <lockstep/core/cuda_memory.h>

namespace lockstep {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kSmallLimit = 1024;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kReuse = false;  // keeps a use after free visible
#else
constexpr bool kReuse = true;
#endif
constexpr std::size_t kAddressSpace = std::size_t{1} << 47;

/// Sizes are rounded up to one of eight steps per power of two, so that at most an eighth of a block is wasted and
/// tensors of nearly equal size share blocks.
struct SizeClass {
  int index;
  std::size_t bytes;
};

SizeClass size_class(std::size_t bytes) {
  const int log2 = static_cast<int>(std::bit_width(bytes - 1));  // bytes <= 2^log2
  const std::size_t step = std::size_t{1} << (log2 - 4);
  const std::size_t steps = (bytes + step - 1) / step;  // 9 to 16 sixteenths
  return {log2 * 8 + static_cast<int>(steps) - 9, steps * step};
}

class BlockCache {
 public:
  void* take(std::size_t bytes) {
    LOCKSTEP_CHECK(bytes <= kAddressSpace, OutOfMemoryError, "allocate",
                   "expected a size that memory can have, got {} bytes", bytes);
    const SizeClass c = size_class(bytes);
    {
      std::lock_guard lock(mutex_);
      auto& free_blocks = free_[static_cast<std::size_t>(c.index)];
      if (!free_blocks.empty()) {
        void* block = free_blocks.back();
        free_blocks.pop_back();
        stats_.cached -= static_cast<std::int64_t>(c.bytes);
        add_live(c.bytes);
        return block;
      }
    }
    void* block = from_system(c.bytes);
    if (!block) {
      release_cached();
      block = from_system(c.bytes);
    }
    LOCKSTEP_CHECK(block, OutOfMemoryError, "allocate", "expected {} bytes to be available; in use: {}", bytes,
                   memory_summary());
    std::lock_guard lock(mutex_);
    ++stats_.system_allocations;
    add_live(c.bytes);
    return block;
  }

  void give(void* block, std::size_t bytes) noexcept {
    const SizeClass c = size_class(bytes);
    std::lock_guard lock(mutex_);
    stats_.live -= static_cast<std::int64_t>(c.bytes);
    if (!kReuse) return std::free(block);
    try {
      free_[static_cast<std::size_t>(c.index)].push_back(block);
      stats_.cached += static_cast<std::int64_t>(c.bytes);
    } catch (const std::bad_alloc&) {
      std::free(block);
    }
  }

  void release_cached() {
    std::lock_guard lock(mutex_);
    for (auto& blocks : free_) {
      for (void* block : blocks) std::free(block);
      blocks.clear();
    }
    stats_.cached = 0;
  }

  MemoryStats stats() {
    std::lock_guard lock(mutex_);
    return stats_;
  }
  void reset_peak() {
    std::lock_guard lock(mutex_);
    stats_.peak = stats_.live;
  }

 private:
  static void* from_system(std::size_t bytes) {
    const std::size_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
    void* block = nullptr;
    if (posix_memalign(&block, alignment, bytes) != 0) return nullptr;
    // Fewer page faults; advice only. Not for the last part: a huge page is held in full, however little of it is used.
    if (bytes >= kHugePage) madvise(block, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
    return block;
  }
  void add_live(std::size_t bytes) {
    stats_.live += static_cast<std::int64_t>(bytes);
    stats_.peak = std::max(stats_.peak, stats_.live);
  }

  std::mutex mutex_;
  std::array<std::vector<void*>, 64 * 8> free_;
  MemoryStats stats_;
};

/// Never destroyed: tensors in static variables may be freed after any destructor of ours would have run.
BlockCache& blocks() {
  static BlockCache& cache = *new BlockCache;
  return cache;
}

// ---- Small blocks: per-thread free lists, one for each multiple of 64 bytes, filled from slabs. Threads exchange
// surplus blocks.

struct FreeBlock {
  FreeBlock* next;
};
struct FreeList {
  FreeBlock* first;
  std::size_t count;

  void push(void* block) {
    first = new (block) FreeBlock{first};
    ++count;
  }
  FreeBlock* pop() {
    --count;
    return std::exchange(first, first->next);
  }
};
constexpr std::size_t kSmallClasses = kSmallLimit / kAlignment;
constexpr std::size_t kSlabBytes = std::size_t{64} << 10;
using FreeLists = std::array<FreeList, kSmallClasses>;

constexpr std::size_t blocks_per_slab(std::size_t c) { return kSlabBytes / ((c + 1) * kAlignment); }

/// Blocks that threads could spare, for those that run out.
struct SpareBlocks {
  std::mutex mutex;
  FreeLists lists{};
};
SpareBlocks& spare_blocks() {
  static SpareBlocks& instance = *new SpareBlocks;
  return instance;
}
std::atomic<std::int64_t> g_slab_bytes{0};

// Trivially destructible, so that it can be used to the very end of a thread.
constinit thread_local FreeLists t_free{};

/// Gives up `count` blocks of the calling thread.
[[gnu::noinline]] void spare(std::size_t c, std::size_t count) noexcept {
  std::lock_guard lock(spare_blocks().mutex);
  for (std::size_t i = 0; i < count; ++i) spare_blocks().lists[c].push(t_free[c].pop());
}

/// Lets the end of the calling thread give up all its blocks.
void spare_at_thread_end() {
  struct ThreadEnd {
    ~ThreadEnd() {
      for (std::size_t c = 0; c < kSmallClasses; ++c) spare(c, t_free[c].count);
    }
  };
  static thread_local ThreadEnd thread_end;
  (void)thread_end;
}

[[gnu::noinline]] void refill(std::size_t c) {
  spare_at_thread_end();
  {
    std::lock_guard lock(spare_blocks().mutex);
    FreeList& spares = spare_blocks().lists[c];
    for (std::size_t i = std::min(spares.count, blocks_per_slab(c)); i > 0; --i) t_free[c].push(spares.pop());
  }
  if (t_free[c].first) return;
  auto* slab = static_cast<std::byte*>(std::aligned_alloc(kAlignment, kSlabBytes));
  LOCKSTEP_CHECK(slab, OutOfMemoryError, "allocate", "expected {} bytes to be available; in use: {}", kSlabBytes,
                 memory_summary());
  g_slab_bytes.fetch_add(kSlabBytes, std::memory_order_relaxed);
  for (std::size_t i = 0; i < blocks_per_slab(c); ++i) t_free[c].push(slab + i * (c + 1) * kAlignment);
}

}  // namespace

void* detail::small_allocate(std::size_t bytes) {
  const std::size_t c = (bytes - 1) / kAlignment;
  if (!kReuse) return std::aligned_alloc(kAlignment, (c + 1) * kAlignment);
  FreeList& list = t_free[c];
  if (!list.first) [[unlikely]]
    refill(c);
  return list.pop();
}

void detail::small_deallocate(void* block, std::size_t bytes) noexcept {
  if (!kReuse) return std::free(block);
  const std::size_t c = (bytes - 1) / kAlignment;
  FreeList& list = t_free[c];
  if (!list.first) [[unlikely]]
    spare_at_thread_end();
  list.push(block);
  // A thread that frees what others allocate would hoard it.
  if (list.count > 4 * blocks_per_slab(c)) [[unlikely]]
    spare(c, 2 * blocks_per_slab(c));
}

void* allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  return bytes <= kSmallLimit ? detail::small_allocate(bytes) : blocks().take(bytes);
}

void deallocate(void* block, std::size_t bytes) noexcept {
  if (!block) return;
  bytes <= kSmallLimit ? detail::small_deallocate(block, bytes) : blocks().give(block, bytes);
}

MemoryStats memory_stats(Device device) {
  if (device.type == Device::Type::cuda) return detail::cuda_memory_stats(device);
  MemoryStats stats = blocks().stats();
  stats.small = g_slab_bytes.load(std::memory_order_relaxed);
  return stats;
}

std::string memory_summary(Device device) {
  const MemoryStats s = memory_stats(device);
  const auto mib = [](std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  std::string text =
      fmt::format("live {:.1f} MiB, peak {:.1f} MiB, cached {:.1f} MiB", mib(s.live), mib(s.peak), mib(s.cached));
  if (device == kCpu) {
    text += fmt::format(", small blocks {:.1f} MiB, {} system allocations", mib(s.small), s.system_allocations);
  }
  return text;
}

void reset_peak_memory(Device device) { device == kCpu ? blocks().reset_peak() : detail::cuda_reset_peak(device); }

void empty_cache(Device device) { device == kCpu ? blocks().release_cached() : detail::cuda_empty_cache(device); }

}  // namespace lockstep
