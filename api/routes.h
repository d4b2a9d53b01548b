// Routes: what the API answers.  docs/api.md lists them.  Knows who asks (the token), what he may, and hands
// the rest to LocalControl.
#ifndef COFFER_API_ROUTES_H
#define COFFER_API_ROUTES_H

#include "lazy_host.h"
#include "seats.h"
#include "server/http/server.h"

namespace coffer::api {

struct RoutesConfig {  // REQUIRES: what it points to outlives the routes
  Seats *seats = nullptr;
  const AuditLog *audit = nullptr;
  FindHost find_host;
  std::function<void(http::Duplex &)> host_session;  // the upgraded connection of a host's agent
  std::function<Result<SecretBytes>()> digest_credential;
  bool accept_plaintext = false;
};

// Thread-safe.
http::Handler handler(RoutesConfig);
http::Admission admit(const http::Request &);

}  // namespace coffer::api
#endif
