#include "coffer/config/engine_config.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "coffer/base/text.h"
#include "coffer/config/machine_options.h"

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace coffer {
namespace {

namespace fs = std::filesystem;

constexpr off_t kLargestFile = 1 << 20;

std::string shown(const fs::path &p) { return printable(p.native(), 4096); }

Result<std::string> read_file(const fs::path &file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const int why = errno;
    if (why == ENOENT || why == ENOTDIR)
      return fail(ErrorCode::kNotFound, "there is no engine config " + shown(file), "coffer init");
    return fail(ErrorCode::kPermissionDenied, shown(file) + " cannot be opened: " + std::strerror(why));
  }
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } const closer{fd};
  struct stat st;
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
    return fail(ErrorCode::kInvalidArgument, shown(file) + " is not a regular file");
  if (st.st_uid != 0 && st.st_uid != ::geteuid())
    return fail(ErrorCode::kPermissionDenied,
                shown(file) + " belongs to user " + std::to_string(st.st_uid) +
                    ", who is neither root nor you, and names the code to load",
                "chown root " + shown(file));
  if (st.st_mode & 022)
    return fail(ErrorCode::kPermissionDenied,
                shown(file) + " is writable by others and names the code to load",
                "chmod go-w " + shown(file));
  if (st.st_size > kLargestFile)
    return fail(ErrorCode::kInvalidArgument, shown(file) + " is larger than 1 MiB");
  std::string text(static_cast<size_t>(st.st_size) + 1, '\0');
  size_t have = 0;
  while (have < text.size()) {
    const ssize_t n = ::read(fd, text.data() + have, text.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(ErrorCode::kUnavailable, shown(file) + " cannot be read");
    if (n == 0) break;
    have += static_cast<size_t>(n);
  }
  text.resize(have);
  return text;
}

std::string json_string(std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      out += {'\\', c};
    else if (static_cast<unsigned char>(c) < 0x20)
      out += std::string("\\u00") + kHex[c >> 4] + kHex[c & 15];
    else
      out += c;
  }
  return out + '"';
}

class Reader {
 public:
  explicit Reader(EngineConfig &out) : out_(out) {}

  Result<void> read(const toml::table &root) {
    static constexpr std::array<std::string_view, 9> kKnown = {
        "agent", "api", "deploy", "injector", "keys", "kms", "plugin_dir", "runtime", "storage"};
    COFFER_CHECK(only(root, kKnown, ""));
    COFFER_CHECK(plugin_dir(root));
    out_.storage = blank("[storage]");
    out_.kms = blank("[kms]");
    out_.runtime = blank("[runtime]");
    out_.keys_storage = preset("[keys.storage]", "storage-sqlite");
    out_.agent_storage = preset("[agent.storage]", "storage-sqlite");
    COFFER_CHECK(plugin_table(root, "storage", out_.storage));
    COFFER_CHECK(plugin_table(root, "kms", out_.kms));
    COFFER_CHECK(plugin_table(root, "runtime", out_.runtime));
    out_.runtime.state_dir = out_.base_dir / "machines";
    out_.runtime.ambient = true;  // `docker login`, $XDG_RUNTIME_DIR
    static constexpr std::array<std::string_view, 4> kKeys = {"agents", "api", "socket", "storage"};
    COFFER_TRY(const toml::table *of_keys, role(root, "keys", kKeys, out_.keys_storage));
    if (of_keys) COFFER_CHECK(keys(*of_keys));
    COFFER_CHECK(api(root));
    COFFER_CHECK(deploy(root));
    static constexpr std::array<std::string_view, 6> kAgent = {"api",    "ca",      "mounts",
                                                               "socket", "storage", "users"};
    COFFER_TRY(const toml::table *of_agent, role(root, "agent", kAgent, out_.agent_storage));
    if (of_agent) {
      COFFER_CHECK(
          list(*of_agent, "agent.", "api", "URLs", "unix:///run/coffer-api/api.sock", out_.agent_apis));
      COFFER_CHECK(path(*of_agent, "agent.", "ca", out_.agent_ca));
      COFFER_CHECK(list(*of_agent, "agent.", "mounts", "absolute paths", "/srv/web", out_.agent_mounts));
      COFFER_CHECK(path(*of_agent, "agent.", "socket", out_.agent_socket));
      COFFER_CHECK(list(*of_agent, "agent.", "users", kUsers, "USER", out_.agent_users));
    }
    default_path(out_.storage, "vault");
    default_path(out_.keys_storage, "keys");
    default_path(out_.agent_storage, "agent");
    return injectors(root);
  }

