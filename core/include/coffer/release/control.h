// Control: what a user can have done with Apps, secrets and Machines.  LocalControl does it, in `coffer`
// itself (embedded mode) or in coffer-api; in server mode `coffer` has one that asks coffer-api over HTTP. No
// value passes through here: what is set was sealed before. Thread rule: one thread at a time.
#ifndef COFFER_RELEASE_CONTROL_H
#define COFFER_RELEASE_CONTROL_H

#include "coffer/release/deployer.h"

namespace coffer {

struct AppSummary {
  std::string name;
  AppId id{};
  std::string status;  // "deployed", "suspended" (no Machine is wanted), "pending" (there is none)
  uint64_t machines = 0, created_ms = 0;
};

// A Machine as it is told to a user.
struct MachineSummary {
  std::string id, name;
  State state = State::kCreated;
  std::string image, instance_id;     // empty: never booted
  uint64_t release = 0, version = 0;  // of what it runs; 0: none
  uint64_t created_ms = 0, updated_ms = 0, started_ms = 0;
  std::optional<int32_t> exit_code;  // of an instance that ended
  int32_t exit_signal = 0;
  std::string message;   // why it is in this state; not printable text
  bool cut_off = false;  // a change was; the next one goes on
  std::string drift;     // how it is not as it is wanted; empty: it is
};
// `newest`: the manifest that a Machine booted now would have.
MachineSummary summary(const MachineStatus &, const Manifest &newest);

// What a write did.
struct Changes {
  uint64_t version = 0;                                           // of the manifest that is the newest now
  std::vector<std::string> changed, unchanged, removed, unknown;  // as of Written
};

class Control {
 public:
  struct Secrets {
    uint64_t version = 0;
    std::vector<SecretView> all;
  };
  struct Booted {
    MachineSummary machine;
    std::vector<std::string> warnings;
  };
  virtual ~Control() = default;

  virtual Result<std::vector<AppSummary>> apps() = 0;
  // With the key to seal for it, checked to be signed by the key service.  kNotFound.
  virtual Result<App> app(std::string_view name) = 0;
  virtual Result<App> create_app(std::string_view name) = 0;
  virtual Result<void> destroy_app(const App &) = 0;
  // By which whoever seals says whether a value is the one that is set.
  virtual Result<SecretBytes> digest_key(const App &) = 0;

  // kAborted: the App's key was rotated since `App` was asked for; seal again.
  virtual Result<Changes> write(const App &, const std::vector<SealedSecret> &set,
                                const std::vector<std::string> &unset) = 0;
  virtual Result<Secrets> secrets(const App &) = 0;
  virtual Result<Plan> plan(const App &) = 0;
  virtual Result<std::vector<VersionView>> history(const App &) = 0;
  // As Deployer's.
  virtual Result<RolloutResult> rollout(const App &, const RolloutOrder &) = 0;
  virtual Result<RolloutResult> deploy(const App &, const DeployOrder &) = 0;
  virtual Result<RolloutResult> roll_back_release(const App &, uint64_t number, bool hasty) = 0;
  virtual Result<RolloutResult> end_rollout(const App &, bool back) = 0;
  struct Releases {
    std::optional<RolloutView> under_way;
    std::vector<Release> all;  // the newest first
  };
  virtual Result<Releases> releases(const App &) = 0;
  virtual Result<uint64_t> roll_back_secrets(const App &, uint64_t version) = 0;  // answers the new version
  virtual Result<Deployer::Purged> purge(const App &, std::string_view name) = 0;
  virtual Result<Rotated> rotate(const App &, bool now) = 0;
  // The values for a command (`coffer run`), to a process that waits for them on its host.
  virtual Result<void> hand_over(const App &, const std::set<std::string> &only, const Receiver &) = 0;

