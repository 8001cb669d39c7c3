#include <lockstep/core/io/progress.h>

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>
#include <thread>
#include <vector>

using namespace lockstep;

namespace {

/// What was written to a pipe or a terminal, as far as it has arrived.
std::string drain(int fd) {
  fcntl(fd, F_SETFL, O_NONBLOCK);
  std::string text;
  char buffer[4096];
  for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<std::size_t>(got));
  return text;
}

struct Pipe {
  Pipe() { REQUIRE(pipe(ends) == 0); }
  ~Pipe() {
    close(ends[0]);
    close(ends[1]);
  }
  int ends[2];
};

/// A terminal of 60 columns.
struct Terminal {
  Terminal() {
    setenv("TERM", "xterm", 1);
    master = posix_openpt(O_RDWR | O_NOCTTY);
    REQUIRE(master >= 0);
    REQUIRE((grantpt(master) == 0 && unlockpt(master) == 0));
    slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    REQUIRE(slave >= 0);
    const winsize size{.ws_row = 24, .ws_col = 60, .ws_xpixel = 0, .ws_ypixel = 0};
    REQUIRE(ioctl(slave, TIOCSWINSZ, &size) == 0);
  }
  ~Terminal() {
    close(master);
    close(slave);
  }
  int master, slave;
};

/// Standard output goes to `fd` while it lives.
struct RedirectStdout {
  explicit RedirectStdout(int fd) : saved(dup(STDOUT_FILENO)) {
    std::fflush(stdout);  // what Catch2 has written so far
    dup2(fd, STDOUT_FILENO);
  }
  ~RedirectStdout() {
    std::fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
  }
  int saved;
};

/// What remains visible of a line that is drawn over and over.
std::vector<std::string> screen_lines(const std::string& written) {
  std::vector<std::string> lines(1);
  std::size_t column = 0;
  for (std::size_t i = 0; i < written.size(); ++i) {
    if (written.compare(i, 3, "\x1b[K") == 0) {
      lines.back().resize(column);
      i += 2;
    } else if (written[i] == '\r') {
      column = 0;
    } else if (written[i] == '\n') {
      lines.emplace_back();
      column = 0;
    } else {
      lines.back().resize(std::max(lines.back().size(), column + 1), ' ');
      lines.back()[column++] = written[i];
    }
  }
  return lines;
}

}  // namespace

TEST_CASE("A progress line shows share, count, rate, time spent and left") {
  Pipe out;
  double now = 100;
  ProgressBar bar("Epoch 1", 391, {.fd = out.ends[1], .clock = [&] { return now; }});
  now += 31.5;
  bar.set_position(176);
  CHECK(bar.line(79) == "Epoch 1   45% [==============>                 ] 176/391  5.6 step/s  0:31<0:38");
  bar.set_note("loss 1.412");
  CHECK(bar.line(100) ==
        "Epoch 1   45% [==================>                     ] 176/391  5.6 step/s  0:31<0:38  loss 1.412");
  CHECK(bar.line(20) == "Epoch 1   45%  176/3");
  CHECK(bar.line(0) == "Epoch 1   45%  176/391  5.6 step/s  0:31<0:38  loss 1.412");
  now += 3600;
  CHECK(bar.line(0) == "Epoch 1   45%  176/391  20.6 s/step  1:00:31<1:13:56  loss 1.412");
  bar.set_position(391);
  CHECK(bar.line(0) == "Epoch 1  100%  391/391  9.3 s/step  1:00:31  loss 1.412");
}

TEST_CASE("A progress line counts bytes, and only those of this run for the rate") {
  Pipe out;
  double now = 0;
  ProgressBar bar("Downloading", 170'052'171, {.unit = "B", .fd = out.ends[1], .clock = [&] { return now; }});
  bar.set_start(100'000'000);
  now = 2;
  bar.set_position(110'000'000);
  CHECK(bar.line(0) == "Downloading   64%  110.0 MB/170.1 MB  5.0 MB/s  0:02<0:12");
  bar.set_total(0);
  CHECK(bar.line(0) == "Downloading  110.0 MB  5.0 MB/s  0:02");
  bar.set_start(0);
  bar.set_position(999);
  CHECK(bar.line(0) == "Downloading  999 B  500 B/s  0:02");
}

