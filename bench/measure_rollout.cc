// measure-rollout: the bookkeeping of a roll-out to many Machines, without anything that boots.
//
//   measure-rollout --plugins DIR --folder DIR [--machines N] [--parallel N] [--secrets N] [--rounds N]
//
// The real vault, key service and audit log, on storage-sqlite in a folder; the host keeps states and does
// nothing else, so that what is measured is the Deployer.  One line comes out, medians in ms:
//   a roll-out to all, statuses of all secrets, status of all Machines, megabytes of this process
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <mutex>

#include "coffer/base/clock.h"
#include "coffer/keys/key_service.h"
#include "coffer/release/deployer.h"

namespace {

using namespace coffer;
namespace fs = std::filesystem;

[[noreturn]] void fail_with(const std::string &what) {
  std::fprintf(stderr, "measure-rollout: %s\n", what.c_str());
  std::exit(1);
}
template <class T>
T get(Result<T> r) {
  if (!r) fail_with(r.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(r);
}

// As an agent has them: each Machine's state, and the hosts of one crew share them.
struct States {
  std::mutex mutex;
  std::map<std::string, MachineState> by_id;
};

// Boots at once.
class Host : public MachineHost {
 public:
  Host(std::shared_ptr<States> all, const PublicKey &key, std::vector<PublicKey> writers)
      : all_(std::move(all)), key_(key), writers_(std::move(writers)) {}

  const PublicKey &host() const override { return key_; }
  Result<std::string> ensure_image(const std::string &image, bool) const override { return image; }
  Result<BootOutcome> boot(const BootOrder &next, const BootOrder *, const Probation &) override {
    COFFER_TRY(const SignedSpec spec, open_spec(next.spec, writers_));
    if (next.still_wanted) COFFER_CHECK(next.still_wanted());
    const std::lock_guard lock(all_->mutex);
    const auto at = all_->by_id.find(spec.spec.machine);
    if (at == all_->by_id.end()) return fail(ErrorCode::kNotFound, "no such Machine");
    MachineState &m = at->second;
    m.state = State::kStarted;
    m.current = InstanceRecord{"instance",        as_bytes_of("handle"), spec.hash, spec.spec.number,
                               spec.spec.version, spec.spec.release,     now_ms()};
    m.last_good = spec.hash;
    return BootOutcome{.state = m};
  }
  Result<BootOutcome> boot_again(const BootOrder &previous, std::optional<Hash>) override {
    return boot(previous, nullptr, {});
  }
  Result<void> reserve(const AppId &app, std::string_view app_name, const std::string &machine,
                       std::string_view name) override {
    const std::lock_guard lock(all_->mutex);
    MachineState &m = all_->by_id[machine];
    m.app_id = app;
    m.app = app_name;
    m.machine = machine;
    m.name = name;
    return {};
  }
  Result<void> destroy(const std::string &machine) override {
    const std::lock_guard lock(all_->mutex);
    all_->by_id.erase(machine);
    return {};
  }
  Result<std::vector<MachineState>> states() const override {
    const std::lock_guard lock(all_->mutex);
    std::vector<MachineState> out;
    for (const auto &[id, m] : all_->by_id) out.push_back(m);
    return out;
  }
  Result<std::optional<MachineState>> state(const std::string &machine) const override {
    const std::lock_guard lock(all_->mutex);
    const auto at = all_->by_id.find(machine);
    return at == all_->by_id.end() ? std::nullopt : std::optional(at->second);
  }
  Result<MachineView> view(const MachineState &m) const override {
    MachineView v;
    v.state = m;
    v.now = m.state;
    return v;
  }
  Result<std::vector<MachineView>> views(const AppId &app) const override {
    COFFER_TRY(const std::vector<MachineState> all, states());
    std::vector<MachineView> out;
    for (const MachineState &m : all) {
      if (m.app_id != app) continue;
      COFFER_TRY(MachineView v, view(m));
      out.push_back(std::move(v));
    }
    return out;
  }
  Result<void> stop(const std::string &) override { return {}; }
  Result<void> finish_stop(const MachineState &) override { return {}; }
  Result<void> announce(const std::string &, State) override { return {}; }
  Result<void> finish_cut_off(const std::string &) override { return {}; }
  Result<BootOutcome> boot_ended(const BootOrder &, const std::string &) override { return none(); }
  Result<void> hand_over(const BootOrder &, const std::set<std::string> &, const Ticket &) override {
    return none();
  }
  Result<void> logs(const MachineState &, const LogQuery &,
                    const std::function<bool(uint32_t, int64_t, ByteSpan)> &) override {
    return none();
  }
  Result<int32_t> exec(const MachineState &, const std::vector<std::string> &,
                       const std::function<bool(uint32_t, ByteSpan)> &,
                       const std::function<int64_t(std::span<uint8_t>)> &, int) override {
    return none();
  }
  Result<void> wait_change(const MachineState &, uint64_t) override { return none(); }

 private:
  static Bytes as_bytes_of(std::string_view text) { return {text.begin(), text.end()}; }
  static std::unexpected<Error> none() { return fail(ErrorCode::kUnimplemented, "not measured"); }

  const std::shared_ptr<States> all_;
  const PublicKey key_;
  const std::vector<PublicKey> writers_;
};

struct Clock {
  double begin = now();
  double ms() const { return now() - begin; }
  static double now() {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) * 1e3 + double(t.tv_nsec) / 1e6;
  }
};

double median(std::vector<double> v) {
  std::ranges::sort(v);
  const size_t half = v.size() / 2;
  return v.size() % 2 ? v[half] : (v[half - 1] + v[half]) / 2;
}

}  // namespace

