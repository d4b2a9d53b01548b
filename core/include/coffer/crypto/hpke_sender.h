// HPKE (RFC 9180) base mode, the encrypting half: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305.
// The decrypting half is another type in another library: hpke_receiver.h, coffer_crypto_open.
#ifndef COFFER_CRYPTO_HPKE_SENDER_H
#define COFFER_CRYPTO_HPKE_SENDER_H

#include "coffer/crypto/primitives.h"

namespace coffer {

class HpkeSender {
 public:
  // A fresh ephemeral key; SetupBaseS, section 5.1.1.
  static Result<HpkeSender> setup(const PublicKey &recipient, ByteSpan info);
  // Only for the test vectors: the ephemeral key pair is given.
  static Result<HpkeSender> setup_with(KeyPair ephemeral, const PublicKey &recipient, ByteSpan info);

  const PublicKey &enc() const { return enc_; }
  uint64_t sequence() const { return sequence_; }  // of the next seal()
  Result<Bytes> seal(ByteSpan aad, ByteSpan plaintext);

 private:
  HpkeSender(PublicKey enc, Aead aead, SecretBytes base_nonce);
  PublicKey enc_;
  Aead aead_;
  SecretBytes base_nonce_;
  uint64_t sequence_ = 0;
};

}  // namespace coffer
#endif
