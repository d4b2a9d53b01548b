#include "crew.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "coffer/base/log.h"

namespace coffer {
namespace {
constexpr auto kBeat = std::chrono::seconds(5);
}

void Crew::each(size_t n, const std::function<void(size_t, MachineHost &)> &work,
                const std::function<void()> &beat) {
  const size_t wanted = std::min(n, most_);
  while (more_ && others_.size() + 1 < wanted) {
    auto another = more_();
    if (!another) {
      log(LogLevel::kWarn, "release", "fewer at once: " + another.error().message);
      break;
    }
    others_.push_back(*std::move(another));
  }
  std::mutex mutex;
  std::condition_variable changed;
  size_t next = 0, at_work = 0;
  const auto run = [&](MachineHost &host) {
    std::unique_lock lock(mutex);
    while (next < n) {
      const size_t i = next++;
      lock.unlock();
      work(i, host);
      lock.lock();
    }
    --at_work;
    changed.notify_all();
  };
  std::vector<std::thread> threads;
  at_work = std::min(wanted, others_.size() + 1);
  for (size_t i = 0; i < std::min(wanted, others_.size() + 1); ++i) {
    MachineHost &host = i == 0 ? first_ : *others_[i - 1];
    threads.emplace_back([&run, &host] { run(host); });
  }
  {
    std::unique_lock lock(mutex);
    while (!changed.wait_for(lock, kBeat, [&] { return at_work == 0; })) {
      lock.unlock();
      beat();
      lock.lock();
    }
  }
  for (std::thread &t : threads) t.join();
}

}  // namespace coffer
