// For the tests of this folder: a coffer-api in this process, as main.cc wires it, with a key service behind
// its socket and a host that dials; and a Coffer without servers beside it, over the same vault and host.
// Nothing is faked but the host's runtime.
#ifndef COFFER_API_TEST_WORLD_H
#define COFFER_API_TEST_WORLD_H

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <list>
#include <thread>

#include "admission.h"
#include "client/http_control.h"
#include "client/http_tokens.h"
#include "coffer/agent/agent.h"
#include "coffer/base/process.h"
#include "coffer/keys/key_service.h"
#include "fakes.h"
#include "host_hub.h"
#include "lazy_host.h"
#include "routes.h"
#include "server/http/session.h"

namespace coffer::api {

using fakes::ok;

// Longer than anything here takes; reached only when something is broken.
inline constexpr std::chrono::seconds kPatience{30};

template <size_t N>
std::array<uint8_t, N> filled(uint8_t byte) {
  std::array<uint8_t, N> a;
  a.fill(byte);
  return a;
}
inline SigningKey writer_key() { return *SigningKey::from_seed(filled<32>(1)); }
inline SigningKey host_key() { return *SigningKey::from_seed(filled<32>(2)); }
inline SecretBytes digest_credential() { return SecretBytes::copy_of(filled<32>(3)); }
inline SecretBytes token_root() { return SecretBytes::copy_of(filled<32>(4)); }

// The agent, with logs and commands, which the runtime of files does not have.
struct TestAgent : Agent {
  explicit TestAgent(Agent agent) : Agent(std::move(agent)) {}
  Result<void> logs(const MachineState &m, const LogQuery &query,
                    const std::function<bool(uint32_t, int64_t, ByteSpan)> &each) override {
    if (!m.current) return fail(ErrorCode::kNotFound, "no instance has logs");
    do
      if (!each(1, 7, as_bytes(m.name + "\n"))) return {};
    while (query.follow);
    return {};
  }
  // Says its words and what it is told; its code is the number of the words.
  Result<int32_t> exec(const MachineState &, const std::vector<std::string> &argv,
                       const std::function<bool(uint32_t, ByteSpan)> &out,
                       const std::function<int64_t(std::span<uint8_t>)> &in, int) override {
    for (const std::string &word : argv) out(1, as_bytes(word + "\n"));
    uint8_t buffer[4096];
    for (;;) {
      const int64_t n = in(buffer);
      if (n < 0) return fail(ErrorCode::kCancelled, "the caller has gone");
      if (n == 0) return static_cast<int32_t>(argv.size());
      out(2, ByteSpan(buffer, static_cast<size_t>(n)));
    }
  }
};

// What coffer-agent is to an API: always one session that is not used yet.
class DiallingHost {
 public:
  using Open = std::function<std::unique_ptr<MachineHost>(const Steps &)>;
  DiallingHost(std::string url, SigningKey key, Open open, MachineChanges &changes)
      : url_(std::move(url)), key_(std::move(key)), open_(std::move(open)), changes_(changes) {
    dialler_ = std::thread([this] { dial(); });
  }
  ~DiallingHost() {
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
  size_t dialled() const { return dialled_; }

 private:
  struct Session {
    int fd = -1;  // of its link while it lasts
    std::thread thread;
  };
  void dial() {
    const auto client = http::Client::open({.url = url_});
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return spares_ == 0 || ends_; });
        // One that was turned away does not come back at once.
        if (pause_) changed_.wait_for(lock, std::chrono::milliseconds(5), [&] { return ends_; });
        if (ends_) return;
        ++spares_;
      }
      http::Call call;
      call.target = std::string(http::kSessionPath);
      http::Answer refused;
      auto connection = (*client)->upgrade(call, refused);
      if (!connection || !*connection || !http::say_hello(**connection, key_)) return;  // the API has ended
      const std::lock_guard lock(mutex_);
      ++dialled_;
      Session &s = sessions_.emplace_back();
      s.thread = std::thread([this, &s, c = *std::move(connection)]() mutable { run(s, std::move(c)); });
    }
  }
  static bool ended(int fd) {
    char byte;
    return ::recv(fd, &byte, 1, MSG_PEEK) <= 0;
  }
  void run(Session &session, std::unique_ptr<http::Duplex> connection) {
    auto pair = *MessageSocket::pair();
    std::thread carrier(
        [&, end = std::move(pair.second)]() mutable { http::carry(*connection, std::move(end)); });
    {
      const std::lock_guard lock(mutex_);
      session.fd = pair.first.fd();
      if (ends_) ::shutdown(session.fd, SHUT_RDWR);
    }
    pollfd used{pair.first.fd(), POLLIN, 0};
    ::poll(&used, 1, -1);
    {
      const std::lock_guard lock(mutex_);
      --spares_;
      pause_ = ended(pair.first.fd());
    }
    changed_.notify_all();
    {
      const auto agent = open_([&](std::string_view machine, std::string_view step) {
        (void)tell_step(pair.first, machine, step);
      });
      serve_host(*agent, pair.first, {}, &changes_);
    }
    {
      const std::lock_guard lock(mutex_);
      session.fd = -1;
    }
    {
      const sdk::Fd closed = pair.first.take();
    }
    carrier.join();
  }

  const std::string url_;
  const SigningKey key_;
  const Open open_;
  MachineChanges &changes_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Session> sessions_;
  int spares_ = 0;
  std::atomic<size_t> dialled_{0};
  bool pause_ = false, ends_ = false;
  std::thread dialler_;
};

