#include "coffer/vault/vault.h"

#include <algorithm>
#include <set>

#include "coffer/base/clock.h"
#include "coffer/base/codec.h"
#include "coffer/format/record.h"
#include "layout.h"

namespace coffer {
namespace {

constexpr uint64_t kSweepEvery = 16;
constexpr int kMaxTries = 200;  // of a lost race; each loser lost to one winner

std::string app_context(std::string_view name) { return "App " + std::string(name); }

std::unexpected<Error> missing(std::string what) {
  return fail(ErrorCode::kDataLoss, std::move(what) + " is missing from the vault",
              "Run `coffer vault check`, then restore a backup.");
}

std::unexpected<Error> rotated_meanwhile(const App &app) {
  return fail(ErrorCode::kAborted, app_context(app.name()) + ": its key was rotated meanwhile",
              "Try again: what was sealed for the old key is not stored.");
}

std::unexpected<Error> moved(const Stored &marker) {
  return fail(ErrorCode::kFailedPrecondition, "this vault was moved to " + std::string(as_text(marker.value)),
              "Use the engine config that belongs to the new vault.");
}

}  // namespace

const Entry *Manifest::find(std::string_view name) const {
  const auto at = std::ranges::lower_bound(entries, name, {}, &Entry::name);
  return at != entries.end() && at->name == name ? &*at : nullptr;
}

Result<void> Vault::initialize(const Storage &storage) {
  Batch b;
  b.require_absent(std::string(layout::kFormatKey));
  const ByteSpan format = as_bytes(layout::kFormat);
  b.put(std::string(layout::kFormatKey), Bytes(format.begin(), format.end()));
  const auto done = storage.commit(layout::kVaultSpace, b);
  if (!done && done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
  return {};
}

Result<Vault> Vault::open(Storage storage, SigningKey writer, Pins pins) {
  COFFER_TRY(const auto format, storage.get(layout::kVaultSpace, layout::kFormatKey));
  if (!format)
    return fail(ErrorCode::kFailedPrecondition, "the storage holds no vault yet", "Run `coffer init` first.");
  if (as_text(format->value) != layout::kFormat)
    return fail(ErrorCode::kFailedPrecondition, "the vault has a format this coffer does not know",
                "It was written by a newer coffer; use that one.");
  Vault out(std::move(storage), std::move(writer), std::move(pins));
  COFFER_CHECK(out.still_here());
  return out;
}

// Asked again where reading begins: who keeps a vault open would show what it was before it was moved.
Result<void> Vault::still_here() const {
  COFFER_TRY(const auto marker, storage_.get(layout::kVaultSpace, layout::kMovedKey));
  if (marker) return moved(*marker);
  return {};
}

// Every write of a vault passes here: after `migrate` has marked a space, nothing is written to it any more.
Result<uint64_t> Vault::commit(std::string_view space, Batch batch) {
  batch.require_absent(std::string(layout::kMovedKey));
  auto done = storage_.commit(space, batch);
  if (!done && done.error().code == ErrorCode::kAborted) {
    COFFER_TRY(const auto marker, storage_.get(space, layout::kMovedKey));
    if (marker) return moved(*marker);
  }
  return done;
}

// ---- Apps ----

Result<App> Vault::create_app(std::string_view name, const AppId &id, ByteSpan signed_key,
                              std::string_view who) {
  const std::string key(name), space = layout::space(id);
  COFFER_TRY(const auto there, storage_.get(layout::kAppsSpace, key));
  if (there)
    return fail(ErrorCode::kAlreadyExists, "App " + key + " exists already",
                "Choose another name, or use it as it is.");

  // The App's own space first: the directory names only Apps that are whole.  Created again after a crash in
  // between, the rest of the first try is written over.
  Header header;
  header.app_id = id;
  header.version = 1;
  header.created_ms = now_ms();
  header.who = who;
  const Bytes body = encode(Body{});
  header.body = sha256(body);
  const Bytes envelope = sign(writer_, kManifestLabel, encode(header));
  Batch first;
  first.require_absent(std::string(layout::kHeadKey));
  first.put(std::string(layout::kKeyKey), Bytes(signed_key.begin(), signed_key.end()));
  first.put(layout::named("body", header.body), body);
  first.put(layout::header(1), envelope);
  first.put(std::string(layout::kHeadKey), envelope);
  if (const auto done = commit(space, first); !done && done.error().code != ErrorCode::kAborted)
    return std::unexpected(done.error());

  const AppEntry entry{key, id, header.created_ms};
  Batch second;
  second.require_absent(key);
  second.put(key, sign(writer_, kAppLabel, encode(entry)));
  if (const auto done = commit(layout::kAppsSpace, second); !done) {
    if (done.error().code == ErrorCode::kAborted)
      return fail(ErrorCode::kAlreadyExists, "App " + key + " exists already",
                  "Choose another name, or use it as it is.");
    return std::unexpected(done.error());
  }
  return app(name);
}

Result<std::vector<AppEntry>> Vault::apps() const {
  COFFER_CHECK(still_here());
  std::vector<AppEntry> out;
  std::optional<Error> wrong;
  COFFER_CHECK(storage_.list(layout::kAppsSpace, "", true, [&](Stored s) {
    if (s.key == layout::kMovedKey) return true;  // by a migration that was cut off
    auto payload = open_signed(s.value, kAppLabel, pins_.writers);
    auto entry = payload ? decode_app(*payload) : std::unexpected(payload.error());
    if (entry && entry->name != s.key) entry = fail(ErrorCode::kDataLoss, "entry belongs to another App");
    if (!entry) {
      wrong = std::move(entry).error().in(app_context(s.key));
      return false;
    }
    out.push_back(*std::move(entry));
    return true;
  }));
  if (wrong) return std::unexpected(*wrong);
  return out;
}

Result<App> Vault::app(std::string_view name) const {
  const std::string context = app_context(name);
  COFFER_CHECK(still_here());
  COFFER_TRY(const auto stored, storage_.get(layout::kAppsSpace, name));
  if (!stored)
    return fail(ErrorCode::kNotFound, context + " does not exist",
                "Create it with `coffer apps create " + std::string(name) + "`, or see `coffer apps list`.");
  const auto load = [&]() -> Result<App> {
    App out;
    const auto entry = open_signed(stored->value, kAppLabel, pins_.writers);
    if (!entry) return std::unexpected(Error(entry.error()).in("directory entry"));
    COFFER_TRY(out.entry, decode_app(*entry));
    if (out.entry.name != name) return fail(ErrorCode::kDataLoss, "directory entry belongs to another App");
    COFFER_TRY(const auto key, storage_.get(layout::space(out.id()), layout::kKeyKey));
    if (!key) return missing("App key record");
    const auto payload = open_signed(key->value, kAppKeyLabel, {&pins_.identity, 1});
    if (!payload) return std::unexpected(Error(payload.error()).in("App key record"));
    COFFER_TRY(out.key, decode_app_key(*payload));
    out.signed_key = key->value;
    out.key_revision = key->revision;
    if (out.key.name != name || out.key.app_id != out.id())
      return fail(ErrorCode::kDataLoss, "App key record belongs to another App");
    return out;
  };
  auto out = load();
  if (!out) return std::unexpected(std::move(out).error().in(context));
  return out;
}

Result<void> Vault::drop_app(const App &app) {
  Batch b;
  b.erase(app.name());
  COFFER_CHECK(commit(layout::kAppsSpace, b));
  return storage_.drop_space(layout::space(app.id()));
}

// ---- secrets ----

Result<Bytes> Vault::immutable(const App &app, std::string_view kind, const Hash &hash) const {
  COFFER_TRY(auto stored, storage_.get(layout::space(app.id()), layout::named(kind, hash)));
  if (!stored) return missing(std::string(kind) + " " + hex(hash).substr(0, 12));
  if (sha256(stored->value) != hash)
    return fail(ErrorCode::kDataLoss,
                std::string(kind) + " " + hex(hash).substr(0, 12) + " was changed in the vault",
                "Run `coffer vault check`, then restore a backup.");
  return std::move(stored->value);
}

// `what`: the envelope's place, for errors.
Result<Manifest> Vault::load(const App &app, std::string_view what, Bytes envelope, uint64_t revision) const {
  Manifest m;
  auto head = open_header(envelope, pins_.writers, app.id());
  if (!head) return std::unexpected(std::move(head).error().in(what));
  m.head = *std::move(head);
  m.envelope = std::move(envelope);
  m.revision = revision;
  const std::string context = "manifest " + std::to_string(m.version());
  const auto fill = [&]() -> Result<void> {
    COFFER_TRY(const Bytes bytes, immutable(app, "body", m.head.header.body));
    COFFER_TRY(const Body body, decode_body(bytes));
    for (const Hash &hash : body.parts) {
      COFFER_TRY(const Bytes part, immutable(app, "part", hash));
      COFFER_CHECK(decode_part(part, m.entries));
    }
    if (m.entries.size() != body.entries) return fail(ErrorCode::kDataLoss, "body is malformed");
    m.parts = body.parts;
    return {};
  };
  if (auto filled = fill(); !filled) return std::unexpected(std::move(filled).error().in(context));
  return m;
}

Result<Manifest> Vault::newest(const App &app) const {
  const auto read = [&]() -> Result<Manifest> {
    COFFER_TRY(auto stored, storage_.get(layout::space(app.id()), layout::kHeadKey));
    if (!stored) return missing("manifest head");
    return load(app, "manifest head", std::move(stored->value), stored->revision);
  };
  auto m = read();
  if (!m) return std::unexpected(std::move(m).error().in(app_context(app.name())));
  return m;
}

Result<Manifest> Vault::at(const App &app, uint64_t version) const {
  const auto read = [&]() -> Result<Manifest> {
    COFFER_TRY(auto stored, storage_.get(layout::space(app.id()), layout::header(version)));
    if (!stored) return missing("manifest header " + std::to_string(version));
    COFFER_TRY(Manifest m, load(app, "manifest header " + std::to_string(version), std::move(stored->value),
                                stored->revision));
    if (m.version() != version)
      return fail(ErrorCode::kDataLoss,
                  "manifest header " + std::to_string(version) + " is that of another version");
    return m;
  };
  auto m = read();
  if (!m) return std::unexpected(std::move(m).error().in(app_context(app.name())));
  return m;
}

Result<std::vector<Manifest>> Vault::retained(const App &app, const Manifest &head) const {
  std::vector<Manifest> out = {head};
  for (;;) {
    const Header &last = out.back().head.header;
    const uint64_t before = layout::version_before(last);
    if (before == 0 || before < layout::oldest_kept(head.head.header)) return out;
    COFFER_TRY(Manifest m, at(app, before));
    if (m.head.hash != last.previous)
      return fail(ErrorCode::kDataLoss, app_context(app.name()) + ": manifest header " +
                                            std::to_string(before) + " is not the one that version " +
                                            std::to_string(last.version) + " was made from");
    out.push_back(std::move(m));
  }
}

Result<std::vector<Bytes>> Vault::headers(const App &app, uint64_t first, uint64_t last) const {
  std::vector<Bytes> out;
  for (uint64_t v = last; v >= first && v > 0;) {
    COFFER_TRY(auto stored, storage_.get(layout::space(app.id()), layout::header(v)));
    if (!stored) {
      auto gone = missing("manifest header " + std::to_string(v));
      return std::unexpected(std::move(gone).error().in(app_context(app.name())));
    }
    // Who gets them checks them; here only which one comes before counts.
    Decoder envelope(stored->value);
    envelope.raw(4);
    const auto header = decode_header(envelope.bytes());
    v = header ? layout::version_before(*header) : v - 1;
    out.push_back(std::move(stored->value));
  }
  std::ranges::reverse(out);
  return out;
}

// The headers before `newest`, and itself, down to version `oldest`: checked, the newest one first.
Result<std::vector<HashedHeader>> Vault::chain(const App &app, const HashedHeader &newest,
                                               uint64_t oldest) const {
  std::vector<HashedHeader> out = {newest};
  for (;;) {
    const HashedHeader &last = out.back();
    const uint64_t v = layout::version_before(last.header);
    if (v < oldest || v == 0) return out;
    COFFER_TRY(const auto stored, storage_.get(layout::space(app.id()), layout::header(v)));
    if (!stored) return missing("manifest header " + std::to_string(v));
    // The hash in the one after it says that it is the one: no signature has to be checked once more.
    Decoder envelope(stored->value);
    envelope.raw(4);
    const auto before = decode_header(envelope.bytes());
    const Hash hash = sha256(stored->value);
    if (hash != last.header.previous || !before || before->version != v || before->app_id != app.id())
      return fail(ErrorCode::kDataLoss,
                  "manifest header " + std::to_string(v) + " does not chain to the one after it");
    out.push_back({*before, hash});
  }
}

Result<Manifest> Vault::restore_head(const App &app, const Manifest &head, uint64_t version,
                                     std::string_view who) {
  Manifest next = after(app, head, who);
  next.head.header.version = version;
  next.head.header.restored_from = head.version();
  next.entries = head.entries;
  COFFER_TRY(auto done, commit_after(app, head, std::move(next), {}));
  if (!done)
    return fail(ErrorCode::kAborted, app_context(app.name()) + " was written by others meanwhile",
                "Try again.");
  return *std::move(done);
}

Result<std::optional<Manifest>> Vault::roll_back(const App &app, const Manifest &head, const Manifest &old,
                                                 std::string_view who) {
  Manifest next = after(app, head, who);
  next.entries = old.entries;
  bool changed = old.entries.size() != head.entries.size();
  for (Entry &e : next.entries) {
    const Entry *now = head.find(e.name);
    if (now && now->record == e.record) {
      e = *now;
      continue;
    }
    changed = true;
    e.version = next.version();
    e.updated_ms = next.head.header.created_ms;
    e.who = who;
  }
  if (!changed) return head;
  return commit_after(app, head, std::move(next), {});
}

Result<Bytes> Vault::record(const App &app, const Entry &entry) const {
  auto bytes = immutable(app, "record", entry.record);
  if (!bytes)
    return std::unexpected(std::move(bytes).error().in(app_context(app.name()) + ": secret " + entry.name));
  return bytes;
}

Result<ManifestProof> Vault::proof(const App &app, const Manifest &m,
                                   const std::vector<std::string> &names) const {
  ManifestProof out;
  out.header = m.envelope;
  const auto fill = [&]() -> Result<void> {
    COFFER_TRY(out.body, immutable(app, "body", m.head.header.body));
    COFFER_TRY(const Body body, decode_body(out.body));
    // Only the parts that hold one of the names.
    for (const Hash &hash : body.parts) {
      COFFER_TRY(Bytes part, immutable(app, "part", hash));
      std::vector<Entry> entries;
      COFFER_CHECK(decode_part(part, entries));
      if (std::ranges::any_of(entries,
                              [&](const Entry &e) { return std::ranges::binary_search(names, e.name); }))
        out.parts.push_back(std::move(part));
    }
    return {};
  };
  if (auto filled = fill(); !filled)
    return std::unexpected(
        std::move(filled).error().in(app_context(app.name()) + ": manifest " + std::to_string(m.version())));
  return out;
}

Manifest Vault::after(const App &app, const Manifest &old, std::string_view who) {
  Manifest next;
  Header &header = next.head.header;
  header.app_id = app.id();
  header.version = old.version() + 1;
  header.previous = old.head.hash;
  header.created_ms = now_ms();
  header.who = who;
  header.kept_from = old.head.header.kept_from;
  // Older ones go by themselves by now.
  if (layout::oldest_kept(header) > header.kept_from) header.kept_from = 0;
  return next;
}

// Commits `next`, whose header lacks its body's hash.  `named`: records that it is the first to name, and
// what the commit of the head is to require.  Nothing: somebody was faster.
Result<std::optional<Manifest>> Vault::commit_after(const App &app, const Manifest &old, Manifest next,
                                                    Batch named) {
  const std::string space = layout::space(app.id());
  Header &header = next.head.header;
  Body body;
  body.entries = static_cast<uint32_t>(next.entries.size());
  std::span<const Entry> rest(next.entries);
  for (const size_t n : part_sizes(next.entries)) {
    Bytes part = encode_part(rest.first(n));
    rest = rest.subspan(n);
    body.parts.push_back(sha256(part));
    // Those of the old head are there, and stay as long as it is the head.
    if (std::ranges::find(old.parts, body.parts.back()) == old.parts.end())
      named.put(layout::named("part", body.parts.back()), std::move(part));
  }
  const Bytes body_bytes = encode(body);
  header.body = sha256(body_bytes);
  next.parts = std::move(body.parts);
  next.envelope = sign(writer_, kManifestLabel, encode(header));
  next.head.hash = sha256(next.envelope);
  named.put(layout::named("body", header.body), body_bytes);

  Batch last;
  size_t bytes = 0;
  for (const Batch::Op &op : named.ops()) bytes += op.key.size() + op.value.size();
  const coffer_storage_limits &limits = storage_.limits();
  if (named.ops().size() + 4 <= limits.max_ops && bytes + 4096 <= limits.max_batch_bytes) {
    last = std::move(named);
  } else {
    // In several commits, immutable objects first.  A sweep in between could take them for orphans, so the
    // head goes in only if none has run since.
    COFFER_TRY(const uint64_t swept, sweep_revision(app));
    for (const Batch::Pre &pre : named.pre()) last.require(pre.key, pre.revision);
    if (std::ranges::find(named.pre(), layout::kSweepKey, &Batch::Pre::key) == named.pre().end())
      last.require(std::string(layout::kSweepKey), swept);
    Batch piece;
    size_t size = 0;
    for (const Batch::Op &op : named.ops()) {
      if (!piece.empty() && (piece.ops().size() >= limits.max_ops ||
                             size + op.key.size() + op.value.size() + 4096 > limits.max_batch_bytes)) {
        COFFER_CHECK(commit(space, std::move(piece)));
        piece = {};
        size = 0;
      }
      size += op.key.size() + op.value.size();
      piece.put(op.key, op.value);
    }
    if (!piece.empty()) COFFER_CHECK(commit(space, std::move(piece)));
  }
  last.require(std::string(layout::kHeadKey), old.revision);
  last.put(layout::header(header.version), next.envelope);
  last.put(std::string(layout::kHeadKey), next.envelope);
  const auto done = commit(space, std::move(last));
  if (!done && done.error().code == ErrorCode::kAborted) return std::nullopt;
  if (!done) return std::unexpected(done.error());
  next.revision = *done;
  return next;
}

Result<Written> Vault::write(const App &app, const std::vector<SealedSecret> &set,
                             const std::vector<std::string> &unset, std::string_view who,
                             const std::function<Result<void>(const Manifest &)> &accept) {
  for (const SealedSecret &s : set) {
    COFFER_TRY(const Record record, decode_record(s.record));
    if (record.epoch < app.key.epoch) return rotated_meanwhile(app);
    if (record.epoch != app.key.epoch || sha256(s.record) != s.hash)
      return fail(ErrorCode::kInvalidArgument,
                  "secret " + s.name + " was not sealed for the App's current key");
  }
  const std::string space = layout::space(app.id());
  for (int tries = 0; tries < kMaxTries; ++tries) {
    COFFER_TRY(Manifest old, newest(app));
    if (accept) COFFER_CHECK(accept(old));
    Written out;
    Manifest next = after(app, old, who);
    const Header &header = next.head.header;

    std::map<std::string, Entry> entries;
    for (const Entry &e : old.entries) entries.emplace_hint(entries.end(), e.name, e);
    std::vector<const SealedSecret *> fresh;
    for (const SealedSecret &s : set) {
      Entry &e = entries[s.name];
      if (e.version != 0 && e.digest == s.digest) {
        out.unchanged.push_back(s.name);
        continue;
      }
      if (e.version == 0) e.created_ms = header.created_ms;
      e.name = s.name;
      e.version = header.version;
      e.record = s.hash;
      e.digest = s.digest;
      e.flags = s.flags;
      e.updated_ms = header.created_ms;
      e.who = who;
      fresh.push_back(&s);
      out.changed.push_back(s.name);
    }
    for (const std::string &name : unset) (entries.erase(name) ? out.removed : out.unknown).push_back(name);
    if (out.changed.empty() && out.removed.empty()) {
      out.manifest = std::move(old);
      return out;
    }
    next.entries.reserve(entries.size());
    for (auto &[name, e] : entries) next.entries.push_back(std::move(e));

    Batch named;
    for (const SealedSecret *s : fresh) named.put(layout::named("record", s->hash), s->record);
    // What was sealed for a key that has been replaced meanwhile is not stored.
    if (!fresh.empty()) named.require(std::string(layout::kKeyKey), app.key_revision);
    COFFER_TRY(auto done, commit_after(app, old, std::move(next), std::move(named)));
    if (!done) {  // somebody was faster: again, on their head
      COFFER_TRY(const auto key, storage_.get(space, layout::kKeyKey));
      if (!fresh.empty() && (!key || key->revision != app.key_revision)) return rotated_meanwhile(app);
      continue;
    }
    out.manifest = *std::move(done);
    if (out.manifest.version() % kSweepEvery == 0)
      (void)sweep(app, out.manifest);  // what it leaves, the next one takes
    return out;
  }
  return fail(ErrorCode::kAborted, app_context(app.name()) + " is being written by others all the time",
              "Try again.");
}

// Forgets bodies, parts and records that no retained manifest refers to: kept are the last 50 versions and
// those that the newest or the way-back launch spec of a Machine names.  Headers are kept for ever.
Result<void> Vault::sweep(const App &app, const Manifest &head) {
  const std::string space = layout::space(app.id());
  // Launch specs first: one that is made from now on is not among them.
  std::set<std::string> old_specs;
  COFFER_CHECK(storage_.list(space, "spec/", false, [&](Stored s) {
    old_specs.insert(std::move(s.key));
    return true;
  }));
  std::set<uint64_t> versions;
  COFFER_TRY(const auto retained, chain(app, head.head, layout::oldest_kept(head.head.header)));
  std::set<Hash> bodies;
  for (const HashedHeader &h : retained) bodies.insert(h.header.body);
  COFFER_TRY(const auto all_machines, machines(app));
  for (const StoredMachine &m : all_machines) {
    COFFER_TRY(const SignedSpec newest_spec, spec(app, m.record, m.record.spec_number));
    versions.insert(newest_spec.spec.version);
    old_specs.erase(layout::spec(m.record.id, newest_spec.spec.number));
    if (newest_spec.spec.undo == Hash{}) continue;
    COFFER_TRY(const SignedSpec undo, spec_by_hash(app, m.record, newest_spec.spec.undo));
    versions.insert(undo.spec.version);
    old_specs.erase(layout::spec(m.record.id, undo.spec.number));
  }
  for (const HashedHeader &h : retained) versions.erase(h.header.version);
  for (const uint64_t v : versions) {
    COFFER_TRY(const auto stored, storage_.get(space, layout::header(v)));
    if (!stored) return missing("manifest header " + std::to_string(v));
    COFFER_TRY(const HashedHeader header, open_header(stored->value, pins_.writers, app.id()));
    bodies.insert(header.header.body);
  }
  std::set<std::string> kept;
  for (const Hash &hash_of_body : bodies) {
    kept.insert(layout::named("body", hash_of_body));
    COFFER_TRY(const Bytes bytes, immutable(app, "body", hash_of_body));
    COFFER_TRY(const Body body, decode_body(bytes));
    for (const Hash &hash : body.parts) {
      if (!kept.insert(layout::named("part", hash)).second) continue;
      COFFER_TRY(const Bytes part, immutable(app, "part", hash));
      std::vector<Entry> entries;
      COFFER_CHECK(decode_part(part, entries));
      for (const Entry &e : entries) kept.insert(layout::named("record", e.record));
    }
  }
  std::vector<std::string> garbage(old_specs.begin(), old_specs.end());
  for (const std::string_view prefix : {"body/", "part/", "record/"})
    COFFER_CHECK(storage_.list(space, prefix, false, [&](Stored s) {
      if (!kept.contains(s.key)) garbage.push_back(std::move(s.key));
      return true;
    }));
  // As many at once as the storage takes, and only while all of the above is still so.
  for (size_t at = 0; at < garbage.size();) {
    Batch b;
    b.require(std::string(layout::kHeadKey), head.revision);
    for (const StoredMachine &m : all_machines) b.require(layout::machine(m.record.id), m.revision);
    b.put(std::string(layout::kSweepKey), {});
    while (at < garbage.size() && b.ops().size() < storage_.limits().max_ops)
      b.erase(std::move(garbage[at++]));
    COFFER_CHECK(commit(space, std::move(b)));
  }
  return {};
}

}  // namespace coffer
