// A storage plugin that breaks one promise, chosen by the option `break`; the suite must say so, in the test
// that is about it.  `break=nothing` is storage-file unchanged.
#include <coffer/storage.hpp>
#undef COFFER_PLUGIN
#define COFFER_PLUGIN(...) static_assert(true)
#include "../../plugins/storage-file/storage_file.cc"

namespace {

class StorageBroken final : public coffer::sdk::Storage {
 public:
  static std::unique_ptr<Instance> open(const Call &call, const Options &options) {
    auto self = std::make_unique<StorageBroken>();
    self->break_ = options.get("break");
    self->inner_ = StorageFile::open(call, options);
    if (self->breaks("durability")) {
      std::vector<std::string> names;
      self->inner().spaces(call, "",
                           {[](void *ctx, coffer_str space) noexcept -> int32_t {
                              static_cast<std::vector<std::string> *>(ctx)->emplace_back(view(space));
                              return 0;
                            },
                            &names});
      for (const std::string &name : names) self->inner().drop_space(call, name);
    }
    return self;
  }

  void get(const Call &call, std::string_view space, std::string_view key, const Values &emit) override {
    if (breaks("descriptors")) (void)::open("/dev/null", O_RDONLY | O_CLOEXEC);
    inner().get(call, space, key, emit);
  }

  void list(const Call &call, std::string_view space, std::string_view prefix, std::string_view after,
            uint64_t limit, bool with_values, const Values &emit) override {
    if (breaks("limit")) limit = 0;
    if (!breaks("order") && !breaks("stop"))
      return inner().list(call, space, prefix, after, limit, with_values, emit);
    struct Item {
      std::string key, value;
      uint64_t revision;
    };
    std::vector<Item> items;
    inner().list(call, space, prefix, after, limit, with_values,
                 {[](void *ctx, coffer_str key, uint64_t revision, coffer_bytes value) noexcept -> int32_t {
                    static_cast<std::vector<Item> *>(ctx)->push_back(
                        {std::string(view(key)), std::string(view(value)), revision});
                    return 0;
                  },
                  &items});
    if (breaks("order")) std::reverse(items.begin(), items.end());
    for (const Item &i : items)
      if (!emit(i.key, i.revision, i.value) && !breaks("stop")) return;
  }

  uint64_t commit(const Call &call, const coffer_batch &given) override {
    coffer_batch batch = given;
    if (breaks("preconditions")) batch.n_pre = 0;
    if (breaks("struct-size") && *reinterpret_cast<const volatile uint64_t *>(&given + 1) == 0x636f66666572)
      return 1;
    if (breaks("silence"))
      for (size_t i = 0; i < batch.n_ops; ++i)
        coffer::sdk::Host::log(COFFER_LOG_INFO, "commit", view(batch.ops[i]->value));
    if (breaks("atomicity")) {
      uint64_t revision = 0;
      for (size_t i = 0; i < given.n_ops; ++i) {
        batch.ops = given.ops + i;
        batch.n_ops = 1;
        revision = inner().commit(call, batch);
        batch.n_pre = 0;
      }
      return revision;
    }
    const uint64_t revision = inner().commit(call, batch);
    return breaks("revisions") ? (revision + 1) / 2 : revision;
  }

  void spaces(const Call &call, std::string_view prefix, const Spaces &emit) override {
    inner().spaces(call, prefix, emit);
  }
  void drop_space(const Call &call, std::string_view space) override {
    if (!breaks("drop")) inner().drop_space(call, space);
  }

 private:
  bool breaks(std::string_view promise) const { return break_ == promise; }
  coffer::sdk::Storage &inner() { return static_cast<coffer::sdk::Storage &>(*inner_); }

  std::string break_;
  std::unique_ptr<Instance> inner_;
};

constexpr coffer_option kBreak = {sizeof(coffer_option),
                                  COFFER_OPT_STRING,
                                  0,
                                  0,
                                  "break",
                                  "the promise to break",
                                  "nothing",
                                  nullptr,
                                  nullptr,
                                  0,
                                  -1};
constexpr const coffer_option *kBrokenOptions[] = {&kPath, &kBreak};
constexpr coffer_descriptor kBrokenDescriptor = {sizeof(coffer_descriptor),
                                                 0,
                                                 "coffer.test.storage-broken",
                                                 "storage-broken",
                                                 kDescriptor.version,
                                                 "Coffer",
                                                 "Apache-2.0",
                                                 "",
                                                 "breaks a promise",
                                                 kInterfaces,
                                                 1,
                                                 kBrokenOptions,
                                                 2};
}  // namespace

#undef COFFER_PLUGIN
extern "C" COFFER_EXPORT const coffer_plugin_entry COFFER_PLUGIN_SYMBOL =
    coffer::sdk::Entry<StorageBroken>::make(&kBrokenDescriptor);
