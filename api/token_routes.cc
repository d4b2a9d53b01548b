// Tokens of users, and what was done by them.
#include <deque>

#include "coffer/audit/audit_log.h"
#include "coffer/base/names.h"
#include "desk.h"
#include "json.h"

namespace coffer::api {
namespace {

constexpr uint64_t kLines = 1000, kMostLines = 10'000;

}  // namespace

Answer Desk::list_tokens() { return answered(seat_->tokens.list()); }

Answer Desk::this_token() {
  JsonWriter j;
  write(j, caller_);
  return Response::json(j.str());
}

Answer Desk::create_token() {
  COFFER_TRY(const JsonValue root, body({"name", "caveats"}));
  std::string name;
  COFFER_TRY(const auto given, root.find("name"));
  if (given && !given->is_null()) {
    COFFER_TRY(name, given->text());
  }
  COFFER_TRY(std::vector<std::string> caveats, texts(root, "caveats"));
  return answered(seat_->tokens.create(std::move(name), who_, std::move(caveats), caller_.rights), 201);
}

Answer Desk::revoke_token() {
  COFFER_TRY(const TokenId id, seat_->tokens.revoke(request_.path[2]));
  JsonWriter j;
  j.begin_object().field("id", hex(id)).field("revoked", true).end_object();
  return Response::json(j.str());
}

// The newest entries of the API's log, as they stand there, a line each.
Answer Desk::audit_log() {
  COFFER_TRY(const uint64_t most, asked_number("lines", kLines, kMostLines));
  const std::string of = asked("app").value_or("");
  const auto &apps = caller_.rights.apps();
  std::deque<std::string> lines;
  COFFER_CHECK(
      read_audit({{"api", config_.audit->file()}}, [&](const AuditFile &, std::string_view line, bool) {
        const auto entry = decode_audit_line(line);
        if (!entry || (!of.empty() && entry->entry.app != of) || (apps && !apps->contains(entry->entry.app)))
          return;
        lines.emplace_back(line);
        if (lines.size() > most) lines.pop_front();
      }));
  Response r;
  r.content_type = "application/x-ndjson";
  for (const std::string &line : lines) r.body += line + "\n";
  return r;
}

}  // namespace coffer::api
