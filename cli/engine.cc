#include "engine.h"

#include <pwd.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "api/client/http_control.h"
#include "api/client/http_tokens.h"
#include "app_file.h"
#include "coffer/agent/local_receiver.h"
#include "coffer/base/names.h"
#include "coffer/base/process.h"
#include "coffer/keys/key_socket.h"
#include "coffer/keys/locked_keys.h"
#include "files.h"
#include "output.h"

namespace coffer::cli {

Result<std::unique_ptr<Engine>> Engine::open(const Arguments &arguments) {
  COFFER_TRY(Home home, Home::find(arguments.engine));
  if (home.restoring())
    return fail(ErrorCode::kFailedPrecondition, "a restore of this home was cut off",
                "Run `coffer vault restore FILE` again: it begins anew.");
  COFFER_TRY(EngineConfig config, read_engine_config(home.engine_file()));
  if (const char *url = std::getenv("COFFER_API"); url && *url) config.api.url = url;
  return std::unique_ptr<Engine>(new Engine(arguments, std::move(home), std::move(config)));
}

Result<void> Engine::here() const {
  if (!remote()) return {};
  return fail(ErrorCode::kFailedPrecondition, "this is not done through the API",
              "Run it where coffer-api, coffer-keys or coffer-agent has its home, with --engine.");
}

Result<Control *> Engine::control() {
  if (!control_ && remote()) {
    COFFER_TRY(api::ApiClient * a, api());
    control_ = std::make_unique<api::HttpControl>(*a);
  } else if (!control_) {
    COFFER_TRY(Deployer * d, deployer());
    control_ = std::make_unique<LocalControl>(*vault_, *keys_, *agent_, *d,
                                              [this] { return home_.digest_credential(); });
  }
  return control_.get();
}

Result<UserTokens *> Engine::tokens() {
  if (!tokens_ && remote()) {
    COFFER_TRY(api::ApiClient * a, api());
    tokens_ = std::make_unique<api::HttpTokens>(*a);
  } else if (!tokens_) {
    COFFER_TRY(const SecretBytes root, home_.token_root());
    COFFER_TRY(Storage storage, Storage::open(config_.storage));
    COFFER_TRY(TokenAuthority authority,
               TokenAuthority::open(std::move(storage), root, home_.revoked_tokens()));
    tokens_ = std::make_unique<OwnTokens>(std::move(authority), who());
  }
  return tokens_.get();
}

Result<api::ApiClient *> Engine::api() {
  if (api_) return api_.get();
  SecretBytes token;
  if (const char *given = std::getenv("COFFER_TOKEN"); given && *given) {
    token = SecretBytes::copy_of(as_bytes(given));
  } else {
    const std::filesystem::path file =
        config_.api.token_file.empty() ? home_.dir() / "user.token" : config_.api.token_file;
    auto text = read_file(file, kMaxToken + 2, file.string());
    if (!text)
      return fail(ErrorCode::kUnauthenticated, "there is no token for the API: " + text.error().message,
                  "Put it into " + file.string() + " or COFFER_TOKEN; `coffer token create` makes one.");
    size_t size = text->size();
    while (size > 0 && (text->reveal()[size - 1] == '\n' || text->reveal()[size - 1] == '\r')) --size;
    token = SecretBytes::copy_of(text->reveal().first(size));
  }
  COFFER_TRY(const PublicKey identity, home_.identity());
  COFFER_TRY(api_, api::ApiClient::open({.url = config_.api.url,
                                         .ca_file = config_.api.ca.string(),
                                         .token = std::move(token),
                                         .identity = identity,
                                         .cancel_fd = interrupt_fd(),
                                         .steps = steps()}));
  return api_.get();
}

// What hosts do, for a person.
Steps Engine::steps() {
  if (arguments_.quiet || arguments_.json) return {};
  return [this](std::string_view machine, std::string_view step) { progress_.tell(machine, step); };
}

Result<Vault *> Engine::vault() {
  if (!vault_) {
    COFFER_CHECK(here());
    COFFER_TRY(Pins pins, home_.pins());
    COFFER_TRY(const SecretBytes seed, home_.writer_seed());
    COFFER_TRY(SigningKey writer, SigningKey::from_seed(seed.reveal()));
    COFFER_TRY(Storage storage, Storage::open(config_.storage));
    COFFER_TRY(Vault opened, Vault::open(std::move(storage), std::move(writer), std::move(pins)));
    vault_ = std::make_unique<Vault>(std::move(opened));
  }
  return vault_.get();
}

Result<Kms> Engine::open_kms() const { return Kms::open(config_.kms); }

std::vector<AuditFile> Engine::audit_files() const {
  std::vector<AuditFile> out = {{"api", api_log_.file()}};
  // That of a key service elsewhere lies there.
  if (config_.keys_socket.empty() || std::filesystem::exists(keys_log_.file()))
    out.push_back({"keys", keys_log_.file()});
  return out;
}

Result<Keys *> Engine::keys() {
  COFFER_CHECK(here());
  if (!keys_ && !config_.keys_socket.empty())
    keys_ = std::make_unique<KeyClient>(config_.keys_socket.string());
  if (!keys_ && relays()) {
    COFFER_TRY(SecretBytes seed, home_.host_seed());
    relay_ = std::make_unique<api::KeyRelay>(config_.agent_apis, config_.agent_ca.string(), std::move(seed),
                                             interrupt_fd());
    keys_ = std::make_unique<KeyClient>("the API's", [this] { return relay_->dial(); });
  }
  if (!keys_) {
    COFFER_TRY(const Pins pins, home_.pins());
    COFFER_TRY(Storage store, Storage::open(config_.keys_storage));
    COFFER_TRY(
        KeyService opened,
        KeyService::open(std::move(store), [this] { return open_kms(); }, pins.writers, now_ms, &keys_log_));
    auto own = std::make_unique<KeyService>(std::move(opened));
    own_keys_ = own.get();
    keys_ = std::make_unique<LockedKeys>(std::move(own));
  }
  return keys_.get();
}

Result<Agent::Config> Engine::agent_config() {
  COFFER_TRY(const Pins pins, home_.pins());
  COFFER_TRY(const SecretBytes seed, home_.host_seed());
  COFFER_TRY(SigningKey host, SigningKey::from_seed(seed.reveal()));
  COFFER_TRY(Keys * key_service, keys());
  if (own_keys_) own_keys_->trust(host.public_key());
  Agent::Config c{.open_store = [this] { return Storage::open(config_.agent_storage); },
                  .open_runtime = [this] { return Runtime::open(config_.runtime); },
                  .open_injectors = [this] { return Injector::open_all(config_.injectors); },
                  .host_key = std::move(host),
                  .writers = pins.writers,
                  .identity = pins.identity,
                  .keys = key_service,
                  .cancel_fd = interrupt_fd(),
                  .progress = {},
                  .image_progress = {}};
  if (const Steps tell = steps()) {
    c.progress = tell;
    c.image_progress = [tell](std::string_view line) { tell("", line); };
  }
  return c;
}

Result<Agent *> Engine::agent() {
  if (!agent_) {
    COFFER_TRY(Agent::Config c, agent_config());
    c.receiver = [this](const Ticket &) -> Result<TakeValues> {
      return [this](std::vector<Delivery> &values) -> Result<void> {
        handed_ = std::move(values);
        return {};
      };
    };
    agent_ = std::make_unique<Agent>(Agent::create(std::move(c)));
  }
  return agent_.get();
}

Result<Deployer *> Engine::deployer() {
  if (!deployer_) {
    COFFER_TRY(Vault * v, vault());
    COFFER_TRY(Keys * k, keys());
    COFFER_TRY(Agent * a, agent());
    deployer_ = std::make_unique<Deployer>(*v, *k, *a, who(), &api_log_);
    deployer_->set_policy(config_.deploy.over({}));
    deployer_->set_hosts(
        [this]() -> Result<std::unique_ptr<MachineHost>> {
          COFFER_TRY(Agent::Config c, agent_config());
          c.owner = worker_identity();
          return std::make_unique<Agent>(Agent::create(std::move(c)));
        },
        config_.deploy_parallel);
    deployer_->set_progress(steps());
    deployer_->set_cancelled(interrupted);
  }
  return deployer_.get();
}

Result<std::vector<Delivery>> Engine::environment(const App &app, const std::set<std::string> &only) {
  COFFER_TRY(Control * c, control());
  if (!remote()) {
    COFFER_CHECK(c->hand_over(app, only, {}));
    return std::move(handed_);
  }
  if (config_.agent_socket.empty())
    return fail(ErrorCode::kFailedPrecondition, "values are handed out by a host's agent, and none is named",
                "Put its `socket` under [agent] of " + home_.engine_file().string() + ", on that host.");
  COFFER_TRY(LocalReceiver here, LocalReceiver::connect(config_.agent_socket.string()));
  // They come before the API has answered.
  Result<std::vector<Delivery>> values;
  std::thread receives([&] { values = here.receive(); });
  const auto ordered = c->hand_over(app, only, here.receiver());
  if (!ordered) ::shutdown(here.fd(), SHUT_RDWR);
  receives.join();
  COFFER_CHECK(ordered);
  return values;
}

Result<App> Engine::app() {
  COFFER_TRY(const std::string name, app_name(arguments_));
  return app(name);
}

Result<App> Engine::app(std::string_view name) {
  COFFER_CHECK(check_app_name(name));
  COFFER_TRY(Control * c, control());
  COFFER_TRY(App found, c->app(name));
  COFFER_CHECK(home_.check_seen(found));
  return found;
}

Result<std::string> app_name(const Arguments &a) {
  if (!a.app.empty()) return a.app;
  if (const char *name = std::getenv("COFFER_APP"); name && *name) return std::string(name);
  COFFER_TRY(const auto file, find_app_file(a));
  if (file && !file->app.empty()) return file->app;
  return fail(ErrorCode::kInvalidArgument, "no App was named",
              "Use -a NAME, set COFFER_APP, or put `app = \"NAME\"` into coffer.toml.");
}

std::string who() {
  const passwd *p = getpwuid(geteuid());
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  return (p ? std::string(p->pw_name) : std::to_string(geteuid())) + "@" + host;
}

// ---- interrupts ----

namespace {
std::atomic<int> event{-1};
std::atomic<bool> asked{false};
void on_interrupt(int) {
  if (asked.exchange(true)) _exit(130);  // asked twice: now
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(event, &one, sizeof one);
}
}  // namespace

int interrupt_fd() {
  if (event < 0) event = ::eventfd(0, EFD_CLOEXEC);
  return event;
}

void catch_interrupts() {
  interrupt_fd();
  struct sigaction sa{};
  sa.sa_handler = on_interrupt;
  sigaction(SIGINT, &sa, nullptr);
  sigaction(SIGTERM, &sa, nullptr);
}

bool interrupted() { return asked; }

}  // namespace coffer::cli
