#include "coffer/format/manifest.h"

#include "coffer/base/names.h"
#include "coffer/format/magic.h"

namespace coffer {

Bytes encode(const Header &h) {
  const bool longer = h.kept_from != 0 || h.restored_from != 0;
  Encoder e = begin(longer ? "cfm2" : "cfm1");
  e.raw(h.app_id).u64(h.version).raw(h.previous).raw(h.body).u64(h.created_ms).text(h.who);
  if (longer) e.u64(h.kept_from).u64(h.restored_from);
  return e.take();
}

Result<Header> decode_header(ByteSpan payload) {
  Decoder d(payload);
  Header h;
  const std::string_view magic = as_text(d.raw(4));
  if (magic != "cfm1" && magic != "cfm2") d.reject();
  h.app_id = d.array<16>();
  h.version = d.u64();
  h.previous = d.array<32>();
  h.body = d.array<32>();
  h.created_ms = d.u64();
  h.who = d.text();
  if (magic == "cfm2") {
    h.kept_from = d.u64();
    h.restored_from = d.u64();
    // One header, one form.
    if (h.kept_from == 0 && h.restored_from == 0) d.reject();
    if (h.kept_from > h.version || h.restored_from >= h.version) d.reject();
  }
  if (!d.done() || h.version == 0) return malformed("manifest header");
  return h;
}

Bytes encode(const Body &b) {
  Encoder e = begin("cfb1");
  e.u32(b.entries);
  write_list(e, b.parts, [](Encoder &to, const Hash &h) { to.raw(h); });
  return e.take();
}

Result<Body> decode_body(ByteSpan in) {
  Decoder d(in);
  Body b;
  begins(d, "cfb1");
  b.entries = d.u32();
  b.parts = read_list<Hash>(d, [](Decoder &from) { return from.array<32>(); });
  if (!d.done()) return malformed("manifest body");
  return b;
}

Bytes encode_part(std::span<const Entry> entries) {
  Encoder e = begin("cfp1");
  e.reserve(8 + entries.size() * 160);
  e.u32(static_cast<uint32_t>(entries.size()));
  for (const Entry &x : entries)
    e.text(x.name)
        .u64(x.version)
        .raw(x.record)
        .raw(x.digest)
        .u8(x.flags)
        .u64(x.created_ms)
        .u64(x.updated_ms)
        .text(x.who);
  return e.take();
}

Result<void> decode_part(ByteSpan part, std::vector<Entry> &entries) {
  Decoder d(part);
  begins(d, "cfp1");
  for (uint32_t n = d.u32(); n > 0 && d.ok(); --n) {
    Entry x;
    x.name = d.text();
    x.version = d.u64();
    x.record = d.array<32>();
    x.digest = d.array<8>();
    x.flags = d.u8();
    x.created_ms = d.u64();
    x.updated_ms = d.u64();
    x.who = d.text();
    if (x.name.empty() || (!entries.empty() && entries.back().name >= x.name)) d.reject();
    entries.push_back(std::move(x));
  }
  if (!d.done()) return malformed("manifest part");
  return {};
}

std::vector<size_t> part_sizes(std::span<const Entry> entries) {
  constexpr size_t kMost = 2048;  // about 1 MiB of entries with the longest names
  std::vector<size_t> sizes;
  size_t in_part = 0;
  for (const Entry &x : entries) {
    ++in_part;
    if (in_part == kMost || sha256(as_bytes(x.name))[0] == 0) {
      sizes.push_back(in_part);
      in_part = 0;
    }
  }
  if (in_part) sizes.push_back(in_part);
  return sizes;
}

Result<HashedHeader> open_header(ByteSpan envelope, std::span<const PublicKey> writers, const AppId &app) {
  COFFER_TRY(const ByteSpan payload, open_signed(envelope, kManifestLabel, writers));
  COFFER_TRY(Header header, decode_header(payload));
  if (header.app_id != app) return fail(ErrorCode::kDataLoss, "manifest header belongs to another App");
  return HashedHeader{std::move(header), sha256(envelope)};
}

SecretBytes digest_key(const SecretBytes &credential, const AppId &app) {
  constexpr std::string_view kLabel = "coffer digest v1";
  const Bytes info = Encoder().text(kLabel).bytes(app).take();
  return *hkdf(credential.reveal(), {}, info, 32);  // 32 bytes are always in range
}

Digest DigestKey::digest(std::string_view name, const SecretBytes &value) {
  const Bytes prefix = Encoder().text(name).u32(static_cast<uint32_t>(value.size())).take();
  const Hash mac = hmac_.update(prefix).update(value.reveal()).finish();
  return to_array<8>(ByteSpan(mac).first(8));
}

uint8_t value_flags(std::string_view name, const SecretBytes &value) {
  const ByteSpan v = value.reveal();
  return static_cast<uint8_t>((fits_env(name, v) ? kEnvOk : 0) | (is_base64(v) ? kBase64Ok : 0));
}

}  // namespace coffer
