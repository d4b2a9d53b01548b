// The App config: coffer.toml, or fly.toml of which it has the form.
#ifndef COFFER_CONFIG_APP_CONFIG_H
#define COFFER_CONFIG_APP_CONFIG_H

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "coffer/base/machine.h"
#include "coffer/base/result.h"

namespace coffer {

// One [[files]]: exactly one of secret_name, raw_value and local_path is there.
struct AppFile {
  std::string guest_path;
  std::string secret_name;               // its value is base64, as on Fly
  std::optional<std::string> raw_value;  // the content itself
  std::filesystem::path local_path;      // absolute if the config's path is; read when the spec is made
  uint32_t mode = 0444;                  // 0400 for a secret, unless given
  std::vector<std::string> processes;    // empty: all
  bool env = false;                      // the secret is an env entry too
  std::string reload;                    // FileBinding::reload
};

// What a section says about some of the processes, or all.
template <class T>
struct ForProcesses {
  T what{};
  std::vector<std::string> processes;  // empty: all
};

struct AppConfig {
  std::string app;                         // may be empty
  std::map<std::string, std::string> env;  // not secret
  std::string image;                       // may be empty
  bool pull = false;
  std::map<std::string, std::vector<std::string>> processes;           // no words: the image's own command
  std::map<std::string, std::vector<SecretVariable>> process_secrets;  // of those that do not get all
  std::vector<AppFile> files;
  std::vector<ForProcesses<Mount>> mounts;
  std::vector<ForProcesses<RestartPolicy>> restart;
  std::vector<ForProcesses<uint64_t>> memory;  // bytes; 0: no limit
  std::vector<ForProcesses<Port>> ports;
  std::vector<ForProcesses<Check>> checks;
  DeployWish deploy;
  std::string release_command;   // may be empty
  std::string stop_signal;       // may be empty
  uint64_t stop_timeout_ms = 0;  // 0: not said
  std::string warning;  // one sentence: keys that were ignored, and what is done otherwise; may be empty
};

// `file` is for messages and for local_path.  Errors are kInvalidArgument with "FILE:LINE" and the key, never
// a value.  Unknown keys, as fly.toml has many, only make the warning.
Result<AppConfig> parse_app_config(std::string_view text, const std::filesystem::path &file);
Result<AppConfig> read_app_config(const std::filesystem::path &file);  // kNotFound when there is none

// coffer.toml, then fly.toml.
std::optional<std::filesystem::path> find_app_config(const std::filesystem::path &folder);

// Words as a shell would split them: blanks separate; '...' is literal; in "..." a backslash escapes " \ $ `
// and the end of the line; elsewhere it escapes anything.  Nothing is expanded.  kInvalidArgument: a quote is
// open.
Result<std::vector<std::string>> split_command(std::string_view);

}  // namespace coffer
#endif
