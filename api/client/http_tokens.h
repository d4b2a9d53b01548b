// HttpTokens: tokens made, listed and revoked by coffer-api.
#ifndef COFFER_API_CLIENT_HTTP_TOKENS_H
#define COFFER_API_CLIENT_HTTP_TOKENS_H

#include "api_client.h"
#include "coffer/tokens/user_tokens.h"

namespace coffer::api {

class HttpTokens : public UserTokens {
 public:
  // REQUIRES: `api` outlives it.
  explicit HttpTokens(ApiClient &api) : api_(api) {}
  Result<NewToken> create(std::string name, std::vector<std::string> caveats) override;
  Result<Tokens> list() override { return api_.ask<Tokens>("/v1/tokens", read_tokens); }
  Result<TokenId> revoke(std::string_view id_or_name) override;
  Result<Caller> check(std::string_view token) override;

 private:
  ApiClient &api_;
};

}  // namespace coffer::api
#endif
