// Opener: opens the records of one App with its private keys, one per epoch.  Only the key service links it.
#ifndef COFFER_KEYS_OPENER_H
#define COFFER_KEYS_OPENER_H

#include <map>

#include "coffer/crypto/hpke_receiver.h"
#include "coffer/format/app.h"

namespace coffer {

class Opener {
 public:
  explicit Opener(const AppId &app) : app_(app) {}
  void add(uint32_t epoch, SecretBytes private_key) { keys_.insert_or_assign(epoch, std::move(private_key)); }
  // kDataLoss: malformed, of an epoch without a key, of another App or name, or changed.
  Result<SecretBytes> open(std::string_view name, ByteSpan record);

 private:
  AppId app_;
  std::map<uint32_t, SecretBytes> keys_;
  // By epoch and enc: the records of one write share one.
  std::map<std::pair<uint32_t, PublicKey>, HpkeReceiver> receivers_;
};

}  // namespace coffer
#endif
