// coffer: the user's tool.  In embedded mode it composes all roles in one process.
#include <sys/prctl.h>
#include <sys/resource.h>

#include <csignal>
#include <cstdio>
#include <map>
#include <new>

#include "arguments.h"
#include "coffer/base/log.h"
#include "commands/commands.h"
#include "output.h"

namespace {

using namespace coffer;
using namespace coffer::cli;

// Nobody reads our memory: no core dump, no debugger of the same user.
void harden() {
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  // 1, not 0: Machines and commands inherit it, and where core_pattern is a pipe the kernel ignores 0 but
  // starts no handler at 1.  The supervisor of a Machine could not raise a hard limit of 0 again.
  const rlimit none{1, 1};
  setrlimit(RLIMIT_CORE, &none);
  std::signal(SIGPIPE, SIG_IGN);  // a Machine that ends while it gets its frame must not end us
}

const std::map<std::string_view, Command> kCommands = {
    {"init", init},
    {"doctor", doctor},
    {"apps create", apps_create},
    {"apps list", apps_list},
    {"apps destroy", apps_destroy},
    {"secrets set", secrets_set},
    {"secrets import", secrets_import},
    {"secrets unset", secrets_unset},
    {"secrets list", secrets_list},
    {"secrets deploy", secrets_deploy},
    {"machine run", machine_run},
    {"machine list", machine_list},
    {"machine status", machine_status},
    {"machine start", machine_start},
    {"machine stop", machine_stop},
    {"machine restart", machine_restart},
    {"machine destroy", machine_destroy},
    {"machine logs", machine_logs},
    {"machine exec", machine_exec},
    {"machine wait", machine_wait},
    {"run", run},
    {"plugin list", plugin_list},
    {"plugin info", plugin_info},
    {"vault check", vault_check},
    {"vault migrate", vault_migrate},
    {"keys list", keys_list},
};

}  // namespace

int main(int argc, char **argv) {
  std::vector<TakenValue> values = take_values(argc, argv);
  harden();
  auto parsed = parse(argc, argv, std::move(values));
  if (const Exit *e = std::get_if<Exit>(&parsed)) return e->code;
  auto &arguments = std::get<Arguments>(parsed);
  if (arguments.verbose) set_log_level(LogLevel::kDebug);
  try {
    const Result<int> result = kCommands.at(arguments.command)(arguments);
    if (!flush_stdout()) return 1;
    if (result) return *result;
    print_error(result.error());
    return exit_code(result.error().code);
  } catch (const std::bad_alloc &) {
    std::fputs("Error: out of memory\n", stderr);
  } catch (...) {
    // The text of an exception could quote its input.
    std::fputs("Error: internal error: a command failed in a way it should not\n", stderr);
  }
  return 1;
}
