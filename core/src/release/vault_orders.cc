#include "coffer/release/vault_orders.h"

namespace coffer {

Result<App> VaultOrders::app_of(const MachineState &s) const {
  COFFER_TRY(App app, vault_.app(s.app));
  if (app.id() != s.app_id)
    return fail(ErrorCode::kDataLoss,
                "App " + s.app + " of the vault is not the one that this Machine belongs to");
  return app;
}

Result<std::vector<std::string>> VaultOrders::finish_cut_off(const MachineState &s) {
  COFFER_TRY(const App app, app_of(s));
  return deployer_.finish_cut_off(app);
}

Result<Orders::Wanted> VaultOrders::look_at(const MachineState &s) {
  looked_.reset();
  COFFER_TRY(App app, app_of(s));
  COFFER_TRY(MachineStatus m, deployer_.look_at(app, s));
  const Wanted wanted{m.stored.record.desired, m.view};
  looked_.emplace(std::move(app), std::move(m));
  return wanted;
}

Result<RestartPolicy> VaultOrders::restart_policy() {
  COFFER_TRY(const SignedSpec spec, deployer_.current_spec(looked_->first, looked_->second));
  return spec.spec.config.restart;
}

Result<BootOutcome> VaultOrders::boot_ended() {
  return deployer_.boot_ended(looked_->first, looked_->second);
}

}  // namespace coffer
