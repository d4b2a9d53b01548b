// Crew: hosts that boot Machines at once, each in a thread of its own.
#ifndef COFFER_RELEASE_CREW_H
#define COFFER_RELEASE_CREW_H

#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "coffer/agent/machine_host.h"

namespace coffer {

class Crew {
 public:
  using NewHost = std::function<Result<std::unique_ptr<MachineHost>>()>;
  // `first` works as well.  REQUIRES: it outlives this.
  Crew(MachineHost &first, NewHost more, size_t most)
      : first_(first), more_(std::move(more)), most_(most ? most : 1) {}

  // work(i, host) for each i below n, as many at once as there are hosts.  Meanwhile `beat()` is called now
  // and then, in this thread.
  void each(size_t n, const std::function<void(size_t, MachineHost &)> &work,
            const std::function<void()> &beat);

 private:
  MachineHost &first_;
  NewHost more_;
  size_t most_;
  std::vector<std::unique_ptr<MachineHost>> others_;
};

}  // namespace coffer
#endif
