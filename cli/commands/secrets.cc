// coffer secrets set | import | unset | list | plan | history | rollback | purge | deploy
#include <algorithm>
#include <set>

#include "../files.h"
#include "../rollout_report.h"
#include "coffer/config/dotenv.h"
#include "commands.h"

namespace coffer::cli {
namespace {

constexpr size_t kMaxImport = 256u << 20;

struct NamedValue {
  std::string name;
  SecretBytes value;
};

std::unexpected<Error> bad_argument(size_t position, const Error &e) {
  return fail(ErrorCode::kInvalidArgument, "argument " + std::to_string(position) + ": " + e.message,
              e.remedy);
}

// Whatever stands where a name is expected may be a value typed in the wrong place: only its position is
// told.
Result<std::vector<NamedValue>> gather(Arguments &a) {
  std::vector<NamedValue> out;
  bool stdin_used = false;
  size_t position = 0;
  const auto add = [&](std::string name, SecretBytes value) -> Result<void> {
    if (value.size() > kMaxValue)
      return fail(ErrorCode::kInvalidArgument, "secret " + name + ": the value has " +
                                                   std::to_string(value.size()) +
                                                   " bytes, the limit is 1,048,576");
    if (std::ranges::find(out, name, &NamedValue::name) != out.end())
      return fail(ErrorCode::kInvalidArgument, "secret " + name + " is given twice");
    out.push_back({std::move(name), std::move(value)});
    return {};
  };
  for (const std::string &word : a.words) {
    ++position;
    const size_t equals = word.find('=');
    std::string name = word.substr(0, equals);
    if (auto ok = check_secret_name(name); !ok) return bad_argument(position, ok.error());
    SecretBytes value;
    if (equals == std::string::npos) {
      COFFER_TRY(value, ask("Value of " + name + ": "));
    } else if (word.compare(equals, std::string::npos, "=-") == 0) {
      if (stdin_used)
        return fail(ErrorCode::kInvalidArgument, "standard input can only be the value of one secret");
      stdin_used = true;
      COFFER_TRY(value, read_stdin(kMaxValue, "the value of " + name));
    } else {
      // take_values() has left its index: if not, it and the parser do not agree what is a value.
      const std::string index = word.substr(equals + 1);
      if (index.size() < 2 || index.size() > 9 || index[0] != '#' ||
          index.find_first_not_of("0123456789", 1) != index.npos ||
          std::stoul(index.substr(1)) >= a.values.size())
        return fail(ErrorCode::kInvalidArgument,
                    "argument " + std::to_string(position) + ": its value could not be taken",
                    "Put global options in front, each on its own: `coffer -a APP secrets set NAME=VALUE`.");
      value = std::move(a.values[std::stoul(index.substr(1))].value);
    }
    COFFER_CHECK(add(std::move(name), std::move(value)));
  }
  for (size_t i = 0; i < a.from_file.size(); ++i) {
    const std::string &pair = a.from_file[i];
    const std::string which = "--from-file " + std::to_string(i + 1);
    const size_t equals = pair.find('=');
    if (equals == std::string::npos) return fail(ErrorCode::kInvalidArgument, which + ": expected NAME=PATH");
    std::string name = pair.substr(0, equals);
    if (auto ok = check_secret_name(name); !ok) return std::unexpected(std::move(ok).error().in(which));
    COFFER_TRY(SecretBytes value,
               read_file(pair.substr(equals + 1), kMaxValue, which + ", the file of " + name));
    COFFER_CHECK(add(std::move(name), std::move(value)));
  }
  if (out.empty())
    return fail(ErrorCode::kInvalidArgument, "no secret was given", "See `coffer secrets set --help`.");
  return out;
}

std::string count(size_t n, std::string_view one) {
  return std::to_string(n) + " " + std::string(one) + (n == 1 ? "" : "s");
}

std::string joined(const std::vector<std::string> &names) {
  constexpr size_t kShown = 10;
  std::string out;
  for (size_t i = 0; i < names.size() && i < kShown; ++i) out += (i ? ", " : "") + names[i];
  if (names.size() > kShown) out += " and " + std::to_string(names.size() - kShown) + " more";
  return out;
}

void write_names(JsonWriter &j, std::string_view key, const std::vector<std::string> &names) {
  j.key(key).begin_array();
  for (const std::string &n : names) j.value(n);
  j.end_array();
}

// What a change did, and its roll-out.
Result<int> finish(Arguments &a, Engine &engine, const App &app, const Changes &written,
                   std::string_view reason) {
  std::vector<std::string> changed = written.changed;
  changed.insert(changed.end(), written.removed.begin(), written.removed.end());
  RolloutResult rolled;
  if (!a.json) {
    if (!written.changed.empty())
      print(count(written.changed.size(), "secret") + " set: " + joined(written.changed));
    if (!written.removed.empty())
      print(count(written.removed.size(), "secret") + " removed: " + joined(written.removed));
    if (!written.unchanged.empty()) print("Unchanged: " + joined(written.unchanged));
    if (!written.unknown.empty()) print("Not set, so nothing to remove: " + joined(written.unknown));
    flush_stdout();
  }
  if (!a.stage) {
    COFFER_TRY(Control * control, engine.control());
    auto done = control->rollout(app, {std::string(reason), false, a.detach});
    if (!done && !changed.empty())
      return fail(done.error().code, done.error().message + "; the change is stored, and staged",
                  done.error().remedy);
    if (!done) return std::unexpected(done.error());
    rolled = *std::move(done);
  }
  const uint64_t version = std::max(written.version, rolled.version);
  // It went out with somebody else's.
  if (changed.empty()) rolled.already = 0;
  if (a.json) {
    JsonWriter j;
    j.begin_object().field("version", version).field("staged", a.stage);
    write_names(j, "changed", changed);
    write_names(j, "unchanged", written.unchanged);
    write_machines(j, rolled);
    j.end_object();
    print_json(j);
  } else if (a.stage) {
    if (!changed.empty())
      print("Staged: no Machine has the change yet. `coffer secrets deploy -a " + app.name() +
            "` brings it to them.");
  } else if (rolled.release) {
    print_rollout(rolled);
  } else if (rolled.already) {
    print("Release " + std::to_string(rolled.already) + " is out; another command rolled it out.");
  } else if (!changed.empty()) {
    print("No Machine is started; the next one that starts has the change.");
  }
  return outcome(app, rolled, ", and the change stays staged");
}

Result<Changes> seal_and_write(Engine &engine, App app, const std::vector<NamedValue> &values) {
  constexpr int kMaxTries = 20;
  COFFER_TRY(Control * control, engine.control());
  COFFER_TRY(const SecretBytes digest_key, control->digest_key(app));
  for (int tries = 1;; ++tries) {
    COFFER_TRY(Sealer sealer, Sealer::create(app.key, digest_key));
    std::vector<SealedSecret> sealed;
    sealed.reserve(values.size());
    for (const NamedValue &v : values) {
      COFFER_TRY(SealedSecret s, sealer.seal(v.name, v.value));
      sealed.push_back(std::move(s));
    }
    auto written = control->write(app, sealed, {});
    if (written || written.error().code != ErrorCode::kAborted || tries == kMaxTries) return written;
    // Its key may have been rotated meanwhile: again, for the new one.
    COFFER_TRY(App now, engine.app(app.name()));
    if (now.id() != app.id()) return written;
    app = std::move(now);
  }
}

}  // namespace

Result<int> secrets_set(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const App app, engine->app());  // a wrong App is told before a value is asked for
  COFFER_TRY(const std::vector<NamedValue> values, gather(a));
  if (!a.stage) catch_interrupts();
  COFFER_TRY(const Changes written, seal_and_write(*engine, app, values));
  return finish(a, *engine, app, written, "secrets set");
}

