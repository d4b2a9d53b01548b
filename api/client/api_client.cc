#include "api_client.h"

#include <poll.h>

#include <thread>

#include "coffer/crypto/primitives.h"
#include "server/http/session.h"

namespace coffer::api {
namespace {

using namespace std::chrono_literals;
constexpr auto kAnswer = 120s;     // also a wait of 60 s
constexpr auto kSilence = 60s;     // between the lines about long work
constexpr unsigned kMostLost = 3;  // answers
constexpr unsigned kMostAsked = 300;

}  // namespace

Result<std::unique_ptr<ApiClient>> ApiClient::open(Config config) {
  COFFER_TRY(auto client, http::Client::open({.url = config.url, .ca_file = config.ca_file}));
  return std::unique_ptr<ApiClient>(new ApiClient(std::move(config), std::move(client)));
}

http::Call ApiClient::call(std::string method, std::string target) const {
  http::Call c;
  c.repeatable = method == "GET";
  c.method = std::move(method);
  c.target = std::move(target);
  c.headers = {{"Authorization", "Bearer " + std::string(as_text(config_.token.reveal()))}};
  c.timeout = kAnswer;
  c.cancel_fd = config_.cancel_fd;
  return c;
}

// Whatever the API answered instead of what it was asked for.
Error ApiClient::error_of(const http::Answer &answer) const {
  const auto body = http::JsonBody::parse(http::view(answer.body));
  auto told = body ? read_error(body->root()) : Result<Error>(std::unexpected(body.error()));
  if (told && !(answer.status == 503 && told->code == ErrorCode::kUnknown)) return *std::move(told);
  if (answer.status == 503)
    return {ErrorCode::kUnavailable, "the API at " + config_.url + " is busy", "Try again."};
  return {ErrorCode::kUnknown,
          "the API at " + config_.url + " answered with status " + std::to_string(answer.status),
          "Is that coffer-api?"};
}

Error ApiClient::unreadable(const Error &e) const {
  return {ErrorCode::kDataLoss,
          "the API at " + config_.url + " answered something else than JSON of ours: " + e.message};
}

Result<void> ApiClient::ask(std::string method, std::string target, std::string_view body, const Read &read) {
  http::Call c = call(std::move(method), std::move(target));
  c.body = body;
  COFFER_TRY(const http::Answer answer, client_->call(c));
  if (!answer.ok()) return std::unexpected(error_of(answer));
  const auto parsed = http::JsonBody::parse(http::view(answer.body));
  const auto out = parsed ? read(parsed->root()) : Result<void>(std::unexpected(parsed.error()));
  if (!out) return std::unexpected(unreadable(out.error()));
  return {};
}

// One line of an answer to long work.  Nothing: it was not the last one.
std::optional<Result<void>> ApiClient::hear(std::string_view line, const Read &read) const {
  if (line.empty()) return std::nullopt;
  const auto parsed = http::JsonBody::parse(line);
  if (!parsed) return std::unexpected(unreadable(parsed.error()));
  const JsonValue root = parsed->root();
  const auto find = [&](std::string_view name) {
    const auto v = root.find(name);
    return v ? *v : std::nullopt;
  };
  const auto text = [](const std::optional<JsonValue> &v) {
    const auto t = v ? v->text() : Result<std::string_view>("");
    return t ? *t : "";
  };
  if (const auto result = find("result")) {
    const auto out = read(*result);
    return out ? Result<void>() : std::unexpected(unreadable(out.error()));
  }
  if (find("error")) {
    const auto told = read_error(root);
    return std::unexpected(told ? *told : unreadable(told.error()));
  }
  if (config_.steps) config_.steps(text(find("machine")), text(find("step")));
  return std::nullopt;
}

Result<void> ApiClient::work(std::string method, std::string target, std::string_view body,
                             const Read &read) {
  http::Call c = call(std::move(method), std::move(target));
  c.body = body;
  c.timeout = kSilence;
  c.repeatable = true;
  c.headers.add("Accept", "application/x-ndjson");
  c.headers.add("Idempotency-Key", hex(random_array<16>()));
  bool begun = false;
  unsigned lost = 0;
  for (auto pause = 1s;;) {
    std::optional<Result<void>> end;
    const auto answer = client_->lines(c, [&](std::string_view line) {
      begun = true;
      end = hear(line, read);
      return !end;
    });
    if (answer && !answer->ok()) end = std::unexpected(error_of(*answer));
    // An answer that was lost is asked for again: the key makes that what was begun is not done twice.
    if (!end && begun && lost < kMostLost) {
      ++lost;
    } else if (!end) {
      return answer ? fail(ErrorCode::kUnavailable, "the API at " + config_.url + " ended the connection",
                           "Try again: what was done is not done twice.")
                    : std::unexpected(answer.error());
    } else if (lost && !*end && end->error().code == ErrorCode::kAborted && lost < kMostAsked) {
      ++lost;  // the first one is at work still
    } else {
      return *std::move(end);
    }
    pollfd cancel{config_.cancel_fd, POLLIN, 0};
    if (::poll(&cancel, 1, static_cast<int>(std::chrono::milliseconds(pause).count())) > 0)
      return fail(ErrorCode::kCancelled, "interrupted");
    pause = std::min(2 * pause, 4s);
  }
}

Result<void> ApiClient::lines(std::string target, const std::function<bool(std::string_view)> &each) {
  COFFER_TRY(const http::Answer answer, client_->lines(call("GET", std::move(target)), each));
  if (!answer.ok()) return std::unexpected(error_of(answer));
  return {};
}

Result<void> ApiClient::stream(std::string target, const std::function<Result<void>(HostClient &)> &talk) {
  const http::Call c = call("GET", std::move(target));
  http::Answer refused;
  COFFER_TRY(const std::unique_ptr<http::Duplex> connection, client_->upgrade(c, refused));
  if (!connection) return std::unexpected(error_of(refused));
  COFFER_TRY(auto pair, MessageSocket::pair());
  // Ctrl-C ends a command that is silent, too.
  const auto wanted = [&] {
    pollfd p{config_.cancel_fd, POLLIN, 0};
    return config_.cancel_fd < 0 || ::poll(&p, 1, 0) == 0;
  };
  std::thread carrier([&, end = std::move(pair.second)]() mutable {
    http::carry(*connection, std::move(end), http::kPagerPatience, wanted);
  });
  Result<void> out;
  {
    HostClient client({}, std::move(pair.first));
    out = talk(client);
  }
  carrier.join();
  if (!out && !wanted()) return fail(ErrorCode::kCancelled, "interrupted");
  return out;
}

}  // namespace coffer::api
