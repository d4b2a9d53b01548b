// coffer-agent: boots, watches and destroys the Machines of its host, as the APIs order that it dials. Beside
// the sessions one thread keeps running what ran, also while no API is there.
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>
#include <list>
#include <mutex>
#include <thread>

#include "../cli/home.h"
#include "api/client/key_relay.h"
#include "coffer/agent/kept_orders.h"
#include "coffer/agent/local_receiver.h"
#include "coffer/base/log.h"
#include "coffer/base/process.h"
#include "coffer/config/engine_config.h"
#include "coffer/keys/key_socket.h"
#include "server/daemon.h"
#include "server/http/client.h"
#include "server/http/session.h"

namespace {

using namespace coffer;
using namespace std::chrono_literals;

constexpr char kHelp[] =
    "coffer-agent: runs the Machines of this host, as coffer-api orders.\n"
    "\n"
    "  coffer-agent [--engine FILE] [--verbose]    runs until SIGTERM; the Machines go on\n"
    "  coffer-agent --help | --version\n"
    "\n"
    "FILE is the engine config, COFFER_HOME/engine.toml without the option:\n"
    "\n"
    "  [agent]\n"
    "  api = [\"unix:///run/coffer-api/api.sock\"]   # or http://127.0.0.1:PORT, https://HOST\n"
    "  mounts = [\"/srv/web\"]                       # folders of the host that Machines may have; others: "
    "none\n"
    "  socket = \"/run/coffer-agent/agent.sock\"     # where `coffer run` on this host gets values, and who "
    "may:\n"
    "  users = [\"deploy\"]                          # beside root; without a socket nobody\n"
    "  [keys]\n"
    "  socket = \"/run/coffer-keys/keys.sock\"       # not there: asked through the API (its `relay_keys`)\n"
    "  [runtime]\n"
    "  plugin = \"runtime-docker\"\n"
    "\n"
    "Beside it, from `coffer init --keys SOCKET --identity HEX`: host/host.key, pins/identity, and "
    "pins/writers, in\n"
    "which the writers of the APIs are named.  Before the first start: coffer host join NAME.\n";

constexpr auto kShortestPause = 100ms, kLongestPause = 5000ms;

struct Host {
  cli::Home home;
  EngineConfig config;
  Pins pins;
  SecretBytes seed;
  mutable MachineChanges changes;
  mutable api::KeyRelay relay;
  LocalReceivers *receivers = nullptr;

  // Its socket, or, where there is none, the way through the APIs.
  KeyClient keys() const {
    if (!config.keys_socket.empty()) return KeyClient(config.keys_socket.string());
    return KeyClient("the API's", [this] { return relay.dial(); });
  }
  // For one thread.  `keys` outlives it.
  Result<Agent> agent(BootKeys &keys, int stop_fd, int caller_fd = -1, const Steps &steps = {}) const {
    COFFER_TRY(SigningKey host_key, SigningKey::from_seed(seed.reveal()));
    return Agent::create({.open_store = [this] { return Storage::open(config.agent_storage); },
                          .open_runtime = [this] { return Runtime::open(config.runtime); },
                          .open_injectors = [this] { return Injector::open_all(config.injectors); },
                          .host_key = std::move(host_key),
                          .writers = pins.writers,
                          .identity = pins.identity,
                          .keys = &keys,
                          .cancel_fd = stop_fd,
                          .caller_fd = caller_fd,
                          .owner = worker_identity(),
                          .progress = steps,
                          .image_progress = steps ? [steps](std::string_view line) { steps("", line); }
                                                  : std::function<void(std::string_view)>{},
                          .changes = &changes,
                          .mounts = config.agent_mounts,
                          .receiver = receivers ? [r = receivers](const Ticket &t) { return r->take(t); }
                                                : std::function<Result<TakeValues>(const Ticket &)>{}});
  }
};

// The sessions with one API: always one that is not used yet.
class Sessions {
 public:
  Sessions(const Host &host, std::string url, int stop_fd)
      : host_(host), url_(std::move(url)), stop_fd_(stop_fd), dialler_([this] { dial(); }) {}
  ~Sessions() {
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
      for (const Session &s : sessions_)
        if (s.fd >= 0) ::shutdown(s.fd, SHUT_RDWR);
    }
    changed_.notify_all();
    dialler_.join();
    for (Session &s : sessions_) s.thread.join();
  }

