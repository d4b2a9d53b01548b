// Agent: boots, watches and destroys the Machines of its host.
//
// Order of a boot (nothing is opened before it is needed; the old instance runs until the new one is ready):
//   plan -> create the new instance -> machine token -> open -> render -> stop the old instance -> start the
//   new one, and meanwhile remove the old one.  If a step fails, the new instance is removed; was the old one
//   stopped by then, its launch spec is booted again.
// Every Machine has a lease in the agent's own store, taken by a conditional commit: two processes never act
// on one Machine at once, and who finds the lease of a process that died finishes or undoes what it was
// doing. Thread rule: one thread at a time.
#ifndef COFFER_AGENT_AGENT_H
#define COFFER_AGENT_AGENT_H

#include <functional>
#include <set>

#include "coffer/keys/protocol.h"
#include "coffer/plugin_host/storage.h"

namespace coffer {

// What an instance was booted from.
struct InstanceRecord {
  std::string instance_id;
  Bytes handle;  // of the runtime; empty until it has created the instance
  Hash spec{};
  uint64_t spec_number = 0, version = 0, release = 0;
  uint64_t started_ms = 0;
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
  std::optional<End> end;  // of `current`, once it was noted; stopped without one: by order
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

struct BootOutcome {
  MachineState state;
  std::optional<Error> failed;  // why the new instance does not run
  bool went_back = false;       // then the previous launch spec runs again
  std::vector<std::string> warnings;
};

class Agent {
 public:
  struct Config {
    std::function<Result<Storage>()> open_store;                    // called once, when it is first needed
    std::function<Result<Runtime>()> open_runtime;                  // called once, when a Machine is touched
    std::function<Result<std::vector<Injector>>()> open_injectors;  // called once, when one is booted
    SigningKey host_key;
    std::vector<PublicKey> writers;
    PublicKey identity{};      // of the key service
    BootKeys *keys = nullptr;  // REQUIRES: outlives the agent
    int cancel_fd = -1;        // readable: end soon, in a clean state
    std::function<void(std::string_view machine, std::string_view step)> progress;
    std::function<void(std::string_view line)> image_progress;
  };
  static Agent create(Config config);

  const PublicKey &host() const { return config_.host_key.public_key(); }
  // The label by which the instances of this host are found again, whatever folder its state lies in.
  std::pair<std::string, std::string> label() const;

  // The immutable reference by which this host's runtime finds exactly this image (runtime.h); kNotFound: it
  // is not here and is not to be pulled.
  Result<std::string> ensure_image(const std::string &image, bool pull) const;

  // `way_back`: what runs now, to be booted again if `next` does not start; nullptr: nothing does.
  Result<BootOutcome> boot(const BootOrder &next, const BootOrder *way_back);
  // Boots the launch spec that ran before once more, after a newer one has run: the way back of a whole
  // release.
  // `instead_of`: only while this one runs; kAborted when another has got there.
  Result<BootOutcome> boot_again(const BootOrder &previous, std::optional<Hash> instead_of = {});
  // For whoever watches: `instance_id` ended by itself.  Its launch spec is booted once more; the record says
  // first that this is going to happen (note_end()).  These three wait for nobody: kAborted when it is not
  // the Machine's instance any more, runs, or was stopped by order; kUnavailable when another process is at
  // work with the Machine.
  Result<BootOutcome> boot_ended(const BootOrder &same, const std::string &instance_id);
  Result<void> note_end(const std::string &machine, const std::string &instance_id, State, const End &,
                        std::string_view message);
  // It runs, whatever was noted.
  Result<void> note_runs(const std::string &machine, const std::string &instance_id);
  // Opens what an env-only boot of `order` needs, for a command of this host (`coffer run`).
  Result<std::vector<Delivery>> open_environment(const BootOrder &order, const std::set<std::string> &only);

  // Before a Machine is known to anybody else: its state, with the lease held.  A state that nobody else
  // knows and whose lease is dead is the rest of a creation that was cut off.
  Result<void> reserve(const AppId &app, std::string_view app_name, const std::string &machine,
                       std::string_view name);
  Result<void> stop(const std::string &machine);
  // Finishes a stop that was cut off: nothing when somebody else has got at the Machine since it was `seen`.
  Result<void> finish_stop(const MachineState &seen);
  // Notes that an order to start (kStarting) or stop (kStopping) is about to be stored.  Rationale: this
  // store is trusted for freshness, the vault is not; without the note an old record put back would look like
  // an order.
  Result<void> announce(const std::string &machine, State next);
  // Waits for another process that is at work with the Machine; finishes or undoes what a dead one was doing.
  // Boots nothing.
  Result<void> finish_cut_off(const std::string &machine);
  // REQUIRES: the grant was revoked before.  Gone is fine.
  Result<void> destroy(const std::string &machine);

  Result<std::vector<MachineState>> states() const;
  Result<std::optional<MachineState>> state(const std::string &machine) const;
  Result<MachineView> view(const MachineState &) const;

  Result<void> logs(const MachineState &, const LogQuery &,
                    const std::function<bool(uint32_t, int64_t, ByteSpan)> &);
  // `in(buffer)` is called when `in_fd` is readable; 0 = end of input.  Answers the command's exit code.
  Result<int32_t> exec(const MachineState &, const std::vector<std::string> &argv,
                       const std::function<bool(uint32_t, ByteSpan)> &out,
                       const std::function<int64_t(std::span<uint8_t>)> &in, int in_fd);
  // Blocks until the Machine may have changed its state.
  Result<void> wait_change(const MachineState &, uint64_t timeout_ns);

  Result<const Runtime *> runtime() const;

 private:
  struct Held;  // a Machine whose lease is ours
  struct Plan;  // what goes where
  explicit Agent(Config config) : config_(std::move(config)) {}
  Result<const Storage *> store() const;
  Result<const std::vector<Injector> *> injectors() const;
  enum class Patience { kWait, kNone };  // with another process that has the lease
  Result<Held> take(const std::string &machine, const SignedSpec *first, Patience);
  template <class T, class F>
  Result<T> with_lease(const std::string &machine, const SignedSpec *first, F &&body,
                       Patience = Patience::kWait);
  Result<void> check_ended(const MachineState &, const std::string &instance_id) const;
  Result<BootOutcome> boot_held(Held &, const SignedSpec &, const BootOrder &next, const BootOrder *way_back);
  Result<void> save(Held &);
  Result<void> give_back(Held &);
  Result<void> recover(Held &);
  Result<void> stop_held(Held &);
  Result<void> clear_leftovers(Held &);
  Result<Plan> plan(const BootOrder &, const LaunchSpec &, const std::set<std::string> *only,
                    uint32_t vias) const;
  Result<std::vector<OpenedSecret>> open(const BootOrder &, const SignedSpec &,
                                         const std::string &instance_id,
                                         const std::vector<std::string> &names);
  Result<std::vector<Delivery>> render(const Plan &, const std::vector<OpenedSecret> &) const;
  Result<void> boot_once(Held &, const BootOrder &, const SignedSpec &, std::vector<std::string> &warnings,
                         bool &old_stopped);
  void note_started(MachineState &) const;  // its `current` runs: the receipt
  void step(const std::string &machine, std::string_view what) const;
  bool cancelled() const;
  CallOptions call_options(uint64_t timeout_ns) const;

  Config config_;
  // Then nothing is cancelled: the Machine would be left with no instance, or with the new one.
  bool going_back_ = false;
  mutable std::optional<Storage> store_;
  mutable std::optional<Runtime> runtime_;
  mutable std::optional<std::vector<Injector>> injectors_;
};

}  // namespace coffer
#endif