  virtual Result<std::vector<MachineSummary>> machines(const App &) = 0;
  virtual Result<MachineSummary> machine(const App &, std::string_view id_or_name) = 0;
  virtual Result<Booted> run(const App &, MachineConfig, bool pull) = 0;
  // Boots it with the newest secrets, also when it runs.
  virtual Result<Booted> start(const App &, std::string_view id_or_name) = 0;
  virtual Result<MachineSummary> stop(const App &, std::string_view id_or_name) = 0;
  virtual Result<void> destroy(const App &, std::string_view id_or_name) = 0;
  // Until the Machine is in that state (kDestroyed: gone); kDeadlineExceeded after `timeout_s` (0: never).
  // kCancelled: `cancel_fd` is readable.
  virtual Result<MachineSummary> wait(const App &, std::string_view id_or_name, State, uint64_t timeout_s,
                                      int cancel_fd) = 0;
  // As Runtime's; `each` and `out` answer false to end.
  virtual Result<void> logs(const App &, std::string_view id_or_name, const LogQuery &,
                            const std::function<bool(uint32_t stream, int64_t ns, ByteSpan)> &each) = 0;
  virtual Result<int32_t> exec(const App &, std::string_view id_or_name, const std::vector<std::string> &argv,
                               const std::function<bool(uint32_t stream, ByteSpan)> &out,
                               const std::function<int64_t(std::span<uint8_t>)> &in, int in_fd) = 0;
};

class LocalControl : public Control {
 public:
  // REQUIRES: all of them outlive it.
  LocalControl(Vault &vault, Keys &keys, MachineHost &host, Deployer &deployer,
               std::function<Result<SecretBytes>()> digest_credential)
      : vault_(vault),
        keys_(keys),
        host_(host),
        deployer_(deployer),
        digest_credential_(std::move(digest_credential)) {}

  Result<AppSummary> about(const App &);
  Result<MachineSummary> summary_of(const App &, const MachineStatus &) const;
  Result<std::vector<AppSummary>> apps() override;
  Result<App> app(std::string_view name) override;
  Result<App> create_app(std::string_view name) override;
  Result<void> destroy_app(const App &) override;
  Result<SecretBytes> digest_key(const App &) override;
  Result<Changes> write(const App &, const std::vector<SealedSecret> &set,
                        const std::vector<std::string> &unset) override;
  Result<Secrets> secrets(const App &) override;
  Result<Plan> plan(const App &app) override { return deployer_.plan(app); }
  Result<std::vector<VersionView>> history(const App &app) override { return deployer_.history(app); }
  Result<RolloutResult> rollout(const App &app, const RolloutOrder &order) override {
    return deployer_.rollout(app, order);
  }
  Result<RolloutResult> deploy(const App &app, const DeployOrder &order) override {
    return deployer_.deploy(app, order);
  }
  Result<RolloutResult> roll_back_release(const App &app, uint64_t number, bool hasty) override {
    return deployer_.roll_back_release(app, number, hasty);
  }
  Result<RolloutResult> end_rollout(const App &app, bool back) override {
    return deployer_.end_rollout(app, back);
  }
  Result<Releases> releases(const App &) override;
  Result<uint64_t> roll_back_secrets(const App &, uint64_t version) override;
  Result<Deployer::Purged> purge(const App &app, std::string_view name) override {
    return deployer_.purge(app, name);
  }
  Result<Rotated> rotate(const App &, bool now) override;
  Result<void> hand_over(const App &app, const std::set<std::string> &only, const Receiver &to) override {
    return deployer_.hand_over(app, only, to.ticket);
  }
  Result<std::vector<MachineSummary>> machines(const App &) override;
  Result<MachineSummary> machine(const App &, std::string_view id_or_name) override;
  Result<Booted> run(const App &app, MachineConfig config, bool pull) override {
    return run(app, std::move(config), pull, {});
  }
  Result<Booted> run(const App &, MachineConfig, bool pull,
                     const std::vector<std::string> &ids);  // as Deployer's
  Result<Booted> start(const App &, std::string_view id_or_name) override;
  Result<MachineSummary> stop(const App &, std::string_view id_or_name) override;
  Result<void> destroy(const App &, std::string_view id_or_name) override;
  Result<MachineSummary> wait(const App &, std::string_view id_or_name, State, uint64_t timeout_s,
                              int cancel_fd) override;
  Result<void> logs(const App &, std::string_view id_or_name, const LogQuery &,
                    const std::function<bool(uint32_t, int64_t, ByteSpan)> &each) override;
  Result<int32_t> exec(const App &, std::string_view id_or_name, const std::vector<std::string> &argv,
                       const std::function<bool(uint32_t, ByteSpan)> &out,
                       const std::function<int64_t(std::span<uint8_t>)> &in, int in_fd) override;

 private:
  Vault &vault_;
  Keys &keys_;
  MachineHost &host_;
  Deployer &deployer_;
  std::function<Result<SecretBytes>()> digest_credential_;
};

}  // namespace coffer
#endif
