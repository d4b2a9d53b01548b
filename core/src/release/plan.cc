// What a roll-out would do, and what the versions before have done.
#include <algorithm>

#include "coffer/release/deployer.h"
#include "effects.h"

namespace coffer {
namespace {

// Both lists are sorted by name.
void compare(const Manifest &old, const Manifest &next, Effects::Changes &out) {
  for (const Entry &e : next.entries) {
    const Entry *before = old.find(e.name);
    if (!before)
      out.emplace(e.name, PlannedChange::kAdd);
    else if (before->version != e.version)
      out.insert_or_assign(e.name, PlannedChange::kChange);
  }
  for (const Entry &e : old.entries)
    if (!next.find(e.name)) out.emplace(e.name, PlannedChange::kRemove);
}

// On a running Machine; as the bindings of its injectors have it (boot.cc).
PlannedEffect effect_on(const MachineConfig &config, const Effects::Changes &changes) {
  PlannedEffect out = PlannedEffect::kNone;
  for (const auto &[name, change] : changes) {
    const auto is_it = [&](const FileBinding &f) { return f.secret == name; };
    const bool file = std::ranges::any_of(config.files, is_it);
    const bool variable =
        config.secrets ? std::ranges::any_of(*config.secrets, [&](const auto &v) { return v.secret == name; })
                       : !file;
    for (const FileBinding &f : config.files)
      if (is_it(f))
        out = std::max(out, f.reload.empty() || f.env || change == PlannedChange::kRemove
                                ? PlannedEffect::kRestart
                                : PlannedEffect::kReload);
    if (variable) out = PlannedEffect::kRestart;
  }
  return out;
}

}  // namespace

std::string_view to_string(PlannedEffect e) {
  return e == PlannedEffect::kNone ? "none" : e == PlannedEffect::kReload ? "reload" : "restart";
}

std::string_view to_string(PlannedChange c) {
  return c == PlannedChange::kAdd ? "add" : c == PlannedChange::kChange ? "change" : "remove";
}

Result<PlannedEffect> Effects::on(const MachineStatus &m, const MachineConfig &next) {
  const uint64_t version = m.version();
  if (version && version != head_.version() && !since_.contains(version)) {
    COFFER_TRY(const Manifest old, vault_.at(app_, version));
    compare(old, head_, since_[version]);
  }
  const MachineConfig &now = m.older ? *m.older : m.spec.spec.config;
  if (!m.started() || encode(next) != encode(now)) return PlannedEffect::kRestart;
  return effect_on(next, since_[version]);
}

bool to_be_rolled_out(const MachineStatus &m) {
  // Also one that failed: a new value may be what it needs.  Stopped Machines stay stopped.
  if (m.stored.record.desired != Desired::kStarted) return false;
  return m.started() || m.now() == State::kFailed || (m.view && m.view->cut_off);
}

Result<Plan> Deployer::plan(const App &app) {
  COFFER_TRY(const Manifest head, newest(app));
  COFFER_TRY(const std::vector<MachineStatus> all, machines(app));
  Plan out;
  out.version = head.version();
  Effects effects(vault_, app, head);
  bool behind = false;
  for (const MachineStatus &m : all) {
    if (!to_be_rolled_out(m)) continue;
    behind = behind || m.version() < head.version() || !m.started();
    COFFER_TRY(const MachineConfig config, config_of(app, m));
    COFFER_TRY(const PlannedEffect effect, effects.on(m, config));
    out.machines.push_back({m.stored.record.id, m.stored.record.name, m.version(), effect});
  }
  if (!behind) out.machines.clear();
  for (const auto &[version, changes] : effects.since())
    for (const auto &[name, change] : changes) {
      auto &planned = out.secrets.emplace(name, change).first->second;
      if (change == PlannedChange::kChange) planned = change;
    }
  return out;
}

Result<std::vector<VersionView>> Deployer::history(const App &app) {
  COFFER_TRY(const Manifest head, newest(app));
  COFFER_TRY(const std::vector<Manifest> kept, vault_.retained(app, head));
  std::vector<VersionView> out;
  for (size_t i = 0; i < kept.size(); ++i) {
    const Header &h = kept[i].head.header;
    VersionView v{h.version, h.created_ms, h.who, h.restored_from, {}, {}};
    for (const Entry &e : kept[i].entries)
      if (e.version == h.version) v.set.push_back(e.name);
    if (i + 1 < kept.size())
      for (const Entry &e : kept[i + 1].entries)
        if (!kept[i].find(e.name)) v.removed.push_back(e.name);
    out.push_back(std::move(v));
  }
  return out;
}

Result<Manifest> Deployer::roll_back_secrets(const App &app, uint64_t version) {
  return logged(entry("rollback", app), [&](AuditEntry &about) -> Result<Manifest> {
    constexpr int kMaxTries = 50;
    for (int tries = 0; tries < kMaxTries; ++tries) {
      bool away = false;
      COFFER_TRY(const auto seen, this->seen(app, away));
      COFFER_TRY(const Manifest head, vault_.newest(app));
      COFFER_CHECK(check_fresh(app, seen, head));
      COFFER_TRY(const std::vector<Manifest> kept, vault_.retained(app, head));
      const auto at = version == 0 ? kept.begin() + (kept.size() > 1 ? 1 : 0)
                                   : std::ranges::find(kept, version, &Manifest::version);
      if (at == kept.end() || (version == 0 && kept.size() < 2))
        return fail(ErrorCode::kNotFound,
                    version ? "App " + app.name() + " does not keep version " + std::to_string(version)
                            : "App " + app.name() + " keeps no version before the newest",
                    "See `coffer secrets history -a " + app.name() + "`.");
      COFFER_TRY(auto next, vault_.roll_back(app, head, *at, who_));
      if (!next) continue;  // others were faster
      about.version = next->version();
      const auto reported = away ? Result<void>() : report(app, seen, next->version());
      if (!reported && !(without_keys_ && reported.error().code == ErrorCode::kUnavailable))
        return std::unexpected(reported.error());
      return *std::move(next);
    }
    return fail(ErrorCode::kAborted, "App " + app.name() + " is being written by others all the time",
                "Try again.");
  });
}

Result<Deployer::Purged> Deployer::purge(const App &app, std::string_view name) {
  AuditEntry purges = entry("purge", app);
  purges.names.emplace_back(name);
  return logged(std::move(purges), [&](AuditEntry &about) -> Result<Purged> {
    std::vector<std::string> warnings;
    COFFER_CHECK(recover(app));
    COFFER_CHECK(finish_rollout(app, warnings));
    COFFER_TRY(const auto seen, keys_.seen(app.id()));
    COFFER_TRY(Manifest head, newest(app));
    COFFER_TRY(const std::vector<Manifest> kept, vault_.retained(app, head));
    const Entry *now = head.find(name);
    const auto had = [&](const Manifest &m) {
      const Entry *e = m.find(name);
      return e && !(now && now->record == e->record);
    };
    if (!now && std::ranges::none_of(kept, had))
      return fail(ErrorCode::kNotFound,
                  "App " + app.name() + " keeps no value of the secret " + std::string(name),
                  "See `coffer secrets history -a " + app.name() + "`.");
    // What a Machine was booted with is needed when its app has to be started again.
    COFFER_TRY(const std::vector<MachineStatus> all, machines(app));
    for (const MachineStatus &m : all) {
      if (!m.version() || m.version() == head.version() || !m.started()) continue;
      COFFER_TRY(const Manifest its, vault_.at(app, m.version()));
      if (had(its))
        return fail(ErrorCode::kFailedPrecondition,
                    "Machine " + m.stored.record.name + " (" + m.stored.record.id +
                        ") runs with an older value of " + std::string(name),
                    "Bring the newest one to it first: `coffer secrets deploy -a " + app.name() + "`.");
    }
    COFFER_TRY(const size_t before, vault_.count_records(app));
    constexpr int kMaxTries = 50;
    for (int tries = 0; tries < kMaxTries; ++tries) {
      COFFER_TRY(const uint64_t swept, vault_.sweep_revision(app));
      COFFER_TRY(auto next, vault_.replace_records(app, head, {}, swept, true, who_));
      if (!next) {
        COFFER_TRY(head, newest(app));
        continue;
      }
      head = *std::move(next);
      COFFER_CHECK(report(app, seen, head.version()));
      // Ways back, and launch specs of Machines that are stopped, name older versions.
      COFFER_CHECK(move_way_back(app, head, "secrets purge: way back"));
      COFFER_TRY(head, newest(app));
      COFFER_CHECK(vault_.sweep(app, head));
      COFFER_TRY(const size_t after, vault_.count_records(app));
      about.version = head.version();
      return Purged{head.version(), before > after ? before - after : 0};
    }
    return fail(ErrorCode::kAborted, "App " + app.name() + " is being written by others all the time",
                "Try again.");
  });
}

}  // namespace coffer
