// HostHub: the agents that have dialled this API.  An agent always keeps one spare session here; who asks its
// host for something takes one for one request, and the agent dials the next.  A session in which nothing was
// changed is kept for the next request. Thread rule: any number of threads.
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
    // A host that has proved to be it: is it welcome?  Asked again whenever a session of it is taken.
    std::function<Result<void>(const PublicKey &)> admit;
    std::function<void()> came;  // a host is there and none was: in a thread of the hub
    // A Machine may have changed; "": any may have.  In a thread of the hub.
    std::function<void(const std::string &machine)> changed;
    std::chrono::milliseconds patience{5000};  // with an agent that has gone: it dials again in less
  };
  explicit HostHub(Config);
  ~HostHub();  // REQUIRES: nobody is in serve() or host() any more

  // `came` is called once more, if a host is there.
  void remind();

  // The upgraded connection of a GET kSessionPath, until it ends.
  void serve(http::Duplex &);
  // One of the hosts that are connected, for one request.  kUnavailable: none is, and none was within
  // seconds.
  // `which`: this one and no other.
  Result<std::unique_ptr<HostClient>> host(Steps steps = {}, const std::optional<PublicKey> &which = {});

 private:
  struct Spare {
    PublicKey host;
    MessageSocket link;
  };
  class Borrowed;
  Result<Spare> take(const std::optional<PublicKey> &which = {});
  void give_back(Spare);
  void tell();
  void watch();

  Config config_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Spare> spares_;
  // Strangers have not said who they are; who arrives has, and is looked up.
  size_t sessions_ = 0, strangers_ = 0, arriving_ = 0;
  http::Clock::time_point last_seen_ = http::Clock::now();
  bool news_ = false, ends_ = false;
  int watched_ = -1;  // the link of watch()
  std::thread teller_, watcher_;
};

}  // namespace coffer::api
#endif
