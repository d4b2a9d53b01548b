// What a person writes about a Machine, on the command line or in the App config: ports, mounts, limits.
// Errors are kInvalidArgument: what was expected, never what was written.
#ifndef COFFER_CONFIG_MACHINE_OPTIONS_H
#define COFFER_CONFIG_MACHINE_OPTIONS_H

#include <string>
#include <string_view>
#include <vector>

#include "coffer/base/machine.h"
#include "coffer/base/result.h"

namespace coffer {

// The name of an environment variable: [A-Za-z_][A-Za-z0-9_]*
bool valid_variable(std::string_view);
// [[IP:]HOST:]PORT[/tcp|/udp]; an IPv6 address in [ ]; HOST 0 or left out: the platform chooses.
Result<Port> parse_port(std::string_view);
// No port of the host is given away twice.
Result<void> check_ports(const std::vector<Port> &);

// SRC:DST[:ro|:rw]: SRC an absolute path of the host or the name of a volume, DST a path in the Machine.
Result<Mount> parse_mount(std::string_view);
Result<void> check_mount(const Mount &);
// None twice and none a folder of another, nor of one of `files`.
Result<void> check_mounts(const std::vector<Mount> &, const std::vector<std::string> &files);

// Bytes, or with k, m, g and perhaps b behind (1024s).  0: no limit; else at least 6 MiB.
Result<uint64_t> parse_memory(std::string_view);
// no, never, on-failure, always
Result<RestartPolicy> parse_restart(std::string_view);
// A name, with or without SIG, or a number; whether it exists, the platform says.
Result<std::string> parse_signal(std::string_view);
// "5", "5s", "2m": 1 s .. 1 day, in milliseconds
Result<uint64_t> parse_stop_timeout(std::string_view);
// "500ms", "10s", "1m30s", "2h": at most a day, in milliseconds; the unit is a must.
Result<uint64_t> parse_duration(std::string_view);
// What a new value of a file's secret does (FileBinding::reload): restart, none, signal:NAME.
Result<std::string> parse_reload(std::string_view);
// Path in the Machine and `reload` of each file: one that is replaced in a running Machine has a folder in
// which all are, and that is not one of the system.
Result<void> check_reload(const std::vector<std::pair<std::string, std::string>> &files);
// What can be tried: a name, a port for tcp and http, a path, a command.
Result<void> check_check(const Check &);
// Variables that hold secrets: names that are possible, none twice.
Result<void> check_variables(const std::vector<SecretVariable> &);
// "NET_RAW", "cap_net_raw", "ALL": as NET_RAW, ALL
Result<std::string> parse_capability(std::string_view);
Result<void> check_network(std::string_view);

}  // namespace coffer
#endif
