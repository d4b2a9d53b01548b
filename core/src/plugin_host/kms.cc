#include "coffer/plugin_host/kms.h"

#include <algorithm>

#include "bridge.h"

namespace coffer {
namespace {

using bridge::bytes;
using bridge::contained;
using bridge::is_name;
using bridge::kNoMemory;
using bridge::Objection;
using bridge::str;
using bridge::view;

// kms.h
constexpr size_t kLargestKey = 64, kLongestName = 256, kLargestCiphertext = 8 * 1024,
                 kLargestAnnotation = 4 * 1024;
constexpr size_t kMostKeys = 100'000;

Result<void> check_name(std::string_view key) {
  if (is_name(key, kLongestName)) return {};
  return fail(ErrorCode::kInvalidArgument, "kms: key name '" + printable(key, 128) +
                                               "' must be 1 to 256 bytes of text without control characters");
}

struct Keys {
  std::string_view asked;  // empty: every key
  std::vector<KmsKey> found;
  Objection wrong;

  static int32_t emit(void *ctx, const coffer_key_info *info) noexcept {
    auto &k = *static_cast<Keys *>(ctx);
    if (!k.wrong) k.wrong = k.add(info);
    return bool(k.wrong);
  }

 private:
  Objection add(const coffer_key_info *info) noexcept {
    if (!info || info->struct_size < sizeof *info) return "answered a key record that is too short";
    const std::string_view key = view(info->key), version = view(info->version);
    if (!is_name(key, kLongestName)) return "answered a key without a name";
    if (!asked.empty() && key != asked) return "answered another key";
    if (!is_name(version, kLongestName)) return "answered a key without a version";
    if (info->state < COFFER_KEY_ENABLED || info->state > COFFER_KEY_DESTROYED)
      return "answered a key in no known state";
    if (found.size() >= kMostKeys) return "answered too many keys";
    if (!contained([&] {
          found.push_back({std::string(key), std::string(version), printable(view(info->algorithm), 64),
                           (info->flags & COFFER_KEYF_PRIMARY) != 0, info->state, info->created_ns});
        }))
      return kNoMemory;
    return {};
  }
};

// A version names one key for ever, and wrap() uses one version of each key.
Objection check_versions(const std::vector<KmsKey> &keys) {
  std::vector<std::pair<std::string_view, std::string_view>> versions;
  std::vector<std::string_view> primaries;
  for (const KmsKey &k : keys) {
    versions.emplace_back(k.key, k.version);
    if (k.primary) primaries.push_back(k.key);
  }
  std::ranges::sort(versions);
  std::ranges::sort(primaries);
  if (std::ranges::adjacent_find(versions) != versions.end()) return "answered a version twice";
  if (std::ranges::adjacent_find(primaries) != primaries.end())
    return "answered two primary versions of a key";
  return {};
}

}  // namespace

Result<Kms> Kms::open(const PluginConfig &config) {
  COFFER_TRY(PluginInstance instance, bridge::open_serving(config, COFFER_KMS_ID));
  COFFER_TRY(coffer_kms table, bridge::table_of<coffer_kms>(instance, COFFER_KMS_ID));
  bridge::fill_slots(table.keys, table.create, table.wrap, table.unwrap, table.rotate, table.destroy);
  return Kms(std::move(instance), table);
}

Result<std::vector<KmsKey>> Kms::keys(std::string_view key) const {
  if (!key.empty()) COFFER_CHECK(check_name(key));
  Keys answer{key, {}};
  bool absent = false;
  const Result<void> called = instance_.call("list keys", {}, [&](coffer_instance *i, const coffer_call *c) {
    const coffer_status status = table_.keys(i, c, str(key), &Keys::emit, &answer);
    absent = status == COFFER_NOT_FOUND;
    return absent ? COFFER_OK : status;
  });
  if (answer.wrong) return bridge::wrong_answer(instance_, "list keys", answer.wrong);
  COFFER_CHECK(called);
  if (absent && !answer.found.empty())
    return bridge::wrong_answer(instance_, "list keys", "answered a key it says is absent");
  if (const Objection wrong = check_versions(answer.found))
    return bridge::wrong_answer(instance_, "list keys", wrong);
  return std::move(answer.found);
}

Result<KmsKey> Kms::create(std::string_view key) const {
  COFFER_CHECK(check_name(key));
  Keys answer{key, {}};
  const Result<void> called =
      instance_.call("create a key", {}, [&](coffer_instance *i, const coffer_call *c) {
        return table_.create(i, c, str(key), &Keys::emit, &answer);
      });
  if (answer.wrong) return bridge::wrong_answer(instance_, "create a key", answer.wrong);
  COFFER_CHECK(called);
  if (answer.found.empty())
    return bridge::wrong_answer(instance_, "create a key", "answered OK without a key");
  if (const Objection wrong = check_versions(answer.found))
    return bridge::wrong_answer(instance_, "create a key", wrong);
  // Of a key that is there already all versions may come; the caller wants the one that wrap() uses.
  const auto primary = std::ranges::find_if(answer.found, &KmsKey::primary);
  return std::move(primary != answer.found.end() ? *primary : answer.found.front());
}

Result<WrappedKey> Kms::wrap(std::string_view key, const SecretBytes &plaintext, ByteSpan context) const {
  COFFER_CHECK(check_name(key));
  if (plaintext.empty() || plaintext.size() > kLargestKey)
    return fail(ErrorCode::kInvalidArgument, "kms: a key to wrap must have 1 to 64 bytes");
  bridge::BytesSink ciphertext(kLargestCiphertext), version(kLongestName), annotations(kLargestAnnotation);
  const Result<void> called = instance_.call("wrap", {}, [&](coffer_instance *i, const coffer_call *c) {
    return table_.wrap(i, c, str(key), bytes(plaintext.reveal()), bytes(context), ciphertext.raw(),
                       version.raw(), annotations.raw());
  });
  if (ciphertext.overrun() || version.overrun() || annotations.overrun())
    return bridge::wrong_answer(instance_, "wrap", "answered more than the limit");
  COFFER_CHECK(called);
  WrappedKey out{std::string(key), version.text(), ciphertext.take(), annotations.take()};
  if (!is_name(out.version, kLongestName))
    return bridge::wrong_answer(instance_, "wrap", "answered no version");
  if (out.ciphertext.empty()) return bridge::wrong_answer(instance_, "wrap", "answered no ciphertext");
  // Short keys can occur by chance.
  const auto shows = [&](const Bytes &b) { return !std::ranges::search(b, plaintext.reveal()).empty(); };
  if (plaintext.size() >= 16 && (shows(out.ciphertext) || shows(out.annotations))) {
    secure_wipe(out.ciphertext.data(), out.ciphertext.size());
    secure_wipe(out.annotations.data(), out.annotations.size());
    return bridge::wrong_answer(instance_, "wrap", "answered the key itself, not wrapped");
  }
  return out;
}

Result<SecretBytes> Kms::unwrap(const WrappedKey &wrapped, ByteSpan context) const {
  COFFER_CHECK(check_name(wrapped.key));
  const coffer_wrapped raw = {sizeof raw,
                              0,
                              str(wrapped.key),
                              str(wrapped.version),
                              bytes(wrapped.ciphertext),
                              bytes(wrapped.annotations)};
  bridge::SecretSink plaintext(kLargestKey);
  const Result<void> called = instance_.call("unwrap", {}, [&](coffer_instance *i, const coffer_call *c) {
    return table_.unwrap(i, c, &raw, bytes(context), plaintext.raw());
  });
  if (plaintext.overrun()) return bridge::wrong_answer(instance_, "unwrap", "answered more than 64 bytes");
  COFFER_CHECK(called);
  if (plaintext.size() == 0) return bridge::wrong_answer(instance_, "unwrap", "answered OK without a key");
  return plaintext.take();
}

}  // namespace coffer
