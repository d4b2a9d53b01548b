// MachineSignals: whoever waits for a Machine is woken when it may have changed.  Thread-safe.
#ifndef COFFER_API_MACHINE_SIGNALS_H
#define COFFER_API_MACHINE_SIGNALS_H

#include <map>
#include <memory>
#include <mutex>

#include "server/http/server.h"

namespace coffer::api {

class MachineSignals {
 public:
  std::shared_ptr<http::Signal> of(const std::string &machine) {
    const std::lock_guard lock(mutex_);
    std::erase_if(signals_, [](const auto &s) { return s.second.expired(); });
    auto signal = signals_[machine].lock();
    if (!signal) signals_[machine] = signal = std::make_shared<http::Signal>();
    return signal;
  }
  // "": any may have changed.
  void notify(const std::string &machine) {
    std::vector<std::shared_ptr<http::Signal>> woken;
    {
      const std::lock_guard lock(mutex_);
      for (const auto &[id, signal] : signals_)
        if (machine.empty() || id == machine)
          if (auto s = signal.lock()) woken.push_back(std::move(s));
    }
    for (const auto &s : woken) s->notify();
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<http::Signal>> signals_;
};

}  // namespace coffer::api
#endif
