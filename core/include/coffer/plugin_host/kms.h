// Kms: the core's face of a "coffer.kms/1" plugin.  Contract: sdk kms.h.
#ifndef COFFER_PLUGIN_HOST_KMS_H
#define COFFER_PLUGIN_HOST_KMS_H

#include <coffer/kms.h>

#include "coffer/base/bytes.h"
#include "coffer/plugin_host/plugin.h"

namespace coffer {

// A wrapped key, as stored; not secret.
struct WrappedKey {
  std::string key, version;
  Bytes ciphertext;   // <= 8 KiB
  Bytes annotations;  // <= 4 KiB
};

struct KmsKey {
  std::string key, version, algorithm;
  bool primary = false;
  uint32_t state = 0;  // COFFER_KEY_*
  int64_t created_ns = 0;
};

class Kms {
 public:
  static Result<Kms> open(const PluginConfig &);
  Result<std::vector<KmsKey>> keys(std::string_view key) const;  // empty = every key
  Result<KmsKey> create(std::string_view key) const;             // answers the key that is there, if it is
  Result<WrappedKey> wrap(std::string_view key, const SecretBytes &plaintext, ByteSpan context) const;
  Result<SecretBytes> unwrap(const WrappedKey &, ByteSpan context) const;
  const PluginInstance &instance() const { return instance_; }

 private:
  Kms(PluginInstance instance, coffer_kms table) : instance_(std::move(instance)), table_(table) {}
  PluginInstance instance_;
  coffer_kms table_;
};

}  // namespace coffer
#endif
