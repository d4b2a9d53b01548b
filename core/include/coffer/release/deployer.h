// Deployer: what the API does with an App and its Machines.  Writes manifests, makes launch specs, grants and
// revokes, and has the agent boot.  It never sees a value.
// Thread rule: one thread at a time.
#ifndef COFFER_RELEASE_DEPLOYER_H
#define COFFER_RELEASE_DEPLOYER_H

#include <chrono>
#include <mutex>

#include "coffer/agent/machine_host.h"
#include "coffer/base/process.h"
#include "coffer/keys/protocol.h"
#include "coffer/vault/vault.h"

namespace coffer {

// A Machine as the vault wants it and the agent has it.
struct MachineStatus {
  StoredMachine stored;
  SignedSpec spec;                     // the newest launch spec
  std::optional<MachineView> view;     // absent: this host does not have it
  std::optional<MachineConfig> older;  // of what its instance was booted from, when that is not `spec`

  State now() const { return view ? view->now : State::kCreated; }
  bool started() const { return now() == State::kStarted; }
  // Of the manifest that its current instance was booted with; 0: none.
  uint64_t version() const { return view && view->state.current ? view->state.current->version : 0; }
  uint64_t release() const { return view && view->state.current ? view->state.current->release : 0; }
};

struct MachineResult {
  std::string id, name;
  // "started", "reloaded" or "unchanged" (its instance stayed), "kept" (the previous instance runs),
  // "superseded" (by others), "failed", "skipped", "removed"
  std::string result;
};

struct RolloutResult {
  uint64_t release = 0;  // 0: there was nothing to roll out
  uint64_t version = 0;
  uint64_t already = 0;  // nothing to roll out: that release has it, and each started Machine runs it
  bool joined = false;   // another process rolled it out
  std::vector<MachineResult> machines;
  std::optional<Error> failed;  // the first failure, with the Machine's name
  std::string log;              // of that Machine: its last lines, values redacted
  bool log_withheld = false;    // `machine logs --failed` has them
  bool unfinished = false;      // it could not be brought to its end: the next one goes on
  std::vector<std::string> warnings;
};

// What a roll-out is made for.
struct RolloutOrder {
  std::string reason;
  bool force = false;  // also when no Machine waits for it, and each gets a new instance
  bool hasty = false;  // without smoke time and checks
};

// The Machines of an App config: one a process, and more where there are more.
struct DeployOrder {
  std::string reason = "deploy";
  std::vector<MachineConfig> configs;  // each with its process, and its image as it was asked for
  DeployWish policy = {};
  bool pull = false, hasty = false;
};

// A roll-out that is under way, or was cut off.
struct RolloutView {
  Rollout rollout;
  bool alive = false;  // somebody is at work with it
};

struct Rotated {
  uint32_t from = 0, epoch = 0;  // of the App's key, before and now
  bool went_on = false;          // a rotation that was cut off was finished; there was no other one
  uint64_t version = 0;          // of the newest manifest
  size_t secrets = 0;            // that were sealed anew
  uint32_t oldest = 0;           // the oldest epoch that is still needed
  RolloutResult rollout;         // of --now
  std::vector<std::string> warnings;
};

enum class SecretStatus { kDeployed, kStaged, kPartial, kRemoved, kUnknown };  // kUnknown: the host is away
std::string_view to_string(SecretStatus);

struct SecretView {
  Entry entry;
  SecretStatus status;
};

// kNotFound: the App has no Machine of that id or name.
Error no_machine(const App &, std::string_view id_or_name);

// The Machine is booted anew when its App is rolled out.
bool to_be_rolled_out(const MachineStatus &);

enum class PlannedChange { kAdd, kChange, kRemove };
std::string_view to_string(PlannedChange);

// What becomes of a Machine.  Where its runtime cannot replace files, kReload is a restart.
enum class PlannedEffect : uint8_t { kNone, kReload, kRestart };
std::string_view to_string(PlannedEffect);

// What a roll-out would do now.
struct Plan {
  struct Machine {
    std::string id, name;
    uint64_t version = 0;  // that it has; 0: none
    PlannedEffect effect = PlannedEffect::kRestart;
  };
  uint64_t version = 0;                          // that it would bring
  std::map<std::string, PlannedChange> secrets;  // for one of the Machines at least
  std::vector<Machine> machines;                 // that would get it; empty: there is nothing to do
};

// One version of an App's secrets.
struct VersionView {
  uint64_t version = 0, created_ms = 0;
  std::string who;
  uint64_t restored_from = 0;             // made by a restore: the version that came before; 0: it was not
  std::vector<std::string> set, removed;  // of the oldest one that is kept only what was set is known
};

class Deployer {
 public:
  // REQUIRES: all of them outlive it.  `who` goes into manifests, releases and the audit log.
  // `audit`: has each change, and each one that was refused; where it cannot be written, nothing is changed.
  // nullptr: nothing is logged.
  Deployer(Vault &vault, AppKeys &keys, MachineHost &host, std::string who, const AuditLog *audit = nullptr)
      : vault_(vault), keys_(keys), host_(host), who_(std::move(who)), audit_(audit) {}

