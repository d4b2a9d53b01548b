// Injector: the core's face of a "coffer.injector/1" plugin.  Contract: sdk injector.h.
#ifndef COFFER_PLUGIN_HOST_INJECTOR_H
#define COFFER_PLUGIN_HOST_INJECTOR_H

#include <coffer/injector.h>

#include <set>

#include "coffer/plugin_host/runtime.h"

namespace coffer {

struct InjectRequest {
  uint32_t vias = 0;  // what the runtime can do
  std::string app, machine;
  std::string bindings_json;  // the part of the Machine's config that belongs to this injector
};

struct Need {
  std::string secret;  // empty: not a secret, the bindings hold the value
  Delivery where;      // without value
};

struct OpenedSecret {
  std::string name;
  SecretBytes value;
};

class Injector {
 public:
  static Result<Injector> open(const PluginConfig &);
  static Result<std::vector<Injector>> open_all(const std::vector<PluginConfig> &);
  // Every name of the manifest, without values; `taken` = names that an earlier injector bound.
  Result<std::vector<Need>> plan(const InjectRequest &, const std::vector<std::string> &names,
                                 const std::set<std::string> &taken) const;
  // The same request with the values of what plan() asked for.  Checked: every delivery was announced by
  // plan().
  Result<std::vector<Delivery>> render(const InjectRequest &,
                                       const std::vector<const OpenedSecret *> &secrets,
                                       const std::set<std::string> &taken,
                                       const std::vector<Need> &planned) const;
  std::string name() const { return instance_.plugin().name(); }
  const PluginInstance &instance() const { return instance_; }

 private:
  Injector(PluginInstance instance, coffer_injector table) : instance_(std::move(instance)), table_(table) {}
  PluginInstance instance_;
  coffer_injector table_;
};

}  // namespace coffer
#endif
