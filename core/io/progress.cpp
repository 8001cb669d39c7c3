#include <lockstep/core/io/progress.h>

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <utility>
#include <vector>

#include <lockstep/core/base/check.h>

namespace lockstep {
namespace {

constexpr double kDrawInterval = 0.1, kPlainInterval = 10.0, kPlainIntervalWithoutTotal = 60.0;

/// Everything that is drawn or printed, and by whom. Never destroyed: a bar may outlive main.
struct Screen {
  std::mutex mutex;
  std::vector<ProgressBar*> bars;  // the last one is drawn
};
Screen& screen() {
  static Screen& instance = *new Screen;
  return instance;
}

/// While it lives, writing to a pipe that nobody reads gives EPIPE to this thread and no signal to the process.
class IgnoreSigpipe {
 public:
  IgnoreSigpipe() {
    sigemptyset(&sigpipe_);
    sigaddset(&sigpipe_, SIGPIPE);
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &sigpipe_, &previous_);
  }
  ~IgnoreSigpipe() {
    if (!was_pending_) {
      const timespec now{};
      while (sigtimedwait(&sigpipe_, nullptr, &now) < 0 && errno == EINTR) {
      }
    }
    pthread_sigmask(SIG_SETMASK, &previous_, nullptr);
  }
  IgnoreSigpipe(const IgnoreSigpipe&) = delete;
  IgnoreSigpipe& operator=(const IgnoreSigpipe&) = delete;

 private:
  sigset_t sigpipe_, previous_;
  bool was_pending_;
};

void write_all(int fd, std::string_view text) {
  const IgnoreSigpipe guard;
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN) {
      pollfd slow{fd, POLLOUT, 0};
      if (poll(&slow, 1, 1000) <= 0) return;
    } else if (errno != EINTR) {
      return;
    }
  }
}

bool is_terminal(int fd) {
  const char* term = std::getenv("TERM");
  return isatty(fd) == 1 && !(term && std::string_view(term) == "dumb");
}

int width_of(int fd) {
  winsize size{};
  return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/// "0:31", "12:05", "3:07:12".
std::string duration(double seconds) {
  const auto s = static_cast<std::int64_t>(std::clamp(seconds, 0.0, 3.6e9));
  return s < 3600 ? fmt::format("{}:{:02}", s / 60, s % 60)
                  : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

std::string bytes_text(double bytes) {
  const char* const units[] = {"B", "kB", "MB", "GB", "TB"};
  std::size_t unit = 0;
  for (; bytes >= 999.5 && unit < 4; ++unit) bytes /= 1000;
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 1, units[unit]);
}

/// The first `count` characters of UTF-8 text.
std::string_view head(std::string_view text, int count) {
  std::size_t end = 0;
  for (; end < text.size(); ++end) {
    const bool starts_character = (static_cast<unsigned char>(text[end]) & 0xc0) != 0x80;
    if (starts_character && count-- == 0) break;
  }
  return text.substr(0, end);
}

int characters(std::string_view text) {
  return static_cast<int>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

}  // namespace

ProgressBar::ProgressBar(std::string description, std::int64_t total, ProgressOptions options)
    : description_(std::move(description)), total_(std::max<std::int64_t>(total, 0)), options_(std::move(options)) {
  if (!options_.clock) {
    options_.clock = [] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    };
  }
  terminal_ = is_terminal(options_.fd);
  begin_ = last_plain_ = options_.clock();
  std::lock_guard lock(screen().mutex);
  if (!screen().bars.empty()) screen().bars.back()->wipe();
  screen().bars.push_back(this);
  if (terminal_) draw();
}

ProgressBar::~ProgressBar() { finish(); }

void ProgressBar::advance(std::int64_t steps) {
  position_.fetch_add(steps, std::memory_order_relaxed);
  update();
}

void ProgressBar::set_position(std::int64_t position) {
  position_.store(position, std::memory_order_relaxed);
  update();
}

void ProgressBar::set_start(std::int64_t position) {
  std::lock_guard lock(screen().mutex);
  start_ = position;
}

void ProgressBar::set_total(std::int64_t total) {
  std::lock_guard lock(screen().mutex);
  total_ = std::max<std::int64_t>(total, 0);
}

void ProgressBar::set_note(std::string note) {
  std::lock_guard lock(screen().mutex);
  note_ = std::move(note);
}

