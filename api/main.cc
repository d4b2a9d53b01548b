// coffer-api: writes what was sealed elsewhere, makes launch specs, and has the hosts' agents boot.  It
// cannot open a value: nothing that opens is linked, and no private key is ever here.
#include <sys/signalfd.h>
#include <unistd.h>

#include <poll.h>

#include <algorithm>

#include "../cli/home.h"
#include "admission.h"
#include "coffer/base/log.h"
#include "coffer/base/process.h"
#include "coffer/config/engine_config.h"
#include "coffer/release/deployer.h"
#include "host_hub.h"
#include "lazy_host.h"
#include "routes.h"
#include "server/daemon.h"

namespace {

using namespace coffer;

constexpr char kHelp[] =
    "coffer-api: the API of Coffer.  It can seal and store, and open nothing.\n"
    "\n"
    "  coffer-api [--engine FILE] [--verbose]     serves until SIGTERM\n"
    "  coffer-api --help | --version\n"
    "\n"
    "FILE is the engine config, COFFER_HOME/engine.toml without the option:\n"
    "\n"
    "  [storage]\n"
    "  plugin = \"storage-sqlite\"\n"
    "  [keys]\n"
    "  socket = \"/run/coffer-keys/keys.sock\"\n"
    "  [api]\n"
    "  socket = \"/run/coffer-api/api.sock\"     # open to every user of the host: the token counts\n"
    "  listen = \"127.0.0.1:4280\"               # and, or, TCP; off loopback with TLS:\n"
    "  certificate = \"tls.crt\"\n"
    "  key = \"tls.key\"\n"
    "\n"
    "Beside it, from `coffer init --keys SOCKET --identity HEX`: api/ and pins/.  Tokens for its users are "
    "made with\n"
    "`coffer token create` in this home.\n";

Result<void> serve(const std::string &engine) {
  COFFER_TRY(const cli::Home home, cli::Home::find(engine));
  COFFER_TRY(const EngineConfig config, read_engine_config(home.engine_file()));
  if (config.keys_socket.empty())
    return fail(ErrorCode::kInvalidArgument, home.engine_file().string() + " has no `socket` under [keys]",
                "See coffer-api --help.");
  if (config.api.socket.empty() && config.api.listen.empty())
    return fail(ErrorCode::kInvalidArgument,
                home.engine_file().string() + " has neither `socket` nor `listen` under [api]",
                "See coffer-api --help.");
  COFFER_TRY(const Pins pins, home.pins());
  COFFER_TRY(const SecretBytes seed, home.writer_seed());
  COFFER_TRY(const SecretBytes root, home.token_root());
  COFFER_CHECK(home.digest_credential());
  const auto make = [&]() -> Result<std::unique_ptr<api::Seat>> {
    COFFER_TRY(SigningKey writer, SigningKey::from_seed(seed.reveal()));
    COFFER_TRY(Storage for_vault, Storage::open(config.storage));
    COFFER_TRY(Vault vault, Vault::open(std::move(for_vault), std::move(writer), pins));
    COFFER_TRY(Storage for_tokens, Storage::open(config.storage));
    COFFER_TRY(TokenAuthority tokens,
               TokenAuthority::open(std::move(for_tokens), root, home.revoked_tokens()));
    return std::unique_ptr<api::Seat>(
        new api::Seat{std::move(vault), KeyClient(config.keys_socket.string()), std::move(tokens)});
  };
  api::Seats seats(make);
  COFFER_CHECK(seats.take());  // what is wrong with the vault is told by whoever starts this
  const AuditLog audit(home.audit_log("api"));
  COFFER_CHECK(audit.ready());
  lock_memory("api");

  const int stop_fd = stop_signals();

  api::Admission admission(config.keys_socket.string());
  api::HostHub *connected = nullptr;
  // What was cut off while no host was there: by the end of an agent, of this API, or of both.
  const auto finish_cut_off = [&] {
    const auto seat = seats.take();
    if (!seat) return log(LogLevel::kWarn, "api", seat.error().message);
    const auto apps = (*seat)->vault.apps();
    if (!apps) return log(LogLevel::kWarn, "api", apps.error().message);
    for (const AppEntry &entry : *apps) {
      api::LazyHost host([&] { return connected->host({}); });
      Deployer deployer((*seat)->vault, (*seat)->keys, host, "coffer-api", &audit);
      deployer.set_policy(config.deploy.over({}));
      deployer.set_hosts(
          [&]() -> Result<std::unique_ptr<MachineHost>> {
            return std::make_unique<api::LazyHost>([&] { return connected->host({}); });
          },
          config.deploy_parallel);
      const auto app = (*seat)->vault.app(entry.name);
      const auto finished = app ? deployer.finish_cut_off(*app)
                                : Result<std::vector<std::string>>(std::unexpected(app.error()));
      if (!finished) log(LogLevel::kWarn, "api", "App " + entry.name + ": " + finished.error().message);
      if (finished)
        for (const std::string &warning : *finished) log(LogLevel::kWarn, "api", warning);
    }
  };
  api::MachineSignals changed;
  api::HostHub hub({.admit = std::ref(admission),
                    .came = finish_cut_off,
                    .changed = [&](const std::string &machine) { changed.notify(machine); }});
  connected = &hub;
  COFFER_TRY(const auto server,
             http::Server::start(
                 {.unix_path = config.api.socket.string(),
                  .unix_mode = 0666,
                  .tcp = config.api.listen,
                  .tls_certificate_file = config.api.certificate.string(),
                  .tls_key_file = config.api.key.string()},
                 api::handler(
                     {.seats = &seats,
                      .audit = &audit,
                      .changed = &changed,
                      .find_host = [&](Steps s, const auto &which) { return hub.host(std::move(s), which); },
                      .host_session = [&](http::Duplex &c) { hub.serve(c); },
                      .admit_host = std::ref(admission),
                      .digest_credential = [&] { return home.digest_credential(); },
                      .policy = config.deploy.over({}),
                      .most_at_once = config.deploy_parallel,
                      .accept_plaintext = config.api.accept_plaintext,
                      .relay_keys = config.api.relay_keys}),
                 api::admit));
  log(LogLevel::kInfo, "api",
      "listens at " + (config.api.socket.empty() ? config.api.listen : config.api.socket.string()));
  notify_service_manager("READY=1");
  // What a request had to leave, because the host's platform was away.
  const auto left_over = [&] {
    const auto seat = seats.take();
    const auto apps = seat ? (*seat)->vault.apps() : Result<std::vector<AppEntry>>();
    return apps && std::ranges::any_of(*apps, [&](const AppEntry &app) {
             const auto has = (*seat)->vault.has_rollout(app.app_id);
             return has && *has;
           });
  };
  constexpr int kLookMs = 5000;
  pollfd stop{stop_fd, POLLIN, 0};
  while (::poll(&stop, 1, kLookMs) <= 0)
    if (left_over()) hub.remind();
  notify_service_manager("STOPPING=1");
  server->stop();
  log(LogLevel::kInfo, "api", "ended");
  return {};
}

}  // namespace

int main(int argc, char **argv) { return daemon_main(argc, argv, "coffer-api", kHelp, serve); }
