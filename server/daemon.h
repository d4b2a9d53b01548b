// What the programs of server mode have in common: options, signals, memory, and how they end.
#ifndef COFFER_SERVER_DAEMON_H
#define COFFER_SERVER_DAEMON_H

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "coffer/base/result.h"

namespace coffer {

// main() of a daemon: `name` is "coffer-...", `help` its --help.  Takes --engine FILE, --verbose, --help,
// --version and, where `init` is given, --init.  Answers the exit code; errors are told on standard error.
int daemon_main(int argc, char **argv, const char *name, const char *help,
                const std::function<Result<void>(const std::string &engine)> &serve, bool *init = nullptr);

// Readable when the process is to end (SIGTERM, SIGINT).  Before any thread is made: they inherit the mask.
int stop_signals();
// The numbers of users that are named in that table of the engine config, by name or number.
Result<std::vector<uid_t>> users_of(const char *table, const std::vector<std::string> &names);
// All memory, now and later; a warning in the log where that is not allowed.
void lock_memory(const char *service);

}  // namespace coffer
#endif
