// TokenAuthority: makes, knows and revokes user tokens.  It is the API's; nothing here opens a value.
//
// Holds the token root (32 bytes).  A token is valid while its record lies in the vault's storage, and the
// record has a MAC under the root, so that the storage can invent none.  It could bring a revoked one back:
// therefore the ids of revoked tokens are also noted in a file beside the root, which it cannot reach.
// Thread rule: that of its Storage.
#ifndef COFFER_TOKENS_AUTHORITY_H
#define COFFER_TOKENS_AUTHORITY_H

#include <filesystem>
#include <functional>

#include "coffer/base/clock.h"
#include "coffer/base/secret_bytes.h"
#include "coffer/plugin_host/storage.h"
#include "coffer/tokens/macaroon.h"
#include "coffer/tokens/rights.h"

namespace coffer {

using TokenId = std::array<uint8_t, 16>;  // random, and never used again

struct TokenRecord {
  TokenId id{};
  std::string name, who;  // whose it is; who made it
  uint64_t created_ms = 0;
  std::vector<std::string> caveats;  // as it was made; its holders may have narrowed it since
};

struct Tokens {
  std::vector<TokenRecord> records;  // oldest first
  std::vector<Error> damaged;        // one for each record that this authority did not write
};

struct NewToken {
  TokenRecord record;
  Macaroon token;  // not kept anywhere
};

// For whom a request speaks.
struct Caller {
  TokenId id{};
  std::string name;
  Rights rights;
};

class TokenAuthority {
 public:
  // `revoked` names the file of revoked ids; it need not be there yet, its folder must.
  static Result<TokenAuthority> open(Storage vault, const SecretBytes &root, std::filesystem::path revoked,
                                     std::function<uint64_t()> clock = now_ms);

  // `name` is like that of a Machine and not taken; empty: one is made up.  kPermissionDenied when the token
  // would have a right that `creator` has not.
  Result<NewToken> create(std::string name, std::string who, std::vector<std::string> caveats,
                          const Rights &creator);
  Result<Tokens> list() const;
  // By id (32 hex digits) or name.  Durable when it returns.  An id is refused from then on even where the
  // storage shows no record of it; that is kNotFound all the same.
  Result<TokenId> revoke(std::string_view id_or_name);

  // Whether a token that came with a request is ours, unchanged, not revoked and not expired.
  // kUnauthenticated, or kPermissionDenied when a caveat is not understood: each with its own sentence.
  Result<Caller> verify(std::string_view token) const;

 private:
  TokenAuthority(Storage vault, SecretBytes token_key, SecretBytes record_key, std::filesystem::path revoked,
                 std::function<uint64_t()> clock)
      : vault_(std::move(vault)),
        token_key_(std::move(token_key)),
        record_key_(std::move(record_key)),
        revoked_(std::move(revoked)),
        clock_(std::move(clock)) {}
  Bytes encode(const TokenRecord &) const;
  Result<TokenRecord> decode(std::string_view key, ByteSpan stored) const;
  Result<void> commit(Batch) const;

  Storage vault_;
  SecretBytes token_key_, record_key_;
  std::filesystem::path revoked_;
  std::function<uint64_t()> clock_;
};

}  // namespace coffer
#endif
