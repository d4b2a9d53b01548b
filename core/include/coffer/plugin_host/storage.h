// Storage: the core's face of a "coffer.storage/1" plugin.  Distrusts it: keys, order, revisions and sizes
// that come back are checked, and a wrong answer is kDataLoss with the plugin's name.  Contract: sdk
// storage.h. Thread rule: one thread at a time, unless the plugin is CONCURRENT.
#ifndef COFFER_PLUGIN_HOST_STORAGE_H
#define COFFER_PLUGIN_HOST_STORAGE_H

#include <coffer/storage.h>

#include <functional>
#include <optional>

#include "coffer/base/bytes.h"
#include "coffer/plugin_host/plugin.h"

namespace coffer {

struct Stored {
  std::string key;
  uint64_t revision = 0;
  Bytes value;  // empty when listed without values
};

// One conditional write: all or nothing.
class Batch {
 public:
  Batch &require(std::string key, uint64_t revision) {
    return pre_.push_back({std::move(key), revision}), *this;
  }
  Batch &require_absent(std::string key) { return require(std::move(key), 0); }
  Batch &put(std::string key, Bytes value) {
    return ops_.push_back({COFFER_OP_PUT, std::move(key), std::move(value)}), *this;
  }
  Batch &erase(std::string key) { return ops_.push_back({COFFER_OP_DELETE, std::move(key), {}}), *this; }
  bool empty() const { return ops_.empty(); }

  struct Pre {
    std::string key;
    uint64_t revision;
  };
  struct Op {
    uint32_t kind;
    std::string key;
    Bytes value;
  };
  const std::vector<Pre> &pre() const { return pre_; }
  const std::vector<Op> &ops() const { return ops_; }

 private:
  std::vector<Pre> pre_;
  std::vector<Op> ops_;
};

class Storage {
 public:
  static Result<Storage> open(const PluginConfig &);

  Result<std::optional<Stored>> get(std::string_view space, std::string_view key) const;
  // Sorted bytewise; `each` answers false to stop.
  Result<void> list(std::string_view space, std::string_view prefix, bool with_values,
                    const std::function<bool(Stored)> &each) const;
  // The commit's revision.  kAborted: a precondition failed, nothing was written; re-read and try again.
  // REQUIRES: batch is within limits(); what is larger is split by the caller (immutable objects first).
  Result<uint64_t> commit(std::string_view space, const Batch &) const;
  Result<std::vector<std::string>> spaces(std::string_view prefix) const;
  Result<void> drop_space(std::string_view space) const;

  const coffer_storage_limits &limits() const { return limits_; }
  const PluginInstance &instance() const { return instance_; }

 private:
  Storage(PluginInstance instance, coffer_storage table, coffer_storage_limits limits)
      : instance_(std::move(instance)), table_(table), limits_(limits) {}
  PluginInstance instance_;
  coffer_storage table_;  // what this host knows; empty slots answer UNIMPLEMENTED
  coffer_storage_limits limits_;
};

}  // namespace coffer
#endif