class World {
 public:
  explicit World(std::chrono::milliseconds with_patience = std::chrono::seconds(5))
      : patience(with_patience) {
    for (const char *name : {"keys", "agent", "runtime"}) fakes::fs::create_directory(folder.path() / name);
    EXPECT_TRUE(ok(Vault::initialize(*storage("vault"))));
    identity = *KeyService::initialize(*storage("keys"), *kms());
    start_keys();
    enrol("alpha", host_key());
    start_api();
    start_host();
  }
  ~World() {
    stop_api();
    stop_host();
    stop_keys();
    ::close(stop_keys_);
  }

  // The vault lies in SQLite, the other two in memory, where they are told to fail.
  Result<Storage> storage(const std::string &role) const {
    if (role == "vault")
      return Storage::open(fakes::plugin("storage-sqlite", {{"path", folder.file("vault.db")}}));
    return Storage::open(fakes::plugin(
        "storage-memory", {{"name", role + folder.path().string()}, {"folder", folder.file(role)}}));
  }
  Result<Kms> kms() const { return Kms::open(fakes::plugin("kms-local", {{"path", folder.file("kms")}})); }
  std::string keys_socket() const { return folder.file("keys.sock"); }
  std::string api_socket() const { return folder.file("api.sock"); }
  std::string url() const { return "unix://" + api_socket(); }
  Pins pins() const { return {{writer_key().public_key()}, identity}; }

  // ---- the key service ----
  void start_keys() {
    service_.emplace(*KeyService::open(
        *storage("keys"), [this] { return kms(); }, {writer_key().public_key()}, now_ms, nullptr));
    auto server = KeyServer::listen({.socket = keys_socket(), .api = {::geteuid()}, .agents = {::geteuid()}},
                                    *service_);
    ASSERT_TRUE(ok(server));
    keys_server_.emplace(*std::move(server));
    keys_thread_ = std::thread([this] { EXPECT_TRUE(ok(keys_server_->run(stop_keys_))); });
  }
  void stop_keys() {
    if (!keys_thread_.joinable()) return;
    uint64_t n = 1;
    ASSERT_EQ(::write(stop_keys_, &n, sizeof n), ssize_t{sizeof n});
    keys_thread_.join();
    ASSERT_EQ(::read(stop_keys_, &n, sizeof n), ssize_t{sizeof n});
    keys_server_.reset();
    service_.reset();
  }
  void enrol(const std::string &name, const SigningKey &host) {
    KeyClient keys(keys_socket());
    const auto token = keys.invite(name);
    ASSERT_TRUE(ok(token));
    ASSERT_TRUE(ok(keys.enrol(sign(
        host, kEnrolmentLabel, encode(Enrolment{to_array<16>(*unhex(*token)), name, host.public_key()})))));
  }

