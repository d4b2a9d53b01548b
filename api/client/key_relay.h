// KeyRelay: a host's way to the key service through coffer-api, where it cannot reach the socket.  What
// passes is signed by the host, and what comes back opens for nobody else: the API learns nothing from it.
#ifndef COFFER_API_CLIENT_KEY_RELAY_H
#define COFFER_API_CLIENT_KEY_RELAY_H

#include <atomic>
#include <coffer/posix.hpp>
#include <list>
#include <thread>

#include "coffer/format/signed.h"
#include "server/http/client.h"

namespace coffer::api {

class KeyRelay {
 public:
  // `urls`: APIs that stand for one key service; they are tried in this order.
  KeyRelay(std::vector<std::string> urls, std::string ca_file, SecretBytes host_seed, int cancel_fd)
      : urls_(std::move(urls)),
        ca_file_(std::move(ca_file)),
        host_seed_(std::move(host_seed)),
        cancel_fd_(cancel_fd) {}
  ~KeyRelay();  // REQUIRES: what it dialled is closed
  // For KeyClient.  Thread-safe.
  Result<sdk::Fd> dial();

 private:
  Result<std::unique_ptr<http::Duplex>> connect(const std::string &url) const;
  struct Carrier {
    std::thread thread;
    std::atomic<bool> done{false};
  };
  const std::vector<std::string> urls_;
  const std::string ca_file_;
  const SecretBytes host_seed_;
  const int cancel_fd_;
  std::mutex mutex_;
  std::list<Carrier> carriers_;
};

}  // namespace coffer::api
#endif
