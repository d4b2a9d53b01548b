// Manifest: the list of an App's secrets at one version.
//   header = first | "cfm2" first kept_from(u64) restored_from(u64)               signed: kManifestLabel
//   first  = "cfm1" app_id(16) version(u64) previous(32) body(32) created_ms(u64) who
//   body   = "cfb1" entries(u32) parts(u32) part_hash(32)*
//   part   = "cfp1" entries(u32) entry*
//   entry  = name version(u64) record_hash(32) digest(8) flags(u8) created_ms(u64) updated_ms(u64) who
// A header chains to the one before by the SHA-256 of its envelope; the header pins the body, the body its
// parts, a part its records.  Entries are sorted by name over all parts.
// Rationale: a body in parts, cut where the hash of a name says so, lets a write to an App of 10,000 secrets
// store one part of about 256 entries instead of the whole list.
#ifndef COFFER_FORMAT_MANIFEST_H
#define COFFER_FORMAT_MANIFEST_H

#include "coffer/format/app.h"

namespace coffer {

using Digest = std::array<uint8_t, 8>;

inline constexpr uint8_t kEnvOk = 1;     // no NUL, NAME=VALUE at most 131,071 bytes
inline constexpr uint8_t kBase64Ok = 2;  // decodes as base64 (blanks allowed)

struct Entry {
  std::string name;
  uint64_t version = 0;  // of the manifest that set it
  Hash record{};
  Digest digest{};
  uint8_t flags = 0;
  uint64_t created_ms = 0, updated_ms = 0;
  std::string who;
};

struct Header {
  AppId app_id{};
  uint64_t version = 0;
  Hash previous{};  // zeros for version 1
  Hash body{};
  uint64_t created_ms = 0;
  std::string who;
  uint64_t kept_from = 0;      // bodies of older versions were dropped on purpose; 0: none was
  uint64_t restored_from = 0;  // made by a restore: the version that `previous` is of; 0: version - 1
};

struct Body {
  uint32_t entries = 0;
  std::vector<Hash> parts;
};

Bytes encode(const Header &);
Result<Header> decode_header(ByteSpan payload);
Bytes encode(const Body &);
Result<Body> decode_body(ByteSpan);

Bytes encode_part(std::span<const Entry> entries);
// Appends to `entries`; kDataLoss when a name is not greater than the one before.
Result<void> decode_part(ByteSpan part, std::vector<Entry> &entries);
// Where the sorted list is cut: sizes of the parts, in order.
std::vector<size_t> part_sizes(std::span<const Entry> entries);

// A header with the hash of its envelope.
struct HashedHeader {
  Header header;
  Hash hash{};
};
Result<HashedHeader> open_header(ByteSpan envelope, std::span<const PublicKey> writers, const AppId &app);

// An App's own, derived from the digest credential: given to whoever may set its secrets.
SecretBytes digest_key(const SecretBytes &credential, const AppId &app);

// First 64 bits of HMAC-SHA256(digest key, name, value), shown by `list` in place of a value.
class DigestKey {
 public:
  explicit DigestKey(const SecretBytes &key) : hmac_(key.reveal()) {}
  Digest digest(std::string_view name, const SecretBytes &value);

 private:
  HmacSha256 hmac_;
};

// The flags of a value, set by whoever sees it.
uint8_t value_flags(std::string_view name, const SecretBytes &value);

}  // namespace coffer
#endif
