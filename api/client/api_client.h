// ApiClient: coffer-api as its users reach it: a URL and a token.  Answers are read strictly; what is not as
// docs/api.md says is kDataLoss.
// Thread rule: one thread at a time.
#ifndef COFFER_API_CLIENT_API_CLIENT_H
#define COFFER_API_CLIENT_API_CLIENT_H

#include "api/json.h"
#include "coffer/agent/host_link.h"
#include "coffer/base/secret_bytes.h"
#include "server/http/client.h"

namespace coffer::api {

class ApiClient {
 public:
  struct Config {
    std::string url, ca_file;  // as http::ClientConfig
    SecretBytes token;
    PublicKey identity{};  // of the key service
    int cancel_fd = -1;    // readable: stop waiting; what was asked for goes on
    Steps steps = {};      // has what hosts do, while they do it
  };
  static Result<std::unique_ptr<ApiClient>> open(Config);
  const Config &config() const { return config_; }

  using Read = std::function<Result<void>(const JsonValue &)>;
  // One answer.  `read` has the body.
  Result<void> ask(std::string method, std::string target, std::string_view body, const Read &read);
  // The same for what may take long.  Asked once more, with the same Idempotency-Key, it is not done twice.
  Result<void> work(std::string method, std::string target, std::string_view body, const Read &read);
  // The value that `read` makes of it.
  template <class T>
    requires(!std::is_void_v<T>)
  Result<T> ask(std::string target, Result<T> (*read)(const JsonValue &)) {
    return value<T>(read, [&](const Read &r) { return ask("GET", std::move(target), "", r); });
  }
  template <class T>
    requires(!std::is_void_v<T>)
  Result<T> ask(std::string method, std::string target, std::string_view body,
                Result<T> (*read)(const JsonValue &)) {
    return value<T>(read, [&](const Read &r) { return ask(std::move(method), std::move(target), body, r); });
  }
  template <class T>
  Result<T> work(std::string target, std::string_view body, Result<T> (*read)(const JsonValue &)) {
    return value<T>(read, [&](const Read &r) { return work("POST", std::move(target), body, r); });
  }
  // Text, line by line.
  Result<void> lines(std::string target, const std::function<bool(std::string_view)> &each);
  // `talk(client)` speaks over an upgraded connection.
  Result<void> stream(std::string target, const std::function<Result<void>(HostClient &)> &talk);

 private:
  ApiClient(Config config, std::unique_ptr<http::Client> client)
      : config_(std::move(config)), client_(std::move(client)) {}
  template <class T>
  static Result<T> value(Result<T> (*read)(const JsonValue &), auto &&asked) {
    std::optional<T> out;
    COFFER_CHECK(asked([&](const JsonValue &v) -> Result<void> {
      COFFER_TRY(out, read(v));
      return {};
    }));
    return *std::move(out);
  }
  http::Call call(std::string method, std::string target) const;
  Error error_of(const http::Answer &) const;
  Error unreadable(const Error &) const;
  std::optional<Result<void>> hear(std::string_view line, const Read &) const;

  Config config_;
  std::unique_ptr<http::Client> client_;
};

}  // namespace coffer::api
#endif
