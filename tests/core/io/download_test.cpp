#include <lockstep/core/io/download.h>

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <lockstep/core/base/error.h>
#include <lockstep/core/io/sha256.h>
#include <lockstep/tests/support/temp_folder.h>

using namespace lockstep;
using namespace lockstep::test;
namespace fs = std::filesystem;

namespace {

/// Answers each connection on 127.0.0.1 with what `respond` writes. Requests are kept.
class Server {
 public:
  /// Gets the request's number (from 0) and text; returns what to send before the connection is closed.
  using Respond = std::function<std::string(int, const std::string&)>;

  explicit Server(Respond respond) : respond_(std::move(respond)), listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    REQUIRE(bind(listener_, reinterpret_cast<sockaddr*>(&address), length) == 0);
    REQUIRE(listen(listener_, 8) == 0);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~Server() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }

  std::string url(const std::string& path = "/file.bin") const {
    return "http://127.0.0.1:" + std::to_string(port_) + path;
  }
  std::vector<std::string> requests() const {
    std::lock_guard lock(mutex_);
    return requests_;
  }

 private:
  void serve() {
    for (int number = 0;; ++number) {
      const int connection = accept(listener_, nullptr, nullptr);
      if (connection < 0) return;
      std::string request;
      char buffer[4096];
      while (request.find("\r\n\r\n") == std::string::npos) {
        const ssize_t got = recv(connection, buffer, sizeof buffer, 0);
        if (got <= 0) break;
        request.append(buffer, static_cast<std::size_t>(got));
      }
      {
        std::lock_guard lock(mutex_);
        requests_.push_back(request);
      }
      const std::string answer = respond_(number, request);
      for (std::size_t sent = 0; sent < answer.size();) {
        const ssize_t n = send(connection, answer.data() + sent, answer.size() - sent, MSG_NOSIGNAL);
        if (n <= 0) break;
        sent += static_cast<std::size_t>(n);
      }
      close(connection);
    }
  }

  Respond respond_;
  int listener_;
  std::uint16_t port_ = 0;
  mutable std::mutex mutex_;
  std::vector<std::string> requests_;
  std::thread thread_;
};

std::string make_contents() {
  std::string contents;
  for (std::uint32_t i = 0, x = 1; i < 1'000'000; ++i)
    contents += static_cast<char>((x = x * 1664525 + 1013904223) >> 24);
  return contents;
}

std::string sha256(const std::string& text) {
  Sha256 hash;
  hash.update(text.data(), text.size());
  return hash.hex();
}

/// 200, or 206 from the asked position on; the connection is closed `cut` bytes into the body.
std::string answer(const std::string& contents, const std::string& request, std::size_t cut = std::string::npos) {
  const std::size_t range = request.find("Range: bytes=");
  const std::size_t start = range == std::string::npos ? 0 : std::stoul(request.substr(range + 13));
  std::string head;
  if (range == std::string::npos) {
    head = "HTTP/1.1 200 OK\r\n";
  } else if (start >= contents.size()) {
    return "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
  } else {
    head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes " + std::to_string(start) + "-" +
           std::to_string(contents.size() - 1) + "/" + std::to_string(contents.size()) + "\r\n";
  }
  head += "Content-Length: " + std::to_string(contents.size() - start) + "\r\nConnection: close\r\n\r\n";
  return head + contents.substr(start, cut);
}

std::string range_of(const std::string& request) {
  const std::size_t at = request.find("Range: ");
  return at == std::string::npos ? "" : request.substr(at + 7, request.find('\r', at) - at - 7);
}

std::string refusal(const std::string& url, const fs::path& path, const DownloadOptions& options) {
  try {
    download(url, path, options);
  } catch (const FileError& error) {
    CHECK_FALSE(fs::exists(path));
    CHECK(std::string(error.what()).find(url) != std::string::npos);
    return error.what();
  }
  FAIL("nothing was refused");
  return {};
}

const std::string contents = make_contents();
const DownloadOptions checked{.sha256 = sha256(contents), .progress = false};
const DownloadOptions unchecked{.progress = false};

}  // namespace

