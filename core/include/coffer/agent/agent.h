// Agent: boots, watches and destroys the Machines of its host.
//
// Order of a boot (nothing is opened before it is needed; the old instance runs until the new one is ready):
//   plan -> create the new instance -> machine token -> open -> render -> stop the old instance -> start the
//   new one, and meanwhile remove the old one -> its probation (probation.cc).  If a step fails, the new
//   instance is stopped and kept for its log; was the old one stopped by then, its launch spec is booted
//   again.
// Every Machine has a lease in the agent's own store, taken by a conditional commit: two processes never act
// on one Machine at once, and who finds the lease of a process that died finishes or undoes what it was
// doing. Thread rule: one thread at a time.
#ifndef COFFER_AGENT_AGENT_H
#define COFFER_AGENT_AGENT_H

#include "coffer/agent/machine_changes.h"
#include "coffer/agent/machine_host.h"
#include "coffer/keys/protocol.h"
#include "coffer/plugin_host/storage.h"

namespace coffer {

class Agent : public MachineHost {
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
    int caller_fd = -1;        // readable: whoever asked for logs or exec has gone; -1: cancel_fd says it
    // Whose leases are ours: another one for each of several agents of one process (worker_identity()).
    std::shared_ptr<const std::string> owner = {};
    std::function<void(std::string_view machine, std::string_view step)> progress;
    std::function<void(std::string_view line)> image_progress;
    MachineChanges *changes = nullptr;  // is told; outlives the agent
    // Folders of the host that Machines may mount, exactly these; nullopt: any.
    // Rationale: no folder below them, for a Machine that may write into one could put a link there.
    std::optional<std::vector<std::string>> mounts = {};
    // Who waits for values with that ticket; absent: this host hands none out.
    std::function<Result<TakeValues>(const Ticket &)> receiver = {};
  };
  static Agent create(Config config);

  const PublicKey &host() const override { return config_.host_key.public_key(); }
  Result<std::string> ensure_image(const std::string &image, bool pull) const override;
  Result<BootOutcome> boot(const BootOrder &next, const BootOrder *way_back, const Probation & = {}) override;
  Result<BootOutcome> boot_again(const BootOrder &previous, std::optional<Hash> instead_of = {}) override;
  Result<BootOutcome> boot_ended(const BootOrder &same, const std::string &instance_id) override;
  Result<void> hand_over(const BootOrder &order, const std::set<std::string> &only, const Ticket &) override;
  Result<void> reserve(const AppId &app, std::string_view app_name, const std::string &machine,
                       std::string_view name) override;
  Result<void> stop(const std::string &machine) override;
  Result<void> finish_stop(const MachineState &seen) override;
  Result<void> announce(const std::string &machine, State next) override;
  Result<void> finish_cut_off(const std::string &machine) override;
  Result<void> destroy(const std::string &machine) override;
  Result<std::vector<MachineState>> states() const override;
  Result<std::optional<MachineState>> state(const std::string &machine) const override;
  Result<MachineView> view(const MachineState &) const override;
  Result<std::vector<MachineView>> views(const AppId &) const override;
  Result<void> logs(const MachineState &, const LogQuery &,
                    const std::function<bool(uint32_t, int64_t, ByteSpan)> &) override;
  Result<int32_t> exec(const MachineState &, const std::vector<std::string> &argv,
                       const std::function<bool(uint32_t, ByteSpan)> &out,
                       const std::function<int64_t(std::span<uint8_t>)> &in, int in_fd) override;
  Result<void> wait_change(const MachineState &, uint64_t timeout_ns) override;

  // ---- for whoever watches, as boot_ended() ----
  // The end of an instance, and whether it is going to be booted again: said before it is.
  Result<void> note_end(const std::string &machine, const std::string &instance_id, State, const End &,
                        std::string_view message);
  // It runs, whatever was noted.
  Result<void> note_runs(const std::string &machine, const std::string &instance_id);
  // The label by which the instances of this host are found again, whatever folder its state lies in.
  std::pair<std::string, std::string> label() const;
  Result<const Runtime *> runtime() const;
  // Another one than this is at work with the Machine.
  bool busy(const MachineState &) const;

 private:
  struct Held;  // a Machine whose lease is ours
  struct Plan;  // what goes where
  struct Boot;  // how far one has come
  explicit Agent(Config config);
  Result<const Storage *> store() const;
  Result<const std::vector<Injector> *> injectors() const;
  enum class Patience { kWait, kNone };  // with another process that has the lease
  Result<Held> take(const std::string &machine, const SignedSpec *first, Patience);
  template <class T, class F>
  Result<T> with_lease(const std::string &machine, const SignedSpec *first, F &&body,
                       Patience = Patience::kWait);
  Result<void> check_ended(const MachineState &, const std::string &instance_id) const;
  Result<BootOutcome> boot_held(Held &, const SignedSpec &, const BootOrder &next, const BootOrder *way_back,
                                const Probation &);
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
  // Lets the instance that runs have a newer launch spec, and new values in its files.  False: it takes a
  // new instance.
  Result<bool> stay(Held &, const BootOrder &, const SignedSpec &, const Probation &, Boot &);
  Result<void> boot_once(Held &, const BootOrder &, const SignedSpec &, const Probation &, Boot &);
  Result<void> prove(const MachineState &, const MachineConfig &, const Probation &,
                     const std::function<Result<void>()> &still_wanted);
  Result<void> try_once(const MachineState &, const Check &);
  void take_log(ByteSpan handle, const BootOrder &, const std::vector<OpenedSecret> *, Boot &) const;
  MachineView stored_view(const MachineState &) const;  // without what the runtime says
  void note_started(MachineState &) const;  // its `current` runs: the receipt
  void step(const std::string &machine, std::string_view what) const;
  void tell(const std::string &machine) const {
    if (config_.changes) config_.changes->tell(machine);
  }
  bool cancelled() const;
  CallOptions call_options(uint64_t timeout_ns) const;
  CallOptions stream_options() const;

  Config config_;
  // Then nothing is cancelled: the Machine would be left with no instance, or with the new one.
  bool going_back_ = false;
  mutable std::optional<Storage> store_;
  mutable std::optional<Runtime> runtime_;
  mutable std::optional<std::vector<Injector>> injectors_;
};

}  // namespace coffer
#endif
