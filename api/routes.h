// Routes: what the API answers.  docs/api.md lists them.  Knows who asks (the token), what he may, and hands
// the rest to LocalControl.
#ifndef COFFER_API_ROUTES_H
#define COFFER_API_ROUTES_H

#include "coffer/agent/host_link.h"
#include "machine_signals.h"
#include "seats.h"
#include "server/http/server.h"

namespace coffer::api {

struct RoutesConfig {  // REQUIRES: what it points to outlives the routes
  Seats *seats = nullptr;
  const AuditLog *audit = nullptr;
  MachineSignals *changed = nullptr;
  std::function<Result<std::unique_ptr<HostClient>>(Steps, const std::optional<PublicKey> &which)> find_host;
  std::function<void(http::Duplex &)> host_session;  // the upgraded connection of a host's agent
  std::function<Result<void>(const PublicKey &)> admit_host;
  std::function<Result<SecretBytes>()> digest_credential;
  DeployPolicy policy;       // of Apps whose config says nothing
  size_t most_at_once = 16;  // Machines that are booted
  bool accept_plaintext = false, relay_keys = false;
};

// Thread-safe.
http::Handler handler(RoutesConfig);
http::Admission admit(const http::Request &);

}  // namespace coffer::api
#endif