 private:
  struct Session {
    int fd = -1;  // of its link while it lasts
    bool done = false;
    std::thread thread;
  };

  bool stopped_within(std::chrono::milliseconds time) const {
    pollfd p{stop_fd_, POLLIN, 0};
    return ::poll(&p, 1, static_cast<int>(time.count())) > 0;
  }

  Result<std::unique_ptr<http::Duplex>> connect(http::Client &client) const {
    http::Call call;
    call.target = std::string(http::kSessionPath);
    call.cancel_fd = stop_fd_;
    http::Answer refused;
    COFFER_TRY(std::unique_ptr<http::Duplex> connection, client.upgrade(call, refused));
    if (!connection)
      return fail(ErrorCode::kUnavailable,
                  "the API at " + url_ + " answered with status " + std::to_string(refused.status));
    COFFER_TRY(const SigningKey key, SigningKey::from_seed(host_.seed.reveal()));
    COFFER_CHECK(http::say_hello(*connection, key));
    return connection;
  }

  void dial() {
    auto client = http::Client::open({.url = url_, .ca_file = host_.config.agent_ca.string()});
    if (!client) return log(LogLevel::kError, "agent", client.error().message);
    auto pause = kShortestPause;
    std::string said;
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return spares_ == 0 || ends_; });
        if (ends_) return;
        std::erase_if(sessions_, [](Session &s) {
          if (!s.done) return false;
          s.thread.join();
          return true;
        });
        ++spares_;
      }
      auto connection = connect(**client);
      if (connection) {
        if (std::exchange(said, {}) != "") log(LogLevel::kInfo, "agent", "the API at " + url_ + " is back");
        if (!std::exchange(connected_, true)) log(LogLevel::kInfo, "agent", "takes orders of " + url_);
        const std::lock_guard lock(mutex_);
        Session &s = sessions_.emplace_back();
        s.thread = std::thread([this, &s, c = *std::move(connection)]() mutable { run(s, std::move(c)); });
        pause = kShortestPause;
      } else {
        if (stopped_within(0ms)) return;
        if (std::exchange(said, connection.error().message) != connection.error().message)
          log(LogLevel::kWarn, "agent", connection.error().message + "; dialling again");
        end_spare();
        if (stopped_within(pause)) return;
        pause = std::min<std::chrono::milliseconds>(2 * pause, kLongestPause);
      }
    }
  }

  void end_spare() {
    {
      const std::lock_guard lock(mutex_);
      --spares_;
    }
    changed_.notify_all();
  }

  void run(Session &session, std::unique_ptr<http::Duplex> connection) {
    if (auto pair = MessageSocket::pair()) {
      const sdk::Fd gone(::eventfd(0, EFD_CLOEXEC));  // readable once the caller is
      std::thread carrier([&, end = std::move(pair->second)]() mutable {
        http::carry(*connection, std::move(end));
        const uint64_t one = 1;
        [[maybe_unused]] const ssize_t n = ::write(gone.get(), &one, sizeof one);
      });
      {
        const std::lock_guard lock(mutex_);
        session.fd = pair->first.fd();
        if (ends_) ::shutdown(session.fd, SHUT_RDWR);
      }
      pollfd used{pair->first.fd(), POLLIN, 0};
      while (::poll(&used, 1, -1) < 0) {
      }
      const bool turned_away = !connected_for_use(pair->first.fd());
      if (turned_away) (void)stopped_within(kShortestPause);
      end_spare();
      if (!turned_away) serve(pair->first, gone.get());
      {
        const std::lock_guard lock(mutex_);
        session.fd = -1;
      }
      {
        const sdk::Fd closed = pair->first.take();
      }
      carrier.join();
    } else {
      end_spare();
    }
    const std::lock_guard lock(mutex_);
    session.done = true;
  }

  // There is something to read, and it is not the end.
  static bool connected_for_use(int fd) {
    char byte;
    return ::recv(fd, &byte, 1, MSG_PEEK) > 0;
  }

  void serve(MessageSocket &link, int caller_fd) const {
    KeyClient keys = host_.keys();
    auto agent = host_.agent(keys, stop_fd_, caller_fd, [&](std::string_view machine, std::string_view step) {
      (void)tell_step(link, machine, step);
    });
    auto store = Storage::open(host_.config.agent_storage);
    if (!agent || !store)
      return log(LogLevel::kError, "agent", agent ? store.error().message : agent.error().message);
    OrderBook book(*std::move(store), host_.pins.writers);
    serve_host(*agent, link, [&](BootOrder &order) { book.keep(order); }, &host_.changes);
  }

  const Host &host_;
  const std::string url_;
  const int stop_fd_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Session> sessions_;
  int spares_ = 0;
  bool ends_ = false, connected_ = false;
  std::thread dialler_;
};

