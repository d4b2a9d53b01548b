// A server on the loopback of the test, for what asks ports: it answers each connection in the same way.
#ifndef COFFER_TESTS_LOOPBACK_SERVER_H
#define COFFER_TESTS_LOOPBACK_SERVER_H

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

namespace coffer::tests {

class LoopbackServer {
 public:
  enum How {
    kAnswer,   // reads a request up to its empty line, answers, closes
    kEndless,  // answers the same without end
    kSilent,   // answers nothing and does not close
    kClose,    // closes at once
  };
  explicit LoopbackServer(How how, std::string answer = "", bool ipv6 = false)
      : how_(how), answer_(std::move(answer)) {
    listener_ = ::socket(ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    v6.sin6_addr = in6addr_loopback;
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto *address = ipv6 ? reinterpret_cast<sockaddr *>(&v6) : reinterpret_cast<sockaddr *>(&v4);
    socklen_t size = ipv6 ? sizeof v6 : sizeof v4;
    if (listener_ < 0 || ::bind(listener_, address, size) != 0 || ::listen(listener_, 16) != 0 ||
        ::getsockname(listener_, address, &size) != 0)
      throw std::runtime_error("no server on the loopback");
    port_ = ntohs(ipv6 ? v6.sin6_port : v4.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~LoopbackServer() {
    ::shutdown(listener_, SHUT_RDWR);  // ends accept()
    {
      const std::scoped_lock lock(mutex_);
      ended_ = true;
      if (current_ >= 0) ::shutdown(current_, SHUT_RDWR);
    }
    thread_.join();
    ::close(listener_);
  }
  LoopbackServer(const LoopbackServer &) = delete;
  LoopbackServer &operator=(const LoopbackServer &) = delete;

  std::string port() const { return std::to_string(port_); }
  unsigned port_number() const { return port_; }
  std::string request() const {  // the last one
    const std::scoped_lock lock(mutex_);
    return request_;
  }

 private:
  void serve() {
    for (int fd; (fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
      {
        const std::scoped_lock lock(mutex_);
        current_ = fd;
        if (ended_) ::shutdown(fd, SHUT_RDWR);
      }
      if (how_ != kClose) talk(fd);
      const std::scoped_lock lock(mutex_);
      current_ = -1;
      ::close(fd);
    }
  }
  void talk(int fd) {
    std::string request;
    char buffer[4096];
    for (ssize_t n; request.find("\r\n\r\n") == std::string::npos;) {
      if ((n = ::recv(fd, buffer, sizeof buffer, 0)) <= 0) return;
      request.append(buffer, static_cast<size_t>(n));
    }
    {
      const std::scoped_lock lock(mutex_);
      request_ = request;
    }
    if (how_ == kSilent) {
      while (::recv(fd, buffer, sizeof buffer, 0) > 0) {
      }
      return;
    }
    do {
      for (std::string_view left = answer_; !left.empty();) {
        const ssize_t n = ::send(fd, left.data(), left.size(), MSG_NOSIGNAL);
        if (n <= 0) return;
        left.remove_prefix(static_cast<size_t>(n));
      }
    } while (how_ == kEndless);
  }

  How how_;
  std::string answer_;
  int listener_ = -1;
  unsigned port_ = 0;
  mutable std::mutex mutex_;
  int current_ = -1;
  bool ended_ = false;
  std::string request_;
  std::thread thread_;
};

// A port on which nothing listens now.
inline std::string closed_port() { return LoopbackServer(LoopbackServer::kClose).port(); }

}  // namespace coffer::tests
#endif
