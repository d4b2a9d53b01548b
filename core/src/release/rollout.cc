// Roll-outs.  What has to survive whoever does it is one record in the vault (Rollout of format/machine.h):
//   1. one commit: release, launch specs, the record
//   2. wave by wave: the Machines of a wave are booted and proved at once; when all are good, the record
//      says so
//   3. one commit: the release is done, the record is gone
// The first Machine that is no good turns it round: the record says so, each Machine is booted from the
// launch spec that it ran before, and the release has failed.  Each step may be done twice: where a Machine
// is, its host's receipt says.  Whoever finds the record of a dead process goes on with it (go()).
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "coffer/base/log.h"
#include "coffer/release/deployer.h"
#include "crew.h"
#include "effects.h"

namespace coffer {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int kMaxTries = 50;
constexpr auto kLook = 100ms;  // at a roll-out of another process
constexpr auto kBackPause = 500ms;

std::string context(const std::string &machine, const std::string &name) {
  return "Machine " + name + " (" + machine + ")";
}

// How many Machines are at work at once, wave by wave.
std::vector<size_t> waves_of(size_t n, const DeployPolicy &policy) {
  if (n == 0) return {};
  if (policy.strategy == Strategy::kImmediate) return {n};
  const size_t most = policy.max_unavailable > 1000 ? policy.max_unavailable - 1000
                                                    : (n * policy.max_unavailable + 500) / 1000;
  std::vector<size_t> out = {1};
  for (size_t left = n - 1; left > 0;) {
    out.push_back(std::min(left, std::max<size_t>(most, 1)));
    left -= out.back();
  }
  return out;
}

std::string_view done_by(BootOutcome::Done how) {
  switch (how) {
    case BootOutcome::Done::kBooted:
      return "started";
    case BootOutcome::Done::kReloaded:
      return "reloaded";
    case BootOutcome::Done::kUnchanged:
      return "unchanged";
  }
  return "";
}

// With nothing that announces what is waited for.
void pause(std::chrono::milliseconds time) { ::poll(nullptr, 0, static_cast<int>(time.count())); }

std::string_view boot_id(std::string_view identity) { return identity.substr(0, identity.find(':')); }

}  // namespace

// ---- one roll-out, by its owner ----

struct Deployer::Run {
  Run(Deployer &deployer, const App &of, StoredRollout r, std::vector<SignedSpec> next)
      : d(deployer),
        app(of),
        stored(std::move(r)),
        specs(std::move(next)),
        resumed(specs.empty()),
        crew(d.host_, d.more_hosts_, d.most_hosts_) {
    out.release = stored.rollout.release;
    out.version = stored.rollout.version;
    for (const Rollout::Step &s : stored.rollout.steps)
      out.machines.push_back({s.machine, s.name, "skipped"});
  }

  Rollout &r() { return stored.rollout; }
  const Rollout::Step &step(size_t i) { return r().steps[i]; }
  Result<void> keep() {
    const std::lock_guard lock(*d.asking_);
    return d.vault_.keep_rollout(app, stored);
  }
  void beat() {
    ++r().beat;
    if (const auto kept = keep(); !kept && kept.error().code == ErrorCode::kAborted) lost = true;
  }
  void say(const std::string &machine, std::string_view what) {
    if (!d.progress_) return;
    const std::lock_guard lock(mutex);
    d.progress_(machine, what);
  }
  std::string named() { return "release " + std::to_string(r().release); }

