// coffer-keys: the key service as a process of its own.  It holds the Apps' private keys and nothing of the
// vault, listens on one unix socket, and has neither network nor core dump.
#include <cstdio>

#include "../cli/files.h"
#include "../cli/home.h"
#include "coffer/base/log.h"
#include "coffer/base/process.h"
#include "coffer/config/engine_config.h"
#include "coffer/keys/key_service.h"
#include "coffer/keys/key_socket.h"
#include "server/daemon.h"

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

// `init`: makes its keys, and says its identity, and no more.
Result<void> serve(const std::string &engine, bool init) {
  COFFER_TRY(const cli::Home home, cli::Home::find(engine));
  COFFER_TRY(const EngineConfig config, read_engine_config(home.engine_file()));
  COFFER_TRY(Storage store, Storage::open(config.keys_storage));
  {
    COFFER_TRY(const Kms kms, Kms::open(config.kms));
    COFFER_TRY(const PublicKey identity, KeyService::initialize(store, kms));
    std::filesystem::create_directories(home.dir() / "pins");
    COFFER_CHECK(home.pin(identity));
    if (init) {
      std::printf("%s\n", hex(identity).c_str());
      return {};
    }
  }
  COFFER_TRY(const std::vector<PublicKey> writers, home.writers());
  KeyServer::Config where{.socket = config.keys_socket.string(),
                          .api = {},
                          .agents = {},
                          .beside = [&]() -> Result<std::unique_ptr<Keys>> {
                            COFFER_TRY(Storage again, Storage::open(config.keys_storage));
                            const auto no_kms = []() -> Result<Kms> {
                              return fail(ErrorCode::kInternal, "reports of headers need no key");
                            };
                            COFFER_TRY(KeyService service,
                                       KeyService::open(std::move(again), no_kms, writers));
                            return std::make_unique<KeyService>(std::move(service));
                          }};
  if (where.socket.empty())
    return fail(ErrorCode::kInvalidArgument, home.engine_file().string() + " has no `socket` under [keys]",
                "See coffer-keys --help.");
  COFFER_TRY(where.api, users_of("keys", config.keys_api));
  COFFER_TRY(where.agents, users_of("keys", config.keys_agents));
  COFFER_CHECK(KeyServer::check(where));
  const AuditLog audit(home.audit_log("keys"));
  COFFER_TRY(
      KeyService service,
      KeyService::open(std::move(store), [&] { return Kms::open(config.kms); }, writers, now_ms, &audit));
  // Now, not at the first boot: a KMS that does not answer is noticed by whoever starts this.
  COFFER_CHECK(service.unlock());
  lock_memory("keys");

  const int stop_fd = stop_signals();
  COFFER_TRY(KeyServer server, KeyServer::listen(where, service));
  log(LogLevel::kInfo, "keys", "listens at " + where.socket);
  notify_service_manager("READY=1");
  COFFER_CHECK(server.run(stop_fd));
  notify_service_manager("STOPPING=1");
  log(LogLevel::kInfo, "keys", "ended");
  return {};
}

}  // namespace

int main(int argc, char **argv) {
  bool init = false;
  return daemon_main(
      argc, argv, "coffer-keys", kHelp, [&](const std::string &engine) { return serve(engine, init); },
      &init);
}