Result<int> secrets_import(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const App app, engine->app());
  SecretBytes input;
  if (a.words.empty() || a.words.front() == "-") {
    COFFER_TRY(input, read_stdin(kMaxImport, "the dotenv text"));
  } else {
    // `import NAME=VALUE` is a mistake that is easily made
    COFFER_TRY(input, read_file(a.words.front(), kMaxImport, "argument 1, the dotenv file"));
  }
  COFFER_TRY(std::vector<DotenvEntry> entries, parse_dotenv(input.reveal(), {.escapes = a.dotenv}));
  input.reset();
  if (entries.empty())
    return fail(ErrorCode::kInvalidArgument, "the input has no NAME=VALUE line; nothing was stored");
  std::vector<NamedValue> values;
  values.reserve(entries.size());
  for (DotenvEntry &e : entries) values.push_back({std::move(e.name), std::move(e.value)});
  if (!a.stage) catch_interrupts();
  COFFER_TRY(const Changes written, seal_and_write(*engine, app, values));
  return finish(a, *engine, app, written, "secrets import");
}

Result<int> secrets_unset(Arguments &a) {
  std::vector<std::string> names;
  for (size_t i = 0; i < a.words.size(); ++i) {
    if (auto ok = check_secret_name(a.words[i]); !ok) return bad_argument(i + 1, ok.error());
    if (std::ranges::find(names, a.words[i]) == names.end()) names.push_back(a.words[i]);
  }
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const App app, engine->app());
  if (!a.stage) catch_interrupts();
  COFFER_TRY(Control * control, engine->control());
  COFFER_TRY(const Changes written, control->write(app, {}, names));
  return finish(a, *engine, app, written, "secrets unset");
}

