// coffer: the user's tool.  In embedded mode it composes all roles in one process.

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <map>
#include <new>

#include "arguments.h"
#include "coffer/base/log.h"
#include "coffer/base/process.h"
#include "commands/commands.h"
#include "output.h"

namespace {

using namespace coffer;
using namespace coffer::cli;

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
    {"secrets plan", secrets_plan},
    {"secrets history", secrets_history},
    {"secrets rollback", secrets_rollback},
    {"secrets purge", secrets_purge},
    {"secrets deploy", secrets_deploy},
    {"deploy", deploy},
    {"releases list", releases_list},
    {"releases rollback", releases_rollback},
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
    {"agent", agent},
    {"agent install", agent_install},
    {"plugin list", plugin_list},
    {"plugin info", plugin_info},
    {"vault check", vault_check},
    {"vault migrate", vault_migrate},
    {"vault backup", vault_backup},
    {"vault restore", vault_restore},
    {"keys list", keys_list},
    {"keys rotate", keys_rotate},
    {"keys rewrap", keys_rewrap},
    {"host enroll", host_enroll},
    {"host join", host_join},
    {"host list", host_list},
    {"host revoke", host_revoke},
    {"token create", token_create},
    {"token narrow", token_narrow},
    {"token check", token_check},
    {"token list", token_list},
    {"token revoke", token_revoke},
    {"audit log", audit_log},
    {"audit verify", audit_verify},
};

}  // namespace

int main(int argc, char **argv) {
  occupy_standard_streams();
  try {
    std::vector<TakenValue> values = take_values(argc, argv);
    harden_process();
    auto parsed = parse(argc, argv, std::move(values));
    const Exit *e = std::get_if<Exit>(&parsed);
    Result<int> result = e ? Result<int>(e->code) : std::unexpected(Error{});
    if (!e) {
      auto &arguments = std::get<Arguments>(parsed);
      if (arguments.verbose) set_log_level(LogLevel::kDebug);
      result = kCommands.at(arguments.command)(arguments);
    }
    if (!result) print_error(result.error());
    if (!flush_stdout()) {
      if (result)
        print_error({ErrorCode::kUnavailable, "the output could not be written",
                     "What the command was to change is changed; look with `list` or `status`."});
      return 1;
    }
    return result ? *result : exit_code(result.error().code);
  } catch (const std::filesystem::filesystem_error &e) {
    // Its texts hold paths only.  A folder that cannot be looked into, a working directory that is gone.
    const int code = e.code().value();
    print_error(
        {code == EACCES         ? ErrorCode::kPermissionDenied
         : code == ENOENT       ? ErrorCode::kNotFound
         : code == ENAMETOOLONG ? ErrorCode::kInvalidArgument
                                : ErrorCode::kUnavailable,
         (e.path1().empty() ? "the working directory" : e.path1().string()) + ": " + e.code().message()});
    return code == EACCES ? 5 : code == ENOENT ? 3 : code == ENAMETOOLONG ? 7 : 6;
  } catch (const std::bad_alloc &) {
    std::fputs("Error: out of memory\n", stderr);
  } catch (...) {
    // The text of an exception could quote its input.
    std::fputs("Error: internal error: a command failed in a way it should not\n", stderr);
  }
  return 1;
}