  Result<BootOrder> order(size_t i, const Hash &hash) {
    const std::lock_guard lock(*d.asking_);
    if (i < specs.size() && specs[i].hash == hash) return d.order(app, specs[i]);
    MachineRecord m;
    m.id = step(i).machine;
    COFFER_TRY(SignedSpec spec, d.vault_.spec_by_hash(app, m, hash));
    return d.order(app, std::move(spec));
  }
  bool gone(const std::string &machine) {
    const std::lock_guard lock(*d.asking_);
    const auto all = d.vault_.machines(app);
    return all && std::ranges::none_of(*all, [&](const StoredMachine &m) {
             return m.record.id == machine && m.record.desired != Desired::kDestroyed;
           });
  }
  bool unwanted(const std::string &machine) {
    const std::lock_guard lock(*d.asking_);
    const auto wanted = d.vault_.wanted(app, machine);
    return wanted && !*wanted;
  }
  Result<void> grant(size_t i, ByteSpan spec) {
    const std::lock_guard lock(*d.asking_);
    return d.keys_.grant(app.id(), step(i).machine, host_key, spec);
  }

  // ---- forward ----
  void boot(size_t i, MachineHost &host) {
    if (failed || lost) return;
    const Rollout::Step &s = step(i);
    const auto booted = [&]() -> Result<BootOutcome> {
      COFFER_TRY(BootOrder next, order(i, s.next));
      if (s.made) COFFER_CHECK(grant(i, next.spec));
      next.still_wanted = [this, wanted = std::move(next.still_wanted)]() -> Result<void> {
        if (failed) return fail(ErrorCode::kCancelled, "another Machine of the release is no good");
        return wanted();
      };
      std::optional<BootOrder> back;
      if (s.ran) {
        COFFER_TRY(back, order(i, s.back));
      }
      return host.boot(next, back ? &*back : nullptr, probation);
    }();
    if (!booted && booted.error().code == ErrorCode::kUnavailable) host.renew();
    const Error *why = !booted ? &booted.error() : booted->failed ? &*booted->failed : nullptr;
    // A newer launch spec got there first, and its manifest has this change too; or it was stopped meanwhile.
    const bool aside = why && (booted ? why->code == ErrorCode::kAborted && unwanted(s.machine)
                                      : why->code == ErrorCode::kAborted || gone(s.machine));
    out.machines[i].result = !why                          ? done_by(booted->done)
                             : aside                       ? "superseded"
                             : booted && booted->went_back ? "kept"
                                                           : "failed";
    if (!why) say(s.machine, "good, " + std::to_string(++good) + " of " + std::to_string(r().steps.size()));
    const std::lock_guard lock(mutex);
    if (booted) out.warnings.insert(out.warnings.end(), booted->warnings.begin(), booted->warnings.end());
    if (!why || aside || failed.exchange(true)) return;
    out.failed = Error(*why).in(context(s.machine, s.name));
    if (booted) {
      out.log = booted->log;
      out.log_withheld = booted->log_withheld;
    }
  }

  Result<void> forward() {
    if (std::ranges::any_of(r().steps, &Rollout::Step::made)) host_key = d.host_.host();
    const std::vector<size_t> waves = waves_of(r().steps.size(), policy);
    size_t at = 0;
    for (size_t w = 0; w < waves.size(); at += waves[w++]) {
      if (w < r().waves) {
        for (size_t i = at; i < at + waves[w]; ++i) out.machines[i].result = "started";
        good += waves[w];
        continue;
      }
      say("", named() + ": " + std::to_string(waves[w]) + " of " + std::to_string(r().steps.size()) +
                  " Machines, wave " + std::to_string(w + 1) + " of " + std::to_string(waves.size()));
      crew.each(waves[w], [&](size_t i, MachineHost &host) { boot(at + i, host); }, [this] { beat(); });
      if (lost) return taken();
      if (failed) return {};
      r().waves = static_cast<uint32_t>(w + 1);
      if (w + 1 < waves.size()) COFFER_CHECK(keep());
    }
    return {};
  }
  std::unexpected<Error> taken() {
    return fail(ErrorCode::kAborted,
                named() + " of App " + app.name() + " was taken over by another process");
  }

