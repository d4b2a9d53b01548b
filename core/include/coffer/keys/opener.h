// Opener: opens the records of one App with its private key.  Only the key service links it.
#ifndef COFFER_KEYS_OPENER_H
#define COFFER_KEYS_OPENER_H

#include <map>

#include "coffer/crypto/hpke_receiver.h"
#include "coffer/format/app.h"

namespace coffer {

class Opener {
 public:
  Opener(const AppId &app, uint32_t epoch, SecretBytes private_key)
      : app_(app), epoch_(epoch), private_key_(std::move(private_key)) {}
  // kDataLoss: malformed, of another epoch, App or name, or changed.
  Result<SecretBytes> open(std::string_view name, ByteSpan record);

 private:
  AppId app_;
  uint32_t epoch_;
  SecretBytes private_key_;
  std::map<PublicKey, HpkeReceiver> receivers_;  // by enc: the records of one write share one
};

}  // namespace coffer
#endif
