#include <lockstep/kernels/cuda/emulation/fiber.h>

#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#include <lockstep/core/base/check.h>

namespace lockstep::emulation {
namespace {

namespace context = boost::context::detail;

constexpr std::size_t kPage = 4096;

// AddressSanitizer has to be told of each change of stacks. `saved` keeps the frames of the stack that is left; null if
// it is left for good.
void leave_stack([[maybe_unused]] void** saved, [[maybe_unused]] const void* to, [[maybe_unused]] std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(saved, to, bytes);
#endif
}
void arrive_on_stack([[maybe_unused]] void* saved, [[maybe_unused]] const void** from,
                     [[maybe_unused]] std::size_t* bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(saved, from, bytes);
#endif
}

std::byte* make_stack() {
  const std::size_t bytes = FiberPool::kStackBytes + kPage;
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  LOCKSTEP_CHECK(pages != MAP_FAILED, OutOfMemoryError, "emulation", "expected {} bytes for a stack to be available",
                 bytes);
  mprotect(pages, kPage, PROT_NONE);  // a full stack runs into this page
  return static_cast<std::byte*>(pages) + kPage;
}

}  // namespace

void FiberPool::start(Fiber* fiber) {
  fiber->context = context::make_fcontext(fiber->stack + kStackBytes, kStackBytes, &FiberPool::main);
}

Fiber* FiberPool::take(void (*work)(void*), void* argument) {
  work_ = work;
  argument_ = argument;
  if (idle_.empty()) {
    fibers_.push_back({make_stack(), nullptr});
    start(&fibers_.back());
    return &fibers_.back();
  }
  Fiber* fiber = idle_.back();
  idle_.pop_back();
  return fiber;
}

void FiberPool::main(context::transfer_t transfer) {
  struct Start {
    FiberPool* pool;
    Fiber* fiber;
  };
  const auto [pool, fiber] = *static_cast<Start*>(transfer.data);
  arrive_on_stack(nullptr, &pool->resumer_stack_, &pool->resumer_stack_bytes_);
  pool->resumer_ = transfer.fctx;
  for (;;) {
    pool->work_(pool->argument_);
    pool->idle_.push_back(fiber);
    pool->suspend(fiber);
  }
}

void FiberPool::resume(Fiber* fiber) {
  void* saved = nullptr;
  struct {
    FiberPool* pool;
    Fiber* fiber;
  } start{this, fiber};
  leave_stack(&saved, fiber->stack, kStackBytes);
  const context::transfer_t back = context::jump_fcontext(fiber->context, &start);
  arrive_on_stack(saved, nullptr, nullptr);
  fiber->context = back.fctx;
}

void FiberPool::suspend(Fiber*) {
  void* saved = nullptr;
  leave_stack(&saved, resumer_stack_, resumer_stack_bytes_);
  const context::transfer_t back = context::jump_fcontext(resumer_, nullptr);
  arrive_on_stack(saved, &resumer_stack_, &resumer_stack_bytes_);
  resumer_ = back.fctx;
}

void FiberPool::abandon(Fiber*) {
  leave_stack(nullptr, resumer_stack_, resumer_stack_bytes_);
  context::jump_fcontext(resumer_, nullptr);
  __builtin_unreachable();
}

void FiberPool::reclaim(Fiber* fiber) {
  start(fiber);
  idle_.push_back(fiber);
}

}  // namespace lockstep::emulation
