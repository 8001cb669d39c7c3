#include <lockstep/core/base/math_mode.h>

#include <atomic>

namespace lockstep {
namespace {

std::atomic<bool> g_tf32{false};
std::atomic<bool> g_deterministic{true};
std::atomic<bool> g_cudnn_benchmark{false};

}  // namespace

void allow_tf32(bool allow) { g_tf32.store(allow, std::memory_order_relaxed); }
bool is_tf32_allowed() { return g_tf32.load(std::memory_order_relaxed); }

void deterministic(bool on) { g_deterministic.store(on, std::memory_order_relaxed); }
bool is_deterministic() { return g_deterministic.load(std::memory_order_relaxed); }

void cudnn_benchmark(bool on) { g_cudnn_benchmark.store(on, std::memory_order_relaxed); }
bool is_cudnn_benchmark() { return g_cudnn_benchmark.load(std::memory_order_relaxed); }

}  // namespace lockstep
