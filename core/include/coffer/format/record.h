// Record: one sealed value as stored; immutable, named by its SHA-256.
//   record  = "cfr1" suite(u8 = 1) epoch(u32) enc(32) sequence(u64) ciphertext(u32 length, bytes)
//   sealed plaintext = length(u32) value zeros, padded to padded_size(4 + length)
// Suite 1: HPKE base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305 (RFC 9180).
// Rationale: padding to buckets, so that sizes leak little: at least 64 bytes, then Padme (at most 12 %
// more).
#ifndef COFFER_FORMAT_RECORD_H
#define COFFER_FORMAT_RECORD_H

#include "coffer/crypto/hpke_sender.h"
#include "coffer/format/app.h"

namespace coffer {

struct Record {
  uint32_t epoch = 0;
  PublicKey enc{};
  uint64_t sequence = 0;
  Bytes ciphertext;
};
Bytes encode(const Record &);
Result<Record> decode_record(ByteSpan);

size_t padded_size(size_t size);
SecretBytes pad(const SecretBytes &value);
// kDataLoss: wrong length, wrong bucket, or padding that is not zero.
Result<SecretBytes> unpad(const SecretBytes &padded);

// info = label app_id epoch, aad = label app_id epoch name; all length-prefixed, never empty.
Bytes seal_info(const AppId &, uint32_t epoch);
Bytes seal_aad(const AppId &, uint32_t epoch, std::string_view name);

// The next record of a write, encoded.  REQUIRES: `sender` was set up with seal_info(app, epoch).
Result<Bytes> seal_record(HpkeSender &sender, const AppId &app, uint32_t epoch, std::string_view name,
                          const SecretBytes &value);

}  // namespace coffer
#endif
