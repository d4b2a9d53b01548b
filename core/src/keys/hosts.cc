// Which hosts there are: invited by the administrator, enrolled by themselves, revoked for good.
#include <algorithm>

#include "coffer/base/names.h"
#include "key_store.h"

namespace coffer {
namespace {

std::string invited_key(ByteSpan token) { return std::string(kInvitedPrefix) + hex(sha256(token)); }
std::string host_key(const PublicKey &key) { return std::string(kHostPrefix) + hex(key); }

struct Invitation {
  std::string name;
  uint64_t expires_ms = 0;
};
Bytes encode(const Invitation &i) { return begin("cfi1").text(i.name).u64(i.expires_ms).take(); }
Result<Invitation> decode_invitation(ByteSpan in) {
  Decoder d(in);
  Invitation i;
  begins(d, "cfi1");
  i.name = d.text();
  i.expires_ms = d.u64();
  if (!d.done()) return malformed("invitation of a host");
  return i;
}

Bytes encode(const HostInfo &h) {
  return begin("cfe1").text(h.name).raw(h.key).u64(h.enrolled_ms).u8(h.revoked).take();
}
Result<HostInfo> decode_host(ByteSpan in) {
  Decoder d(in);
  HostInfo h;
  begins(d, "cfe1");
  h.name = d.text();
  h.key = d.array<32>();
  h.enrolled_ms = d.u64();
  h.revoked = read_flag(d);
  if (!d.done()) return malformed("entry of a host");
  return h;
}

}  // namespace

Result<void> KeyService::check_host(const PublicKey &key) const {
  if (std::ranges::find(trusted_hosts_, key) != trusted_hosts_.end()) return {};
  COFFER_TRY(const auto stored, store_.get(kHostsSpace, host_key(key)));
  if (!stored) return denied("not_enrolled", "the host is not enrolled");
  COFFER_TRY(const HostInfo host, decode_host(stored->value));
  if (host.revoked) return denied("host_revoked", "host " + host.name + " was revoked");
  return {};
}

Result<std::string> KeyService::invite(std::string_view name) {
  if (!valid_app_name(name))
    return fail(ErrorCode::kInvalidArgument,
                "a host's name is 1 to 63 of a-z, 0-9 and -, and neither begins nor ends with -");
  COFFER_TRY(const std::vector<HostInfo> all, hosts());
  if (std::ranges::any_of(all, [&](const HostInfo &h) { return h.name == name && !h.revoked; }))
    return fail(ErrorCode::kAlreadyExists, "host " + std::string(name) + " is enrolled already",
                "Choose another name, or revoke that host first.");
  COFFER_CHECK(log_ready());
  const auto token = random_array<16>();
  Batch b;
  b.put(invited_key(token), encode(Invitation{std::string(name), now_() + kInvitationLifetimeMs}));
  // Those that were never used.
  COFFER_CHECK(store_.list(kHostsSpace, kInvitedPrefix, true, [&](Stored s) {
    const auto old = decode_invitation(s.value);
    if (!old || old->expires_ms <= now_()) b.erase(std::move(s.key));
    return true;
  }));
  COFFER_CHECK(store_.commit(kHostsSpace, b));
  AuditEntry invited;
  invited.who = kAdmin;
  invited.action = "invite host";
  invited.host_name = name;
  return logged(std::move(invited), Result<std::string>(hex(token)));
}

Result<void> KeyService::enrol(ByteSpan signed_request) {
  COFFER_CHECK(log_ready());
  AuditEntry asked;
  asked.who = kUnknown;
  asked.action = "enrol host";
  auto done = enrol(signed_request, asked);
  return logged(std::move(asked), std::move(done));
}

Result<void> KeyService::enrol(ByteSpan signed_request, AuditEntry &asked) {
  // Who signs is said inside: the host proves that it has the key it wants enrolled.
  Decoder peek(signed_request);
  begins(peek, "cfs1");
  COFFER_TRY(const Enrolment claimed, decode_enrolment(peek.bytes()));
  if (!open_signed(signed_request, kEnrolmentLabel, {&claimed.host, 1}))
    return denied("not_signed", "the enrolment is not signed by the host that it names");
  asked.who = kHost;
  asked.host = hex(claimed.host);
  asked.host_name = claimed.name;
  COFFER_TRY(const auto there, store_.get(kHostsSpace, host_key(claimed.host)));
  if (there) {
    COFFER_TRY(const HostInfo host, decode_host(there->value));
    if (host.revoked) return denied("host_revoked", "host " + host.name + " was revoked");
    if (host.name == claimed.name) return {};  // its first answer was lost
    return fail(ErrorCode::kAlreadyExists, "this host is enrolled already, as " + host.name);
  }
  const auto no_invitation = [] {
    return std::unexpected(Error{
        ErrorCode::kPermissionDenied, "the enrolment token is not known, was used, or has expired",
        "Ask the key service's administrator for another: `coffer host enroll NAME`.", "no_invitation"});
  };
  COFFER_TRY(const auto stored, store_.get(kHostsSpace, invited_key(claimed.token)));
  if (!stored) return no_invitation();
  COFFER_TRY(const Invitation invitation, decode_invitation(stored->value));
  if (invitation.expires_ms <= now_()) return no_invitation();
  if (invitation.name != claimed.name)
    return denied("other_host", "the enrolment token is for another host's name");
  Batch b;
  b.require(invited_key(claimed.token), stored->revision).erase(invited_key(claimed.token));
  b.require_absent(host_key(claimed.host));
  b.put(host_key(claimed.host), encode(HostInfo{claimed.name, claimed.host, now_(), false}));
  const auto done = store_.commit(kHostsSpace, b);
  if (!done && done.error().code == ErrorCode::kAborted) return no_invitation();  // two at once
  if (!done) return std::unexpected(done.error());
  return {};
}

Result<std::vector<HostInfo>> KeyService::hosts() const {
  std::vector<HostInfo> out;
  std::optional<Error> wrong;
  COFFER_CHECK(store_.list(kHostsSpace, kHostPrefix, true, [&](Stored s) {
    auto host = decode_host(s.value);
    if (!host) {
      wrong = host.error();
      return false;
    }
    out.push_back(*std::move(host));
    return true;
  }));
  if (wrong) return std::unexpected(*wrong);
  std::ranges::sort(out, {}, [](const HostInfo &h) { return std::pair(h.name, h.enrolled_ms); });
  return out;
}

Result<void> KeyService::revoke_host(std::string_view which) {
  COFFER_TRY(const std::vector<HostInfo> all, hosts());
  const HostInfo *found = nullptr;
  for (const HostInfo &h : all)
    if (hex(h.key) == which || (h.name == which && (!found || !h.revoked))) found = &h;
  if (!found) return fail(ErrorCode::kNotFound, "there is no such host", "See `coffer host list`.");
  // Itself first: from then on it gets neither grant nor token.  Then what it has, so that an open which
  // passed that check already fails when it commits.
  HostInfo host = *found;
  host.revoked = true;
  Batch b;
  b.put(host_key(host.key), encode(host));
  COFFER_CHECK(store_.commit(kHostsSpace, b));
  COFFER_TRY(const std::vector<KeyInfo> apps, list());
  for (const KeyInfo &app : apps) {
    if (app.destroyed) continue;
    std::vector<std::string> machines;
    std::optional<Error> wrong;
    COFFER_CHECK(store_.list(app_space(app.app_id), kGrantPrefix, true, [&](Stored s) {
      const auto grant = Grant::decode(s.value);
      if (!grant) {
        wrong = grant.error();
        return false;
      }
      if (grant->host == host.key && !grant->revoked) machines.push_back(s.key.substr(kGrantPrefix.size()));
      return true;
    }));
    if (wrong) return std::unexpected(*wrong);
    for (const std::string &machine : machines) COFFER_CHECK(revoke(app.app_id, machine));
  }
  AuditEntry revoked;
  revoked.who = kAdmin;
  revoked.action = "revoke host";
  revoked.host = hex(host.key);
  revoked.host_name = host.name;
  return logged(std::move(revoked), Result<void>{});
}

}  // namespace coffer
