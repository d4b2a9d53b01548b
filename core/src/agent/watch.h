// Watch: what a thread of its own hears from the runtime about the instances of this host.
// Thread rule: one thread at a time, beside its own.
#ifndef COFFER_RELEASE_WATCH_H
#define COFFER_RELEASE_WATCH_H

#include <chrono>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "coffer/plugin_host/runtime.h"

namespace coffer {

class Watch {
 public:
  // Since it was asked last.  First the loss, then the rest.
  struct News {
    std::optional<Error> lost;       // the platform is, or was, gone
    bool listens = false;            // from now on nothing is missed: time for a look at everything
    std::set<std::string> machines;  // ids; may have changed
    bool overflow = false;           // more have changed than it keeps
  };

  // Made of `runtime`, whose calls block: not the one that the other thread uses.
  Watch(Runtime runtime, std::pair<std::string, std::string> label);
  Watch(const Watch &) = delete;
  Watch &operator=(const Watch &) = delete;
  ~Watch();  // ends the thread

  int fd() const { return news_fd_; }  // readable: there are news
  News take();

 private:
  void listen();
  Result<void> hear();
  Result<void> look_each_second();
  void tell(const std::function<void(News &)> &change);
  bool stopped_within(std::chrono::milliseconds) const;

  Runtime runtime_;
  const std::vector<std::pair<std::string, std::string>> labels_;
  int news_fd_, stop_fd_;
  std::mutex mutex_;
  News news_;
  std::thread thread_;
};

}  // namespace coffer
#endif
