#include "routes.h"

#include <algorithm>
#include <charconv>
#include <thread>

#include "coffer/agent/host_streams.h"
#include "coffer/base/clock.h"
#include "coffer/base/names.h"
#include "coffer/release/control.h"
#include "json.h"
#include "server/http/session.h"

namespace coffer::api {
namespace {

using namespace std::chrono_literals;
using http::Context;
using http::Request;
using http::Response;

constexpr size_t kLargestWrite = 64u << 20, kLargestBody = 1 << 20;
constexpr uint64_t kLongestWait = 60;
constexpr auto kLook = 250ms;  // between looks at a Machine that is waited for

Response refused(const Error &e, std::string_view route) {
  JsonWriter j;
  write(j, e);
  Response r = Response::json(j.str(), status_of(e.code));
  r.route = route;
  return r;
}

// An answer, or why there is none.
using Answer = Result<Response>;

template <class T>
Answer answered(const Result<T> &r, int status = 200) {
  if (!r) return std::unexpected(r.error());
  JsonWriter j;
  write(j, *r);
  return Response::json(j.str(), status);
}
template <class T>
Answer listed(const Result<std::vector<T>> &all) {
  if (!all) return std::unexpected(all.error());
  JsonWriter j;
  j.begin_array();
  for (const T &one : *all) write(j, one);
  j.end_array();
  return Response::json(j.str());
}
Answer said(std::string_view key) {
  JsonWriter j;
  j.begin_object().field(key, true).end_object();
  return Response::json(j.str());
}

// One request, from its token to its answer.
class Desk {
 public:
  Desk(const RoutesConfig &config, const Request &request, Context &context)
      : config_(config), request_(request), context_(context), host_(config.find_host) {}

  Response answer() {
    auto done = route();
    if (!done) return refused(done.error(), route_);
    done->route = route_;
    return *std::move(done);
  }

 private:
  bool is(std::string_view method, std::string_view route, std::initializer_list<std::string_view> path) {
    if (request_.method != method || request_.path.size() != path.size()) return false;
    for (size_t i = 0; i < path.size(); ++i)
      if (!path.begin()[i].empty() && path.begin()[i] != request_.path[i]) return false;
    route_ = route;
    return true;
  }

  Answer route() {
    constexpr std::string_view kAny;
    if (is("GET", "healthz", {"healthz"})) return Response::json("{\"ok\":true}");
    if (is("GET", "host session", {"v1", "hosts", "session"})) return host_session();
    if (request_.path.size() < 2 || request_.path[0] != "v1" || request_.path[1] != "apps")
      return fail(ErrorCode::kNotFound, "there is no such resource", "See docs/api.md.");
    COFFER_CHECK(sit_down());
    if (is("GET", "list apps", {"v1", "apps"})) return may(Right::kList, "", &Desk::list_apps);
    if (is("POST", "create app", {"v1", "apps"})) return may(Right::kAdmin, "", &Desk::create_app);
    if (request_.path.size() < 3) return unknown();
    const std::string &name = request_.path[2];
    COFFER_CHECK(check_app_name(name));
    struct Route {
      std::string_view method, name;
      std::vector<std::string_view> rest;
      Right right;
      Answer (Desk::*body)();
    };
    static const Route kRoutes[] = {
        {"GET", "get app", {}, Right::kList, &Desk::get_app},
        {"DELETE", "destroy app", {}, Right::kAdmin, &Desk::destroy_app},
        {"GET", "app key", {"key"}, Right::kList, &Desk::app_key},
        {"GET", "digest key", {"digest_key"}, Right::kSet, &Desk::app_digest_key},
        {"GET", "list secrets", {"secrets"}, Right::kList, &Desk::list_secrets},
        {"POST", "set plaintext", {"secrets"}, Right::kSet, &Desk::set_plaintext},
        {"POST", "write sealed", {"secrets", "sealed"}, Right::kSet, &Desk::write_sealed},
        {"POST", "deploy", {"deploy"}, Right::kDeploy, &Desk::deploy},
        {"POST", "rotate keys", {"keys", "rotate"}, Right::kKeys, &Desk::rotate},
        {"GET", "list machines", {"machines"}, Right::kList, &Desk::list_machines},
        {"POST", "run machine", {"machines"}, Right::kMachine, &Desk::run_machine},
        {"GET", "get machine", {"machines", kAny}, Right::kList, &Desk::get_machine},
        {"DELETE", "destroy machine", {"machines", kAny}, Right::kMachine, &Desk::destroy_machine},
        {"POST", "start machine", {"machines", kAny, "start"}, Right::kMachine, &Desk::start_machine},
        {"POST", "restart machine", {"machines", kAny, "restart"}, Right::kMachine, &Desk::start_machine},
        {"POST", "stop machine", {"machines", kAny, "stop"}, Right::kMachine, &Desk::stop_machine},
        {"GET", "wait for machine", {"machines", kAny, "wait"}, Right::kList, &Desk::wait_machine},
        {"GET", "machine logs", {"machines", kAny, "logs"}, Right::kMachine, &Desk::logs},
        {"GET", "exec", {"machines", kAny, "exec"}, Right::kExec, &Desk::exec},
    };
    for (const Route &r : kRoutes) {
      if (r.method != request_.method || r.rest.size() + 3 != request_.path.size()) continue;
      bool fits = true;
      for (size_t i = 0; i < r.rest.size(); ++i)
        fits = fits && (r.rest[i] == kAny || r.rest[i] == request_.path[i + 3]);
      if (!fits) continue;
      route_ = r.name;
      return may(r.right, name, r.body);
    }
    return unknown();
  }

