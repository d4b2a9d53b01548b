// coffer-keys: the key service as a process of its own.  It holds the Apps' private keys and nothing of the
// vault, listens on one unix socket, and has neither network nor core dump.
#include <grp.h>
#include <pwd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <new>

#include "../cli/files.h"
#include "../cli/home.h"
#include "../cli/output.h"
#include "coffer/base/log.h"
#include "coffer/base/process.h"
#include "coffer/config/engine_config.h"
#include "coffer/keys/key_service.h"
#include "coffer/keys/key_socket.h"

namespace {

using namespace coffer;

constexpr char kHelp[] =
    "coffer-keys: holds the private keys of Coffer's Apps, and opens for hosts that may.\n"
    "\n"
    "  coffer-keys [--engine FILE] [--verbose]     serves until SIGTERM\n"
    "  coffer-keys [--engine FILE] --init          makes its keys if it has none; prints its identity\n"
    "  coffer-keys --help | --version\n"
    "\n"
    "FILE is the engine config, COFFER_HOME/engine.toml without the option:\n"
    "\n"
    "  [keys]\n"
    "  socket = \"/run/coffer-keys/keys.sock\"\n"
    "  api    = [\"coffer-api\"]       # may have keys made, grant and revoke\n"
    "  agents = [\"coffer-agent\"]     # may ask for machine tokens\n"
    "  [kms]\n"
    "  plugin = \"kms-local\"\n"
    "  path   = \"kms\"\n"
    "\n"
    "pins/writers beside it: the public keys of those who write manifests, one hex line each (an API's\n"
    "pins/writers has its own).  pins/identity is written by --init: copy it to every API, host and user.\n"
    "Administrators are root and the user it runs as: coffer host enroll, list, revoke.\n";

Result<std::vector<uid_t>> users(const std::vector<std::string> &names) {
  std::vector<uid_t> out;
  for (const std::string &name : names) {
    uid_t uid = 0;
    const auto [end, e] = std::from_chars(name.data(), name.data() + name.size(), uid);
    if (e != std::errc() || end != name.data() + name.size()) {
      const passwd *p = ::getpwnam(name.c_str());
      if (!p)
        return fail(ErrorCode::kNotFound, "[keys] names user " + name + ", who does not exist on this host");
      uid = p->pw_uid;
    }
    out.push_back(uid);
  }
  return out;
}

struct Options {
  std::string engine;
  bool init = false;
};

Result<void> serve(const Options &o) {
  COFFER_TRY(const cli::Home home, cli::Home::find(o.engine));
  COFFER_TRY(const EngineConfig config, read_engine_config(home.engine_file()));
  COFFER_TRY(Storage store, Storage::open(config.keys_storage));
  {
    COFFER_TRY(const Kms kms, Kms::open(config.kms));
    COFFER_TRY(const PublicKey identity, KeyService::initialize(store, kms));
    std::filesystem::create_directories(home.dir() / "pins");
    COFFER_CHECK(home.pin(identity));
    if (o.init) {
      std::printf("%s\n", hex(identity).c_str());
      return {};
    }
  }
  COFFER_TRY(const std::vector<PublicKey> writers, home.writers());
  KeyServer::Config where{.socket = config.keys_socket.string(), .api = {}, .agents = {}};
  if (where.socket.empty())
    return fail(ErrorCode::kInvalidArgument, home.engine_file().string() + " has no `socket` under [keys]",
                "See coffer-keys --help.");
  COFFER_TRY(where.api, users(config.keys_api));
  COFFER_TRY(where.agents, users(config.keys_agents));
  COFFER_CHECK(KeyServer::check(where));
  const AuditLog audit(home.audit_log("keys"));
  COFFER_TRY(
      KeyService service,
      KeyService::open(std::move(store), [&] { return Kms::open(config.kms); }, writers, now_ms, &audit));
  // Now, not at the first boot: a KMS that does not answer is noticed by whoever starts this.
  COFFER_CHECK(service.unlock());
  if (::mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0)
    log(LogLevel::kWarn, "keys", "memory cannot be locked: raise LimitMEMLOCK in the unit");

  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  const int stop_fd = ::signalfd(-1, &stop, SFD_CLOEXEC);
  COFFER_TRY(KeyServer server, KeyServer::listen(where, service));
  log(LogLevel::kInfo, "keys", "listens at " + where.socket);
  notify_service_manager("READY=1");
  COFFER_CHECK(server.run(stop_fd));
  notify_service_manager("STOPPING=1");
  log(LogLevel::kInfo, "keys", "ended");
  return {};
}

int refuse(const char *what) {
  std::fprintf(stderr, "Error: %s\nSee coffer-keys --help.\n", what);
  return 2;
}

}  // namespace

int main(int argc, char **argv) {
  occupy_standard_streams();
  harden_process();
  set_log_level(LogLevel::kInfo);
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--help" || word == "-h") return std::fputs(kHelp, stdout) < 0;
    if (word == "--version") return std::puts("coffer-keys " COFFER_VERSION) < 0;
    if (word == "--init")
      o.init = true;
    else if (word == "--verbose")
      set_log_level(LogLevel::kDebug);
    else if (word == "--engine" && i + 1 < argc)
      o.engine = argv[++i];
    else
      return refuse("an option is not known, or lacks its value");
  }
  try {
    const auto served = serve(o);
    if (served) return 0;
    const Error &e = served.error();
    cli::print_error(e);
    return cli::exit_code(e.code);
  } catch (const std::bad_alloc &) {
    std::fputs("Error: out of memory\n", stderr);
  } catch (...) {
    // The text of an exception could quote its input.
    std::fputs("Error: internal error\n", stderr);
  }
  return 1;
}
