// engine.toml: which plugin serves which purpose, and with which options.
#ifndef COFFER_CONFIG_ENGINE_CONFIG_H
#define COFFER_CONFIG_ENGINE_CONFIG_H

#include <filesystem>
#include <vector>

#include "coffer/base/machine.h"
#include "coffer/plugin_host/plugin.h"

namespace coffer {

// A built-in storage without `path` is ROLE.db (storage-sqlite) or the folder ROLE (storage-file), where the
// role is vault, keys or agent.
// [api]: of coffer-api where it listens, of everybody else where it is.
struct ApiConfig {
  std::string url;                   // "unix:///path", "http://127.0.0.1:PORT" or "https://HOST[:PORT]"
  std::filesystem::path token_file;  // a user token; empty: user.token beside the engine config
  std::filesystem::path ca;          // of https; empty: the system's
  std::filesystem::path socket;      // coffer-api: a unix socket
  std::string listen;                // coffer-api: "127.0.0.1:PORT"; elsewhere TLS is needed
  std::filesystem::path certificate, key;
  bool accept_plaintext = false;  // coffer-api: values that were not sealed by whoever sends them
  bool relay_keys = false;        // coffer-api: passes on what hosts ask of the key service
};

struct EngineConfig {
  std::filesystem::path file, base_dir;  // absolute; relative paths in the file start at base_dir
  // A table that the file does not have leaves `plugin` empty; opening it then says so.
  PluginConfig storage, kms, runtime;
  PluginConfig keys_storage, agent_storage;  // default: storage-sqlite
  std::vector<PluginConfig> injectors;       // in the order of the file; default: inject-file, inject-env
  // Where the key service listens, when it is a process of its own; empty: it is part of this one.
  std::filesystem::path keys_socket;
  // For coffer-keys: the users that are API and agents, by name or number.
  std::vector<std::string> keys_api, keys_agents;
  ApiConfig api;
  // [deploy]: of Apps whose config says nothing; and how many Machines are booted at once.
  DeployWish deploy;
  size_t deploy_parallel = 16;
  // For coffer-agent: the APIs whose orders it takes, as ApiConfig::url; and the CA of those with https.
  std::vector<std::string> agent_apis;
  std::filesystem::path agent_ca;
  std::vector<std::string> agent_mounts;  // folders of the host that Machines may have
  // Where coffer-agent hands values to commands of its host (`coffer run`), empty: nowhere; and to whose.
  std::filesystem::path agent_socket;
  std::vector<std::string> agent_users;
};

// The file names the code that is loaded, so it must belong to root or to us and be writable by nobody else
// (kPermissionDenied).  What is wrong inside is kInvalidArgument with "FILE:LINE" and the key, never a value.
// Options are only turned into text here; the plugin's schema is checked when it is opened.
Result<EngineConfig> read_engine_config(const std::filesystem::path &file);

}  // namespace coffer
#endif