Result<int> secrets_list(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const App app, engine->app());
  COFFER_TRY(Control * control, engine->control());
  COFFER_TRY(const Control::Secrets secrets, control->secrets(app));
  const std::vector<SecretView> &all = secrets.all;
  size_t waiting = 0, partial = 0;
  if (a.json) {
    JsonWriter j;
    j.begin_array();
    for (const SecretView &s : all)
      j.begin_object()
          .field("name", s.entry.name)
          .field("digest", hex(s.entry.digest))
          .field("status", to_string(s.status))
          .field("version", s.entry.version)
          .field("created_at", rfc3339(s.entry.created_ms))
          .field("updated_at", rfc3339(s.entry.updated_ms))
          .end_object();
    j.end_array();
    print_json(j);
    return 0;
  }
  if (all.empty()) {
    print("App " + app.name() + " has no secrets. Set one with `coffer secrets set -a " + app.name() +
          " NAME=VALUE`.");
    return 0;
  }
  std::vector<std::vector<std::string>> table = {{"NAME", "DIGEST", "STATUS", "AGE"}};
  for (const SecretView &s : all) {
    waiting += s.status == SecretStatus::kStaged || s.status == SecretStatus::kRemoved;
    partial += s.status == SecretStatus::kPartial;
    table.push_back(
        {s.entry.name, hex(s.entry.digest), std::string(to_string(s.status)), age(s.entry.updated_ms)});
  }
  print_table(table);
  if (stdout_is_terminal() && waiting + partial > 0)
    print("\n" + count(waiting + partial, "secret") +
          " not on every started Machine. Deploy with `coffer secrets deploy -a " + app.name() + "`.");
  return 0;
}

Result<int> secrets_plan(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const App app, engine->app());
  COFFER_TRY(Control * control, engine->control());
  COFFER_TRY(const Plan plan, control->plan(app));
  if (a.json) {
    JsonWriter j;
    api::write(j, plan);
    print_json(j);
    return 0;
  }
  for (const auto &[name, change] : plan.secrets)
    print((change == PlannedChange::kAdd ? "+ " : change == PlannedChange::kChange ? "~ " : "- ") + name);
  if (plan.machines.empty()) {
    print("Nothing to deploy: no started Machine waits for version " + std::to_string(plan.version) + ".");
    return 0;
  }
  const auto effect = [](PlannedEffect e) {
    return e == PlannedEffect::kNone     ? "is not concerned"
           : e == PlannedEffect::kReload ? "reloads files"
                                         : "restarts";
  };
  for (const Plan::Machine &m : plan.machines)
    print("Machine " + m.name + " (" + m.id + "): " + effect(m.effect) + ", version " +
          std::to_string(m.version) + " to " + std::to_string(plan.version));
  print("Deploy with `coffer secrets deploy -a " + app.name() + "`.");
  return 0;
}

