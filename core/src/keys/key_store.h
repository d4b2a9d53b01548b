// What lies where in the key service's own store.
#ifndef COFFER_KEYS_KEY_STORE_H
#define COFFER_KEYS_KEY_STORE_H

#include "coffer/base/log.h"
#include "coffer/format/magic.h"
#include "coffer/keys/key_service.h"

namespace coffer {

// The store:
//   space "keys":       root, root.next, identity, name/NAME
//   space "hosts":      invited/SHA256 of a one-time token, host/KEY
//   space "app-APPID":  record (signed App key record), private, private.next, seen, grant/MACHINE,
//                       used/TOKEN
inline constexpr std::string_view kKeysSpace = "keys", kRootKey = "root", kIdentityKey = "identity";
inline constexpr std::string_view kRecordKey = "record", kPrivateKey = "private", kSeenKey = "seen";
inline constexpr std::string_view kHostsSpace = "hosts", kInvitedPrefix = "invited/", kHostPrefix = "host/";
inline constexpr std::string_view kGrantPrefix = "grant/";

inline std::string app_space(const AppId &id) { return "app-" + hex(id); }
inline std::string name_key(std::string_view name) { return "name/" + std::string(name); }
inline std::string grant_key(std::string_view machine) {
  return std::string(kGrantPrefix) + std::string(machine);
}
inline std::string used_key(ByteSpan id) { return "used/" + hex(id); }

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

}  // namespace coffer
#endif