  // Who waits with ticket 1 on the host gets what is handed over.
  Result<TakeValues> receive(const Ticket &ticket) {
    if (ticket != Ticket{1}) return fail(ErrorCode::kNotFound, "nobody on this host waits for these values");
    return [this](const std::vector<Delivery> &all) -> Result<void> {
      handed_over.clear();
      for (const Delivery &d : all) handed_over[d.name] = as_text(d.value.reveal());
      return {};
    };
  }
  std::map<std::string, std::string> handed_over;

  // ---- the API ----
  void start_api() {
    seats_.emplace([this]() -> Result<std::unique_ptr<Seat>> {
      COFFER_TRY(Storage for_vault, storage("vault"));
      COFFER_TRY(Vault vault, Vault::open(std::move(for_vault), writer_key(), pins()));
      COFFER_TRY(TokenAuthority tokens, authority());
      return std::unique_ptr<Seat>(new Seat{std::move(vault), KeyClient(keys_socket()), std::move(tokens)});
    });
    admission_.emplace(keys_socket());
    changed_.emplace();
    hub_.emplace(HostHub::Config{.admit = std::ref(*admission_),
                                 .came = {},
                                 .changed = [this](const std::string &m) { changed_->notify(m); },
                                 .patience = patience});
    auto server = http::Server::start(
        {.unix_path = api_socket()},
        handler({.seats = &*seats_,
                 .audit = &audit,
                 .changed = &*changed_,
                 .find_host = [this](Steps s, const auto &which) { return hub_->host(std::move(s), which); },
                 .host_session = [this](http::Duplex &c) { hub_->serve(c); },
                 .admit_host = std::ref(*admission_),
                 .digest_credential = [] { return digest_credential(); },
                 .accept_plaintext = accept_plaintext,
                 .relay_keys = relay_keys}),
        admit);
    ASSERT_TRUE(ok(server));
    server_ = *std::move(server);
  }
  void stop_api() {
    if (server_) server_->stop();
    server_.reset();
    hub_.reset();
    changed_.reset();
    admission_.reset();
    seats_.reset();
  }
  HostHub &hub() { return *hub_; }

  // ---- the host ----
  std::unique_ptr<TestAgent> agent(BootKeys &keys, const Steps &steps = {}) {
    return std::make_unique<TestAgent>(Agent::create(
        {.open_store = [this] { return storage("agent"); },
         .open_runtime =
             [this] {
               return Runtime::open(fakes::plugin("runtime-files", {{"path", folder.file("runtime")}}));
             },
         .open_injectors =
             [] { return Injector::open_all({fakes::plugin("inject-file"), fakes::plugin("inject-env")}); },
         .host_key = host_key(),
         .writers = {writer_key().public_key()},
         .identity = identity,
         .keys = &keys,
         .owner = worker_identity(),
         .progress = steps,
         .changes = &*machine_changes_,
         .receiver = [this](const Ticket &t) { return receive(t); }}));
  }
  void start_host() {
    machine_changes_.emplace();
    host_.emplace(
        url(), host_key(),
        [this](const Steps &steps) -> std::unique_ptr<MachineHost> {
          struct Keyed {
            KeyClient keys;
          };
          struct KeyedAgent : Keyed, TestAgent {
            KeyedAgent(World &w, const Steps &s)
                : Keyed{KeyClient(w.keys_socket())}, TestAgent(std::move(*w.agent(keys, s))) {}
          };
          return std::make_unique<KeyedAgent>(*this, steps);
        },
        *machine_changes_);
  }
  void await_host() {
    const auto end = http::Clock::now() + kPatience;
    while (!hub_->host()) ASSERT_LT(http::Clock::now(), end);
  }
  void stop_host() {
    if (!host_) return;
    machine_changes_->end();
    host_.reset();
  }

