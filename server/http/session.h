// A host's agent and the API on one connection: who dialled proves which host it is, and from then on the
// connection is a plain socket for the other thread that speaks over it.
//   hello = challenge(32), by the API; then u16 size and signed(kHostHelloLabel: "cfj2" challenge(32)), by
//   the host
#ifndef COFFER_HTTP_SESSION_H
#define COFFER_HTTP_SESSION_H

#include "coffer/agent/host_link.h"
#include "server/http/duplex.h"

namespace coffer::http {

inline constexpr std::string_view kSessionPath = "/v1/hosts/session", kKeysPath = "/v1/hosts/keys";

Result<void> say_hello(Duplex &, const SigningKey &host);
Result<PublicKey> hear_hello(Duplex &);

// Of a user's stream, on both sides: a pager that is not scrolled.
inline constexpr std::chrono::hours kPagerPatience{24};

// Passes bytes between the connection and `end` until one of them has gone, takes nothing for `patience`, or
// `still()` says no: it is asked every few seconds.
void carry(Duplex &, MessageSocket end, std::chrono::milliseconds patience = std::chrono::seconds(60),
           const std::function<bool()> &still = {});

}  // namespace coffer::http
#endif