  // ---- back ----
  // Its own way back, after which `result` is said.  An error: it may be tried again.
  Result<void> back(size_t i, MachineHost &host) {
    const Rollout::Step &s = step(i);
    std::string &result = out.machines[i].result;
    if (!resumed && (result == "skipped" || result == "kept" || result == "superseded") && !s.made) return {};
    COFFER_TRY(const auto state, host.state(s.machine));
    if (!state || gone(s.machine)) {
      result = "superseded";
      return {};
    }
    const auto &current = state->current;
    const bool settled = !state->pending && (state->state == State::kStarted || !s.ran);
    if (current && current->spec == s.back && settled) {
      result = "kept";
      return {};
    }
    if (s.back == Hash{}) return {};  // it never ran: nothing to go back to
    COFFER_TRY(const BootOrder previous, order(i, s.back));
    say(s.machine, "going back");
    const auto booted = host.boot_again(previous, s.next);
    const Error *why = !booted ? &booted.error() : booted->failed ? &*booted->failed : nullptr;
    if (why && why->code == ErrorCode::kAborted) {
      result = "superseded";  // by a newer release of another process, or stopped
      return {};
    }
    result = why && s.ran ? "failed" : "kept";
    if (!why || !s.ran) return {};
    if (why->code == ErrorCode::kUnavailable) return std::unexpected(*why);
    const std::lock_guard lock(mutex);
    out.warnings.push_back(Error(*why).in(context(s.machine, s.name) + " could not be brought back").message);
    return {};
  }

  // Nothing: some of them are to be tried again.
  Result<void> all_back() {
    std::vector<size_t> todo;
    for (size_t i = 0; i < r().steps.size(); ++i) todo.push_back(i);
    const auto end = Clock::now() + d.back_patience_;
    for (;;) {
      std::vector<std::pair<size_t, Error>> again;
      const auto tried = [&](size_t i, MachineHost &host, const Result<void> &done) {
        if (done) return;
        host.renew();
        const std::lock_guard lock(mutex);
        again.emplace_back(i, Error(done.error()).in(context(step(i).machine, step(i).name)));
      };
      std::vector<size_t> made;
      std::erase_if(todo, [&](size_t i) {
        if (step(i).made) made.push_back(i);
        return step(i).made;
      });
      crew.each(
          todo.size(), [&](size_t k, MachineHost &host) { tried(todo[k], host, back(todo[k], host)); },
          [this] { beat(); });
      for (const size_t i : made) {
        beat();
        const auto undone = d.undo_creation(app, step(i).machine, 0);
        out.machines[i].result = "removed";
        tried(i, d.host_, undone);
      }
      if (lost) return taken();
      if (again.empty()) return {};
      if (Clock::now() >= end) return std::unexpected(again.front().second);
      todo.clear();
      for (const auto &[i, why] : again) todo.push_back(i);
      beat();
      pause(kBackPause);
    }
  }

  // ---- the end ----
  Result<std::vector<NewSpec>> parked(const Release &release) {
    std::vector<NewSpec> specs_of;
    if (release.configs.empty()) return specs_of;
    COFFER_TRY(const std::vector<StoredMachine> all, d.vault_.machines(app));
    for (const StoredMachine &m : all) {
      if (m.record.desired != Desired::kStopped) continue;
      COFFER_TRY(const SignedSpec newest, d.vault_.spec(app, m.record, m.record.spec_number));
      const auto at = std::ranges::find(release.configs, newest.spec.config.process, &MachineConfig::process);
      if (at == release.configs.end() || newest.spec.config.process.empty()) continue;
      MachineConfig config = *at;
      config.name = m.record.name;
      if (encode(config) == encode(newest.spec.config)) continue;
      specs_of.push_back({m, std::move(config), newest.spec.undo, true});
    }
    return specs_of;
  }