  static Answer unknown() {
    return fail(ErrorCode::kNotFound, "there is no such resource, or not with this method",
                "See docs/api.md.");
  }

  // ---- who asks, and for what ----

  Result<void> sit_down() {
    const auto header = request_.headers.find("Authorization");
    constexpr std::string_view kScheme = "Bearer ";
    if (!header || !header->starts_with(kScheme))
      return fail(ErrorCode::kUnauthenticated, "a token is needed",
                  "Send it as `Authorization: Bearer coffer_...`; `coffer token create` makes one.");
    COFFER_TRY(seat_, config_.seats->take());
    COFFER_TRY(const Caller caller, seat_->tokens.verify(header->substr(kScheme.size())));
    rights_ = caller.rights;
    who_ = "token " + caller.name;
    set_up();
    return {};
  }
  void set_up() {
    deployer_.emplace(seat_->vault, seat_->keys, host_, who_, config_.audit);
    deployer_->go_on_without_keys();
    control_.emplace(seat_->vault, seat_->keys, host_, *deployer_, config_.digest_credential);
  }
  // Who waits has no seat and no host meanwhile.
  void stand_up() {
    control_.reset();
    deployer_.reset();
    seat_.reset();
    host_ = LazyHost(config_.find_host);
  }
  Result<void> sit_down_again() {
    COFFER_TRY(seat_, config_.seats->take());
    set_up();
    return {};
  }

  Answer may(Right right, std::string_view app, Answer (Desk::*serve)()) {
    // A token for certain Apps sees of all Apps those.
    const std::string_view word = kRightWords[static_cast<size_t>(right)];
    const std::vector<std::string_view> words = rights_.words();
    const bool allowed = app.empty() && right == Right::kList ? std::ranges::find(words, word) != words.end()
                                                              : rights_.allows(right, app);
    if (!allowed)
      return fail(
          ErrorCode::kPermissionDenied,
          "the token does not allow `" + std::string(word) + "`" + (app.empty() ? "" : " for this App"),
          "See `coffer token list` where the API runs.");
    return (this->*serve)();
  }

  Result<App> app() { return control_->app(request_.path[2]); }
  const std::string &machine() const { return request_.path[4]; }

