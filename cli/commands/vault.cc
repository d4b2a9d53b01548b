// coffer vault check | migrate
#include <algorithm>

#include "../output.h"
#include "commands.h"

namespace coffer::cli {

Result<int> vault_check(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(Vault * vault, engine->vault());
  COFFER_TRY(std::vector<Finding> findings, vault->check());
  // A vault can be whole and yet be yesterday's: only the key service knows.
  COFFER_TRY(Deployer * deployer, engine->deployer());
  if (const auto all = vault->apps()) {
    for (const AppEntry &entry : *all) {
      const auto app = vault->app(entry.name);
      if (!app) continue;  // among the findings already
      const auto head = deployer->newest(*app);
      const bool known = std::ranges::any_of(findings, [&](const Finding &f) { return f.app == entry.name; });
      if (!head && !known) findings.push_back({entry.name, "manifest head", head.error().message});
    }
  }
  COFFER_TRY(Keys * keys, engine->keys());
  COFFER_TRY(const std::vector<KeyInfo> known_keys, keys->list());
  for (const KeyInfo &k : known_keys) {
    if (k.destroyed) continue;
    const auto there = vault->app(k.app);
    if (!there && there.error().code == ErrorCode::kNotFound)
      findings.push_back(
          {k.app, "directory entry", "is missing: removed from the vault, or its creation was cut off"});
  }
  if (a.json) {
    JsonWriter j;
    j.begin_array();
    for (const Finding &f : findings)
      j.begin_object().field("app", f.app).field("object", f.object).field("problem", f.problem).end_object();
    j.end_array();
    print_json(j);
  } else {
    for (const Finding &f : findings)
      print((f.app.empty() ? "" : "App " + f.app + ": ") + f.object + ": " + f.problem);
    print(findings.empty() ? "The vault is whole." : "Nothing was changed.");
  }
  if (findings.empty()) return 0;
  return fail(
      ErrorCode::kDataLoss,
      "the vault has " + std::to_string(findings.size()) + " problem" + (findings.size() == 1 ? "" : "s"),
      "Restore a backup of the vault; Apps that are not named above are not affected.");
}

Result<int> vault_migrate(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const EngineConfig target_config, read_engine_config(std::filesystem::absolute(a.to)));
  if (target_config.base_dir != engine->config().base_dir)
    return fail(ErrorCode::kInvalidArgument,
                "the new engine config must lie in the same folder as the present one",
                "Keys and pins stay where they are: put it beside " + engine->config().file.string() + ".");
  COFFER_TRY(Vault * vault, engine->vault());
  COFFER_TRY(const Storage target, Storage::open(target_config.storage));
  const auto progress = [&](size_t done, size_t total) {
    if (!a.quiet && !a.json)
      print_progress("moved " + std::to_string(done) + " of " + std::to_string(total) + " spaces");
  };
  COFFER_CHECK(vault->migrate(target, target_config.storage.plugin + " (" + target_config.file.string() + ")",
                              progress));
  if (a.json) {
    JsonWriter j;
    j.begin_object().field("moved", true).field("to", target_config.file.string()).end_object();
    print_json(j);
  } else {
    print("The vault was moved to " + target_config.storage.plugin + ". Use it from now on:");
    print("  mv " + target_config.file.string() + " " + engine->config().file.string());
  }
  return 0;
}

}  // namespace coffer::cli