  Result<void> end(ReleaseOutcome outcome) {
    for (int tries = 1;; ++tries) {
      COFFER_TRY(const auto release, d.vault_.release(app, r().release));
      std::vector<NewSpec> stopped;
      if (release && outcome == ReleaseOutcome::kDone) {
        COFFER_TRY(stopped, parked(*release));
      }
      Manifest manifest;
      if (!stopped.empty()) {
        COFFER_TRY(manifest, d.vault_.at(app, r().version));
      }
      const auto ended = d.vault_.end_rollout(app, stored, outcome, manifest, stopped);
      if (ended) break;
      if (ended.error().code != ErrorCode::kAborted || tries == kMaxTries) return ended;
      // A Machine was changed meanwhile; or the record, and then it is another process's.
      COFFER_TRY(const auto now, d.vault_.rollout(app));
      if (!now || now->revision != stored.revision) return taken();
    }
    if (outcome != ReleaseOutcome::kDone || r().removed.empty()) return {};
    COFFER_TRY(const std::vector<StoredMachine> all, d.vault_.machines(app));
    for (const StoredMachine &m : all) {
      const std::string &id = m.record.id;
      if (std::ranges::find(r().removed, id) == r().removed.end()) continue;
      out.machines.push_back({id, m.record.name, "removed"});
      if (const auto taken_away = d.take_away(app, id); !taken_away)
        out.warnings.push_back("Machine " + id + " is not removed yet: " + taken_away.error().message);
    }
    return {};
  }

  RolloutResult unfinished(const Error &why) {
    // Whoever comes next need not wait for this one.
    r().owner.clear();
    (void)keep();
    out.unfinished = true;
    if (!out.failed) out.failed = why;
    out.warnings.push_back(named() + " is not at its end: " + why.message +
                           "; the next command that changes the App, or the agent, goes on");
    return std::move(out);
  }

  Result<RolloutResult> all(bool to_go_back) {
    if (r().owner != *d.owner_ || resumed) {
      r().owner = *d.owner_;
      ++r().beat;
      COFFER_CHECK(keep());
    }
    COFFER_TRY(const auto release, d.vault_.release(app, r().release));
    policy = d.policy_of(release);
    if (!r().hasty) probation = {probation.may_stay, policy.smoke_ms, true, policy.patience_ms};
    if (r().stage == Rollout::Stage::kForward && !to_go_back) {
      const auto gone_on = forward();
      if (!gone_on && gone_on.error().code == ErrorCode::kAborted) return std::unexpected(gone_on.error());
      if (!gone_on) out.failed = gone_on.error();
      if (!out.failed) {
        if (const auto ended = end(ReleaseOutcome::kDone); !ended) return unfinished(ended.error());
        return std::move(out);
      }
      r().why = out.failed->message;
    }
    if (r().why.empty()) r().why = "it was undone on request";
    if (!out.failed) out.failed = Error{ErrorCode::kUnknown, r().why, ""};
    if (r().stage != Rollout::Stage::kBack) {
      r().stage = Rollout::Stage::kBack;
      // Not stored (a full disk): then whoever comes next may go forward again, which is as good.
      if (const auto kept = keep(); !kept && kept.error().code == ErrorCode::kAborted)
        return std::unexpected(kept.error());
    }
    say("", named() + " goes back");
    if (const auto done = all_back(); !done) {
      if (done.error().code == ErrorCode::kAborted) return std::unexpected(done.error());
      return unfinished(done.error());
    }
    if (const auto ended = end(ReleaseOutcome::kFailed); !ended) return unfinished(ended.error());
    return std::move(out);
  }

  Deployer &d;
  const App &app;
  StoredRollout stored;
  std::vector<SignedSpec> specs;  // of the steps, when they were made just now
  const bool resumed;
  Crew crew;
  PublicKey host_key{};
  DeployPolicy policy;
  Probation probation;
  std::mutex mutex;
  std::atomic<bool> failed = false, lost = false;
  std::atomic<size_t> good = 0;
  RolloutResult out;
};

Result<RolloutResult> Deployer::go(const App &app, StoredRollout stored, std::vector<SignedSpec> specs,
                                   bool back, bool anew) {
  Run run(*this, app, std::move(stored), std::move(specs));
  run.probation.may_stay = !anew;
  return run.all(back);
}

