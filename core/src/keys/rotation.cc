// The App's key pair of the next epoch: made, used to seal the head's records anew, and the old one
// forgotten.
#include <algorithm>

#include "coffer/crypto/hpke_sender.h"
#include "coffer/format/record.h"
#include "coffer/keys/key_service.h"
#include "coffer/keys/opener.h"
#include "key_store.h"

namespace coffer {

using namespace key_store;

Result<AppKeyRecord> KeyService::newest_key(const AppId &app, const Stored &record) {
  COFFER_TRY(const SigningKey *id_key, identity());
  COFFER_TRY(const ByteSpan payload, open_signed(record.value, kAppKeyLabel, {&id_key->public_key(), 1}));
  COFFER_TRY(AppKeyRecord key, decode_app_key(payload));
  if (key.app_id != app) return fail(ErrorCode::kDataLoss, "App key record belongs to another App");
  return key;
}

Result<Opener> KeyService::opener(const AppId &app) {
  const auto open_all = [&](const SecretBytes &root_key, ByteSpan stored) -> Result<Opener> {
    COFFER_TRY(const std::vector<HeldKey> held, decode_held(stored));
    Opener out(app);
    for (const HeldKey &k : held) {
      auto key = unwrap(root_key, k.wrapped, private_aad(app, k.epoch));
      if (!key) return std::unexpected(std::move(key).error().in("private key of the App"));
      out.add(k.epoch, *std::move(key));
    }
    return out;
  };
  for (int tries = 0;; ++tries) {
    COFFER_TRY(const SecretBytes *root_key, root());
    std::optional<Error> wrong;
    // The second one is there while a new root key takes over.
    for (const std::string_view key : {kPrivateKey, kPrivateNextKey}) {
      COFFER_TRY(const auto stored, store_.get(app_space(app), key));
      if (!stored) continue;
      auto out = open_all(*root_key, stored->value);
      if (out) return out;
      if (!wrong) wrong = std::move(out).error();
    }
    if (!wrong) return denied("no_key", "the key service has no key of this App");
    if (tries == 1) return std::unexpected(*std::move(wrong));
    lock();  // another process may have put a new root key in place since
  }
}

Result<std::vector<OpenedSecret>> KeyService::open_proven(
    Opener &opener, const HashedHeader &header, ByteSpan body_bytes, const std::vector<Bytes> &parts,
    const std::vector<std::pair<std::string, Bytes>> &records) {
  if (sha256(body_bytes) != header.header.body)
    return unsound("changed_body", "the manifest's body was changed");
  COFFER_TRY(const Body body, because("changed_body", decode_body(body_bytes)));
  std::vector<Entry> entries;
  for (const Bytes &part : parts) {
    if (std::ranges::find(body.parts, sha256(part)) == body.parts.end())
      return unsound("changed_part", "a part of the manifest was changed");
    COFFER_CHECK(because("changed_part", decode_part(part, entries)));
  }
  std::vector<OpenedSecret> opened;
  for (const auto &[name, record] : records) {
    const auto entry = std::ranges::lower_bound(entries, name, {}, &Entry::name);
    if (entry == entries.end() || entry->name != name)
      return unsound("unknown_secret", "secret " + name + " is not in the manifest");
    if (sha256(record) != entry->record)
      return unsound("changed_record", "the record of secret " + name + " was changed");
    auto value = because("changed_record", opener.open(name, record));
    if (!value) return std::unexpected(std::move(value).error().in("secret " + name));
    opened.push_back({name, *std::move(value)});
  }
  return opened;
}

Result<KeyService::AppKey> KeyService::rotate(const AppId &app, uint32_t from) {
  for (int tries = 0; tries < kMaxTries; ++tries) {
    COFFER_CHECK(settle_root());
    COFFER_TRY(const auto next, store_.get(app_space(app), kPrivateNextKey));
    if (next) COFFER_CHECK(tidy_rewrap());
    COFFER_TRY(const auto record, store_.get(app_space(app), kRecordKey));
    COFFER_TRY(const auto held, store_.get(app_space(app), kPrivateKey));
    if (!record || !held) return denied("no_key", "the key service has no key of this App");
    COFFER_TRY(AppKeyRecord key, newest_key(app, *record));
    // Somebody else's, or of a rotation that was cut off: one is as good as the other.
    if (key.epoch > from) return AppKey{app, record->value};
    if (key.epoch < from)
      return fail(ErrorCode::kDataLoss,
                  "App " + key.name + ": the key service's newest key is of epoch " +
                      std::to_string(key.epoch) + ", the vault's of epoch " + std::to_string(from),
                  "The key service's store was rolled back: put the newer copy back.");
    COFFER_CHECK(log_ready());
    COFFER_TRY(const SecretBytes *root_key, root());
    COFFER_TRY(const SigningKey *id_key, identity());
    COFFER_TRY(std::vector<HeldKey> keys, decode_held(held->value));
    const KeyPair pair = x25519_generate();
    ++key.epoch;
    key.public_key = pair.public_key;
    COFFER_TRY(Bytes wrapped, wrap(*root_key, pair.private_key, private_aad(app, key.epoch)));
    keys.push_back({key.epoch, std::move(wrapped)});
    AppKey out{app, sign(*id_key, kAppKeyLabel, coffer::encode(key))};
    Batch b;
    b.require(std::string(kRecordKey), record->revision).require(std::string(kPrivateKey), held->revision);
    b.require_absent(std::string(kPrivateNextKey));  // a rewrap would not see the new one
    b.put(std::string(kRecordKey), out.signed_record);
    b.put(std::string(kPrivateKey), key_store::encode(keys));
    const auto done = store_.commit(app_space(app), b);
    if (done) return logged(entry(kApi, "rotate key", app), Result<AppKey>(std::move(out)));
    if (done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
  }
  return fail(ErrorCode::kAborted, "the App's key is being rotated by others", "Try again.");
}

Result<Bytes> KeyService::reseal(ByteSpan bytes) {
  COFFER_CHECK(log_ready());  // it opens values
  COFFER_TRY(const ResealRequest request, decode_reseal_request(bytes));
  AuditEntry about = entry(kApi, "reseal", request.app_id);
  about.count = request.records.size();
  return logged(std::move(about), resealed(request, sha256(bytes)));
}

Result<Bytes> KeyService::resealed(const ResealRequest &request, const Hash &request_hash) {
  const AppId &app = request.app_id;
  COFFER_TRY(const auto record, store_.get(app_space(app), kRecordKey));
  if (!record) return denied("no_key", "the key service has no key of this App");
  COFFER_TRY(const AppKeyRecord key, newest_key(app, *record));
  COFFER_TRY(const auto newest_seen, seen(app));
  std::map<uint64_t, Hash> chain;
  COFFER_TRY(const SeenHead head, reach(newest_seen, request.headers, app, writers_, chain));
  COFFER_TRY(const HashedHeader header, open_header(request.proof_header, writers_, app));
  if (header.hash != head.header) return unsound("other_manifest", "the manifest is not the newest one");
  COFFER_TRY(Opener app_opener, opener(app));
  COFFER_TRY(const std::vector<OpenedSecret> opened,
             open_proven(app_opener, header, request.proof_body, request.proof_parts, request.records));

  ResealAnswer answer;
  answer.request = request_hash;
  answer.epoch = key.epoch;
  COFFER_TRY(HpkeSender sender, HpkeSender::setup(key.public_key, seal_info(app, key.epoch)));
  for (const OpenedSecret &s : opened) {
    COFFER_TRY(Bytes sealed, seal_record(sender, app, key.epoch, s.name, s.value));
    answer.records.emplace_back(s.name, std::move(sealed));
  }
  COFFER_TRY(const SigningKey *id_key, identity());
  return sign(*id_key, kResealAnswerLabel, coffer::encode(answer));
}

Result<void> KeyService::retire(const AppId &app, uint32_t oldest) {
  for (int tries = 0; tries < kMaxTries; ++tries) {
    COFFER_CHECK(settle_root());
    COFFER_TRY(const auto next, store_.get(app_space(app), kPrivateNextKey));
    if (next) COFFER_CHECK(tidy_rewrap());
    COFFER_TRY(const auto held, store_.get(app_space(app), kPrivateKey));
    if (!held) return {};
    COFFER_TRY(std::vector<HeldKey> keys, decode_held(held->value));
    const uint32_t newest = keys.back().epoch;
    if (std::erase_if(keys, [&](const HeldKey &k) { return k.epoch < oldest && k.epoch != newest; }) == 0)
      return {};
    Batch b;
    b.require(std::string(kPrivateKey), held->revision);
    b.require_absent(std::string(kPrivateNextKey));
    b.put(std::string(kPrivateKey), key_store::encode(keys));
    const auto done = store_.commit(app_space(app), b);
    if (done) return logged(entry(kApi, "destroy old keys", app), Result<void>{});
    if (done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
  }
  return fail(ErrorCode::kAborted, "the App's key is being rotated by others", "Try again.");
}

}  // namespace coffer