int main(int argc, char **argv) {
  fs::path plugins, folder;
  size_t machines = 1000, parallel = 16, secrets = 10, rounds = 5;
  for (int i = 1; i < argc; i += 2) {
    const std::string option = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    const size_t number = static_cast<size_t>(std::atoi(value.c_str()));
    if (option == "--plugins")
      plugins = fs::absolute(value);
    else if (option == "--folder")
      folder = fs::absolute(value);
    else if (option == "--machines")
      machines = number;
    else if (option == "--parallel")
      parallel = number;
    else if (option == "--secrets")
      secrets = number;
    else if (option == "--rounds")
      rounds = number;
    else
      fail_with("unknown option " + option);
  }
  if (plugins.empty() || folder.empty() || !machines || !parallel || !secrets || !rounds)
    fail_with("usage: measure-rollout --plugins DIR --folder DIR [--machines N] [--parallel N] [--rounds N]");

  const auto plugin = [&](const std::string &name, std::map<std::string, std::string> options) {
    PluginConfig c;
    c.section = "[bench]";
    c.plugin = name;
    c.plugin_dir = plugins;
    c.base_dir = folder;
    c.options = std::move(options);
    return c;
  };
  const auto storage = [&](const std::string &role) {
    fs::create_directories(folder / role);
    return Storage::open(plugin("storage-sqlite", {{"path", (folder / role / "store.db").string()}}));
  };
  const auto kms = [&] { return Kms::open(plugin("kms-local", {{"path", (folder / "kms").string()}})); };
  SigningKey writer = SigningKey::generate();
  const SigningKey host_key = SigningKey::generate();
  const std::vector<PublicKey> writers = {writer.public_key()};
  get(Vault::initialize(get(storage("vault"))));
  const PublicKey identity = get(KeyService::initialize(get(storage("keys")), get(kms())));
  AuditLog api_log(folder / "audit" / "api.log"), keys_log(folder / "audit" / "keys.log");
  Vault vault = get(Vault::open(get(storage("vault")), std::move(writer), {writers, identity}));
  KeyService keys = get(KeyService::open(get(storage("keys")), kms, writers, now_ms, &keys_log));
  keys.trust(host_key.public_key());
  const auto states = std::make_shared<States>();
  Host host(states, host_key.public_key(), writers);
  Deployer deployer(vault, keys, host, "bench", &api_log);
  deployer.set_hosts(
      [&]() -> Result<std::unique_ptr<MachineHost>> {
        return std::make_unique<Host>(states, host_key.public_key(), writers);
      },
      parallel);

  const App app = get(deployer.create_app("bench"));
  Sealer sealer = get(Sealer::create(app.key, SecretBytes::copy_of(random_array<32>())));
  const auto set = [&](size_t first, size_t n, const std::string &value) {
    std::vector<SealedSecret> sealed;
    for (size_t i = first; i < first + n; ++i)
      sealed.push_back(
          get(sealer.seal("SECRET_" + std::to_string(i), SecretBytes::copy_of(as_bytes(value)))));
    return get(deployer.write(app, sealed, {})).manifest;
  };
  set(0, secrets, "first");
  DeployOrder order;
  for (size_t i = 0; i < machines; ++i) {
    MachineConfig c;
    c.process = "m" + std::to_string(i);
    c.image = c.image_name = "bench";
    c.argv = {"sleep"};
    order.configs.push_back(std::move(c));
  }
  const Clock making;
  if (const auto made = get(deployer.deploy(app, order)); made.failed) fail_with(made.failed->message);
  if (std::getenv("COFFER_BENCH_VERBOSE")) std::fprintf(stderr, "made in %.0f ms\n", making.ms());

  std::vector<double> rollout_ms, secrets_ms, machines_ms;
  for (size_t round = 0; round < rounds; ++round) {
    const Manifest manifest = set(0, 1, "value-" + std::to_string(round));
    const Clock rolling;
    const RolloutResult rolled = get(deployer.rollout(app, {"secrets set"}));
    rollout_ms.push_back(rolling.ms());
    if (rolled.failed) fail_with(rolled.failed->message);

    const Clock listing;
    const std::vector<SecretView> views = get(deployer.secrets(app, manifest));
    secrets_ms.push_back(listing.ms());

    const Clock looking;
    const std::vector<MachineStatus> all = get(deployer.machines(app));
    machines_ms.push_back(looking.ms());

    // What was measured is what was asked for.
    const auto good = [&](const MachineStatus &m) {
      return m.started() && m.version() == manifest.version() && m.release() == rolled.release;
    };
    if (all.size() != machines || !std::ranges::all_of(all, good)) fail_with("not all Machines were booted");
    if (views.size() != secrets ||
        !std::ranges::all_of(views, [](const SecretView &s) { return s.status == SecretStatus::kDeployed; }))
      fail_with("not all secrets are deployed");
    if (std::getenv("COFFER_BENCH_VERBOSE"))
      std::fprintf(stderr, "%zu: %.1f %.1f %.1f\n", round, rollout_ms.back(), secrets_ms.back(),
                   machines_ms.back());
  }
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  std::printf("%.1f %.2f %.1f %.1f\n", median(rollout_ms), median(secrets_ms), median(machines_ms),
              double(used.ru_maxrss) / 1024);
}