// ---- those of others ----

namespace {
// When this process has seen this state of an App's roll-out first.
Clock::time_point first_seen(const AppId &app, uint64_t revision) {
  static std::mutex mutex;
  static std::map<AppId, std::pair<uint64_t, Clock::time_point>> seen;
  const std::lock_guard lock(mutex);
  auto &[last, when] = seen[app];
  if (std::exchange(last, revision) != revision) when = Clock::now();
  return when;
}
}  // namespace

bool Deployer::alive(const StoredRollout &stored) const {
  const Rollout &r = stored.rollout;
  if (r.owner.empty() || r.owner == *owner_) return false;
  // Of a process of another boot, or host, only its beat tells.
  if (!process_alive(r.owner) && boot_id(r.owner) == boot_id(process_identity())) return false;
  return Clock::now() - first_seen(r.app_id, stored.revision) <= owner_patience_;
}

// Until it has ended, or its owner.
Result<void> Deployer::wait_for(const App &app, uint64_t release) {
  const std::string named = "release " + std::to_string(release);
  if (progress_) progress_("", "waiting for " + named + " of another process");
  for (;;) {
    if (cancelled_ && cancelled_())
      return fail(ErrorCode::kCancelled, "interrupted while another process rolls out " + named);
    COFFER_TRY(const auto now, vault_.rollout(app));
    if (!now || now->rollout.release != release || !alive(*now)) return {};
    pause(kLook);
  }
}

Result<std::optional<RolloutResult>> Deployer::clear_the_way(const App &app) {
  for (;;) {
    COFFER_TRY(const auto stored, vault_.rollout(app));
    if (!stored) return std::nullopt;
    if (alive(*stored)) COFFER_CHECK(wait_for(app, stored->rollout.release));
    COFFER_TRY(const auto now, vault_.rollout(app));
    if (now && now->rollout.release == stored->rollout.release) {
      auto gone = go(app, *now, {}, false);
      if (!gone && gone.error().code == ErrorCode::kAborted) continue;  // another process has it
      if (!gone) return std::unexpected(gone.error());
      if (gone->unfinished)
        return fail(ErrorCode::kUnavailable, gone->warnings.back(),
                    "See `coffer releases list -a " + app.name() + "`.");
      return std::optional(*std::move(gone));
    }
    COFFER_TRY(const auto release, vault_.release(app, stored->rollout.release));
    RolloutResult out;
    out.release = stored->rollout.release;
    out.version = stored->rollout.version;
    out.joined = true;
    const bool done = release && release->outcome == ReleaseOutcome::kDone;
    if (!done) out.failed = Error{ErrorCode::kUnknown, release ? release->why : "its App was destroyed", ""};
    for (const Rollout::Step &s : stored->rollout.steps)
      out.machines.push_back({s.machine, s.name, done ? "started" : "kept"});
    return std::optional(std::move(out));
  }
}

// What a process that died has left; nothing is waited for.
Result<void> Deployer::finish_rollout(const App &app, std::vector<std::string> &warnings) {
  COFFER_TRY(const auto stored, vault_.rollout(app));
  if (!stored || alive(*stored)) return {};
  const auto ended = logged(entry("finish deploy", app), [&](AuditEntry &about) {
    about.release = stored->rollout.release;
    about.version = stored->rollout.version;
    auto gone = go(app, *stored, {}, false);
    if (gone && gone->failed) about.outcome = outcome_of(*gone->failed);
    return gone;
  });
  if (!ended && ended.error().code == ErrorCode::kAborted) return {};  // another process has it
  if (!ended) return std::unexpected(ended.error());
  warnings.insert(warnings.end(), ended->warnings.begin(), ended->warnings.end());
  const std::string which = "release " + std::to_string(stored->rollout.release) + ", which was cut off,";
  if (ended->failed && !ended->unfinished)
    warnings.push_back(which + " was undone: " + ended->failed->message);
  else if (!ended->failed)
    warnings.push_back(which + " was finished");
  return {};
}

