// HPKE (RFC 9180) base mode, the decrypting half.  Lives in coffer_crypto_open, which what must not open
// does not link.
#ifndef COFFER_CRYPTO_HPKE_RECEIVER_H
#define COFFER_CRYPTO_HPKE_RECEIVER_H

#include "coffer/crypto/primitives.h"

namespace coffer {

class HpkeReceiver {
 public:
  // SetupBaseR, section 5.1.1.
  static Result<HpkeReceiver> setup(ByteSpan private_key, const PublicKey &enc, ByteSpan info);
  // Records of one write are opened each by itself, so the sequence number is given.  kDataLoss: not
  // authentic.
  Result<SecretBytes> open(uint64_t sequence, ByteSpan aad, ByteSpan ciphertext);

 private:
  HpkeReceiver(Aead aead, SecretBytes base_nonce);
  Aead aead_;
  SecretBytes base_nonce_;
};

}  // namespace coffer
#endif
