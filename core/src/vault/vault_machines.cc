// Machines and releases in the vault: signed records, changed by conditional commits.
#include <algorithm>

#include "coffer/base/clock.h"
#include "coffer/vault/vault.h"
#include "layout.h"

namespace coffer {
namespace {

constexpr int kMaxTries = 200;

std::string context(const App &app, std::string_view object) {
  return "App " + app.name() + ": " + std::string(object);
}

Result<MachineRecord> read_machine(const Stored &s, const App &app, const Pins &pins) {
  const std::string id = s.key.substr(layout::machine("").size());
  const auto read = [&]() -> Result<MachineRecord> {
    COFFER_TRY(const ByteSpan payload, open_signed(s.value, kMachineLabel, pins.writers));
    COFFER_TRY(MachineRecord m, decode_machine(payload));
    if (m.id != id || m.app_id != app.id())
      return fail(ErrorCode::kDataLoss, "record belongs to another Machine");
    return m;
  };
  auto m = read();
  if (!m) return std::unexpected(std::move(m).error().in(context(app, "Machine " + id)));
  return m;
}

Result<SignedSpec> read_spec(Bytes envelope, std::string_view key, const App &app, std::string_view machine,
                             const Pins &pins) {
  const auto read = [&]() -> Result<SignedSpec> {
    COFFER_TRY(SignedSpec s, open_spec(std::move(envelope), pins.writers));
    if (s.spec.app_id != app.id() || s.spec.machine != machine || layout::spec(machine, s.spec.number) != key)
      return fail(ErrorCode::kDataLoss, "launch spec belongs to another place");
    return s;
  };
  auto s = read();
  if (!s)
    return std::unexpected(
        std::move(s).error().in(context(app, "Machine " + std::string(machine) + ": launch spec " +
                                                 std::string(key.substr(key.size() - 20)))));
  return s;
}

Result<Release> read_release(const Stored &s, const App &app, const Pins &pins) {
  const auto payload = open_signed(s.value, kReleaseLabel, pins.writers);
  auto release = payload ? decode_release(*payload) : std::unexpected(payload.error());
  if (release && (release->app_id != app.id() || layout::release(release->number) != s.key))
    release = fail(ErrorCode::kDataLoss, "record belongs to another release");
  if (!release) return std::unexpected(std::move(release).error().in(context(app, s.key)));
  return release;
}

std::unexpected<Error> being_destroyed(const App &app, std::string_view machine) {
  return fail(ErrorCode::kFailedPrecondition,
              context(app, "Machine " + std::string(machine) + " is being destroyed"),
              "Run `coffer machine destroy` again to finish that.");
}

}  // namespace

Result<std::vector<StoredMachine>> Vault::machines(const App &app) const {
  std::vector<StoredMachine> out;
  std::optional<Error> wrong;
  COFFER_CHECK(storage_.list(layout::space(app.id()), layout::machine(""), true, [&](Stored s) {
    auto m = read_machine(s, app, pins_);
    if (!m) {
      wrong = std::move(m).error();
      return false;
    }
    out.push_back({*std::move(m), s.revision});
    return true;
  }));
  if (wrong) return std::unexpected(*wrong);
  std::ranges::sort(out, {},
                    [](const StoredMachine &m) { return std::pair(m.record.created_ms, m.record.id); });
  return out;
}

Result<bool> Vault::wanted(const App &app, const std::string &machine) const {
  COFFER_TRY(const auto stored, storage_.get(layout::space(app.id()), layout::machine(machine)));
  if (!stored) return false;
  COFFER_TRY(const MachineRecord m, read_machine(*stored, app, pins_));
  return m.desired == Desired::kStarted;
}

Result<SignedSpec> Vault::spec(const App &app, const MachineRecord &machine, uint64_t number) const {
  const std::string key = layout::spec(machine.id, number);
  COFFER_TRY(auto stored, storage_.get(layout::space(app.id()), key));
  if (!stored)
    return fail(ErrorCode::kDataLoss,
                context(app, "Machine " + machine.id + ": launch spec " + std::to_string(number) +
                                 " is missing from the vault"),
                "Run `coffer vault check`, then restore a backup.");
  COFFER_TRY(SignedSpec out, read_spec(std::move(stored->value), key, app, machine.id, pins_));
  if (number == machine.spec_number && out.hash != machine.spec)
    return fail(ErrorCode::kDataLoss,
                context(app, "Machine " + machine.id + ": launch spec " + std::to_string(number) +
                                 " is not the one of its record"));
  return out;
}

Result<SignedSpec> Vault::spec_by_hash(const App &app, const MachineRecord &machine, const Hash &hash) const {
  std::optional<Stored> found;
  COFFER_CHECK(storage_.list(layout::space(app.id()), layout::specs(machine.id), true, [&](Stored s) {
    if (sha256(s.value) == hash) found = std::move(s);
    return !found;
  }));
  if (!found)
    return fail(
        ErrorCode::kDataLoss,
        context(app, "Machine " + machine.id + ": its previous launch spec is missing from the vault"),
        "Run `coffer vault check`, then restore a backup.");
  return read_spec(std::move(found->value), found->key, app, machine.id, pins_);
}

Result<std::vector<Release>> Vault::releases(const App &app) const {
  std::vector<Release> out;
  std::optional<Error> wrong;
  COFFER_CHECK(storage_.list(layout::space(app.id()), "release/", true, [&](Stored s) {
    auto release = read_release(s, app, pins_);
    if (!release) {
      wrong = std::move(release).error();
      return false;
    }
    out.push_back(*std::move(release));
    return true;
  }));
  if (wrong) return std::unexpected(*wrong);
  return out;
}

Result<std::optional<Release>> Vault::release(const App &app, uint64_t number) const {
  COFFER_TRY(const auto stored, storage_.get(layout::space(app.id()), layout::release(number)));
  if (!stored) return std::nullopt;
  return read_release(*stored, app, pins_);
}

Result<std::optional<Release>> Vault::newest_release(const App &app) const {
  std::string last;
  COFFER_CHECK(storage_.list(layout::space(app.id()), "release/", false, [&](Stored s) {
    last = std::move(s.key);
    return true;
  }));
  if (last.empty()) return std::nullopt;
  COFFER_TRY(const auto stored, storage_.get(layout::space(app.id()), last));
  if (!stored) return std::nullopt;
  return read_release(*stored, app, pins_);
}

// The next launch spec of a Machine, and its record with it, into the batch.
SignedSpec Vault::next_spec(const App &app, const Manifest &manifest, const NewSpec &w, uint64_t release,
                            uint64_t now, Batch &b) {
  LaunchSpec spec;
  spec.app_id = app.id();
  spec.machine = w.machine.record.id;
  spec.number = w.machine.record.spec_number + 1;
  spec.undo = w.undo;
  spec.config = w.config;
  spec.version = manifest.version();
  spec.header = manifest.head.hash;
  spec.release = release;
  spec.created_ms = now;
  SignedSpec made;
  made.envelope = sign(writer_, kLaunchSpecLabel, encode(spec));
  made.hash = sha256(made.envelope);
  MachineRecord record = w.machine.record;
  record.app_id = app.id();
  record.name = w.config.name;
  record.spec_number = spec.number;
  record.spec = made.hash;
  record.updated_ms = now;
  if (!record.created_ms) record.created_ms = now;
  b.require(layout::machine(record.id), w.machine.revision);
  b.put(layout::machine(record.id), sign(writer_, kMachineLabel, encode(record)));
  b.put(layout::spec(record.id, spec.number), made.envelope);
  made.spec = std::move(spec);
  return made;
}

Result<Vault::Made> Vault::release(const App &app, const Manifest &manifest,
                                   const std::vector<NewSpec> &wanted, const ReleaseDraft &draft,
                                   std::string_view who, const Rollout *rollout) {
  for (const NewSpec &w : wanted)
    if (w.machine.record.desired == Desired::kDestroyed) return being_destroyed(app, w.machine.record.id);
  COFFER_TRY(const auto before, newest_release(app));  // its number decides the next
  // After its number is drawn: two that make Machines of one name at once draw the same, and one of them
  // fails.
  if (std::ranges::any_of(wanted, [](const NewSpec &w) { return w.machine.revision == 0; })) {
    COFFER_TRY(const std::vector<StoredMachine> there, machines(app));
    for (const NewSpec &w : wanted)
      for (const StoredMachine &m : there)
        if (w.machine.revision == 0 && m.record.name == w.config.name)
          return fail(ErrorCode::kAlreadyExists,
                      "App " + app.name() + " has a Machine " + w.config.name + " already",
                      "Choose another --name, or destroy that one first.");
  }
  Made out;
  Release &release = out.release;
  release.app_id = app.id();
  release.number = before ? before->number + 1 : 1;
  release.version = manifest.version();
  release.created_ms = now_ms();
  release.who = who;
  release.reason = draft.reason;
  release.configs = draft.configs;
  release.policy = draft.policy;
  if (!draft.policy && before && before->outcome == ReleaseOutcome::kFailed && !before->configs.empty()) {
    // What that one brought never held.
    COFFER_TRY(const std::vector<Release> all, releases(app));
    for (const Release &r : all)
      if (r.outcome != ReleaseOutcome::kFailed) release.policy = r.policy;
  } else if (!draft.policy && before) {
    release.policy = before->policy;
  }
  Batch b;
  b.require_absent(layout::release(release.number));
  // A higher number never brings an older manifest: who reads it before and writes after another is told so.
  b.require(std::string(layout::kHeadKey), manifest.revision);
  b.put(layout::release(release.number), sign(writer_, kReleaseLabel, encode(release)));
  for (const NewSpec &w : wanted) {
    NewSpec started = w;
    if (!w.as_wanted) started.machine.record.desired = Desired::kStarted;
    out.specs.push_back(next_spec(app, manifest, started, release.number, release.created_ms, b));
  }
  if (rollout) {
    out.rollout.rollout = *rollout;
    Rollout &r = out.rollout.rollout;
    r.app_id = app.id();
    r.release = release.number;
    r.version = release.version;
    for (size_t i = 0; i < out.specs.size(); ++i) r.steps[i].next = out.specs[i].hash;
    b.require_absent(std::string(layout::kRolloutKey));
    b.put(std::string(layout::kRolloutKey), sign(writer_, kRolloutLabel, encode(r)));
  }
  COFFER_TRY(out.rollout.revision, commit(layout::space(app.id()), std::move(b)));
  return out;
}

Result<void> Vault::finish_release(const App &app, uint64_t number, ReleaseOutcome outcome) {
  COFFER_TRY(const auto stored, storage_.get(layout::space(app.id()), layout::release(number)));
  if (!stored) return {};
  COFFER_TRY(Release release, read_release(*stored, app, pins_));
  release.outcome = outcome;
  Batch b;
  b.require(stored->key, stored->revision);
  b.put(stored->key, sign(writer_, kReleaseLabel, encode(release)));
  COFFER_CHECK(commit(layout::space(app.id()), std::move(b)));
  return {};
}

// ---- a roll-out under way ----

Result<std::optional<StoredRollout>> Vault::rollout(const App &app) const {
  COFFER_TRY(const auto stored, storage_.get(layout::space(app.id()), std::string(layout::kRolloutKey)));
  if (!stored) return std::nullopt;
  const auto read = [&]() -> Result<Rollout> {
    COFFER_TRY(const ByteSpan payload, open_signed(stored->value, kRolloutLabel, pins_.writers));
    COFFER_TRY(Rollout r, decode_rollout(payload));
    if (r.app_id != app.id()) return fail(ErrorCode::kDataLoss, "record belongs to another App");
    return r;
  };
  auto r = read();
  if (!r) return std::unexpected(std::move(r).error().in(context(app, "roll-out")));
  return StoredRollout{*std::move(r), stored->revision};
}

Result<bool> Vault::has_rollout(const AppId &app) const {
  COFFER_TRY(const auto stored, storage_.get(layout::space(app), std::string(layout::kRolloutKey)));
  return stored.has_value();
}

Result<void> Vault::keep_rollout(const App &app, StoredRollout &r) {
  const std::string key(layout::kRolloutKey);
  Batch b;
  b.require(key, r.revision).put(key, sign(writer_, kRolloutLabel, encode(r.rollout)));
  COFFER_TRY(r.revision, commit(layout::space(app.id()), std::move(b)));
  return {};
}

Result<void> Vault::end_rollout(const App &app, const StoredRollout &r, ReleaseOutcome outcome,
                                const Manifest &manifest, const std::vector<NewSpec> &parked) {
  const std::string space = layout::space(app.id());
  Batch b;
  b.require(std::string(layout::kRolloutKey), r.revision).erase(std::string(layout::kRolloutKey));
  COFFER_TRY(const auto stored, storage_.get(space, layout::release(r.rollout.release)));
  if (stored) {
    COFFER_TRY(Release release, read_release(*stored, app, pins_));
    release.outcome = outcome;
    release.why = r.rollout.why;
    b.require(stored->key, stored->revision);
    b.put(stored->key, sign(writer_, kReleaseLabel, encode(release)));
  }
  if (outcome == ReleaseOutcome::kDone) {
    for (const NewSpec &w : parked) next_spec(app, manifest, w, r.rollout.release, now_ms(), b);
    for (const std::string &id : r.rollout.removed) {
      COFFER_TRY(const auto there, storage_.get(space, layout::machine(id)));
      if (!there) continue;
      COFFER_TRY(MachineRecord record, read_machine(*there, app, pins_));
      record.desired = Desired::kDestroyed;
      record.updated_ms = now_ms();
      b.require(there->key, there->revision).put(there->key, sign(writer_, kMachineLabel, encode(record)));
    }
  }
  COFFER_CHECK(commit(space, std::move(b)));
  return {};
}

Result<StoredMachine> Vault::set_desired(const App &app, const std::string &machine, Desired desired) {
  const std::string key = layout::machine(machine);
  for (int tries = 0; tries < kMaxTries; ++tries) {
    COFFER_TRY(const auto stored, storage_.get(layout::space(app.id()), key));
    if (!stored)
      return fail(ErrorCode::kNotFound, context(app, "Machine " + machine + " does not exist"),
                  "See `coffer machine list`.");
    COFFER_TRY(MachineRecord record, read_machine(*stored, app, pins_));
    if (record.desired == Desired::kDestroyed && desired != Desired::kDestroyed)
      return being_destroyed(app, machine);
    record.desired = desired;
    record.updated_ms = now_ms();
    Batch b;
    b.require(key, stored->revision);
    b.put(key, sign(writer_, kMachineLabel, encode(record)));
    const auto done = commit(layout::space(app.id()), std::move(b));
    if (done) return StoredMachine{std::move(record), *done};
    if (done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
  }
  return fail(ErrorCode::kAborted,
              context(app, "Machine " + machine + " is being changed by others all the time"), "Try again.");
}

Result<void> Vault::remove_machine(const App &app, const std::string &machine) {
  std::vector<std::string> specs;
  COFFER_CHECK(storage_.list(layout::space(app.id()), layout::specs(machine), false, [&](Stored s) {
    specs.push_back(std::move(s.key));
    return true;
  }));
  // The record first: a Machine that is listed has its launch specs.  What a cut leaves, the next sweep
  // takes.
  Batch b;
  b.erase(layout::machine(machine));
  for (std::string &key : specs) {
    if (b.ops().size() == storage_.limits().max_ops) {
      COFFER_CHECK(commit(layout::space(app.id()), std::move(b)));
      b = {};
    }
    b.erase(std::move(key));
  }
  COFFER_CHECK(commit(layout::space(app.id()), std::move(b)));
  return {};
}

}  // namespace coffer