  std::unexpected<Error> wrong(const toml::source_region &at, const std::string &what,
                               std::string remedy = {}) const {
    return fail(ErrorCode::kInvalidArgument,
                shown(out_.file) + ":" + std::to_string(at.begin.line) + ": " + what, std::move(remedy));
  }

 private:
  static constexpr std::string_view kUsers = "names of users, or their numbers in quotes";

  PluginConfig blank(std::string section) const {
    PluginConfig c;
    c.section = std::move(section);
    c.plugin_dir = plugin_dir_;
    c.base_dir = out_.base_dir;
    return c;
  }
  PluginConfig preset(std::string section, std::string plugin) const {
    PluginConfig c = blank(std::move(section));
    c.plugin = std::move(plugin);
    return c;
  }
  // Each role has a place of its own, so that a built-in backend is swapped by the plugin's name alone.
  static void default_path(PluginConfig &c, const std::string &role) {
    if (c.plugin == "storage-sqlite") c.options.try_emplace("path", role + ".db");
    if (c.plugin == "storage-file") c.options.try_emplace("path", role);
  }

  // `of` is the table's name for messages: "" or "keys.".
  Result<void> only(const toml::table &table, std::span<const std::string_view> known,
                    const std::string &of) const {
    for (const auto &[key, value] : table) {
      if (std::ranges::find(known, key.str()) != known.end()) continue;
      const bool is_table = value.is_table() || value.is_array_of_tables();
      const std::string_view meant = closest(key.str(), known);
      return wrong(key.source(),
                   std::string("there is no ") + (is_table ? "table" : "key") + " '" + of +
                       printable(key.str(), 128) + "' in the engine config",
                   meant.empty() ? "" : "did you mean '" + of + std::string(meant) + "'?");
    }
    return {};
  }

  Result<void> plugin_dir(const toml::table &root) {
    plugin_dir_ = COFFER_PLUGIN_DIR;
    const toml::node *node = root.get("plugin_dir");
    if (!node) return {};
    const auto *text = node->as_string();
    if (!text || text->get().empty() || text->get().find('\0') != std::string::npos)
      return wrong(node->source(), "'plugin_dir' must be a path");
    plugin_dir_ = (out_.base_dir / text->get()).lexically_normal();
    return {};
  }

  // [keys] and [agent]: a table with a storage, and whatever else is `known`.  nullptr: there is none.
  Result<const toml::table *> role(const toml::table &root, const std::string &name,
                                   std::span<const std::string_view> known, PluginConfig &storage) const {
    const toml::node *node = root.get(name);
    if (!node) return nullptr;
    const toml::table *table = node->as_table();
    if (!table)
      return wrong(node->source(), "'" + name + "' must be a table", "write [" + name + ".storage]");
    COFFER_CHECK(only(*table, known, name + "."));
    COFFER_CHECK(plugin_table(*table, "storage", storage));
    return table;
  }

