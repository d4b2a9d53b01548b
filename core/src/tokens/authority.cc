#include "coffer/tokens/authority.h"

#include <algorithm>

#include "coffer/base/codec.h"
#include "coffer/base/names.h"
#include "coffer/crypto/primitives.h"
#include "revoked.h"

namespace coffer {
namespace {

constexpr std::string_view kSpace = "tokens", kMovedKey = ".moved", kMagic = "cfy1";
constexpr uint8_t kIdentifierVersion = 1;

std::unexpected<Error> unauthenticated(std::string why, std::string remedy = {}) {
  return fail(ErrorCode::kUnauthenticated, std::move(why), std::move(remedy));
}

std::optional<TokenId> parse_id(std::string_view text) {
  const auto bytes = unhex(text);
  if (!bytes || bytes->size() != std::tuple_size_v<TokenId>) return std::nullopt;
  return to_array<16>(*bytes);
}

// identifier = version, id
Bytes identifier(const TokenId &id) { return Encoder().u8(kIdentifierVersion).raw(id).take(); }

Result<void> check_name(std::string_view name) {
  if (!valid_app_name(name) || parse_id(name))
    return fail(
        ErrorCode::kInvalidArgument,
        "a token's name has 1 to 63 of a-z, 0-9 and -, begins and ends with a letter or digit, and is "
        "no token's id");
  return {};
}

}  // namespace

Result<TokenAuthority> TokenAuthority::open(Storage vault, const SecretBytes &root,
                                            std::filesystem::path revoked, std::function<uint64_t()> clock) {
  if (root.size() != 32) return fail(ErrorCode::kInvalidArgument, "the token root has not 32 bytes");
  COFFER_TRY(SecretBytes token_key,
             hkdf(root.reveal(), {}, Encoder().text("coffer user token v1").take(), 32));
  COFFER_TRY(SecretBytes record_key,
             hkdf(root.reveal(), {}, Encoder().text("coffer user token record v1").take(), 32));
  return TokenAuthority(std::move(vault), std::move(token_key), std::move(record_key), std::move(revoked),
                        std::move(clock));
}

Bytes TokenAuthority::encode(const TokenRecord &r) const {
  Encoder e;
  e.raw(as_bytes(kMagic)).raw(r.id).text(r.name).text(r.who).u64(r.created_ms);
  e.u32(static_cast<uint32_t>(r.caveats.size()));
  for (const std::string &c : r.caveats) e.text(c);
  const Hash mac = HmacSha256(record_key_.reveal()).update(e.out()).finish();
  return e.raw(mac).take();
}

Result<TokenRecord> TokenAuthority::decode(std::string_view key, ByteSpan stored) const {
  const auto id = parse_id(key);
  if (!id)
    return fail(ErrorCode::kDataLoss, "the vault has a token record under a key that is no token's id");
  const auto wrong = [&] {
    return fail(ErrorCode::kDataLoss,
                "the record of token " + hex(*id) + " was not written by this authority",
                "The vault was changed: `coffer token revoke " + hex(*id) + "` removes it.");
  };
  constexpr size_t kMac = std::tuple_size_v<Hash>;
  if (stored.size() < kMac) return wrong();
  const ByteSpan content = stored.first(stored.size() - kMac);
  if (!equal_in_constant_time(HmacSha256(record_key_.reveal()).update(content).finish(), stored.last(kMac)))
    return wrong();
  Decoder d(content);
  TokenRecord r;
  if (as_text(d.raw(kMagic.size())) != kMagic) return wrong();
  r.id = d.array<16>();
  r.name = d.text();
  r.who = d.text();
  r.created_ms = d.u64();
  for (uint32_t n = d.u32(); n > 0 && d.ok(); --n) r.caveats.push_back(d.text());
  if (!d.done() || r.id != *id) return wrong();
  return r;
}

Result<void> TokenAuthority::commit(Batch batch) const {
  batch.require_absent(std::string(kMovedKey));
  auto done = vault_.commit(kSpace, batch);
  if (done) return {};
  if (done.error().code == ErrorCode::kAborted) {
    COFFER_TRY(const auto moved, vault_.get(kSpace, kMovedKey));
    if (moved)
      return fail(ErrorCode::kFailedPrecondition,
                  "this vault was moved to " + std::string(as_text(moved->value)),
                  "Use the engine config with the new [storage].");
  }
  return std::unexpected(std::move(done).error());
}

Result<NewToken> TokenAuthority::create(std::string name, std::string who, std::vector<std::string> caveats,
                                        const Rights &creator) {
  COFFER_TRY(const Rights rights, Rights::of(caveats));
  const uint64_t now = clock_();
  if (rights.expired(now)) return fail(ErrorCode::kInvalidArgument, "the token would have expired already");
  if (!creator.covers(rights))
    return fail(ErrorCode::kPermissionDenied, "a token cannot give more than the one that makes it has",
                "Name fewer Apps or words, or an earlier end.");
  TokenRecord r{random_array<16>(), std::move(name), std::move(who), now, std::move(caveats)};
  if (r.name.empty()) r.name = "token-" + hex(random_array<4>());
  COFFER_CHECK(check_name(r.name));
  COFFER_TRY(const Tokens others, list());
  if (std::ranges::any_of(others.records, [&](const TokenRecord &o) { return o.name == r.name; }))
    return fail(ErrorCode::kAlreadyExists, "a token has the name " + r.name + " already",
                "Take another name, or revoke that one first.");
  Macaroon token = Macaroon::make(token_key_.reveal(), identifier(r.id));
  for (const std::string &c : r.caveats) COFFER_CHECK(token.narrow(c));
  Batch b;
  b.require_absent(hex(r.id)).put(hex(r.id), encode(r));
  COFFER_CHECK(commit(std::move(b)));
  return NewToken{std::move(r), std::move(token)};
}

Result<Tokens> TokenAuthority::list() const {
  // What was revoked and came back is no token any more, whatever the storage says.
  COFFER_TRY(const RevokedIds revoked, RevokedIds::read(revoked_));
  Tokens out;
  COFFER_CHECK(vault_.list(kSpace, "", true, [&](const Stored &s) {
    if (s.key == kMovedKey) return true;
    auto record = decode(s.key, s.value);
    if (!record)
      out.damaged.push_back(std::move(record).error());
    else if (!revoked.contains(record->id))
      out.records.push_back(*std::move(record));
    return true;
  }));
  std::ranges::stable_sort(out.records, {}, &TokenRecord::created_ms);
  return out;
}

Result<TokenId> TokenAuthority::revoke(std::string_view id_or_name) {
  auto id = parse_id(id_or_name);
  if (!id) {
    COFFER_CHECK(check_name(id_or_name));
    COFFER_TRY(const Tokens all, list());
    for (const TokenRecord &r : all.records)
      if (r.name == id_or_name) {
        if (id)
          return fail(ErrorCode::kFailedPrecondition, "several tokens have the name " + r.name,
                      "Name it by its id: `coffer token list`.");
        id = r.id;
      }
    if (!id) return fail(ErrorCode::kNotFound, "there is no token named " + std::string(id_or_name));
  }
  // First where the storage cannot undo it.
  COFFER_CHECK(RevokedIds::add(revoked_, *id));
  COFFER_TRY(const auto there, vault_.get(kSpace, hex(*id)));
  if (!there)
    return fail(ErrorCode::kNotFound, "there is no token " + hex(*id),
                "It is noted as revoked all the same, should its record come back.");
  Batch b;
  b.erase(hex(*id));
  COFFER_CHECK(commit(std::move(b)));
  return *id;
}

Result<Caller> TokenAuthority::verify(std::string_view text) const {
  auto token = Macaroon::parse_text(text);
  if (!token) return unauthenticated(std::move(token).error().message);
  if (!token->signed_by(token_key_.reveal()))
    return unauthenticated("the token was changed, or was not made here");
  // From here on all of it is as it was made or narrowed.
  Decoder d(token->identifier());
  Caller caller;
  const bool known_version = d.u8() == kIdentifierVersion;
  caller.id = d.array<16>();
  if (!known_version || !d.done()) return unauthenticated("the token is of a version that is not known here");
  COFFER_TRY(const RevokedIds revoked, RevokedIds::read(revoked_));
  COFFER_TRY(const auto stored, vault_.get(kSpace, hex(caller.id)));
  if (revoked.contains(caller.id) || !stored) return unauthenticated("the token was revoked");
  COFFER_TRY(TokenRecord record, decode(hex(caller.id), stored->value));
  caller.name = std::move(record.name);
  COFFER_TRY(caller.rights, Rights::of(token->caveats()));
  if (caller.rights.expired(clock_())) return unauthenticated("the token has expired");
  return caller;
}

}  // namespace coffer
