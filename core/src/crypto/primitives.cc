#include "coffer/crypto/primitives.h"

#include <botan/aead.h>
#include <botan/exceptn.h>
#include <botan/hash.h>
#include <botan/mac.h>
#include <botan/sodium.h>
#include <botan/version.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "coffer/base/codec.h"

namespace coffer {
namespace {

#if BOTAN_VERSION_MAJOR >= 3
constexpr auto kEncrypt = Botan::Cipher_Dir::Encryption, kDecrypt = Botan::Cipher_Dir::Decryption;
#else
constexpr auto kEncrypt = Botan::ENCRYPTION, kDecrypt = Botan::DECRYPTION;
#endif

constexpr size_t kKeySize = 32, kTagSize = 16, kHashSize = 32, kHashBlock = 64;

[[noreturn]] void broken(const char *what) {
  std::fprintf(stderr, "Error: %s\n", what);
  std::abort();
}

// Rationale: wrong sizes are refused before Botan is called, so what it throws here means a broken build or
// no memory.  Nobody may go on with half a result, and its what() is not printed: it was not written for
// secret inputs.
template <class F>
auto certainly(F f) {
  try {
    return f();
  } catch (...) {
    broken("the cryptographic library failed");
  }
}

// Looking an algorithm up in Botan's registry costs more than hashing a record, so each thread keeps its
// object.  Both clear their state when they finish.
Botan::HashFunction &sha256_object() {
  thread_local const auto hash = Botan::HashFunction::create_or_throw("SHA-256");
  return *hash;
}

std::unique_ptr<Botan::MessageAuthenticationCode> new_hmac() {
  return Botan::MessageAuthenticationCode::create_or_throw("HMAC(SHA-256)");
}

// RFC 2104: a key longer than a block is replaced by its hash.  (Botan does that as well, up to 4096 bytes.)
void set_hmac_key(Botan::MessageAuthenticationCode &mac, ByteSpan key) {
  if (key.size() <= kHashBlock) return mac.set_key(key.data(), key.size());
  SecretBytes hashed(kHashSize);
  sha256_object().update(key.data(), key.size());
  sha256_object().final(hashed.fill().data());
  mac.set_key(hashed.reveal().data(), hashed.size());
}

// HMAC for one HKDF step, forgotten at its end.
class HkdfMac {
 public:
  explicit HkdfMac(ByteSpan key) : mac_(object()) { set_hmac_key(mac_, key); }
  ~HkdfMac() { mac_.clear(); }
  HkdfMac(const HkdfMac &) = delete;
  HkdfMac &operator=(const HkdfMac &) = delete;
  void update(ByteSpan data) { mac_.update(data.data(), data.size()); }
  void final(uint8_t *out) { mac_.final(out); }