  // One key each; `out` stays as it is when it is not there.
  Result<void> text(const toml::table &table, const std::string &of, const std::string &key,
                    std::string_view what, std::string &out) const {
    const toml::node *node = table.get(key);
    if (!node) return {};
    const auto *found = node->as_string();
    if (!found || found->get().empty() || found->get().find('\0') != std::string::npos)
      return wrong(node->source(), "'" + of + key + "' must be " + std::string(what));
    out = found->get();
    return {};
  }
  Result<void> path(const toml::table &table, const std::string &of, const std::string &key,
                    fs::path &out) const {
    std::string found;
    COFFER_CHECK(text(table, of, key, "a path", found));
    if (!found.empty()) out = (out_.base_dir / found).lexically_normal();
    return {};
  }
  Result<void> list(const toml::table &table, const std::string &of, const std::string &key,
                    std::string_view what, std::string_view example, std::vector<std::string> &out) const {
    const toml::node *node = table.get(key);
    if (!node) return {};
    const toml::array *all = node->as_array();
    if (!all)
      return wrong(node->source(), "'" + of + key + "' must be a list of " + std::string(what),
                   "write " + key + " = [\"" + std::string(example) + "\"]");
    for (const toml::node &entry : *all) {
      const auto *found = entry.as_string();
      if (!found || found->get().empty() || found->get().find('\0') != std::string::npos)
        return wrong(entry.source(), "'" + of + key + "' must hold " + std::string(what));
      out.push_back(found->get());
    }
    return {};
  }

  Result<void> keys(const toml::table &keys) {
    COFFER_CHECK(path(keys, "keys.", "socket", out_.keys_socket));
    COFFER_CHECK(list(keys, "keys.", "api", kUsers, "USER", out_.keys_api));
    return list(keys, "keys.", "agents", kUsers, "USER", out_.keys_agents);
  }

  Result<void> flag(const toml::table &of, std::string_view prefix, std::string_view name, bool &out) {
    const toml::node *node = of.get(name);
    if (!node) return {};
    const auto *value = node->as_boolean();
    if (!value)
      return wrong(node->source(), "'" + std::string(prefix) + std::string(name) + "' must be true or false");
    out = value->get();
    return {};
  }

  Result<void> api(const toml::table &root) {
    const toml::node *node = root.get("api");
    if (!node) return {};
    const toml::table *table = node->as_table();
    if (!table) return wrong(node->source(), "'api' must be a table", "write [api]");
    static constexpr std::array<std::string_view, 9> kKnown = {
        "accept_plaintext", "ca", "certificate", "key", "listen", "relay_keys", "socket", "token", "url"};
    COFFER_CHECK(only(*table, kKnown, "api."));
    ApiConfig &api = out_.api;
    COFFER_CHECK(text(*table, "api.", "url", "a URL", api.url));
    COFFER_CHECK(text(*table, "api.", "listen", "an address with its port", api.listen));
    COFFER_CHECK(path(*table, "api.", "token", api.token_file));
    COFFER_CHECK(path(*table, "api.", "ca", api.ca));
    COFFER_CHECK(path(*table, "api.", "socket", api.socket));
    COFFER_CHECK(path(*table, "api.", "certificate", api.certificate));
    COFFER_CHECK(path(*table, "api.", "key", api.key));
    COFFER_CHECK(flag(*table, "api.", "accept_plaintext", api.accept_plaintext));
    return flag(*table, "api.", "relay_keys", api.relay_keys);
  }

  Result<void> deploy(const toml::table &root) {
    const toml::node *node = root.get("deploy");
    if (!node) return {};
    const toml::table *table = node->as_table();
    if (!table) return wrong(node->source(), "'deploy' must be a table", "write [deploy]");
    static constexpr std::array<std::string_view, 3> kKnown = {"parallel", "smoke_time", "wait_timeout"};
    COFFER_CHECK(only(*table, kKnown, "deploy."));
    for (const auto &[name, to] : {std::pair("smoke_time", &out_.deploy.smoke_ms),
                                   std::pair("wait_timeout", &out_.deploy.patience_ms)}) {
      std::string time;
      COFFER_CHECK(text(*table, "deploy.", name, "a time like \"3s\"", time));
      if (time.empty()) continue;
      const auto ms = parse_duration(time);
      if (!ms)
        return wrong(table->get(name)->source(), "'deploy." + std::string(name) + "': " + ms.error().message);
      *to = *ms;
    }
    constexpr int64_t kMost = 256;
    const toml::node *parallel = table->get("parallel");
    if (!parallel) return {};
    const auto *n = parallel->as_integer();
    if (!n || n->get() < 1 || n->get() > kMost)
      return wrong(parallel->source(),
                   "'deploy.parallel' must be a number from 1 to " + std::to_string(kMost));
    out_.deploy_parallel = static_cast<size_t>(n->get());
    return {};
  }

