// A Machine whose lease is ours, and what one boot of it is going to do.
#ifndef COFFER_AGENT_HELD_H
#define COFFER_AGENT_HELD_H

#include "coffer/agent/agent.h"

namespace coffer {

struct Agent::Held {
  MachineState state;
  uint64_t revision = 0;  // of the state in the store
  bool gone = false;      // destroyed: there is no lease to give back
};

// Takes the lease, runs `body(held)`, gives the lease back whatever came of it.
template <class T, class F>
Result<T> Agent::with_lease(const std::string &machine, const SignedSpec *first, F &&body,
                            Patience patience) {
  COFFER_TRY(Held held, take(machine, first, patience));
  Result<T> result = body(held);
  if (held.gone) return result;
  const auto given = give_back(held);
  if (result && !given) return std::unexpected(given.error());
  return result;
}

struct Agent::Plan {
  struct Piece {
    const Injector *injector;
    InjectRequest request;
    std::set<std::string> taken;  // by the injectors before it
    std::vector<Need> needs;
  };
  std::vector<Piece> pieces;
  std::vector<std::string> names;  // needed secrets, sorted
  std::vector<std::string> warnings;

  std::vector<Delivery> places() const;
  // What an instance of this config is made of with these secrets.
  void note_made_of(InstanceRecord &, const BootOrder &, const MachineConfig &) const;
};

// What a Machine runs, or is to be booted from next.
inline void becomes(InstanceRecord &i, const SignedSpec &spec) {
  i.spec = spec.hash;
  i.spec_number = spec.spec.number;
  i.version = spec.spec.version;
  i.release = spec.spec.release;
}

// The file at this place gets new values while its Machine runs (FileBinding::reload).
bool replaced_in_place(const MachineConfig &, const Delivery &);

struct Agent::Boot {
  bool old_stopped = false;  // the instance that ran before was, on the way
  bool start_tried = false;
  bool started = false;   // the new instance is the current one: what failed is its probation
  bool keep_old = false;  // for its log
  BootOutcome::Done done = BootOutcome::Done::kBooted;
  std::vector<std::string> warnings;
  std::string log;
  bool log_withheld = false;
};

}  // namespace coffer
#endif
