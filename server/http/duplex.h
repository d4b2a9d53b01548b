// Both directions of a connection after its upgrade: bytes, and nothing that knows HTTP.
#ifndef COFFER_HTTP_DUPLEX_H
#define COFFER_HTTP_DUPLEX_H

#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "server/http/channel.h"
#include "server/http/wiped.h"

namespace coffer::http {

// Thread rule: one thread at a time.
class Duplex {
 public:
  Duplex(std::unique_ptr<Channel> channel, WipedBytes ahead)
      : channel_(std::move(channel)), ahead_(std::move(ahead)) {}

  // For poll().  Not readable does not mean that nothing is there: has_ahead() first.
  int fd() const { return channel_->fd(); }
  bool has_ahead() const { return !ahead_.empty() || channel_->has_ahead(); }
  // These do not wait: as Channel's.
  ssize_t read_some(std::span<char> to);
  ssize_t write_some(std::string_view bytes) { return channel_->write(bytes.data(), bytes.size()); }
  short wants() const { return channel_->wants(); }
  // At least one byte, 0 at the end.  Waits.  kUnavailable when the connection broke.
  Result<size_t> read(std::span<char> to, Clock::time_point end, int cancel_fd = -1);
  // Everything.  Waits.
  Result<void> write(std::string_view bytes, Clock::time_point end, int cancel_fd = -1);
  void finish_writing() { channel_->finish_writing(); }

  std::unique_ptr<Channel> take_channel() { return std::move(channel_); }

 private:
  std::unique_ptr<Channel> channel_;
  WipedBytes ahead_;
};

// Passes bytes between two until both directions have ended, or one side broke or reads nothing for
// `patience`, or `still()`, which is asked every kStillEvery, says no; keeps none of them.  A silent
// connection may last for ever.
inline constexpr std::chrono::seconds kStillEvery{5};
void relay(Duplex &a, Duplex &b, std::chrono::milliseconds patience, const std::function<bool()> &still = {});

}  // namespace coffer::http
#endif
