// MachineChanges: which Machines of a host have changed, for whoever waits for that: agents tell, sessions
// wait. Thread-safe.
#ifndef COFFER_AGENT_MACHINE_CHANGES_H
#define COFFER_AGENT_MACHINE_CHANGES_H

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

namespace coffer {

class MachineChanges {
 public:
  struct News {
    uint64_t count = 0;                 // to be asked with the next time
    bool all = false;                   // more than is kept: any Machine may have changed
    std::vector<std::string> machines;  // ids; may name one twice
  };

  void tell(const std::string &machine) {
    {
      const std::lock_guard lock(mutex_);
      ++count_;
      kept_.push_back(machine);
      if (kept_.size() > kKept) kept_.pop_front();
    }
    changed_.notify_all();
  }
  // Nobody waits any more.
  void end() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
  }
  // What has changed since `seen`; empty after `patience`.  Any count of another host is as good as 0: all.
  News since(uint64_t seen, std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, patience, [&] { return count_ != seen || ended_; });
    News news{count_, seen > count_ || count_ - seen > kept_.size(), {}};
    if (!news.all)
      news.machines.assign(kept_.end() - static_cast<std::ptrdiff_t>(count_ - seen), kept_.end());
    return news;
  }

 private:
  static constexpr size_t kKept = 256;
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t count_ = 1;  // of what was told; 0 has seen nothing
  bool ended_ = false;
  std::deque<std::string> kept_;
};

}  // namespace coffer
#endif
