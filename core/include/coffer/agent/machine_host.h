// MachineHost: a host as whoever gives it orders sees it.  The agent itself where both are one process, else
// its socket (host_link.h).  Everything it is told of a Machine is signed elsewhere: it needs no trust to be
// asked. Thread rule: one thread at a time.
#ifndef COFFER_AGENT_MACHINE_HOST_H
#define COFFER_AGENT_MACHINE_HOST_H

#include <functional>
#include <set>

#include "coffer/format/machine.h"
#include "coffer/format/manifest.h"
#include "coffer/plugin_host/injector.h"
#include "coffer/plugin_host/runtime.h"

namespace coffer {

// What an instance was booted from.
struct InstanceRecord {
  std::string instance_id;
  Bytes handle;  // of the runtime; empty until it has created the instance
  Hash spec{};
  uint64_t spec_number = 0, version = 0, release = 0;
  uint64_t started_ms = 0;
  // What it was made of: all that takes a new instance to change, and the value in each file that is replaced
  // in it (FileBinding::reload).  Zeros: not known.
  Hash made_of{};
  std::vector<Hash> files;
  // Its files were being replaced when that was cut off: nobody knows what is in them, and only a new instance
  // ends that.
  bool mixed() const;
};

enum class State : uint8_t { kCreated = 1, kStarting, kStarted, kStopping, kStopped, kFailed, kDestroyed };
std::string_view to_string(State);

// How an app ended by itself.
struct End {
  int32_t exit_code = 0, exit_signal = 0;
  uint64_t at_ms = 0;
  bool again = false;  // it is going to be booted again
};

// What the agent keeps of one Machine.
struct MachineState {
  AppId app_id{};
  std::string app, machine, name;
  State state = State::kCreated;          // by our own doing; the runtime knows whether it still holds
  std::optional<InstanceRecord> current;  // runs, or ran last
  std::optional<InstanceRecord> pending;  // being booted
  std::vector<Bytes> leftovers;           // handles of instances to destroy
  Hash last_good{};                       // launch spec of the last instance that started
  Bytes receipt;                          // signed by the host: what runs
  std::string message;                    // why it is in this state
  std::string lease_owner;                // empty: free
  uint64_t lease_attempt = 0, lease_until_ms = 0;
  uint64_t updated_ms = 0;
  std::optional<End> end;                // of `current`, once it was noted; stopped without one: by order
  std::optional<InstanceRecord> failed;  // the last one that was no good, stopped: kept for its log
  bool owner_alive = false;              // not stored: whether `lease_owner` lived when this was read
};

// A boot was cut off: the next boot finishes or undoes it.
bool cut_off(const MachineState &);

// A Machine as it is now.
struct MachineView {
  MachineState state;
  State now = State::kCreated;  // what the runtime says, where an instance should run
  std::string message;
  std::optional<int32_t> exit_code;  // of an instance that ended
  int32_t exit_signal = 0;
  std::optional<InstanceStatus> instance;  // the runtime's word on `current`
  bool cut_off = false;                    // as above
  bool busy = false;                       // another process is booting or stopping it right now
};

// The order to boot one Machine: a signed launch spec, and where its sealed values come from.
struct BootOrder {
  std::string app;
  Bytes spec;                  // signed
  std::vector<Entry> secrets;  // of the manifest that the spec names
  struct Sealed {
    std::vector<Bytes> headers;  // from the newest one seen to the head
    Bytes proof_header, proof_body;
    std::vector<Bytes> proof_parts;
    std::vector<std::pair<std::string, Bytes>> records;
  };
  std::function<Result<Sealed>(const std::vector<std::string> &names)> fetch;
  // Asked when the lease is held, before anything is done: kAborted when the Machine was stopped or destroyed
  // after the order was given.  Absent: yes.
  std::function<Result<void>()> still_wanted = {};
};

// What an instance that was just booted has to do before it counts as good.
struct Probation {
  // The one that runs may stay where nothing else changes than files that are replaced in it; where none
  // does, it has nothing to prove.
  bool may_stay = false;
  uint64_t smoke_ms = 0;     // it stays up
  bool checks = false;       // those of its config pass
  uint64_t patience_ms = 0;  // with these
};

struct BootOutcome {
  enum class Done : uint8_t { kBooted = 0, kReloaded, kUnchanged };  // the last two: the instance stayed
  MachineState state;
  Done done = Done::kBooted;
  std::optional<Error> failed;  // why the new instance does not run
  bool went_back = false;       // then the previous launch spec runs again
  std::vector<std::string> warnings;
  std::string log;  // the last lines of the instance that failed, values redacted; lines end with \n
  bool log_withheld = false;  // values that short, or not known: `machine logs --failed` has them
};

// A process of a host that values are handed over to, by what it was told there; zeros in embedded mode.
using Ticket = std::array<uint8_t, 32>;
struct Receiver {
  PublicKey host{};
  Ticket ticket{};
};
using TakeValues = std::function<Result<void>(std::vector<Delivery> &)>;  // may move them away

class MachineHost {
 public:
  virtual ~MachineHost() = default;
  virtual const PublicKey &host() const = 0;
  // After kUnavailable: the next call reaches it anew, if it has come back.
  virtual void renew() {}

