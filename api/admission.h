// Admission: which hosts the key service knows, as of a second ago at most.  While it is away, those that it
// has named before.  Thread-safe.
#ifndef COFFER_API_ADMISSION_H
#define COFFER_API_ADMISSION_H

#include <mutex>
#include <set>

#include "coffer/keys/key_socket.h"
#include "server/http/channel.h"

namespace coffer::api {

class Admission {
 public:
  explicit Admission(std::string socket) : keys_(std::move(socket)) {}
  // kPermissionDenied: it is not enrolled, or not any more.
  Result<void> operator()(const PublicKey &host);

 private:
  bool knows(const PublicKey &host, http::Clock::duration age);
  std::mutex asking_;  // keys_
  KeyClient keys_;
  std::mutex mutex_;
  std::set<PublicKey> known_;
  http::Clock::time_point asked_{};
};

}  // namespace coffer::api
#endif
