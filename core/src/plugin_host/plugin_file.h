// What is asked of a plugin's file before any of its code runs.
#ifndef COFFER_PLUGIN_HOST_PLUGIN_FILE_H
#define COFFER_PLUGIN_HOST_PLUGIN_FILE_H

#include "coffer/plugin_host/plugin.h"

namespace coffer {

// The canonical path of the file that `config` names, after every check of Plugin::load that needs no code of
// the plugin.  Symbolic links are resolved first, so that the checks see what dlopen will see.
Result<std::filesystem::path> checked_plugin_file(const PluginConfig &config);

}  // namespace coffer
#endif
