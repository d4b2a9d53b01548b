// For the tests of this folder: the whole embedded path over a runtime of files and storages in memory.  Real
// vault, key service, agent and injectors.
#ifndef COFFER_RELEASE_TEST_WORLD_H
#define COFFER_RELEASE_TEST_WORLD_H

#include <mutex>

#include "coffer/agent/agent.h"
#include "coffer/base/codec.h"
#include "coffer/base/process.h"
#include "coffer/keys/key_service.h"
#include "coffer/release/deployer.h"
#include "fakes.h"

namespace coffer {

using fakes::ok;

inline const std::string kDead = "00000000-0000-0000-0000-000000000000:1:1";  // a process of another boot

template <size_t N>
std::array<uint8_t, N> filled(uint8_t byte) {
  std::array<uint8_t, N> a;
  a.fill(byte);
  return a;
}
using Values = std::map<std::string, std::string>;

// A key service that tells when it is asked.
class WatchedKeys : public AppKeys, public BootKeys {
 public:
  WatchedKeys(KeyService service, const PublicKey &host) : service_(std::move(service)) {
    service_.trust(host);
  }
  Result<AppKey> create_app(std::string_view name) override { return service_.create_app(name); }
  Result<void> destroy_app(std::string_view name) override { return service_.destroy_app(name); }
  Result<std::optional<SeenHead>> seen(const AppId &app) const override {
    const std::lock_guard lock(mutex_);
    auto head = service_.seen(app);
    if (after_seen) std::exchange(after_seen, {})();
    return head;
  }
  Result<void> advance(const AppId &app, const std::vector<Bytes> &headers) override {
    return service_.advance(app, headers);
  }
  Result<void> grant(const AppId &app, std::string_view machine, const PublicKey &host,
                     ByteSpan spec) override {
    return service_.grant(app, machine, host, spec);
  }
  Result<void> revoke(const AppId &app, std::string_view machine) override {
    return service_.revoke(app, machine);
  }
  Result<Checkpoint> exchange(const Checkpoint &mine) override { return service_.exchange(mine); }
  Result<AppKey> rotate(const AppId &app, uint32_t from) override { return service_.rotate(app, from); }
  Result<Bytes> reseal(ByteSpan request) override {
    if (before_reseal) std::exchange(before_reseal, {})();
    return service_.reseal(request);
  }
  Result<void> retire(const AppId &app, uint32_t oldest) override { return service_.retire(app, oldest); }
  Result<Bytes> token(ByteSpan request) override {
    const std::lock_guard lock(mutex_);
    return service_.token(request);
  }
  Result<void> enrol(ByteSpan request) override { return service_.enrol(request); }
  Result<Bytes> open(ByteSpan request) override {
    const std::lock_guard lock(mutex_);
    ++opened;
    if (before_open) std::exchange(before_open, {})();
    return service_.open(request);
  }
  int opened = 0;
  mutable std::function<void()> after_seen, before_open, before_reseal;  // called once

 private:
  KeyService service_;
  mutable std::recursive_mutex mutex_;  // boots are at work at once; what is called there asks too
};

// What all processes of one user share.
struct World {
  World() {
    static int count = 0;
    number = std::to_string(++count);
    for (const char *name : {"vault", "keys", "agent", "runtime"})
      std::filesystem::create_directory(folder.path() / name);
    EXPECT_TRUE(ok(Vault::initialize(storage("vault"))));
    identity = *KeyService::initialize(storage("keys"), *kms());
  }
  Storage storage(const std::string &role) const {
    return *Storage::open(
        fakes::plugin("storage-memory", {{"name", role + number}, {"folder", folder.file(role)}}));
  }
  std::filesystem::path log(const std::string &service) const {
    return folder.path() / "audit" / (service + ".log");
  }
  std::vector<AuditFile> logs() const { return {{"api", log("api")}, {"keys", log("keys")}}; }
  Result<Kms> kms() const { return Kms::open(fakes::plugin("kms-local", {{"path", folder.file("kms")}})); }

