// HttpControl: a Control that asks coffer-api.  It seals nothing and trusts the API with no key: the App's
// key record is checked to be signed by the pinned key service. Thread rule: one thread at a time.
#ifndef COFFER_API_CLIENT_HTTP_CONTROL_H
#define COFFER_API_CLIENT_HTTP_CONTROL_H

#include "api_client.h"
#include "coffer/release/control.h"

namespace coffer::api {

class HttpControl : public Control {
 public:
  // REQUIRES: `api` outlives it.
  explicit HttpControl(ApiClient &api) : api_(api) {}

  Result<std::vector<AppSummary>> apps() override;
  Result<App> app(std::string_view name) override;
  Result<App> create_app(std::string_view name) override;
  Result<void> destroy_app(const App &) override;
  Result<SecretBytes> digest_key(const App &) override;
  Result<Changes> write(const App &, const std::vector<SealedSecret> &set,
                        const std::vector<std::string> &unset) override;
  Result<Secrets> secrets(const App &) override;
  Result<Plan> plan(const App &) override;
  Result<std::vector<VersionView>> history(const App &) override;
  Result<RolloutResult> rollout(const App &, const RolloutOrder &) override;
  Result<RolloutResult> deploy(const App &, const DeployOrder &) override;
  Result<RolloutResult> roll_back_release(const App &, uint64_t number, bool hasty) override;
  Result<RolloutResult> end_rollout(const App &, bool back) override;
  Result<Releases> releases(const App &) override;
  Result<uint64_t> roll_back_secrets(const App &, uint64_t version) override;
  Result<Deployer::Purged> purge(const App &, std::string_view name) override;
  Result<Rotated> rotate(const App &, bool now) override;
  Result<void> hand_over(const App &, const std::set<std::string> &only, const Receiver &) override;
  Result<std::vector<MachineSummary>> machines(const App &) override;
  Result<MachineSummary> machine(const App &, std::string_view id_or_name) override;
  Result<Booted> run(const App &, MachineConfig, bool pull) override;
  Result<Booted> start(const App &, std::string_view id_or_name) override;
  Result<MachineSummary> stop(const App &, std::string_view id_or_name) override;
  Result<void> destroy(const App &, std::string_view id_or_name) override;
  Result<MachineSummary> wait(const App &, std::string_view id_or_name, State, uint64_t timeout_s,
                              int cancel_fd) override;
  Result<void> logs(const App &, std::string_view id_or_name, const LogQuery &,
                    const std::function<bool(uint32_t, int64_t, ByteSpan)> &each) override;
  Result<int32_t> exec(const App &, std::string_view id_or_name, const std::vector<std::string> &argv,
                       const std::function<bool(uint32_t, ByteSpan)> &out,
                       const std::function<int64_t(std::span<uint8_t>)> &in, int in_fd) override;

 private:
  ApiClient &api_;
};

}  // namespace coffer::api
#endif
