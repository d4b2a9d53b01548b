// VaultOrders: what this host's Machines are wanted to be, where the vault is in the same process.
#ifndef COFFER_RELEASE_VAULT_ORDERS_H
#define COFFER_RELEASE_VAULT_ORDERS_H

#include "coffer/agent/reconciler.h"
#include "coffer/release/deployer.h"

namespace coffer {

class VaultOrders : public Orders {
 public:
  // REQUIRES: both outlive it.
  VaultOrders(Vault &vault, Deployer &deployer) : vault_(vault), deployer_(deployer) {}
  Result<std::vector<std::string>> finish_cut_off(const MachineState &) override;
  Result<bool> left_over(const AppId &app) override { return vault_.has_rollout(app); }
  Result<Wanted> look_at(const MachineState &) override;
  Result<RestartPolicy> restart_policy() override;
  Result<BootOutcome> boot_ended() override;

 private:
  Result<App> app_of(const MachineState &) const;
  Vault &vault_;
  Deployer &deployer_;
  std::optional<std::pair<App, MachineStatus>> looked_;
};

}  // namespace coffer
#endif