Result<std::optional<RolloutView>> Deployer::under_way(const App &app) const {
  COFFER_TRY(auto stored, vault_.rollout(app));
  if (!stored) return std::nullopt;
  const bool lives = alive(*stored);
  return std::optional(RolloutView{std::move(stored->rollout), lives});
}

Result<std::vector<Release>> Deployer::releases(const App &app) const {
  COFFER_TRY(std::vector<Release> all, vault_.releases(app));
  std::ranges::reverse(all);
  return all;
}

Result<RolloutResult> Deployer::end_rollout(const App &app, bool back) {
  COFFER_CHECK(recover(app));
  COFFER_TRY(const auto stored, vault_.rollout(app));
  if (!stored)
    return fail(ErrorCode::kNotFound, "App " + app.name() + " has no roll-out that was cut off",
                "See `coffer releases list -a " + app.name() + "`.");
  if (alive(*stored))
    return fail(ErrorCode::kFailedPrecondition,
                "release " + std::to_string(stored->rollout.release) + " is being rolled out right now",
                "Interrupt that command with Ctrl-C: it undoes what it has done.");
  return logged(entry(back ? "abort deploy" : "resume deploy", app), [&](AuditEntry &about) {
    about.release = stored->rollout.release;
    about.version = stored->rollout.version;
    return go(app, *stored, {}, back);
  });
}

// ---- new ones ----

DeployPolicy Deployer::policy_of(const std::optional<Release> &release) const {
  return release && release->policy ? *release->policy : policy_;
}

// Rationale: a Machine that another process is booting is not started at this moment, but it will be, and
// with what was the newest manifest when that boot was ordered: passed by, it would stay behind.
Result<std::vector<MachineStatus>> Deployer::settled_machines(const App &app) {
  for (int tries = 1;; ++tries) {
    COFFER_TRY(std::vector<MachineStatus> all, machines(app));
    bool waited = false;
    for (const MachineStatus &m : all) {
      if (!m.view || !m.view->busy) continue;
      const auto settled = host_.finish_cut_off(m.stored.record.id);
      if (!settled && settled.error().code != ErrorCode::kNotFound) return std::unexpected(settled.error());
      waited = true;
    }
    if (!waited || tries == kMaxTries) return all;
  }
}

// What goes on from release to release: that of a release which failed never held.
Result<MachineConfig> Deployer::config_of(const App &app, const MachineStatus &m) const {
  if (!m.older) return m.spec.spec.config;
  COFFER_TRY(const auto release, vault_.release(app, m.spec.spec.release));
  return release && release->outcome == ReleaseOutcome::kFailed ? *m.older : m.spec.spec.config;
}

namespace {
Rollout::Step step_of(const MachineStatus &m) {
  Rollout::Step s;
  s.machine = m.stored.record.id;
  s.name = m.stored.record.name;
  const bool has = m.view && m.view->state.current;
  if (has) s.back = m.view->state.current->spec;
  s.ran = has && (m.started() || m.view->cut_off);
  return s;
}

// The Machines of a roll-out that is being made.  Those that it changes most come first: one that it is
// nothing to would prove nothing to the others.
class ConcernedFirst {
 public:
  void add(PlannedEffect effect, NewSpec spec, Rollout::Step step) {
    all_.push_back({effect, std::move(spec), std::move(step)});
  }
  void move_to(std::vector<NewSpec> &specs, std::vector<Rollout::Step> &steps) {
    std::ranges::stable_sort(all_, std::greater(), &One::effect);
    for (One &one : all_) {
      specs.push_back(std::move(one.spec));
      steps.push_back(std::move(one.step));
    }
  }

