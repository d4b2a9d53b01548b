#include "coffer/agent/reconciler.h"

#include <poll.h>

#include <algorithm>

#include "coffer/base/clock.h"
#include "coffer/base/log.h"
#include "coffer/base/process.h"
#include "state.h"
#include "watch.h"

namespace coffer {
namespace {

using namespace std::chrono_literals;
constexpr auto kGlance = 2s;    // between looks at the agent's own store
constexpr auto kStaysUp = 60s;  // after that the next end is the first one again
constexpr unsigned kLongestPause = 60;
constexpr auto kShutdown = 30s;  // what ended so shortly before the platform was gone was ended by it
constexpr auto kRetry = 2s;      // of a look at everything that failed
constexpr auto kLongestReopen = 5s;

bool runs(const InstanceStatus &i) {
  return i.state == COFFER_M_STARTED || i.state == COFFER_M_STARTING || i.state == COFFER_M_STOPPING;
}

bool ended(const InstanceStatus &i) {
  return i.state == COFFER_M_STOPPED || i.state == COFFER_M_FAILED || i.state == COFFER_M_GONE;
}

bool failed(const InstanceStatus &i) {
  return i.state != COFFER_M_STOPPED || i.exit_code != 0 || i.exit_signal != 0;
}

std::string in(std::chrono::seconds pause) {
  return pause > 0s ? " in " + std::to_string(pause.count()) + " s" : "";
}

}  // namespace

Reconciler::Reconciler(Config config) : config_(std::move(config)) {}
Reconciler::Reconciler(Reconciler &&) noexcept = default;
Reconciler::~Reconciler() = default;
Reconciler Reconciler::create(Config config) { return Reconciler(std::move(config)); }

bool Reconciler::cancelled() const {
  pollfd p{config_.cancel_fd, POLLIN, 0};
  return config_.cancel_fd >= 0 && ::poll(&p, 1, 0) > 0;
}

void Reconciler::say(const MachineState &s, std::string_view what, bool warn) const {
  log(warn ? LogLevel::kWarn : LogLevel::kInfo, "agent",
      "App " + s.app + ": Machine " + s.name + " (" + s.machine + ") " + std::string(what));
}

// Once, however often it is met.
void Reconciler::complain(const MachineState &s, const Error &why) {
  Watched &w = machines_[s.machine];
  w.wrong = true;
  if (std::exchange(w.complaint, why.message) != why.message)
    say(s, "cannot be looked after: " + why.message, true);
}

std::chrono::seconds Reconciler::pause(Watched &w) const {
  return std::chrono::seconds(std::min(kLongestPause, 1u << std::min(w.tries++, 6u)));
}

// ---- everything ----

// Removes instances of this host that no Machine of it knows: a second one of a Machine must never run.
Result<void> Reconciler::sweep() {
  COFFER_TRY(const Runtime *rt, config_.agent->runtime());
  if (const auto swept = rt->sweep(); !swept) log(LogLevel::kWarn, "agent", swept.error().message);
  // In this order: an instance is in its Machine's state before it exists.
  COFFER_TRY(const std::vector<InstanceStatus> found, rt->list({config_.agent->label()}));
  COFFER_TRY(const std::vector<MachineState> states, config_.agent->states());
  for (const InstanceStatus &i : found) {
    const bool known = std::ranges::any_of(states, [&](const MachineState &s) {
      const auto is = [&](const auto &record) { return record && record->instance_id == i.instance_id; };
      const bool its = std::ranges::find(i.labels, std::pair<std::string, std::string>(
                                                       "coffer.machine", s.machine)) != i.labels.end();
      return is(s.current) || is(s.pending) || is(s.failed) || (its && config_.agent->busy(s));
    });
    if (known || cancelled()) continue;
    log(LogLevel::kWarn, "agent",
        "instance " + i.instance_id + " of this host belongs to no Machine: it is removed");
    auto removed = rt->stop(i.handle, "", 0);
    if (removed) removed = rt->destroy(i.handle, true);
    if (!removed) log(LogLevel::kWarn, "agent", "instance " + i.instance_id + ": " + removed.error().message);
  }
  return {};
}

void Reconciler::tidy(const std::vector<MachineState> &states,
                      const std::function<bool(const MachineState &)> &needed) {
  std::set<AppId> done;
  for (const MachineState &s : states) {
    if (cancelled() || !needed(s) || !done.insert(s.app_id).second) continue;
    worked_ = true;
    const auto finished = config_.orders->finish_cut_off(s);
    if (!finished)
      complain(s, finished.error());
    else
      for (const std::string &w : *finished) log(LogLevel::kWarn, "agent", w);
  }
  // What only needs its lease taken once: instances that could not be removed, and a lease of ours that could
  // not be given back.
  for (const MachineState &s : states) {
    const bool ours = !s.lease_owner.empty() && s.owner_alive && !config_.agent->busy(s);
    if ((s.leftovers.empty() && !ours) || config_.agent->busy(s) || cancelled()) continue;
    if (const auto cleared = config_.agent->finish_cut_off(s.machine);
        !cleared && cleared.error().code != ErrorCode::kNotFound)
      complain(s, cleared.error());
  }
}

Result<void> Reconciler::look_at_everything(bool anew) {
  if (anew) {
    COFFER_TRY(const std::vector<MachineState> left, config_.agent->states());
    // Also Apps in which nothing was cut off: a Machine may have been said to be destroyed, and no more.
    tidy(left, [](const MachineState &) { return true; });
    COFFER_CHECK(sweep());
  }
  COFFER_TRY(const std::vector<MachineState> states, config_.agent->states());
  std::optional<Error> unavailable;
  for (const MachineState &s : states) {
    if (cancelled()) return {};
    Watched &w = machines_[s.machine];
    if (anew) {
      w.unseen = true;
      w.due.reset();
    }
    if (unavailable) continue;
    if (const auto looked = look(s, w); !looked) {
      if (looked.error().code == ErrorCode::kUnavailable)
        unavailable = looked.error();
      else
        complain(s, looked.error());
    }
  }
  if (unavailable) return std::unexpected(*std::move(unavailable));
  listens_ = true;
  next_glance_ = config_.now() + kGlance;
  return {};
}

// The agent's store only: what commands have done to Machines, and what they left when they died.
Result<void> Reconciler::glance() {
  next_glance_ = config_.now() + kGlance;
  COFFER_TRY(std::vector<MachineState> states, config_.agent->states());
  std::erase_if(machines_, [&](const auto &m) {
    return std::ranges::none_of(states, [&](const MachineState &s) { return s.machine == m.first; });
  });
  std::set<AppId> left, asked;
  for (const MachineState &s : states)
    if (asked.insert(s.app_id).second)
      if (const auto is = config_.orders->left_over(s.app_id); is && *is) left.insert(s.app_id);
  const auto cut_off = [&](const MachineState &s) {
    if (config_.agent->busy(s)) return false;
    // A command lets go of the lease between its announcement and its deed, for a moment.
    const bool announced = s.pending || s.state == State::kStarting || s.state == State::kStopping;
    return !s.lease_owner.empty() || !s.leftovers.empty() || left.contains(s.app_id) ||
           (announced && machines_[s.machine].updated_ms == s.updated_ms);
  };
  if (std::ranges::any_of(states, cut_off)) {
    tidy(states, cut_off);
    COFFER_TRY(states, config_.agent->states());
  }
  for (const MachineState &s : states)
    if (machines_[s.machine].updated_ms != s.updated_ms && !config_.agent->busy(s) && !cancelled())
      changed(s.machine);
  return {};
}

void Reconciler::lost(const Error &why) {
  if (listens_) log(LogLevel::kWarn, "agent", why.message + "; waiting until it is back");
  listens_ = false;
  for (auto &[machine, w] : machines_) w.platform_ended = w.ended && config_.now() - *w.ended <= kShutdown;
}

void Reconciler::changed(const std::string &machine) {
  const auto state = config_.agent->state(machine);
  if (!state) return log(LogLevel::kWarn, "agent", state.error().message);
  if (!*state) return void(machines_.erase(machine));
  if (const auto looked = look(**state, machines_[machine]); !looked) complain(**state, looked.error());
}

Reconciler::Time Reconciler::tend() {
  if (!listens_) return Time::max();
  std::vector<std::string> due;
  for (const auto &[machine, w] : machines_)
    if (w.due && *w.due <= config_.now()) due.push_back(machine);
  for (const std::string &machine : due)
    if (!cancelled()) changed(machine);
  if (config_.now() >= next_glance_)
    if (const auto glanced = glance(); !glanced) log(LogLevel::kWarn, "agent", glanced.error().message);
  if (std::exchange(worked_, false) && config_.at_rest) config_.at_rest();
  Time next = next_glance_;
  for (const auto &[machine, w] : machines_)
    if (w.due) next = std::min(next, *w.due);
  return next;
}

// ---- one Machine ----

Result<void> Reconciler::look(const MachineState &before, Watched &w) {
  w.wrong = false;
  if (config_.agent->busy(before)) {
    w.unseen = false;  // whatever that process leaves: it was there
    return {};
  }
  w.updated_ms = before.updated_ms;
  const auto looked = [&]() -> Result<void> {
    COFFER_TRY(const Orders::Wanted m, config_.orders->look_at(before));
    if (!m.view || m.view->busy) return {};
    const MachineState &s = m.view->state;
    // Cut off: tidy() has been, or will be, at work with it.
    if (s.pending || s.state == State::kStarting || s.state == State::kStopping || !s.current ||
        !m.view->instance)
      return {};
    if (w.instance != s.current->instance_id) {
      w.instance = s.current->instance_id;
      w.tries = 0;
      w.foreign = w.platform_ended = false;
      w.up = w.ended = w.due = std::nullopt;
    }
    switch (m.desired) {
      case Desired::kStarted:
        COFFER_CHECK(judge(*m.view, w));
        break;
      case Desired::kStopped:
        w.due.reset();
        if (!runs(*m.view->instance)) break;
        say(s, "is to be stopped, but runs: it is stopped");
        COFFER_CHECK(config_.agent->stop(s.machine));
        break;
      case Desired::kDestroyed:
        break;  // tidy()
    }
    return {};
  }();
  if (looked) {
    w.unseen = false;
    if (!w.wrong) w.complaint.clear();
  } else {
    w.updated_ms = 0;  // looked at again
  }
  return looked;
}

// The Machine is wanted.
Result<void> Reconciler::judge(const MachineView &view, Watched &w) {
  const MachineState &s = view.state;
  const InstanceStatus &i = *view.instance;
  const bool foreign = is_foreign(*s.current, i);
  // The vault is not trusted for freshness: a record of before the order was given may have been put back.
  if (s.state == State::kStopped && !s.end) return {};
  if (runs(i)) {
    w.due.reset();
    if (foreign) {
      w.wrong = true;
      if (!std::exchange(w.foreign, true))
        say(s, "was started by somebody else, without its secrets: it is replaced when that has ended", true);
      return {};
    }
    if (!w.up) w.up = config_.now();
    if (s.state == State::kStarted) return {};
    return config_.agent->note_runs(s.machine, s.current->instance_id);
  }
  if (!ended(i)) return {};

  if (w.due) return *w.due <= config_.now() ? boot(s, w) : Result<void>();
  if (w.up && config_.now() - *w.up >= kStaysUp) w.tries = 0;
  w.up.reset();
  COFFER_TRY(const RestartPolicy policy, config_.orders->restart_policy());
  bool again, at_once = w.unseen || foreign;
  if (foreign) {
    again = true;
  } else if (policy == RestartPolicy::kNo) {
    again = false;
  } else if (s.end) {
    again = s.end->again || w.platform_ended;
    at_once = true;
  } else if (s.state == State::kFailed) {
    again = true;  // by a boot that failed
  } else {
    again = w.unseen || policy == RestartPolicy::kAlways || failed(i);
  }
  const bool not_booted = s.state == State::kFailed && !s.end;
  if (not_booted && !again) return {};
  if (!s.end && !w.unseen) w.ended = config_.now();
  const std::chrono::seconds wait = again && !at_once ? pause(w) : 0s;
  // Noted before it is booted: whoever finds that cut off goes on with the same launch spec.
  if (!s.end || s.end->again != again) {
    const std::string what = not_booted ? s.message + "; trying again" + in(wait)
                             : again    ? how_it_ended(i) + ", restarting" + in(wait)
                                        : how_it_ended(i);
    const End end{i.exit_code, i.exit_signal, now_ms(), again};
    const State state = not_booted || failed(i) ? State::kFailed : State::kStopped;
    const auto noted = config_.agent->note_end(s.machine, s.current->instance_id, state, end, what);
    // Somebody was faster; what has become of it is seen when that process lets go of it.
    if (!noted && noted.error().code == ErrorCode::kAborted) return {};
    COFFER_CHECK(noted);
    say(s, what);
  }
  if (!again) return {};
  w.due = config_.now() + wait;
  return wait == 0s ? boot(s, w) : Result<void>();
}

Result<void> Reconciler::boot(const MachineState &s, Watched &w) {
  worked_ = true;
  const auto booted = config_.orders->boot_ended();
  if (booted && !booted->failed) {
    w.due.reset();
    w.ended.reset();
    w.foreign = w.platform_ended = false;
    w.instance = booted->state.current->instance_id;
    w.up = config_.now();
    say(s, "runs again");
    for (const std::string &warning : booted->warnings) say(s, warning, true);
    return {};
  }
  const Error &why = booted ? *booted->failed : booted.error();
  if (why.code == ErrorCode::kCancelled || cancelled()) return {};
  if (why.code == ErrorCode::kAborted) {
    w.due.reset();
    return {};
  }
  w.wrong = true;
  const auto wait = pause(w);
  w.due = config_.now() + wait;
  const std::string what = why.message + "; trying again" + in(wait);
  say(s, "was not restarted: " + what, true);
  if (booted) {
    const End end = booted->state.end.value_or(End{0, 0, now_ms(), true});
    (void)config_.agent->note_end(s.machine, s.current->instance_id, State::kFailed, end, what);
  }
  return {};
}

// ---- the daemon ----

Result<void> Reconciler::run() {
  std::chrono::milliseconds reopen = 100ms;
  Time open_at = config_.now(), everything_at = Time::max();
  bool said = false;
  while (!cancelled()) {
    if (!watch_ && config_.now() >= open_at) {
      auto runtime = config_.open_runtime();
      if (runtime) {
        watch_ = std::make_unique<Watch>(*std::move(runtime), config_.agent->label());
      } else if (runtime.error().code == ErrorCode::kUnavailable) {
        if (!std::exchange(said, true))
          log(LogLevel::kWarn, "agent", runtime.error().message + "; waiting until it is there");
        open_at = config_.now() + reopen;
        reopen = std::min<std::chrono::milliseconds>(2 * reopen, kLongestReopen);
      } else {
        return std::unexpected(std::move(runtime).error());
      }
    }
    if (config_.now() >= everything_at) {
      everything_at = Time::max();
      if (const auto looked = look_at_everything(true); !looked) {
        if (!std::exchange(said, true))
          log(LogLevel::kWarn, "agent", looked.error().message + "; trying again");
        everything_at = config_.now() + kRetry;
      } else {
        said = false;
        log(LogLevel::kInfo, "agent", "watching " + std::to_string(machines_.size()) + " Machines");
      }
    }
    Time next = std::min(tend(), everything_at);
    if (!watch_) next = std::min(next, open_at);
    const auto left = next == Time::max() ? -1ms
                                          : std::chrono::ceil<std::chrono::milliseconds>(
                                                std::max(next - config_.now(), Time::duration::zero()));
    pollfd fds[] = {{config_.cancel_fd, POLLIN, 0}, {watch_ ? watch_->fd() : -1, POLLIN, 0}};
    ::poll(fds, 2, static_cast<int>(left.count()));
    if (!fds[1].revents) continue;
    const Watch::News news = watch_->take();
    if (news.lost) {
      if (!listens_ && !std::exchange(said, true))
        log(LogLevel::kWarn, "agent", news.lost->message + "; waiting until it is there");
      lost(*news.lost);
      said = true;
      everything_at = Time::max();
    }
    if (news.listens) everything_at = config_.now();
    if (!listens_) continue;  // then everything is looked at anyway
    for (const std::string &machine : news.machines)
      if (!cancelled()) changed(machine);
    if (news.overflow)
      if (const auto looked = look_at_everything(false); !looked) everything_at = config_.now() + kRetry;
  }
  return {};
}

Result<size_t> Reconciler::once() {
  COFFER_CHECK(look_at_everything(true));
  if (config_.at_rest) config_.at_rest();
  return static_cast<size_t>(std::ranges::count_if(machines_, [](const auto &m) { return m.second.wrong; }));
}

}  // namespace coffer
