#include <lockstep/core/base/call_site.h>

#include <backtrace.h>  // libbacktrace, which comes with GCC
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>

#include <lockstep/core/base/check.h>

namespace lockstep {
namespace {

constexpr std::size_t kDepth = 128;  // frames looked at: nested modules take a few each
constexpr std::size_t kShown = 8;

/// What is not found is left out, so errors need no answer.
void ignore_error(void*, const char*, int) {}

backtrace_state* state() {
  static backtrace_state* const instance = backtrace_create_state(nullptr, 1, ignore_error, nullptr);
  return instance;
}

/// One function of the source. An address is in several if functions were inlined.
struct Frame {
  std::string symbol;  // mangled where the compiler has left that; may be empty
  std::string file;
  int line = 0;
};

std::vector<Frame> frames_at(std::uintptr_t address) {
  // libbacktrace locks for itself, but out of ThreadSanitizer's sight.
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  std::vector<Frame> frames;
  const auto add_line = [](void* out, std::uintptr_t, const char* file, int line, const char* function) {
    if (file || function) {
      static_cast<std::vector<Frame>*>(out)->push_back({function ? function : "", file ? file : "", line});
    }
    return 0;
  };
  backtrace_pcinfo(state(), address, add_line, ignore_error, &frames);
  // The symbol table names the function that the others were inlined into: with debug information or without, mangled.
  const auto set_symbol = [](void* out, std::uintptr_t, const char* symbol, std::uintptr_t, std::uintptr_t) {
    if (symbol) static_cast<Frame*>(out)->symbol = symbol;
  };
  if (frames.empty()) frames.emplace_back();
  backtrace_syminfo(state(), address, set_symbol, ignore_error, &frames.back());
  return frames;
}

/// Whether a function is in namespace `lockstep` or `std`, or local to one that is. Compilers mangle the names of
/// inlined functions only if other files can see them, so that the header must tell of templates over local types.
bool is_internal(const Frame& frame) {
  if (frame.file.find("/include/c++/") != std::string::npos ||
      frame.file.find("/include/lockstep/") != std::string::npos) {
    return true;
  }
  std::string_view symbol = frame.symbol;
  if (!symbol.starts_with("_Z")) return false;
  symbol.remove_prefix(2);
  while (symbol.starts_with("Z")) symbol.remove_prefix(1);  // local to a function
  if (symbol.starts_with("N")) symbol.remove_prefix(1);
  while (!symbol.empty() && std::string_view("rVKRO").find(symbol[0]) != std::string_view::npos)
    symbol.remove_prefix(1);
  return symbol.starts_with("8lockstep") || symbol.starts_with("St") || symbol.starts_with("9__gnu_cxx");
}

/// Where the system's part of the stack begins, below that of the program.
bool is_thread_start(std::string_view symbol) {
  return symbol.starts_with("__libc_start") || symbol == "start_thread" || symbol == "execute_native_thread_routine";
}

std::string demangled(const std::string& symbol) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status),
                                                         &std::free);
  return name ? name.get() : symbol;
}

/// For a program without symbols.
std::string offsets(const std::vector<std::uintptr_t>& addresses) {
  std::string text;
  for (std::size_t i = 0; i < std::min(addresses.size(), kShown); ++i) {
    Dl_info info{};
    if (dladdr(reinterpret_cast<void*>(addresses[i]), &info) == 0 || !info.dli_fname) continue;
    text +=
        fmt::format("\n  {}+{:#x}", info.dli_fname, addresses[i] - reinterpret_cast<std::uintptr_t>(info.dli_fbase));
  }
  return text;
}

}  // namespace

CallSite CallSite::here() {
  std::vector<std::uintptr_t> addresses;
  addresses.reserve(32);
  const auto add = [](void* out, std::uintptr_t address) {
    auto& all = *static_cast<std::vector<std::uintptr_t>*>(out);
    all.push_back(address);
    return all.size() < kDepth ? 0 : 1;
  };
  backtrace_simple(state(), 0, add, ignore_error, &addresses);
  return CallSite(std::move(addresses));
}

std::string to_string(const CallSite& site) {
  std::string text;
  std::size_t shown = 0;
  for (const std::uintptr_t address : site.addresses_) {
    for (const Frame& frame : frames_at(address)) {
      if (is_thread_start(frame.symbol)) return text.empty() ? offsets(site.addresses_) : text;
      if (frame.symbol.empty() || is_internal(frame)) continue;
      text += "\n  " + demangled(frame.symbol);
      if (!frame.file.empty()) text += fmt::format(" ({}:{})", frame.file, frame.line);
      if (++shown == kShown || frame.symbol == "main") return text;
    }
  }
  return text.empty() ? offsets(site.addresses_) : text;
}

}  // namespace lockstep
