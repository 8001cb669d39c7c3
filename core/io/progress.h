// A progress bar for long loops, and printing that goes with it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace lockstep {

/// How a ProgressBar counts and where it draws.
struct ProgressOptions {
  std::string unit = "step";  ///< what is counted; "B" counts bytes and prints kB, MB, GB
  bool leave = true;          ///< whether the bar stays on the screen when it is finished
  int fd = 2;                 ///< where it is drawn: standard error
  /// Seconds from any fixed point, never going back. Default: std::chrono::steady_clock.
  std::function<double()> clock = {};
};

/// One line on a terminal, redrawn at most ten times a second:
///   Epoch 1  45% [==========>            ] 176/391  5.6 step/s  0:31<0:38  loss 1.412
/// with the rate, the time spent and the time left (both as minutes:seconds). Where `fd` is no terminal, plain lines
/// instead: one whenever another tenth is done, but at most one in 10 seconds, and one at the end. Nothing is thrown or
/// signalled when nobody reads. Thread-safe; of several bars the one made last is drawn.
class ProgressBar {
 public:
  /// `total` steps; 0 if unknown: then without bar, percentage and time left.
  ProgressBar(std::string description, std::int64_t total, ProgressOptions options = {});
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  /// finish().
  ~ProgressBar();

  /// Cheap enough for every step: some 30 ns when nothing is drawn.
  void advance(std::int64_t steps = 1);
  /// Sets the number of steps done.
  void set_position(std::int64_t position);
  /// Steps that were done before this run (a resumed download) and do not count for the rate.
  void set_start(std::int64_t position);
  void set_total(std::int64_t total);  ///< the number of steps, where it became known later
  /// Text at the end of the line, e.g. "loss 1.412".
  void set_note(std::string note);
  /// Draws for the last time, as far as it got, and leaves the line (or wipes it). What comes later has no effect.
  void finish();

  /// The line as it would be drawn now, at most `width` characters wide.
  std::string line(int width) const;

 private:
  friend void print_line(std::string_view);
  void update();
  void draw();
  void wipe();
  std::string compose(int width, double now) const;

  std::string description_;
  std::atomic<std::int64_t> position_{0};
  std::int64_t start_ = 0, total_ = 0;
  ProgressOptions options_;
  std::string note_;
  bool terminal_ = false, drawn_ = false, finished_ = false;
  double begin_ = 0, last_plain_ = 0;
  std::int64_t last_tenth_ = 0;
  std::atomic<double> next_draw_{0};
};

/// Writes `line` and a newline to standard output. A bar on the terminal makes room and comes back below. A closed
/// output is ignored: no exception, no SIGPIPE.
void print_line(std::string_view line);

}  // namespace lockstep
