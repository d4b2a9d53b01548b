// Where things lie in the key service's store, and how private keys are kept there.
//   space "keys":       root, root.next, identity, name/NAME
//   space "app-APPID":  record (signed App key record), private, private.next, seen, grant/MACHINE,
//   used/TOKEN
#ifndef COFFER_KEYS_STORE_H
#define COFFER_KEYS_STORE_H

#include <map>

#include "coffer/keys/protocol.h"
#include "coffer/plugin_host/kms.h"
#include "key_store.h"

namespace coffer::key_store {

// While a new root key takes over (rewrap.cc): what is wrapped by, or under, the new one.
inline constexpr std::string_view kRootNextKey = "root.next", kPrivateNextKey = "private.next";
inline constexpr std::string_view kAppPrefix = "app-";
inline constexpr std::string_view kUsed = "used/";
inline constexpr std::string_view kKmsKeyName = "coffer-root", kRootContext = "coffer root key v1";
inline constexpr int kMaxTries = 200;

// The root key as the KMS wrapped it.
Bytes encode(const WrappedKey &);
Result<WrappedKey> decode_wrapped(ByteSpan);

// A key of the root key's own, for one purpose.
SecretBytes derived(const SecretBytes &root, std::string_view purpose);

// wrapped = nonce(24) ciphertext: XChaCha20-Poly1305 under a key derived from the root key.
Result<Bytes> wrap(const SecretBytes &root, const SecretBytes &key, ByteSpan aad);
Result<SecretBytes> unwrap(const SecretBytes &root, ByteSpan wrapped, ByteSpan aad);
Bytes private_aad(const AppId &, uint32_t epoch);
Bytes identity_aad();

// The private keys of an App, one per epoch that something may still be sealed for; the newest one last.
//   private = "ckp1" (epoch(u32) wrapped(bytes))*   |   epoch(u32) wrapped: from before keys were rotated
struct HeldKey {
  uint32_t epoch = 0;
  Bytes wrapped;
};
Bytes encode(const std::vector<HeldKey> &);
Result<std::vector<HeldKey>> decode_held(ByteSpan);

//   seen = "cfh1" version(u64) header(32)
Bytes encode(const SeenHead &);
Result<SeenHead> decode_seen(ByteSpan);

// Walks signed headers from the newest one seen; answers the head that they reach, and what lies on the way.
Result<SeenHead> reach(const std::optional<SeenHead> &seen, const std::vector<Bytes> &headers,
                       const AppId &app, std::span<const PublicKey> writers, std::map<uint64_t, Hash> &chain);

}  // namespace coffer::key_store
#endif
