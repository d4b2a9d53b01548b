#include "coffer/base/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace coffer {
namespace {

constexpr int kBacklog = 4096;  // the system cuts it to net.core.somaxconn

Result<sockaddr_un> address_of(const std::string &path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path[0] != '/' || path.size() >= sizeof address.sun_path)
    return fail(ErrorCode::kInvalidArgument,
                "the socket " + path + " is not an absolute path of at most 107 bytes");
  path.copy(address.sun_path, path.size());
  return address;
}

std::unexpected<Error> cannot_listen(const std::string &path, int error) {
  const bool denied = error == EACCES || error == EPERM;
  return fail(denied                ? ErrorCode::kPermissionDenied
              : error == EADDRINUSE ? ErrorCode::kAlreadyExists
                                    : ErrorCode::kUnavailable,
              "cannot listen at " + path + ": " + std::strerror(error));
}

}  // namespace

Result<sdk::Fd> listen_unix(const std::string &path, unsigned mode) {
  COFFER_TRY(const sockaddr_un address, address_of(path));
  const auto *const sa = reinterpret_cast<const sockaddr *>(&address);
  struct stat there;
  if (::lstat(path.c_str(), &there) == 0) {
    if (!S_ISSOCK(there.st_mode))
      return fail(ErrorCode::kAlreadyExists, "cannot listen at " + path + ": it is there and no socket");
    const sdk::Fd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (::connect(probe.get(), sa, sizeof address) == 0 || errno != ECONNREFUSED)
      return fail(ErrorCode::kAlreadyExists, "cannot listen at " + path + ": another process does");
    ::unlink(path.c_str());
  }
  sdk::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // Nobody can connect between bind and listen, so the mode is right before the first one can.
  if (!fd || ::bind(fd.get(), sa, sizeof address) != 0) return cannot_listen(path, errno);
  if (::chmod(path.c_str(), mode) != 0 || ::listen(fd.get(), kBacklog) != 0) {
    const int error = errno;
    ::unlink(path.c_str());
    return cannot_listen(path, error);
  }
  return fd;
}

Result<sdk::Fd> connect_unix(const std::string &path) {
  COFFER_TRY(const sockaddr_un address, address_of(path));
  sdk::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return fail(ErrorCode::kResourceExhausted, "no socket is to be had");
  while (::connect(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0) {
    if (errno == EINTR) continue;
    if (errno == EACCES || errno == EPERM)
      return fail(ErrorCode::kPermissionDenied, path + " is not open to this user");
    return fail(ErrorCode::kUnavailable, "nobody answers at " + path);
  }
  return fd;
}

uid_t peer_uid(int fd) {
  ucred who{};
  socklen_t size = sizeof who;
  return ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 ? who.uid : static_cast<uid_t>(-1);
}

}  // namespace coffer
