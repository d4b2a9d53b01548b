#include "deliveries.h"

#include <algorithm>
#include <map>
#include <set>

#include "boot_frame.h"
#include "probe.h"

namespace coffer::runtime {
namespace {
using sdk::view;

sdk::Error invalid(std::string message) { return {COFFER_INVALID_ARGUMENT, std::move(message)}; }

bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool digit(char c) { return c >= '0' && c <= '9'; }
}  // namespace

bool instance_id_ok(std::string_view id) {
  if (id.empty() || id.size() > COFFER_BOOT_MAX_INSTANCE_ID || id[0] == '.') return false;
  return std::all_of(id.begin(), id.end(),
                     [](char c) { return letter(c) || digit(c) || c == '-' || c == '.'; });
}

bool variable_name_ok(std::string_view name) {
  if (name.empty() || digit(name[0])) return false;
  return std::all_of(name.begin(), name.end(), [](char c) { return letter(c) || digit(c); });
}

std::string text(coffer_str s, const char *what) {
  const std::string_view v = view(s);
  if (v.find('\0') != std::string_view::npos) throw invalid(std::string(what) + " holds a NUL byte");
  return std::string(v);
}

Places check_deliveries(const coffer_machine_spec &spec) {
  Places out;
  std::set<std::string> seen, folders;
  for (size_t i = 0; i < spec.n_deliveries; ++i) {
    const coffer_delivery &d = *spec.deliveries[i];
    const std::string name(view(d.name)), number = std::to_string(i + 1);
    if (d.via == COFFER_VIA_ENV) {
      if (!variable_name_ok(name)) throw invalid("variable name number " + number + " is not valid");
      if (!seen.insert(name).second) throw invalid("variable " + name + " is delivered twice");
      out.variables.push_back(name);
      continue;
    }
    if (d.via != COFFER_VIA_TMPFS)
      throw invalid("delivery number " + number + " asks for a way that this runtime lacks");
    if (const char *why = coffer_boot_path_error(name.data(), name.size()))
      throw invalid("guest path number " + number + " " + why);
    if (!seen.insert(name).second) throw invalid("guest path " + name + " is given twice");
    if (d.mode > 0777) throw invalid("the mode of guest path " + name + " is over 0777");
    out.files.push_back(name);
    if (!(d.flags & COFFER_DLV_FOLDER)) continue;
    const std::string folder = folder_of(name);
    if (folder.empty())
      throw invalid("guest path " + name + " is in the root, which cannot be replaced as a whole");
    if (name.compare(folder.size() + 1, 2, "..") == 0)
      throw invalid("guest path " + name + " begins with '..', as only names of the folder's own do");
    folders.insert(folder);
  }
  std::sort(out.files.begin(), out.files.end());
  out.folders.assign(folders.begin(), folders.end());
  for (size_t i = 0; i < spec.n_deliveries; ++i) {
    const coffer_delivery &d = *spec.deliveries[i];
    if (d.via != COFFER_VIA_TMPFS) continue;
    const std::string name(view(d.name)), own = folder_of(name);
    for (const std::string &folder : out.folders)
      if (name.starts_with(folder + "/") && (folder != own || !(d.flags & COFFER_DLV_FOLDER)))
        throw invalid("folder " + folder + " is replaced as a whole, so guest path " + name +
                      " cannot be in it");
  }
  for (const std::string &file : out.files)
    for (const std::string &other : out.files)
      if (other.starts_with(file + "/")) throw invalid("guest path " + file + " is a folder of " + other);
  return out;
}

std::vector<std::string> plain_env(const coffer_machine_spec &spec) {
  std::vector<std::string> out;
  std::set<std::string_view> seen;
  for (size_t i = 0; i < spec.n_env; ++i) {
    const std::string_view name = view(spec.env[i].key), value = view(spec.env[i].value);
    if (!variable_name_ok(name))
      throw invalid("variable name number " + std::to_string(i + 1) + " is not valid");
    if (!seen.insert(name).second) throw invalid("variable " + std::string(name) + " is given twice");
    if (value.find('\0') != std::string_view::npos)
      throw invalid("variable " + std::string(name) + " holds a NUL byte");
    out.push_back(std::string(name).append("=").append(value));
  }
  return out;
}

std::vector<std::pair<std::string, std::string>> labels(const coffer_machine_spec &spec) {
  std::vector<std::pair<std::string, std::string>> out;
  for (size_t i = 0; i < spec.n_labels; ++i) {
    const std::string_view key = view(spec.labels[i].key), value = view(spec.labels[i].value);
    if (key.empty() || key.find('=') != std::string_view::npos || key.find('\0') != std::string_view::npos ||
        value.find('\0') != std::string_view::npos)
      throw invalid("label number " + std::to_string(i + 1) + " is not valid");
    out.emplace_back(key, value);
  }
  return out;
}

sdk::SecureBuffer build_frame(std::string_view instance_id, const Places &announced,
                              const coffer_delivery *const *deliveries, size_t n, FrameOf which) {
  std::map<std::string_view, const coffer_delivery *> env, files;  // in the order of a frame
  for (size_t i = 0; i < n; ++i) {
    const std::string_view name = view(deliveries[i]->name);
    if (!(deliveries[i]->via == COFFER_VIA_ENV ? env : files).emplace(name, deliveries[i]).second)
      throw invalid("delivery number " + std::to_string(i + 1) + " is given twice");
  }
  const auto same = [](const std::vector<std::string> &names, const auto &given) {
    return names.size() == given.size() &&
           std::all_of(names.begin(), names.end(),
                       [&](const std::string &name) { return given.contains(name); });
  };
  if (!same(announced.variables, env) || !same(announced.files, files))
    throw invalid("the deliveries are not those that were announced when the instance was created");
  if (which == FrameOf::kEnvOnly) files.clear();
  const auto write = [&](uint8_t *data, size_t size) {
    coffer_boot_writer w;
    coffer_boot_begin(&w, data, size, instance_id.data(), instance_id.size());
    for (const auto &[name, d] : env)
      coffer_boot_put_env(&w, name.data(), name.size(), d->value.data, d->value.size);
    for (const auto &[path, d] : files) {
      const bool owner = d->flags & COFFER_DLV_OWNER;
      coffer_boot_put_file(&w, path.data(), path.size(), d->value.data, d->value.size, d->mode,
                           owner ? COFFER_BOOT_OWNER : 0, owner ? d->uid : 0, owner ? d->gid : 0);
    }
    if (const coffer_boot_error error = coffer_boot_end(&w))
      throw invalid(std::string("the deliveries do not fit: ") + coffer_boot_error_text(error));
    return w.used;
  };
  sdk::SecureBuffer frame(write(nullptr, 0));
  write(frame.data(), frame.size());
  return frame;
}

std::map<std::string, std::vector<const coffer_delivery *>> check_update(
    const Places &announced, const coffer_delivery *const *deliveries, size_t n) {
  std::map<std::string, std::vector<const coffer_delivery *>> out;
  std::set<std::string> given;
  for (size_t i = 0; i < n; ++i) {
    const std::string name(view(deliveries[i]->name));
    if (deliveries[i]->via == COFFER_VIA_TMPFS && given.insert(name).second)
      out[folder_of(name)].push_back(deliveries[i]);
  }
  std::set<std::string> wanted;
  for (const std::string &file : announced.files)
    if (std::binary_search(announced.folders.begin(), announced.folders.end(), folder_of(file)) &&
        out.contains(folder_of(file)))
      wanted.insert(file);
  if (given.size() != n || given.empty() || given != wanted)
    throw invalid("the files are not all those of folders that can be replaced, as they were announced");
  for (size_t i = 0; i < n; ++i)
    if (deliveries[i]->mode > 0777)
      throw invalid("the mode of guest path " + std::string(view(deliveries[i]->name)) + " is over 0777");
  return out;
}

Probe read_probe(const coffer_probe_spec &spec) {
  Probe out;
  if (spec.kind != COFFER_PROBE_TCP && spec.kind != COFFER_PROBE_HTTP)
    throw invalid("a check of this kind is not known here");
  if (spec.port == 0 || spec.port > 65535) throw invalid("the check's port is not valid");
  out.port = spec.port;
  out.http = spec.kind == COFFER_PROBE_HTTP;
  if (!out.http) return out;
  out.method = view(spec.method);
  out.path = view(spec.path);
  if (!coffer_probe_method_ok(out.method.data(), out.method.size()))
    throw invalid("the check's method is not valid: expected one as GET");
  if (!coffer_probe_path_ok(out.path.data(), out.path.size()))
    throw invalid("the check's path is not valid: expected '/' and printable ASCII, at most " +
                  std::to_string(COFFER_PROBE_MAX_PATH) + " bytes");
  return out;
}

}  // namespace coffer::runtime
