// coffer keys list
#include "../output.h"
#include "commands.h"

namespace coffer::cli {

Result<int> keys_list(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(Keys * keys, engine->keys());
  COFFER_TRY(const std::vector<KeyInfo> all, keys->list());
  JsonWriter j;
  std::vector<std::vector<std::string>> table = {{"APP", "EPOCH", "STATE", "PUBLIC KEY"}};
  j.begin_array();
  for (const KeyInfo &k : all) {
    const char *state = k.destroyed ? "destroyed" : "active";
    table.push_back(
        {k.app, k.destroyed ? "-" : std::to_string(k.epoch), state, k.destroyed ? "-" : hex(k.public_key)});
    j.begin_object().field("app", k.app).field("app_id", hex(k.app_id)).field("state", state);
    if (!k.destroyed) j.field("epoch", k.epoch).field("public_key", hex(k.public_key));
    j.end_object();
  }
  j.end_array();
  if (a.json)
    print_json(j);
  else if (all.empty())
    print("No keys yet: each App gets its own with `coffer apps create NAME`.");
  else
    print_table(table);
  return 0;
}

}  // namespace coffer::cli
