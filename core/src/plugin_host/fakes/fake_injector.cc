// An injector that binds every name as a variable and lies on demand: option `lie`.
#include <coffer/injector.hpp>

namespace {

using namespace coffer::sdk;

constexpr coffer_option kLie{
    .struct_size = sizeof(coffer_option), .type = COFFER_OPT_STRING, .key = "lie", .min_value = 1};
constexpr const coffer_option *kOptions[] = {&kLie};
constexpr coffer_interface_ref kInterfaces[] = {{COFFER_INJECTOR_ID, 0}};
constexpr coffer_descriptor kDescriptor{.struct_size = sizeof(coffer_descriptor),
                                        .id = "org.example.fake-injector",
                                        .name = "fake-injector",
                                        .version = "1.0.0",
                                        .interfaces = kInterfaces,
                                        .n_interfaces = 1,
                                        .options = kOptions,
                                        .n_options = 1};

class FakeInjector final : public Injector {
 public:
  static std::unique_ptr<Instance> open(const Call &, const Options &o) {
    return std::make_unique<FakeInjector>(o);
  }
  explicit FakeInjector(const Options &o) : lie_(o.get("lie")) {}

  void plan(const Call &, const coffer_inject_request &r, const Needs &emit) override {
    if (lie_ == "unknown secret") return void(emit("STRANGER", place("STRANGER")));
    for (size_t i = 0; i < r.n_secrets; ++i) {
      const coffer_secret &s = *r.secrets[i];
      if (s.flags & COFFER_SECRET_TAKEN) continue;
      coffer_delivery d = place(view(s.name));
      if (lie_ == "other via") d.via = 4;
      if (lie_ == "two vias") d.via = 3;
      if (lie_ == "mode") d.mode = 04755;
      if (lie_ == "bad variable") d.name = to_str("A=B");
      if (lie_ == "relative file") d.via = COFFER_VIA_TMPFS, d.name = to_str("etc/x");
      if (lie_ == "dots") d.via = COFFER_VIA_TMPFS, d.name = to_str("/run/../etc/x");
      if (lie_ == "root") d.via = COFFER_VIA_TMPFS, d.name = to_str("/");
      if (lie_ == "slash") d.via = COFFER_VIA_TMPFS, d.name = to_str("/run//x");
      if (lie_ == "value early") d.value = to_bytes("v");
      if (lie_ == "not secret") d.flags = 0;
      if (lie_ == "short delivery") d.struct_size = 8;
      emit(view(s.name), d);
      if (lie_ == "bound twice") emit(view(s.name), d);
    }
  }
  void render(const Call &, const coffer_inject_request &r, const Deliveries &emit) override {
    if (lie_ == "left out") return;
    for (size_t i = 0; i < r.n_secrets; ++i) {
      coffer_delivery d = place(view(r.secrets[i]->name));
      d.value = r.secrets[i]->value;
      if (lie_ == "unplanned") d.name = to_str("LD_PRELOAD");
      if (lie_ == "other mode") d.mode = 0777;
      if (lie_ == "no longer secret") d.flags = 0;
      const std::string large((1 << 20) + 1, 'v');
      if (lie_ == "large value") d.value = to_bytes(large);
      emit(d);
      if (lie_ == "twice") emit(d);
    }
  }

 private:
  static coffer_delivery place(std::string_view name) {
    coffer_delivery d{};
    d.struct_size = sizeof d;
    d.via = COFFER_VIA_ENV;
    d.flags = COFFER_DLV_SECRET;
    d.name = to_str(name);
    return d;
  }
  std::string lie_;
};

}  // namespace

COFFER_PLUGIN(FakeInjector, kDescriptor);
