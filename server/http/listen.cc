#include "server/http/listen.h"

#include <Poco/Exception.h>
#include <Poco/Net/SocketAddress.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "coffer/posix.hpp"

namespace coffer::http {
namespace {

constexpr int kBacklog = 4096;  // the system cuts it to net.core.somaxconn

std::unexpected<Error> cannot(const std::string &where, int error) {
  ErrorCode code = ErrorCode::kUnavailable;
  if (error == EADDRINUSE) code = ErrorCode::kAlreadyExists;
  if (error == EACCES || error == EPERM) code = ErrorCode::kPermissionDenied;
  return fail(code, "cannot listen at " + where + ": " + std::strerror(error));
}

}  // namespace

Result<int> listen_tcp(const std::string &where, bool anywhere) {
  try {
    const Poco::Net::SocketAddress address(where);
    if (!anywhere && !address.host().isLoopback())
      return fail(ErrorCode::kInvalidArgument, "cannot listen at " + where + ": it is no loopback address",
                  "Give a TLS certificate and its key, or listen on 127.0.0.1.");
    sdk::Fd fd(::socket(address.af(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int on = 1;
    if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        ::bind(fd.get(), address.addr(), address.length()) != 0 || ::listen(fd.get(), kBacklog) != 0)
      return cannot(where, errno);
    return fd.release();
  } catch (const Poco::Exception &) {
    return fail(ErrorCode::kInvalidArgument, "cannot listen at " + where + ": it is no HOST:PORT");
  }
}

uint16_t port_of(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr *>(&address), &size) != 0) return 0;
  return Poco::Net::SocketAddress(reinterpret_cast<sockaddr *>(&address), size).port();
}

void tune_tcp(int fd) {
  const auto set = [fd](int level, int option, int value) {
    ::setsockopt(fd, level, option, &value, sizeof value);
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  // A peer that vanished without a word is noticed within half a minute, whether or not anything is sent.
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 15);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 30'000);
}

Peer peer_of(int fd, bool is_unix) {
  Peer peer;
  peer.is_unix = is_unix;
  if (is_unix) {
    ucred who{};
    socklen_t size = sizeof who;
    // Fails for no connected socket; -1 is nobody's uid.
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0)
      peer.uid = who.uid, peer.gid = who.gid, peer.pid = who.pid;
    return peer;
  }
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getpeername(fd, reinterpret_cast<sockaddr *>(&address), &size) == 0)
    peer.address = Poco::Net::SocketAddress(reinterpret_cast<sockaddr *>(&address), size).toString();
  tune_tcp(fd);
  return peer;
}

}  // namespace coffer::http
