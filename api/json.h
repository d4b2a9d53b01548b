// What the API and its clients say to each other, in JSON: docs/api.md.  Written and read in one place, so
// that both sides mean the same.
#ifndef COFFER_API_JSON_H
#define COFFER_API_JSON_H

#include <variant>

#include "coffer/base/json.h"
#include "coffer/release/control.h"
#include "coffer/tokens/authority.h"
#include "server/http/json_body.h"

namespace coffer::api {

using http::JsonValue;

// "not_found" and so on; kUnknown for a word that is not known.
std::string_view word_of(ErrorCode);
ErrorCode code_of(std::string_view word);
int status_of(ErrorCode);

void write(JsonWriter &, const Error &);
Result<Error> read_error(const JsonValue &);

void write(JsonWriter &, const AppSummary &);
Result<AppSummary> read_app(const JsonValue &);

void write(JsonWriter &, const SecretView &);
Result<SecretView> read_secret(const JsonValue &);

void write(JsonWriter &, const SealedSecret &);
Result<SealedSecret> read_sealed(const JsonValue &);

void write(JsonWriter &, const Changes &);
Result<Changes> read_changes(const JsonValue &);

void write(JsonWriter &, const MachineSummary &);
Result<MachineSummary> read_machine(const JsonValue &);

void write(JsonWriter &, const MachineConfig &);
// Checked as the CLI checks what it is given.
Result<MachineConfig> read_config(const JsonValue &);

void write(JsonWriter &, const Control::Booted &);
Result<Control::Booted> read_booted(const JsonValue &);

void write(JsonWriter &, const RolloutResult &);
Result<RolloutResult> read_rollout(const JsonValue &);

// Of one route: RolloutOrder where there are no configs, else DeployOrder.
using AnyDeploy = std::variant<RolloutOrder, DeployOrder>;
void write(JsonWriter &, const AnyDeploy &);
Result<AnyDeploy> read_deploy(const JsonValue &);

void write(JsonWriter &, const Control::Releases &);
Result<Control::Releases> read_releases(const JsonValue &);

void write(JsonWriter &, const Deployer::Purged &);
Result<Deployer::Purged> read_purged(const JsonValue &);

void write(JsonWriter &, const Rotated &);
Result<Rotated> read_rotated(const JsonValue &);

// To whom values are handed over, and which; `only` empty: all.
struct HandOver {
  std::set<std::string> only;
  Receiver to;
};
void write(JsonWriter &, const HandOver &);
Result<HandOver> read_hand_over(const JsonValue &);

void write(JsonWriter &, const Plan &);
Result<Plan> read_plan(const JsonValue &);

void write(JsonWriter &, const VersionView &);
Result<VersionView> read_version(const JsonValue &);

void write(JsonWriter &, const Tokens &);
Result<Tokens> read_tokens(const JsonValue &);

// With the token itself: it is told once.
void write(JsonWriter &, const NewToken &);
Result<NewToken> read_new_token(const JsonValue &);

Result<TokenId> read_token_id(const JsonValue &);
// Without its rights: the token says them.
void write(JsonWriter &, const Caller &);
Result<Caller> read_caller(const JsonValue &);

std::optional<State> state_of(std::string_view word);

// Of an object that may hold the key or not.
Result<std::vector<std::string>> texts(const JsonValue &, std::string_view key);
void write_texts(JsonWriter &, std::string_view key, const std::vector<std::string> &);

}  // namespace coffer::api
#endif
