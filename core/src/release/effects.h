// Effects: what the newest manifest of an App is to its Machines.
#ifndef COFFER_RELEASE_EFFECTS_H
#define COFFER_RELEASE_EFFECTS_H

#include <map>
#include <string>

#include "coffer/release/deployer.h"

namespace coffer {

class Effects {
 public:
  using Changes = std::map<std::string, PlannedChange>;
  // REQUIRES: all three outlive this.
  Effects(const Vault &vault, const App &app, const Manifest &head) : vault_(vault), app_(app), head_(head) {}

  // On a Machine that is to have this config.  An error: the manifest that it has is not there any more.
  Result<PlannedEffect> on(const MachineStatus &, const MachineConfig &next);
  // Of all that was asked for, by the version that the Machine has.
  const std::map<uint64_t, Changes> &since() const { return since_; }

 private:
  const Vault &vault_;
  const App &app_;
  const Manifest &head_;
  std::map<uint64_t, Changes> since_;
};

}  // namespace coffer
#endif