  // The body, an object with no other fields than these.
  Result<JsonValue> body(std::initializer_list<std::string_view> fields) {
    const auto type = request_.headers.find("Content-Type");
    if (!type || !type->starts_with("application/json"))
      return fail(ErrorCode::kInvalidArgument, "the body must be application/json");
    COFFER_TRY(body_, http::JsonBody::parse(http::view(request_.body)));
    const JsonValue root = body_->root();
    COFFER_CHECK(root.only(fields));
    return root;
  }

  // ---- Apps ----

  Answer list_apps() {
    auto all = control_->apps();
    if (all && rights_.apps())
      std::erase_if(*all, [&](const AppSummary &a) { return !rights_.apps()->contains(a.name); });
    return listed(all);
  }
  Answer create_app() {
    COFFER_TRY(const JsonValue root, body({"name"}));
    COFFER_TRY(const JsonValue name, root.at("name"));
    COFFER_TRY(const std::string_view text, name.text());
    COFFER_TRY(const App made, control_->create_app(text));
    return answered(control_->about(made), 201);
  }
  Answer get_app() {
    COFFER_TRY(const App a, app());
    return answered(control_->about(a));
  }
  Answer destroy_app() {
    COFFER_TRY(const App a, app());
    COFFER_CHECK(control_->destroy_app(a));
    return said("destroyed");
  }
  Answer app_key() {
    COFFER_TRY(const App a, app());
    JsonWriter j;
    j.begin_object().field("name", a.name()).field("app_id", hex(a.id())).field("epoch", a.key.epoch);
    j.field("created_ms", a.entry.created_ms).field("record", base64(a.signed_key)).end_object();
    return Response::json(j.str());
  }
  Answer app_digest_key() {
    COFFER_TRY(const App a, app());
    COFFER_TRY(const SecretBytes key, control_->digest_key(a));
    JsonWriter j;
    j.begin_object().field("digest_key", base64(key.reveal())).end_object();
    return Response::json(j.str());
  }

  // ---- secrets ----

  Answer list_secrets() {
    COFFER_TRY(const App a, app());
    COFFER_TRY(const Control::Secrets all, control_->secrets(a));
    JsonWriter j;
    j.begin_object().field("version", all.version).key("secrets").begin_array();
    for (const SecretView &s : all.all) write(j, s);
    j.end_array().end_object();
    return Response::json(j.str());
  }

  Result<std::vector<std::string>> names(const JsonValue &root, std::string_view key) {
    COFFER_TRY(std::vector<std::string> out, texts(root, key));
    for (size_t i = 0; i < out.size(); ++i)
      if (auto ok = check_secret_name(out[i]); !ok)
        return std::unexpected(
            std::move(ok).error().in("field " + std::string(key) + "[" + std::to_string(i) + "]"));
    return out;
  }

  Answer write_sealed() {
    COFFER_TRY(const JsonValue root, body({"set", "unset"}));
    COFFER_TRY(const App a, app());
    std::vector<SealedSecret> set;
    COFFER_TRY(const auto given, root.find("set"));
    if (given) {
      COFFER_TRY(const auto items, given->items());
      for (const JsonValue &item : items) {
        COFFER_TRY(SealedSecret sealed, read_sealed(item));
        set.push_back(std::move(sealed));
      }
    }
    COFFER_TRY(const std::vector<std::string> unset, names(root, "unset"));
    std::set<std::string_view> seen;
    for (const SealedSecret &s : set)
      if (!seen.insert(s.name).second)
        return fail(ErrorCode::kInvalidArgument, "secret " + s.name + " is given twice");
    return answered(control_->write(a, set, unset));
  }

