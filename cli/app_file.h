// The App config of the working directory: coffer.toml, then fly.toml, or the file of -c.
#ifndef COFFER_CLI_APP_FILE_H
#define COFFER_CLI_APP_FILE_H

#include <optional>

#include "arguments.h"
#include "coffer/config/app_config.h"
#include "coffer/format/machine.h"

namespace coffer::cli {

// Absent: no -c, and none in the working directory.  Warnings are printed here.
Result<std::optional<AppConfig>> find_app_file(const Arguments &);
// The [[files]] that belong to `process` ("": the default one), with local_path read.
Result<std::vector<FileBinding>> file_bindings(const AppConfig &, const std::string &process);
// Does a section with these `processes` count for `process` ("": the default one, `app`)?
bool counts_for(const std::vector<std::string> &processes, const std::string &process);

}  // namespace coffer::cli
#endif
