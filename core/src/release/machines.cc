// Single Machines: run, start, stop, destroy, and a local command.
#include <algorithm>

#include "coffer/release/deployer.h"

namespace coffer {
namespace {

constexpr int kMaxTries = 20;

std::string machine_context(const App &app, const MachineRecord &m) {
  return "App " + app.name() + ": Machine " + m.name + " (" + m.id + ")";
}

}  // namespace

// The way back of its next launch spec: what it ran last, if that is known yet.
Hash Deployer::undo_of(const MachineStatus &m) {
  if (!m.view || !m.view->state.current) return {};
  const Hash &last = m.view->state.current->spec;
  return last == m.spec.hash || m.older ? last : Hash{};
}

std::string Deployer::new_machine_id() { return hex(random_array<7>()); }

// Refuses a vault that lacks a Machine, or has an older record of it than this host has booted from.
Result<void> Deployer::check_fresh(const App &app, const std::vector<StoredMachine> &stored) const {
  const auto fresh = [](const std::vector<StoredMachine> &in, const MachineState &s) {
    return std::ranges::any_of(in, [&](const StoredMachine &m) {
      return m.record.id == s.machine && m.record.spec_number >= s.current->spec_number;
    });
  };
  COFFER_TRY(const std::vector<MachineState> states, host_.states());
  for (const MachineState &s : states) {
    if (s.app_id != app.id() || !s.current || fresh(stored, s)) continue;
    // Others may have been at work since `stored` was read: a record is stored before the Machine is booted
    // from it, and removed after the Machine is gone.
    COFFER_TRY(const std::vector<StoredMachine> now, vault_.machines(app));
    if (fresh(now, s)) continue;
    COFFER_TRY(const auto still, host_.state(s.machine));
    if (!still || !still->current) continue;
    return fail(ErrorCode::kDataLoss,
                "App " + app.name() + ": the record of Machine " + s.name + " (" + s.machine +
                    ") is missing from the vault, or older than what the Machine was booted from",
                "The vault was rolled back: put the newer copy back, or restore a backup.");
  }
  return {};
}

Result<std::vector<MachineStatus>> Deployer::machines(const App &app) { return machines(app, Ask::kRuntime); }

Result<std::vector<MachineStatus>> Deployer::machines(const App &app, Ask whom) {
  COFFER_TRY(std::vector<StoredMachine> stored, vault_.machines(app));
  for (int tries = 1;; ++tries) {
    auto all = look(app, stored, whom);
    if (all || tries == kMaxTries) return all;
    // Others may have destroyed or changed a Machine since it was listed.
    COFFER_TRY(std::vector<StoredMachine> now, vault_.machines(app));
    if (std::ranges::equal(now, stored, {}, &StoredMachine::revision, &StoredMachine::revision)) return all;
    stored = std::move(now);
  }
}

Result<std::vector<MachineStatus>> Deployer::look(const App &app, const std::vector<StoredMachine> &stored,
                                                  Ask whom) {
  COFFER_CHECK(check_fresh(app, stored));
  std::vector<MachineStatus> out;
  for (const StoredMachine &m : stored) {
    COFFER_TRY(MachineStatus status, look(app, m, whom));
    if (status.spec.spec.config.kind != MachineKind::kLocal) out.push_back(std::move(status));
  }
  return out;
}

Result<MachineStatus> Deployer::look(const App &app, const StoredMachine &m, Ask whom) {
  MachineStatus status;
  status.stored = m;
  COFFER_TRY(status.spec, vault_.spec(app, m.record, m.record.spec_number));
  if (whom == Ask::kVault || status.spec.spec.config.kind == MachineKind::kLocal) return status;
  COFFER_TRY(const auto state, host_.state(m.record.id));
  if (state) {
    COFFER_TRY(status.view, host_.view(*state));
    if (state->current && state->current->spec != status.spec.hash) {
      // A stopped Machine's may have been forgotten.
      if (auto older = vault_.spec_by_hash(app, m.record, state->current->spec))
        status.older = std::move(older->spec.config);
    }
  }
  return status;
}

Error no_machine(const App &app, std::string_view id_or_name) {
  return {ErrorCode::kNotFound, "App " + app.name() + " has no Machine " + std::string(id_or_name),
          "See `coffer machine list -a " + app.name() + "`."};
}

Result<MachineStatus> Deployer::machine(const App &app, std::string_view id_or_name) {
  COFFER_TRY(std::vector<MachineStatus> all, machines(app));
  for (MachineStatus &m : all)
    if (m.stored.record.id == id_or_name) return std::move(m);
  for (MachineStatus &m : all)
    if (m.stored.record.name == id_or_name) return std::move(m);
  return std::unexpected(no_machine(app, id_or_name));
}

// A creation is acknowledged when its Machine has started; until then its lease is held by the creating
// process. So a Machine that never had an instance, and whose lease nobody alive holds, was never
// acknowledged, and neither was a state that the vault does not know.
Result<void> Deployer::recover(const App &app) {
  COFFER_TRY(const std::vector<StoredMachine> stored, vault_.machines(app));
  // The ones that a roll-out makes are its own.
  COFFER_TRY(const auto under_way, vault_.rollout(app));
  const auto being_made = [&](const std::string &id) {
    return under_way && std::ranges::any_of(under_way->rollout.steps, [&](const Rollout::Step &s) {
             return s.made && s.machine == id;
           });
  };
  for (const StoredMachine &m : stored) {
    COFFER_TRY(const auto state, host_.state(m.record.id));
    const bool left = state && !state->owner_alive;
    if (being_made(m.record.id) && m.record.desired != Desired::kDestroyed) continue;
    if ((left && !state->current) || m.record.desired == Desired::kDestroyed)
      COFFER_CHECK(undo_creation(app, m.record.id, 0));
    else if (left && m.record.desired == Desired::kStopped &&
             (state->state == State::kStopping || state->state == State::kStarting))
      COFFER_CHECK(host_.finish_stop(*state));  // `m` was read before it: the order may be another by now
    else if (left && (!state->lease_owner.empty() || state->pending || state->state == State::kStopping))
      COFFER_CHECK(host_.finish_cut_off(m.record.id));
  }
  COFFER_TRY(const std::vector<MachineState> states, host_.states());
  for (const MachineState &s : states) {
    // One that has run is not the rest of a creation: if the vault lacks it, machines() says so.
    if (s.app_id != app.id() || s.current || s.owner_alive) continue;
    COFFER_TRY(const std::vector<StoredMachine> now, vault_.machines(app));
    if (std::ranges::any_of(now, [&](const StoredMachine &m) { return m.record.id == s.machine; })) continue;
    COFFER_CHECK(undo_creation(app, s.machine, 0));
  }
  return {};
}

// Boots what a command that was cut off had stopped, or was about to start.
Result<void> Deployer::resume(const App &app, std::string_view but, std::vector<std::string> &warnings) {
  COFFER_CHECK(machines(app, Ask::kVault));  // a vault that is not sound is refused before anything is booted
  // Mostly nothing was cut off, and then the runtime is not asked how each Machine is.
  COFFER_TRY(const std::vector<MachineState> states, host_.states());
  if (std::ranges::none_of(states, [&](const auto &s) { return s.app_id == app.id() && cut_off(s); }))
    return {};
  COFFER_TRY(const std::vector<MachineStatus> all, machines(app));
  for (const MachineStatus &m : all) {
    if (m.stored.record.id == but || m.stored.record.desired != Desired::kStarted) continue;
    if (!m.view || !m.view->cut_off) continue;
    COFFER_TRY(const BootOrder next, order(app, m.spec));
    COFFER_TRY(const auto back, way_back(app, m));
    const auto booted = host_.boot(next, back ? &*back : nullptr);
    if (!booted || booted->failed)
      warnings.push_back(machine_context(app, m.stored.record) + " was left by a command that was cut off: " +
                         (booted ? *booted->failed : booted.error()).message);
  }
  return {};
}

// REQUIRES: the vault has it as destroyed, so that whoever finds this cut off goes on.
Result<void> Deployer::take_away(const App &app, const std::string &machine) {
  // First of all, and durably: from here on nothing is opened for it.
  COFFER_CHECK(keys_.revoke(app.id(), machine));
  COFFER_CHECK(host_.destroy(machine));
  return vault_.remove_machine(app, machine);
}

Result<void> Deployer::undo_creation(const App &app, const std::string &machine, uint64_t release) {
  // Said first, so that whoever finds this cut off goes on with it: its app may run by then.
  if (const auto said = vault_.set_desired(app, machine, Desired::kDestroyed);
      !said && said.error().code != ErrorCode::kNotFound)
    return std::unexpected(said.error());
  COFFER_CHECK(take_away(app, machine));
  if (release) COFFER_CHECK(vault_.finish_release(app, release, ReleaseOutcome::kFailed));
  return {};
}

// A new Machine in the vault, and its grant.  REQUIRES: it is reserved.  `release`: set once there is one.
Result<BootOrder> Deployer::make_machine(const App &app, Manifest &manifest, const std::string &id,
                                         MachineConfig config, std::string_view reason, uint64_t &release) {
  std::vector<NewSpec> specs(1);
  specs[0].machine.record.id = id;
  specs[0].config = std::move(config);
  COFFER_TRY(Vault::Made made, make_release(app, manifest, specs, {std::string(reason)}));
  release = made.release.number;
  COFFER_CHECK(keys_.grant(app.id(), id, host_.host(), made.specs[0].envelope));
  return order(app, std::move(made.specs[0]));
}

Result<Deployer::Ran> Deployer::run(const App &app, MachineConfig config, bool pull,
                                    const std::vector<std::string> &ids) {
  return logged(entry("run machine", app),
                [&](AuditEntry &about) { return create_and_boot(app, std::move(config), pull, ids, about); });
}

Result<Deployer::Ran> Deployer::create_and_boot(const App &app, MachineConfig config, bool pull,
                                                const std::vector<std::string> &ids, AuditEntry &about) {
  std::vector<std::string> warnings;
  COFFER_TRY(config.image, host_.ensure_image(config.image, pull));
  COFFER_CHECK(recover(app));
  COFFER_CHECK(finish_rollout(app, warnings));
  COFFER_CHECK(resume(app, "", warnings));
  COFFER_TRY(Manifest manifest, newest(app));
  for (const std::string &before : ids) {
    const auto there = machine(app, before);
    if (!there && there.error().code == ErrorCode::kNotFound) continue;
    if (!there) return std::unexpected(there.error());
    about.machine = before;
    if (!there->started()) return boot_newest(app, *there, about);
    about.version = there->version();
    return Ran{*there, std::move(warnings)};
  }
  const std::string id = ids.empty() ? new_machine_id() : ids.back();
  about.machine = id;
  if (config.name.empty()) config.name = app.name() + "-" + id.substr(0, 6);
  COFFER_CHECK(host_.reserve(app.id(), app.name(), id, config.name));
  uint64_t &release = about.release;
  const auto make = [&]() -> Result<BootOutcome> {
    COFFER_TRY(const BootOrder boot_order,
               make_machine(app, manifest, id, std::move(config), "machine run", release));
    COFFER_TRY(BootOutcome booted, host_.boot(boot_order, nullptr));
    if (booted.failed) return std::unexpected(*booted.failed);
    return booted;
  };
  auto booted = make();
  if (!booted) {
    // Nothing is left of a Machine that never ran.
    if (const auto undone = undo_creation(app, id, release); !undone)
      booted.error().message += "; and its rest could not be removed: " + undone.error().message;
    return std::unexpected(std::move(booted).error());
  }
  COFFER_CHECK(vault_.finish_release(app, release, ReleaseOutcome::kDone));
  COFFER_TRY(MachineStatus status, machine(app, id));
  about.version = status.version();
  warnings.insert(warnings.end(), booted->warnings.begin(), booted->warnings.end());
  return Ran{std::move(status), std::move(warnings)};
}

Result<Deployer::Ran> Deployer::start(const App &app, const MachineStatus &asked) {
  return logged(entry(asked.started() ? "restart machine" : "start machine", app, asked.stored.record.id),
                [&](AuditEntry &about) { return boot_newest(app, asked, about); });
}

Result<Deployer::Ran> Deployer::boot_newest(const App &app, const MachineStatus &asked, AuditEntry &about) {
  std::vector<std::string> warnings;
  COFFER_CHECK(recover(app));
  COFFER_CHECK(finish_rollout(app, warnings));
  COFFER_CHECK(resume(app, asked.stored.record.id, warnings));
  COFFER_TRY(const MachineStatus m, machine(app, asked.stored.record.id));
  COFFER_TRY(Manifest manifest, newest(app));
  COFFER_TRY(const auto back, way_back(app, m));
  if (m.view && !m.started()) COFFER_CHECK(host_.announce(m.stored.record.id, State::kStarting));
  std::vector<NewSpec> specs;
  COFFER_TRY(MachineConfig config, config_of(app, m));
  specs.push_back({m.stored, std::move(config), undo_of(m)});
  COFFER_TRY(Vault::Made made,
             make_release(app, manifest, specs, {m.started() ? "machine restart" : "machine start"}));
  about.version = manifest.version();
  about.release = made.release.number;
  const auto boot = [&]() -> Result<BootOutcome> {
    // It has one, but after a restore.
    COFFER_CHECK(keys_.grant(app.id(), m.stored.record.id, host_.host(), made.specs[0].envelope));
    COFFER_TRY(const BootOrder next, order(app, std::move(made.specs[0])));
    return host_.boot(next, back ? &*back : nullptr);
  };
  const auto booted = boot();
  const bool ok = booted && !booted->failed;
  COFFER_CHECK(
      vault_.finish_release(app, made.release.number, ok ? ReleaseOutcome::kDone : ReleaseOutcome::kFailed));
  if (!ok) {
    Error why = booted ? *booted->failed : booted.error();
    if (booted && booted->went_back) why.message += "; the previous instance runs";
    return std::unexpected(std::move(why).in(machine_context(app, m.stored.record)));
  }
  COFFER_TRY(MachineStatus status, machine(app, m.stored.record.id));
  warnings.insert(warnings.end(), booted->warnings.begin(), booted->warnings.end());
  return Ran{std::move(status), std::move(warnings)};
}

Result<void> Deployer::stop(const App &app, const MachineStatus &m) {
  return logged(entry("stop machine", app, m.stored.record.id), [&](AuditEntry &) -> Result<void> {
    if (m.started()) COFFER_CHECK(host_.announce(m.stored.record.id, State::kStopping));
    COFFER_CHECK(vault_.set_desired(app, m.stored.record.id, Desired::kStopped));
    return host_.stop(m.stored.record.id);
  });
}

Result<void> Deployer::destroy(const App &app, const MachineStatus &m) {
  const std::string &id = m.stored.record.id;
  return logged(entry("destroy machine", app, id), [&](AuditEntry &) -> Result<void> {
    COFFER_CHECK(vault_.set_desired(app, id, Desired::kDestroyed));
    return take_away(app, id);
  });
}

Result<void> Deployer::log_exec(const App &app, const MachineStatus &m) {
  return logged(entry("exec", app, m.stored.record.id), [](AuditEntry &) { return Result<void>{}; });
}

// ---- for whoever watches ----

Result<std::vector<std::string>> Deployer::finish_cut_off(const App &app) {
  std::vector<std::string> warnings;
  COFFER_CHECK(recover(app));
  COFFER_CHECK(finish_rollout(app, warnings));
  COFFER_CHECK(resume(app, "", warnings));
  return warnings;
}

Result<MachineStatus> Deployer::look_at(const App &app, const MachineState &state) {
  COFFER_TRY(const std::vector<StoredMachine> stored, vault_.machines(app));
  COFFER_CHECK(check_fresh(app, stored));
  for (const StoredMachine &m : stored)
    if (m.record.id == state.machine) return look(app, m, Ask::kRuntime);
  return fail(ErrorCode::kNotFound, "App " + app.name() + " has no Machine " + state.machine);
}

Result<SignedSpec> Deployer::current_spec(const App &app, const MachineStatus &m) {
  return vault_.spec_by_hash(app, m.stored.record, m.view->state.current->spec);
}

Result<BootOutcome> Deployer::boot_ended(const App &app, const MachineStatus &m) {
  return logged(entry("boot again", app, m.stored.record.id), [&](AuditEntry &about) -> Result<BootOutcome> {
    COFFER_TRY(SignedSpec spec, current_spec(app, m));
    about.version = spec.spec.version;
    about.spec = spec.spec.number;
    COFFER_TRY(const BootOrder same, order(app, std::move(spec)));
    auto booted = host_.boot_ended(same, m.view->state.current->instance_id);
    if (booted && booted->failed) about.outcome = outcome_of(*booted->failed);
    return booted;
  });
}

Result<void> Deployer::hand_over(const App &app, const std::set<std::string> &only, const Ticket &ticket) {
  COFFER_CHECK(log_ready());
  COFFER_CHECK(recover(app));
  COFFER_TRY(Manifest manifest, newest(app));
  for (const std::string &name : only)
    if (!manifest.find(name))
      return fail(ErrorCode::kNotFound, "App " + app.name() + " has no secret " + name,
                  "See `coffer secrets list -a " + app.name() + "`.");
  const std::string id = new_machine_id();
  MachineConfig config;
  config.name = "run-" + id;
  config.kind = MachineKind::kLocal;
  COFFER_CHECK(host_.reserve(app.id(), app.name(), id, config.name));
  uint64_t release = 0;
  const auto handed = [&]() -> Result<void> {
    COFFER_TRY(const BootOrder boot_order,
               make_machine(app, manifest, id, std::move(config), "run", release));
    return host_.hand_over(boot_order, only, ticket);
  }();
  AuditEntry about = entry("run", app, id);
  about.names.assign(only.begin(), only.end());
  about.version = manifest.version();
  const auto written = log_done(std::move(about), handed ? nullptr : &handed.error());
  COFFER_CHECK(undo_creation(app, id, 0));
  if (release)
    COFFER_CHECK(
        vault_.finish_release(app, release, handed ? ReleaseOutcome::kDone : ReleaseOutcome::kFailed));
  COFFER_CHECK(handed);
  return written;
}

}  // namespace coffer