 private:
  static Botan::MessageAuthenticationCode &object() {
    thread_local const auto mac = new_hmac();
    return *mac;
  }
  Botan::MessageAuthenticationCode &mac_;
};

}  // namespace

// ---- random ----

void random_fill(std::span<uint8_t> out) {
  while (!out.empty()) {
    const ssize_t n = getrandom(out.data(), std::min(out.size(), size_t{256}), 0);
    if (n > 0)
      out = out.subspan(static_cast<size_t>(n));
    else if (errno != EINTR)
      broken("the operating system gives no random numbers");
  }
}

SecretBytes random_secret(size_t size) {
  SecretBytes out(size);
  random_fill(out.fill());
  return out;
}

bool equal_in_constant_time(ByteSpan a, ByteSpan b) {
  return a.size() == b.size() && Botan::constant_time_compare(a.data(), b.data(), a.size());
}

// ---- SHA-256, HMAC, HKDF ----

Hash sha256(ByteSpan data) {
  return certainly([&] {
    Hash out;
    sha256_object().update(data.data(), data.size());
    sha256_object().final(out.data());
    return out;
  });
}

struct HmacSha256::State {
  std::unique_ptr<Botan::MessageAuthenticationCode> mac;
};

HmacSha256::HmacSha256(ByteSpan key)
    : state_(certainly([&] {
        auto state = std::make_unique<State>(new_hmac());
        set_hmac_key(*state->mac, key);
        return state;
      })) {}
HmacSha256::HmacSha256(HmacSha256 &&) noexcept = default;
HmacSha256 &HmacSha256::operator=(HmacSha256 &&) noexcept = default;
HmacSha256::~HmacSha256() = default;

HmacSha256 &HmacSha256::update(ByteSpan data) {
  certainly([&] { state_->mac->update(data.data(), data.size()); });
  return *this;
}

Hash HmacSha256::finish() {
  return certainly([&] {
    Hash out;
    state_->mac->final(out.data());
    return out;
  });
}

SecretBytes hkdf_extract(ByteSpan salt, ByteSpan ikm) {
  return certainly([&] {
    SecretBytes prk(kHashSize);
    HkdfMac mac(salt);  // an empty salt is HashLen zeros, which is the same HMAC key
    mac.update(ikm);
    mac.final(prk.fill().data());
    return prk;
  });
}

Result<SecretBytes> hkdf_expand(ByteSpan prk, ByteSpan info, size_t size) {
  if (size == 0 || size > 255 * kHashSize)
    return fail(ErrorCode::kInvalidArgument, "HKDF gives 1 to 8160 bytes, not " + std::to_string(size));
  return certainly([&] {
    SecretBytes okm(size), block(kHashSize);
    HkdfMac mac(prk);
    // RFC 5869, section 2.3: T(n) = HMAC(PRK, T(n-1) | info | n), T(0) is empty.
    for (size_t done = 0, n = 1; done < size; ++n) {
      const uint8_t counter = static_cast<uint8_t>(n);
      if (n > 1) mac.update(block.reveal());
      mac.update(info);
      mac.update({&counter, 1});
      mac.final(block.fill().data());
      const size_t part = std::min(kHashSize, size - done);
      std::copy_n(block.reveal().data(), part, okm.fill().data() + done);
      done += part;
    }
    return okm;
  });
}

Result<SecretBytes> hkdf(ByteSpan ikm, ByteSpan salt, ByteSpan info, size_t size) {
  return hkdf_expand(hkdf_extract(salt, ikm).reveal(), info, size);
}

// ---- X25519 ----
// Botan's libsodium-like functions are the ones that both of its versions have, and that cost one scalar
// multiplication: a key object computes the public key each time it is made.

namespace {
Error wrong_key_size(const char *what, size_t size) {
  return {ErrorCode::kInvalidArgument,
          std::string(what) + " has 32 bytes, this one has " + std::to_string(size)};
}
}  // namespace

KeyPair x25519_generate() {
  KeyPair pair{random_secret(kKeySize), {}};
  Botan::Sodium::crypto_scalarmult_curve25519_base(pair.public_key.data(), pair.private_key.reveal().data());
  return pair;
}

Result<PublicKey> x25519_public(ByteSpan private_key) {
  if (private_key.size() != kKeySize)
    return std::unexpected(wrong_key_size("an X25519 private key", private_key.size()));
  PublicKey out;
  Botan::Sodium::crypto_scalarmult_curve25519_base(out.data(), private_key.data());
  return out;
}

Result<SecretBytes> x25519(ByteSpan private_key, ByteSpan public_key) {
  if (private_key.size() != kKeySize)
    return std::unexpected(wrong_key_size("an X25519 private key", private_key.size()));
  if (public_key.size() != kKeySize)
    return std::unexpected(wrong_key_size("an X25519 public key", public_key.size()));
  SecretBytes shared(kKeySize);
  Botan::Sodium::crypto_scalarmult_curve25519(shared.fill().data(), private_key.data(), public_key.data());
  const std::array<uint8_t, kKeySize> zeros{};
  if (equal_in_constant_time(shared.reveal(), zeros))
    return fail(ErrorCode::kInvalidArgument, "the X25519 public key is of low order");
  return shared;
}

// ---- Ed25519 ----

namespace {

Bytes labelled(std::string_view label, ByteSpan message) {
  Encoder e;
  e.reserve(8 + label.size() + message.size());
  return e.text(label).bytes(message).take();
}

// The second half of a signature, little-endian, below the group order
// L = 2^252 + 27742317777372353535851937790883648493?  A signature with S + L in its place would be a second
// one for the same message.  No secret here: any time will do.
bool is_reduced(ByteSpan s) {
  static constexpr std::array<uint8_t, 32> kOrder = {
      0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
      0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0x10};
  return std::lexicographical_compare(s.rbegin(), s.rend(), kOrder.rbegin(), kOrder.rend());
}

}  // namespace

struct SigningKey::State {
  SecretBytes seed;
  SecretBytes expanded;  // seed and public key, as Botan wants it
  PublicKey public_key;
};

SigningKey::SigningKey(std::unique_ptr<State> state) : state_(std::move(state)) {}
SigningKey::SigningKey(SigningKey &&) noexcept = default;
SigningKey &SigningKey::operator=(SigningKey &&) noexcept = default;
SigningKey::~SigningKey() = default;

SigningKey SigningKey::generate() { return *from_seed(random_secret(kKeySize).reveal()); }

Result<SigningKey> SigningKey::from_seed(ByteSpan seed) {
  if (seed.size() != kKeySize)
    return std::unexpected(wrong_key_size("the seed of an Ed25519 key", seed.size()));
  auto state = std::make_unique<State>(SecretBytes::copy_of(seed), SecretBytes(2 * kKeySize), PublicKey{});
  certainly([&] {
    Botan::Sodium::crypto_sign_ed25519_seed_keypair(state->public_key.data(), state->expanded.fill().data(),
                                                    seed.data());
  });
  return SigningKey(std::move(state));
}

const PublicKey &SigningKey::public_key() const { return state_->public_key; }
const SecretBytes &SigningKey::seed() const { return state_->seed; }

Signature SigningKey::sign(std::string_view label, ByteSpan message) const {
  return certainly([&] {
    const Bytes text = labelled(label, message);
    Signature out;
    Botan::Sodium::crypto_sign_ed25519_detached(out.data(), nullptr, text.data(), text.size(),
                                                state_->expanded.reveal().data());
    return out;
  });
}

bool verify(const PublicKey &key, std::string_view label, ByteSpan message, ByteSpan signature) {
  return verify_raw(key, labelled(label, message), signature);
}

bool verify_raw(ByteSpan public_key, ByteSpan message, ByteSpan signature) {
  if (public_key.size() != kKeySize || signature.size() != 64 || !is_reduced(signature.subspan(32)))
    return false;
  return certainly([&] {
    return Botan::Sodium::crypto_sign_ed25519_verify_detached(signature.data(), message.data(),
                                                              message.size(), public_key.data()) == 0;
  });
}

// ---- AEAD ----

// The key is set once, and each message begins with its nonce: setting it anew costs more than sealing a
// small value.  A context that only seals never makes the other cipher.
struct Aead::State {
  SecretBytes key;
  std::unique_ptr<Botan::AEAD_Mode> sealing, opening;

