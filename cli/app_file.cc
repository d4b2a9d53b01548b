#include "app_file.h"

#include <algorithm>

#include "coffer/base/names.h"
#include "coffer/config/machine_options.h"
#include "files.h"
#include "output.h"

namespace coffer::cli {

Result<std::optional<AppConfig>> find_app_file(const Arguments &a) {
  std::filesystem::path file = a.config;
  if (file.empty()) {
    const auto found = find_app_config(std::filesystem::current_path());
    if (!found) return std::nullopt;
    file = *found;
  }
  COFFER_TRY(AppConfig config, read_app_config(std::filesystem::absolute(file)));
  static bool told = false;  // a command may come here twice: for the App's name and for its Machines
  if (!config.warning.empty() && !a.quiet && !std::exchange(told, true)) print_warning(config.warning);
  return config;
}

namespace {

// Does a section with these `processes` count for `process`?
bool counts_for(const std::vector<std::string> &processes, const std::string &process) {
  return processes.empty() ||
         std::ranges::find(processes, process.empty() ? "app" : process) != processes.end();
}

Result<std::vector<FileBinding>> file_bindings(const AppConfig &config, const std::string &process) {
  constexpr size_t kMaxLocalFile = 1u << 20;
  std::vector<FileBinding> out;
  for (const AppFile &f : config.files) {
    if (!counts_for(f.processes, process)) continue;
    FileBinding b;
    b.guest_path = f.guest_path;
    b.secret = f.secret_name;
    b.mode = f.mode;
    b.env = f.env;
    b.reload = f.reload;
    if (!f.secret_name.empty()) {
      b.encoding = FileEncoding::kBase64;
    } else if (f.raw_value) {
      b.literal = *f.raw_value;
    } else {
      COFFER_TRY(const SecretBytes content, read_file(f.local_path, kMaxLocalFile));
      b.literal = as_text(content.reveal());  // not a secret: it stands in the App config's folder
    }
    out.push_back(std::move(b));
  }
  return out;
}

}  // namespace

Result<MachineConfig> process_config(const AppConfig &file, const std::string &process) {
  MachineConfig c;
  c.process = process;
  if (const auto at = file.processes.find(process); at != file.processes.end())
    c.argv = at->second;
  else if (!process.empty() && (process != "app" || !file.processes.empty()))
    return fail(ErrorCode::kNotFound, "the App config has no [processes] entry of that name",
                "Add it to coffer.toml, or give the command behind --.");
  if (const auto at = file.process_secrets.find(process); at != file.process_secrets.end())
    c.secrets = at->second;
  c.image = c.image_name = file.image;
  COFFER_CHECK(set_env(c, file.env));
  COFFER_TRY(c.files, file_bindings(file, process));
  for (const auto &m : file.mounts)
    if (counts_for(m.processes, process)) c.mounts.push_back(m.what);
  for (const auto &p : file.ports)
    if (counts_for(p.processes, process)) c.ports.push_back(p.what);
  for (const auto &check : file.checks)
    if (counts_for(check.processes, process)) c.checks.push_back(check.what);
  for (const auto &r : file.restart)
    if (counts_for(r.processes, process)) c.restart = r.what;
  for (const auto &m : file.memory)
    if (counts_for(m.processes, process)) c.memory_bytes = m.what;
  c.stop_signal = file.stop_signal;
  c.stop_timeout_ms = file.stop_timeout_ms;
  COFFER_CHECK(check_config(c));
  return c;
}

Result<void> set_env(MachineConfig &c, const std::map<std::string, std::string> &env) {
  c.env.clear();
  for (const auto &[key, value] : env) {
    if (value.find('\0') != std::string::npos || key.size() + 1 + value.size() > 131071)
      return fail(ErrorCode::kInvalidArgument,
                  "variable " + key + " holds a NUL byte or is over 131,071 bytes");
    c.env.emplace_back(key, value);
  }
  return {};
}

Result<void> check_config(const MachineConfig &c) {
  std::vector<std::string> paths;
  std::vector<std::pair<std::string, std::string>> reloads;
  for (const FileBinding &f : c.files) {
    paths.push_back(f.guest_path);
    reloads.emplace_back(f.guest_path, f.reload);
  }
  COFFER_CHECK(check_guest_paths(paths));
  COFFER_CHECK(check_reload(reloads));
  COFFER_CHECK(check_mounts(c.mounts, paths));
  return check_ports(c.ports);
}

}  // namespace coffer::cli
