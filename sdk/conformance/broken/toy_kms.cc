// A key store that is as small as the contract of coffer/kms.h allows, and, with BROKEN set, one that breaks
// it in one place.  The suite must pass the first and fail the others in the test that their name says
// (CMakeLists.txt).  The cipher is a toy without any security.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <coffer/kms.hpp>

#define NONE 0
#define IGNORES_CONTEXT 1
#define DOES_NOT_ENCRYPT 2
#define DOES_NOT_VERIFY 3
#define KEEPS_PLAINTEXT 4
#define LOGS_PLAINTEXT 5
#define WRITES_TWICE 6
#define CREATE_REPLACES 7
#define LEAKS_DESCRIPTORS 8
#define REPEATS_NONCE 9
#define TAKES_ANY_SIZE 10
#define TAKES_ANY_VERSION 11
#define EMITS_BEFORE_VERIFYING 12
#ifndef BROKEN
#define BROKEN NONE
#endif

namespace {
using coffer::sdk::Call;
using coffer::sdk::Error;
using coffer::sdk::Host;
using coffer::sdk::Options;
using coffer::sdk::SecureBuffer;
using coffer::sdk::Sink;
using coffer::sdk::to_str;
using coffer::sdk::view;

// FNV-1a with a finisher; good enough to notice a change, and nothing else.
class Hash {
 public:
  Hash &add(std::string_view bytes) {
    for (unsigned shift = 0; shift < 64; shift += 8) byte(static_cast<uint8_t>(bytes.size() >> shift));
    for (const char c : bytes) byte(static_cast<uint8_t>(c));
    return *this;
  }
  uint64_t value() const {
    uint64_t x = state_;
    for (int i = 0; i < 3; ++i) x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15u;
    return x ^ (x >> 29);
  }

 private:
  void byte(uint8_t b) { state_ = (state_ ^ b) * 0x100000001b3u; }
  uint64_t state_ = 0xcbf29ce484222325u;
};

std::string_view text(const uint8_t *p, size_t n) { return {reinterpret_cast<const char *>(p), n}; }

class ToyKms final : public coffer::sdk::Kms {
 public:
  static std::unique_ptr<Instance> open(const Call &, const Options &options) {
    return std::unique_ptr<Instance>(new ToyKms(std::string(options.get("path")) + "/toy."));
  }

  void keys(const Call &, std::string_view key, const Keys &emit) override {
    for (const char *name : {"other", "root"})
      if ((key.empty() || key == name) && ::access((prefix_ + name).c_str(), F_OK) == 0 && !tell(name, emit))
        return;
  }

