// What a rotation of the App's key changes in the vault: the key record, then the records of the head.
#include "coffer/format/record.h"
#include "coffer/vault/vault.h"
#include "layout.h"

namespace coffer {

Result<App> Vault::replace_key(const App &app, ByteSpan signed_key) {
  COFFER_TRY(const ByteSpan payload, open_signed(signed_key, kAppKeyLabel, {&pins_.identity, 1}));
  COFFER_TRY(const AppKeyRecord next, decode_app_key(payload));
  if (next.name != app.name() || next.app_id != app.id())
    return fail(ErrorCode::kDataLoss, "App " + app.name() + ": the new key record belongs to another App");
  if (next.epoch > app.key.epoch) {
    Batch b;
    b.require(std::string(layout::kKeyKey), app.key_revision);
    b.put(std::string(layout::kKeyKey), Bytes(signed_key.begin(), signed_key.end()));
    const auto done = commit(layout::space(app.id()), std::move(b));
    // Another process that rotates has put it there: the same one, or a later one.
    if (!done && done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
  }
  COFFER_TRY(App now, this->app(app.name()));
  if (now.id() != app.id() || now.key.epoch < next.epoch)
    return fail(ErrorCode::kAborted, "App " + app.name() + " was changed by others meanwhile", "Try again.");
  return now;
}

Result<std::map<Hash, uint32_t>> Vault::old_records(const App &app) const {
  std::map<Hash, uint32_t> out;
  std::optional<Error> wrong;
  const std::string prefix = "record/";
  COFFER_CHECK(storage_.list(layout::space(app.id()), prefix, true, [&](Stored s) {
    const auto record = decode_record(s.value);
    const auto hash = unhex(std::string_view(s.key).substr(prefix.size()));
    if (!record || !hash || hash->size() != sizeof(Hash)) {
      wrong = Error{ErrorCode::kDataLoss, "App " + app.name() + ": " + s.key + " was changed in the vault",
                    "Run `coffer vault check`, then restore a backup."};
      return false;
    }
    if (record->epoch < app.key.epoch) out.emplace(to_array<sizeof(Hash)>(*hash), record->epoch);
    return true;
  }));
  if (wrong) return std::unexpected(*wrong);
  return out;
}

Result<size_t> Vault::count_records(const App &app) const {
  size_t n = 0;
  COFFER_CHECK(storage_.list(layout::space(app.id()), "record/", false, [&](const Stored &) {
    ++n;
    return true;
  }));
  return n;
}

Result<uint64_t> Vault::sweep_revision(const App &app) const {
  COFFER_TRY(const auto swept, storage_.get(layout::space(app.id()), layout::kSweepKey));
  return swept ? swept->revision : 0;
}

Result<void> Vault::put_records(const App &app, const std::vector<Bytes> &records) {
  const std::string space = layout::space(app.id());
  const coffer_storage_limits &limits = storage_.limits();
  Batch piece;
  size_t size = 0;
  for (const Bytes &record : records) {
    std::string key = layout::named("record", sha256(record));
    if (!piece.empty() && (piece.ops().size() >= limits.max_ops ||
                           size + key.size() + record.size() + 4096 > limits.max_batch_bytes)) {
      COFFER_CHECK(commit(space, std::move(piece)));
      piece = {};
      size = 0;
    }
    size += key.size() + record.size();
    piece.put(std::move(key), record);
  }
  if (!piece.empty()) COFFER_CHECK(commit(space, std::move(piece)));
  return {};
}

Result<std::optional<Manifest>> Vault::replace_records(const App &app, const Manifest &head,
                                                       const std::map<Hash, Hash> &replaced, uint64_t swept,
                                                       bool drop_older, std::string_view who) {
  Manifest next = after(app, head, who);
  if (drop_older) next.head.header.kept_from = next.version();
  next.entries = head.entries;
  for (Entry &e : next.entries)
    if (const auto at = replaced.find(e.record); at != replaced.end()) e.record = at->second;
  Batch named;
  named.require(std::string(layout::kSweepKey), swept);
  return commit_after(app, head, std::move(next), std::move(named));
}

}  // namespace coffer
