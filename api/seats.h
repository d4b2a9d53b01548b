// Seats: what one request works with.  Vault, storage and the key service's client are for one thread at a
// time, so each request at work has its own, made when it is first needed and kept.  Thread-safe.
#ifndef COFFER_API_SEATS_H
#define COFFER_API_SEATS_H

#include <memory>
#include <mutex>

#include "coffer/audit/audit_log.h"
#include "coffer/keys/key_socket.h"
#include "coffer/tokens/authority.h"
#include "coffer/vault/vault.h"

namespace coffer::api {

struct Seat {
  Vault vault;
  KeyClient keys;
  TokenAuthority tokens;
};

class Seats {
 public:
  using Make = std::function<Result<std::unique_ptr<Seat>>()>;
  explicit Seats(Make make) : make_(std::move(make)) {}
  using Lease = std::unique_ptr<Seat, std::function<void(Seat *)>>;
  Result<Lease> take() {
    std::unique_ptr<Seat> seat;
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        seat = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (!seat) {
      COFFER_TRY(seat, make_());
    }
    return Lease(seat.release(), [this](Seat *s) {
      const std::lock_guard lock(mutex_);
      if (free_.size() < kKept)
        free_.emplace_back(s);
      else
        delete s;
    });
  }

 private:
  static constexpr size_t kKept = 16;  // above, one ends with its request
  Make make_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Seat>> free_;
};

}  // namespace coffer::api
#endif
