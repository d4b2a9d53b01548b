// A plugin's options: the text of engine.toml, checked against the schema in the plugin's descriptor.
#ifndef COFFER_PLUGIN_HOST_OPTIONS_H
#define COFFER_PLUGIN_HOST_OPTIONS_H

#include "coffer/plugin_host/plugin.h"

namespace coffer {

class ResolvedOptions {
 public:
  // Every problem names section and key, never a value.  Reads the files of secret options.
  static Result<ResolvedOptions> resolve(const PluginConfig &, const Plugin &);
  // The argument of open() and validate(); `pairs` keeps what it points at.  Borrows from this object.
  coffer_open_args args(const PluginConfig &, std::vector<coffer_pair> &pairs) const;

 private:
  std::string instance_name_;
  std::vector<std::pair<std::string, std::string>> plain_;
  std::vector<std::pair<std::string, SecretBytes>> secret_;
};

}  // namespace coffer
#endif