  // ---- tokens ----
  Result<TokenAuthority> authority() const {
    COFFER_TRY(Storage s, storage("vault"));
    return TokenAuthority::open(std::move(s), token_root(), folder.path() / "token.revoked");
  }
  std::string token(std::vector<std::string> caveats = {}) const {
    auto made = authority()->create("", "ann@laptop", std::move(caveats), Rights());
    EXPECT_TRUE(ok(made));
    return made ? made->token.text() : "";
  }
  std::unique_ptr<ApiClient> client(const std::string &with, int cancel_fd = -1, Steps steps = {}) const {
    auto c = ApiClient::open({.url = url(),
                              .ca_file = {},
                              .token = SecretBytes::copy_of(as_bytes(with)),
                              .identity = identity,
                              .cancel_fd = cancel_fd,
                              .steps = std::move(steps)});
    EXPECT_TRUE(ok(c));
    return *std::move(c);
  }

  fakes::Folder folder;
  PublicKey identity{};
  fakes::Instances machines{folder.path() / "runtime"};
  const AuditLog audit{folder.path() / "audit" / "api.log"};
  // For the next start_api().
  bool accept_plaintext = false, relay_keys = false;
  std::chrono::milliseconds patience;  // with a host that has gone

 private:
  const int stop_keys_ = ::eventfd(0, EFD_CLOEXEC);
  std::optional<KeyService> service_;
  std::optional<KeyServer> keys_server_;
  std::thread keys_thread_;
  std::optional<Seats> seats_;
  std::optional<Admission> admission_;
  std::optional<MachineSignals> changed_;
  std::optional<HostHub> hub_;
  std::unique_ptr<http::Server> server_;
  std::optional<MachineChanges> machine_changes_;
  std::optional<DiallingHost> host_;
};

// One `coffer` without servers.
struct Local {
  explicit Local(World &w)
      : vault(*Vault::open(*w.storage("vault"), writer_key(), w.pins())),
        keys(w.keys_socket()),
        agent(w.agent(keys)),
        deployer(vault, keys, *agent, "ann@laptop", &w.audit),
        control(vault, keys, *agent, deployer, [] { return digest_credential(); }) {}
  Local(const Local &) = delete;
  Local &operator=(const Local &) = delete;

  Vault vault;
  KeyClient keys;
  std::unique_ptr<TestAgent> agent;
  Deployer deployer;
  LocalControl control;
};

// One `coffer` that asks the API.
struct Remote {
  explicit Remote(World &w, int cancel_fd = -1)
      : api(w.client(w.token(), cancel_fd,
                     [this](std::string_view, std::string_view step) { steps.emplace_back(step); })),
        control(*api) {}
  Remote(const Remote &) = delete;
  Remote &operator=(const Remote &) = delete;

  std::vector<std::string> steps;
  std::unique_ptr<ApiClient> api;
  HttpControl control;
};

using Values = std::map<std::string, std::string>;

inline std::vector<SealedSecret> sealed(Control &control, const App &app, const Values &values) {
  const auto key = control.digest_key(app);
  EXPECT_TRUE(ok(key));
  auto sealer = Sealer::create(app.key, *key);
  std::vector<SealedSecret> out;
  for (const auto &[name, value] : values)
    out.push_back(*sealer->seal(name, SecretBytes::copy_of(as_bytes(value))));
  return out;
}

}  // namespace coffer::api
#endif
