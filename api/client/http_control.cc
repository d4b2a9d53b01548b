#include "http_control.h"

#include <thread>

#include "../json.h"
#include "coffer/agent/host_link.h"
#include "server/http/session.h"

namespace coffer::api {
namespace {

using namespace std::chrono_literals;
constexpr auto kPatience = 3600s;  // a roll-out waits for apps that take their time to end
constexpr uint64_t kLongestWait = 60;

std::string path(const App &app, std::string_view rest = {}) {
  return "/v1/apps/" + http::escaped(app.name()) + std::string(rest);
}
std::string path_of(const App &app, std::string_view machine, std::string_view rest = {}) {
  return path(app, "/machines/" + http::escaped(machine) + std::string(rest));
}

// Whatever the API answered instead of what it was asked for.
Error error_of(const http::Answer &answer, const std::string &url) {
  const auto body = http::JsonBody::parse(http::view(answer.body));
  auto told = body ? read_error(body->root()) : Result<Error>(std::unexpected(body.error()));
  if (told && !(answer.status == 503 && told->code == ErrorCode::kUnknown)) return *std::move(told);
  if (answer.status == 503) return {ErrorCode::kUnavailable, "the API at " + url + " is busy", "Try again."};
  return {ErrorCode::kUnknown, "the API at " + url + " answered with status " + std::to_string(answer.status),
          "Is that coffer-api?"};
}

template <class T>
Result<std::vector<T>> list(const JsonValue &v, Result<T> (*read)(const JsonValue &)) {
  COFFER_TRY(const auto items, v.items());
  std::vector<T> out;
  for (const JsonValue &item : items) {
    COFFER_TRY(T one, read(item));
    out.push_back(std::move(one));
  }
  return out;
}

Result<bool> nothing(const JsonValue &) { return true; }

}  // namespace

Result<std::unique_ptr<HttpControl>> HttpControl::open(Config config) {
  COFFER_TRY(auto client, http::Client::open({.url = config.url, .ca_file = config.ca_file}));
  return std::unique_ptr<HttpControl>(new HttpControl(std::move(config), std::move(client)));
}

http::Headers HttpControl::headers() const {
  return {{"Authorization", "Bearer " + std::string(as_text(config_.token.reveal()))}};
}

template <class Read>
auto HttpControl::ask(std::string method, std::string target, std::string_view body, Read &&read)
    -> decltype(read(std::declval<http::JsonValue>())) {
  http::Call call;
  call.repeatable = method == "GET";
  call.method = std::move(method);
  call.target = std::move(target);
  call.headers = headers();
  call.body = body;
  call.timeout = kPatience;
  call.cancel_fd = config_.cancel_fd;
  COFFER_TRY(const http::Answer answer, client_->call(call));
  if (!answer.ok()) return std::unexpected(error_of(answer, config_.url));
  auto parsed = http::JsonBody::parse(http::view(answer.body));
  auto out = parsed ? read(parsed->root()) : decltype(read(parsed->root()))(std::unexpected(parsed.error()));
  if (!out)
    return fail(
        ErrorCode::kDataLoss,
        "the API at " + config_.url + " answered something else than JSON of ours: " + out.error().message);
  return out;
}

// ---- Apps ----

Result<std::vector<AppSummary>> HttpControl::apps() {
  return ask("GET", "/v1/apps", "", [](const JsonValue &v) { return list(v, read_app); });
}

Result<App> HttpControl::app(std::string_view name) {
  COFFER_TRY(App out, ask("GET", "/v1/apps/" + http::escaped(name) + "/key", "",
                          [](const JsonValue &v) -> Result<App> {
                            App a;
                            COFFER_TRY(const JsonValue record, v.at("record"));
                            COFFER_TRY(const std::string_view text, record.text());
                            const auto bytes = unbase64(text);
                            if (!bytes) return fail(ErrorCode::kDataLoss, "field record: expected base64");
                            a.signed_key = *bytes;
                            COFFER_TRY(const JsonValue created, v.at("created_ms"));
                            COFFER_TRY(const int64_t ms, created.integer(0));
                            a.entry.created_ms = static_cast<uint64_t>(ms);
                            return a;
                          }));
  const auto payload = open_signed(out.signed_key, kAppKeyLabel, {&config_.identity, 1});
  auto key = payload ? decode_app_key(*payload) : Result<AppKeyRecord>(std::unexpected(payload.error()));
  if (!key || key->name != name)
    return fail(
        ErrorCode::kDataLoss,
        "App " + std::string(name) + ": its key is not one that the pinned key service has signed for it",
        "Nothing was sealed. Is pins/identity that of the API's key service?");
  out.key = *std::move(key);
  out.entry.name = name;
  out.entry.app_id = out.key.app_id;
  return out;
}

Result<App> HttpControl::create_app(std::string_view name) {
  JsonWriter j;
  j.begin_object().field("name", name).end_object();
  COFFER_CHECK(ask("POST", "/v1/apps", j.str(), nothing));
  return app(name);
}

Result<void> HttpControl::destroy_app(const App &a) {
  COFFER_CHECK(ask("DELETE", path(a), "", nothing));
  return {};
}

Result<SecretBytes> HttpControl::digest_key(const App &a) {
  return ask("GET", path(a, "/digest_key"), "", [](const JsonValue &v) -> Result<SecretBytes> {
    COFFER_TRY(const JsonValue key, v.at("digest_key"));
    COFFER_TRY(const std::string_view text, key.text());
    auto bytes = unbase64(text);
    if (!bytes || bytes->size() != 32)
      return fail(ErrorCode::kDataLoss, "field digest_key: expected 32 bytes");
    SecretBytes out = SecretBytes::copy_of(*bytes);
    secure_wipe(bytes->data(), bytes->size());
    return out;
  });
}

// ---- secrets ----

Result<Changes> HttpControl::write(const App &a, const std::vector<SealedSecret> &set,
                                   const std::vector<std::string> &unset) {
  JsonWriter j;
  j.begin_object().key("set").begin_array();
  for (const SealedSecret &s : set) api::write(j, s);
  j.end_array();
  write_texts(j, "unset", unset);
  j.end_object();
  return ask("POST", path(a, "/secrets/sealed"), j.str(), read_changes);
}

Result<Control::Secrets> HttpControl::secrets(const App &a) {
  return ask("GET", path(a, "/secrets"), "", [](const JsonValue &v) -> Result<Secrets> {
    Secrets out;
    COFFER_TRY(const JsonValue version, v.at("version"));
    COFFER_TRY(const int64_t n, version.integer(0));
    out.version = static_cast<uint64_t>(n);
    COFFER_TRY(const JsonValue all, v.at("secrets"));
    COFFER_TRY(out.all, list(all, read_secret));
    return out;
  });
}

Result<RolloutResult> HttpControl::rollout(const App &a, std::string_view reason, bool force) {
  JsonWriter j;
  j.begin_object().field("reason", reason).field("force", force).end_object();
  return ask("POST", path(a, "/deploy"), j.str(), read_rollout);
}

Result<Rotated> HttpControl::rotate(const App &a, bool now) {
  JsonWriter j;
  j.begin_object().field("now", now).end_object();
  return ask("POST", path(a, "/keys/rotate"), j.str(), read_rotated);
}

// ---- Machines ----

Result<std::vector<MachineSummary>> HttpControl::machines(const App &a) {
  return ask("GET", path(a, "/machines"), "", [](const JsonValue &v) { return list(v, read_machine); });
}
Result<MachineSummary> HttpControl::machine(const App &a, std::string_view id) {
  return ask("GET", path_of(a, id), "", read_machine);
}
Result<Control::Booted> HttpControl::run(const App &a, MachineConfig config, bool pull) {
  JsonWriter j;
  j.begin_object().field("name", config.name).field("pull", pull).key("config");
  api::write(j, config);
  j.end_object();
  return ask("POST", path(a, "/machines"), j.str(), read_booted);
}
Result<Control::Booted> HttpControl::start(const App &a, std::string_view id) {
  return ask("POST", path_of(a, id, "/start"), "", read_booted);
}
Result<MachineSummary> HttpControl::stop(const App &a, std::string_view id) {
  return ask("POST", path_of(a, id, "/stop"), "", read_machine);
}
Result<void> HttpControl::destroy(const App &a, std::string_view id) {
  COFFER_CHECK(ask("DELETE", path_of(a, id), "", nothing));
  return {};
}

Result<MachineSummary> HttpControl::wait(const App &a, std::string_view id, State wanted, uint64_t timeout_s,
                                         int) {
  const auto begin = http::Clock::now();
  const auto passed = [&] {
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::seconds>(http::Clock::now() - begin).count());
  };
  for (;;) {
    uint64_t seconds = kLongestWait;
    if (timeout_s) seconds = std::min(kLongestWait, timeout_s - std::min(timeout_s, passed()));
    auto m =
        ask("GET",
            path_of(a, id,
                    "/wait?state=" + std::string(to_string(wanted)) + "&timeout=" + std::to_string(seconds)),
            "", [&](const JsonValue &v) -> Result<MachineSummary> {
              if (wanted != State::kDestroyed) return read_machine(v);
              MachineSummary gone;
              gone.state = State::kDestroyed;
              return gone;
            });
    if (m || m.error().code != ErrorCode::kDeadlineExceeded) return m;
    if (timeout_s && passed() >= timeout_s) return m;
  }
}