Result<void> serve(const std::string &engine) {
  COFFER_TRY(const cli::Home home, cli::Home::find(engine));
  COFFER_TRY(EngineConfig config, read_engine_config(home.engine_file()));
  if (config.agent_apis.empty())
    return fail(ErrorCode::kInvalidArgument, home.engine_file().string() + " has no `api` under [agent]",
                "See coffer-agent --help.");
  COFFER_TRY(Pins pins, home.pins());
  COFFER_TRY(SecretBytes seed, home.host_seed());
  COFFER_CHECK(home.lock_host());
  lock_memory("agent");

  const int stop_fd = stop_signals();

  std::unique_ptr<LocalReceivers> receivers;
  if (!config.agent_socket.empty()) {
    COFFER_TRY(const SigningKey key, SigningKey::from_seed(seed.reveal()));
    COFFER_TRY(std::vector<uid_t> users, users_of("agent", config.agent_users));
    COFFER_TRY(receivers,
               LocalReceivers::listen({config.agent_socket.string(), std::move(users), key.public_key()}));
  }
  const Host host{.home = home,
                  .config = config,
                  .pins = std::move(pins),
                  .seed = SecretBytes::copy_of(seed.reveal()),
                  .changes = {},
                  .relay{config.agent_apis, config.agent_ca.string(), std::move(seed), stop_fd},
                  .receivers = receivers.get()};
  KeyClient keys = host.keys();
  COFFER_TRY(Agent agent, host.agent(keys, stop_fd));
  COFFER_TRY(Storage store, Storage::open(host.config.agent_storage));
  OrderBook book(std::move(store), host.pins.writers);
  KeptOrders orders(agent, book);
  Reconciler reconciler = Reconciler::create(
      {.orders = &orders,
       .agent = &agent,
       .open_runtime = [&] { return Runtime::open(host.config.runtime); },
       .cancel_fd = stop_fd,
       .at_rest =
           [&] {
             const auto states = agent.states();
             const auto tidied = states ? book.tidy(*states) : Result<void>(std::unexpected(states.error()));
             if (!tidied) log(LogLevel::kWarn, "agent", tidied.error().message);
           }});
  log(LogLevel::kInfo, "agent", "started for " + home.dir().string());
  std::list<Sessions> apis;
  for (const std::string &url : host.config.agent_apis) apis.emplace_back(host, url, stop_fd);
  notify_service_manager("READY=1");
  const auto ran = reconciler.run();
  notify_service_manager("STOPPING=1");
  host.changes.end();
  apis.clear();
  COFFER_CHECK(ran);
  log(LogLevel::kInfo, "agent", "ended; the Machines go on");
  return {};
}

}  // namespace

int main(int argc, char **argv) { return daemon_main(argc, argv, "coffer-agent", kHelp, serve); }
