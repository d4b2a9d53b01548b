// Leases, state, stop, destroy, and what the runtime says.  Booting: boot.cc.
#include "coffer/agent/agent.h"

#include <poll.h>

#include <algorithm>
#include <map>
#include <thread>

#include "coffer/base/clock.h"
#include "coffer/base/log.h"
#include "coffer/base/process.h"
#include "held.h"
#include "state.h"

namespace coffer {
namespace {

constexpr uint64_t kLeaseMs = 60 * 1000;
constexpr auto kLeasePoll = std::chrono::milliseconds(20);
constexpr auto kLeasePatience = std::chrono::seconds(120);

std::string context(const MachineState &m) { return "App " + m.app + ": Machine " + m.machine; }

State from_runtime(uint32_t state) {
  switch (state) {
    case COFFER_M_CREATED:
      return State::kCreated;
    case COFFER_M_STARTING:
      return State::kStarting;
    case COFFER_M_STARTED:
      return State::kStarted;
    case COFFER_M_STOPPING:
      return State::kStopping;
    case COFFER_M_STOPPED:
      return State::kStopped;
    default:
      return State::kFailed;
  }
}

}  // namespace

Agent::Agent(Config config) : config_(std::move(config)) {
  if (!config_.owner) config_.owner = std::make_shared<const std::string>(process_identity());
}
Agent Agent::create(Config config) { return Agent(std::move(config)); }

bool Agent::busy(const MachineState &m) const {
  return m.lease_owner != *config_.owner && process_alive(m.lease_owner);
}

std::pair<std::string, std::string> Agent::label() const {
  return {"coffer.host", hex(std::span(host()).first<8>())};
}

Result<const Storage *> Agent::store() const {
  if (!store_) {
    COFFER_TRY(Storage opened, config_.open_store());
    store_ = std::move(opened);
  }
  return &*store_;
}

Result<const Runtime *> Agent::runtime() const {
  if (!runtime_) {
    COFFER_TRY(Runtime opened, config_.open_runtime());
    runtime_ = std::move(opened);
  }
  return &*runtime_;
}

Result<const std::vector<Injector> *> Agent::injectors() const {
  if (!injectors_) {
    COFFER_TRY(std::vector<Injector> opened, config_.open_injectors());
    injectors_ = std::move(opened);
  }
  return &*injectors_;
}

void Agent::step(const std::string &machine, std::string_view what) const {
  log(LogLevel::kDebug, "agent", "Machine " + machine + ": " + std::string(what));
  if (config_.progress) config_.progress(machine, what);
}

bool Agent::cancelled() const {
  pollfd p{config_.cancel_fd, POLLIN, 0};
  return !going_back_ && config_.cancel_fd >= 0 && poll(&p, 1, 0) > 0;
}

CallOptions Agent::call_options(uint64_t timeout_ns) const {
  return {timeout_ns, going_back_ ? -1 : config_.cancel_fd};
}

CallOptions Agent::stream_options() const {
  return {0, config_.caller_fd >= 0 ? config_.caller_fd : config_.cancel_fd};
}

// ---- leases ----

Result<Agent::Held> Agent::take(const std::string &machine, const SignedSpec *first, Patience patience) {
  COFFER_TRY(const Storage *const kept, store());
  const auto give_up = std::chrono::steady_clock::now() + kLeasePatience;
  for (;;) {
    COFFER_TRY(const auto stored, kept->get(kMachinesSpace, machine));
    Held held;
    if (stored) {
      COFFER_TRY(held.state, decode_state(stored->value));
    } else if (first) {
      held.state.app_id = first->spec.app_id;
      held.state.machine = machine;
      held.state.name = first->spec.config.name;
    } else {
      return fail(ErrorCode::kNotFound, "Machine " + machine + " is not on this host",
                  "See `coffer machine list`.");
    }
    if (busy(held.state)) {
      if (cancelled())
        return fail(ErrorCode::kCancelled, "interrupted while another coffer changes Machine " + machine);
      if (patience == Patience::kNone || std::chrono::steady_clock::now() > give_up)
        return fail(ErrorCode::kUnavailable, "Machine " + machine + " is being changed by another coffer",
                    "Wait until it is done, or end that process.");
      // A storage backend need not tell of changes, so this is asked again and again.
      std::this_thread::sleep_for(kLeasePoll);
      continue;
    }
    held.state.lease_owner = *config_.owner;
    held.state.lease_attempt += 1;
    held.state.lease_until_ms = now_ms() + kLeaseMs;
    Batch b;
    b.require(machine, stored ? stored->revision : 0).put(machine, encode(held.state));
    const auto done = kept->commit(kMachinesSpace, b);
    if (done) {
      held.revision = *done;
      return held;
    }
    if (done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
  }
}

Result<void> Agent::save(Held &held) {
  held.state.updated_ms = now_ms();
  held.state.lease_until_ms = held.state.updated_ms + kLeaseMs;
  Batch b;
  b.require(held.state.machine, held.revision).put(held.state.machine, encode(held.state));
  COFFER_TRY(const Storage *const kept, store());
  const auto done = kept->commit(kMachinesSpace, b);
  if (!done) {
    if (done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
    return fail(ErrorCode::kAborted, context(held.state) + " was taken over by another process");
  }
  held.revision = *done;
  tell(held.state.machine);
  return {};
}

Result<void> Agent::give_back(Held &held) {
  held.state.lease_owner.clear();
  return save(held);
}

Result<void> Agent::clear_leftovers(Held &held) {
  if (held.state.leftovers.empty()) return {};
  COFFER_TRY(const Runtime *rt, runtime());
  while (!held.state.leftovers.empty()) {
    COFFER_CHECK(rt->destroy(held.state.leftovers.back(), true));
    held.state.leftovers.pop_back();
  }
  return {};
}

// A boot was cut off.  The new instance is kept if its app runs, else removed; was the old one stopped by
// then, the Machine stays `starting` until it is booted again.
Result<void> Agent::recover(Held &held) {
  MachineState &m = held.state;
  if (m.pending) {
    step(m.machine, "finishing what was cut off");
    COFFER_TRY(const Runtime *rt, runtime());
    COFFER_TRY(const auto found, rt->list({{"coffer.instance", m.pending->instance_id}}));
    bool adopted = false;
    for (const InstanceStatus &s : found) {
      if (s.state == COFFER_M_STARTED && !adopted) {
        if (m.current) m.leftovers.push_back(m.current->handle);
        m.current = m.pending;
        m.current->handle = s.handle;
        m.current->started_ms = static_cast<uint64_t>(s.started_ns) / 1'000'000;
        note_started(m);
        adopted = true;
      } else {
        m.leftovers.push_back(s.handle);
      }
    }
    if (!adopted && m.current && m.state == State::kStarted) {
      COFFER_TRY(const InstanceStatus old, rt->inspect(m.current->handle));
      if (old.state != COFFER_M_STARTED) m.state = State::kStarting;
    }
    // The end may have come between a delivery's file and the instance.
    if (found.empty()) COFFER_CHECK(rt->sweep());
    m.pending.reset();
    COFFER_CHECK(save(held));
  } else if (m.state == State::kStopping) {
    // It was not stopped, or is going to be stopped again.
    m.state = m.current && m.current->mixed() ? State::kStarting : State::kStarted;
  }
  COFFER_CHECK(clear_leftovers(held));
  return {};
}

Result<void> Agent::announce(const std::string &machine, State next) {
  return with_lease<void>(machine, nullptr, [&](Held &held) -> Result<void> {
    COFFER_CHECK(recover(held));
    held.state.state = next;
    return {};
  });
}

Result<void> Agent::finish_cut_off(const std::string &machine) {
  return with_lease<void>(machine, nullptr, [&](Held &held) { return recover(held); });
}

// ---- orders ----

Result<std::string> Agent::ensure_image(const std::string &image, bool pull) const {
  COFFER_TRY(const Runtime *rt, runtime());
  return rt->ensure_image(image, pull, config_.image_progress, call_options(0));
}

Result<void> Agent::reserve(const AppId &app, std::string_view app_name, const std::string &machine,
                            std::string_view name) {
  MachineState m;
  m.app_id = app;
  m.app = app_name;
  m.machine = machine;
  m.name = name;
  m.lease_owner = *config_.owner;
  m.lease_until_ms = now_ms() + kLeaseMs;
  Batch b;
  b.require_absent(machine).put(machine, encode(m));
  COFFER_TRY(const Storage *const kept, store());
  COFFER_CHECK(kept->commit(kMachinesSpace, b));
  return {};
}

Result<void> Agent::stop_held(Held &held) {
  COFFER_CHECK(recover(held));
  MachineState &m = held.state;
  if (m.current) {
    step(m.machine, "stopping");
    COFFER_TRY(const Runtime *rt, runtime());
    COFFER_CHECK(rt->stop(m.current->handle, "", 0));
  }
  m.state = State::kStopped;
  m.message.clear();
  m.end.reset();
  return {};
}

Result<void> Agent::stop(const std::string &machine) {
  return with_lease<void>(machine, nullptr, [&](Held &held) { return stop_held(held); });
}

Result<void> Agent::finish_stop(const MachineState &seen) {
  return with_lease<void>(seen.machine, nullptr, [&](Held &held) -> Result<void> {
    if (held.state.lease_attempt != seen.lease_attempt + 1) return {};  // ours is not the next one
    return stop_held(held);
  });
}

// REQUIRES: the lease.
Result<void> Agent::check_ended(const MachineState &m, const std::string &instance_id) const {
  if (!m.current || m.current->instance_id != instance_id)
    return fail(ErrorCode::kAborted, context(m) + " has another instance by now");
  if (m.state == State::kStopped && !m.end) return fail(ErrorCode::kAborted, context(m) + " was stopped");
  COFFER_TRY(const Runtime *rt, runtime());
  COFFER_TRY(const InstanceStatus s, rt->inspect(m.current->handle));
  if (s.state == COFFER_M_STOPPED || s.state == COFFER_M_FAILED || s.state == COFFER_M_GONE) return {};
  return fail(ErrorCode::kAborted, context(m) + " has not ended");
}

Result<void> Agent::note_end(const std::string &machine, const std::string &instance_id, State state,
                             const End &end, std::string_view message) {
  return with_lease<void>(
      machine, nullptr,
      [&](Held &held) -> Result<void> {
        COFFER_CHECK(recover(held));
        COFFER_CHECK(check_ended(held.state, instance_id));
        held.state.state = state;
        held.state.end = end;
        held.state.message = message;
        return {};
      },
      Patience::kNone);
}

Result<void> Agent::note_runs(const std::string &machine, const std::string &instance_id) {
  return with_lease<void>(
      machine, nullptr,
      [&](Held &held) -> Result<void> {
        COFFER_CHECK(recover(held));
        MachineState &m = held.state;
        if (!m.current || m.current->instance_id != instance_id || m.current->mixed() ||
            (m.state == State::kStopped && !m.end))
          return fail(ErrorCode::kAborted, context(m) + " was changed meanwhile");
        m.state = State::kStarted;
        m.end.reset();
        m.message.clear();
        return {};
      },
      Patience::kNone);
}

Result<void> Agent::destroy(const std::string &machine) {
  COFFER_TRY(const auto there, state(machine));
  if (!there) return {};
  const auto destroyed = with_lease<void>(machine, nullptr, [&](Held &held) -> Result<void> {
    COFFER_CHECK(recover(held));
    MachineState &m = held.state;
    if (m.current) {
      step(machine, "destroying");
      COFFER_TRY(const Runtime *rt, runtime());
      COFFER_CHECK(rt->stop(m.current->handle, "", 0));
      COFFER_CHECK(rt->destroy(m.current->handle, true));
    }
    if (m.failed) {
      COFFER_TRY(const Runtime *rt, runtime());
      COFFER_CHECK(rt->destroy(m.failed->handle, true));
    }
    Batch b;
    b.require(machine, held.revision).erase(machine);
    COFFER_TRY(const Storage *const kept, store());
    COFFER_CHECK(kept->commit(kMachinesSpace, b));
    held.gone = true;
    tell(machine);
    return {};
  });
  if (destroyed) return {};
  COFFER_TRY(const auto still, state(machine));
  if (!still) return {};  // another process, which destroys it too, was faster
  return destroyed;
}

// ---- what is ----

Result<std::vector<MachineState>> Agent::states() const {
  std::vector<MachineState> out;
  std::optional<Error> wrong;
  COFFER_TRY(const Storage *const kept, store());
  COFFER_CHECK(kept->list(kMachinesSpace, "", true, [&](Stored s) {
    auto m = decode_state(s.value);
    if (!m) {
      wrong = std::move(m).error().in("Machine " + s.key);
      return false;
    }
    m->owner_alive = process_alive(m->lease_owner);
    out.push_back(*std::move(m));
    return true;
  }));
  if (wrong) return std::unexpected(*wrong);
  return out;
}

Result<std::optional<MachineState>> Agent::state(const std::string &machine) const {
  COFFER_TRY(const Storage *const kept, store());
  COFFER_TRY(const auto stored, kept->get(kMachinesSpace, machine));
  if (!stored) return std::nullopt;
  COFFER_TRY(MachineState m, decode_state(stored->value));
  m.owner_alive = process_alive(m.lease_owner);
  return m;
}

MachineView Agent::stored_view(const MachineState &m) const {
  MachineView v;
  v.state = m;
  v.now = m.state;
  v.message = m.message;
  v.cut_off = cut_off(m);
  v.busy = m.owner_alive && busy(m);
  return v;
}

Result<MachineView> Agent::view(const MachineState &m) const {
  MachineView v = stored_view(m);
  if (!m.current || m.current->handle.empty()) return v;
  COFFER_TRY(const Runtime *rt, runtime());
  COFFER_TRY(const InstanceStatus s, rt->inspect(m.current->handle));
  const bool ended = s.state == COFFER_M_STOPPED || s.state == COFFER_M_FAILED;
  if (ended) {
    v.exit_code = s.exit_code;
    v.exit_signal = s.exit_signal;
  }
  if (!ended && m.end && s.state == COFFER_M_GONE) {
    v.exit_code = m.end->exit_code;
    v.exit_signal = m.end->exit_signal;
  }
  v.instance = s;
  if (m.state == State::kStarted || m.state == State::kStarting || m.state == State::kStopping) {
    v.now = from_runtime(s.state);
    if (s.state == COFFER_M_GONE)
      v.message = "its instance is gone";
    else if (!s.message.empty())
      v.message = s.message;
  }
  return v;
}

Result<std::vector<MachineView>> Agent::views(const AppId &app) const {
  COFFER_TRY(const std::vector<MachineState> all, states());
  std::vector<MachineView> out;
  std::map<std::string_view, const InstanceStatus *> by_id;
  std::vector<InstanceStatus> instances;
  for (const MachineState &m : all)
    if (m.app_id == app) out.push_back(stored_view(m));
  if (std::ranges::none_of(out, [](const MachineView &v) { return v.state.current.has_value(); })) return out;
  COFFER_TRY(const Runtime *rt, runtime());
  COFFER_TRY(instances, rt->list({label(), {"coffer.app", hex(app)}}));
  for (const InstanceStatus &i : instances) by_id.emplace(i.instance_id, &i);
  for (MachineView &v : out) {
    const State s = v.state.state;
    if (!v.state.current || (s != State::kStarted && s != State::kStarting && s != State::kStopping))
      continue;
    const auto at = by_id.find(v.state.current->instance_id);
    v.now = at == by_id.end() ? State::kFailed : from_runtime(at->second->state);
  }
  return out;
}

Result<void> Agent::logs(const MachineState &m, const LogQuery &query,
                         const std::function<bool(uint32_t, int64_t, ByteSpan)> &each) {
  const auto &which = query.failed ? m.failed : m.current;
  if (!which) return {};
  COFFER_TRY(const Runtime *rt, runtime());
  return rt->logs(which->handle, query, each, stream_options());
}

Result<int32_t> Agent::exec(const MachineState &m, const std::vector<std::string> &argv,
                            const std::function<bool(uint32_t, ByteSpan)> &out,
                            const std::function<int64_t(std::span<uint8_t>)> &in, int in_fd) {
  if (!m.current)
    return fail(ErrorCode::kFailedPrecondition, context(m) + " is not started",
                "Start it with `coffer machine start " + m.machine + "`.");
  COFFER_TRY(const Runtime *rt, runtime());
  return rt->exec(m.current->handle, argv, out, in, stream_options(), in_fd);
}

Result<void> Agent::wait_change(const MachineState &m, uint64_t timeout_ns) {
  if (!m.current) return {};
  COFFER_TRY(const Runtime *rt, runtime());
  COFFER_CHECK(rt->wait(m.current->handle, call_options(timeout_ns)));
  return {};
}

}  // namespace coffer