  // Fly's: {"values": {"NAME": "VALUE" or null}}
  Answer set_plaintext() {
    if (!config_.accept_plaintext)
      return fail(
          ErrorCode::kPermissionDenied, "this API takes no plaintext",
          "Seal values where they are: `coffer secrets set`; or set accept_plaintext = true under [api].");
    COFFER_TRY(const JsonValue root, body({"values"}));
    COFFER_TRY(const JsonValue values, root.at("values"));
    COFFER_TRY(const auto members, values.members());
    COFFER_TRY(const App a, app());
    COFFER_TRY(const SecretBytes key, control_->digest_key(a));
    COFFER_TRY(Sealer sealer, Sealer::create(a.key, key));
    std::vector<SealedSecret> set;
    std::vector<std::string> unset;
    for (size_t i = 0; i < members.size(); ++i) {
      const auto &[name, value] = members[i];
      if (auto ok = check_secret_name(name); !ok)
        return std::unexpected(std::move(ok).error().in("field values, entry " + std::to_string(i + 1)));
      if (value.is_null()) {
        unset.emplace_back(name);
        continue;
      }
      COFFER_TRY(const SecretBytes plain, value.secret());
      COFFER_TRY(SealedSecret sealed, sealer.seal(name, plain));
      set.push_back(std::move(sealed));
    }
    return answered(control_->write(a, set, unset));
  }

  Answer deploy() {
    COFFER_TRY(const JsonValue root, body({"reason", "force"}));
    COFFER_TRY(const auto given, root.find("reason"));
    std::string reason = "deploy";
    if (given) {
      COFFER_TRY(const std::string_view text, given->text());
      if (text.size() > 256) return fail(ErrorCode::kInvalidArgument, "field reason: over 256 bytes");
      reason = text;
    }
    COFFER_TRY(const auto force, root.find("force"));
    bool forced = false;
    if (force) {
      COFFER_TRY(forced, force->boolean());
    }
    COFFER_TRY(const App a, app());
    return answered(control_->rollout(a, reason, forced));
  }

  Answer rotate() {
    COFFER_TRY(const JsonValue root, body({"now"}));
    COFFER_TRY(const auto given, root.find("now"));
    bool now = false;
    if (given) {
      COFFER_TRY(now, given->boolean());
    }
    COFFER_TRY(const App a, app());
    return answered(control_->rotate(a, now));
  }

  // ---- Machines ----

  Answer list_machines() {
    COFFER_TRY(const App a, app());
    return listed(control_->machines(a));
  }
  Answer run_machine() {
    COFFER_TRY(const JsonValue root, body({"name", "config", "pull"}));
    COFFER_TRY(const JsonValue config, root.at("config"));
    COFFER_TRY(MachineConfig c, read_config(config));
    COFFER_TRY(const auto name, root.find("name"));
    if (name && !name->is_null()) {
      COFFER_TRY(const std::string_view text, name->text());
      if (!text.empty() && !valid_app_name(text))
        return fail(ErrorCode::kInvalidArgument, "field name: a Machine's name is 1 to 63 of a-z, 0-9 and -");
      c.name = text;
    }
    COFFER_TRY(const auto pull, root.find("pull"));
    bool pulled = false;
    if (pull) {
      COFFER_TRY(pulled, pull->boolean());
    }
    COFFER_TRY(const App a, app());
    return answered(control_->run(a, std::move(c), pulled), 201);
  }
  Answer get_machine() {
    COFFER_TRY(const App a, app());
    return answered(control_->machine(a, machine()));
  }
  Answer destroy_machine() {
    COFFER_TRY(const App a, app());
    COFFER_CHECK(control_->destroy(a, machine()));
    return said("destroyed");
  }
  Answer start_machine() {
    COFFER_TRY(const App a, app());
    return answered(control_->start(a, machine()));
  }
  Answer stop_machine() {
    COFFER_TRY(const App a, app());
    return answered(control_->stop(a, machine()));
  }

