// A "kms" that turns each byte round and lies on demand: option `lie`.
#include <coffer/kms.hpp>

namespace {

using namespace coffer::sdk;

constexpr coffer_option kLie{
    .struct_size = sizeof(coffer_option), .type = COFFER_OPT_STRING, .key = "lie", .min_value = 1};
constexpr const coffer_option *kOptions[] = {&kLie};
constexpr coffer_interface_ref kInterfaces[] = {{COFFER_KMS_ID, 0}};
constexpr coffer_descriptor kDescriptor{.struct_size = sizeof(coffer_descriptor),
                                        .id = "org.example.fake-kms",
                                        .name = "fake-kms",
                                        .version = "1.0.0",
                                        .interfaces = kInterfaces,
                                        .n_interfaces = 1,
                                        .options = kOptions,
                                        .n_options = 1};

class FakeKms final : public Kms {
 public:
  static std::unique_ptr<Instance> open(const Call &, const Options &o) {
    return std::make_unique<FakeKms>(o);
  }
  explicit FakeKms(const Options &o) : lie_(o.get("lie")) {}

  void keys(const Call &, std::string_view key, const Keys &emit) override {
    if (lie_ == "absent") throw Error{COFFER_NOT_FOUND, "no such key"};
    if (lie_ == "other key") return void(emit(info("other", "1")));
    if (lie_ == "no version") return void(emit(info(key, "")));
    if (lie_ == "long version") return void(emit(info(key, std::string(257, 'v'))));
    if (lie_ == "version twice") return void((emit(info(key, "1", 0)), emit(info(key, "1", 0))));
    if (lie_ == "two primaries") return void((emit(info(key, "1")), emit(info(key, "2"))));
    if (lie_ == "state 9") {
      auto k = info(key, "1");
      k.state = 9;
      return void(emit(k));
    }
    if (lie_ == "short record") {
      auto k = info(key, "1");
      k.struct_size = 16;
      return void(emit(k));
    }
    if (lie_ == "null record") return void(emit.emit(emit.ctx, nullptr));
    emit(info(key.empty() ? "root" : key, "1", 0));
    emit(info(key.empty() ? "root" : key, "2"));
  }
  void create(const Call &call, std::string_view key, const Keys &emit) override {
    if (lie_ == "nothing") return;
    keys(call, key, emit);
  }
  void wrap(const Call &, std::string_view, coffer_bytes plaintext, coffer_bytes, const Sink &ciphertext,
            const Sink &version, const Sink &annotations) override {
    if (lie_ == "not wrapped") {
      ciphertext.write("prefix");
      ciphertext.write(view(plaintext));
      version.write("2");
      return;
    }
    if (lie_ == "beside") annotations.write(view(plaintext));
    if (lie_ == "large annotations") annotations.write(std::string(4097, 'a'));
    if (lie_ == "no ciphertext") return version.write("2");
    if (lie_ == "large") ciphertext.write(std::string(8193, 'c'));
    if (lie_ == "commit more") {
      ciphertext.reserve(8);
      ciphertext.commit(9);
    }
    turn(plaintext, ciphertext);
    if (lie_ == "no version") return;
    version.write(lie_ == "control version" ? "2\n" : "2");
    annotations.write("note");
  }
  void unwrap(const Call &, const coffer_wrapped &wrapped, coffer_bytes, const Sink &plaintext) override {
    if (lie_ == "nothing") return;
    if (lie_ == "large") plaintext.reserve(65);
    if (!plaintext.secret()) throw Error{COFFER_INTERNAL, "the host gave a sink that is not secret"};
    turn(wrapped.ciphertext, plaintext);
  }

 private:
  static coffer_key_info info(std::string_view key, std::string_view version,
                              uint32_t flags = COFFER_KEYF_PRIMARY) {
    coffer_key_info k{};
    k.struct_size = sizeof k;
    k.flags = flags;
    k.state = COFFER_KEY_ENABLED;
    k.key = to_str(key);
    k.version = to_str(version);
    k.algorithm = to_str("none");
    return k;
  }
  static void turn(coffer_bytes in, const Sink &out) {
    uint8_t *to = out.reserve(in.size);
    for (size_t i = 0; i < in.size; ++i) to[i] = in.data[i] ^ 0xff;
    out.commit(in.size);
  }
  std::string lie_;
};

}  // namespace

COFFER_PLUGIN(FakeKms, kDescriptor);
