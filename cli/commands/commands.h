// One function per command; cli/main.cc holds the table.
#ifndef COFFER_CLI_COMMANDS_H
#define COFFER_CLI_COMMANDS_H

#include "../engine.h"

namespace coffer::cli {

// The process's exit code, or what went wrong.
using Command = Result<int> (*)(Arguments &);

Result<int> init(Arguments &);
Result<int> doctor(Arguments &);
Result<int> apps_create(Arguments &);
Result<int> apps_list(Arguments &);
Result<int> apps_destroy(Arguments &);
Result<int> secrets_set(Arguments &);
Result<int> secrets_import(Arguments &);
Result<int> secrets_unset(Arguments &);
Result<int> secrets_list(Arguments &);
Result<int> secrets_plan(Arguments &);
Result<int> secrets_history(Arguments &);
Result<int> secrets_rollback(Arguments &);
Result<int> secrets_purge(Arguments &);
Result<int> secrets_deploy(Arguments &);
Result<int> deploy(Arguments &);
Result<int> releases_list(Arguments &);
Result<int> releases_rollback(Arguments &);
Result<int> machine_run(Arguments &);
Result<int> machine_list(Arguments &);
Result<int> machine_status(Arguments &);
Result<int> machine_start(Arguments &);
Result<int> machine_stop(Arguments &);
Result<int> machine_restart(Arguments &);
Result<int> machine_destroy(Arguments &);
Result<int> machine_logs(Arguments &);
Result<int> machine_exec(Arguments &);
Result<int> machine_wait(Arguments &);
Result<int> run(Arguments &);
Result<int> agent(Arguments &);
Result<int> agent_install(Arguments &);
Result<int> plugin_list(Arguments &);
Result<int> plugin_info(Arguments &);
Result<int> vault_check(Arguments &);
Result<int> vault_migrate(Arguments &);
Result<int> vault_backup(Arguments &);
Result<int> vault_restore(Arguments &);
Result<int> keys_list(Arguments &);
Result<int> keys_rotate(Arguments &);
Result<int> keys_rewrap(Arguments &);
Result<int> host_enroll(Arguments &);
Result<int> host_join(Arguments &);
Result<int> host_list(Arguments &);
Result<int> host_revoke(Arguments &);
Result<int> token_create(Arguments &);
Result<int> token_narrow(Arguments &);
Result<int> token_check(Arguments &);
Result<int> token_list(Arguments &);
Result<int> token_revoke(Arguments &);
Result<int> audit_log(Arguments &);
Result<int> audit_verify(Arguments &);

}  // namespace coffer::cli
#endif
