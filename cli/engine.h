// Engine: what a command works with.  Embedded mode: all roles in one process, made of the same classes that
// the daemons use; each is opened when a command first needs it, so a command loads only the plugin kinds it
// uses. Server mode ([api] url, COFFER_API): there is control() and nothing else.
#ifndef COFFER_CLI_ENGINE_H
#define COFFER_CLI_ENGINE_H

#include <memory>

#include "api/client/api_client.h"
#include "api/client/key_relay.h"
#include "arguments.h"
#include "coffer/agent/agent.h"
#include "coffer/config/engine_config.h"
#include "coffer/keys/key_service.h"
#include "coffer/release/control.h"
#include "coffer/tokens/user_tokens.h"
#include "home.h"
#include "output.h"
#include "progress.h"

namespace coffer::cli {

class Engine {
 public:
  static Result<std::unique_ptr<Engine>> open(const Arguments &);

  const Home &home() const { return home_; }
  const EngineConfig &config() const { return config_; }
  const Arguments &arguments() const { return arguments_; }

  // Through coffer-api?
  bool remote() const { return !config_.api.url.empty(); }
  // In either mode.
  Result<Control *> control();
  Result<UserTokens *> tokens();
  // Of server mode.
  Result<api::ApiClient *> api();
  // This home is a host's only, whose agent asks the key service through an API.
  bool relays() const { return config_.keys_socket.empty() && !config_.agent_apis.empty(); }

  // ---- embedded mode; in server mode kFailedPrecondition ----
  Result<Vault *> vault();
  Result<Keys *> keys();
  // The same, when it is part of this process; nullptr: it is a process of its own.
  KeyService *own_keys() { return own_keys_; }
  Result<Agent *> agent();
  Result<Deployer *> deployer();
  Result<Kms> open_kms() const;
  // The audit logs of this home: of the API's half and of the key service.
  std::vector<AuditFile> audit_files() const;

  // ---- in either mode ----
  // The values of a command of this host (`only` empty: all), its grant revoked again.
  Result<std::vector<Delivery>> environment(const App &, const std::set<std::string> &only);
  // The App that the command is about: -a, COFFER_APP, App config.
  Result<App> app();
  Result<App> app(std::string_view name);

 private:
  Engine(const Arguments &arguments, Home home, EngineConfig config)
      : arguments_(arguments),
        home_(std::move(home)),
        config_(std::move(config)),
        progress_(stderr_is_terminal() && !arguments.verbose),
        api_log_(home_.audit_log("api")),
        keys_log_(home_.audit_log("keys")) {}

  Result<void> here() const;
  Steps steps();
  Result<Agent::Config> agent_config();

  const Arguments &arguments_;
  Home home_;
  EngineConfig config_;
  Progress progress_;
  AuditLog api_log_, keys_log_;
  std::unique_ptr<api::KeyRelay> relay_;
  std::unique_ptr<Vault> vault_;
  std::unique_ptr<Keys> keys_;
  KeyService *own_keys_ = nullptr;
  std::unique_ptr<Agent> agent_;
  std::unique_ptr<Deployer> deployer_;
  std::unique_ptr<api::ApiClient> api_;
  std::unique_ptr<Control> control_;
  std::unique_ptr<UserTokens> tokens_;
  std::vector<Delivery> handed_;  // by agent_
};

// The App name by -a, COFFER_APP, or the App config; kInvalidArgument when there is none.
Result<std::string> app_name(const Arguments &);
// "user@host", for manifests and releases.
std::string who();
// Readable once the user has asked to stop (Ctrl-C, SIGTERM), and that is caught.
int interrupt_fd();
void catch_interrupts();
bool interrupted();

}  // namespace coffer::cli
#endif
