// coffer agent: the daemon that keeps this host's Machines as they are wanted, and its systemd unit.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "../output.h"
#include "coffer/base/log.h"
#include "coffer/base/process.h"
#include "coffer/release/vault_orders.h"
#include "commands.h"

namespace coffer::cli {
namespace {

namespace fs = std::filesystem;

// ---- the unit ----

// A word of a unit file: specifiers and blanks are not ours (systemd.service(5), "Command lines").
std::string unit_word(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '%' || c == '$') out += c;
    out += c;
  }
  return out + "\"";
}
// A path in a list: no variables are expanded there.
std::string unit_path(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '%') out += c;
    out += c;
  }
  return out + "\"";
}

// What Machines of runtime-process are started by becomes theirs as well: nothing here may restrict them.
constexpr std::string_view kProcess = R"(
# Machines are processes beside the agent: they go on when it ends, and their ends are not its own.
KillMode=process
OOMPolicy=continue
TasksMax=infinity
)";

constexpr std::string_view kSandbox = R"(
NoNewPrivileges=yes
MemoryDenyWriteExecute=yes
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallFilter=@chown
)";

// Not among them: ProtectProc and ProcSubset.  A lease is alive as long as /proc shows its process.
constexpr std::string_view kSystemSandbox = R"(
# Files with secrets lie in the /run of the host, where the engine finds them, and outlive a restart of the agent.
RuntimeDirectory=coffer
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
ProtectSystem=strict
PrivateDevices=yes
PrivateIPC=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RemoveIPC=yes
UMask=0077
# Files of a Machine belong to its user; the home may be another user's.
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER
)";

bool below(const fs::path &path, std::string_view folder) {
  return path.string().starts_with(std::string(folder) + "/");
}

std::string unit(const Engine &engine, const fs::path &program, bool user) {
  const fs::path home = engine.home().dir();
  const std::string runtime = fs::path(engine.config().runtime.plugin).stem().string();
  const bool docker = runtime == "runtime-docker";
  // Of server mode: the daemon of its own, which dials APIs, maybe elsewhere.
  const auto &apis = engine.config().agent_apis;
  const bool dials =
      std::ranges::any_of(apis, [](const std::string &url) { return !url.starts_with("unix:"); });
  std::string out =
      "# Written by `coffer agent install`.\n"
      "[Unit]\n"
      "Description=Coffer agent: keeps the Machines of this host running\n";
  if (docker && !user) out += "Wants=docker.service\nAfter=docker.service\n";
  out += "StartLimitIntervalSec=0\n\n[Service]\nType=notify\n";
  out +=
      "ExecStart=" + unit_word((apis.empty() ? program : program.parent_path() / "coffer-agent").string()) +
      " --engine " + unit_word(engine.home().engine_file().string()) + (apis.empty() ? " agent\n" : "\n");
  // Where `coffer run` finds it; behind a reboot the folder is to be made again.
  const std::string sockets = apis.empty() ? "" : engine.config().agent_socket.parent_path().string();
  if (!sockets.empty() && !user)
    out += "ExecStartPre=+/usr/bin/mkdir -p -m 0755 " + unit_word(sockets) + "\n";
  out +=
      "Restart=on-failure\n"
      "RestartSec=2\n"
      "LimitMEMLOCK=infinity\n"
      "LimitCORE=0\n";
  if (!docker)
    return out + std::string(kProcess) +
           "\n[Install]\nWantedBy=" + (user ? "default.target\n" : "multi-user.target\n");
  out += kSandbox;
  out += dials ? "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n" : "RestrictAddressFamilies=AF_UNIX\n";
  if (!user) {
    out += kSystemSandbox;
    if (!dials) out += "PrivateNetwork=yes\nIPAddressDeny=any\n";
    out += "ReadWritePaths=" + unit_path(home.string()) + "\n";
    if (!sockets.empty()) out += "ReadWritePaths=" + unit_path(sockets) + "\n";
    bool in_home = false, in_tmp = false;
    for (const fs::path &path : {home, program, engine.config().runtime.plugin_dir}) {
      in_home |= below(path, "/home") || below(path, "/root") || below(path, "/run/user");
      in_tmp |= below(path, "/tmp") || below(path, "/var/tmp");
    }
    out += in_home ? "ProtectHome=read-only\n" : "ProtectHome=yes\n";
    if (!in_tmp) out += "PrivateTmp=yes\n";
  }
  return out + "\n[Install]\nWantedBy=" + (user ? "default.target\n" : "multi-user.target\n");
}

