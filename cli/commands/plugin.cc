// coffer plugin list | info
#include <algorithm>
#include <set>

#include "../output.h"
#include "commands.h"

namespace coffer::cli {
namespace {

struct Listed {
  std::string section;
  PluginConfig config;
};

std::vector<Listed> configured(const EngineConfig &c) {
  std::vector<Listed> out = {{"[storage]", c.storage},
                             {"[kms]", c.kms},
                             {"[runtime]", c.runtime},
                             {"[keys.storage]", c.keys_storage},
                             {"[agent.storage]", c.agent_storage}};
  for (const PluginConfig &p : c.injectors) out.push_back({"[[injector]]", p});
  return out;
}

const char *type_name(uint16_t type) {
  switch (type) {
    case COFFER_OPT_INT:
      return "integer";
    case COFFER_OPT_BOOL:
      return "true or false";
    case COFFER_OPT_DURATION:
      return "duration, as 10s";
    case COFFER_OPT_BYTES:
      return "size, as 64MiB";
    case COFFER_OPT_PATH:
      return "path";
    case COFFER_OPT_ENUM:
      return "choice";
    case COFFER_OPT_URL:
      return "URL";
    case COFFER_OPT_LIST:
      return "list";
    default:
      return "text";
  }
}

std::string text(const char *s) { return s ? s : ""; }

std::string kinds(const Plugin &p) {
  std::string out;
  const coffer_descriptor &d = p.descriptor();
  for (size_t i = 0; i < d.n_interfaces; ++i) out += (i ? ", " : "") + text(d.interfaces[i].id);
  return out;
}

}  // namespace

Result<int> plugin_list(Arguments &a) {
  COFFER_TRY(const Home home, Home::find(a.engine));
  COFFER_TRY(const EngineConfig config, read_engine_config(home.engine_file()));
  JsonWriter j;
  std::vector<std::vector<std::string>> table = {{"NAME", "VERSION", "USED BY", "INTERFACES", "FILE"}};
  std::vector<Error> problems;
  std::set<std::filesystem::path> shown;
  j.begin_array();
  const auto show = [&](const std::string &section, const PluginConfig &p) {
    const auto loaded = Plugin::load(p);
    if (!loaded) {
      problems.push_back(loaded.error());
      return;
    }
    shown.insert((*loaded)->path());
    const std::string version = text((*loaded)->descriptor().version);
    table.push_back({(*loaded)->name(), version, section, kinds(**loaded), (*loaded)->path().string()});
    j.begin_object()
        .field("name", (*loaded)->name())
        .field("version", version)
        .field("used_by", section)
        .field("interfaces", kinds(**loaded))
        .field("file", (*loaded)->path().string())
        .end_object();
  };
  for (const Listed &l : configured(config)) show(l.section, l.config);
  std::error_code e;
  std::vector<std::filesystem::path> found;
  for (const auto &file : std::filesystem::directory_iterator(config.storage.plugin_dir, e))
    if (file.path().extension() == ".so") found.push_back(std::filesystem::weakly_canonical(file.path(), e));
  std::ranges::sort(found);
  for (const auto &file : found) {
    if (shown.contains(file)) continue;
    PluginConfig p = config.storage;
    p.section = "plugin list";
    p.plugin = file.string();
    p.sha256.clear();
    show("-", p);
  }
  j.end_array();
  if (a.json)
    print_json(j);
  else
    print_table(table);
  if (problems.empty()) return 0;
  for (size_t i = 0; i + 1 < problems.size(); ++i) print_error(problems[i]);
  return std::unexpected(problems.back());
}

Result<int> plugin_info(Arguments &a) {
  COFFER_TRY(const Home home, Home::find(a.engine));
  COFFER_TRY(const EngineConfig config, read_engine_config(home.engine_file()));
  PluginConfig p;
  p.section = "plugin info";
  p.plugin = a.words.front();
  p.plugin_dir = config.storage.plugin_dir;
  p.base_dir = config.base_dir;
  COFFER_TRY(const Plugin *plugin, Plugin::load(p));
  const coffer_descriptor &d = plugin->descriptor();
  if (a.json) {
    JsonWriter j;
    j.begin_object()
        .field("name", plugin->name())
        .field("version", text(d.version))
        .field("vendor", text(d.vendor))
        .field("license", text(d.license))
        .field("doc", text(d.doc))
        .field("file", plugin->path().string());
    j.key("interfaces").begin_array();
    for (size_t i = 0; i < d.n_interfaces; ++i) j.value(text(d.interfaces[i].id));
    j.end_array().key("options").begin_array();
    for (size_t i = 0; i < d.n_options; ++i) {
      const coffer_option &o = *d.options[i];
      j.begin_object()
          .field("key", text(o.key))
          .field("type", type_name(o.type))
          .field("required", (o.flags & COFFER_OPTF_REQUIRED) != 0)
          .field("secret", (o.flags & COFFER_OPTF_SECRET) != 0)
          .field("default", text(o.default_value))
          .field("doc", text(o.doc))
          .end_object();
    }
    j.end_array().end_object();
    print_json(j);
    return 0;
  }
  print(plugin->name() + " " + text(d.version) + (text(d.doc).empty() ? "" : ": " + text(d.doc)));
  std::vector<std::vector<std::string>> facts = {{"File", plugin->path().string()},
                                                 {"Interfaces", kinds(*plugin)}};
  if (!text(d.vendor).empty()) facts.push_back({"Vendor", text(d.vendor)});
  if (!text(d.license).empty()) facts.push_back({"License", text(d.license)});
  print_table(facts);
  if (!d.n_options) return 0;
  print("");
  std::vector<std::vector<std::string>> table = {{"OPTION", "TYPE", "DEFAULT", "WHAT"}};
  for (size_t i = 0; i < d.n_options; ++i) {
    const coffer_option &o = *d.options[i];
    std::string type = type_name(o.type);
    if (o.flags & COFFER_OPTF_SECRET) type += ", secret (file:PATH)";
    const bool required = o.flags & COFFER_OPTF_REQUIRED;
    table.push_back({text(o.key), type,
                     required                        ? "(required)"
                     : text(o.default_value).empty() ? "-"
                                                     : text(o.default_value),
                     text(o.doc)});
  }
  print_table(table);
  return 0;
}

}  // namespace coffer::cli