  fakes::Folder folder;
  std::string number;
  PublicKey identity{};
  fakes::Instances machines{folder.path() / "runtime"};
};

// One `coffer` process.  Those of a test have one pid, so the leases do not keep them apart.
struct Process {
  explicit Process(const World &w)
      : world(w),
        api_log(w.log("api")),
        keys_log(w.log("keys")),
        vault(*Vault::open(w.storage("vault"), *SigningKey::from_seed(filled<32>(1)),
                           {{SigningKey::from_seed(filled<32>(1))->public_key()}, w.identity})),
        keys(*KeyService::open(
                 w.storage("keys"), [&w] { return w.kms(); },
                 {SigningKey::from_seed(filled<32>(1))->public_key()}, now_ms, &keys_log),
             SigningKey::from_seed(filled<32>(2))->public_key()),
        agent(Agent::create(agent_config())),
        deployer(vault, keys, agent, "ann@laptop", &api_log) {
    deployer.set_patience(std::chrono::milliseconds(100), std::chrono::milliseconds(0));
  }
  Agent::Config agent_config() {
    return {
        .open_store = [this]() -> Result<Storage> { return world.storage("agent"); },
        .open_runtime = [this]() -> Result<Runtime> {
          if (before_runtime) before_runtime();
          return Runtime::open(fakes::plugin("runtime-files", {{"path", world.machines.folder().string()}}));
        },
        .open_injectors =
            [] { return Injector::open_all({fakes::plugin("inject-file"), fakes::plugin("inject-env")}); },
        .host_key = *SigningKey::from_seed(filled<32>(2)),
        .writers = {SigningKey::from_seed(filled<32>(1))->public_key()},
        .identity = world.identity,
        .keys = &keys,
        .cancel_fd = -1,
        .progress =
            [this](std::string_view machine, std::string_view step) {
              if (on_step) on_step(std::string(machine), step);
            },
        .receiver = [this](const Ticket &t) { return receiver(t); }};
  }
  // Boots that many Machines at once.
  void at_once(size_t n) {
    deployer.set_hosts(
        [this]() -> Result<std::unique_ptr<MachineHost>> {
          Agent::Config c = agent_config();
          c.owner = worker_identity();
          return std::make_unique<Agent>(Agent::create(std::move(c)));
        },
        n);
  }
  Process(const Process &) = delete;
  Process &operator=(const Process &) = delete;

  Result<Written> set(const App &app, const Values &values, const std::vector<std::string> &unset = {}) {
    auto sealer = Sealer::create(app.key, SecretBytes::copy_of(filled<32>(3)));
    std::vector<SealedSecret> sealed;
    for (const auto &[name, value] : values)
      sealed.push_back(*sealer->seal(name, SecretBytes::copy_of(as_bytes(value))));
    return deployer.write(app, sealed, unset);
  }

  const World &world;
  std::function<void()> before_runtime;
  std::function<void(const std::string &machine, std::string_view step)> on_step;
  std::function<Result<TakeValues>(const Ticket &)> receiver;
  AuditLog api_log, keys_log;
  Vault vault;
  WatchedKeys keys;
  Agent agent;
  Deployer deployer;
};

// All leases of this process become those of `owner`.
inline void hand_leases_to(const World &world, const std::string &owner) {
  const auto text = [](std::string_view t) { return std::string(as_text(Encoder().text(t).take())); };
  const std::string ours = text(process_identity());
  const Storage store = world.storage("agent");
  std::vector<Stored> all;
  ASSERT_TRUE(ok(store.list("machines", "", true, [&](Stored s) {
    all.push_back(std::move(s));
    return true;
  })));
  for (const Stored &s : all) {
    std::string bytes(as_text(s.value));
    const size_t place = bytes.find(ours);
    if (place == std::string::npos) continue;
    bytes.replace(place, ours.size(), text(owner));
    Batch b;
    b.put(s.key, Bytes(bytes.begin(), bytes.end()));
    ASSERT_TRUE(ok(store.commit("machines", b)));
  }
}

}  // namespace coffer
#endif