Result<fs::path> unit_file(bool user) {
  if (!user) return fs::path("/etc/systemd/system/coffer-agent.service");
  for (const auto &[variable, below] :
       {std::pair("XDG_CONFIG_HOME", "systemd/user"), {"HOME", ".config/systemd/user"}})
    if (const char *dir = std::getenv(variable); dir && dir[0] == '/')
      return fs::path(dir) / below / "coffer-agent.service";
  return fail(ErrorCode::kFailedPrecondition, "HOME is not set, so there is no folder for a user unit");
}

Result<void> write_unit(const fs::path &file, const std::string &text) {
  const auto failed = [&](const std::string &what, int error) {
    return fail(error == EACCES || error == EPERM || error == EROFS ? ErrorCode::kPermissionDenied
                                                                    : ErrorCode::kUnavailable,
                what + ": " + std::strerror(error),
                "Use --print and put the unit where it belongs, or --user without root.");
  };
  std::error_code e;
  fs::create_directories(file.parent_path(), e);
  if (e) return failed("cannot make folder " + file.parent_path().string(), e.value());
  const std::string fresh = file.string() + ".new";
  const int fd = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  const bool written = fd >= 0 &&
                       ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                       ::fsync(fd) == 0;
  int error = errno;
  if (fd >= 0) ::close(fd);
  if (written && ::rename(fresh.c_str(), file.c_str()) == 0) return {};
  if (written) error = errno;
  ::unlink(fresh.c_str());
  return failed("cannot write " + file.string(), error);
}

}  // namespace

Result<int> agent(Arguments &a) {
  if (!a.quiet) set_log_level(a.verbose ? LogLevel::kDebug : LogLevel::kInfo);
  a.quiet = true;  // steps of a boot are not for a journal; --verbose shows them
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_CHECK(engine->home().lock_host());
  catch_interrupts();
  COFFER_TRY(Vault * vault, engine->vault());
  COFFER_TRY(Agent * host, engine->agent());
  COFFER_TRY(Deployer * deployer, engine->deployer());
  VaultOrders orders(*vault, *deployer);
  Reconciler reconciler =
      Reconciler::create({.orders = &orders,
                          .agent = host,
                          .open_runtime = [&] { return Runtime::open(engine->config().runtime); },
                          .cancel_fd = interrupt_fd(),
                          .at_rest =
                              [&] {
                                if (KeyService *keys = engine->own_keys()) keys->lock();
                              }});
  if (a.once) {
    COFFER_TRY(const size_t wrong, reconciler.once());
    if (interrupted()) return fail(ErrorCode::kCancelled, "interrupted");
    if (wrong)
      return fail(ErrorCode::kUnknown,
                  std::to_string(wrong) + (wrong == 1 ? " Machine is" : " Machines are") + " not as wanted");
    return 0;
  }
  log(LogLevel::kInfo, "agent", "started for " + engine->home().dir().string());
  // Not later: what has to be booted first of all may take longer than a service manager waits.
  notify_service_manager("READY=1");
  COFFER_CHECK(reconciler.run());
  notify_service_manager("STOPPING=1");
  log(LogLevel::kInfo, "agent", "ended; the Machines go on");
  return 0;
}

Result<int> agent_install(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  const bool user = a.user_unit;
  const std::string text = unit(*engine, fs::read_symlink("/proc/self/exe"), user);
  if (a.print) {
    print(std::string_view(text).substr(0, text.size() - 1));
    return 0;
  }
  COFFER_TRY(const fs::path file, unit_file(user));
  if (!user && ::geteuid() != 0)
    return fail(ErrorCode::kPermissionDenied, "a system unit can only be written by root",
                "Use sudo, or --user for a unit of your own.");
  std::ifstream in(file);
  const std::string before{std::istreambuf_iterator<char>(in), {}};
  if (in.is_open() && before != text && !a.force)
    return fail(ErrorCode::kAlreadyExists, file.string() + " exists and is different",
                "Compare it with `coffer agent install --print`; --force overwrites it.");
  if (!in.is_open() || before != text) COFFER_CHECK(write_unit(file, text));
  const std::string systemctl = user ? "systemctl --user" : "systemctl";
  print("Wrote " + file.string() + ". Now:\n  " + systemctl + " daemon-reload\n  " + systemctl +
        " enable --now coffer-agent" +
        (user ? "\n  loginctl enable-linger    so that it also runs while you are logged out" : ""));
  return 0;
}

}  // namespace coffer::cli
