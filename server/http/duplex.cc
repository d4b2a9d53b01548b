#include "server/http/duplex.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace coffer::http {

ssize_t Duplex::read_some(std::span<char> to) {
  if (ahead_.empty()) return channel_->read(to.data(), to.size());
  const size_t n = std::min(to.size(), ahead_.size());
  std::memcpy(to.data(), ahead_.data(), n);
  ahead_.erase(ahead_.begin(), ahead_.begin() + static_cast<ptrdiff_t>(n));
  return static_cast<ssize_t>(n);
}

Result<size_t> Duplex::read(std::span<char> to, Clock::time_point end, int cancel_fd) {
  for (;;) {
    const ssize_t n = read_some(to);
    if (n >= 0) return static_cast<size_t>(n);
    if (n != Channel::kAgain) return fail(ErrorCode::kUnavailable, "the connection broke");
    COFFER_CHECK(wait_ready(fd(), wants(), end, cancel_fd));
  }
}

Result<void> Duplex::write(std::string_view bytes, Clock::time_point end, int cancel_fd) {
  while (!bytes.empty()) {
    const ssize_t n = write_some(bytes);
    if (n == Channel::kBroken) return fail(ErrorCode::kUnavailable, "the connection broke");
    if (n == Channel::kAgain)
      COFFER_CHECK(wait_ready(fd(), wants(), end, cancel_fd));
    else
      bytes.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

namespace {

struct Direction {
  Duplex &from, &to;
  WipedBytes bytes = WipedBytes(32 * 1024);
  size_t begin = 0, size = 0;
  bool ended = false;
  short wants_from = 0, wants_to = 0;
  Clock::time_point blocked_since = Clock::time_point::max();

  // Moves what goes without waiting.  False: broken.
  bool advance() {
    wants_from = wants_to = 0;
    while (!ended) {
      if (begin == size) {
        const ssize_t n = from.read_some(bytes);
        if (n == Channel::kBroken) return false;
        if (n == Channel::kAgain) return wants_from = from.wants(), true;
        if (n == 0) return ended = true, to.finish_writing(), true;
        begin = 0, size = static_cast<size_t>(n);
      }
      const ssize_t n = to.write_some({bytes.data() + begin, size - begin});
      if (n == Channel::kBroken) return false;
      if (n == Channel::kAgain) {
        if (blocked_since == Clock::time_point::max()) blocked_since = Clock::now();
        return wants_to = to.wants(), true;
      }
      begin += static_cast<size_t>(n);
      blocked_since = Clock::time_point::max();
    }
    return true;
  }
};

}  // namespace

void relay(Duplex &a, Duplex &b, std::chrono::milliseconds patience, const std::function<bool()> &still) {
  Direction there{a, b}, back{b, a};
  Clock::time_point ask = still ? Clock::now() + kStillEvery : Clock::time_point::max();
  while (there.advance() && back.advance() && !(there.ended && back.ended)) {
    Clock::time_point wake = ask;
    const Clock::time_point since = std::min(there.blocked_since, back.blocked_since);
    if (since != Clock::time_point::max()) {
      if (since + patience <= Clock::now()) return;
      wake = std::min(wake, since + patience);
    }
    if (ask <= Clock::now()) {
      if (!still()) return;
      ask = Clock::now() + kStillEvery;
      wake = std::min(wake, ask);
    }
    // Not below 0, which is for ever: its time may have come since it was looked at.
    const int timeout = wake == Clock::time_point::max()
                            ? -1
                            : static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(
                                                   std::max(wake - Clock::now(), Clock::duration::zero()))
                                                   .count());
    // A side that has ended and is written nothing is watched for its hang-up.  One that waits for the other
    // is not: it may have hung up and left bytes to read.
    const auto watched = [](const Duplex &d, int events, bool ended) {
      return pollfd{events || ended ? d.fd() : -1, static_cast<short>(events), 0};
    };
    pollfd fds[] = {watched(a, there.wants_from | back.wants_to, there.ended),
                    watched(b, back.wants_from | there.wants_to, back.ended)};
    if (::poll(fds, 2, timeout) < 0 && errno != EINTR) return;
    for (const pollfd &f : fds)
      if (f.events == 0 && f.revents) return;
  }
}

}  // namespace coffer::http
