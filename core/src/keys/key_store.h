// What lies where in the key service's own store, and how private keys are kept there.
#ifndef COFFER_KEYS_KEY_STORE_H
#define COFFER_KEYS_KEY_STORE_H

#include <map>

#include "coffer/base/log.h"
#include "coffer/format/magic.h"
#include "coffer/keys/key_service.h"
#include "coffer/plugin_host/kms.h"

namespace coffer {

// The store:
//   space "keys":       root, root.next, identity, name/NAME
//   space "hosts":      invited/SHA256 of a one-time token, host/KEY
//   space "app-APPID":  record (signed App key record), private, private.next, seen, grant/MACHINE,
//                       used/TOKEN
inline constexpr std::string_view kKeysSpace = "keys", kRootKey = "root", kIdentityKey = "identity";
inline constexpr std::string_view kRecordKey = "record", kPrivateKey = "private", kSeenKey = "seen";
inline constexpr std::string_view kHostsSpace = "hosts", kInvitedPrefix = "invited/", kHostPrefix = "host/";
inline constexpr std::string_view kAppPrefix = "app-", kGrantPrefix = "grant/", kUsedPrefix = "used/";

inline std::string app_space(const AppId &id) { return std::string(kAppPrefix) + hex(id); }
inline std::string name_key(std::string_view name) { return "name/" + std::string(name); }
inline std::string grant_key(std::string_view machine) {
  return std::string(kGrantPrefix) + std::string(machine);
}
inline std::string used_key(ByteSpan id) { return std::string(kUsedPrefix) + hex(id); }

// `reason`: of the audit log; docs/format.md lists them.
inline std::unexpected<Error> denied(std::string_view reason, std::string why) {
  return std::unexpected(Error{ErrorCode::kPermissionDenied, std::move(why), {}, reason});
}

inline std::unexpected<Error> unsound(std::string_view reason, std::string why, std::string remedy = {}) {
  return std::unexpected(Error{ErrorCode::kDataLoss, std::move(why), std::move(remedy), reason});
}
template <class T>
Result<T> because(std::string_view reason, Result<T> done) {
  if (!done && done.error().reason.empty()) done.error().reason = reason;
  return done;
}

// Who asks, in the audit log.
inline constexpr std::string_view kApi = "api", kAdmin = "admin", kHost = "host", kUnknown = "unknown";

template <class T>
Result<T> KeyService::logged(AuditEntry entry, Result<T> done, AuditLog::Sync sync) const {
  if (!audit_) return done;
  if (!done) entry.outcome = outcome_of(done.error());
  const auto written = audit_->append(entry, sync);
  if (written) return done;
  if (done) return std::unexpected(written.error());
  log(LogLevel::kWarn, "keys", "a refusal was not logged: " + written.error().message);
  return done;
}

// The right of one host to boot one Machine.
struct KeyService::Grant {
  PublicKey host{};
  uint64_t number = 0;  // of the newest launch spec opened
  Hash spec{}, undo{};
  bool revoked = false;

  Bytes encode() const { return begin("cfg1").raw(host).u64(number).raw(spec).raw(undo).u8(revoked).take(); }
  static Result<Grant> decode(ByteSpan in) {
    Decoder d(in);
    Grant g;
    begins(d, "cfg1");
    g.host = d.array<32>();
    g.number = d.u64();
    g.spec = d.array<32>();
    g.undo = d.array<32>();
    g.revoked = read_flag(d);
    if (!d.done()) return malformed("grant");
    return g;
  }
};

// ---- what stands there, to bytes and back ----
namespace key_store {

// While a new root key takes over (rewrap.cc): what is wrapped by, or under, the new one.
inline constexpr std::string_view kRootNextKey = "root.next", kPrivateNextKey = "private.next";
inline constexpr std::string_view kKmsKeyName = "coffer-root", kRootContext = "coffer root key v1";
inline constexpr int kMaxTries = 200;

// The root key as the KMS wrapped it.
Bytes encode(const WrappedKey &);
Result<WrappedKey> decode_wrapped(ByteSpan);

// A key of the root key's own, for one purpose.
SecretBytes derived(const SecretBytes &root, std::string_view purpose);

// wrapped = nonce(24) ciphertext: XChaCha20-Poly1305 under a key derived from the root key.
Result<Bytes> wrap(const SecretBytes &root, const SecretBytes &key, ByteSpan aad);
Result<SecretBytes> unwrap(const SecretBytes &root, ByteSpan wrapped, ByteSpan aad);
Bytes private_aad(const AppId &, uint32_t epoch);
Bytes identity_aad();

// The private keys of an App, one per epoch that something may still be sealed for; the newest one last.
//   private = "ckp1" (epoch(u32) wrapped(bytes))*   |   epoch(u32) wrapped: from before keys were rotated
struct HeldKey {
  uint32_t epoch = 0;
  Bytes wrapped;
};
Bytes encode(const std::vector<HeldKey> &);
Result<std::vector<HeldKey>> decode_held(ByteSpan);

//   seen = "cfh1" version(u64) header(32)
Bytes encode(const SeenHead &);
Result<SeenHead> decode_seen(ByteSpan);

// Walks signed headers from the newest one seen; answers the head that they reach, and what lies on the way.
Result<SeenHead> reach(const std::optional<SeenHead> &seen, const std::vector<Bytes> &headers,
                       const AppId &app, std::span<const PublicKey> writers, std::map<uint64_t, Hash> &chain);

}  // namespace key_store
}  // namespace coffer
#endif
