#include "http_control.h"

#include <algorithm>

#include "coffer/base/names.h"

namespace coffer::api {
namespace {

constexpr uint64_t kLongestWait = 60;

std::string path(const App &app, std::string_view rest = {}) {
  return "/v1/apps/" + http::escaped(app.name()) + std::string(rest);
}
// What no Machine is called is not asked for: it may be no segment of a path, or lead elsewhere.
Result<std::string> path_of(const App &app, std::string_view machine, std::string_view rest = {}) {
  if (!valid_app_name(machine)) return std::unexpected(no_machine(app, machine));
  return path(app, "/machines/" + http::escaped(machine) + std::string(rest));
}

template <class T, Result<T> (*read)(const JsonValue &)>
Result<std::vector<T>> list(const JsonValue &v) {
  COFFER_TRY(const auto items, v.items());
  std::vector<T> out;
  for (const JsonValue &item : items) {
    COFFER_TRY(T one, read(item));
    out.push_back(std::move(one));
  }
  return out;
}

Result<void> nothing(const JsonValue &) { return {}; }

// As the API says that it is; its key is checked by app().
Result<App> read_key(const JsonValue &v) {
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
}

Result<SecretBytes> read_digest_key(const JsonValue &v) {
  COFFER_TRY(const JsonValue key, v.at("digest_key"));
  COFFER_TRY(const std::string_view text, key.text());
  auto bytes = unbase64(text);
  if (!bytes || bytes->size() != 32) return fail(ErrorCode::kDataLoss, "field digest_key: expected 32 bytes");
  SecretBytes out = SecretBytes::copy_of(*bytes);
  secure_wipe(bytes->data(), bytes->size());
  return out;
}

Result<Control::Secrets> read_secrets(const JsonValue &v) {
  Control::Secrets out;
  COFFER_TRY(const JsonValue version, v.at("version"));
  COFFER_TRY(const int64_t n, version.integer(0));
  out.version = static_cast<uint64_t>(n);
  COFFER_TRY(const JsonValue all, v.at("secrets"));
  COFFER_TRY(out.all, (list<SecretView, read_secret>(all)));
  return out;
}

Result<uint64_t> read_number(const JsonValue &v) {
  COFFER_TRY(const JsonValue version, v.at("version"));
  COFFER_TRY(const int64_t n, version.integer(1));
  return static_cast<uint64_t>(n);
}

Result<MachineSummary> read_gone(const JsonValue &) {
  MachineSummary gone;
  gone.state = State::kDestroyed;
  return gone;
}

}  // namespace

// ---- Apps ----

Result<std::vector<AppSummary>> HttpControl::apps() {
  return api_.ask<std::vector<AppSummary>>("/v1/apps", list<AppSummary, read_app>);
}

Result<App> HttpControl::app(std::string_view name) {
  COFFER_CHECK(check_app_name(name));
  COFFER_TRY(App out, api_.ask<App>("/v1/apps/" + http::escaped(name) + "/key", read_key));
  const auto payload = open_signed(out.signed_key, kAppKeyLabel, {&api_.config().identity, 1});
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
  COFFER_CHECK(check_app_name(name));
  JsonWriter j;
  j.begin_object().field("name", name).end_object();
  COFFER_CHECK(api_.ask("POST", "/v1/apps", j.str(), nothing));
  return app(name);
}

Result<void> HttpControl::destroy_app(const App &a) { return api_.work("DELETE", path(a), "", nothing); }

Result<SecretBytes> HttpControl::digest_key(const App &a) {
  return api_.ask<SecretBytes>(path(a, "/digest_key"), read_digest_key);
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
  return api_.ask<Changes>("POST", path(a, "/secrets/sealed"), j.str(), read_changes);
}

Result<Control::Secrets> HttpControl::secrets(const App &a) {
  return api_.ask<Secrets>(path(a, "/secrets"), read_secrets);
}
Result<Plan> HttpControl::plan(const App &a) { return api_.ask<Plan>(path(a, "/secrets/plan"), read_plan); }
Result<std::vector<VersionView>> HttpControl::history(const App &a) {
  return api_.ask<std::vector<VersionView>>(path(a, "/secrets/history"), list<VersionView, read_version>);
}

Result<RolloutResult> HttpControl::rollout(const App &a, const RolloutOrder &order) {
  JsonWriter j;
  api::write(j, AnyDeploy(order));
  return api_.work<RolloutResult>(path(a, "/deploy"), j.str(), read_rollout);
}
Result<RolloutResult> HttpControl::deploy(const App &a, const DeployOrder &order) {
  JsonWriter j;
  api::write(j, AnyDeploy(order));
  return api_.work<RolloutResult>(path(a, "/deploy"), j.str(), read_rollout);
}
Result<RolloutResult> HttpControl::roll_back_release(const App &a, uint64_t number, bool hasty) {
  JsonWriter j;
  j.begin_object().field("detach", hasty);
  if (number) j.field("release", number);
  j.end_object();
  return api_.work<RolloutResult>(path(a, "/releases/rollback"), j.str(), read_rollout);
}
Result<RolloutResult> HttpControl::end_rollout(const App &a, bool back) {
  return api_.work<RolloutResult>(path(a, back ? "/deploy/abort" : "/deploy/resume"), "", read_rollout);
}
Result<Control::Releases> HttpControl::releases(const App &a) {
  return api_.ask<Releases>(path(a, "/releases"), read_releases);
}
Result<uint64_t> HttpControl::roll_back_secrets(const App &a, uint64_t version) {
  JsonWriter j;
  j.begin_object();
  if (version) j.field("version", version);
  j.end_object();
  return api_.ask<uint64_t>("POST", path(a, "/secrets/rollback"), j.str(), read_number);
}
Result<Deployer::Purged> HttpControl::purge(const App &a, std::string_view name) {
  JsonWriter j;
  j.begin_object().field("name", name).end_object();
  return api_.work<Deployer::Purged>(path(a, "/secrets/purge"), j.str(), read_purged);
}

Result<Rotated> HttpControl::rotate(const App &a, bool now) {
  JsonWriter j;
  j.begin_object().field("now", now).end_object();
  return api_.work<Rotated>(path(a, "/keys/rotate"), j.str(), read_rotated);
}

Result<void> HttpControl::hand_over(const App &a, const std::set<std::string> &only, const Receiver &to) {
  JsonWriter j;
  api::write(j, HandOver{only, to});
  return api_.work("POST", path(a, "/run"), j.str(), nothing);
}

// ---- Machines ----

Result<std::vector<MachineSummary>> HttpControl::machines(const App &a) {
  return api_.ask<std::vector<MachineSummary>>(path(a, "/machines"), list<MachineSummary, read_machine>);
}
Result<MachineSummary> HttpControl::machine(const App &a, std::string_view id) {
  COFFER_TRY(const std::string at, path_of(a, id));
  return api_.ask<MachineSummary>(at, read_machine);
}
Result<Control::Booted> HttpControl::run(const App &a, MachineConfig config, bool pull) {
  JsonWriter j;
  j.begin_object().field("name", config.name).field("pull", pull).key("config");
  api::write(j, config);
  j.end_object();
  return api_.work<Booted>(path(a, "/machines"), j.str(), read_booted);
}
Result<Control::Booted> HttpControl::start(const App &a, std::string_view id) {
  COFFER_TRY(const std::string at, path_of(a, id, "/start"));
  return api_.work<Booted>(at, "", read_booted);
}
Result<MachineSummary> HttpControl::stop(const App &a, std::string_view id) {
  COFFER_TRY(const std::string at, path_of(a, id, "/stop"));
  return api_.work<MachineSummary>(at, "", read_machine);
}
Result<void> HttpControl::destroy(const App &a, std::string_view id) {
  COFFER_TRY(const std::string at, path_of(a, id));
  return api_.work("DELETE", at, "", nothing);
}

Result<MachineSummary> HttpControl::wait(const App &a, std::string_view id, State wanted, uint64_t timeout_s,
                                         int) {
  COFFER_TRY(const std::string at, path_of(a, id, "/wait?state=" + std::string(to_string(wanted))));
  const auto begin = http::Clock::now();
  const auto passed = [&] {
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::seconds>(http::Clock::now() - begin).count());
  };
  for (;;) {
    uint64_t seconds = kLongestWait;
    if (timeout_s) seconds = std::min(kLongestWait, timeout_s - std::min(timeout_s, passed()));
    auto m = api_.ask<MachineSummary>(at + "&timeout=" + std::to_string(seconds),
                                      wanted == State::kDestroyed ? read_gone : read_machine);
    if (m || m.error().code != ErrorCode::kDeadlineExceeded) return m;
    if (timeout_s && passed() >= timeout_s) return m;
  }
}

Result<void> HttpControl::logs(const App &a, std::string_view id, const LogQuery &query,
                               const std::function<bool(uint32_t, int64_t, ByteSpan)> &each) {
  COFFER_TRY(const std::string at, path_of(a, id, "/logs"));
  return api_.stream(at, [&](HostClient &c) { return c.logs({}, query, each); });
}

Result<int32_t> HttpControl::exec(const App &a, std::string_view id, const std::vector<std::string> &argv,
                                  const std::function<bool(uint32_t, ByteSpan)> &out,
                                  const std::function<int64_t(std::span<uint8_t>)> &in, int in_fd) {
  COFFER_TRY(const std::string at, path_of(a, id, "/exec"));
  int32_t code = 0;
  COFFER_CHECK(api_.stream(at, [&](HostClient &c) -> Result<void> {
    COFFER_TRY(code, c.exec({}, argv, out, in, in_fd));
    return {};
  }));
  return code;
}

}  // namespace coffer::api
