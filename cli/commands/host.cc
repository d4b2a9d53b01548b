// coffer host enroll|join|list|revoke: which hosts may be granted Machines.
#include <unistd.h>

#include "../files.h"
#include "../output.h"
#include "coffer/base/text.h"
#include "commands.h"

namespace coffer::cli {

// By the administrator of the key service.
Result<int> host_enroll(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(Keys * keys, engine->keys());
  const std::string &name = a.words.front();
  COFFER_TRY(const std::string token, keys->invite(name));
  if (a.json) {
    JsonWriter j;
    j.begin_object()
        .field("host", name)
        .field("token", token)
        .field("expires_in_s", kInvitationLifetimeMs / 1000);
    j.end_object();
    print_json(j);
    return 0;
  }
  print(token);
  if (!a.quiet)
    print_progress("On that host, within an hour and once: coffer host join " + name +
                   " < FILE, with this token in FILE.");
  return 0;
}

// On the host itself: its key proves that it is the one that asks.
Result<int> host_join(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  if (engine->config().keys_socket.empty() && !engine->relays())
    return fail(ErrorCode::kFailedPrecondition,
                "this Coffer has its key service in itself: its host needs no enrolment",
                "For a key service of its own name its `socket` under [keys] in engine.toml.");
  if (::isatty(STDIN_FILENO) && !a.quiet) print_progress("Token:");
  COFFER_TRY(const SecretBytes typed, read_stdin(256, "standard input"));
  std::string_view text = as_text(typed.reveal());
  while (!text.empty() && static_cast<unsigned char>(text.back()) <= ' ') text.remove_suffix(1);
  const auto token = unhex(text);
  if (!token || token->size() != 16)
    return fail(ErrorCode::kInvalidArgument, "standard input is no enrolment token: expected 32 hex digits",
                "Get one with `coffer host enroll NAME`, from the key service's administrator.");
  COFFER_TRY(const SecretBytes seed, engine->home().host_seed());
  COFFER_TRY(const SigningKey host, SigningKey::from_seed(seed.reveal()));
  COFFER_TRY(Keys * keys, engine->keys());
  const std::string &name = a.words.front();
  COFFER_CHECK(keys->enrol(
      sign(host, kEnrolmentLabel, encode(Enrolment{to_array<16>(*token), name, host.public_key()}))));
  print("Host " + name + " is enrolled: " + hex(host.public_key()));
  return 0;
}

Result<int> host_list(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(Keys * keys, engine->keys());
  COFFER_TRY(const std::vector<HostInfo> all, keys->hosts());
  JsonWriter j;
  std::vector<std::vector<std::string>> table = {{"NAME", "STATE", "ENROLLED", "KEY"}};
  j.begin_array();
  for (const HostInfo &h : all) {
    const char *state = h.revoked ? "revoked" : "enrolled";
    table.push_back({h.name, state, age(h.enrolled_ms), hex(h.key)});
    j.begin_object()
        .field("name", h.name)
        .field("state", state)
        .field("enrolled_at", rfc3339(h.enrolled_ms))
        .field("key", hex(h.key))
        .end_object();
  }
  j.end_array();
  if (a.json)
    print_json(j);
  else if (all.empty())
    print(engine->own_keys() ? "No host is enrolled: this one needs no enrolment."
                             : "No host is enrolled yet: coffer host enroll NAME");
  else
    print_table(table);
  return 0;
}

Result<int> host_revoke(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(Keys * keys, engine->keys());
  COFFER_CHECK(keys->revoke_host(a.words.front()));
  print("Host " + a.words.front() +
        " is revoked: it opens nothing any more. What its Machines hold, they keep until they end.");
  return 0;
}

}  // namespace coffer::cli