template <class T, class Talk>
Result<T> HttpControl::stream(const App &a, std::string_view id, std::string_view what, Talk &&talk) {
  http::Call call;
  call.target = path_of(a, id, what);
  call.headers = headers();
  call.cancel_fd = config_.cancel_fd;
  http::Answer refused;
  COFFER_TRY(const std::unique_ptr<http::Duplex> connection, client_->upgrade(call, refused));
  if (!connection) return std::unexpected(error_of(refused, config_.url));
  COFFER_TRY(auto pair, MessageSocket::pair());
  std::thread carrier(
      [&, end = std::move(pair.second)]() mutable { http::carry(*connection, std::move(end)); });
  Result<T> out = fail(ErrorCode::kUnknown, "");
  {
    HostClient client({}, std::move(pair.first));
    out = talk(client);
  }
  carrier.join();
  return out;
}

Result<void> HttpControl::logs(const App &a, std::string_view id, const LogQuery &query,
                               const std::function<bool(uint32_t, int64_t, ByteSpan)> &each) {
  return stream<void>(a, id, "/logs", [&](HostClient &c) { return c.logs({}, query, each); });
}

Result<int32_t> HttpControl::exec(const App &a, std::string_view id, const std::vector<std::string> &argv,
                                  const std::function<bool(uint32_t, ByteSpan)> &out,
                                  const std::function<int64_t(std::span<uint8_t>)> &in, int in_fd) {
  return stream<int32_t>(a, id, "/exec", [&](HostClient &c) { return c.exec({}, argv, out, in, in_fd); });
}

}  // namespace coffer::api
