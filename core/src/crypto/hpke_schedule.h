// What both halves of HPKE (RFC 9180, base mode) compute from the Diffie-Hellman result: the shared secret
// of DHKEM(X25519, HKDF-SHA256), the key and base nonce of the context, and the nonce of a message.
#ifndef COFFER_CRYPTO_HPKE_SCHEDULE_H
#define COFFER_CRYPTO_HPKE_SCHEDULE_H

#include "coffer/crypto/primitives.h"

namespace coffer::hpke {

// Numbers of RFC 9180, section 7.  Ours is ChaCha20-Poly1305; the test vectors bring others with HKDF-SHA256.
struct AeadId {
  uint16_t id = 0x0003;
  size_t key_size = 32;
};

struct Context {
  SecretBytes key;
  SecretBytes base_nonce;  // 12 bytes
};

// ExtractAndExpand, section 4.1.
SecretBytes shared_secret(const SecretBytes &dh, const PublicKey &enc, const PublicKey &recipient);
// KeySchedule with mode_base, section 5.1.
Context key_schedule(const SecretBytes &shared_secret, ByteSpan info, AeadId aead = {});

using Nonce = std::array<uint8_t, 12>;
// ComputeNonce, section 5.2.  The last number is refused (kResourceExhausted, MessageLimitReached), so that
// a counter of 64 bits never wraps.
Result<Nonce> nonce(const SecretBytes &base_nonce, uint64_t sequence);

}  // namespace coffer::hpke
#endif