  void create(const Call &, std::string_view key, const Keys &emit) override {
    if (key != "root" && key != "other") throw Error{COFFER_INVALID_ARGUMENT, "the toy knows root and other"};
    const std::string path = prefix_ + std::string(key);
    const int lock = ::open((prefix_ + "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ::flock(lock, LOCK_EX);
    if (BROKEN == CREATE_REPLACES || ::access(path.c_str(), F_OK) != 0) {
      uint8_t k[32];
      Host::random(k, sizeof k);
      const int fd = ::open((path + ".tmp").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
      const bool ok =
          ::write(fd, k, sizeof k) == sizeof k && ::rename((path + ".tmp").c_str(), path.c_str()) == 0;
      ::close(fd);
      if (!ok) throw Error{COFFER_UNAVAILABLE, "cannot write the toy's key"};
    }
    ::close(lock);
    tell(std::string(key).c_str(), emit);
  }

  void wrap(const Call &, std::string_view key, coffer_bytes plaintext, coffer_bytes context,
            const Sink &ciphertext, const Sink &version, const Sink &annotations) override {
    const SecureBuffer k = load(key);
    if (BROKEN != TAKES_ANY_SIZE && (plaintext.size < 1 || plaintext.size > 64))
      throw Error{COFFER_INVALID_ARGUMENT, "a key has 1 to 64 bytes"};
    uint8_t nonce[8] = {};
    if (BROKEN != REPEATS_NONCE) Host::random(nonce, sizeof nonce);
    std::string out(view(plaintext));
    mask(out.data(), out.size(), k, text(nonce, sizeof nonce));
    const uint64_t tag = mac(k, key, context, text(nonce, sizeof nonce), out);
    out.append(reinterpret_cast<const char *>(&tag), sizeof tag);
    ciphertext.write(out);
    version.write("1");
    annotations.write(nonce, sizeof nonce);
  }

  void unwrap(const Call &, const coffer_wrapped &w, coffer_bytes context, const Sink &plaintext) override {
    const SecureBuffer k = load(view(w.key));
    if (BROKEN != TAKES_ANY_VERSION && view(w.version) != "1")
      throw Error{COFFER_NOT_FOUND, "no such version"};
    if (w.annotations.size != 8 || w.ciphertext.size < 9 || w.ciphertext.size > 72)
      throw Error{COFFER_DATA_LOSS, "wrong size"};
    const std::string_view body = view(w.ciphertext).substr(0, w.ciphertext.size - 8);
    uint64_t tag;
    memcpy(&tag, w.ciphertext.data + body.size(), sizeof tag);
    const bool verified = tag == mac(k, view(w.key), context, view(w.annotations), body);
    if (!verified && BROKEN != DOES_NOT_VERIFY && BROKEN != EMITS_BEFORE_VERIFYING)
      throw Error{COFFER_DATA_LOSS, "does not verify"};
    uint8_t *out = plaintext.reserve(body.size());
    memcpy(out, body.data(), body.size());
    mask(reinterpret_cast<char *>(out), body.size(), k, view(w.annotations));
    if (BROKEN == KEEPS_PLAINTEXT) cache_.emplace_back(reinterpret_cast<char *>(out), body.size());
    if (BROKEN == LOGS_PLAINTEXT) Host::log(COFFER_LOG_DEBUG, "toy", text(out, body.size()));
    if (BROKEN == WRITES_TWICE) {
      plaintext.commit(body.size() / 2);
      std::string rest(body.substr(body.size() / 2));
      SecureBuffer whole(body.size());
      memcpy(whole.data(), body.data(), body.size());
      mask(reinterpret_cast<char *>(whole.data()), body.size(), k, view(w.annotations));
      plaintext.write(whole.data() + body.size() / 2, rest.size());
      return;
    }
    plaintext.commit(body.size());
    if (!verified && BROKEN != DOES_NOT_VERIFY) throw Error{COFFER_DATA_LOSS, "does not verify"};
  }

 private:
  explicit ToyKms(std::string prefix) : prefix_(std::move(prefix)) {}

  SecureBuffer load(std::string_view key) const {
    if (key != "root" && key != "other") throw Error{COFFER_NOT_FOUND, "no such key"};
    const int fd = ::open((prefix_ + std::string(key)).c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw Error{COFFER_NOT_FOUND, "no such key"};
    SecureBuffer k(32);
    const bool whole = ::read(fd, k.data(), 32) == 32;
    if (BROKEN != LEAKS_DESCRIPTORS) ::close(fd);
    if (!whole) throw Error{COFFER_DATA_LOSS, "the toy's key is damaged"};
    return k;
  }

  static void mask(char *data, size_t size, const SecureBuffer &k, std::string_view nonce) {
    if (BROKEN == DOES_NOT_ENCRYPT) return;
    for (size_t i = 0; i < size; ++i) {
      const uint64_t block = Hash().add(text(k.data(), 32)).add(nonce).add(std::string(i / 8, '.')).value();
      data[i] = static_cast<char>(data[i] ^ static_cast<char>(block >> (8 * (i % 8))));
    }
  }

  static uint64_t mac(const SecureBuffer &k, std::string_view key, coffer_bytes context,
                      std::string_view nonce, std::string_view body) {
    return Hash()
        .add(text(k.data(), 32))
        .add(key)
        .add(BROKEN == IGNORES_CONTEXT ? "" : view(context))
        .add(nonce)
        .add(body)
        .value();
  }

  bool tell(const char *name, const Keys &emit) const {
    struct stat st{};
    ::stat((prefix_ + name).c_str(), &st);
    coffer_key_info info{};
    info.struct_size = sizeof info;
    info.flags = COFFER_KEYF_PRIMARY | COFFER_KEYF_CONTEXT;
    info.state = COFFER_KEY_ENABLED;
    info.key = to_str(name);
    info.version = to_str("1");
    info.algorithm = to_str("toy");
    info.created_ns = int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec;
    return emit(info);
  }

  const std::string prefix_;
  std::vector<std::string> cache_;
};

constexpr coffer_option kPath = {sizeof(coffer_option),
                                 COFFER_OPT_PATH,
                                 0,
                                 COFFER_OPTF_REQUIRED,
                                 "path",
                                 "folder of the toy's keys",
                                 nullptr,
                                 "kms",
                                 nullptr,
                                 1,
                                 0};
constexpr const coffer_option *kOptions[] = {&kPath};
constexpr coffer_interface_ref kInterfaces[] = {{COFFER_KMS_ID, 0}};
constexpr coffer_descriptor kDescriptor = {sizeof(coffer_descriptor),
                                           0,
                                           "coffer.conformance.toy-kms",
                                           "toy-kms",
                                           "1.0.0",
                                           "Coffer",
                                           "Apache-2.0",
                                           "",
                                           "A toy for the test of the suite itself",
                                           kInterfaces,
                                           1,
                                           kOptions,
                                           1};
}  // namespace

COFFER_PLUGIN(ToyKms, kDescriptor);
