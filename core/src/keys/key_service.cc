#include "coffer/keys/key_service.h"

#include <algorithm>

#include "coffer/crypto/hpke_sender.h"
#include "coffer/format/magic.h"
#include "coffer/keys/opener.h"
#include "key_store.h"

namespace coffer {
namespace {

using namespace key_store;

constexpr std::string_view kBackupPurpose = "coffer backup v1";
constexpr uint32_t kFirstEpoch = 1;
constexpr uint64_t kClockSkewMs = 60 * 1000;

struct NameEntry {
  AppId app_id{};
  bool destroyed = false;
};
Bytes encode(const NameEntry &n) { return begin("cfn1").raw(n.app_id).u8(n.destroyed).take(); }
Result<NameEntry> decode_name(ByteSpan in) {
  Decoder d(in);
  NameEntry n;
  begins(d, "cfn1");
  n.app_id = d.array<16>();
  n.destroyed = read_flag(d);
  if (!d.done()) return malformed("name entry");
  return n;
}

// A request that `host` did not sign; if another host did, `entry` says which.
std::unexpected<Error> not_signed(ByteSpan envelope, std::string_view label, std::string why,
                                  AuditEntry &entry) {
  Decoder d(envelope);
  begins(d, "cfs1");
  d.bytes();
  const auto signer = d.array<32>();
  if (!open_signed(envelope, label, {&signer, 1})) return denied("not_signed", std::move(why));
  entry.who = kHost;
  entry.host = hex(signer);
  return denied("other_host", std::move(why));
}

}  // namespace

Result<PublicKey> KeyService::initialize(const Storage &store, const Kms &kms) {
  for (int tries = 0; tries < 2; ++tries) {
    COFFER_TRY(const auto there, store.get(kKeysSpace, kIdentityKey));
    if (there) {
      if (there->value.size() < 32) return malformed("identity of the key service");
      return to_array<32>(ByteSpan(there->value).first(32));
    }
    COFFER_CHECK(kms.create(kKmsKeyName));
    const SecretBytes root = random_secret(32);
    COFFER_TRY(const WrappedKey wrapped_root, kms.wrap(kKmsKeyName, root, as_bytes(kRootContext)));
    const SigningKey identity = SigningKey::generate();
    COFFER_TRY(const Bytes wrapped_seed, wrap(root, identity.seed(), identity_aad()));
    Batch b;
    b.require_absent(std::string(kRootKey)).require_absent(std::string(kIdentityKey));
    b.put(std::string(kRootKey), key_store::encode(wrapped_root));
    b.put(std::string(kIdentityKey), Encoder().raw(identity.public_key()).raw(wrapped_seed).take());
    const auto done = store.commit(kKeysSpace, b);
    if (done) return identity.public_key();
    if (done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
  }
  return fail(ErrorCode::kAborted, "the key service's store is being set up by another process",
              "Try again.");
}

Result<KeyService> KeyService::open(Storage store, OpenKms open_kms, std::vector<PublicKey> writers,
                                    std::function<uint64_t()> now, const AuditLog *audit) {
  return KeyService(std::move(store), std::move(open_kms), std::move(writers), std::move(now), audit);
}

// ---- audit ----

AuditEntry KeyService::entry(std::string_view who, std::string_view action, const AppId &app,
                             std::string_view machine) const {
  AuditEntry out;
  out.who = who;
  out.action = action;
  out.app_id = hex(app);
  out.machine = machine;
  if (!audit_) return out;
  // The name is for people who read the log.
  if (const auto record = store_.get(app_space(app), kRecordKey); record && *record) {
    Decoder d((*record)->value);
    begins(d, "cfs1");
    if (const auto key = decode_app_key(d.bytes())) out.app = key->name;
  }
  return out;
}

Result<Checkpoint> KeyService::exchange(const Checkpoint &mine) {
  if (!audit_) return Checkpoint{};
  AuditEntry entry;
  entry.who = kApi;
  entry.action = "checkpoint";
  entry.other = {std::string(kApi), mine};
  return audit_->append(entry);
}

Result<const SecretBytes *> KeyService::root() {
  if (root_.empty()) {
    COFFER_TRY(const auto stored, store_.get(kKeysSpace, kRootKey));
    if (!stored)
      return fail(ErrorCode::kFailedPrecondition, "the key service has no root key yet",
                  "Run `coffer init` first.");
    COFFER_TRY(const WrappedKey wrapped, decode_wrapped(stored->value));
    COFFER_TRY(const Kms kms, open_kms_());
    COFFER_TRY(root_, kms.unwrap(wrapped, as_bytes(kRootContext)));
    root_revision_ = stored->revision;
    if (root_.size() != 32) {
      root_.reset();
      return fail(ErrorCode::kDataLoss, "the KMS answered a root key of the wrong size");
    }
  }
  return &root_;
}

Result<KeyService::BackupKey> KeyService::backup_key() {
  for (int tries = 0; tries < kMaxTries; ++tries) {
    COFFER_TRY(const SecretBytes *root_key, root());
    COFFER_TRY(auto stored, store_.get(kKeysSpace, kRootKey));
    if (!stored) return malformed("wrapped root key");
    if (stored->revision == root_revision_)
      return BackupKey{derived(*root_key, kBackupPurpose), std::move(stored->value)};
    lock();  // replaced by another process since
  }
  return fail(ErrorCode::kAborted, "the root key is being replaced by others all the time", "Try again.");
}

Result<SecretBytes> KeyService::backup_key(const Kms &kms, ByteSpan wrapped_root) {
  COFFER_TRY(const WrappedKey wrapped, decode_wrapped(wrapped_root));
  const auto root = kms.unwrap(wrapped, as_bytes(kRootContext));
  if (!root && root.error().code != ErrorCode::kUnavailable)
    return fail(ErrorCode::kPermissionDenied,
                "the backup was made under another KMS key than this home has: " + root.error().message,
                "Put that key in place first (kms-local: the folder `kms` of the old home), then restore.");
  if (!root) return std::unexpected(root.error());
  return derived(*root, kBackupPurpose);
}

Result<void> KeyService::unlock() {
  COFFER_CHECK(identity());
  return {};
}

Result<const SigningKey *> KeyService::identity() {
  for (int tries = 0; !identity_; ++tries) {
    COFFER_TRY(const SecretBytes *root_key, root());
    COFFER_TRY(const auto stored, store_.get(kKeysSpace, kIdentityKey));
    if (!stored || stored->value.size() < 32) return malformed("identity of the key service");
    const auto seed = unwrap(*root_key, ByteSpan(stored->value).subspan(32), identity_aad());
    if (!seed && tries == 0) {
      lock();  // another process may have put a new root key in place since
      continue;
    }
    if (!seed) return std::unexpected(Error(seed.error()).in("identity of the key service"));
    COFFER_TRY(SigningKey key, SigningKey::from_seed(seed->reveal()));
    if (!std::ranges::equal(key.public_key(), ByteSpan(stored->value).first(32)))
      return fail(ErrorCode::kDataLoss, "the identity of the key service was changed in its store");
    identity_ = std::move(key);
  }
  return &*identity_;
}

void KeyService::lock() {
  root_.reset();
  identity_.reset();
}

Result<HmacSha256> KeyService::token_key() {
  COFFER_TRY(const SecretBytes *root_key, root());
  return HmacSha256(derived(*root_key, "coffer token key v1").reveal());
}

// ---- Apps ----

Result<KeyService::AppKey> KeyService::create_app(std::string_view name) {
  for (int tries = 0; tries < kMaxTries; ++tries) {
    COFFER_TRY(const auto named, store_.get(kKeysSpace, name_key(name)));
    std::optional<NameEntry> before;
    if (named) {
      COFFER_TRY(before, decode_name(named->value));
      if (!before->destroyed) {
        COFFER_TRY(auto record, store_.get(app_space(before->app_id), kRecordKey));
        if (record) return AppKey{before->app_id, std::move(record->value)};
        // Cut off between the two commits below: this App was never handed out.
      }
    }
    COFFER_CHECK(log_ready());
    COFFER_CHECK(settle_root());
    COFFER_TRY(const SecretBytes *root_key, root());
    COFFER_TRY(const SigningKey *id_key, identity());
    AppKeyRecord record;
    record.name = name;
    record.app_id = random_array<16>();
    record.epoch = kFirstEpoch;
    if (before && before->destroyed) record.replaces = before->app_id;
    const KeyPair pair = x25519_generate();
    record.public_key = pair.public_key;
    COFFER_TRY(Bytes wrapped, wrap(*root_key, pair.private_key, private_aad(record.app_id, record.epoch)));
    AppKey out{record.app_id, sign(*id_key, kAppKeyLabel, coffer::encode(record))};

    Batch keys;
    keys.require_absent(std::string(kRecordKey));
    keys.put(std::string(kRecordKey), out.signed_record);
    keys.put(std::string(kPrivateKey),
             key_store::encode(std::vector{HeldKey{record.epoch, std::move(wrapped)}}));
    COFFER_CHECK(store_.commit(app_space(record.app_id), keys));
    Batch naming;
    naming.require(name_key(name), named ? named->revision : 0);
    // Else it would be wrapped under a root key that goes.
    naming.require(std::string(kRootKey), root_revision_).require_absent(std::string(kRootNextKey));
    naming.put(name_key(name), encode(NameEntry{record.app_id, false}));
    const auto done = store_.commit(kKeysSpace, naming);
    if (done) return logged(entry(kApi, "create key", record.app_id), Result<AppKey>(std::move(out)));
    (void)store_.drop_space(app_space(record.app_id));
    if (done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
  }
  return fail(ErrorCode::kAborted, "App " + std::string(name) + " is being created by others", "Try again.");
}

Result<void> KeyService::destroy_app(std::string_view name) {
  COFFER_TRY(const auto named, store_.get(kKeysSpace, name_key(name)));
  if (!named) return {};
  COFFER_TRY(NameEntry named_app, decode_name(named->value));
  AuditEntry destroyed = entry(kApi, "destroy key", named_app.app_id);
  destroyed.app = name;
  if (!named_app.destroyed) {
    COFFER_CHECK(log_ready());
    named_app.destroyed = true;
    Batch b;
    b.require(name_key(name), named->revision);
    b.put(name_key(name), encode(named_app));
    COFFER_CHECK(store_.commit(kKeysSpace, b));
  }
  return logged(std::move(destroyed), store_.drop_space(app_space(named_app.app_id)));
}

Result<std::vector<KeyInfo>> KeyService::list() const {
  std::vector<KeyInfo> out;
  std::optional<Error> wrong;
  COFFER_CHECK(store_.list(kKeysSpace, name_key(""), true, [&](Stored s) {
    const auto entry = decode_name(s.value);
    if (!entry) {
      wrong = entry.error();
      return false;
    }
    KeyInfo info;
    info.app = s.key.substr(name_key("").size());
    info.app_id = entry->app_id;
    info.destroyed = entry->destroyed;
    out.push_back(std::move(info));
    return true;
  }));
  if (wrong) return std::unexpected(*wrong);
  COFFER_TRY(const auto identity_entry, store_.get(kKeysSpace, kIdentityKey));
  if (!identity_entry || identity_entry->value.size() < 32) return malformed("identity of the key service");
  const PublicKey id = to_array<32>(ByteSpan(identity_entry->value).first(32));
  for (KeyInfo &info : out) {
    if (info.destroyed) continue;
    COFFER_TRY(const auto record, store_.get(app_space(info.app_id), kRecordKey));
    if (!record) continue;
    COFFER_TRY(const ByteSpan payload, open_signed(record->value, kAppKeyLabel, {&id, 1}));
    COFFER_TRY(const AppKeyRecord key, decode_app_key(payload));
    info.epoch = key.epoch;
    info.public_key = key.public_key;
    COFFER_TRY(const auto held, store_.get(app_space(info.app_id), kPrivateKey));
    if (!held) continue;
    COFFER_TRY(const std::vector<HeldKey> epochs, decode_held(held->value));
    for (const HeldKey &k : epochs)
      if (k.epoch != info.epoch) info.old_epochs.push_back(k.epoch);
  }
  return out;
}

// ---- freshness and grants ----

Result<std::optional<SeenHead>> KeyService::seen(const AppId &app) const {
  COFFER_TRY(const auto stored, store_.get(app_space(app), kSeenKey));
  if (!stored) return std::nullopt;
  COFFER_TRY(const SeenHead head, decode_seen(stored->value));
  return head;
}

Result<void> KeyService::advance(const AppId &app, const std::vector<Bytes> &headers) {
  for (int tries = 0; tries < kMaxTries; ++tries) {
    COFFER_TRY(const auto stored, store_.get(app_space(app), kSeenKey));
    std::optional<SeenHead> before;
    if (stored) {
      COFFER_TRY(before, decode_seen(stored->value));
    }
    std::map<uint64_t, Hash> chain;
    COFFER_TRY(const SeenHead head, reach(before, headers, app, writers_, chain));
    if (before && head.version == before->version) return {};
    Batch b;
    b.require(std::string(kSeenKey), stored ? stored->revision : 0);
    b.put(std::string(kSeenKey), encode(head));
    const auto done = store_.commit(app_space(app), b);
    if (done) return {};
    if (done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
  }
  return fail(ErrorCode::kAborted, "the newest seen header is being moved by others", "Try again.");
}

Result<void> KeyService::bring_in(const AppId &app, ByteSpan signed_header) {
  COFFER_TRY(const HashedHeader header, open_header(signed_header, writers_, app));
  if (!header.header.restored_from) return denied("not_restored", "the manifest was not made by a restore");
  COFFER_TRY(const auto record, store_.get(app_space(app), kRecordKey));
  if (!record) return denied("no_key", "the key service has no key of this App");
  COFFER_TRY(const auto stored, store_.get(app_space(app), kSeenKey));
  if (stored) {
    COFFER_TRY(const SeenHead before, decode_seen(stored->value));
    if (header.header.version <= before.version)
      return denied("old_manifest", "manifest " + std::to_string(header.header.version) +
                                        " is not newer than version " + std::to_string(before.version) +
                                        ", which has been seen");
  }
  Batch b;
  b.require(std::string(kSeenKey), stored ? stored->revision : 0);
  b.put(std::string(kSeenKey), key_store::encode(SeenHead{header.header.version, header.hash}));
  COFFER_CHECK(log_ready());
  AuditEntry about = entry(kAdmin, "restore", app);
  about.version = header.header.version;
  COFFER_CHECK(store_.commit(app_space(app), b));
  return logged(std::move(about), Result<void>{});
}

Result<std::pair<KeyService::Grant, uint64_t>> KeyService::find_grant(const AppId &app,
                                                                      std::string_view machine) const {
  COFFER_TRY(const auto stored, store_.get(app_space(app), grant_key(machine)));
  if (!stored) return denied("no_grant", "Machine " + std::string(machine) + " has no grant");
  COFFER_TRY(Grant grant, Grant::decode(stored->value));
  if (grant.revoked)
    return denied("revoked", "the grant of Machine " + std::string(machine) + " was revoked");
  return std::pair(grant, stored->revision);
}

Result<void> KeyService::grant(const AppId &app, std::string_view machine, const PublicKey &host,
                               ByteSpan signed_spec) {
  COFFER_TRY(const SignedSpec spec, open_spec(Bytes(signed_spec.begin(), signed_spec.end()), writers_));
  if (spec.spec.app_id != app) return denied("other_app", "the launch spec belongs to another App");
  if (spec.spec.machine != machine)
    return denied("other_machine", "the launch spec belongs to another Machine");
  COFFER_CHECK(check_host(host));
  COFFER_TRY(const auto app_key, store_.get(app_space(app), kRecordKey));
  if (!app_key) return denied("no_key", "the key service has no key of this App");
  COFFER_CHECK(log_ready());
  AuditEntry granted = entry(kApi, "grant", app, machine);
  granted.host = hex(host);
  granted.spec = spec.spec.number;
  const auto standing = [&]() -> Result<void> {
    const auto there = find_grant(app, machine);  // a revoked one stays revoked
    if (there && there->first.host == host) return {};
    return logged(granted, there ? Result<void>(denied("other_host", "Machine " + std::string(machine) +
                                                                         " is granted to another host"))
                                 : std::unexpected(there.error()));
  };
  COFFER_TRY(const auto there, store_.get(app_space(app), grant_key(machine)));
  if (there) return standing();
  Grant g;
  g.host = host;
  g.number = spec.spec.number;
  g.spec = spec.hash;
  g.undo = spec.spec.undo;
  Batch b;
  b.require_absent(grant_key(machine));
  b.put(grant_key(machine), g.encode());
  const auto done = store_.commit(app_space(app), b);
  if (done || done.error().code != ErrorCode::kAborted)
    return logged(std::move(granted), done ? Result<void>{} : std::unexpected(done.error()));
  return standing();
}

Result<void> KeyService::revoke(const AppId &app, std::string_view machine) {
  for (int tries = 0; tries < kMaxTries; ++tries) {
    COFFER_TRY(const auto stored, store_.get(app_space(app), grant_key(machine)));
    if (!stored) return {};
    COFFER_TRY(Grant grant, Grant::decode(stored->value));
    // Revoked first, whatever becomes of the log; asked again, it is logged again.
    if (grant.revoked) return logged(entry(kApi, "revoke", app, machine), Result<void>{});
    grant.revoked = true;
    Batch b;
    b.require(grant_key(machine), stored->revision);
    b.put(grant_key(machine), grant.encode());
    const auto done = store_.commit(app_space(app), b);
    if (done) return logged(entry(kApi, "revoke", app, machine), Result<void>{});
    if (done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
  }
  return fail(ErrorCode::kAborted, "the grant is being changed by others", "Try again.");
}

// ---- for hosts ----

Result<Bytes> KeyService::token(ByteSpan signed_request) {
  AuditEntry asked;
  asked.who = kUnknown;
  asked.action = "token";
  auto done = issue(signed_request, asked);
  // A token alone opens nothing, and the open is durable.
  const auto sync = done ? AuditLog::Sync::kLater : AuditLog::Sync::kNow;
  return logged(std::move(asked), std::move(done), sync);
}

Result<Bytes> KeyService::open(ByteSpan signed_request) {
  AuditEntry asked;
  asked.who = kUnknown;
  asked.action = "open";
  auto done = open(signed_request, asked);
  return logged(std::move(asked), std::move(done));
}

Result<Bytes> KeyService::issue(ByteSpan signed_request, AuditEntry &asked) {
  // Who signs is not known before the grant is: read the claims first, trust them after.
  Decoder peek(signed_request);
  begins(peek, "cfs1");
  COFFER_TRY(const TokenRequest claimed, because("malformed", decode_token_request(peek.bytes())));
  asked = entry(asked.who, asked.action, claimed.app_id, claimed.machine);
  asked.instance = claimed.instance_id;
  COFFER_TRY(const auto found, find_grant(claimed.app_id, claimed.machine));
  const Grant &grant = found.first;
  if (!open_signed(signed_request, kTokenRequestLabel, {&grant.host, 1}))
    return not_signed(
        signed_request, kTokenRequestLabel,
        "the token request is not signed by the host that was granted Machine " + claimed.machine, asked);
  asked.who = kHost;
  asked.host = hex(grant.host);
  COFFER_CHECK(check_host(grant.host));
  COFFER_TRY(HmacSha256 key, token_key());
  MachineToken token;
  token.id = random_array<16>();
  token.app_id = claimed.app_id;
  token.machine = claimed.machine;
  token.instance_id = claimed.instance_id;
  token.host = grant.host;
  token.spec = claimed.spec;
  token.issued_ms = now_();
  token.expires_ms = token.issued_ms + kTokenLifetimeMs;
  return coffer::encode(token, key);
}

Result<Bytes> KeyService::open(ByteSpan signed_request, AuditEntry &asked) {
  Decoder peek(signed_request);
  begins(peek, "cfs1");
  COFFER_TRY(const OpenRequest request, because("malformed", decode_open_request(peek.bytes())));
  COFFER_TRY(HmacSha256 mac_key, token_key());
  COFFER_TRY(const MachineToken token, because("forged", decode_token(request.token, mac_key)));
  asked = entry(asked.who, asked.action, token.app_id, token.machine);
  asked.instance = token.instance_id;
  if (!open_signed(signed_request, kOpenRequestLabel, {&token.host, 1}))
    return not_signed(signed_request, kOpenRequestLabel, "the open request is not signed by the token's host",
                      asked);
  asked.who = kHost;
  asked.host = hex(token.host);
  const uint64_t now = now_();
  if (now >= token.expires_ms) return denied("expired", "the machine token has expired");
  if (token.issued_ms > now + kClockSkewMs)
    return denied("not_yet", "the machine token was issued in the future");

  COFFER_TRY(auto found, find_grant(token.app_id, token.machine));
  auto &[grant, grant_revision] = found;
  if (grant.host != token.host) return denied("other_host", "the grant belongs to another host");
  COFFER_CHECK(check_host(grant.host));
  COFFER_TRY(const SignedSpec spec, because("untrusted_spec", open_spec(request.spec, writers_)));
  asked.spec = spec.spec.number;
  asked.version = spec.spec.version;
  asked.count = request.records.size();
  if (spec.hash != token.spec) return denied("other_spec", "the machine token is for another launch spec");
  if (spec.spec.app_id != token.app_id) return denied("other_app", "the launch spec belongs to another App");
  if (spec.spec.machine != token.machine)
    return denied("other_machine", "the launch spec belongs to another Machine");

  const std::string space = app_space(token.app_id);
  Batch batch;
  batch.require_absent(used_key(token.id));
  batch.put(used_key(token.id), Encoder().u64(token.expires_ms).take());

  const bool known = spec.hash == grant.spec || (grant.undo != Hash{} && spec.hash == grant.undo);
  if (!known) {
    if (spec.spec.number <= grant.number)
      return denied("old_spec", "launch spec " + std::to_string(spec.spec.number) +
                                    " is not the newest one of Machine " + token.machine +
                                    ", nor the one before it");
    grant.number = spec.spec.number;
    grant.spec = spec.hash;
    grant.undo = spec.spec.undo;
  }
  COFFER_TRY(const auto stored_seen, store_.get(space, kSeenKey));
  std::optional<SeenHead> before;
  if (stored_seen) {
    COFFER_TRY(before, decode_seen(stored_seen->value));
  }
  if (!known) {
    std::map<uint64_t, Hash> chain;
    COFFER_TRY(const SeenHead head, reach(before, request.headers, token.app_id, writers_, chain));
    const auto at = chain.find(spec.spec.version);
    if (at == chain.end() || at->second != spec.spec.header)
      return unsound("not_in_chain", "launch spec " + std::to_string(spec.spec.number) +
                                         " names a manifest that is not in the chain");
    if (!before || head.version > before->version) {
      batch.require(std::string(kSeenKey), stored_seen ? stored_seen->revision : 0);
      batch.put(std::string(kSeenKey), encode(head));
    }
    batch.put(grant_key(token.machine), grant.encode());
  }
  // In any case: a revocation in between makes this open fail.
  batch.require(grant_key(token.machine), grant_revision);

  // The launch spec pins the manifest, the manifest its parts, a part the records.
  COFFER_TRY(const HashedHeader header,
             because("untrusted_header", open_header(request.proof_header, writers_, token.app_id)));
  if (header.hash != spec.spec.header || header.header.version != spec.spec.version)
    return unsound("other_manifest", "the manifest is not the one that the launch spec names");
  COFFER_TRY(Opener app_opener, opener(token.app_id));
  COFFER_TRY(const std::vector<OpenedSecret> opened,
             open_proven(app_opener, header, request.proof_body, request.proof_parts, request.records));

  COFFER_TRY(const SigningKey *id_key, identity());
  OpenAnswer answer;
  answer.request = sha256(signed_request);
  COFFER_TRY(HpkeSender sender, HpkeSender::setup(request.ephemeral, answer_info(answer.request)));
  answer.enc = sender.enc();
  COFFER_TRY(answer.ciphertext, sender.seal(answer.request, encode_opened(opened).reveal()));

  // Tokens that have expired need no marker any more.
  COFFER_CHECK(store_.list(space, kUsedPrefix, true, [&](Stored s) {
    Decoder d(s.value);
    if (d.u64() + kClockSkewMs < now) batch.erase(std::move(s.key));
    return true;
  }));
  // Durable before anything is handed out.
  const auto done = store_.commit(space, batch);
  if (!done) {
    if (done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
    COFFER_TRY(const auto used, store_.get(space, used_key(token.id)));
    if (used) return denied("used", "the machine token was used before");
    return fail(ErrorCode::kAborted, "grant or manifest changed meanwhile", "Try again.");
  }
  return sign(*id_key, kOpenAnswerLabel, coffer::encode(answer));
}

}  // namespace coffer
