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
      // Tables of fly.toml about its proxy and about how a roll-out goes.
      static constexpr std::array<std::string_view, 4> kLater = {"checks", "deploy", "http_service",
                                                                 "services"};
      static constexpr std::array<std::string_view, 4> kAfterProcesses = {"files", "mounts", "restart", "vm"};
      if (key == "app")
        COFFER_CHECK(read_app(value));
      else if (key == "env")
        COFFER_CHECK(read_env(value));
      else if (key == "build")
        COFFER_CHECK(read_build(value));
      else if (key == "processes")
        COFFER_CHECK(read_processes(value));
      else if (key == "kill_signal") {
        COFFER_TRY(const std::string signal, text(value, "kill_signal"));
        COFFER_TRY(out_.stop_signal, checked(value, "kill_signal", parse_signal(signal)));
      } else if (key == "kill_timeout") {
        COFFER_TRY(const std::string time, text_or_number(value, "kill_timeout"));
        COFFER_TRY(out_.stop_timeout_ms, checked(value, "kill_timeout", parse_stop_timeout(time)));
      } else if (std::ranges::find(kLater, key.str()) == kLater.end() &&
                 std::ranges::find(kAfterProcesses, key.str()) == kAfterProcesses.end())
        ignore(key.str());
    }
    if (const toml::node *node = root.get("files")) COFFER_CHECK(read_files(*node));
    if (const toml::node *node = root.get("mounts")) COFFER_CHECK(read_mounts(*node));
    if (const toml::node *node = root.get("restart")) COFFER_CHECK(read_restart(*node));
    if (const toml::node *node = root.get("vm")) COFFER_CHECK(read_vm(*node));
    if (!ignored_.empty())
      out_.warning = shown(file_) + ": these keys are not known and were ignored: " + ignored_;
    return {};
  }

  std::unexpected<Error> wrong(const toml::source_region &at, const std::string &what) const {
    return fail(ErrorCode::kInvalidArgument,
                shown(file_) + ":" + std::to_string(at.begin.line) + ": " + what);
  }

 private:
  void ignore(std::string_view key) {
    if (!ignored_.empty()) ignored_ += ", ";
    ignored_ += printable(key, 128);
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
      const auto plain = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
               c == '-';
      };
      if (name.str().empty() || name.str().size() > 63 || !std::ranges::all_of(name.str(), plain))
        return wrong(name.source(), "a process has a name of 1 to 63 of A-Z, a-z, 0-9, _ and -");
      COFFER_TRY(const std::string command, text(value, key));
      auto words = split_command(command);
      if (!words) return wrong(value.source(), "'" + key + "': " + words.error().message);
      out_.processes[std::string(name.str())] = *std::move(words);
    }
    return {};
  }

  Result<void> read_files(const toml::node &node) {
    const toml::array *list = node.as_array();
    if (!list || !std::ranges::all_of(*list, [](const toml::node &n) { return n.is_table(); }))
      return wrong(node.source(), "'files' must be written as [[files]]");
    std::vector<std::string> paths;
    for (const toml::node &entry : *list) {
      COFFER_TRY(AppFile file, read_file_entry(*entry.as_table()));
      paths.push_back(file.guest_path);
      out_.files.push_back(std::move(file));
      // Checked as they come, so that the line is that of the second one.  Files of different processes never
      // meet, but two that differ only in that are more likely a mistake.
      if (const auto fine = check_guest_paths(paths); !fine)
        return wrong(entry.source(), "'files.guest_path': " + fine.error().message);
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
  std::string ignored_;
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