void ProgressBar::update() {
  const double now = options_.clock();
  if (now < next_draw_.load(std::memory_order_relaxed)) return;
  std::lock_guard lock(screen().mutex);
  if (finished_) return;
  next_draw_.store(now + kDrawInterval, std::memory_order_relaxed);
  if (terminal_) {
    if (screen().bars.back() == this) draw();
    return;
  }
  const std::int64_t position = position_.load(std::memory_order_relaxed);
  const std::int64_t tenth = total_ > 0 ? position * 10 / total_ : 0;
  if (now - last_plain_ < (total_ > 0 ? kPlainInterval : kPlainIntervalWithoutTotal)) return;
  if (total_ > 0 && (tenth == last_tenth_ || position >= total_)) return;  // finish() prints the end
  last_plain_ = now;
  last_tenth_ = tenth;
  write_all(options_.fd, compose(0, now) + "\n");
}

void ProgressBar::finish() {
  std::lock_guard lock(screen().mutex);
  if (finished_) return;
  finished_ = true;
  const double now = options_.clock();
  auto& bars = screen().bars;
  const bool on_top = bars.back() == this;
  bars.erase(std::find(bars.begin(), bars.end(), this));
  if (!terminal_) {
    if (options_.leave) write_all(options_.fd, compose(0, now) + "\n");
    return;
  }
  if (!on_top && !bars.empty()) bars.back()->wipe();
  if (options_.leave) {
    draw();
    write_all(options_.fd, "\n");
  } else {
    wipe();
  }
  if (!bars.empty() && bars.back()->terminal_) bars.back()->draw();
}

void ProgressBar::draw() {
  // The last column stays free: some terminals would wrap.
  write_all(options_.fd, fmt::format("\r{}\x1b[K", compose(width_of(options_.fd) - 1, options_.clock())));
  drawn_ = true;
}

void ProgressBar::wipe() {
  if (drawn_) write_all(options_.fd, "\r\x1b[K");
  drawn_ = false;
}

std::string ProgressBar::line(int width) const {
  std::lock_guard lock(screen().mutex);
  return compose(width, options_.clock());
}

/// Without a bar for width 0.
std::string ProgressBar::compose(int width, double now) const {
  const bool in_bytes = options_.unit == "B";
  const std::int64_t position = position_.load(std::memory_order_relaxed);
  const double elapsed = now - begin_, done = static_cast<double>(position - start_);
  const double rate = elapsed > 0 ? done / elapsed : 0.0;
  const auto amount = [&](std::int64_t n) { return in_bytes ? bytes_text(static_cast<double>(n)) : fmt::to_string(n); };

  std::string left = description_, right = amount(position);
  if (total_ > 0) {
    const double fraction = std::clamp(static_cast<double>(position) / static_cast<double>(total_), 0.0, 1.0);
    left += fmt::format("  {:3}%", static_cast<int>(fraction * 100));
    right += fmt::format("/{}", amount(total_));
  }
  if (done > 0) {
    if (in_bytes) {
      right += fmt::format("  {}/s", bytes_text(rate));
    } else if (rate >= 1 || rate == 0) {
      right += fmt::format("  {:.{}f} {}/s", rate, rate < 100 ? 1 : 0, options_.unit);
    } else {
      right += fmt::format("  {:.1f} s/{}", 1 / rate, options_.unit);
    }
  }
  right += fmt::format("  {}", duration(elapsed));
  if (total_ > 0 && position < total_) {
    right += fmt::format("<{}", rate > 0 ? duration(static_cast<double>(total_ - position) / rate) : "?");
  }
  if (!note_.empty()) right += fmt::format("  {}", note_);
  if (width == 0) return fmt::format("{}  {}", left, right);

  const int cells = std::min(width - characters(left) - characters(right) - 4, 40);
  std::string bar = "  ";
  if (total_ > 0 && cells >= 5) {
    const std::int64_t full = std::clamp<std::int64_t>(position * cells / total_, 0, cells);
    std::string inside(static_cast<std::size_t>(full), '=');
    if (full < cells) inside += '>';
    inside.resize(static_cast<std::size_t>(cells), ' ');
    bar = fmt::format(" [{}] ", inside);
  }
  return std::string(head(left + bar + right, width));
}

void print_line(std::string_view line) {
  std::lock_guard lock(screen().mutex);
  {
    const IgnoreSigpipe guard;
    std::fflush(stdout);  // what was printed before comes before
  }
  ProgressBar* bar = screen().bars.empty() ? nullptr : screen().bars.back();
  const bool in_the_way = bar && bar->drawn_ && isatty(STDOUT_FILENO) == 1;
  if (in_the_way) bar->wipe();
  write_all(STDOUT_FILENO, std::string(line) + "\n");
  if (in_the_way) bar->draw();
}

}  // namespace lockstep
