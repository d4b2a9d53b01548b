// Finds, checks, loads and opens plugins.  A loaded plugin is never unloaded.  Boost.DLL is used in plugin.cc
// and nowhere else.
// Thread rule: load() and open() on the main thread; for calls see the kind's header.
#ifndef COFFER_PLUGIN_HOST_PLUGIN_H
#define COFFER_PLUGIN_HOST_PLUGIN_H

#include <coffer/abi.h>

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "coffer/base/result.h"
#include "coffer/base/secret_bytes.h"

namespace coffer {

// One plugin table of engine.toml: [storage], [kms], [runtime], [[injector]], [keys.storage],
// [agent.storage].
struct PluginConfig {
  std::string section;                         // for messages: "[storage]"
  std::string plugin;                          // name (PLUGIN_DIR/NAME.so) or absolute path
  std::string sha256;                          // pin, lower-case hex; empty = none
  std::map<std::string, std::string> options;  // as written in the file, all as text
  std::filesystem::path plugin_dir;            // where names are looked up
  std::filesystem::path base_dir;              // relative PATH options start here (folder of engine.toml)
  std::filesystem::path state_dir;             // private folder handed to the plugin; may be empty
  bool read_only = false;
  bool ambient = false;  // it may look at environment variables and at what its user keeps elsewhere
};

// A loaded plugin file.
class Plugin {
 public:
  // Before dlopen, because constructors run inside it: regular file, owned by root or by us, neither it nor
  // any parent folder writable by others (a root-owned sticky folder and the owner's private group are fine),
  // SHA-256 equals the pin.  A refusal names the file, the reason and the remedy (kPermissionDenied,
  // kNotFound ...).
  static Result<const Plugin *> load(const PluginConfig &);  // each file once per process
  // Only the checks and the path that load() would use: for `doctor` and `plugin list`.
  static Result<std::filesystem::path> locate(const PluginConfig &);

  const std::filesystem::path &path() const { return path_; }
  const coffer_descriptor &descriptor() const { return *entry_->descriptor; }
  const coffer_plugin_entry &entry() const { return *entry_; }
  std::string name() const;                          // of the descriptor
  bool serves(std::string_view interface_id) const;  // as declared

 private:
  Plugin(std::filesystem::path path, const coffer_plugin_entry *entry)
      : path_(std::move(path)), entry_(entry) {}
  std::filesystem::path path_;
  const coffer_plugin_entry *entry_;
};

// How one call into a plugin may end early.  Default: no deadline, not cancellable.
struct CallOptions {
  uint64_t timeout_ns = 0;  // 0 = none
  int cancel_fd = -1;       // readable once cancelled
};

// An opened backend; closes on destruction.
class PluginInstance {
 public:
  // Validates the options against the plugin's schema (unknown key, type, range, required), resolves PATHs
  // and secret options (file:PATH, read into locked memory), then opens.
  static Result<PluginInstance> open(const PluginConfig &);
  PluginInstance(PluginInstance &&) noexcept;
  PluginInstance &operator=(PluginInstance &&) noexcept;
  ~PluginInstance();

  const Plugin &plugin() const { return *plugin_; }
  // nullptr when not served.
  const void *interface(const char *id) const;
  Result<std::string> probe(const CallOptions & = {}) const;  // JSON of facts

  // Runs one ABI call: `body(instance, call)`; a status other than OK becomes an Error that names the plugin.
  template <class F>
  Result<void> call(std::string_view what, const CallOptions &options, F &&body) const {
    Call c(*plugin_, what, options);
    return c.finish(body(instance_, c.raw()));
  }

 private:
  friend class Plugin;  // init() is a call, too
  // The coffer_call of one call, and the text that the plugin gave to fail().
  class Call {
   public:
    Call(const Plugin &, std::string_view what, const CallOptions &);
    Call(const Call &) = delete;
    Call &operator=(const Call &) = delete;
    const coffer_call *raw() const { return &raw_; }
    Result<void> finish(coffer_status);

   private:
    const Plugin &plugin_;
    std::string_view what_;
    coffer_call raw_{};
    char request_id_[24];
    std::mutex mutex_;  // fail() may come on any thread
    std::string text_, remedy_;
    uint32_t retry_after_ms_ = 0;
  };

  PluginInstance(const Plugin *plugin, coffer_instance *instance) : plugin_(plugin), instance_(instance) {}
  const Plugin *plugin_ = nullptr;
  coffer_instance *instance_ = nullptr;
};

}  // namespace coffer
#endif
