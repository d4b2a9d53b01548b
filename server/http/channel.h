// A connected socket, in clear or under TLS, that never blocks; and the settings of TLS.
// OpenSSL is used here and in channel.cc only.
//
// Rationale: Poco's SecureStreamSocket waits inside its reads, with a limit per read.  Here every wait has
// one end for the whole request, and one thread holds thousands of connections.
#ifndef COFFER_HTTP_CHANNEL_H
#define COFFER_HTTP_CHANNEL_H

#include <chrono>
#include <memory>
#include <string>

#include "coffer/base/result.h"

struct ssl_st;
struct ssl_ctx_st;

namespace coffer::http {

using Clock = std::chrono::steady_clock;

// Thread rule: one thread at a time, but shut() from any.
class Channel {
 public:
  static constexpr ssize_t kAgain = -1, kBroken = -2;

  Channel(int fd, ssl_st *tls) : fd_(fd), tls_(tls) {}  // takes both
  Channel(const Channel &) = delete;
  Channel &operator=(const Channel &) = delete;
  ~Channel();

  int fd() const { return fd_; }
  // At least one byte, 0 at the end, kAgain or kBroken.  TLS shakes hands in them; no end without its notice.
  ssize_t read(void *to, size_t size);
  ssize_t write(const void *from, size_t size);
  // What to poll for after kAgain.
  short wants() const { return wants_; }
  bool has_ahead() const;  // bytes are here that poll does not see
  bool untrusted() const;  // TLS ended because of the other side's certificate
  void finish_writing();
  void shut();  // both directions; whoever waits for it wakes

 private:
  ssize_t outcome(int code);
  int fd_;
  ssl_st *tls_;
  short wants_ = 0;
};

class Tls {
 public:
  // Errors name the file: kNotFound, kInvalidArgument.
  static Result<Tls> server(const std::string &certificate_file, const std::string &key_file);
  // Trusts what `ca_file` holds (a CA, or the very certificate of the other side), or the system's CAs.
  static Result<Tls> client(const std::string &ca_file);
  // `fd` passes into it.  nullptr: no memory.
  std::unique_ptr<Channel> accept(int fd) const;
  std::unique_ptr<Channel> connect(int fd, const std::string &host) const;

 private:
  struct Free {
    void operator()(ssl_ctx_st *) const;
  };
  explicit Tls(ssl_ctx_st *context) : context_(context) {}
  std::unique_ptr<ssl_ctx_st, Free> context_;
};

// poll() for `events` on `fd` until `end`.  kCancelled when `cancel_fd` (an eventfd, -1: none) is readable,
// kDeadlineExceeded at the end; a hang-up counts as ready.
Result<void> wait_ready(int fd, short events, Clock::time_point end, int cancel_fd = -1);

}  // namespace coffer::http
#endif
