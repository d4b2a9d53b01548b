// Secrets: sealed before they come here, but for set_plaintext(); and what brings them to the Machines.
#include <set>

#include "coffer/base/names.h"
#include "desk.h"
#include "json.h"

namespace coffer::api {
namespace {

Result<std::vector<std::string>> names(const JsonValue &root, std::string_view key) {
  COFFER_TRY(std::vector<std::string> out, texts(root, key));
  for (size_t i = 0; i < out.size(); ++i)
    if (auto ok = check_secret_name(out[i]); !ok)
      return std::unexpected(
          std::move(ok).error().in("field " + std::string(key) + "[" + std::to_string(i) + "]"));
  return out;
}

}  // namespace

Answer Desk::list_secrets() {
  COFFER_TRY(const App a, app());
  COFFER_TRY(const Control::Secrets all, control_->secrets(a));
  JsonWriter j;
  j.begin_object().field("version", all.version).key("secrets").begin_array();
  for (const SecretView &s : all.all) write(j, s);
  j.end_array().end_object();
  return Response::json(j.str());
}

Answer Desk::write_sealed() {
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
  return once([&] { return answered(control_->write(a, set, unset)); });
}

// Fly's: {"values": {"NAME": "VALUE" or null}}
Answer Desk::set_plaintext() {
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

Answer Desk::plan() {
  COFFER_TRY(const App a, app());
  return answered(control_->plan(a));
}

Answer Desk::history() {
  COFFER_TRY(const App a, app());
  return listed(control_->history(a));
}

Answer Desk::roll_back_secrets() {
  COFFER_TRY(const JsonValue root, body({"version"}));
  COFFER_TRY(const auto given, root.find("version"));
  int64_t version = 0;  // the one before
  if (given) {
    COFFER_TRY(version, given->integer(1));
  }
  COFFER_TRY(const App a, app());
  return once([&]() -> Answer {
    COFFER_TRY(const uint64_t now, control_->roll_back_secrets(a, static_cast<uint64_t>(version)));
    JsonWriter j;
    j.begin_object().field("version", now).end_object();
    return Response::json(j.str());
  });
}

Answer Desk::purge() {
  COFFER_TRY(const JsonValue root, body({"name"}));
  COFFER_TRY(const JsonValue given, root.at("name"));
  COFFER_TRY(const std::string_view text, given.text());
  const std::string name(text);
  if (auto ok = check_secret_name(name); !ok) return std::unexpected(std::move(ok).error().in("field name"));
  COFFER_TRY(const App a, app());
  return at_length([this, a, name] { return answered(control_->purge(a, name)); });
}

// The values go from the host's agent to a process there; what passes here is who waits for them.
Answer Desk::hand_over() {
  COFFER_TRY(const JsonValue root, body({"host", "ticket", "only"}));
  COFFER_TRY(const HandOver given, read_hand_over(root));
  COFFER_TRY(const App a, app());
  wanted_host_ = given.to.host;
  return at_length([this, a, given]() -> Answer {
    COFFER_CHECK(control_->hand_over(a, given.only, given.to));
    return said("handed_over");
  });
}

}  // namespace coffer::api
