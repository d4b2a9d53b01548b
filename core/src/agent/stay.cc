// A launch spec that the running instance can have without being booted anew: nothing of it changes, or only
// files that are replaced in it.
#include <algorithm>
#include <map>
#include <set>

#include "coffer/agent/agent.h"
#include "coffer/base/codec.h"
#include "coffer/crypto/primitives.h"
#include "held.h"
#include "state.h"

namespace coffer {
namespace {

constexpr uint64_t kUpdateTimeoutNs = 60'000'000'000;

const FileBinding *file_at(const MachineConfig &config, std::string_view guest_path) {
  const auto at = std::ranges::find(config.files, guest_path, &FileBinding::guest_path);
  return at == config.files.end() ? nullptr : &*at;
}

std::string_view signal_of(const FileBinding &file) {
  constexpr std::string_view kSignal = "signal:";
  const std::string_view reload = file.reload;
  return reload.starts_with(kSignal) ? reload.substr(kSignal.size()) : "";
}

}  // namespace

bool replaced_in_place(const MachineConfig &config, const Delivery &place) {
  const FileBinding *file = place.via == COFFER_VIA_TMPFS ? file_at(config, place.name) : nullptr;
  return file && !file->reload.empty();
}

void Agent::Plan::note_made_of(InstanceRecord &of, const BootOrder &order,
                               const MachineConfig &config) const {
  std::map<std::string_view, const Entry *> entries;
  for (const Entry &e : order.secrets) entries.emplace(e.name, &e);
  // The same value set again is another one; sealed anew (a rotation) it is the same.
  const auto value = [&](const std::string &secret) {
    const auto at = entries.find(secret);
    if (at == entries.end()) return Hash{};
    const Entry &entry = *at->second;
    return sha256(Encoder().u64(entry.version).raw(entry.digest).u64(entry.updated_ms).take());
  };
  Encoder whole;
  whole.bytes(encode(config));
  for (const Piece &p : pieces)
    for (const Need &n : p.needs) {
      whole.u32(n.where.via).text(n.where.name).text(n.secret);
      if (!n.where.in_folder) whole.raw(value(n.secret));
    }
  of.made_of = sha256(whole.take());
  of.files.clear();
  for (const FileBinding &f : config.files)
    if (!f.reload.empty()) of.files.push_back(value(f.secret));
}

// REQUIRES: the lease.
Result<bool> Agent::stay(Held &held, const BootOrder &order, const SignedSpec &spec,
                         const Probation &probation, Boot &boot) {
  MachineState &m = held.state;
  const MachineConfig &config = spec.spec.config;
  if (!m.current || m.state != State::kStarted || m.current->made_of == Hash{}) return false;
  COFFER_TRY(const Runtime *rt, runtime());
  COFFER_TRY(const Plan what, plan(order, spec.spec, nullptr, rt->vias()));
  InstanceRecord next = *m.current;
  becomes(next, spec);
  what.note_made_of(next, order, config);
  if (next.made_of != m.current->made_of) return false;
  std::set<std::string_view> signals;  // "": none
  size_t at = 0;
  for (const FileBinding &f : config.files) {
    if (f.reload.empty()) continue;
    if (next.files[at] != m.current->files[at]) signals.insert(signal_of(f));
    ++at;
  }
  if (!signals.empty() && !rt->can_update()) return false;
  COFFER_TRY(const InstanceStatus now, rt->inspect(m.current->handle));
  if (now.state != COFFER_M_STARTED || is_foreign(*m.current, now)) return false;

  if (signals.empty()) {
    // Whoever boots it later without being able to ask (OrderBook) has what that takes.
    COFFER_TRY(const auto sealed, order.fetch(what.names));
    m.current = std::move(next);
    note_started(m);
    COFFER_CHECK(save(held));
    boot.done = BootOutcome::Done::kUnchanged;
    return true;
  }

  step(m.machine, "opening secrets");
  COFFER_TRY(const std::vector<OpenedSecret> opened, open(order, spec, next.instance_id, what.names));
  COFFER_TRY(std::vector<Delivery> values, render(what, opened));
  std::erase_if(values, [&](const Delivery &d) { return !replaced_in_place(config, d); });
  for (Delivery &d : values) d.in_folder = true;
  if (cancelled()) return fail(ErrorCode::kCancelled, "interrupted");

  step(m.machine, "replacing files");
  // Before anything changes: who finds this lease dead boots anew.
  m.state = State::kStarting;
  m.current->made_of = kMixed;
  COFFER_CHECK(save(held));
  boot.old_stopped = true;
  if (signals.size() > 1) signals.erase("");
  for (const std::string_view signal : signals) {
    // All files each time, as a folder is replaced whole.
    const auto replaced = rt->update(m.current->handle, values, signal, call_options(kUpdateTimeoutNs));
    if (replaced) continue;
    boot.warnings.push_back(
        "Machine " + m.machine +
        " is booted anew, for its files could not be replaced while it runs: " + replaced.error().message);
    return false;
  }
  m.current = std::move(next);
  note_started(m);
  COFFER_CHECK(save(held));
  step(m.machine, "reloaded");
  boot.started = true;
  boot.done = BootOutcome::Done::kReloaded;
  const auto proved = prove(m, config, probation, order.still_wanted);
  if (!proved) {
    if (proved.error().code != ErrorCode::kCancelled) take_log(m.current->handle, order, &opened, boot);
    return std::unexpected(proved.error());
  }
  return true;
}

}  // namespace coffer