  // coffer-api: while the key service or the host is away (kUnavailable), secrets are set, unset and listed.
  // What it has not seen is reported at the next call that reaches it, which then also notices a vault that
  // was rolled back.  Boots are refused by whoever has to open for them.
  void go_on_without_keys() { without_keys_ = true; }

  Result<App> create_app(std::string_view name);
  // Machines destroyed, keys and grants erased, then the space dropped.
  Result<void> destroy_app(const App &);

  // The newest manifest, checked against the newest one that the key service has seen: a vault that was
  // rolled back or forked is refused (kDataLoss).
  Result<Manifest> newest(const App &);
  // Commits and reports the new head; acknowledged means both are durable.
  Result<Written> write(const App &, const std::vector<SealedSecret> &set,
                        const std::vector<std::string> &unset);

  Result<std::vector<MachineStatus>> machines(const App &);
  Result<MachineStatus> machine(const App &, std::string_view id_or_name);  // kNotFound
  // Statuses of all secrets; with those removed from the manifest that a started Machine still has.
  Result<std::vector<SecretView>> secrets(const App &, const Manifest &);

  Result<Plan> plan(const App &);
  // The versions that are kept, the newest one first.
  Result<std::vector<VersionView>> history(const App &);

  // ---- roll-outs: rollout.cc ----
  // A new release from the newest manifest: the App's started Machines are booted anew, in waves.  All of
  // them are good in the end, or all go back.  Nothing to do, and not `force`d: release 0.  While another
  // process is at work with a roll-out this waits for its end, and what that one has taken along is done.
  Result<RolloutResult> rollout(const App &, const RolloutOrder &);
  // The same with new configs: Machines of a process that has none yet are made, those of a process that is
  // not among them go when all is good.  Machines without a process are left alone.
  Result<RolloutResult> deploy(const App &, const DeployOrder &);
  // With the configs of that release; 0: of the one before the newest that has any.
  Result<RolloutResult> roll_back_release(const App &, uint64_t number, bool hasty);
  // Ends a roll-out that was cut off: forward, or back.  kNotFound: there is none; kFailedPrecondition:
  // somebody is at work with it.
  Result<RolloutResult> end_rollout(const App &, bool back);
  Result<std::optional<RolloutView>> under_way(const App &) const;
  Result<std::vector<Release>> releases(const App &) const;

  // ---- what roll-outs are done with ----
  // More hosts like the one it has, to boot several Machines at once: `most`, that one included.
  using NewHost = std::function<Result<std::unique_ptr<MachineHost>>()>;
  void set_hosts(NewHost more, size_t most) {
    more_hosts_ = std::move(more);
    most_hosts_ = most;
  }
  // Of Apps whose configs say nothing; without this the Machines need not stay up for any time.
  void set_policy(const DeployPolicy &policy) { policy_ = policy; }
  // Told how far it is: by Machine, or of all ("").  In the thread of the call.
  void set_progress(std::function<void(std::string_view machine, std::string_view step)> progress) {
    progress_ = std::move(progress);
  }
  // With the owner of a roll-out that gives no sign, and with a host that is away on the way back.
  void set_patience(std::chrono::milliseconds owner, std::chrono::milliseconds back) {
    owner_patience_ = owner;
    back_patience_ = back;
  }
  // Asked while it waits for others.
  void set_cancelled(std::function<bool()> cancelled) { cancelled_ = std::move(cancelled); }

