#include "coffer/release/control.h"

#include <poll.h>

#include <algorithm>
#include <chrono>

#include "coffer/base/names.h"

namespace coffer {

namespace {
// How a Machine is not as it is wanted.
std::string drift(const MachineStatus &m, const Manifest &newest) {
  if (!m.view) return m.stored.record.desired == Desired::kStarted ? "this host does not have it" : "";
  const MachineView &v = *m.view;
  if (v.cut_off) return "a change was cut off";
  if (m.stored.record.desired == Desired::kStopped) return m.started() ? "runs, but is to be stopped" : "";
  if (m.stored.record.desired != Desired::kStarted || !m.started()) return {};
  if (v.instance && v.state.current && v.instance->started_ns > 0 &&
      static_cast<uint64_t>(v.instance->started_ns) / 1'000'000 != v.state.current->started_ms)
    return "started by somebody else, without its secrets";
  if (m.version() < newest.version())
    return "secrets v" + std::to_string(m.version()) + ", newest v" + std::to_string(newest.version());
  return {};
}
}  // namespace

MachineSummary summary(const MachineStatus &m, const Manifest &newest) {
  MachineSummary out;
  out.id = m.stored.record.id;
  out.name = m.stored.record.name;
  out.state = m.now();
  out.image = m.older && m.started() ? m.older->image_name : m.spec.spec.config.image_name;
  out.release = m.release();
  out.version = m.version();
  out.created_ms = m.stored.record.created_ms;
  out.updated_ms = m.stored.record.updated_ms;
  out.drift = drift(m, newest);
  if (!m.view) return out;
  if (const auto &current = m.view->state.current) {
    out.instance_id = current->instance_id;
    out.started_ms = current->started_ms;
  }
  out.exit_code = m.view->exit_code;
  out.exit_signal = m.view->exit_signal;
  out.message = m.view->message;
  out.cut_off = m.view->cut_off;
  return out;
}

Result<MachineSummary> LocalControl::summary_of(const App &app, const MachineStatus &m) const {
  COFFER_TRY(const Manifest newest, vault_.newest(app));
  return summary(m, newest);
}

Result<AppSummary> LocalControl::about(const App &app) {
  COFFER_TRY(const std::vector<StoredMachine> stored, vault_.machines(app));
  AppSummary s{app.name(), app.id(), {}, 0, app.entry.created_ms};
  size_t wanted = 0;
  for (const StoredMachine &m : stored) {
    COFFER_TRY(const SignedSpec spec, vault_.spec(app, m.record, m.record.spec_number));
    if (spec.spec.config.kind != MachineKind::kService) continue;
    ++s.machines;
    wanted += m.record.desired == Desired::kStarted;
  }
  s.status = wanted ? "deployed" : s.machines ? "suspended" : "pending";
  return s;
}

Result<std::vector<AppSummary>> LocalControl::apps() {
  COFFER_TRY(const std::vector<AppEntry> all, vault_.apps());
  std::vector<AppSummary> out;
  for (const AppEntry &entry : all) {
    COFFER_TRY(const App found, app(entry.name));
    COFFER_TRY(AppSummary s, about(found));
    out.push_back(std::move(s));
  }
  return out;
}

Result<App> LocalControl::app(std::string_view name) {
  COFFER_CHECK(check_app_name(name));
  auto found = vault_.app(name);
  if (!found && found.error().code == ErrorCode::kNotFound) {
    // The vault is not trusted to say so: the key service knows which Apps there are.
    COFFER_TRY(const std::vector<KeyInfo> known, keys_.list());
    if (std::ranges::any_of(known, [&](const KeyInfo &i) { return i.app == name && !i.destroyed; }))
      return fail(ErrorCode::kDataLoss,
                  "App " + std::string(name) + ": its directory entry is missing from the vault",
                  "Put the newest copy of the vault back; was its creation cut off, create it again.");
  }
  return found;
}

Result<App> LocalControl::create_app(std::string_view name) {
  COFFER_CHECK(check_app_name(name));
  return deployer_.create_app(name);
}

Result<void> LocalControl::destroy_app(const App &app) { return deployer_.destroy_app(app); }

Result<SecretBytes> LocalControl::digest_key(const App &app) {
  COFFER_TRY(const SecretBytes credential, digest_credential_());
  return coffer::digest_key(credential, app.id());
}

// ---- secrets ----

Result<Changes> LocalControl::write(const App &app, const std::vector<SealedSecret> &set,
                                    const std::vector<std::string> &unset) {
  COFFER_TRY(Written w, deployer_.write(app, set, unset));
  return Changes{w.manifest.version(), std::move(w.changed), std::move(w.unchanged), std::move(w.removed),
                 std::move(w.unknown)};
}

Result<Control::Secrets> LocalControl::secrets(const App &app) {
  COFFER_TRY(const Manifest manifest, deployer_.newest(app));
  COFFER_TRY(std::vector<SecretView> all, deployer_.secrets(app, manifest));
  return Secrets{manifest.version(), std::move(all)};
}

Result<Control::Releases> LocalControl::releases(const App &app) {
  Releases out;
  COFFER_TRY(out.under_way, deployer_.under_way(app));
  COFFER_TRY(out.all, deployer_.releases(app));
  return out;
}

Result<uint64_t> LocalControl::roll_back_secrets(const App &app, uint64_t version) {
  COFFER_TRY(const Manifest next, deployer_.roll_back_secrets(app, version));
  return next.version();
}

Result<Rotated> LocalControl::rotate(const App &app, bool now) { return deployer_.rotate(app, now); }

// ---- Machines ----

Result<std::vector<MachineSummary>> LocalControl::machines(const App &app) {
  COFFER_TRY(const std::vector<MachineStatus> all, deployer_.machines(app));
  COFFER_TRY(const Manifest newest, vault_.newest(app));
  std::vector<MachineSummary> out;
  for (const MachineStatus &m : all) out.push_back(summary(m, newest));
  return out;
}

Result<MachineSummary> LocalControl::machine(const App &app, std::string_view id_or_name) {
  COFFER_TRY(const MachineStatus m, deployer_.machine(app, id_or_name));
  return summary_of(app, m);
}

Result<Control::Booted> LocalControl::run(const App &app, MachineConfig config, bool pull,
                                          const std::vector<std::string> &ids) {
  COFFER_TRY(Deployer::Ran ran, deployer_.run(app, std::move(config), pull, ids));
  COFFER_TRY(MachineSummary m, summary_of(app, ran.machine));
  return Booted{std::move(m), std::move(ran.warnings)};
}

Result<Control::Booted> LocalControl::start(const App &app, std::string_view id_or_name) {
  COFFER_TRY(const MachineStatus asked, deployer_.machine(app, id_or_name));
  COFFER_TRY(Deployer::Ran ran, deployer_.start(app, asked));
  COFFER_TRY(MachineSummary m, summary_of(app, ran.machine));
  return Booted{std::move(m), std::move(ran.warnings)};
}

Result<MachineSummary> LocalControl::stop(const App &app, std::string_view id_or_name) {
  COFFER_TRY(const MachineStatus m, deployer_.machine(app, id_or_name));
  COFFER_CHECK(deployer_.stop(app, m));
  return machine(app, m.stored.record.id);
}

Result<void> LocalControl::destroy(const App &app, std::string_view id_or_name) {
  COFFER_TRY(const MachineStatus m, deployer_.machine(app, id_or_name));
  return deployer_.destroy(app, m);
}

Result<MachineSummary> LocalControl::wait(const App &app, std::string_view id_or_name, State wanted,
                                          uint64_t timeout_s, int cancel_fd) {
  const auto begin = std::chrono::steady_clock::now();
  MachineSummary last;
  last.state = State::kDestroyed;
  for (;;) {
    const auto m = deployer_.machine(app, id_or_name);
    if (!m) {
      if (m.error().code == ErrorCode::kNotFound && wanted == State::kDestroyed) return last;
      return std::unexpected(m.error());
    }
    if (m->now() == wanted) return summary_of(app, *m);
    last.id = m->stored.record.id;
    last.name = m->stored.record.name;
    pollfd cancel{cancel_fd, POLLIN, 0};
    if (cancel_fd >= 0 && ::poll(&cancel, 1, 0) > 0) return fail(ErrorCode::kCancelled, "interrupted");
    if (timeout_s && std::chrono::steady_clock::now() - begin > std::chrono::seconds(timeout_s))
      return fail(ErrorCode::kDeadlineExceeded, "Machine " + last.name + " is " +
                                                    std::string(to_string(m->now())) + " after " +
                                                    std::to_string(timeout_s) + " s");
    // The runtime tells when the instance changes; what others do to the Machine is looked up now and then.
    constexpr uint64_t kLookNs = 250'000'000;
    if (m->started()) {
      if (auto w = host_.wait_change(m->view->state, kLookNs);
          !w && w.error().code != ErrorCode::kDeadlineExceeded && w.error().code != ErrorCode::kCancelled)
        return std::unexpected(w.error());
    } else {
      ::poll(&cancel, cancel_fd >= 0 ? 1 : 0, static_cast<int>(kLookNs / 1'000'000));
    }
  }
}

Result<void> LocalControl::logs(const App &app, std::string_view id_or_name, const LogQuery &query,
                                const std::function<bool(uint32_t, int64_t, ByteSpan)> &each) {
  COFFER_TRY(const MachineStatus m, deployer_.machine(app, id_or_name));
  if (!m.view) return {};
  return host_.logs(m.view->state, query, each);
}

Result<int32_t> LocalControl::exec(const App &app, std::string_view id_or_name,
                                   const std::vector<std::string> &argv,
                                   const std::function<bool(uint32_t, ByteSpan)> &out,
                                   const std::function<int64_t(std::span<uint8_t>)> &in, int in_fd) {
  COFFER_TRY(const MachineStatus m, deployer_.machine(app, id_or_name));
  if (!m.started())
    return fail(
        ErrorCode::kFailedPrecondition,
        "Machine " + m.stored.record.name + " is " + std::string(to_string(m.now())) + ", not started",
        "Start it with `coffer machine start " + m.stored.record.name + "`.");
  COFFER_CHECK(deployer_.log_exec(app, m));
  return host_.exec(m.view->state, argv, out, in, in_fd);
}

}  // namespace coffer