  Botan::AEAD_Mode &keyed(std::unique_ptr<Botan::AEAD_Mode> &mode, Botan::Cipher_Dir direction) {
    if (!mode) {
      mode = Botan::AEAD_Mode::create_or_throw("ChaCha20Poly1305", direction);
      mode->set_key(key.reveal().data(), key.size());
    }
    return *mode;
  }
};

namespace {
bool is_nonce_size(size_t n) { return n == 12 || n == 24; }
std::unexpected<Error> wrong_nonce_size(size_t n) {
  return fail(ErrorCode::kInvalidArgument, "a nonce has 12 or 24 bytes, this one has " + std::to_string(n));
}
}  // namespace

Aead::Aead(ByteSpan key) : state_(std::make_unique<State>()) {
  if (key.size() != kKeySize) broken("an AEAD key has 32 bytes");
  state_->key = SecretBytes::copy_of(key);
}
Aead::Aead(Aead &&) noexcept = default;
Aead &Aead::operator=(Aead &&) noexcept = default;
Aead::~Aead() = default;

Result<Bytes> Aead::seal(ByteSpan nonce, ByteSpan aad, ByteSpan plaintext) {
  if (!is_nonce_size(nonce.size())) return wrong_nonce_size(nonce.size());
  return certainly([&] {
    Botan::AEAD_Mode &mode = state_->keyed(state_->sealing, kEncrypt);
    Botan::secure_vector<uint8_t> buffer;
    buffer.reserve(plaintext.size() + kTagSize);
    buffer.assign(plaintext.begin(), plaintext.end());
    mode.set_associated_data(aad.data(), aad.size());  // is kept from message to message: always set
    mode.start(nonce.data(), nonce.size());
    mode.finish(buffer);
    return Bytes(buffer.begin(), buffer.end());
  });
}

Result<SecretBytes> Aead::open(ByteSpan nonce, ByteSpan aad, ByteSpan ciphertext) {
  if (!is_nonce_size(nonce.size())) return wrong_nonce_size(nonce.size());
  if (ciphertext.size() < kTagSize) return fail(ErrorCode::kDataLoss, "the ciphertext is cut short");
  return certainly([&]() -> Result<SecretBytes> {
    Botan::AEAD_Mode &mode = state_->keyed(state_->opening, kDecrypt);
    Botan::secure_vector<uint8_t> buffer(ciphertext.begin(), ciphertext.end());
    mode.set_associated_data(aad.data(), aad.size());
    mode.start(nonce.data(), nonce.size());
    try {
      mode.finish(buffer);
    } catch (const Botan::Invalid_Authentication_Tag &) {
      // Botan 2 has decrypted in place by now: the buffer is wiped here, unread.
      mode.reset();
      return fail(ErrorCode::kDataLoss, "the ciphertext is not authentic");
    }
    return SecretBytes::copy_of(buffer);
  });
}

}  // namespace coffer