  // ---- older secrets: plan.cc ----
  // The secrets of an older version (0: of the one before the newest) in a new one.  Opens nothing.
  Result<Manifest> roll_back_secrets(const App &, uint64_t version);
  // Forgets all older versions, and with them the values that `name` had.  kFailedPrecondition: a Machine was
  // booted with one of them.
  struct Purged {
    uint64_t version = 0;
    size_t records = 0;  // forgotten, of all names
  };
  Result<Purged> purge(const App &, std::string_view name);

  // A new key pair for the App, and its newest secrets sealed for it; goes on where one was cut off.  The key
  // service opens nothing of an older epoch any more once nothing in the vault is sealed for it.  `now`: what
  // is retained of older versions is dropped, and the Machines are rolled out, so that this is at once.
  Result<Rotated> rotate(const App &, bool now);

  struct Ran {
    MachineStatus machine;
    std::vector<std::string> warnings;
  };
  // `config.image` as it was asked for; the launch spec gets its immutable reference, found before anything
  // is stored.
  // `ids`: of 14 hex digits that only this order has, the last one for the Machine.  Those before it had the
  // same order when it was cut off: a Machine of one of them that is there is answered instead, for it is
  // what came of it.  Empty: one is made up.
  Result<Ran> run(const App &, MachineConfig config, bool pull = false,
                  const std::vector<std::string> &ids = {});
  Result<Ran> start(const App &, const MachineStatus &);  // also: restart
  Result<void> stop(const App &, const MachineStatus &);
  Result<void> destroy(const App &, const MachineStatus &);
  // Asked before a command is run inside: it is logged, but not what it is.  Its words could be secrets.
  Result<void> log_exec(const App &, const MachineStatus &);

  // ---- for whoever watches the Machines of a host: vault_orders.h ----
  // Finishes or undoes what processes that died have left of the App, and boots what they had stopped.
  // Answers what could not be booted.
  Result<std::vector<std::string>> finish_cut_off(const App &);
  // Of a Machine that this host has; kNotFound when the vault does not know it.
  Result<MachineStatus> look_at(const App &, const MachineState &);
  // What its instance was booted from.  REQUIRES: it has one.
  Result<SignedSpec> current_spec(const App &, const MachineStatus &);
  // The same once more, after its app has ended; no new release.
  Result<BootOutcome> boot_ended(const App &, const MachineStatus &);

  // The values of `only` (empty: of all secrets) for a command of the host, to who waits for them there. What
  // the host was granted for it is revoked again before this ends.
  Result<void> hand_over(const App &, const std::set<std::string> &only, const Ticket &);

 private:
  // ---- audit ----
  AuditEntry entry(std::string_view action, std::string_view app) const;
  AuditEntry entry(std::string_view action, const App &, const std::string &machine = {}) const;
  Result<void> log_ready() const { return audit_ ? audit_->ready() : Result<void>{}; }
  // With the exchange of checkpoints.
  Result<void> log_done(AuditEntry, const Error *failed);
  // A change: the log could be written before `body` begins, and has its end before it is told.
  template <class Body>
  auto logged(AuditEntry about, Body body) -> decltype(body(about)) {
    COFFER_CHECK(log_ready());
    auto done = body(about);
    const auto written = log_done(std::move(about), done ? nullptr : &done.error());
    if (done && !written) return std::unexpected(written.error());
    return done;
  }