  // The immutable reference by which this host's runtime finds exactly this image (runtime.h); kNotFound: it
  // is not here and is not to be pulled.
  virtual Result<std::string> ensure_image(const std::string &image, bool pull) const = 0;

  // `way_back`: what runs now, to be booted again if `next` does not start or is no good; nullptr: nothing
  // does.  Where `next` runs already, only its probation is left to do.
  virtual Result<BootOutcome> boot(const BootOrder &next, const BootOrder *way_back,
                                   const Probation & = {}) = 0;
  // Boots the launch spec that ran before once more, after a newer one has run: the way back of a whole
  // release.  Nothing when it runs.
  // `instead_of`: only while this one runs; kAborted when another has got there.
  virtual Result<BootOutcome> boot_again(const BootOrder &previous, std::optional<Hash> instead_of = {}) = 0;
  // `instance_id` ended by itself.  Its launch spec is booted once more; waits for nobody: kAborted when it
  // is not the Machine's instance any more, runs, or was stopped by order; kUnavailable when another process
  // is at work with the Machine.
  virtual Result<BootOutcome> boot_ended(const BootOrder &same, const std::string &instance_id) = 0;
  // Opens what an env-only boot of `order` needs (`only`: of these secrets; empty: of all), for a command of
  // this host (`coffer run`), and gives it to who waits for it there.  kNotFound: nobody does.
  virtual Result<void> hand_over(const BootOrder &order, const std::set<std::string> &only,
                                 const Ticket &) = 0;

  // Before a Machine is known to anybody else: its state, with the lease held.  A state that nobody else
  // knows and whose lease is dead is the rest of a creation that was cut off.
  virtual Result<void> reserve(const AppId &app, std::string_view app_name, const std::string &machine,
                               std::string_view name) = 0;
  virtual Result<void> stop(const std::string &machine) = 0;
  // Finishes a stop that was cut off: nothing when somebody else has got at the Machine since it was `seen`.
  virtual Result<void> finish_stop(const MachineState &seen) = 0;
  // Notes that an order to start (kStarting) or stop (kStopping) is about to be stored.  Rationale: the
  // host's store is trusted for freshness, the vault is not; without the note an old record put back would
  // look like an order.
  virtual Result<void> announce(const std::string &machine, State next) = 0;
  // Waits for another process that is at work with the Machine; finishes or undoes what a dead one was doing.
  // Boots nothing.
  virtual Result<void> finish_cut_off(const std::string &machine) = 0;
  // REQUIRES: the grant was revoked before.  Gone is fine.
  virtual Result<void> destroy(const std::string &machine) = 0;

  virtual Result<std::vector<MachineState>> states() const = 0;
  virtual Result<std::optional<MachineState>> state(const std::string &machine) const = 0;
  virtual Result<MachineView> view(const MachineState &) const = 0;
  // Of all Machines of the App, at once: without what only inspecting each one would tell (exit codes).
  virtual Result<std::vector<MachineView>> views(const AppId &) const = 0;

  virtual Result<void> logs(const MachineState &, const LogQuery &,
                            const std::function<bool(uint32_t, int64_t, ByteSpan)> &) = 0;
  // `in(buffer)` is called when `in_fd` is readable; 0 = end of input.  Answers the command's exit code.
  virtual Result<int32_t> exec(const MachineState &, const std::vector<std::string> &argv,
                               const std::function<bool(uint32_t, ByteSpan)> &out,
                               const std::function<int64_t(std::span<uint8_t>)> &in, int in_fd) = 0;
  // Blocks until the Machine may have changed its state.
  virtual Result<void> wait_change(const MachineState &, uint64_t timeout_ns) = 0;
};

}  // namespace coffer
#endif
