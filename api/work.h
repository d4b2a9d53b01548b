// Work that takes long, on a thread of its own: whoever asked reads lines about it, or waits for its end, and
// its place among the workers is somebody else's meanwhile.
#ifndef COFFER_API_WORK_H
#define COFFER_API_WORK_H

#include <thread>

#include "coffer/agent/host_link.h"
#include "server/http/server.h"

namespace coffer::api {

using Answer = Result<http::Response>;

class Work {
 public:
  ~Work() {
    if (thread_.joinable()) thread_.join();
  }
  void begin(std::function<Answer()> work) {
    thread_ = std::thread([this, work = std::move(work)] {
      Answer answer = work();
      const std::lock_guard lock(mutex_);
      answer_ = std::move(answer);
      news_.notify();
    });
  }
  // In the thread of the work.
  void say(std::string_view machine, std::string_view step);
  // The answer.  Waits for it whether or not the client is there: what was begun is done to its end.
  // `each`: has what was said as lines of JSON, and an empty line now and then; false: the client has gone.
  Answer wait(http::Context &, const std::function<bool(const std::string &lines)> &each = {});

 private:
  std::mutex mutex_;
  std::string said_;
  std::optional<Answer> answer_;
  http::Signal news_;
  std::thread thread_;
};

}  // namespace coffer::api
#endif