 private:
  struct One {
    PlannedEffect effect;
    NewSpec spec;
    Rollout::Step step;
  };
  std::vector<One> all_;
};
}  // namespace

// As what it came to; nothing, and what another process did, is no entry.
template <class Order>
Result<RolloutResult> Deployer::logged_rollout(const App &app, const Order &order) {
  return logged(entry("deploy", app), [&](AuditEntry &about) {
    auto done = roll_out(app, order);
    manifests_.clear();
    if (!done) return done;
    about.version = done->version;
    about.release = done->release;
    if (done->failed)
      about.outcome = outcome_of(*done->failed);
    else if (done->release == 0 || done->joined)
      about.action.clear();
    return done;
  });
}

Result<RolloutResult> Deployer::rollout(const App &app, const RolloutOrder &order) {
  return logged_rollout(app, order);
}
Result<RolloutResult> Deployer::deploy(const App &app, const DeployOrder &order) {
  return logged_rollout(app, order);
}

std::unexpected<Error> Deployer::always_deployed(const App &app) {
  return fail(ErrorCode::kAborted, "App " + app.name() + " is being deployed by others all the time",
              "Try again.");
}

Result<RolloutResult> Deployer::roll_out(const App &app, const RolloutOrder &order) {
  COFFER_CHECK(recover(app));
  uint64_t mine = 0;  // what whoever calls has changed is in this version
  for (int tries = 0; tries < kMaxTries; ++tries) {
    COFFER_TRY(Manifest manifest, newest(app));
    if (mine == 0) mine = manifest.version();
    COFFER_TRY(auto before, clear_the_way(app));
    if (before && !order.force && before->version >= mine) return *std::move(before);
    if (before) continue;
    RolloutResult out;
    out.version = manifest.version();
    COFFER_TRY(const std::vector<MachineStatus> all, settled_machines(app));
    Rollout r;
    r.owner = *owner_;
    r.hasty = order.hasty;
    std::vector<NewSpec> specs;
    ConcernedFirst machines;
    Effects effects(vault_, app, manifest);
    bool behind = false;
    for (const MachineStatus &m : all) {
      if (!to_be_rolled_out(m)) continue;
      COFFER_TRY(MachineConfig config, config_of(app, m));
      const PlannedEffect effect = effects.on(m, config).value_or(PlannedEffect::kRestart);
      machines.add(effect, {m.stored, std::move(config), undo_of(m)}, step_of(m));
      behind = behind || m.version() < manifest.version() || !m.started();
      out.already = std::max(out.already, m.release());
    }
    machines.move_to(specs, r.steps);
    if (specs.empty() || (!behind && !order.force)) return out;
    auto made = make_release(app, manifest, specs, {order.reason}, &r);
    if (!made && specs.empty())
      return RolloutResult{.version = manifest.version()};            // all were stopped meanwhile
    if (!made && made.error().code == ErrorCode::kAborted) continue;  // another one was faster
    if (!made) return std::unexpected(made.error());
    return go(app, std::move(made->rollout), std::move(made->specs), false, order.force);
  }
  return always_deployed(app);
}

