// UserTokens: what a user can have done with tokens: here, where the token root is, or through coffer-api.
// Thread rule: one thread at a time.
#ifndef COFFER_TOKENS_USER_TOKENS_H
#define COFFER_TOKENS_USER_TOKENS_H

#include "coffer/tokens/authority.h"

namespace coffer {

class UserTokens {
 public:
  virtual ~UserTokens() = default;
  // As TokenAuthority's.  Nobody makes a token that may more than his own.
  virtual Result<NewToken> create(std::string name, std::vector<std::string> caveats) = 0;
  virtual Result<Tokens> list() = 0;
  virtual Result<TokenId> revoke(std::string_view id_or_name) = 0;
  virtual Result<Caller> check(std::string_view token) = 0;
};

// Whoever reads the token root has every right.
class OwnTokens : public UserTokens {
 public:
  OwnTokens(TokenAuthority authority, std::string who)
      : authority_(std::move(authority)), who_(std::move(who)) {}
  Result<NewToken> create(std::string name, std::vector<std::string> caveats) override {
    return authority_.create(std::move(name), who_, std::move(caveats), Rights());
  }
  Result<Tokens> list() override { return authority_.list(); }
  Result<TokenId> revoke(std::string_view id_or_name) override { return authority_.revoke(id_or_name); }
  Result<Caller> check(std::string_view token) override { return authority_.verify(token); }

 private:
  TokenAuthority authority_;
  std::string who_;
};

}  // namespace coffer
#endif
