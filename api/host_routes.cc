// Connections of hosts' agents.
#include "coffer/base/log.h"
#include "coffer/keys/key_socket.h"
#include "desk.h"
#include "server/http/session.h"

namespace coffer::api {
namespace {

using namespace std::chrono_literals;
constexpr auto kSilence = 60s;
constexpr size_t kLargestEnrolment = 1024;

}  // namespace

Answer Desk::host_session() {
  if (!request_.upgrade) return fail(ErrorCode::kInvalidArgument, "this is for a host's agent");
  Response r;
  r.upgrade = [session = config_.host_session](Context &, http::Duplex &connection) { session(connection); };
  return r;
}

// To the key service, for hosts that cannot reach its socket: what a host asks of it is signed by the host,
// and what it answers opens for nobody else.  Here only that passes, whatever the key service would let this
// API ask.
Answer Desk::key_session() {
  if (!request_.upgrade || !config_.relay_keys)
    return fail(ErrorCode::kPermissionDenied, "this API does not pass requests on to the key service",
                "Set `relay_keys = true` under [api].");
  Response r;
  r.upgrade = [&config = config_](Context &, http::Duplex &connection) {
    const auto host = http::hear_hello(connection);
    if (!host) return log(LogLevel::kWarn, "api", "a host was turned away: " + host.error().message);
    // One that is not known may enrol, which takes few words.
    const size_t most = config.admit_host(*host) ? kLargestMessage : kLargestEnrolment;
    auto pair = MessageSocket::pair();
    auto seat = config.seats->take();
    if (!pair || !seat) return;
    std::thread work([&, link = std::move(pair->first)]() mutable {
      while (link.wait(kSilence)) {
        const auto request = link.receive(most);
        if (!request || !link.send(answer_key_request((*seat)->keys, kCallerAgent, *request))) return;
      }
    });
    http::carry(connection, std::move(pair->second));
    work.join();
  };
  return r;
}

}  // namespace coffer::api