Result<int> secrets_history(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const App app, engine->app());
  COFFER_TRY(Control * control, engine->control());
  COFFER_TRY(std::vector<VersionView> all, control->history(app));
  if (!a.words.empty()) {
    const std::string &name = a.words.front();
    COFFER_CHECK(check_secret_name(name));
    const auto has = [&](const std::vector<std::string> &names) {
      return std::ranges::find(names, name) != names.end();
    };
    std::erase_if(all, [&](const VersionView &v) { return !has(v.set) && !has(v.removed); });
  }
  JsonWriter j;
  std::vector<std::vector<std::string>> table = {{"VERSION", "AGE", "BY", "CHANGES"}};
  j.begin_array();
  for (const VersionView &v : all) {
    std::string changes = v.set.empty() ? "" : "set " + joined(v.set);
    if (!v.removed.empty()) changes += (changes.empty() ? "" : "; ") + ("removed " + joined(v.removed));
    if (v.restored_from) changes += " (restored from " + std::to_string(v.restored_from) + ")";
    table.push_back({std::to_string(v.version), age(v.created_ms), v.who, changes.empty() ? "-" : changes});
    j.begin_object()
        .field("version", v.version)
        .field("created_at", rfc3339(v.created_ms))
        .field("who", v.who);
    write_names(j, "set", v.set);
    write_names(j, "removed", v.removed);
    j.end_object();
  }
  j.end_array();
  if (a.json)
    print_json(j);
  else if (all.empty())
    print(a.words.empty() ? "App " + app.name() + " has no secrets yet."
                          : "No version that is kept has set or removed " + a.words.front() + ".");
  else
    print_table(table);
  return 0;
}

Result<int> secrets_rollback(Arguments &a) {
  COFFER_TRY(const uint64_t version, number_argument(a, "version", "See `coffer secrets history`."));
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const App app, engine->app());
  if (!a.stage) catch_interrupts();
  COFFER_TRY(Control * control, engine->control());
  COFFER_TRY(const Control::Secrets before, control->secrets(app));
  COFFER_TRY(const uint64_t now, control->roll_back_secrets(app, version));
  COFFER_TRY(const Control::Secrets after, control->secrets(app));
  Changes changes;
  changes.version = now;
  std::set<std::string_view> there;
  for (const SecretView &s : after.all) {
    if (s.status == SecretStatus::kRemoved) continue;
    there.insert(s.entry.name);
    if (s.entry.version == now && now > before.version) changes.changed.push_back(s.entry.name);
  }
  for (const SecretView &s : before.all)
    if (s.status != SecretStatus::kRemoved && !there.contains(s.entry.name))
      changes.removed.push_back(s.entry.name);
  if (now == before.version && !a.json) print("Nothing to roll back: the secrets are those of that version.");
  return finish(a, *engine, app, changes, "secrets rollback");
}

Result<int> secrets_purge(Arguments &a) {
  const std::string &name = a.words.front();
  if (auto ok = check_secret_name(name); !ok) return bad_argument(1, ok.error());
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const App app, engine->app());
  COFFER_TRY(Control * control, engine->control());
  COFFER_TRY(const Deployer::Purged purged, control->purge(app, name));
  if (a.json) {
    JsonWriter j;
    api::write(j, purged);
    print_json(j);
    return 0;
  }
  print("Older values of " + name + " are forgotten, and with them all versions before " +
        std::to_string(purged.version) + ": " + count(purged.records, "record") +
        ". Backups still have them.");
  return 0;
}

Result<int> secrets_deploy(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const App app, engine->app());
  catch_interrupts();
  COFFER_TRY(Control * control, engine->control());
  COFFER_TRY(const std::vector<MachineSummary> machines, control->machines(app));
  if (machines.empty())
    return fail(ErrorCode::kNotFound, "App " + app.name() + " has no Machines to deploy to",
                "Create one with `coffer machine run`; it has the newest secrets at once.");
  COFFER_TRY(const Control::Secrets before, control->secrets(app));
  Changes nothing;
  nothing.version = before.version;
  if (!a.json) {
    std::vector<std::string> names;
    for (const SecretView &s : before.all)
      if (s.status != SecretStatus::kDeployed) names.push_back(s.entry.name);
    print(names.empty() ? "Every started Machine has the newest secrets." : "Deploying: " + joined(names));
    flush_stdout();
  }
  return finish(a, *engine, app, nothing, "secrets deploy");
}

}  // namespace coffer::cli
