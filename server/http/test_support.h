// What the tests of this folder share: sockets as an unfriendly client has them.
#ifndef COFFER_HTTP_TEST_SUPPORT_H
#define COFFER_HTTP_TEST_SUPPORT_H

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <filesystem>
#include <string>

#include "coffer/posix.hpp"
#include "server/http/channel.h"

namespace coffer::http {

// Longer than anything here takes; reached only when something is broken.
inline constexpr std::chrono::seconds kPatience{30};

class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "coffer-http.XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string &name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A blocking client socket that sends exactly what it is told.
class Raw {
 public:
  static Raw to_unix(const std::string &path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    return Raw(AF_UNIX, reinterpret_cast<const sockaddr *>(&address), sizeof address);
  }
  static Raw to_port(uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return Raw(AF_INET, reinterpret_cast<const sockaddr *>(&address), sizeof address);
  }
  explicit operator bool() const { return bool(fd_); }
  int fd() const { return fd_.get(); }
  bool send(std::string_view bytes) {
    return ::send(fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  // Until what came holds `text`, at `times` places; false at the end of the connection.
  bool read_until(std::string_view text, int times = 1) {
    const auto count = [&] {
      int n = 0;
      for (size_t at = got.find(text); at != got.npos; at = got.find(text, at + 1)) ++n;
      return n;
    };
    while (count() < times)
      if (!read_some()) return false;
    return true;
  }
  // All that comes until the other side closes.
  const std::string &read_all() {
    while (read_some()) {
    }
    return got;
  }
  bool read_some() {
    if (!readable(kPatience)) return ADD_FAILURE() << "nothing came", false;
    char bytes[16 * 1024];
    const ssize_t n = ::recv(fd(), bytes, sizeof bytes, 0);
    if (n > 0) got.append(bytes, static_cast<size_t>(n));
    return n > 0;
  }
  bool readable(std::chrono::milliseconds within) const {
    pollfd p{fd(), POLLIN, 0};
    return ::poll(&p, 1, static_cast<int>(within.count())) > 0;
  }
  bool hung_up(std::chrono::milliseconds within) const {
    pollfd p{fd(), 0, 0};
    return ::poll(&p, 1, static_cast<int>(within.count())) > 0;
  }
  void finish() { ::shutdown(fd(), SHUT_WR); }
  void close() { fd_.close(); }
  int status() const { return got.size() > 12 ? std::atoi(got.c_str() + 9) : 0; }

  std::string got;

 private:
  Raw(int family, const sockaddr *address, socklen_t size)
      : fd_(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (fd_ && ::connect(fd(), address, size) != 0) fd_.close();
  }
  sdk::Fd fd_;
};

}  // namespace coffer::http
#endif
