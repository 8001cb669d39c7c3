// Where a thread is, for error messages about something that shows later: the functions that led there, without those
// of the library.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace lockstep {

/// A thread's stack at one moment. Taking one costs microseconds; names are looked up only when it is printed.
class CallSite {
 public:
  /// Of the calling thread, here.
  static CallSite here();

 private:
  explicit CallSite(std::vector<std::uintptr_t> addresses) : addresses_(std::move(addresses)) {}
  friend std::string to_string(const CallSite& site);

  std::vector<std::uintptr_t> addresses_;
};

/// The functions outside namespaces lockstep and std, innermost first, at most eight, each on a line of its own that
/// starts with a line break: "\n  train(lockstep::Tensor const&) (train.cpp:12)". File and line are there if the code
/// was compiled with -g, names unless the program was stripped, else offsets for addr2line. A function that the
/// compiler has inlined without -g, or left by a tail call, is missing.
std::string to_string(const CallSite& site);

}  // namespace lockstep
