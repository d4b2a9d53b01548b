#include "coffer/crypto/hpke_sender.h"

#include "hpke_schedule.h"

namespace coffer {

HpkeSender::HpkeSender(PublicKey enc, Aead aead, SecretBytes base_nonce)
    : enc_(enc), aead_(std::move(aead)), base_nonce_(std::move(base_nonce)) {}

Result<HpkeSender> HpkeSender::setup(const PublicKey &recipient, ByteSpan info) {
  return setup_with(x25519_generate(), recipient, info);
}

Result<HpkeSender> HpkeSender::setup_with(KeyPair ephemeral, const PublicKey &recipient, ByteSpan info) {
  COFFER_TRY(const SecretBytes dh, x25519(ephemeral.private_key.reveal(), recipient));
  hpke::Context context = hpke::key_schedule(hpke::shared_secret(dh, ephemeral.public_key, recipient), info);
  return HpkeSender(ephemeral.public_key, Aead(context.key.reveal()), std::move(context.base_nonce));
}

Result<Bytes> HpkeSender::seal(ByteSpan aad, ByteSpan plaintext) {
  COFFER_TRY(const hpke::Nonce nonce, hpke::nonce(base_nonce_, sequence_));
  ++sequence_;  // a number is used once, whatever comes of it
  return aead_.seal(nonce, aad, plaintext);
}

}  // namespace coffer
