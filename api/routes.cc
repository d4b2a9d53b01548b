#include "routes.h"

#include <algorithm>

#include "coffer/base/names.h"
#include "desk.h"

namespace coffer::api {
namespace {

constexpr size_t kLargestWrite = 64u << 20, kLargestBody = 1 << 20;
constexpr std::string_view kAny = "";  // any one segment

std::unexpected<Error> unknown() {
  return fail(ErrorCode::kNotFound, "there is no such resource, or not with this method", "See docs/api.md.");
}

}  // namespace

struct Desk::Route {
  std::string_view method, name;  // the name is what the log says
  std::vector<std::string_view> path;
  Right right;
  Answer (Desk::*body)();

  bool fits(const Request &r) const {
    if (method != r.method || path.size() != r.path.size()) return false;
    for (size_t i = 0; i < path.size(); ++i)
      if (path[i] != kAny && path[i] != r.path[i]) return false;
    return true;
  }
};

Answer Desk::route() {
  static const Route kOpen[] = {
      {"GET", "healthz", {"healthz"}, {}, nullptr},
      {"GET", "host session", {"v1", "hosts", "session"}, {}, &Desk::host_session},
      {"GET", "key session", {"v1", "hosts", "keys"}, {}, &Desk::key_session},
  };
  for (const Route &r : kOpen) {
    if (!r.fits(request_)) continue;
    route_ = r.name;
    return r.body ? (this->*r.body)() : Response::json("{\"ok\":true}");
  }
  if (request_.path.empty() || request_.path[0] != "v1") return unknown();
  COFFER_CHECK(sit_down());
  using R = Right;
  static const Route kWhole[] = {
      {"GET", "list apps", {"v1", "apps"}, R::kList, &Desk::list_apps},
      {"POST", "create app", {"v1", "apps"}, R::kAdmin, &Desk::create_app},
      {"GET", "this token", {"v1", "tokens", "current"}, R::kList, &Desk::this_token},
      {"GET", "list tokens", {"v1", "tokens"}, R::kToken, &Desk::list_tokens},
      {"POST", "create token", {"v1", "tokens"}, R::kToken, &Desk::create_token},
      {"DELETE", "revoke token", {"v1", "tokens", kAny}, R::kToken, &Desk::revoke_token},
      {"GET", "audit log", {"v1", "audit"}, R::kAudit, &Desk::audit_log},
  };
  for (const Route &r : kWhole) {
    if (!r.fits(request_)) continue;
    route_ = r.name;
    // A token says what it is without any right.
    return r.body == &Desk::this_token ? this_token() : may(r.right, "", r.body);
  }
  if (request_.path.size() < 3 || request_.path[1] != "apps") return unknown();
  COFFER_CHECK(check_app_name(request_.path[2]));
  constexpr std::string_view v1 = "v1", apps = "apps", machines = "machines", secrets = "secrets";
  static const Route kOfApp[] = {
      {"GET", "get app", {v1, apps, kAny}, R::kList, &Desk::get_app},
      {"DELETE", "destroy app", {v1, apps, kAny}, R::kAdmin, &Desk::destroy_app},
      {"GET", "app key", {v1, apps, kAny, "key"}, R::kList, &Desk::app_key},
      {"GET", "digest key", {v1, apps, kAny, "digest_key"}, R::kSet, &Desk::app_digest_key},
      {"POST", "rotate keys", {v1, apps, kAny, "keys", "rotate"}, R::kKeys, &Desk::rotate},
      {"GET", "list secrets", {v1, apps, kAny, secrets}, R::kList, &Desk::list_secrets},
      {"POST", "set plaintext", {v1, apps, kAny, secrets}, R::kSet, &Desk::set_plaintext},
      {"POST", "write sealed", {v1, apps, kAny, secrets, "sealed"}, R::kSet, &Desk::write_sealed},
      {"GET", "plan", {v1, apps, kAny, secrets, "plan"}, R::kList, &Desk::plan},
      {"GET", "history", {v1, apps, kAny, secrets, "history"}, R::kList, &Desk::history},
      {"POST", "roll back secrets", {v1, apps, kAny, secrets, "rollback"}, R::kSet, &Desk::roll_back_secrets},
      {"POST", "purge", {v1, apps, kAny, secrets, "purge"}, R::kSet, &Desk::purge},
      {"POST", "deploy", {v1, apps, kAny, "deploy"}, R::kDeploy, &Desk::deploy},
      {"POST", "resume deploy", {v1, apps, kAny, "deploy", "resume"}, R::kDeploy, &Desk::resume_deploy},
      {"POST", "abort deploy", {v1, apps, kAny, "deploy", "abort"}, R::kDeploy, &Desk::abort_deploy},
      {"GET", "list releases", {v1, apps, kAny, "releases"}, R::kList, &Desk::list_releases},
      {"POST", "roll back", {v1, apps, kAny, "releases", "rollback"}, R::kDeploy, &Desk::roll_back_release},
      {"POST", "hand over", {v1, apps, kAny, "run"}, R::kRun, &Desk::hand_over},
      {"GET", "list machines", {v1, apps, kAny, machines}, R::kList, &Desk::list_machines},
      {"POST", "run machine", {v1, apps, kAny, machines}, R::kMachine, &Desk::run_machine},
      {"GET", "get machine", {v1, apps, kAny, machines, kAny}, R::kList, &Desk::get_machine},
      {"DELETE", "destroy machine", {v1, apps, kAny, machines, kAny}, R::kMachine, &Desk::destroy_machine},
      {"POST", "start machine", {v1, apps, kAny, machines, kAny, "start"}, R::kMachine, &Desk::start_machine},
      {"POST",
       "restart machine",
       {v1, apps, kAny, machines, kAny, "restart"},
       R::kMachine,
       &Desk::start_machine},
      {"POST", "stop machine", {v1, apps, kAny, machines, kAny, "stop"}, R::kMachine, &Desk::stop_machine},
      {"GET", "wait for machine", {v1, apps, kAny, machines, kAny, "wait"}, R::kList, &Desk::wait_machine},
      {"GET", "machine logs", {v1, apps, kAny, machines, kAny, "logs"}, R::kMachine, &Desk::streams},
      {"GET", "exec", {v1, apps, kAny, machines, kAny, "exec"}, R::kExec, &Desk::streams},
  };
  for (const Route &r : kOfApp) {
    if (!r.fits(request_)) continue;
    route_ = r.name;
    return may(r.right, request_.path[2], r.body);
  }
  return unknown();
}

http::Handler handler(RoutesConfig config) {
  return [config = std::move(config)](const Request &request, Context &context) {
    return std::make_shared<Desk>(config, request, context)->answer();
  };
}

http::Admission admit(const Request &request) {
  http::Admission a;
  a.max_body = kLargestBody;
  const auto ends = [&](std::initializer_list<std::string_view> words) {
    return !request.path.empty() && std::ranges::find(words, request.path.back()) != words.end();
  };
  const bool reads = request.method == "GET",
             machine = request.path.size() >= 4 && request.path[3] == "machines";
  if (!reads && ends({"sealed", "secrets"})) a.max_body = kLargestWrite;
  a.waits = reads ? ends({"wait", "logs", "exec", "session", "keys"})
                  : machine || ends({"deploy", "rotate", "run", "rollback", "resume", "abort", "purge"}) ||
                        request.path.size() == 3;
  return a;
}

}  // namespace coffer::api
