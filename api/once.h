// Once: the answers to requests with an Idempotency-Key, so that one that is repeated is answered and not
// done again.  They lie in the vault's storage, for every copy of the API; an answer holds no value and no
// token.
//   space "requests": HEX(SHA-256(token id, key)) = "crq1" created_ms(u64) request(32) owner
//                     cut_off(u32) done(u8) status(u16) body
#ifndef COFFER_API_ONCE_H
#define COFFER_API_ONCE_H

#include "coffer/base/clock.h"
#include "coffer/base/process.h"
#include "coffer/plugin_host/storage.h"
#include "coffer/tokens/authority.h"
#include "server/http/server.h"

namespace coffer::api {

inline constexpr size_t kMaxIdempotencyKey = 255;
inline constexpr uint64_t kRememberedMs = 24 * 60 * 60 * 1000;

class Once {
 public:
  // REQUIRES: `storage` outlives it.
  Once(const Storage &storage, const TokenId &token, std::string_view key, const Hash &request,
       std::function<uint64_t()> clock = now_ms);
  // An answer: this was asked before.  Nothing: it is now ours to do.  kAborted: somebody is doing it;
  // kInvalidArgument: the key was another request's.
  Result<std::optional<http::Response>> begin();
  // Ids for what the request makes, of 14 hex digits that only it has: one for each time that it was cut off,
  // and the last one for now.  REQUIRES: begin() has answered nothing.
  std::vector<std::string> ids() const;
  // Only what was done is remembered: what failed may be tried again.
  Result<void> end(const Result<http::Response> &);

 private:
  Result<void> forget_old() const;
  const Storage &storage_;
  const std::string key_;
  const Hash request_;
  const std::function<uint64_t()> clock_;
  uint64_t created_ms_ = 0;
  uint32_t cut_off_ = 0;  // so many times
  const std::shared_ptr<const std::string> owner_;
};

}  // namespace coffer::api
#endif