  struct Run;  // one roll-out, by its owner: rollout.cc
  Result<RolloutResult> roll_out(const App &, const RolloutOrder &);
  Result<RolloutResult> roll_out(const App &, const DeployOrder &);
  template <class Order>
  Result<RolloutResult> logged_rollout(const App &, const Order &);
  static std::unexpected<Error> always_deployed(const App &);
  // Nothing: the way is free.  Else what has become of the roll-out that was in the way.
  Result<std::optional<RolloutResult>> clear_the_way(const App &);
  // `anew`: no instance may stay.
  Result<RolloutResult> go(const App &, StoredRollout, std::vector<SignedSpec> specs, bool back,
                           bool anew = false);
  bool alive(const StoredRollout &) const;
  Result<void> wait_for(const App &, uint64_t release);
  Result<void> finish_rollout(const App &, std::vector<std::string> &warnings);
  Result<MachineConfig> config_of(const App &, const MachineStatus &) const;
  DeployPolicy policy_of(const std::optional<Release> &) const;
  Result<Ran> create_and_boot(const App &, MachineConfig, bool pull, const std::vector<std::string> &ids,
                              AuditEntry &);
  Result<Ran> boot_newest(const App &, const MachineStatus &, AuditEntry &);

  // The newest head seen; `away`: the key service could not be asked, and need not be.
  Result<std::optional<SeenHead>> seen(const App &, bool &away) const;
  Result<void> check_fresh(const App &, const std::optional<SeenHead> &, const Manifest &) const;
  Result<void> report(const App &, std::optional<SeenHead>, uint64_t version);
  // Finishes or undoes what a process that died has left: Machines never acknowledged, destroys begun.
  Result<void> recover(const App &);
  Result<void> check_fresh(const App &, const std::vector<StoredMachine> &) const;
  enum class Ask { kVault, kRuntime };  // kVault: every launch spec is checked, `view` is not filled in
  Result<std::vector<MachineStatus>> machines(const App &, Ask);
  Result<std::vector<MachineStatus>> look(const App &, const std::vector<StoredMachine> &, Ask);
  Result<MachineStatus> look(const App &, const StoredMachine &, Ask);
  // The Machines when nobody else is at work with one of them.
  Result<std::vector<MachineStatus>> settled_machines(const App &);
  Result<Manifest> seal_head_anew(const App &, bool drop_older, size_t &secrets);
  Result<std::vector<std::pair<Hash, Bytes>>> reseal(const App &, const Manifest &,
                                                     std::span<const Entry *const>);
  Result<void> move_way_back(const App &, const Manifest &, std::string_view reason);
  static Hash undo_of(const MachineStatus &);
  Result<uint32_t> retire_epochs(const App &, const Manifest &);
  Result<void> resume(const App &, std::string_view but, std::vector<std::string> &warnings);
  // `rollout`: its steps, in the order of the specs, begin with it.
  Result<Vault::Made> make_release(const App &, Manifest &, std::vector<NewSpec> &, const ReleaseDraft &,
                                   Rollout *rollout = nullptr);
  Result<BootOrder> make_machine(const App &, Manifest &, const std::string &id, MachineConfig,
                                 std::string_view reason, uint64_t &release);
  Result<BootOrder> order(const App &, SignedSpec spec);
  Result<std::shared_ptr<const Manifest>> manifest_at(const App &, uint64_t version);
  static std::string new_machine_id();
  Result<std::optional<BootOrder>> way_back(const App &, const MachineStatus &);
  Result<void> take_away(const App &, const std::string &machine);
  Result<void> undo_creation(const App &, const std::string &machine, uint64_t release);

  Vault &vault_;
  AppKeys &keys_;
  MachineHost &host_;
  std::string who_;
  const AuditLog *audit_;
  bool without_keys_ = false;
  NewHost more_hosts_;
  size_t most_hosts_ = 1;
  DeployPolicy policy_ = {.smoke_ms = 0};
  std::function<void(std::string_view, std::string_view)> progress_;
  std::function<bool()> cancelled_;
  std::chrono::milliseconds owner_patience_{60'000}, back_patience_{60'000};
  // Of a roll-out; another one than of any other Deployer.
  std::shared_ptr<const std::string> owner_ = worker_identity();
  // Vault and keys are asked by the threads that boot: one at a time.
  std::unique_ptr<std::mutex> asking_ = std::make_unique<std::mutex>();
  // Manifests that boots of one release have in common.
  std::map<uint64_t, std::shared_ptr<const Manifest>> manifests_;
};

}  // namespace coffer
#endif
