// coffer token create|narrow|check|list|revoke
//
// A token is printed where it was asked for, on stdout, and nowhere else.
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "../files.h"
#include "../output.h"
#include "coffer/base/names.h"
#include "commands.h"

namespace coffer::cli {
namespace {

std::unexpected<Error> invalid(std::string what, std::string remedy = {}) {
  return fail(ErrorCode::kInvalidArgument, std::move(what), std::move(remedy));
}

std::vector<std::string> split(std::string_view list) {
  std::vector<std::string> out(1);
  for (const char c : list)
    if (c == ',')
      out.emplace_back();
    else
      out.back() += c;
  return out;
}

std::string join(std::span<const std::string> words) {
  std::string out;
  for (const std::string &w : words) out += (out.empty() ? "" : ",") + w;
  return out;
}

// "30d" from now, or a time.
Result<uint64_t> parse_expires(std::string_view text, uint64_t now) {
  constexpr uint64_t kYear9999 = 253402300799000;
  if (const auto at = parse_utc(text)) return *at;
  uint64_t n = 0;
  const auto [end, e] = std::from_chars(text.data(), text.data() + text.size(), n);
  constexpr std::string_view kUnits = "smhd";
  constexpr uint64_t kSeconds[] = {1, 60, 3600, 86400};
  const size_t unit = end + 1 == text.data() + text.size() ? kUnits.find(*end) : kUnits.npos;
  if (e != std::errc() || unit == kUnits.npos || n == 0)
    return invalid(
        "--expires: expected a number of s, m, h or d as in 30d, or a time as in 2027-01-01T00:00:00Z");
  if (n > (kYear9999 - now) / 1000 / kSeconds[unit]) return invalid("--expires: that is after the year 9999");
  return now + n * kSeconds[unit] * 1000;
}

// The options as caveats.
Result<std::vector<std::string>> caveats_of(const Arguments &a) {
  std::vector<std::string> out;
  std::vector<std::string> apps;
  if (!a.app.empty()) apps.push_back(a.app);
  if (a.token_apps)
    for (std::string &app : split(*a.token_apps)) apps.push_back(std::move(app));
  for (size_t i = 0; i < apps.size(); ++i)
    if (auto checked = check_app_name(apps[i]); !checked)
      return std::unexpected(std::move(checked).error().in("--app " + std::to_string(i + 1)));
  if (!apps.empty()) out.push_back(app_caveat(apps));
  if (a.token_allow) {
    const std::vector<std::string> words = split(*a.token_allow);
    for (size_t i = 0; i < words.size(); ++i)
      if (std::ranges::find(kRightWords, words[i]) == kRightWords.end())
        return invalid("--allow: word " + std::to_string(i + 1) +
                       " is none of list, set, deploy, machine, exec, run, keys, token, audit, admin");
    out.push_back(allow_caveat(words));
  }
  if (a.token_expires) {
    const uint64_t now = now_ms();
    COFFER_TRY(const uint64_t at, parse_expires(*a.token_expires, now));
    if (at <= now) return invalid("--expires: that time is over");
    out.push_back(expires_caveat(at));
  }
  return out;
}

// Standard input, unless that is a terminal or empty; else COFFER_TOKEN.  What was piped in goes first: the
// variable may hold a stronger token than the one that is meant.
Result<Macaroon> given_token() {
  constexpr size_t kLineEnds = 2;
  SecretBytes in;
  std::string_view text;
  if (!isatty(STDIN_FILENO)) {
    COFFER_TRY(in, read_stdin(kMaxToken + kLineEnds, "the token"));
    text = as_text(in.reveal());
    if (text.ends_with('\n')) text.remove_suffix(1);
    if (text.ends_with('\r')) text.remove_suffix(1);
  }
  if (const char *variable = std::getenv("COFFER_TOKEN"); text.empty() && variable) text = variable;
  if (text.empty()) return invalid("no token was given", "Give it on standard input or in COFFER_TOKEN.");
  return Macaroon::parse_text(text);
}

// What it may do: fields of a JSON object, or words for a person.
void write_rights(JsonWriter &j, const Rights &r) {
  j.key("apps");
  if (!r.apps()) {
    j.null();
  } else {
    j.begin_array();
    for (const std::string &app : *r.apps()) j.value(app);
    j.end_array();
  }
  j.key("allow").begin_array();
  for (const std::string_view word : r.words()) j.value(word);
  j.end_array();
  j.key("expires_at");
  if (r.expires_ms())
    j.value(rfc3339(*r.expires_ms()));
  else
    j.null();
}
std::string apps_text(const Rights &r) {
  return r.apps() ? join(std::vector<std::string>(r.apps()->begin(), r.apps()->end())) : "all";
}
std::string allow_text(const Rights &r) {
  const auto words = r.words();
  if (words.size() == kRightWords.size()) return "all";
  return words.empty() ? "-" : join(std::vector<std::string>(words.begin(), words.end()));
}
std::string expires_text(const Rights &r) { return r.expires_ms() ? rfc3339(*r.expires_ms()) : "never"; }
std::string sentence(const Rights &r) {
  return "Apps " + apps_text(r) + "; allows " + allow_text(r) + "; expires " + expires_text(r);
}

void print_token(const Arguments &a, const Macaroon &token, const Rights &rights, const TokenRecord *record) {
  if (a.json) {
    JsonWriter j;
    j.begin_object();
    if (record) j.field("id", hex(record->id)).field("name", record->name);
    j.field("token", token.text());
    write_rights(j, rights);
    j.end_object();
    return print_json(j);
  }
  if (!a.quiet) print_progress((record ? "Token " + record->name + ": " : "") + sentence(rights));
  print(token.text());
}

}  // namespace

Result<int> token_create(Arguments &a) {
  COFFER_TRY(std::vector<std::string> caveats, caveats_of(a));
  COFFER_TRY(const Rights rights, Rights::of(caveats));
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(UserTokens * tokens, engine->tokens());
  COFFER_TRY(const NewToken made, tokens->create(a.name, std::move(caveats)));
  print_token(a, made.token, rights, &made.record);
  return 0;
}

Result<int> token_narrow(Arguments &a) {
  COFFER_TRY(const std::vector<std::string> caveats, caveats_of(a));
  if (caveats.empty()) return invalid("nothing to narrow was given", "Use --app, --allow or --expires.");
  COFFER_TRY(Macaroon token, given_token());
  for (const std::string &c : caveats) COFFER_CHECK(token.narrow(c));
  COFFER_TRY(const Rights rights, Rights::of(token.caveats()));
  if (rights.words().empty() || (rights.apps() && rights.apps()->empty()))
    return invalid("nothing would be left of the token's rights",
                   "Name Apps and words that it has: `coffer token check`.");
  if (rights.expired(now_ms())) return invalid("the token has expired");
  print_token(a, token, rights, nullptr);
  return 0;
}

Result<int> token_check(Arguments &a) {
  COFFER_TRY(const Macaroon token, given_token());
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(UserTokens * tokens, engine->tokens());
  COFFER_TRY(const Caller caller, tokens->check(token.text()));
  if (a.json) {
    JsonWriter j;
    j.begin_object().field("id", hex(caller.id)).field("name", caller.name);
    write_rights(j, caller.rights);
    j.end_object();
    print_json(j);
  } else {
    print("Token " + caller.name + ": " + sentence(caller.rights));
  }
  return 0;
}

Result<int> token_list(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(UserTokens * tokens, engine->tokens());
  COFFER_TRY(const Tokens all, tokens->list());
  const uint64_t now = now_ms();
  JsonWriter j;
  std::vector<std::vector<std::string>> table = {{"ID", "NAME", "APPS", "ALLOW", "EXPIRES", "BY", "AGE"}};
  j.begin_array();
  for (const TokenRecord &r : all.records) {
    COFFER_TRY(const Rights rights, Rights::of(r.caveats));
    const bool expired = rights.expired(now);
    table.push_back({hex(r.id), r.name, apps_text(rights), allow_text(rights),
                     expired ? "expired" : expires_text(rights), r.who, age(r.created_ms)});
    j.begin_object().field("id", hex(r.id)).field("name", r.name);
    write_rights(j, rights);
    j.field("expired", expired).field("who", r.who).field("created_at", rfc3339(r.created_ms)).end_object();
  }
  j.end_array();
  if (a.json)
    print_json(j);
  else if (all.records.empty())
    print(
        "No tokens.  Make one: coffer token create --name ci --app web --allow list,set,deploy --expires "
        "30d");
  else
    print_table(table);
  for (size_t i = 1; i < all.damaged.size(); ++i) print_warning(all.damaged[i].message);
  if (!all.damaged.empty()) return std::unexpected(all.damaged.front());
  return 0;
}

Result<int> token_revoke(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(UserTokens * tokens, engine->tokens());
  COFFER_TRY(const TokenId id, tokens->revoke(a.words.front()));
  if (a.json) {
    JsonWriter j;
    j.begin_object().field("id", hex(id)).field("revoked", true).end_object();
    print_json(j);
  } else {
    print("Token " + hex(id) + " is revoked.");
  }
  return 0;
}

}  // namespace coffer::cli
