#include "coffer/crypto/hpke_receiver.h"

#include "hpke_schedule.h"

namespace coffer {

HpkeReceiver::HpkeReceiver(Aead aead, SecretBytes base_nonce)
    : aead_(std::move(aead)), base_nonce_(std::move(base_nonce)) {}

Result<HpkeReceiver> HpkeReceiver::setup(ByteSpan private_key, const PublicKey &enc, ByteSpan info) {
  COFFER_TRY(const PublicKey public_key, x25519_public(private_key));
  COFFER_TRY(const SecretBytes dh, x25519(private_key, enc));
  hpke::Context context = hpke::key_schedule(hpke::shared_secret(dh, enc, public_key), info);
  return HpkeReceiver(Aead(context.key.reveal()), std::move(context.base_nonce));
}

Result<SecretBytes> HpkeReceiver::open(uint64_t sequence, ByteSpan aad, ByteSpan ciphertext) {
  COFFER_TRY(const hpke::Nonce nonce, hpke::nonce(base_nonce_, sequence));
  return aead_.open(nonce, aad, ciphertext);
}

}  // namespace coffer
