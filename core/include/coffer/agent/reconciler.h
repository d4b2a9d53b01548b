// Reconciler: keeps the Machines of this host in their desired state (`coffer agent`).
//
// It hears from the runtime when an instance changes, and then looks at that one Machine; when it begins, and
// when the platform was gone meanwhile, at everything.  Whatever it does happens under the Machine's lease,
// on what Orders and runtime say while it is held: it passes by a Machine that another process is at work
// with.
//
// An instance that ended although its Machine is wanted:
//   seen     while this watched: by the Machine's restart policy, after 1, 2, 4 ... 60 s
//   unseen   while nobody watched, or up to 30 s before the platform was gone (its shutdown may have ended
//   it):
//            booted again, also after exit code 0, unless the policy is `no`
//   foreign  after somebody else had started it again, which gives it no secrets: booted again
// Booted again is the launch spec that ran, with the manifest that it names; no new release.
// Thread rule: one thread at a time.
#ifndef COFFER_AGENT_RECONCILER_H
#define COFFER_AGENT_RECONCILER_H

#include <chrono>

#include "coffer/agent/agent.h"

namespace coffer {

class Watch;

// What the Machines of this host are wanted to be.  Asks the agent that the reconciler has.
class Orders {
 public:
  struct Wanted {
    Desired desired = Desired::kStarted;
    std::optional<MachineView> view;  // absent: it is not to be looked after
  };
  virtual ~Orders() = default;
  // Finishes or undoes what processes that died have left of the Machine's App, and boots what they had
  // stopped. Answers what could not be booted.
  virtual Result<std::vector<std::string>> finish_cut_off(const MachineState &) = 0;
  // Something was left that the state of no Machine shows.
  virtual Result<bool> left_over(const AppId &) { return false; }
  virtual Result<Wanted> look_at(const MachineState &) = 0;
  // These two are about the Machine that look_at() was asked for last, and its instance.
  virtual Result<RestartPolicy> restart_policy() = 0;  // of what it was booted from
  virtual Result<BootOutcome> boot_ended() = 0;        // as MachineHost's
};

class Reconciler {
 public:
  using Time = std::chrono::steady_clock::time_point;
  struct Config {  // REQUIRES: what it points to outlives it
    Orders *orders = nullptr;
    Agent *agent = nullptr;
    std::function<Result<Runtime>()> open_runtime;  // another one than the agent's: its calls block
    int cancel_fd = -1;                             // readable: end
    std::function<void()> at_rest = {};             // something was done, and nothing is left to do for now
    std::function<Time()> now = std::chrono::steady_clock::now;
  };
  static Reconciler create(Config);
  Reconciler(Reconciler &&) noexcept;
  ~Reconciler();

  // Until it is cancelled.  An error is one that does not pass by itself.
  Result<void> run();
  // One look at everything.  Answers how many Machines are not as they are wanted.
  Result<size_t> once();

  // What run() is made of.
  Result<void> look_at_everything(bool anew);  // `anew`: nobody watched before
  void changed(const std::string &machine);
  void lost(const Error &why);
  // Does what is due; answers when to call it again.
  Time tend();

 private:
  struct Watched {
    std::string instance;         // the Machine's current one
    uint64_t updated_ms = 0;      // of its state when it was looked at last
    bool unseen = false;          // what is found now happened while nobody watched
    bool platform_ended = false;  // its noted end may be the platform's doing
    bool foreign = false;         // said
    unsigned tries = 0;           // since it stayed up
    std::optional<Time> up, ended, due;
    std::string complaint;  // said last
    bool wrong = false;
  };
  explicit Reconciler(Config);
  bool cancelled() const;
  void say(const MachineState &, std::string_view what, bool warn = false) const;
  void complain(const MachineState &, const Error &);
  std::chrono::seconds pause(Watched &) const;
  Result<void> sweep();
  void tidy(const std::vector<MachineState> &, const std::function<bool(const MachineState &)> &needed);
  Result<void> glance();
  Result<void> look(const MachineState &, Watched &);
  Result<void> judge(const MachineView &, Watched &);
  Result<void> boot(const MachineState &, Watched &);

  Config config_;
  std::unique_ptr<Watch> watch_;
  bool listens_ = false, worked_ = false;
  Time next_glance_{};
  std::map<std::string, Watched> machines_;
};

}  // namespace coffer
#endif
