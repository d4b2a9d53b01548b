// A storage in memory, for the process: instances with the same `name` are one backend.  Its limits are
// options; in `folder` it is told to fail (fail-get, -list, -commit, -drop) and notes its commits.
#include <coffer/storage.hpp>
#include <map>
#include <mutex>

#include "faults.h"

namespace {

using namespace coffer::sdk;

struct Backend {
  std::mutex mutex;
  uint64_t revision = 0;
  std::map<std::string, std::map<std::string, std::pair<uint64_t, std::string>>, std::less<>> spaces;
};

Backend &backend(std::string_view name) {
  static std::mutex mutex;
  static std::map<std::string, Backend, std::less<>> all;
  const std::scoped_lock lock(mutex);
  return all[std::string(name)];
}

class MemoryStorage final : public Storage {
 public:
  static std::unique_ptr<Instance> open(const Call &, const Options &o) {
    return std::make_unique<MemoryStorage>(o);
  }
  explicit MemoryStorage(const Options &o) : backend_(backend(o.get("name"))), folder_(o.get("folder")) {
    limits_.max_ops = static_cast<uint32_t>(o.integer("max-ops"));
    limits_.max_batch_bytes = static_cast<uint64_t>(o.integer("max-batch"));
  }

  Limits limits() override { return limits_; }

  void get(const Call &, std::string_view space, std::string_view key, const Values &emit) override {
    const coffer::fakes::Fault fault(folder_, "get");
    fault.before();
    std::pair<uint64_t, std::string> copy;
    {
      const std::scoped_lock lock(backend_.mutex);
      const auto s = backend_.spaces.find(space);
      if (s == backend_.spaces.end()) throw Error{COFFER_NOT_FOUND, ""};
      const auto k = s->second.find(std::string(key));
      if (k == s->second.end()) throw Error{COFFER_NOT_FOUND, ""};
      copy = k->second;
    }
    emit(key, copy.first, copy.second);
  }

  void list(const Call &, std::string_view space, std::string_view prefix, std::string_view after,
            uint64_t limit, bool with_values, const Values &emit) override {
    coffer::fakes::Fault(folder_, "list").before();
    std::map<std::string, std::pair<uint64_t, std::string>> copy;
    {
      const std::scoped_lock lock(backend_.mutex);
      const auto s = backend_.spaces.find(space);
      if (s != backend_.spaces.end()) copy = s->second;
    }
    uint64_t count = 0;
    for (const auto &[key, value] : copy) {
      if (!key.starts_with(prefix) || key <= after) continue;
      if (limit && count++ == limit) return;
      if (!emit(key, value.first, with_values ? value.second : "")) return;
    }
  }

  uint64_t commit(const Call &, const coffer_batch &batch) override {
    const auto ops = sorted_ops(batch, limits_);
    const coffer::fakes::Fault fault(folder_, "commit");
    fault.before();
    const std::scoped_lock lock(backend_.mutex);
    const std::string space(view(batch.space));
    auto &keys = backend_.spaces[space];
    for (size_t i = 0; i < batch.n_pre; ++i) {
      const auto k = keys.find(std::string(view(batch.pre[i]->key)));
      if ((k == keys.end() ? 0 : k->second.first) != batch.pre[i]->revision) throw Error{COFFER_ABORTED, ""};
    }
    ++backend_.revision;
    std::string line = "commit " + space;
    for (const coffer_op *op : ops) {
      const std::string key(view(op->key));
      line += (op->kind == COFFER_OP_PUT ? " +" : " -") + key;
      if (op->kind == COFFER_OP_PUT)
        keys[key] = {backend_.revision, std::string(view(op->value))};
      else
        keys.erase(key);
    }
    coffer::fakes::note(folder_, line);
    fault.after();
    return backend_.revision;
  }

  void spaces(const Call &, std::string_view prefix, const Spaces &emit) override {
    std::vector<std::string> names;
    {
      const std::scoped_lock lock(backend_.mutex);
      for (const auto &[name, keys] : backend_.spaces)
        if (!keys.empty() && name.starts_with(prefix)) names.push_back(name);
    }
    for (const std::string &name : names)
      if (!emit(name)) return;
  }

  void drop_space(const Call &, std::string_view space) override {
    const coffer::fakes::Fault fault(folder_, "drop");
    fault.before();
    const std::scoped_lock lock(backend_.mutex);
    backend_.spaces.erase(std::string(space));
    fault.after();
  }

 private:
  Backend &backend_;
  std::string folder_;
  Limits limits_;
};

constexpr coffer_option kName{.struct_size = sizeof(coffer_option),
                              .type = COFFER_OPT_STRING,
                              .flags = COFFER_OPTF_REQUIRED,
                              .key = "name",
                              .min_value = 1};
constexpr coffer_option kFolder{
    .struct_size = sizeof(coffer_option), .type = COFFER_OPT_PATH, .key = "folder", .min_value = 1};
constexpr coffer_option kMaxOps{.struct_size = sizeof(coffer_option),
                                .type = COFFER_OPT_INT,
                                .key = "max-ops",
                                .default_value = "1048576",
                                .min_value = 1};
constexpr coffer_option kMaxBatch{.struct_size = sizeof(coffer_option),
                                  .type = COFFER_OPT_INT,
                                  .key = "max-batch",
                                  .default_value = "268435456",
                                  .min_value = 1};
constexpr const coffer_option *kOptions[] = {&kName, &kFolder, &kMaxOps, &kMaxBatch};
constexpr coffer_interface_ref kInterfaces[] = {{COFFER_STORAGE_ID, 0}};
constexpr coffer_descriptor kDescriptor{.struct_size = sizeof(coffer_descriptor),
                                        .id = "coffer.tests.storage-memory",
                                        .name = "storage-memory",
                                        .version = "0.1.0",
                                        .interfaces = kInterfaces,
                                        .n_interfaces = 1,
                                        .options = kOptions,
                                        .n_options = std::size(kOptions)};

}  // namespace

COFFER_PLUGIN(MemoryStorage, kDescriptor);
