#include "key_relay.h"

#include "server/http/session.h"

namespace coffer::api {

KeyRelay::~KeyRelay() {
  for (Carrier &c : carriers_) c.thread.join();
}

Result<std::unique_ptr<http::Duplex>> KeyRelay::connect(const std::string &url) const {
  COFFER_TRY(const auto client, http::Client::open({.url = url, .ca_file = ca_file_}));
  http::Call call;
  call.target = std::string(http::kKeysPath);
  call.cancel_fd = cancel_fd_;
  http::Answer refused;
  COFFER_TRY(std::unique_ptr<http::Duplex> connection, client->upgrade(call, refused));
  if (!connection)
    return fail(ErrorCode::kUnavailable,
                "the API at " + url + " does not pass requests on to its key service (status " +
                    std::to_string(refused.status) + ")",
                "Set `relay_keys = true` under [api] of its engine.toml.");
  COFFER_TRY(const SigningKey key, SigningKey::from_seed(host_seed_.reveal()));
  COFFER_CHECK(http::say_hello(*connection, key));
  return connection;
}

Result<sdk::Fd> KeyRelay::dial() {
  Result<std::unique_ptr<http::Duplex>> connection = fail(ErrorCode::kUnavailable, "no API is named");
  for (const std::string &url : urls_) {
    connection = connect(url);
    if (connection) break;
  }
  if (!connection) return std::unexpected(connection.error());
  COFFER_TRY(auto pair, MessageSocket::pair());
  const std::lock_guard lock(mutex_);
  std::erase_if(carriers_, [](Carrier &c) {
    if (!c.done) return false;
    c.thread.join();
    return true;
  });
  Carrier &c = carriers_.emplace_back();
  c.thread = std::thread([&c, d = *std::move(connection), end = std::move(pair.second)]() mutable {
    http::carry(*d, std::move(end));
    c.done = true;
  });
  return pair.first.take();
}

}  // namespace coffer::api
