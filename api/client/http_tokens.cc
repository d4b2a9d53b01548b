#include "http_tokens.h"

namespace coffer::api {

Result<NewToken> HttpTokens::create(std::string name, std::vector<std::string> caveats) {
  JsonWriter j;
  j.begin_object();
  if (!name.empty()) j.field("name", name);
  write_texts(j, "caveats", caveats);
  j.end_object();
  return api_.ask<NewToken>("POST", "/v1/tokens", j.str(), read_new_token);
}

Result<TokenId> HttpTokens::revoke(std::string_view id_or_name) {
  return api_.ask<TokenId>("DELETE", "/v1/tokens/" + http::escaped(id_or_name), "", read_token_id);
}

Result<Caller> HttpTokens::check(std::string_view token) {
  // Whose token it is, its own request says.
  COFFER_TRY(const auto as, ApiClient::open({.url = api_.config().url,
                                             .ca_file = api_.config().ca_file,
                                             .token = SecretBytes::copy_of(as_bytes(token)),
                                             .cancel_fd = api_.config().cancel_fd}));
  COFFER_TRY(Caller caller, as->ask<Caller>("/v1/tokens/current", read_caller));
  COFFER_TRY(const Macaroon given, Macaroon::parse_text(token));
  COFFER_TRY(caller.rights, Rights::of(given.caveats()));
  return caller;
}

}  // namespace coffer::api
