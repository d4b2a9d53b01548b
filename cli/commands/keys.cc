// coffer keys list | rotate | rewrap
#include <algorithm>
#include <cstdlib>

#include "../app_file.h"
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
    std::string epochs = k.destroyed ? "-" : std::to_string(k.epoch);
    for (const uint32_t old : k.old_epochs) epochs += ", " + std::to_string(old);
    table.push_back({k.app, epochs, state, k.destroyed ? "-" : hex(k.public_key)});
    j.begin_object().field("app", k.app).field("app_id", hex(k.app_id)).field("state", state);
    if (!k.destroyed) {
      j.field("epoch", k.epoch).field("public_key", hex(k.public_key)).key("old_epochs").begin_array();
      for (const uint32_t old : k.old_epochs) j.value(old);
      j.end_array();
    }
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

namespace {

// The App that is named, else all of them.
Result<std::vector<std::string>> named_apps(Arguments &a, Engine &engine) {
  if (!a.app.empty()) return std::vector{a.app};
  if (const char *name = std::getenv("COFFER_APP"); name && *name) return std::vector{std::string(name)};
  COFFER_TRY(const auto file, find_app_file(a));
  if (file && !file->app.empty()) return std::vector{file->app};
  COFFER_TRY(Control * control, engine.control());
  COFFER_TRY(const std::vector<AppSummary> all, control->apps());
  std::vector<std::string> names;
  for (const AppSummary &app : all) names.push_back(app.name);
  return names;
}

void tell(const std::string &app, const Rotated &r) {
  print("App " + app + ": " + (r.went_on ? "the rotation that was cut off is done" : "its key is rotated") +
        ", epoch " + std::to_string(r.epoch) + "; " + std::to_string(r.secrets) + " secret" +
        (r.secrets == 1 ? "" : "s") + " sealed anew");
  for (const MachineResult &m : r.rollout.machines)
    print("Machine " + m.name + " (" + m.id + "): " + m.result);
}

}  // namespace

Result<int> keys_rotate(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const std::vector<std::string> names, named_apps(a, *engine));
  catch_interrupts();
  COFFER_TRY(Control * control, engine->control());
  JsonWriter j;
  j.begin_array();
  std::optional<Error> failed;
  for (const std::string &name : names) {
    COFFER_TRY(const App app, engine->app(name));
    COFFER_TRY(const Rotated r, control->rotate(app, a.now));
    COFFER_CHECK(engine->app(name));  // the new epoch is the one that was seen
    j.begin_object().field("app", name).field("from", r.from).field("epoch", r.epoch);
    j.field("oldest_epoch", r.oldest).field("secrets", r.secrets).field("version", r.version);
    if (r.rollout.release)
      j.field("release", r.rollout.release);
    else
      j.key("release").null();
    j.key("machines").begin_array();
    for (const MachineResult &m : r.rollout.machines)
      j.begin_object().field("id", m.id).field("name", m.name).field("result", m.result).end_object();
    j.end_array().end_object();
    if (!a.json) {
      tell(name, r);
      flush_stdout();
    }
    for (const std::string &w : r.rollout.warnings) print_warning(w);
    for (const std::string &w : r.warnings) print_warning(w);
    if (r.rollout.failed) {
      failed = r.rollout.failed;
      failed->code = failed->code == ErrorCode::kCancelled ? failed->code : ErrorCode::kUnknown;
      failed->message = "App " + name + ": its key is rotated, but release " +
                        std::to_string(r.rollout.release) + " was not rolled out: " + failed->message +
                        "; the old key is kept for the Machines";
      break;
    }
    if (!a.json && r.oldest < r.epoch)
      print(a.now ? "  The key of epoch " + std::to_string(r.oldest) +
                        " is kept: a Machine that is not started still needs it. Start or destroy it, then "
                        "rotate again."
                  : "  The key of epoch " + std::to_string(r.oldest) +
                        " is kept until no retained version and no Machine needs it; `--now` ends it.");
  }
  j.end_array();
  if (failed) return std::unexpected(*std::move(failed));
  if (a.json)
    print_json(j);
  else if (names.empty())
    print("No Apps yet, so there is no key to rotate.");
  return 0;
}

Result<int> keys_rewrap(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(Keys * keys, engine->keys());
  COFFER_CHECK(keys->rewrap());
  COFFER_CHECK(keys->unlock());
  if (a.json) {
    JsonWriter j;
    j.begin_object().field("rewrapped", true).end_object();
    print_json(j);
  } else {
    print("The root key is a new one, and every key is wrapped under it.");
  }
  return 0;
}

}  // namespace coffer::cli
