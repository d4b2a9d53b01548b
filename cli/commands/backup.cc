// coffer vault backup | restore
#include "coffer/backup/backup.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "../files.h"
#include "../output.h"
#include "coffer/base/clock.h"
#include "commands.h"

namespace coffer::cli {
namespace {

namespace fs = std::filesystem;

// What of the home goes into a backup beside the two stores; where it is missing, it is left out.
struct HomeFile {
  const char *name;
  unsigned mode;
};
constexpr const char *kRevoked = "api/token.revoked";
constexpr HomeFile kFiles[] = {{"api/writer.key", 0400}, {"api/digest.key", 0400}, {"api/token.root", 0400},
                               {"pins/writers", 0444},   {"pins/identity", 0444},  {kRevoked, 0600}};
constexpr size_t kMostFile = 16 << 20;

Result<void> back_up_files(const Home &home, BackupWriter &to) {
  for (const HomeFile &f : kFiles) {
    const fs::path path = home.dir() / f.name;
    std::error_code e;
    if (!fs::exists(path, e)) continue;
    COFFER_TRY(const SecretBytes content, read_file(path, kMostFile));
    COFFER_CHECK(to.file(f.name, content));
  }
  return {};
}

// The versions that were seen here when the restore began, one App a line.
Result<void> write_marker(const Home &home, const RestorePlan &plan) {
  std::ostringstream text;
  for (const auto &[space, version] : plan.seen) text << space << ' ' << version << '\n';
  return replace_file(home.restore_marker(), as_bytes(text.str()), 0600);
}
Result<void> read_marker(const Home &home, RestorePlan &plan) {
  COFFER_TRY(const std::string text, read_trusted_file(home.restore_marker()));
  std::istringstream in(text);
  std::string space;
  uint64_t version = 0;
  while (in >> space >> version) plan.seen[space] = std::max(plan.seen[space], version);
  if (!in.eof())
    return fail(ErrorCode::kDataLoss, home.restore_marker().string() + " is damaged",
                "Restore into a new home: `coffer init` with another COFFER_HOME.");
  return {};
}

// Reads the file from its beginning.
Result<BackupReader> open_backup(const fs::path &file, const Kms &kms) {
  COFFER_TRY(InputFile input, InputFile::open(file));
  const auto shared = std::make_shared<InputFile>(std::move(input));
  return BackupReader::begin([shared](std::span<uint8_t> out) { return shared->read(out); },
                             [&](ByteSpan wrapped) { return KeyService::backup_key(kms, wrapped); });
}

// The Machines of this host end: what they were booted from is not in the restored vault, or may not be.
Result<size_t> end_machines(const Home &home, const EngineConfig &config) {
  COFFER_TRY(const SecretBytes seed, home.host_seed());
  COFFER_TRY(SigningKey host, SigningKey::from_seed(seed.reveal()));
  Agent agent = Agent::create({.open_store = [&] { return Storage::open(config.agent_storage); },
                               .open_runtime = [&] { return Runtime::open(config.runtime); },
                               .open_injectors = [] { return std::vector<Injector>(); },
                               .host_key = std::move(host),
                               .writers = {},
                               .identity = {},
                               .keys = nullptr,
                               .cancel_fd = -1,
                               .progress = {},
                               .image_progress = {}});
  COFFER_TRY(const std::vector<MachineState> states, agent.states());
  for (const MachineState &s : states) COFFER_CHECK(agent.destroy(s.machine));
  return states.size();
}

// Does this home hold Apps?
Result<bool> in_use(const Storage &vault, const Storage &keys) {
  COFFER_TRY(const auto apps, vault.spaces("app"));  // the directory, and each App
  COFFER_TRY(const auto keys_of_apps, keys.spaces("app-"));
  return !apps.empty() || !keys_of_apps.empty();
}

}  // namespace

Result<int> vault_backup(Arguments &a) {
  const fs::path file = a.words.front();
  std::error_code e;
  if (!a.force && fs::exists(file, e))
    return fail(ErrorCode::kAlreadyExists, file.string() + " exists already",
                "Name another file, or add --force.");
  if (fs::is_directory(file, e))
    return fail(ErrorCode::kInvalidArgument, file.string() + " is a folder", "Name the file to make in it.");
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(Vault * vault, engine->vault());
  COFFER_CHECK(engine->keys());
  KeyService *const keys = engine->own_keys();
  if (!keys)
    return fail(ErrorCode::kUnimplemented,
                "this Coffer's key service is a process of its own, whose store is not within reach",
                "Stop coffer-keys and copy its home; the vault's storage has tools of its own.");
  COFFER_TRY(const KeyService::BackupKey key, keys->backup_key());
  COFFER_TRY(const Storage keys_store, Storage::open(engine->config().keys_storage));
  size_t apps = 0;
  const auto fill = [&](const Write &write) -> Result<void> {
    COFFER_TRY(BackupWriter to, BackupWriter::begin(key.key, key.wrapped_root, write));
    COFFER_CHECK(back_up_files(engine->home(), to));
    COFFER_CHECK(back_up(vault->storage(), keys_store, to));
    COFFER_TRY(const std::vector<AppEntry> all, vault->apps());
    apps = all.size();
    return to.end(now_ms());
  };
  COFFER_CHECK(write_file_in_pieces(file, 0600, a.force, fill));
  const auto size = fs::file_size(file, e);
  if (a.json) {
    JsonWriter j;
    j.begin_object().field("file", file.string()).field("apps", apps).field("bytes", size).end_object();
    print_json(j);
  } else {
    print("Backed up " + std::to_string(apps) + " App" + (apps == 1 ? "" : "s") + " to " + file.string() +
          " (" + std::to_string(size) + " bytes).");
    print("Only this KMS key opens it: keep a copy of that elsewhere, and not beside the backup.");
  }
  return 0;
}

Result<int> vault_restore(Arguments &a) {
  const fs::path file = a.words.front();
  COFFER_TRY(const Home home, Home::find(a.engine));
  COFFER_TRY(const EngineConfig config, read_engine_config(home.engine_file()));
  if (home.agent_runs())
    return fail(ErrorCode::kFailedPrecondition, "`coffer agent` watches the Machines of this home",
                "Stop it first.");
  const auto named = [&](Error why) { return std::unexpected(std::move(why).in(file.string())); };

  // All of it is read before anything is changed.
  COFFER_TRY(const Kms kms, Kms::open(config.kms));
  RestorePlan plan;
  auto checking = open_backup(file, kms);
  if (!checking) return named(std::move(checking).error());
  const auto checked = check_backup(*checking, plan, [&](const BackupItem &item) -> Result<void> {
    const bool known = std::ranges::any_of(kFiles, [&](const HomeFile &f) { return item.key == f.name; });
    if (item.kind == BackupItem::Kind::kFile && !known)
      return fail(ErrorCode::kDataLoss, "the backup holds a file that this coffer does not know",
                  "It was made by a newer coffer; use that one.");
    return {};
  });
  if (!checked) return named(checked.error());

  COFFER_TRY(const Storage vault_store, Storage::open(config.storage));
  COFFER_TRY(const Storage keys_store, Storage::open(config.keys_storage));
  const bool again = home.restoring();
  if (again) {
    COFFER_CHECK(read_marker(home, plan));
  } else {
    COFFER_TRY(const bool used, in_use(vault_store, keys_store));
    if (used && !a.force)
      return fail(ErrorCode::kFailedPrecondition, "this home holds Apps already; nothing was changed",
                  "Restore into a new home, or add --force to put the backup in place of them.");
  }
  COFFER_CHECK(add_seen(keys_store, plan));

  // From here on no other command touches this home until the restore is complete.
  COFFER_CHECK(write_marker(home, plan));
  COFFER_TRY(const size_t ended, end_machines(home, config));
  COFFER_TRY(BackupReader from, open_backup(file, kms));
  const auto put_file = [&](std::string_view name, const SecretBytes &content) -> Result<void> {
    for (const HomeFile &f : kFiles) {
      if (f.name != name) continue;
      const fs::path path = home.dir() / name;
      std::error_code e;
      if (name != std::string_view(kRevoked) || !fs::exists(path, e))
        return replace_file(path, content.reveal(), f.mode);
      // A token that was revoked since stays revoked.
      COFFER_TRY(std::string both, read_trusted_file(path));
      std::istringstream lines{std::string(as_text(content.reveal()))};
      for (std::string line; std::getline(lines, line);)
        if (both.find(line + "\n") == both.npos) both += line + "\n";
      return replace_file(path, as_bytes(both), f.mode);
    }
    return {};
  };
  COFFER_CHECK(restore_stores(from, vault_store, keys_store, put_file));
  // What this client has seen may be newer than the backup.
  std::error_code ignored;
  fs::remove(home.dir() / "client/seen", ignored);

  COFFER_TRY(const Pins pins, home.pins());
  COFFER_TRY(const SecretBytes seed, home.writer_seed());
  COFFER_TRY(SigningKey writer, SigningKey::from_seed(seed.reveal()));
  COFFER_TRY(Storage vault_again, Storage::open(config.storage));
  COFFER_TRY(Storage keys_again, Storage::open(config.keys_storage));
  COFFER_TRY(Vault vault, Vault::open(std::move(vault_again), std::move(writer), pins));
  const AuditLog audit(home.audit_log("keys"));
  COFFER_TRY(KeyService keys,
             KeyService::open(
                 std::move(keys_again), [&] { return Kms::open(config.kms); }, pins.writers, now_ms, &audit));
  COFFER_TRY(const std::vector<RestoredApp> apps, restore_heads(vault, keys, plan, who()));
  COFFER_CHECK(keys.unlock());
  COFFER_CHECK(remove_file(home.restore_marker()));

  if (a.json) {
    JsonWriter j;
    j.begin_object().field("created_at", rfc3339(checked->created_ms)).field("machines_ended", ended);
    j.key("apps").begin_array();
    for (const RestoredApp &app : apps) {
      j.begin_object().field("name", app.name).field("version", app.version);
      j.field("restored_from", app.restored_from).end_object();
    }
    j.end_array().end_object();
    print_json(j);
  } else {
    print("Restored the backup of " + rfc3339(checked->created_ms) + ":");
    for (const RestoredApp &app : apps)
      if (app.problem.empty())
        print("  " + app.name + ": version " + std::to_string(app.restored_from) + ", now as version " +
              std::to_string(app.version));
    if (ended) print(std::to_string(ended) + " Machine" + (ended == 1 ? " was" : "s were") + " ended.");
    print("No Machine has access any more. Start each with `coffer machine start -a APP ID`.");
  }
  for (const RestoredApp &app : apps)
    if (!app.problem.empty())
      print_warning("App " + app.name + " was not whole when the backup was made: " + app.problem);
  return 0;
}

}  // namespace coffer::cli
