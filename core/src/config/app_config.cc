#include "coffer/config/app_config.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "coffer/base/names.h"
#include "coffer/base/text.h"
#include "coffer/config/machine_options.h"

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace coffer {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLargestFile = 1 << 20;

std::string shown(const fs::path &p) { return printable(p.native(), 4096); }

class Reader {
 public:
  Reader(AppConfig &out, const fs::path &file) : out_(out), file_(file) {}

  Result<void> read(const toml::table &root) {
    for (const auto &[key, value] : root) {
      static constexpr std::array<std::string_view, 7> kAfterProcesses = {
          "checks", "files", "http_service", "mounts", "restart", "services", "vm"};
      if (key == "app")
        COFFER_CHECK(read_app(value));
      else if (key == "env")
        COFFER_CHECK(read_env(value));
      else if (key == "build")
        COFFER_CHECK(read_build(value));
      else if (key == "processes")
        COFFER_CHECK(read_processes(value));
      else if (key == "deploy")
        COFFER_CHECK(read_deploy(value));
      else if (key == "kill_signal") {
        COFFER_TRY(const std::string signal, text(value, "kill_signal"));
        COFFER_TRY(out_.stop_signal, checked(value, "kill_signal", parse_signal(signal)));
      } else if (key == "kill_timeout") {
        COFFER_TRY(const std::string time, text_or_number(value, "kill_timeout"));
        COFFER_TRY(out_.stop_timeout_ms, checked(value, "kill_timeout", parse_stop_timeout(time)));
      } else if (std::ranges::find(kAfterProcesses, key.str()) == kAfterProcesses.end())
        ignore(key.str());
    }
    if (const toml::node *node = root.get("files")) COFFER_CHECK(read_files(*node));
    if (const toml::node *node = root.get("mounts")) COFFER_CHECK(read_mounts(*node));
    if (const toml::node *node = root.get("restart")) COFFER_CHECK(read_restart(*node));
    if (const toml::node *node = root.get("vm")) COFFER_CHECK(read_vm(*node));
    if (const toml::node *node = root.get("checks")) COFFER_CHECK(read_checks(*node));
    if (const toml::node *node = root.get("services")) COFFER_CHECK(read_services(*node, "services"));
    if (const toml::node *node = root.get("http_service")) COFFER_CHECK(read_services(*node, "http_service"));
    if (!ignored_.empty()) {
      std::string names;
      for (const std::string &name : ignored_) names += (names.empty() ? "" : ", ") + name;
      warn("these keys are not known and were ignored: " + names);
    }
    return {};
  }

  std::unexpected<Error> wrong(const toml::source_region &at, const std::string &what) const {
    return fail(ErrorCode::kInvalidArgument,
                shown(file_) + ":" + std::to_string(at.begin.line) + ": " + what);
  }

 private:
  void ignore(std::string_view key) {
    std::string name = printable(key, 128);
    if (std::ranges::find(ignored_, name) == ignored_.end()) ignored_.push_back(std::move(name));
  }

  void warn(const std::string &what) {
    out_.warning += (out_.warning.empty() ? shown(file_) + ": " : "; ") + what;
  }

  // What a C string can hold.
  Result<std::string> text(const toml::node &node, const std::string &key) const {
    const auto *value = node.as_string();
    if (!value) return wrong(node.source(), "'" + key + "' must be a string");
    if (value->get().find('\0') != std::string::npos)
      return wrong(node.source(), "'" + key + "' must not have a NUL character");
    return value->get();
  }
  Result<std::string> text_or_number(const toml::node &node, const std::string &key) const {
    if (const auto *number = node.as_integer()) return std::to_string(number->get());
    return text(node, key);
  }
  template <class T>
  Result<T> checked(const toml::node &node, const std::string &key, Result<T> parsed) const {
    if (!parsed) return wrong(node.source(), "'" + key + "': " + parsed.error().message);
    return parsed;
  }
  Result<bool> flag(const toml::node &node, const std::string &key) const {
    const auto *value = node.as_boolean();
    if (!value) return wrong(node.source(), "'" + key + "' must be true or false");
    return value->get();
  }
  Result<uint16_t> port(const toml::node &node, const std::string &key) const {
    const auto *value = node.as_integer();
    if (!value || value->get() < 1 || value->get() > 65535)
      return wrong(node.source(), "'" + key + "' must be a port: a number from 1 to 65535");
    return static_cast<uint16_t>(value->get());
  }
  Result<uint64_t> duration(const toml::node &node, const std::string &key) const {
    if (node.is_integer())
      return wrong(node.source(), "'" + key + "' must have its unit, in quotes, as in \"10s\"");
    COFFER_TRY(const std::string time, text(node, key));
    return checked(node, key, parse_duration(time));
  }
  // A bare number counts seconds.
  Result<uint64_t> seconds(const toml::node &node, const std::string &key, uint64_t most_ms) const {
    COFFER_TRY(std::string time, text_or_number(node, key));
    if (!time.empty() && time.back() >= '0' && time.back() <= '9') time += 's';
    COFFER_TRY(const uint64_t ms, checked(node, key, parse_duration(time)));
    if (ms > most_ms)
      return wrong(node.source(),
                   "'" + key + "' is at most " + std::to_string(most_ms / 60'000) + " minutes");
    return ms;
  }
  static bool plain_name(std::string_view name) {
    return !name.empty() && name.size() <= 63 && std::ranges::all_of(name, [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
             c == '-';
    });
  }
  // [[SECTION]], and [SECTION] for a single one, as fly.toml may have it.
  Result<std::vector<const toml::table *>> tables(const toml::node &node, const std::string &key) const {
    std::vector<const toml::table *> out;
    if (const toml::table *one = node.as_table()) out.push_back(one);
    if (const toml::array *list = node.as_array())
      for (const toml::node &entry : *list) {
        if (!entry.is_table())
          return wrong(node.source(), "'" + key + "' must be written as [[" + key + "]]");
        out.push_back(entry.as_table());
      }
    if (out.empty()) return wrong(node.source(), "'" + key + "' must be written as [[" + key + "]]");
    return out;
  }
  Result<const toml::table *> table(const toml::node &node, const std::string &key) const {
    if (!node.is_table()) return wrong(node.source(), "'" + key + "' must be a table");
    return node.as_table();
  }

  Result<void> read_app(const toml::node &node) {
    COFFER_TRY(out_.app, text(node, "app"));
    if (const auto fine = check_app_name(out_.app); !fine)
      return wrong(node.source(), "'app': " + fine.error().message);
    return {};
  }

  Result<void> read_env(const toml::node &node) {
    COFFER_TRY(const toml::table *env, table(node, "env"));
    for (const auto &[name, value] : *env) {
      const std::string key = "env." + printable(name.str(), 128);
      if (name.str().empty() ||
          name.str().find_first_of(std::string_view("=\0", 2)) != std::string_view::npos)
        return wrong(name.source(), "'env' has a variable whose name is not possible");
      std::string &to = out_.env[std::string(name.str())];
      if (const auto *number = value.as_integer()) {
        to = std::to_string(number->get());
      } else if (const auto *flag = value.as_boolean()) {
        to = flag->get() ? "true" : "false";
      } else if (value.is_string()) {
        COFFER_TRY(to, text(value, key));
      } else {
        return wrong(value.source(), "'" + key + "' must be a string: put it in quotes");
      }
    }
    return {};
  }

  Result<void> read_build(const toml::node &node) {
    COFFER_TRY(const toml::table *build, table(node, "build"));
    for (const auto &[key, value] : *build) {
      if (key == "image") {
        COFFER_TRY(out_.image, text(value, "build.image"));
      } else if (key == "pull") {
        COFFER_TRY(out_.pull, flag(value, "build.pull"));
      } else {
        ignore("build." + std::string(key.str()));
      }
    }
    return {};
  }

  Result<void> read_processes(const toml::node &node) {
    COFFER_TRY(const toml::table *processes, table(node, "processes"));
    for (const auto &[name, value] : *processes) {
      const std::string key = "processes." + printable(name.str(), 128);
      if (!plain_name(name.str()))
        return wrong(name.source(), "a process has a name of 1 to 63 of A-Z, a-z, 0-9, _ and -");
      auto &words = out_.processes[std::string(name.str())];
      if (const toml::table *more = value.as_table()) {
        COFFER_CHECK(read_process(*more, key, std::string(name.str()), words));
      } else {
        COFFER_TRY(words, read_command(value, key));
      }
    }
    return {};
  }

  Result<std::vector<std::string>> read_command(const toml::node &node, const std::string &key) const {
    COFFER_TRY(const std::string command, text(node, key));
    return checked(node, key, split_command(command));
  }

  Result<void> read_process(const toml::table &process, const std::string &where, const std::string &name,
                            std::vector<std::string> &words) {
    for (const auto &[key, value] : process) {
      const std::string full = where + "." + std::string(key.str());
      if (key == "command") {
        COFFER_TRY(words, read_command(value, full));
      } else if (key == "secrets") {
        COFFER_CHECK(read_variables(value, full, out_.process_secrets[name]));
      } else {
        ignore(full);
      }
    }
    return {};
  }

  Result<void> read_variables(const toml::node &node, const std::string &key,
                              std::vector<SecretVariable> &out) {
    const toml::array *list = node.as_array();
    if (!list) return wrong(node.source(), "'" + key + "' must be a list");
    for (const toml::node &entry : *list) {
      SecretVariable v;
      if (const toml::table *renamed = entry.as_table()) {
        for (const auto &[part, value] : *renamed) {
          const std::string full = key + "." + std::string(part.str());
          if (part == "name") {
            COFFER_TRY(v.secret, text(value, full));
          } else if (part == "env_var") {
            COFFER_TRY(v.variable, text(value, full));
          } else {
            ignore(full);
          }
        }
        if (v.secret.empty()) return wrong(entry.source(), "'" + key + "' has an entry without 'name'");
      } else {
        COFFER_TRY(v.secret, text(entry, key));
      }
      if (v.variable.empty()) v.variable = v.secret;
      out.push_back(std::move(v));
      if (const auto fine = check_variables(out); !fine)
        return wrong(entry.source(), "'" + key + "': " + fine.error().message);
    }
    return {};
  }

  Result<void> read_deploy(const toml::node &node) {
    COFFER_TRY(const toml::table *deploy, table(node, "deploy"));
    for (const auto &[key, value] : *deploy) {
      const std::string name = "deploy." + std::string(key.str());
      if (key == "strategy") {
        COFFER_TRY(const std::string strategy, text(value, name));
        if (strategy == "immediate")
          out_.deploy.strategy = Strategy::kImmediate;
        else if (strategy == "rolling" || strategy == "canary" || strategy == "bluegreen")
          out_.deploy.strategy = Strategy::kRolling;
        else
          return wrong(value.source(), "'" + name + "': expected rolling or immediate");
        if (strategy == "canary" || strategy == "bluegreen")
          warn("'" + name + "' " + strategy + " is done as rolling");
      } else if (key == "max_unavailable") {
        COFFER_TRY(out_.deploy.max_unavailable, read_unavailable(value, name));
      } else if (key == "wait_timeout") {
        COFFER_TRY(out_.deploy.patience_ms, seconds(value, name, 24 * 60 * 60'000));
        if (*out_.deploy.patience_ms == 0) return wrong(value.source(), "'" + name + "' is more than 0");
      } else if (key == "smoke_time") {
        COFFER_TRY(out_.deploy.smoke_ms, seconds(value, name, 10 * 60'000));
      } else if (key == "release_command") {
        COFFER_TRY(out_.release_command, text(value, name));
      } else {
        ignore(name);
      }
    }
    return {};
  }

  // A share is written as a fraction, a number of Machines as a whole number.
  Result<uint32_t> read_unavailable(const toml::node &node, const std::string &key) const {
    if (const auto *count = node.as_integer(); count && count->get() >= 1 && count->get() <= 1'000'000)
      return static_cast<uint32_t>(1000 + count->get());
    if (const auto *share = node.as_floating_point(); share && share->get() > 0 && share->get() <= 1)
      return std::max(1u, static_cast<uint32_t>(share->get() * 1000 + 0.5));
    return wrong(node.source(), "'" + key + "' must be a share from 0.001 to 1.0, or a number of Machines");
  }

  Result<void> read_checks(const toml::node &node) {
    COFFER_TRY(const toml::table *checks, table(node, "checks"));
    for (const auto &[name, value] : *checks) {
      const std::string key = "checks." + printable(name.str(), 128);
      if (!plain_name(name.str()))
        return wrong(name.source(), "a check has a name of 1 to 63 of A-Z, a-z, 0-9, _ and -");
      COFFER_TRY(const toml::table *entry, table(value, key));
      ForProcesses<Check> check;
      check.what.name = name.str();
      const toml::node *type = entry->get("type");
      if (!type) return wrong(value.source(), "'" + key + "' must have 'type'");
      COFFER_TRY(const std::string kind, text(*type, key + ".type"));
      if (kind == "tcp")
        check.what.kind = Check::Kind::kTcp;
      else if (kind == "http")
        check.what.kind = Check::Kind::kHttp;
      else if (kind == "command")
        check.what.kind = Check::Kind::kCommand;
      else
        return wrong(type->source(), "'" + key + ".type': expected tcp, http or command");
      COFFER_CHECK(read_check(*entry, key, std::move(check)));
    }
    return {};
  }

  // `check` has its name and kind, and its port if it is one of a service.
  Result<void> read_check(const toml::table &entry, const std::string &where, ForProcesses<Check> check) {
    const bool of_service = check.what.port != 0, command = check.what.kind == Check::Kind::kCommand;
    for (const auto &[key, value] : entry) {
      const std::string name = where + "." + std::string(key.str());
      if (key == "type" && !of_service) continue;
      if (key == "port" && !of_service && !command) {
        COFFER_TRY(check.what.port, port(value, name));
      } else if (key == "method" && check.what.kind == Check::Kind::kHttp) {
        COFFER_TRY(check.what.method, text(value, name));
        std::ranges::transform(check.what.method, check.what.method.begin(),
                               [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
      } else if (key == "path" && check.what.kind == Check::Kind::kHttp) {
        COFFER_TRY(check.what.path, text(value, name));
      } else if (key == "command" && command) {
        COFFER_TRY(check.what.command, read_command(value, name));
      } else if (key == "grace_period") {
        COFFER_TRY(check.what.grace_ms, duration(value, name));
      } else if (key == "interval") {
        COFFER_TRY(check.what.interval_ms, duration(value, name));
      } else if (key == "timeout") {
        COFFER_TRY(check.what.timeout_ms, duration(value, name));
      } else if (key == "processes" && !of_service) {
        COFFER_TRY(check.processes, read_process_names(value, name));
      } else {
        ignore(name);
      }
    }
    if (check.what.kind == Check::Kind::kHttp && check.what.path.empty()) check.what.path = "/";
    if (const auto fine = check_check(check.what); !fine)
      return wrong(entry.source(), "'" + where + "': " + fine.error().message);
    out_.checks.push_back(std::move(check));
    return {};
  }

  // [[services]], and [http_service], whose ports are those of Fly's proxy.  Names of checks are made of
  // their place; the dots set them apart from those of [checks].
  Result<void> read_services(const toml::node &node, const std::string &section) {
    COFFER_TRY(const auto entries, tables(node, section));
    for (size_t n = 0; n < entries.size(); ++n) {
      const toml::table &entry = *entries[n];
      ForProcesses<Port> published;
      bool has_more = false;
      std::vector<std::pair<std::string, Check::Kind>> lists;  // of checks
      for (const auto &[key, value] : entry) {
        const std::string name = section + "." + std::string(key.str());
        if (key == "internal_port") {
          COFFER_TRY(published.what.port, port(value, name));
        } else if (key == "processes") {
          COFFER_TRY(published.processes, read_process_names(value, name));
        } else if (section == "http_service") {
          if (key == "checks")
            lists.emplace_back(key.str(), Check::Kind::kHttp);
          else
            ignore(name);
        } else if (key == "protocol") {
          COFFER_TRY(const std::string protocol, text(value, name));
          if (protocol != "tcp" && protocol != "udp")
            return wrong(value.source(), "'" + name + "': expected tcp or udp");
          published.what.udp = protocol == "udp";
        } else if (key == "tcp_checks" || key == "http_checks") {
          lists.emplace_back(key.str(), key == "tcp_checks" ? Check::Kind::kTcp : Check::Kind::kHttp);
        } else if (key == "ports") {
          has_more = true;
        } else {
          ignore(name);
        }
      }
      if (published.what.port == 0 && (has_more || !lists.empty()))
        return wrong(entry.source(), "'" + section + "' must have 'internal_port'");
      if (has_more) COFFER_CHECK(read_published(*entry.get("ports"), published));
      for (const auto &[list, kind] : lists) {
        const std::string name = section + "." + list;
        COFFER_TRY(const auto checks, tables(*entry.get(list), name));
        for (size_t i = 0; i < checks.size(); ++i) {
          ForProcesses<Check> check;
          check.what.name = section + "." + (section == "services" ? std::to_string(n + 1) + "." : "") +
                            (list == "checks" ? "" : list.substr(0, list.find('_')) + ".") +
                            std::to_string(i + 1);
          check.what.kind = kind;
          check.what.port = published.what.port;
          check.processes = published.processes;
          COFFER_CHECK(read_check(*checks[i], name, std::move(check)));
        }
      }
    }
    return {};
  }

  Result<void> read_published(const toml::node &node, const ForProcesses<Port> &service) {
    COFFER_TRY(const auto entries, tables(node, "services.ports"));
    for (const toml::table *entry : entries)
      for (const auto &[key, value] : *entry) {
        const std::string name = "services.ports." + std::string(key.str());
        if (key == "port") {
          ForProcesses<Port> published = service;
          COFFER_TRY(published.what.host_port, port(value, name));
          out_.ports.push_back(std::move(published));
        } else {
          ignore(name);
        }
      }
    return {};
  }

  Result<void> read_files(const toml::node &node) {
    const toml::array *list = node.as_array();
    if (!list || !std::ranges::all_of(*list, [](const toml::node &n) { return n.is_table(); }))
      return wrong(node.source(), "'files' must be written as [[files]]");
    std::vector<std::string> paths;
    std::vector<std::pair<std::string, std::string>> reloads;
    for (const toml::node &entry : *list) {
      COFFER_TRY(AppFile file, read_file_entry(*entry.as_table()));
      paths.push_back(file.guest_path);
      reloads.emplace_back(file.guest_path, file.reload);
      out_.files.push_back(std::move(file));
      // Checked as they come, so that the line is that of the second one.  Files of different processes never
      // meet, but two that differ only in that are more likely a mistake.
      if (const auto fine = check_guest_paths(paths); !fine)
        return wrong(entry.source(), "'files.guest_path': " + fine.error().message);
      if (const auto fine = check_reload(reloads); !fine)
        return wrong(entry.source(), "'files.reload': " + fine.error().message);
    }
    return {};
  }

  Result<AppFile> read_file_entry(const toml::table &entry) {
    AppFile file;
    bool has_mode = false;
    int sources = 0;
    for (const auto &[key, value] : entry) {
      const std::string name = "files." + std::string(key.str());
      if (key == "guest_path") {
        COFFER_TRY(file.guest_path, text(value, name));
        if (const auto fine = check_guest_path(file.guest_path); !fine)
          return wrong(value.source(), "'" + name + "': " + fine.error().message);
      } else if (key == "secret_name") {
        COFFER_TRY(file.secret_name, text(value, name));
        if (const auto fine = check_secret_name(file.secret_name); !fine)
          return wrong(value.source(), "'" + name + "': " + fine.error().message);
        ++sources;
      } else if (key == "raw_value") {
        const auto *raw = value.as_string();  // any text, also with a NUL
        if (!raw) return wrong(value.source(), "'" + name + "' must be a string");
        file.raw_value = raw->get();
        ++sources;
      } else if (key == "local_path") {
        COFFER_TRY(const std::string path, text(value, name));
        if (path.empty()) return wrong(value.source(), "'" + name + "' is empty");
        file.local_path = (file_.parent_path() / path).lexically_normal();
        ++sources;
      } else if (key == "mode") {
        COFFER_TRY(file.mode, read_mode(value, name));
        has_mode = true;
      } else if (key == "processes") {
        COFFER_TRY(file.processes, read_process_names(value, name));
      } else if (key == "env") {
        COFFER_TRY(file.env, flag(value, name));
      } else if (key == "reload") {
        COFFER_TRY(const std::string reload, text(value, name));
        COFFER_TRY(file.reload, checked(value, name, parse_reload(reload)));
      } else {
        ignore(name);
      }
    }
    if (file.guest_path.empty()) return wrong(entry.source(), "[[files]] without 'guest_path'");
    if (sources != 1)
      return wrong(entry.source(),
                   "[[files]] must have exactly one of 'secret_name', 'raw_value' and 'local_path'");
    if (file.env && file.secret_name.empty())
      return wrong(entry.source(), "'files.env' is for files with 'secret_name'");
    if (!file.reload.empty() && file.secret_name.empty())
      return wrong(entry.source(), "'files.reload' is for files with 'secret_name'");
    if (!has_mode && !file.secret_name.empty()) file.mode = 0400;
    return file;
  }

  // "0400" or 0o400; a decimal 400 would be 0620.
  Result<uint32_t> read_mode(const toml::node &node, const std::string &key) const {
    if (const auto *text = node.as_string()) {
      auto mode = parse_mode(text->get());
      if (!mode) return wrong(node.source(), "'" + key + "': " + mode.error().message);
      return mode;
    }
    const auto *number = node.as_integer();
    if (!number || (number->flags() & toml::value_flags::format_as_octal) == toml::value_flags::none)
      return wrong(node.source(), "'" + key + "' must be octal in quotes, as in \"0400\"");
    if (number->get() > 0777) return wrong(node.source(), "'" + key + "' is at most 0777");
    return static_cast<uint32_t>(number->get());
  }

  Result<std::vector<std::string>> read_process_names(const toml::node &node, const std::string &key) const {
    const toml::array *list = node.as_array();
    if (!list) return wrong(node.source(), "'" + key + "' must be a list of names");
    std::vector<std::string> names;
    for (const toml::node &name : *list) {
      COFFER_TRY(const std::string process, text(name, key));
      if (!out_.processes.contains(process) && !(out_.processes.empty() && process == "app"))
        return wrong(name.source(), "'" + key + "' names a process that [processes] does not have");
      names.push_back(process);
    }
    return names;
  }

  Result<void> read_mounts(const toml::node &node) {
    COFFER_TRY(const auto entries, tables(node, "mounts"));
    for (const toml::table *entry : entries) {
      ForProcesses<Mount> mount;
      for (const auto &[key, value] : *entry) {
        const std::string name = "mounts." + std::string(key.str());
        if (key == "source") {
          COFFER_TRY(mount.what.source, text(value, name));
        } else if (key == "destination") {
          COFFER_TRY(mount.what.target, text(value, name));
        } else if (key == "processes") {
          COFFER_TRY(mount.processes, read_process_names(value, name));
        } else {
          ignore(name);
        }
      }
      if (mount.what.source.empty() || mount.what.target.empty())
        return wrong(entry->source(), "[[mounts]] must have 'source' and 'destination'");
      if (const auto fine = check_mount(mount.what); !fine)
        return wrong(entry->source(), "[[mounts]]: " + fine.error().message);
      out_.mounts.push_back(std::move(mount));
    }
    return {};
  }

  Result<void> read_restart(const toml::node &node) {
    COFFER_TRY(const auto entries, tables(node, "restart"));
    for (const toml::table *entry : entries) {
      ForProcesses<RestartPolicy> restart{RestartPolicy::kOnFailure, {}};
      for (const auto &[key, value] : *entry) {
        const std::string name = "restart." + std::string(key.str());
        if (key == "policy") {
          COFFER_TRY(const std::string policy, text(value, name));
          COFFER_TRY(restart.what, checked(value, name, parse_restart(policy)));
        } else if (key == "processes") {
          COFFER_TRY(restart.processes, read_process_names(value, name));
        } else {
          ignore(name);
        }
      }
      out_.restart.push_back(std::move(restart));
    }
    return {};
  }

  Result<void> read_vm(const toml::node &node) {
    COFFER_TRY(const auto entries, tables(node, "vm"));
    for (const toml::table *entry : entries) {
      ForProcesses<uint64_t> memory;
      bool given = false;
      for (const auto &[key, value] : *entry) {
        const std::string name = "vm." + std::string(key.str());
        if (key == "memory" || key == "memory_mb") {
          // A bare number counts megabytes here, as on Fly.
          COFFER_TRY(std::string size, text_or_number(value, name));
          if (!size.empty() && size.back() >= '0' && size.back() <= '9') size += "mb";
          COFFER_TRY(memory.what, checked(value, name, parse_memory(size)));
          given = true;
        } else if (key == "processes") {
          COFFER_TRY(memory.processes, read_process_names(value, name));
        } else {
          ignore(name);
        }
      }
      if (given) out_.memory.push_back(std::move(memory));
    }
    return {};
  }

  AppConfig &out_;
  const fs::path &file_;
  std::vector<std::string> ignored_;
};

}  // namespace

Result<std::vector<std::string>> split_command(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  bool in_word = false;
  char quote = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quote == '\'') {
      if (c == '\'')
        quote = 0;
      else
        word += c;
    } else if (c == '\\') {
      if (i + 1 == text.size()) return fail(ErrorCode::kInvalidArgument, "it ends with a backslash");
      const char next = text[++i];
      if (next == '\n') continue;
      if (quote && next != '"' && next != '\\' && next != '$' && next != '`') word += c;
      word += next;
      in_word = true;
    } else if (quote) {
      if (c == quote)
        quote = 0;
      else
        word += c;
    } else if (c == '"' || c == '\'') {
      quote = c;
      in_word = true;
    } else if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
      if (in_word) words.push_back(std::move(word));
      word.clear();
      in_word = false;
    } else {
      word += c;
      in_word = true;
    }
  }
  if (quote) return fail(ErrorCode::kInvalidArgument, "a quote is not closed");
  if (in_word) words.push_back(std::move(word));
  return words;
}

Result<AppConfig> parse_app_config(std::string_view text, const fs::path &file) {
  AppConfig out;
  Reader reader(out, file);
  const toml::parse_result parsed = toml::parse(text);
  // The library's own description can quote the text.
  if (!parsed) return reader.wrong(parsed.error().source(), "this is not TOML");
  COFFER_CHECK(reader.read(parsed.table()));
  return out;
}

Result<AppConfig> read_app_config(const fs::path &file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) {
    const int why = errno;
    if (why == ENOENT || why == ENOTDIR)
      return fail(ErrorCode::kNotFound, "there is no App config " + shown(file));
    return fail(ErrorCode::kPermissionDenied, shown(file) + " cannot be opened: " + std::strerror(why));
  }
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } const closer{fd};
  struct stat st;
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
    return fail(ErrorCode::kInvalidArgument, shown(file) + " is not a regular file");
  std::string text(kLargestFile + 1, '\0');
  size_t have = 0;
  while (have < text.size()) {
    const ssize_t n = ::read(fd, text.data() + have, text.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(ErrorCode::kUnavailable, shown(file) + " cannot be read");
    if (n == 0) break;
    have += static_cast<size_t>(n);
  }
  if (have > kLargestFile) return fail(ErrorCode::kInvalidArgument, shown(file) + " is larger than 1 MiB");
  text.resize(have);
  return parse_app_config(text, file);
}

std::optional<fs::path> find_app_config(const fs::path &folder) {
  for (const char *name : {"coffer.toml", "fly.toml"})
    if (std::error_code ignored; fs::exists(folder / name, ignored)) return folder / name;
  return std::nullopt;
}

}  // namespace coffer
