// The primitives Coffer uses, over Botan (2.19 and 3): nothing else in core sees a Botan type.
// Failure of a check is a value; a failure inside Botan that cannot happen with these inputs ends the
// process. Thread rule: functions are thread-safe; one object is used by one thread at a time.
#ifndef COFFER_CRYPTO_PRIMITIVES_H
#define COFFER_CRYPTO_PRIMITIVES_H

#include <memory>
#include <optional>

#include "coffer/base/bytes.h"
#include "coffer/base/result.h"
#include "coffer/base/secret_bytes.h"

namespace coffer {

using PublicKey = std::array<uint8_t, 32>;
using Signature = std::array<uint8_t, 64>;

void random_fill(std::span<uint8_t> out);  // from the operating system
template <size_t N>
std::array<uint8_t, N> random_array() {
  std::array<uint8_t, N> out;
  random_fill(out);
  return out;
}
SecretBytes random_secret(size_t size);

bool equal_in_constant_time(ByteSpan a, ByteSpan b);  // false for different sizes

// ---- SHA-256 (FIPS 180-4), HMAC (RFC 2104), HKDF (RFC 5869) ----
Hash sha256(ByteSpan data);

class HmacSha256 {
 public:
  explicit HmacSha256(ByteSpan key);
  HmacSha256(HmacSha256 &&) noexcept;
  HmacSha256 &operator=(HmacSha256 &&) noexcept;
  ~HmacSha256();
  HmacSha256 &update(ByteSpan data);
  Hash finish();  // and begins anew with the same key

 private:
  struct State;
  std::unique_ptr<State> state_;
};

SecretBytes hkdf_extract(ByteSpan salt, ByteSpan ikm);  // 32 bytes
Result<SecretBytes> hkdf_expand(ByteSpan prk, ByteSpan info,
                                size_t size);  // size 1 .. 255*32, else kInvalidArgument
Result<SecretBytes> hkdf(ByteSpan ikm, ByteSpan salt, ByteSpan info, size_t size);

// ---- X25519 (RFC 7748) ----
struct KeyPair {
  SecretBytes private_key;  // 32 bytes
  PublicKey public_key;
};
KeyPair x25519_generate();
Result<PublicKey> x25519_public(ByteSpan private_key);
// kInvalidArgument when the result is all zeros (RFC 7748, section 6.1) or a key is not of 32 bytes.
Result<SecretBytes> x25519(ByteSpan private_key, ByteSpan public_key);

// ---- Ed25519 (RFC 8032, pure) ----
// What is signed is always u32 length + label, u32 length + message: a signature made for one purpose says
// nothing for another.  Labels end in a format version: "coffer manifest v1".
class SigningKey {
 public:
  static SigningKey generate();
  static Result<SigningKey> from_seed(ByteSpan seed);  // 32 bytes
  SigningKey(SigningKey &&) noexcept;
  SigningKey &operator=(SigningKey &&) noexcept;
  ~SigningKey();
  const PublicKey &public_key() const;
  const SecretBytes &seed() const;
  Signature sign(std::string_view label, ByteSpan message) const;

 private:
  struct State;
  explicit SigningKey(std::unique_ptr<State>);
  std::unique_ptr<State> state_;
};
bool verify(const PublicKey &key, std::string_view label, ByteSpan message, ByteSpan signature);
// Without label: for the test vectors.  Rejects S >= L (RFC 8032, section 5.1.7), which Botan 2.19 accepts.
bool verify_raw(ByteSpan public_key, ByteSpan message, ByteSpan signature);

// ---- AEAD: ChaCha20-Poly1305 (RFC 8439), XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) ----
// The nonce's size chooses: 12 bytes or 24; any other size is kInvalidArgument.
class Aead {
 public:
  explicit Aead(ByteSpan key);  // 32 bytes
  Aead(Aead &&) noexcept;
  Aead &operator=(Aead &&) noexcept;
  ~Aead();
  Result<Bytes> seal(ByteSpan nonce, ByteSpan aad, ByteSpan plaintext);
  // kDataLoss when the tag is wrong; nothing of the plaintext is handed out then.
  Result<SecretBytes> open(ByteSpan nonce, ByteSpan aad, ByteSpan ciphertext);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace coffer
#endif
