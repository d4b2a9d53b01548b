// HostHub: the agents that have dialled this API.  An agent always keeps one spare session here; who orders its host
// takes it for one request, and the agent dials the next.
// Thread rule: any number of threads.
#ifndef COFFER_API_HOST_HUB_H
#define COFFER_API_HOST_HUB_H

#include <condition_variable>
#include <deque>
#include <thread>

#include "coffer/agent/host_link.h"
#include "server/http/server.h"

namespace coffer::api {

class HostHub {
 public:
  struct Config {
    std::function<Result<void>(const PublicKey &)> admit;  // a host that has proved to be it: is it welcome?
    std::function<void()> came;  // a host is there and none was: in a thread of the hub
  };
  explicit HostHub(Config);
  ~HostHub();  // REQUIRES: nobody is in serve() or host() any more

  // The upgraded connection of a GET kSessionPath, until it ends.
  void serve(http::Duplex &);
  // One of the hosts that are connected, for one request.  kUnavailable: none is, and none came within
  // seconds.
  Result<std::unique_ptr<MachineHost>> host();

 private:
  struct Spare {
    PublicKey host;
    MessageSocket link;
  };
  void put(Spare);
  void tell();

  Config config_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Spare> spares_;
  size_t sessions_ = 0;
  bool news_ = false, ends_ = false;
  std::thread teller_;
};

}  // namespace coffer::api
#endif