TEST_CASE("Without a terminal a bar prints few and plain lines") {
  Pipe out;
  double now = 0;
  {
    ProgressBar bar("Epoch", 50, {.fd = out.ends[1], .clock = [&] { return now; }});
    for (int i = 0; i < 50; ++i) {
      now += 1;
      bar.advance();
    }
  }
  // 50 seconds, a tenth in 5: the lines are 10 seconds apart, and one stands at the end.
  CHECK(drain(out.ends[0]) ==
        "Epoch   20%  10/50  1.0 step/s  0:10<0:40\n"
        "Epoch   40%  20/50  1.0 step/s  0:20<0:30\n"
        "Epoch   60%  30/50  1.0 step/s  0:30<0:20\n"
        "Epoch   80%  40/50  1.0 step/s  0:40<0:10\n"
        "Epoch  100%  50/50  1.0 step/s  0:50\n");
}

TEST_CASE("On a terminal a bar is redrawn in place, at most ten times a second") {
  Terminal terminal;
  double now = 0;
  {
    ProgressBar bar("Epoch", 1000, {.fd = terminal.slave, .clock = [&] { return now; }});
    for (int i = 0; i < 1000; ++i) {
      now += 0.001;
      bar.advance();
    }
  }
  const std::string written = drain(terminal.master);
  const auto draws = std::count(written.begin(), written.end(), '\r');
  CHECK(draws >= 10);
  CHECK(draws <= 14);  // the first, ten, the last, and the terminal's own \r before \n
  const auto lines = screen_lines(written);
  REQUIRE(lines.size() == 2);
  CHECK(lines[0] == "Epoch  100% [================] 1000/1000  1000 step/s  0:01");
  CHECK(lines[0].size() < 60);
  CHECK(lines[1].empty());
}

TEST_CASE("Printed lines and the bar do not mix") {
  Terminal terminal;
  double now = 0;
  std::string written;
  {
    const RedirectStdout redirect(terminal.slave);
    ProgressBar bar("Epoch", 10, {.leave = false, .fd = terminal.slave, .clock = [&] { return now; }});
    now = 1;
    bar.advance(5);
    print_line("[Epoch 1, Step 5] Loss: 1.889");
    {
      ProgressBar inner("Test", 4, {.leave = false, .fd = terminal.slave, .clock = [&] { return now; }});
      inner.advance(2);
      print_line("in between");
    }
    written = drain(terminal.master);
  }
  const auto lines = screen_lines(written);
  REQUIRE(lines.size() == 3);
  CHECK(lines[0] == "[Epoch 1, Step 5] Loss: 1.889");
  CHECK(lines[1] == "in between");
  CHECK(lines[2].substr(0, 11) == "Epoch   50%");
  CHECK(screen_lines(drain(terminal.master)) == std::vector<std::string>{""});  // not left on the screen
}

TEST_CASE("A bar on standard error leaves alone what goes from standard output to a file") {
  Terminal terminal;
  Pipe file;
  {
    const RedirectStdout redirect(file.ends[1]);
    ProgressBar bar("Epoch", 10, {.fd = terminal.slave});
    print_line("a line");
  }
  CHECK(drain(file.ends[0]) == "a line\n");
}

TEST_CASE("Nobody reading is no reason to die") {
  Pipe out;
  close(out.ends[0]);
  out.ends[0] = dup(out.ends[1]);  // for the destructor
  // Catch2 or the shell may have had it ignored; the default is the one that kills.
  struct sigaction before, fatal{};
  fatal.sa_handler = SIG_DFL;
  sigaction(SIGPIPE, &fatal, &before);
  {
    const RedirectStdout redirect(out.ends[1]);
    ProgressBar bar("Epoch", 10, {.fd = out.ends[1]});
    bar.advance(10);
    print_line("a line");
    bar.finish();
  }
  sigset_t pending;
  sigpending(&pending);
  CHECK(sigismember(&pending, SIGPIPE) == 0);
  sigaction(SIGPIPE, &before, nullptr);
}

TEST_CASE("A bar may be moved by several threads") {
  Pipe out;
  ProgressBar bar("Epoch", 40'000, {.fd = out.ends[1]});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10'000; ++i) {
        bar.advance();
        if (i % 1000 == 0) bar.set_note("step");
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(bar.line(0).find("100%  40000/40000") != std::string::npos);
}
