// A storage in memory that lies on demand: option `lie`.  Its other options are there for the tests of
// options; probe() tells what arrived.
#include <coffer/storage.hpp>
#include <cstdio>
#include <map>
#include <stdexcept>

namespace {

using namespace coffer::sdk;

constexpr const char *kColours[] = {"red", "green", nullptr};
constexpr coffer_option kLie{
    .struct_size = sizeof(coffer_option), .type = COFFER_OPT_STRING, .key = "lie", .min_value = 1};
constexpr coffer_option kInt{.struct_size = sizeof(coffer_option),
                             .type = COFFER_OPT_INT,
                             .key = "count",
                             .min_value = -5,
                             .max_value = 10};
constexpr coffer_option kBool{
    .struct_size = sizeof(coffer_option), .type = COFFER_OPT_BOOL, .key = "flag", .min_value = 1};
constexpr coffer_option kTimeout{.struct_size = sizeof(coffer_option),
                                 .type = COFFER_OPT_DURATION,
                                 .key = "timeout",
                                 .default_value = "5s",
                                 .min_value = 0,
                                 .max_value = 60'000'000'000};
constexpr coffer_option kCache{
    .struct_size = sizeof(coffer_option), .type = COFFER_OPT_BYTES, .key = "cache", .min_value = 1};
constexpr coffer_option kPath{
    .struct_size = sizeof(coffer_option), .type = COFFER_OPT_PATH, .key = "path", .min_value = 1};
constexpr coffer_option kThere{.struct_size = sizeof(coffer_option),
                               .type = COFFER_OPT_PATH,
                               .flags = COFFER_OPTF_EXISTS,
                               .key = "there",
                               .min_value = 1};
constexpr coffer_option kColour{.struct_size = sizeof(coffer_option),
                                .type = COFFER_OPT_ENUM,
                                .key = "colour",
                                .enum_values = kColours,
                                .min_value = 1};
constexpr coffer_option kUrl{
    .struct_size = sizeof(coffer_option), .type = COFFER_OPT_URL, .key = "url", .min_value = 1};
constexpr coffer_option kTags{
    .struct_size = sizeof(coffer_option), .type = COFFER_OPT_LIST, .key = "tags", .min_value = 1};
constexpr coffer_option kPassword{.struct_size = sizeof(coffer_option),
                                  .type = COFFER_OPT_STRING,
                                  .flags = COFFER_OPTF_SECRET,
                                  .key = "password",
                                  .min_value = 1};
#ifdef FAKE_REQUIRED
constexpr coffer_option kNeeded{.struct_size = sizeof(coffer_option),
                                .type = COFFER_OPT_STRING,
                                .flags = COFFER_OPTF_REQUIRED,
                                .key = "needed",
                                .example = "like this",
                                .min_value = 1};
constexpr coffer_option kOdd{.struct_size = sizeof(coffer_option), .type = 77, .key = "odd", .min_value = 1};
#endif
constexpr const coffer_option *kOptions[] = {
#ifdef FAKE_REQUIRED
    &kNeeded, &kOdd,
#endif
    &kLie,    &kInt, &kBool, &kTimeout, &kCache, &kPath, &kThere, &kColour, &kUrl, &kTags, &kPassword};
constexpr coffer_interface_ref kInterfaces[] = {{COFFER_STORAGE_ID, 0}};
constexpr coffer_descriptor kDescriptor{.struct_size = sizeof(coffer_descriptor),
                                        .id = "org.example.fake-storage",
                                        .name = "fake-storage",
                                        .version = "1.0.0",
                                        .interfaces = kInterfaces,
                                        .n_interfaces = 1,
                                        .options = kOptions,
                                        .n_options = std::size(kOptions)};

class FakeStorage final : public Storage {
 public:
  static std::vector<std::string> validate(const Options &o) {
    if (o.get("lie") == "invalid") return {"'lie' must be a better one", "and a second remark"};
    return {};
  }
  static std::unique_ptr<Instance> open(const Call &, const Options &o) {
    if (o.get("lie") == "open fails") throw Error{COFFER_UNAVAILABLE, "the disk is on fire"};
    if (o.get("lie") == "open throws") throw std::runtime_error("text with a value in it");
    return std::make_unique<FakeStorage>(o);
  }
  explicit FakeStorage(const Options &o) : lie_(o.get("lie")) {
    for (const coffer_option *option : kOptions) {
      if (!o.has(option->key)) continue;
      options_ += std::string(option->key) + "=";
      if (option->flags & COFFER_OPTF_SECRET)
        for (const unsigned char c : o.get(option->key)) options_ += std::to_string(c) + ",";
      else
        options_ += o.get(option->key);
      options_ += ";";
    }
    options_ += "instance=" + std::string(o.instance_name()) + ";state=" + std::string(o.state_dir()) +
                ";ro=" + (o.read_only() ? "1" : "0");
  }

  std::string probe(const Call &call) override {
    if (lie_ == "deadline") return std::to_string(call.deadline_ns());
    if (lie_ == "cancel") {
      if (call.cancelled()) throw Error{COFFER_CANCELLED, ""};
      return "not cancelled";
    }
    return options_;
  }

  Limits limits() override {
    Limits l;
    l.max_ops = 100;
    l.max_value = 1280 * 1024;
    l.max_batch_bytes = 2 << 20;
    return l;
  }

  void get(const Call &call, std::string_view space, std::string_view key, const Values &emit) override {
    if (lie_ == "logs") Host::log(COFFER_LOG_WARN, "fake", "get\nwas called");
    if (lie_ == "throws") throw std::runtime_error("text with a value in it");
    if (lie_ == "throws int") throw 42;
    if (lie_ == "no memory") throw std::bad_alloc();
    if (lie_ == "silent failure") throw Error{COFFER_UNAVAILABLE, ""};
    if (lie_ == "retry") throw Error{COFFER_UNAVAILABLE, "busy", {}, 0, 1500};
    if (lie_ == "remedy") throw Error{COFFER_UNAVAILABLE, "busy", {}, 0, 1500, "wait for\nthe \x1bother one"};
    if (lie_ == "older error") {
      // Of a plugin whose struct ends before the remedy: what lies behind is not read.
      coffer_error e{};
      e.struct_size = offsetof(coffer_error, remedy);
      e.message = to_str("busy");
      e.remedy = to_str("not a remedy");
      call.raw()->fail(call.raw(), COFFER_RESOURCE_EXHAUSTED, &e);
      throw std::bad_alloc();  // says nothing more
    }
    if (lie_ == "status 99") throw Error{coffer_status{99}, "what is this"};
    if (lie_ == "status -1") throw Error{coffer_status{-1}, "what is this"};
    if (lie_ == "long text") throw Error{COFFER_INTERNAL, std::string(100'000, 'x')};
    if (lie_ == "escapes") throw Error{COFFER_INTERNAL, "red \x1b[31m\nnext \xff line"};
    if (lie_ == "short error") {
      coffer_error e{};
      e.struct_size = 8;
      call.raw()->fail(call.raw(), COFFER_INTERNAL, &e);
      call.raw()->fail(call.raw(), COFFER_INTERNAL, nullptr);
      throw 1;
    }
    if (lie_ == "nothing") return;
    if (lie_ == "not found but there") {
      emit(key, 1, "v");
      throw Error{COFFER_NOT_FOUND, ""};
    }
    if (lie_ == "other key") return void(emit("other", 1, "v"));
    if (lie_ == "revision 0") return void(emit(key, 0, "v"));
    if (lie_ == "too large") return void(emit(key, 1, std::string((1280 << 10) + 1, 'v')));
    if (lie_ == "size without data") {
      emit.emit(emit.ctx, to_str(key), 1, {nullptr, 7});
      return;
    }
    if (lie_ == "twice") return void((emit(key, 1, "v"), emit(key, 1, "v")));
    const auto found = data_.find({std::string(space), std::string(key)});
    if (found == data_.end()) throw Error{COFFER_NOT_FOUND, ""};
    emit(key, found->second.first, found->second.second);
  }

  void list(const Call &, std::string_view space, std::string_view prefix, std::string_view, uint64_t,
            bool with_values, const Values &emit) override {
    if (lie_ == "unsorted") return void((emit("b", 1, ""), emit("a", 2, "")));
    if (lie_ == "same twice") return void((emit("a", 1, ""), emit("a", 2, "")));
    if (lie_ == "foreign") return void(emit("zz/other", 1, ""));
    if (lie_ == "revision 0") return void(emit("a", 0, ""));
    if (lie_ == "too large") return void(emit("a", 1, std::string((1280 << 10) + 1, 'v')));
    if (lie_ == "unasked values") return void(emit("a", 1, "value"));
    if (lie_ == "dots") return void(emit("a/../b", 1, ""));
    if (lie_ == "long key") return void(emit(std::string(513, 'a'), 1, ""));
    if (lie_ == "goes on") {
      for (int i = 0; i < 9; ++i) emit(std::to_string(i), 1, "");
      throw Error{COFFER_CANCELLED, "the host wanted no more"};
    }
    for (const auto &[where, what] : data_) {
      if (where.first != space || !where.second.starts_with(prefix)) continue;
      if (!emit(where.second, what.first, with_values ? what.second : "")) return;
    }
  }

  uint64_t commit(const Call &, const coffer_batch &batch) override {
    if (lie_ == "revision 0") return 0;
    if (lie_ == "old revision") return 3;
    const std::string space(view(batch.space));
    for (size_t i = 0; i < batch.n_pre; ++i) {
      const auto found = data_.find({space, std::string(view(batch.pre[i]->key))});
      if ((found == data_.end() ? 0 : found->second.first) != batch.pre[i]->revision)
        throw Error{COFFER_ABORTED, ""};
    }
    ++revision_;
    for (size_t i = 0; i < batch.n_ops; ++i) {
      const std::pair where(space, std::string(view(batch.ops[i]->key)));
      if (batch.ops[i]->kind == COFFER_OP_PUT)
        data_[where] = {revision_, std::string(view(batch.ops[i]->value))};
      else
        data_.erase(where);
    }
    return revision_;
  }

  void spaces(const Call &, std::string_view prefix, const Spaces &emit) override {
    if (lie_ == "space twice") return void((emit("b"), emit("a"), emit("b")));
    if (lie_ == "foreign") return void(emit("zz"));
    if (lie_ == "dots") return void(emit(".."));
    std::string last;
    for (const auto &[where, what] : data_)
      if (where.first != last && where.first.starts_with(prefix)) emit(last = where.first);
  }

  void drop_space(const Call &, std::string_view space) override {
    std::erase_if(data_, [&](const auto &entry) { return entry.first.first == space; });
  }

 private:
  std::string lie_, options_;
  uint64_t revision_ = 0;
  std::map<std::pair<std::string, std::string>, std::pair<uint64_t, std::string>> data_;
};

}  // namespace

COFFER_PLUGIN(FakeStorage, kDescriptor);