TEST_CASE("A file is downloaded whole and only once") {
  const TempFolder folder;
  Server server([](int, const std::string& request) { return answer(contents, request); });
  download(server.url(), folder / "new/folder/file.bin", checked);
  CHECK(read_file(folder / "new/folder/file.bin") == contents);
  CHECK_FALSE(fs::exists(folder / "new/folder/file.bin.part"));
  CHECK(server.requests().size() == 1);
  download(server.url(), folder / "new/folder/file.bin", checked);
  download(server.url(), folder / "new/folder/file.bin", unchecked);
  CHECK(server.requests().size() == 1);

  download(server.url(), folder / "unchecked.bin", unchecked);
  CHECK(read_file(folder / "unchecked.bin") == contents);

  write_file(folder / "old.bin", "something else");
  download(server.url(), folder / "old.bin", checked);
  CHECK(read_file(folder / "old.bin") == contents);

  DownloadOptions capitals = checked;
  for (char& c : capitals.sha256) c = static_cast<char>(std::toupper(c));
  download(server.url(), folder / "capitals.bin", capitals);
  CHECK(read_file(folder / "capitals.bin") == contents);
}

TEST_CASE("A partial download goes on where it stopped") {
  const TempFolder folder;
  Server server([](int, const std::string& request) { return answer(contents, request); });
  write_file(folder / "file.bin.part", contents.substr(0, 400'000));
  download(server.url(), folder / "file.bin", checked);
  CHECK(read_file(folder / "file.bin") == contents);
  REQUIRE(server.requests().size() == 1);
  CHECK(range_of(server.requests()[0]) == "bytes=400000-");

  // Without a checksum nobody knows what the old bytes are.
  write_file(folder / "other.bin.part", "old bytes");
  download(server.url(), folder / "other.bin", unchecked);
  CHECK(read_file(folder / "other.bin") == contents);
  CHECK(range_of(server.requests()[1]).empty());
}

TEST_CASE("A partial download that is of no use is thrown away") {
  const TempFolder folder;
  SECTION("other bytes") {
    Server server([](int, const std::string& request) { return answer(contents, request); });
    write_file(folder / "file.bin.part", std::string(400'000, '?'));
    download(server.url(), folder / "file.bin", checked);
    CHECK(server.requests().size() == 2);
  }
  SECTION("complete, or longer than the file") {
    Server server([](int, const std::string& request) { return answer(contents, request); });
    write_file(folder / "file.bin.part", contents + GENERATE("", "and more"));
    download(server.url(), folder / "file.bin", checked);
    CHECK(server.requests().size() <= 2);
  }
  SECTION("a server without ranges") {
    Server server([](int, const std::string&) { return answer(contents, ""); });
    write_file(folder / "file.bin.part", contents.substr(0, 400'000));
    download(server.url(), folder / "file.bin", checked);
    CHECK(server.requests().size() == 2);
  }
  CHECK(read_file(folder / "file.bin") == contents);
}

TEST_CASE("A dropped connection is taken up again") {
  const TempFolder folder;
  Server server([](int number, const std::string& request) {
    return answer(contents, request, number < 2 ? 300'000 : std::string::npos);
  });
  download(server.url(), folder / "file.bin", checked);
  CHECK(read_file(folder / "file.bin") == contents);
  const auto requests = server.requests();
  REQUIRE(requests.size() == 3);
  CHECK(range_of(requests[0]).empty());
  CHECK(range_of(requests[1]) == "bytes=300000-");
  CHECK(range_of(requests[2]) == "bytes=600000-");
}

TEST_CASE("A connection that keeps dropping is an error, and the next call goes on") {
  const TempFolder folder;
  std::atomic<bool> healthy{false};
  Server server([&](int number, const std::string& request) {
    if (healthy) return answer(contents, request);
    return number == 0 ? answer(contents, request, 500'000) : std::string();
  });
  const std::string message = refusal(server.url(), folder / "file.bin", checked);
  CHECK(message.find("500000 bytes are kept") != std::string::npos);
  CHECK(fs::file_size(folder / "file.bin.part") == 500'000);
  healthy = true;
  download(server.url(), folder / "file.bin", checked);
  CHECK(read_file(folder / "file.bin") == contents);
  CHECK(range_of(server.requests().back()) == "bytes=500000-");

  healthy = false;
  Server dropping([](int, const std::string& request) { return answer(contents, request, 500'000); });
  refusal(dropping.url(), folder / "unchecked.bin", unchecked);
  CHECK_FALSE(fs::exists(folder / "unchecked.bin.part"));
}

TEST_CASE("A wrong checksum is an error that names both") {
  const TempFolder folder;
  Server server([](int, const std::string& request) { return answer("<html>not what you think</html>", request); });
  const std::string message = refusal(server.url(), folder / "file.bin", checked);
  CHECK(message.find(checked.sha256) != std::string::npos);
  CHECK(message.find(sha256("<html>not what you think</html>")) != std::string::npos);
  CHECK_FALSE(fs::exists(folder / "file.bin.part"));
  CHECK(server.requests().size() == 1);
}

TEST_CASE("HTTP errors are refused") {
  const TempFolder folder;
  Server server([](int, const std::string& request) -> std::string {
    if (request.find("GET /moved") == 0)
      return "HTTP/1.1 302 Found\r\nLocation: /file.bin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    if (request.find("GET /local") == 0)
      return "HTTP/1.1 302 Found\r\nLocation: file:///etc/hostname\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    if (request.find("GET /file.bin") == 0) return answer(contents, request);
    return "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\nConnection: close\r\n\r\nNot here.";
  });
  CHECK(refusal(server.url("/missing"), folder / "file.bin", unchecked).find("404") != std::string::npos);
  CHECK_FALSE(fs::exists(folder / "file.bin.part"));
  refusal(server.url("/local"), folder / "file.bin", unchecked);
  download(server.url("/moved"), folder / "file.bin", checked);
  CHECK(read_file(folder / "file.bin") == contents);
}

TEST_CASE("A server that falls silent is given up") {
  const TempFolder folder;
  std::atomic<bool> done{false};
  {
    Server server([&](int, const std::string& request) {
      for (int i = 0; i < 200 && !done; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      return answer(contents, request);
    });
    DownloadOptions options = unchecked;
    options.stall_timeout = 1;
    const auto begin = std::chrono::steady_clock::now();
    refusal(server.url(), folder / "file.bin", options);
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5));
    done = true;
  }
}

TEST_CASE("What cannot be reached or written is a FileError") {
  const TempFolder folder;
  std::string closed;
  {
    Server server([](int, const std::string&) { return std::string(); });
    closed = server.url();
  }
  refusal(closed, folder / "file.bin", unchecked);
  refusal("gopher://127.0.0.1/file.bin", folder / "file.bin", unchecked);
  write_file(folder / "file", "not a folder");
  CHECK_THROWS_AS(download(closed, folder / "file/file.bin", unchecked), FileError);
  fs::create_directory(folder / "taken.bin.part");
  CHECK_THROWS_AS(download(closed, folder / "taken.bin", unchecked), FileError);
}

TEST_CASE("file:// addresses work, whole and resumed") {
  const TempFolder folder;
  write_file(folder / "source.bin", contents);
  const std::string url = "file://" + (folder / "source.bin").string();
  download(url, folder / "whole.bin", checked);
  CHECK(read_file(folder / "whole.bin") == contents);
  write_file(folder / "resumed.bin.part", contents.substr(0, 123'456));
  download(url, folder / "resumed.bin", checked);
  CHECK(read_file(folder / "resumed.bin") == contents);
  refusal(url + ".missing", folder / "file.bin", unchecked);
}

TEST_CASE("Of several that ask for one file, one downloads") {
  const TempFolder folder;
  Server server([](int, const std::string& request) { return answer(contents, request); });
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      try {
        download(server.url(), folder / "file.bin", checked);
      } catch (...) {
        ++failures;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(failures == 0);
  CHECK(server.requests().size() == 1);
  CHECK(read_file(folder / "file.bin") == contents);
}
