// The App config of the working directory: coffer.toml, then fly.toml, or the file of -c.
#ifndef COFFER_CLI_APP_FILE_H
#define COFFER_CLI_APP_FILE_H

#include <map>
#include <optional>

#include "arguments.h"
#include "coffer/config/app_config.h"
#include "coffer/format/machine.h"

namespace coffer::cli {

// Absent: no -c, and none in the working directory.  Warnings are printed here.
Result<std::optional<AppConfig>> find_app_file(const Arguments &);
// The whole config of a Machine of `process`, without a name, as the App config has it; local_path is read.
// "": what counts for `app`, but neither its command nor its choice of secrets.  kNotFound: there is no such
// process; without [processes] `app` is the only one.
Result<MachineConfig> process_config(const AppConfig &, const std::string &process);
Result<void> set_env(MachineConfig &, const std::map<std::string, std::string> &env);
// That its files, mounts and ports go together.
Result<void> check_config(const MachineConfig &);

}  // namespace coffer::cli
#endif