  Answer wait_machine() {
    const auto state = request_.query.find("state"), timeout = request_.query.find("timeout");
    const auto wanted = state == request_.query.end() ? State::kStarted : state_of(state->second);
    if (!wanted) return fail(ErrorCode::kInvalidArgument, "query state: not a state of a Machine");
    uint64_t seconds = kLongestWait;
    if (timeout != request_.query.end()) {
      const std::string &t = timeout->second;
      const auto [rest, e] = std::from_chars(t.data(), t.data() + t.size(), seconds);
      if (e != std::errc() || rest != t.data() + t.size() || seconds > kLongestWait)
        return fail(ErrorCode::kInvalidArgument, "query timeout: 0 to 60 seconds");
    }
    COFFER_TRY(const App a, app());
    const auto end = http::Clock::now() + std::chrono::seconds(seconds);
    // A host tells of no change by itself; this looks now and then, and holds no place among the workers
    // meanwhile.
    http::Signal nothing;
    for (;;) {
      const auto m = control_->machine(a, machine());
      if (!m && m.error().code == ErrorCode::kNotFound && *wanted == State::kDestroyed)
        return said("destroyed");
      if (!m) return std::unexpected(m.error());
      if (m->state == *wanted) return answered(m);
      if (http::Clock::now() >= end)
        return fail(ErrorCode::kDeadlineExceeded, "Machine " + m->name + " is " +
                                                      std::string(to_string(m->state)) + " after " +
                                                      std::to_string(seconds) + " s");
      stand_up();
      const auto woken = context_.wait(nothing, nothing.count(), std::min(end, http::Clock::now() + kLook));
      if (woken == http::Woken::kGone || woken == http::Woken::kStopping)
        return fail(ErrorCode::kUnavailable, "the API is being stopped", "Try again.");
      COFFER_CHECK(sit_down_again());
    }
  }

  // ---- connections that last ----

  Answer host_session() {
    if (!request_.upgrade) return fail(ErrorCode::kInvalidArgument, "this is for a host's agent");
    Response r;
    r.upgrade = [session = config_.host_session](Context &, http::Duplex &connection) {
      session(connection);
    };
    return r;
  }

  Answer logs() { return streams(); }
  Answer exec() { return streams(); }

  // Bytes pass; the API neither logs nor stores them.
  Answer streams() {
    if (!request_.upgrade) return fail(ErrorCode::kInvalidArgument, "this is a stream: ask for the upgrade");
    COFFER_TRY(const App a, app());
    COFFER_TRY(const MachineSummary m, control_->machine(a, machine()));
    stand_up();
    const bool commands = request_.path.back() == "exec";
    Response r;
    r.upgrade = [config = config_, who = who_, a, id = m.id, commands](Context &, http::Duplex &connection) {
      auto pair = MessageSocket::pair();
      auto seat = config.seats->take();
      if (!pair || !seat) return;
      std::thread work([&, link = std::move(pair->first)]() mutable {
        LazyHost host(config.find_host);
        Deployer deployer((*seat)->vault, (*seat)->keys, host, who, config.audit);
        LocalControl control((*seat)->vault, (*seat)->keys, host, deployer, config.digest_credential);
        const auto wrong = [] { return fail(ErrorCode::kPermissionDenied, "this stream is not for that"); };
        HostStreams streams;
        streams.logs = [&](const LogQuery &query, const auto &each) -> Result<void> {
          if (commands) return wrong();
          return control.logs(a, id, query, each);
        };
        streams.exec = [&](const auto &argv, const auto &out, const auto &in, int in_fd) -> Result<int32_t> {
          if (!commands) return wrong();
          return control.exec(a, id, argv, out, in, in_fd);
        };
        serve_streams(link, streams);
      });
      http::carry(connection, std::move(pair->second));
      work.join();
    };
    return r;
  }

  const RoutesConfig &config_;
  const Request &request_;
  Context &context_;
  std::string_view route_ = "-";
  LazyHost host_;
  Seats::Lease seat_;
  Rights rights_;
  std::string who_;
  std::optional<http::JsonBody> body_;
  std::optional<Deployer> deployer_;
  std::optional<LocalControl> control_;
};

}  // namespace

http::Handler handler(RoutesConfig config) {
  return [config = std::move(config)](const Request &request, Context &context) {
    return Desk(config, request, context).answer();
  };
}

http::Admission admit(const Request &request) {
  http::Admission a;
  a.max_body = kLargestBody;
  const auto ends = [&](std::string_view last) {
    return !request.path.empty() && request.path.back() == last;
  };
  if (ends("sealed") || ends("secrets")) a.max_body = kLargestWrite;
  a.waits = ends("wait") || ends("logs") || ends("exec") || ends("session");
  return a;
}

}  // namespace coffer::api
