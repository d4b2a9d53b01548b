// Sealer: seals the values of one write to an App's public key.  It can do nothing else; what opens is
// Opener, in another library.
#ifndef COFFER_VAULT_SEALER_H
#define COFFER_VAULT_SEALER_H

#include "coffer/crypto/hpke_sender.h"
#include "coffer/format/app.h"
#include "coffer/format/manifest.h"

namespace coffer {

struct SealedSecret {
  std::string name;
  Bytes record;  // encoded
  Hash hash{};   // of the record
  Digest digest{};
  uint8_t flags = 0;
};

// One HPKE context per write; a Sealer is used for one write and then dropped.
// REQUIRES: `key` came out of Vault::app(), which checked who signed it.
class Sealer {
 public:
  // `digest_key`: the App's (manifest.h).
  static Result<Sealer> create(const AppKeyRecord &key, const SecretBytes &digest_key);
  // kInvalidArgument: the value is over 1 MiB.
  Result<SealedSecret> seal(std::string_view name, const SecretBytes &value);

 private:
  Sealer(AppKeyRecord key, HpkeSender sender, DigestKey digest_key)
      : key_(std::move(key)), sender_(std::move(sender)), digest_key_(std::move(digest_key)) {}
  AppKeyRecord key_;
  HpkeSender sender_;
  DigestKey digest_key_;
};

}  // namespace coffer
#endif
