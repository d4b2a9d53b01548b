#include "app_file.h"

#include <algorithm>

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

}  // namespace coffer::cli
