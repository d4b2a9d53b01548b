#include "desk.h"

#include <sys/socket.h>

#include <algorithm>
#include <charconv>

#include "coffer/base/codec.h"
#include "coffer/crypto/primitives.h"
#include "json.h"
#include "once.h"

namespace coffer::api {
namespace {

Response refused(const Error &e) {
  JsonWriter j;
  write(j, e);
  return Response::json(j.str(), status_of(e.code));
}

}  // namespace

Answer said(std::string_view key) {
  JsonWriter j;
  j.begin_object().field(key, true).end_object();
  return Response::json(j.str());
}

Response Desk::answer() {
  auto done = route();
  Response r = done ? *std::move(done) : refused(done.error());
  r.route = route_;
  return r;
}

// ---- who asks, and for what ----

LazyHost Desk::new_host() {
  return LazyHost([this]() -> Result<std::unique_ptr<MachineHost>> {
    const Steps steps = [this](std::string_view machine, std::string_view step) { work_.say(machine, step); };
    COFFER_TRY(auto host, config_.find_host(steps, wanted_host_));
    const std::lock_guard lock(host_mutex_);
    if (hung_up_) return fail(ErrorCode::kCancelled, "the caller has gone");
    host_fd_ = host->fd();
    return host;
  });
}

void Desk::hang_up() {
  const std::lock_guard lock(host_mutex_);
  hung_up_ = true;
  if (host_fd_ >= 0) ::shutdown(host_fd_, SHUT_RDWR);
}

Result<void> Desk::sit_down() {
  const auto header = request_.headers.find("Authorization");
  constexpr std::string_view kScheme = "Bearer ";
  if (!header || !header->starts_with(kScheme))
    return fail(ErrorCode::kUnauthenticated, "a token is needed",
                "Send it as `Authorization: Bearer coffer_...`; `coffer token create` makes one.");
  token_ = header->substr(kScheme.size());
  COFFER_TRY(seat_, config_.seats->take());
  COFFER_TRY(caller_, seat_->tokens.verify(token_));
  who_ = "token " + caller_.name;
  deployer_.emplace(seat_->vault, seat_->keys, host_, who_, config_.audit);
  deployer_->go_on_without_keys();
  deployer_->set_policy(config_.policy);
  const Steps tell = [this](std::string_view machine, std::string_view step) { work_.say(machine, step); };
  deployer_->set_progress(tell);
  deployer_->set_hosts(
      [this, tell]() -> Result<std::unique_ptr<MachineHost>> {
        return std::make_unique<LazyHost>([this, tell]() -> Result<std::unique_ptr<MachineHost>> {
          return config_.find_host(tell, wanted_host_);
        });
      },
      config_.most_at_once);
  control_.emplace(seat_->vault, seat_->keys, host_, *deployer_, config_.digest_credential);
  return {};
}

void Desk::stand_up() {
  control_.reset();
  deployer_.reset();
  seat_.reset();
  host_ = new_host();
}

bool Desk::still_valid() const {
  const auto seat = config_.seats->take();
  return seat && (*seat)->tokens.verify(token_);
}

Answer Desk::may(Right right, std::string_view app, Answer (Desk::*how)()) {
  const Rights &rights = caller_.rights;
  const std::string_view word = kRightWords[static_cast<size_t>(right)];
  const std::vector<std::string_view> words = rights.words();
  // A token for certain Apps sees of all Apps, and of what was done, those.
  const bool narrowed = app.empty() && (right == Right::kList || right == Right::kAudit);
  const bool allowed = narrowed ? std::ranges::find(words, word) != words.end() : rights.allows(right, app);
  if (!allowed)
    return fail(ErrorCode::kPermissionDenied,
                "the token does not allow `" + std::string(word) + "`" + (app.empty() ? "" : " for this App"),
                "See `coffer token check`.");
  return (this->*how)();
}

Result<JsonValue> Desk::body(std::initializer_list<std::string_view> fields) {
  const auto type = request_.headers.find("Content-Type");
  if (!type || !type->starts_with("application/json"))
    return fail(ErrorCode::kInvalidArgument, "the body must be application/json");
  COFFER_TRY(body_, http::JsonBody::parse(http::view(request_.body)));
  const JsonValue root = body_->root();
  COFFER_CHECK(root.only(fields));
  return root;
}

Result<bool> Desk::flag(const JsonValue &root, std::string_view name) {
  COFFER_TRY(const auto given, root.find(name));
  return given ? given->boolean() : Result<bool>(false);
}

std::optional<std::string> Desk::asked(const std::string &name) const {
  const auto at = request_.query.find(name);
  return at == request_.query.end() ? std::nullopt : std::optional(at->second);
}

Result<uint64_t> Desk::asked_number(const std::string &name, uint64_t otherwise, uint64_t most) const {
  const auto text = asked(name);
  if (!text) return otherwise;
  uint64_t n = 0;
  const auto [rest, e] = std::from_chars(text->data(), text->data() + text->size(), n);
  if (e != std::errc() || rest != text->data() + text->size() || n > most)
    return fail(ErrorCode::kInvalidArgument, "query " + name + ": expected 0 to " + std::to_string(most));
  return n;
}

// ---- work that takes long, and is done once ----

Answer Desk::at_length(std::function<Answer()> work) {
  const auto accept = request_.headers.find("Accept");
  if (!accept || accept->find("application/x-ndjson") == accept->npos) {
    work_.begin([this, work = std::move(work)] { return once(work); });
    return work_.wait(context_);
  }
  Response r;
  r.content_type = "application/x-ndjson";
  r.stream = [self = shared_from_this(), work = std::move(work)](Context &context, http::Writer &to) {
    if (!to.write("\n")) return;  // it has begun: whoever loses the answer may ask for it again
    self->work_.begin([self = self.get(), work] { return self->once(work); });
    const Answer answer =
        self->work_.wait(context, [&to](const std::string &lines) { return to.write(lines); });
    if (answer)
      to.write("{\"status\":" + std::to_string(answer->status) + ",\"result\":" + answer->body + "}\n");
    else
      to.write(refused(answer.error()).body + "\n");
  };
  return r;
}

Answer Desk::once(const std::function<Answer()> &work) {
  const auto key = request_.headers.find("Idempotency-Key");
  if (!key) return work();
  if (key->empty() || key->size() > kMaxIdempotencyKey)
    return fail(ErrorCode::kInvalidArgument,
                "the Idempotency-Key must have 1 to " + std::to_string(kMaxIdempotencyKey) + " bytes");
  Encoder e;
  e.text(request_.method);
  for (const std::string &segment : request_.path) e.text(segment);
  e.raw(sha256(as_bytes(http::view(request_.body))));
  Once remembered(seat_->vault.storage(), caller_.id, *key, sha256(e.out()));
  COFFER_TRY(auto before, remembered.begin());
  if (before) return *std::move(before);
  once_ids_ = remembered.ids();
  Answer answer = work();
  const auto noted = remembered.end(answer);
  if (answer && !noted) return std::unexpected(noted.error());
  return answer;
}

}  // namespace coffer::api
