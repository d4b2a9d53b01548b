// Desk: one request, from its token to its answer.  What the routes do is in *_routes.cc, which path leads to
// which of them in routes.cc.
#ifndef COFFER_API_DESK_H
#define COFFER_API_DESK_H

#include "json.h"
#include "lazy_host.h"
#include "routes.h"
#include "server/http/json_body.h"
#include "work.h"

namespace coffer::api {

using http::Context;
using http::JsonValue;
using http::Request;
using http::Response;

class Desk : public std::enable_shared_from_this<Desk> {
 public:
  // REQUIRES: they outlive its answer, a streamed one too.
  Desk(const RoutesConfig &config, const Request &request, Context &context)
      : config_(config), request_(request), context_(context), host_(new_host()) {}
  Response answer();

 private:
  struct Route;
  Answer route();

  // ---- who asks, and for what ----
  Result<void> sit_down();
  // Who waits has no seat and no host meanwhile, and sits down again behind it: the token may have been
  // revoked.
  void stand_up();
  bool still_valid() const;  // the token; asked by another thread than the one that works
  LazyHost new_host();
  void hang_up();  // whatever a host does for this request: its caller has gone
  Answer may(Right, std::string_view app, Answer (Desk::*how)());
  Result<App> app() { return control_->app(request_.path[2]); }
  const std::string &machine() const { return request_.path[4]; }
  // The body, an object with no other fields than these.
  Result<JsonValue> body(std::initializer_list<std::string_view> fields);
  static Result<bool> flag(const JsonValue &root, std::string_view name);  // false where it is not there
  // Of the query; nothing: it is not there.
  std::optional<std::string> asked(const std::string &name) const;
  Result<uint64_t> asked_number(const std::string &name, uint64_t otherwise, uint64_t most) const;
  // Done aside, with what it says as lines where the client asked for them.
  Answer at_length(std::function<Answer()> work);
  // Once, where the request has an Idempotency-Key.
  Answer once(const std::function<Answer()> &work);

  // ---- app_routes.cc ----
  Answer list_apps();
  Answer create_app();
  Answer get_app();
  Answer destroy_app();
  Answer app_key();
  Answer app_digest_key();
  Answer rotate();

  // ---- secret_routes.cc ----
  Answer list_secrets();
  Answer write_sealed();
  Answer set_plaintext();
  Answer plan();
  Answer history();
  Answer roll_back_secrets();
  Answer purge();
  Answer hand_over();

  // ---- release_routes.cc ----
  Answer deploy();
  Answer resume_deploy();
  Answer abort_deploy();
  Answer end_rollout(bool back);
  Answer list_releases();
  Answer roll_back_release();

  // ---- machine_routes.cc ----
  Answer list_machines();
  Answer run_machine();
  Answer get_machine();
  Answer destroy_machine();
  Answer start_machine();
  Answer stop_machine();
  Answer wait_machine();
  Answer streams();

  // ---- token_routes.cc ----
  Answer list_tokens();
  Answer create_token();
  Answer this_token();
  Answer revoke_token();
  Answer audit_log();

  // ---- host_routes.cc ----
  Answer host_session();
  Answer key_session();

  const RoutesConfig &config_;
  const Request &request_;
  Context &context_;
  std::string_view route_ = "-";
  std::mutex host_mutex_;
  int host_fd_ = -1;  // of the session that host_ has
  bool hung_up_ = false;
  std::optional<PublicKey> wanted_host_;  // by this request; nothing: any
  LazyHost host_;
  Seats::Lease seat_;
  std::string_view token_;  // in the request
  Caller caller_;
  std::string who_;
  std::vector<std::string> once_ids_;  // of a request with an Idempotency-Key
  std::optional<http::JsonBody> body_;
  std::optional<Deployer> deployer_;
  std::optional<LocalControl> control_;
  Work work_;  // the last one: its thread uses the others
};

// ---- answers ----

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
Answer said(std::string_view key);  // {KEY: true}

}  // namespace coffer::api
#endif
