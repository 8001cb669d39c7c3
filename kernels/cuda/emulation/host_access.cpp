// Says what the host touched when it touches memory that is a device's, or that a queued copy will write, and what a
// kernel's code did that ends in a fault of the processor.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include <lockstep/kernels/cuda/emulation/block.h>
#include <lockstep/kernels/cuda/emulation/pinned.h>

namespace lockstep::emulation {
namespace {

struct sigaction g_previous;

void print(const char* text) {
  if (write(STDERR_FILENO, text, std::strlen(text)) < 0) return;  // nothing else can be done about it
}

// No lock: the thread that holds it may be the one that faulted. The program ends anyway.
void on_fault(int signal, siginfo_t* info, void*) {
  if (info->si_code <= 0) {  // raised by a handler that ran after us, which is done
    ::signal(signal, SIG_DFL);
    raise(signal);
    return;
  }
  char text[400], where[200];
  DeviceState* device = Emulator::get().device_of(info->si_addr);
  if (device) {
    device->arena.describe_to(where, sizeof where, info->si_addr);
    std::snprintf(text, sizeof text, "[emulated cuda] the host accesses device memory: %s\n", where);
    print(text);
  } else if (const std::size_t bytes = PinnedMemory::get().protected_allocation(info->si_addr)) {
    std::snprintf(text, sizeof text,
                  "[emulated cuda] the host accesses pinned memory (of %zu bytes) that a queued copy will write: "
                  "synchronise first\n",
                  bytes);
    print(text);
  }
  if (running_launch) {
    std::snprintf(text, sizeof text, "[emulated cuda] the fault is in a thread of %s\n",
                  running_launch->name().c_str());
    print(text);
  }
  sigaction(signal, &g_previous, nullptr);  // the access is tried again, without us
}

}  // namespace

void watch_host_accesses() {
  struct sigaction current {};
  sigaction(SIGSEGV, nullptr, &current);
  if ((current.sa_flags & SA_SIGINFO) != 0 && current.sa_sigaction == on_fault) return;
  g_previous = current;
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGSEGV, &action, nullptr);
}

void use_signal_stack() {
  constexpr std::size_t kBytes = std::size_t{64} << 10;
  struct SignalStack {
    void* memory = nullptr;

    SignalStack() {
      stack_t current{};
      if (sigaltstack(nullptr, &current) == 0 && (current.ss_flags & SS_DISABLE) == 0) return;  // a sanitizer's
      memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED) {
        memory = nullptr;
        return;
      }
      stack_t own{};
      own.ss_sp = memory;
      own.ss_size = kBytes;
      sigaltstack(&own, nullptr);
    }
    ~SignalStack() {
      if (!memory) return;
      stack_t none{};
      none.ss_flags = SS_DISABLE;
      sigaltstack(&none, nullptr);
      munmap(memory, kBytes);
    }
  };
  static thread_local SignalStack stack;
  (void)stack;
}

std::string describe_address(const void* pointer) {
  if (const DeviceState* device = Emulator::get().device_of(pointer)) {
    return device->arena.describe(pointer) + ", to which this device has no access";
  }
  if (PinnedMemory::get().contains(pointer)) return "pinned memory of the host";
  return "memory of the host";
}

}  // namespace lockstep::emulation