  Result<void> injectors(const toml::table &root) {
    const toml::node *node = root.get("injector");
    if (!node) {
      out_.injectors.push_back(preset("[[injector]] 1", "inject-file"));
      out_.injectors.push_back(preset("[[injector]] 2", "inject-env"));
      return {};
    }
    const toml::array *array = node->as_array();
    if (!array || !array->is_homogeneous(toml::node_type::table))
      return wrong(node->source(), "'injector' must be a list of tables", "write [[injector]] above each");
    for (const toml::node &entry : *array) {
      PluginConfig c = blank("[[injector]] " + std::to_string(out_.injectors.size() + 1));
      COFFER_CHECK(plugin_options(*entry.as_table(), c));
      out_.injectors.push_back(std::move(c));
    }
    return {};
  }

  // `out` keeps its default when the table is not there.
  Result<void> plugin_table(const toml::table &parent, const std::string &key, PluginConfig &out) const {
    const toml::node *node = parent.get(key);
    if (!node) return {};
    const toml::table *table = node->as_table();
    if (!table) return wrong(node->source(), "'" + key + "' must be a table", "write " + out.section);
    out = blank(out.section);
    return plugin_options(*table, out);
  }

  Result<void> plugin_options(const toml::table &table, PluginConfig &out) const {
    for (const auto &[key, value] : table) {
      std::optional<std::string> text = text_of(value);
      const bool own = key == "plugin" || key == "sha256";  // not the plugin's options
      if (own && !value.is_string())
        return wrong(value.source(), out.section + ": '" + std::string(key.str()) + "' must be a string");
      if (!text)
        return wrong(value.source(),
                     out.section + ": '" + printable(key.str(), 128) +
                         "' must be a string, a whole number, true, false or an array of strings");
      if (key == "plugin")
        out.plugin = *std::move(text);
      else if (key == "sha256")
        out.sha256 = *std::move(text);
      else
        out.options.emplace(key.str(), *std::move(text));
    }
    if (out.plugin.empty())
      return wrong(table.source(), out.section + ": 'plugin' is missing", "write plugin = \"NAME\"");
    return {};
  }

  static std::optional<std::string> text_of(const toml::node &value) {
    if (const auto *s = value.as_string()) return s->get();
    if (const auto *i = value.as_integer()) return std::to_string(i->get());
    if (const auto *b = value.as_boolean()) return b->get() ? "true" : "false";
    const toml::array *array = value.as_array();
    if (!array) return std::nullopt;
    std::string list = "[";
    for (const toml::node &item : *array) {
      const auto *s = item.as_string();
      if (!s) return std::nullopt;
      list += (list.size() > 1 ? "," : "") + json_string(s->get());
    }
    return list + "]";
  }

  EngineConfig &out_;
  fs::path plugin_dir_;
};

}  // namespace

Result<EngineConfig> read_engine_config(const fs::path &file) {
  EngineConfig out;
  std::error_code ec;
  out.file = fs::absolute(file, ec).lexically_normal();
  out.base_dir = out.file.parent_path();
  COFFER_TRY(const std::string text, read_file(out.file));
  const toml::parse_result parsed = toml::parse(std::string_view(text));
  if (!parsed) {
    // The parser's own text can quote the file.
    const toml::source_position at = parsed.error().source().begin;
    return fail(ErrorCode::kInvalidArgument, shown(out.file) + ":" + std::to_string(at.line) + ":" +
                                                 std::to_string(at.column) + ": not valid TOML");
  }
  COFFER_CHECK(Reader(out).read(parsed.table()));
  return out;
}

}  // namespace coffer
