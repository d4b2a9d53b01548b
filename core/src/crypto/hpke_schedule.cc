#include "hpke_schedule.h"

#include <algorithm>
#include <initializer_list>

namespace coffer::hpke {
namespace {

SecretBytes join(std::initializer_list<ByteSpan> parts) {
  size_t size = 0;
  for (const ByteSpan p : parts) size += p.size();
  SecretBytes out(size);
  auto next = out.fill().begin();
  for (const ByteSpan p : parts) next = std::copy(p.begin(), p.end(), next);
  return out;
}

std::array<uint8_t, 2> two_bytes(size_t n) { return {static_cast<uint8_t>(n >> 8), static_cast<uint8_t>(n)}; }

// Section 4: everything derived is bound to the version, the suite and a label.
constexpr std::string_view kVersion = "HPKE-v1";

SecretBytes labeled_extract(ByteSpan suite, ByteSpan salt, std::string_view label, ByteSpan ikm) {
  return hkdf_extract(salt, join({as_bytes(kVersion), suite, as_bytes(label), ikm}).reveal());
}

// REQUIRES: 0 < size <= 8160.
SecretBytes labeled_expand(ByteSpan suite, ByteSpan prk, std::string_view label, ByteSpan info, size_t size) {
  return *hkdf_expand(prk, join({two_bytes(size), as_bytes(kVersion), suite, as_bytes(label), info}).reveal(),
                      size);
}

constexpr std::array<uint8_t, 5> kKemSuite = {'K', 'E', 'M', 0x00, 0x20};  // section 4.1

}  // namespace

SecretBytes shared_secret(const SecretBytes &dh, const PublicKey &enc, const PublicKey &recipient) {
  const SecretBytes prk = labeled_extract(kKemSuite, {}, "eae_prk", dh.reveal());
  const SecretBytes kem_context = join({enc, recipient});
  return labeled_expand(kKemSuite, prk.reveal(), "shared_secret", kem_context.reveal(), 32);
}

Context key_schedule(const SecretBytes &shared_secret, ByteSpan info, AeadId aead) {
  const auto aead_id = two_bytes(aead.id);
  const std::array<uint8_t, 10> suite = {'H', 'P', 'K', 'E', 0x00, 0x20, 0x00, 0x01, aead_id[0], aead_id[1]};
  const std::array<uint8_t, 1> mode_base = {0};
  const SecretBytes psk_id_hash = labeled_extract(suite, {}, "psk_id_hash", {});
  const SecretBytes info_hash = labeled_extract(suite, {}, "info_hash", info);
  const SecretBytes context = join({mode_base, psk_id_hash.reveal(), info_hash.reveal()});
  const SecretBytes secret = labeled_extract(suite, shared_secret.reveal(), "secret", {});
  return {labeled_expand(suite, secret.reveal(), "key", context.reveal(), aead.key_size),
          labeled_expand(suite, secret.reveal(), "base_nonce", context.reveal(), Nonce{}.size())};
}

Result<Nonce> nonce(const SecretBytes &base_nonce, uint64_t sequence) {
  if (sequence == UINT64_MAX)
    return fail(ErrorCode::kResourceExhausted, "HPKE: message limit reached in one context");
  Nonce out = to_array<12>(base_nonce.reveal());
  for (size_t i = 0; i < 8; ++i) out[11 - i] ^= static_cast<uint8_t>(sequence >> (8 * i));
  return out;
}

}  // namespace coffer::hpke
