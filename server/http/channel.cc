#include "server/http/channel.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace coffer::http {

Channel::~Channel() { ::close(fd_); }

ssize_t Channel::read(void *to, size_t size) {
  for (;;) {
    const ssize_t n = ::recv(fd_, to, size, MSG_DONTWAIT);
    if (n >= 0) return n;
    if (errno == EINTR) continue;
    wants_ = POLLIN;
    return errno == EAGAIN ? kAgain : kBroken;
  }
}

ssize_t Channel::write(const void *from, size_t size) {
  if (size == 0) return 0;
  for (;;) {
    const ssize_t n = ::send(fd_, from, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0) return n;
    if (errno == EINTR) continue;
    wants_ = POLLOUT;
    return errno == EAGAIN ? kAgain : kBroken;
  }
}

void Channel::finish_writing() { ::shutdown(fd_, SHUT_WR); }

void Channel::shut() { ::shutdown(fd_, SHUT_RDWR); }

Result<void> wait_ready(int fd, short events, Clock::time_point end, int cancel_fd) {
  for (;;) {
    const Clock::time_point now = Clock::now();
    if (now >= end) return fail(ErrorCode::kDeadlineExceeded, "not done in time");
    const auto ms = std::chrono::ceil<std::chrono::milliseconds>(end - now).count();
    pollfd fds[] = {{fd, events, 0}, {cancel_fd, POLLIN, 0}};
    const int n = ::poll(fds, 2, static_cast<int>(std::min<int64_t>(ms, 1'000'000)));
    if (n < 0 && errno != EINTR) return fail(ErrorCode::kInternal, "poll failed");
    if (n > 0 && fds[1].revents) return fail(ErrorCode::kCancelled, "cancelled");
    if (n > 0 && fds[0].revents) return {};
  }
}

}  // namespace coffer::http