Result<RolloutResult> Deployer::roll_out(const App &app, const DeployOrder &order) {
  ReleaseDraft draft{order.reason, order.policy.over(policy_), order.configs};
  for (MachineConfig &c : draft.configs) {
    COFFER_TRY(c.image, host_.ensure_image(c.image, order.pull));
  }
  COFFER_CHECK(recover(app));
  for (int tries = 0; tries < kMaxTries; ++tries) {
    COFFER_TRY(const auto before, clear_the_way(app));
    if (before) continue;
    COFFER_TRY(Manifest manifest, newest(app));
    COFFER_TRY(const std::vector<MachineStatus> all, settled_machines(app));
    Rollout r;
    r.owner = *owner_;
    r.hasty = order.hasty;
    std::vector<NewSpec> specs;
    ConcernedFirst machines;
    Effects effects(vault_, app, manifest);
    bool changed = false;
    std::set<std::string> there;
    for (const MachineStatus &m : all) {
      if (m.stored.record.desired == Desired::kDestroyed) continue;
      COFFER_TRY(const MachineConfig now, config_of(app, m));
      if (now.process.empty()) continue;
      const auto at = std::ranges::find(draft.configs, now.process, &MachineConfig::process);
      if (at == draft.configs.end()) {
        r.removed.push_back(m.stored.record.id);
        changed = true;
        continue;
      }
      there.insert(now.process);
      MachineConfig config = *at;
      config.name = m.stored.record.name;
      const bool other = encode(config) != encode(now);
      changed = changed || other;
      if (!to_be_rolled_out(m)) continue;
      if (!other && m.version() == manifest.version() && m.started()) continue;  // as it is wanted
      changed = true;
      const PlannedEffect effect = effects.on(m, config).value_or(PlannedEffect::kRestart);
      machines.add(effect, {m.stored, std::move(config), undo_of(m)}, step_of(m));
    }
    machines.move_to(specs, r.steps);
    std::vector<std::string> made_ids;
    for (const MachineConfig &c : draft.configs) {
      if (there.contains(c.process)) continue;
      changed = true;
      NewSpec fresh;
      fresh.machine.record.id = new_machine_id();
      fresh.config = c;
      if (fresh.config.name.empty()) fresh.config.name = c.process;
      made_ids.push_back(fresh.machine.record.id);
      r.steps.push_back({fresh.machine.record.id, fresh.config.name, {}, {}, true, false});
      specs.push_back(std::move(fresh));
    }
    if (!changed) return RolloutResult{.version = manifest.version()};
    for (size_t i = specs.size() - made_ids.size(); i < specs.size(); ++i)
      COFFER_CHECK(host_.reserve(app.id(), app.name(), specs[i].machine.record.id, specs[i].config.name));
    auto made = make_release(app, manifest, specs, draft, &r);
    if (!made) {
      for (const std::string &id : made_ids) (void)undo_creation(app, id, 0);
      if (made.error().code == ErrorCode::kAborted) continue;
      return std::unexpected(made.error());
    }
    // The record keeps them from here on: whichever host boots them has to have the lease.
    for (const std::string &id : made_ids) COFFER_CHECK(host_.finish_cut_off(id));
    return go(app, std::move(made->rollout), std::move(made->specs), false);
  }
  return always_deployed(app);
}

Result<RolloutResult> Deployer::roll_back_release(const App &app, uint64_t number, bool hasty) {
  COFFER_TRY(const std::vector<Release> all, releases(app));  // the newest first
  std::vector<const Release *> deployed;
  for (const Release &r : all)
    if (!r.configs.empty() && r.outcome == ReleaseOutcome::kDone) deployed.push_back(&r);
  const auto list = "See `coffer releases list -a " + app.name() + "`.";
  const Release *to = nullptr;
  if (number == 0) {
    if (deployed.size() < 2)
      return fail(ErrorCode::kNotFound, "App " + app.name() + " has no earlier release of `coffer deploy`",
                  list);
    to = deployed[1];
  } else {
    if (std::ranges::find(all, number, &Release::number) == all.end())
      return fail(ErrorCode::kNotFound, "App " + app.name() + " has no release " + std::to_string(number),
                  list);
    for (const Release *r : deployed)
      if (r->number <= number && !to) to = r;
    if (!to)
      return fail(ErrorCode::kNotFound,
                  "release " + std::to_string(number) + " is from before the first `coffer deploy`", list);
  }
  DeployOrder order;
  order.reason = "rollback to release " + std::to_string(to->number);
  order.configs = to->configs;
  if (to->policy)
    order.policy = {to->policy->strategy, to->policy->max_unavailable, to->policy->smoke_ms,
                    to->policy->patience_ms};
  order.hasty = hasty;
  return deploy(app, order);
}

}  // namespace coffer
