// Apps, secrets and roll-outs; single Machines: machines.cc.
#include "coffer/release/deployer.h"

#include <algorithm>
#include <map>

#include "coffer/base/log.h"

namespace coffer {
namespace {
constexpr int kMaxTries = 50;
// An exchange of checkpoints costs a durable write of the key service, and a set has to be cheap: of those
// only every so many entries one.
constexpr uint64_t kExchangeEvery = 16;
constexpr std::string_view kSet = "set", kUnset = "unset";
}  // namespace

std::string_view to_string(SecretStatus s) {
  switch (s) {
    case SecretStatus::kDeployed:
      return "Deployed";
    case SecretStatus::kStaged:
      return "Staged";
    case SecretStatus::kPartial:
      return "Partial";
    case SecretStatus::kRemoved:
      return "Removed (staged)";
    case SecretStatus::kUnknown:
      break;
  }
  return "Unknown";
}

// ---- audit ----

AuditEntry Deployer::entry(std::string_view action, std::string_view app) const {
  AuditEntry out;
  out.who = who_;
  out.action = action;
  out.app = app;
  return out;
}

AuditEntry Deployer::entry(std::string_view action, const App &app, const std::string &machine) const {
  AuditEntry out = entry(action, app.name());
  out.app_id = hex(app.id());
  out.machine = machine;
  return out;
}

Result<void> Deployer::log_done(AuditEntry about, const Error *failed) {
  if (!audit_ || about.action.empty()) return {};
  if (failed) about.outcome = outcome_of(*failed);
  const auto at = audit_->append(about);
  if (!at) return fail(at.error().code, "done, but not logged: " + at.error().message, at.error().remedy);
  const bool cheap = about.action == kSet || about.action == kUnset;
  if (cheap && at->number % kExchangeEvery != 0) return {};
  // It failed: the next one covers this one too.
  const auto exchanged = [&]() -> Result<void> {
    COFFER_TRY(const Checkpoint theirs, keys_.exchange(*at));
    if (theirs.number == 0) return {};
    AuditEntry seen;
    seen.who = "keys";
    seen.action = "checkpoint";
    seen.other = {"keys", theirs};
    COFFER_CHECK(audit_->append(seen, AuditLog::Sync::kLater));
    return {};
  };
  if (const auto done = exchanged(); !done)
    log(LogLevel::kWarn, "audit", "no checkpoints were exchanged: " + done.error().message);
  return {};
}

// ---- Apps ----

Result<App> Deployer::create_app(std::string_view name) {
  return logged(entry("create app", name), [&](AuditEntry &about) -> Result<App> {
    // The vault first: while it has the App, also one whose destroying was cut off, its name gets no new key.
    if (const auto there = vault_.app(name); there)
      return fail(ErrorCode::kAlreadyExists, "App " + std::string(name) + " exists already",
                  "Choose another name, or use it as it is.");
    else if (there.error().code != ErrorCode::kNotFound)
      return std::unexpected(there.error());
    COFFER_TRY(const AppKeys::AppKey key, keys_.create_app(name));
    about.app_id = hex(key.app_id);
    COFFER_TRY(App app, vault_.create_app(name, key.app_id, key.signed_record, who_));
    COFFER_CHECK(newest(app));
    return app;
  });
}

Result<void> Deployer::destroy_app(const App &app) {
  return logged(entry("destroy app", app), [&](AuditEntry &) -> Result<void> {
    COFFER_TRY(const std::vector<MachineStatus> all, machines(app));
    for (const MachineStatus &m : all) COFFER_CHECK(destroy(app, m));
    COFFER_CHECK(recover(app));
    COFFER_CHECK(keys_.destroy_app(app.name()));
    return vault_.drop_app(app);
  });
}

// ---- secrets ----

// REQUIRES: `seen` was asked for before `head` was read.  Other processes go on writing, so the newest one
// seen now may well be newer than a head read before.
Result<void> Deployer::check_fresh(const App &app, const std::optional<SeenHead> &seen,
                                   const Manifest &head) const {
  if (!seen || head.version() > seen->version) return {};
  if (head.version() == seen->version && head.head.hash == seen->header) return {};
  const bool fork = head.version() == seen->version;
  return fail(
      ErrorCode::kDataLoss,
      "App " + app.name() + ": manifest " + std::to_string(head.version()) +
          (fork ? " is not the one that has been seen under this number"
                : " is the vault's newest, but version " + std::to_string(seen->version) + " has been seen"),
      "The vault was rolled back: put the newer copy back, or restore a backup.");
}

// The manifests up to `version` become the ones that have been seen.
Result<void> Deployer::report(const App &app, std::optional<SeenHead> seen, uint64_t version) {
  while (!seen || seen->version < version) {
    COFFER_TRY(const std::vector<Bytes> headers, vault_.headers(app, seen ? seen->version + 1 : 1, version));
    const auto reported = keys_.advance(app.id(), headers);
    if (reported) return {};
    // Refused also when another process has reported newer ones meanwhile.
    COFFER_TRY(const auto now, keys_.seen(app.id()));
    if (now == seen) return std::unexpected(Error(reported.error()).in("App " + app.name()));
    seen = now;
  }
  return {};
}

Result<std::optional<SeenHead>> Deployer::seen(const App &app, bool &away) const {
  auto head = keys_.seen(app.id());
  away = !head && without_keys_ && head.error().code == ErrorCode::kUnavailable;
  if (!away) return head;
  log(LogLevel::kWarn, "api",
      "App " + app.name() + ": not compared with what the key service has seen: it is away");
  return std::nullopt;
}

Result<Manifest> Deployer::newest(const App &app) {
  bool away = false;
  COFFER_TRY(const auto seen, this->seen(app, away));
  COFFER_TRY(Manifest head, vault_.newest(app));
  if (away) return head;
  COFFER_CHECK(check_fresh(app, seen, head));
  COFFER_CHECK(report(app, seen, head.version()));
  return head;
}

Result<Written> Deployer::write(const App &app, const std::vector<SealedSecret> &set,
                                const std::vector<std::string> &unset) {
  AuditEntry writes = entry(set.empty() ? kUnset : kSet, app);
  for (const SealedSecret &s : set) writes.names.push_back(s.name);
  writes.names.insert(writes.names.end(), unset.begin(), unset.end());
  return logged(std::move(writes), [&](AuditEntry &about) -> Result<Written> {
    bool away = false;
    COFFER_TRY(const auto seen, this->seen(app, away));
    COFFER_TRY(Written written, vault_.write(app, set, unset, who_, [&](const Manifest &base) {
      return check_fresh(app, seen, base);
    }));
    about.version = written.manifest.version();
    if (away) return written;
    if (const auto reported = report(app, seen, written.manifest.version());
        !reported && !(without_keys_ && reported.error().code == ErrorCode::kUnavailable))
      return std::unexpected(reported.error());
    // Now and then: old epochs that nothing needs any more.  What hinders it now does not the next time.
    constexpr uint64_t kEvery = 16;
    if (app.key.epoch > 1 && written.manifest.version() % kEvery == 0 && !written.changed.empty())
      (void)retire_epochs(app, written.manifest);
    return written;
  });
}

Result<std::vector<SecretView>> Deployer::secrets(const App &app, const Manifest &manifest) {
  std::vector<uint64_t> running;
  std::vector<SecretView> out;
  // The host's receipts, and what its runtime says: nothing of the vault is needed for it.
  const auto all = host_.views(app.id());
  if (!all && without_keys_ && all.error().code == ErrorCode::kUnavailable) {
    for (const Entry &e : manifest.entries) out.push_back({e, SecretStatus::kUnknown});
    return out;
  }
  if (!all) return std::unexpected(all.error());
  for (const MachineView &m : *all)
    if (m.now == State::kStarted && m.state.current) running.push_back(m.state.current->version);

  for (const Entry &e : manifest.entries) {
    const auto have =
        static_cast<size_t>(std::ranges::count_if(running, [&](uint64_t v) { return v >= e.version; }));
    out.push_back({e, have == 0                ? SecretStatus::kStaged
                      : have == running.size() ? SecretStatus::kDeployed
                                               : SecretStatus::kPartial});
  }
  // What a started Machine still has although it was unset.
  std::set<uint64_t> older(running.begin(), running.end());
  older.erase(manifest.version());
  std::map<std::string, Entry> removed;
  for (const uint64_t version : older) {
    COFFER_TRY(const Manifest old, vault_.at(app, version));
    for (const Entry &e : old.entries)
      if (!manifest.find(e.name)) removed.insert_or_assign(e.name, e);
  }
  for (auto &[name, e] : removed) out.push_back({std::move(e), SecretStatus::kRemoved});
  std::ranges::sort(out, {}, [](const SecretView &s) { return s.entry.name; });
  return out;
}

// ---- boot orders ----

// Those of one release have it in common.
Result<std::shared_ptr<const Manifest>> Deployer::manifest_at(const App &app, uint64_t version) {
  constexpr size_t kMost = 8;
  if (const auto at = manifests_.find(version);
      at != manifests_.end() && at->second->head.header.app_id == app.id())
    return at->second;
  COFFER_TRY(Manifest m, vault_.at(app, version));
  if (manifests_.size() >= kMost) manifests_.clear();
  return manifests_[version] = std::make_shared<const Manifest>(std::move(m));
}

Result<BootOrder> Deployer::order(const App &app, SignedSpec spec) {
  COFFER_TRY(const auto manifest, manifest_at(app, spec.spec.version));
  if (manifest->head.hash != spec.spec.header)
    return fail(ErrorCode::kDataLoss, "App " + app.name() + ": launch spec " +
                                          std::to_string(spec.spec.number) + " names another manifest " +
                                          std::to_string(spec.spec.version));
  BootOrder out;
  out.app = app.name();
  out.spec = std::move(spec.envelope);
  out.secrets = manifest->entries;
  // These two are called by whoever boots, which may be several threads.
  out.fetch = [this, app, manifest](const std::vector<std::string> &names) -> Result<BootOrder::Sealed> {
    const std::lock_guard lock(*asking_);
    BootOrder::Sealed sealed;
    COFFER_TRY(const auto seen, keys_.seen(app.id()));
    COFFER_TRY(const Manifest head, vault_.newest(app));
    const uint64_t first = std::min(seen ? seen->version : 1, manifest->version());
    COFFER_TRY(sealed.headers, vault_.headers(app, first, head.version()));
    COFFER_TRY(ManifestProof proof, vault_.proof(app, *manifest, names));
    sealed.proof_header = std::move(proof.header);
    sealed.proof_body = std::move(proof.body);
    sealed.proof_parts = std::move(proof.parts);
    for (const std::string &name : names) {
      COFFER_TRY(Bytes record, vault_.record(app, *manifest->find(name)));
      sealed.records.emplace_back(name, std::move(record));
    }
    return sealed;
  };
  out.still_wanted = [this, app, machine = spec.spec.machine]() -> Result<void> {
    const std::lock_guard lock(*asking_);
    COFFER_TRY(const bool wanted, vault_.wanted(app, machine));
    if (wanted) return {};
    return fail(ErrorCode::kAborted, "Machine " + machine + " was stopped or destroyed meanwhile");
  };
  return out;
}

// What the Machine runs now, or ran when its last boot was cut off: booted again if its next launch spec does
// not start.
Result<std::optional<BootOrder>> Deployer::way_back(const App &app, const MachineStatus &m) {
  if (!m.started() && !(m.view && m.view->cut_off && m.view->state.current)) return std::nullopt;
  COFFER_TRY(SignedSpec spec, vault_.spec_by_hash(app, m.stored.record, m.view->state.current->spec));
  COFFER_TRY(BootOrder back, order(app, std::move(spec)));
  return back;
}

// Tries again, with the newest manifest, when somebody else has changed the App or its Machines meanwhile.  A
// Machine that was stopped or destroyed meanwhile has to stay so if it was `started` before: it drops out of
// `specs`.
Result<Vault::Made> Deployer::make_release(const App &app, Manifest &manifest, std::vector<NewSpec> &specs,
                                           const ReleaseDraft &draft, Rollout *rollout) {
  for (int tries = 0; tries < kMaxTries; ++tries) {
    auto made = vault_.release(app, manifest, specs, draft, who_, rollout);
    if (made || made.error().code != ErrorCode::kAborted) return made;
    if (rollout) {
      COFFER_TRY(const auto other, vault_.rollout(app));
      if (other) return made;
    }
    COFFER_TRY(manifest, newest(app));
    COFFER_TRY(const std::vector<StoredMachine> now, vault_.machines(app));
    bool destroyed = false;
    const size_t before = specs.size();
    std::erase_if(specs, [&](NewSpec &s) {
      if (s.machine.revision == 0) return false;
      const bool was_started = s.machine.record.desired == Desired::kStarted;
      const auto at =
          std::ranges::find(now, s.machine.record.id, [](const StoredMachine &m) { return m.record.id; });
      if (at == now.end() || at->record.desired == Desired::kDestroyed) return destroyed = true;
      s.machine = *at;
      return was_started && at->record.desired != Desired::kStarted;
    });
    if (rollout)
      std::erase_if(rollout->steps, [&](const Rollout::Step &step) {
        return std::ranges::none_of(specs,
                                    [&](const NewSpec &s) { return s.machine.record.id == step.machine; });
      });
    if (specs.empty() && before > 0)
      return fail(ErrorCode::kAborted,
                  std::string("the Machine was ") + (destroyed ? "destroyed" : "stopped") + " meanwhile");
  }
  return always_deployed(app);
}

}  // namespace coffer
