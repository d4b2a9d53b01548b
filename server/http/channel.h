// A connected socket that never blocks; under TLS: tls.h.
//
// Rationale: Poco's sockets wait inside their reads, with a limit per read.  Here every wait has one end for
// the whole request, and one thread holds thousands of connections.
#ifndef COFFER_HTTP_CHANNEL_H
#define COFFER_HTTP_CHANNEL_H

#include <sys/types.h>

#include <chrono>

#include "coffer/base/result.h"

namespace coffer::http {

using Clock = std::chrono::steady_clock;

// Thread rule: one thread at a time, but shut() from any.
class Channel {
 public:
  static constexpr ssize_t kAgain = -1, kBroken = -2;

  explicit Channel(int fd) : fd_(fd) {}  // takes it
  Channel(const Channel &) = delete;
  Channel &operator=(const Channel &) = delete;
  virtual ~Channel();

  int fd() const { return fd_; }
  // At least one byte, 0 at the end, kAgain or kBroken.  TLS shakes hands in them; no end without its notice.
  virtual ssize_t read(void *to, size_t size);
  virtual ssize_t write(const void *from, size_t size);
  // What to poll for after kAgain.
  short wants() const { return wants_; }
  virtual bool has_ahead() const { return false; }  // bytes are here that poll does not see
  virtual bool untrusted() const { return false; }  // TLS ended because of the other side's certificate
  virtual void finish_writing();
  void shut();  // both directions; whoever waits for it wakes

 protected:
  short wants_ = 0;

 private:
  int fd_;
};

// poll() for `events` on `fd` until `end`.  kCancelled when `cancel_fd` (an eventfd, -1: none) is readable,
// kDeadlineExceeded at the end; a hang-up counts as ready.
Result<void> wait_ready(int fd, short events, Clock::time_point end, int cancel_fd = -1);

}  // namespace coffer::http
#endif
