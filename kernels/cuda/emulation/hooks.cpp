// What instrumented kernel code calls: the compiler's ThreadSanitizer hooks at each access, and the device functions.
// In host code the hooks do nothing.
#include <type_traits>
#include <utility>

#include <lockstep/kernels/cuda/emulation/block.h>

namespace lockstep::emulation {
namespace {

/// Calls `body` with the running launch as host code (what it calls may be instrumented too). A fault ends the thread
/// without an exception passing through kernel code.
template <class Body>
inline auto from_kernel(Launch* launch, Body body) {
  running_launch = nullptr;
  try {
    if constexpr (std::is_void_v<decltype(body(*launch))>) {
      body(*launch);
      running_launch = launch;
      return;
    } else {
      auto result = body(*launch);
      running_launch = launch;
      return result;
    }
  } catch (Fault& caught) {
    launch->keep(std::move(caught));
  }
  launch->stop();
}

template <std::size_t N, Access kind>
inline void access(const void* address, bool aligned) {
  if (Launch* launch = running_launch) {
    from_kernel(launch, [&](Launch& l) { l.check<N, kind>(address, aligned); });
  }
}

void access_range(const void* address, std::size_t bytes, Access kind) {
  if (Launch* launch = running_launch) {
    from_kernel(launch, [&](Launch& l) { l.check_range(address, bytes, kind, kind == Access::read); });
  }
}

template <class T>
T apply(Atomic operation, T old, T operand) {
  switch (operation) {
    case Atomic::add: return old + operand;
    case Atomic::min: return std::min(old, operand);
    case Atomic::max: return std::max(old, operand);
    case Atomic::exchange: return operand;
    default: break;
  }
  if constexpr (std::is_integral_v<T>) return operation == Atomic::bit_and ? old & operand : old | operand;
  return operand;
}

}  // namespace

template <class T>
T atomic(T* address, Atomic operation, T operand) {
  return from_kernel(running_launch, [&](Launch& launch) {
    launch.check<sizeof(T), Access::atomic>(address, true);
    launch.acquire_through(address);
    const T old = *address;
    *address = apply(operation, old, operand);
    return old;
  });
}

template <class T>
T atomic_compare_and_swap(T* address, T compare, T value) {
  return from_kernel(running_launch, [&](Launch& launch) {
    launch.check<sizeof(T), Access::atomic>(address, true);
    launch.acquire_through(address);
    const T old = *address;
    if (old == compare) *address = value;
    return old;
  });
}

#define LOCKSTEP_ATOMIC(T)             \
  template T atomic<T>(T*, Atomic, T); \
  template T atomic_compare_and_swap(T*, T, T);
LOCKSTEP_ATOMIC(int)
LOCKSTEP_ATOMIC(unsigned)
LOCKSTEP_ATOMIC(long long)
LOCKSTEP_ATOMIC(unsigned long long)
LOCKSTEP_ATOMIC(float)
LOCKSTEP_ATOMIC(double)
#undef LOCKSTEP_ATOMIC

uint3 thread_index() { return running_launch->thread_index(); }
uint3 block_index() { return running_launch->block_index(); }
uint3 block_size() { return running_launch->block_size(); }
uint3 grid_size() { return running_launch->grid_size(); }
int lane() { return running_launch->lane(); }

void barrier(Site site) {
  from_kernel(running_launch, [&](Launch& launch) { launch.barrier(site); });
}
void warp_barrier(unsigned mask, Site site) {
  from_kernel(running_launch, [&](Launch& launch) { launch.warp_meet(mask, 0, -1, true, site); });
}
unsigned warp_ballot(unsigned mask, bool predicate, Site site) {
  return from_kernel(running_launch, [&](Launch& launch) {
    return static_cast<unsigned>(launch.warp_meet(mask, predicate, -1, false, site));
  });
}
std::uint64_t warp_shuffle(unsigned mask, std::uint64_t value, int source, Site site) {
  return from_kernel(running_launch,
                     [&](Launch& launch) { return launch.warp_meet(mask, value, source, false, site); });
}
void thread_fence() {
  from_kernel(running_launch, [](Launch& launch) { launch.fence(); });
}

}  // namespace lockstep::emulation

using lockstep::emulation::Access;

#define LOCKSTEP_HOOKS(N)                                                                                     \
  void __tsan_read##N(void* p) { lockstep::emulation::access<N, Access::read>(p, true); }                     \
  void __tsan_write##N(void* p) { lockstep::emulation::access<N, Access::write>(p, true); }                   \
  void __tsan_unaligned_read##N(void* p) { lockstep::emulation::access<N, Access::read>(p, false); }          \
  void __tsan_unaligned_write##N(void* p) { lockstep::emulation::access<N, Access::write>(p, false); }        \
  void __tsan_volatile_read##N(void* p) { lockstep::emulation::access<N, Access::read>(p, true); }            \
  void __tsan_volatile_write##N(void* p) { lockstep::emulation::access<N, Access::write>(p, true); }          \
  void __tsan_unaligned_volatile_read##N(void* p) { lockstep::emulation::access<N, Access::read>(p, false); } \
  void __tsan_unaligned_volatile_write##N(void* p) { lockstep::emulation::access<N, Access::write>(p, false); }

// std::atomic and the guards of static variables, in the host code of kernel sources.
#define LOCKSTEP_ATOMIC_HOOKS(N, T)                                                                              \
  T __tsan_atomic##N##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }           \
  void __tsan_atomic##N##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }           \
  T __tsan_atomic##N##_exchange(volatile T* p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##N##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##N##_fetch_sub(volatile T* p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##N##_fetch_and(volatile T* p, T v, int) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##N##_fetch_or(volatile T* p, T v, int) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }   \
  bool __tsan_atomic##N##_compare_exchange_strong(volatile T* p, T* expected, T v, int, int) {                   \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);               \
  }                                                                                                              \
  bool __tsan_atomic##N##_compare_exchange_weak(volatile T* p, T* expected, T v, int, int) {                     \
    return __atomic_compare_exchange_n(p, expected, v, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                \
  }

extern "C" {
LOCKSTEP_HOOKS(1)
LOCKSTEP_HOOKS(2)
LOCKSTEP_HOOKS(4)
LOCKSTEP_HOOKS(8)
LOCKSTEP_HOOKS(16)
LOCKSTEP_ATOMIC_HOOKS(8, unsigned char)
LOCKSTEP_ATOMIC_HOOKS(16, unsigned short)
LOCKSTEP_ATOMIC_HOOKS(32, unsigned)
LOCKSTEP_ATOMIC_HOOKS(64, unsigned long)

void __tsan_init() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_atomic_thread_fence(int) {}
void __tsan_read_range(void* p, std::size_t n) { lockstep::emulation::access_range(p, n, Access::read); }
void __tsan_write_range(void* p, std::size_t n) { lockstep::emulation::access_range(p, n, Access::write); }
}
