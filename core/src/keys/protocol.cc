#include "coffer/keys/protocol.h"

#include <cstring>

#include "coffer/format/magic.h"

namespace coffer {
namespace {

constexpr std::string_view kTokenLabel = "coffer token v1";
constexpr std::string_view kAnswerLabel = "coffer answer v1";

Hash token_mac(ByteSpan claims, HmacSha256 &key) {
  return key.update(Encoder().text(kTokenLabel).bytes(claims).take()).finish();
}

void write_bytes(Encoder &e, const Bytes &b) { e.bytes(b); }
Bytes read_bytes(Decoder &d) {
  const ByteSpan b = d.bytes();
  return Bytes(b.begin(), b.end());
}

using Records = std::vector<std::pair<std::string, Bytes>>;
void write_records(Encoder &e, const Records &records) {
  write_list(e, records, [](Encoder &to, const auto &kv) { to.text(kv.first).bytes(kv.second); });
}
Records read_records(Decoder &d) {
  return read_list<std::pair<std::string, Bytes>>(d, [](Decoder &from) {
    std::string name = from.text();
    return std::pair(std::move(name), read_bytes(from));
  });
}

}  // namespace

Bytes encode(const TokenRequest &r) {
  return begin("cfq1").raw(r.app_id).text(r.machine).text(r.instance_id).raw(r.spec).raw(r.nonce).take();
}

Result<TokenRequest> decode_token_request(ByteSpan payload) {
  Decoder d(payload);
  TokenRequest r;
  begins(d, "cfq1");
  r.app_id = d.array<16>();
  r.machine = d.text();
  r.instance_id = d.text();
  r.spec = d.array<32>();
  r.nonce = d.array<16>();
  if (!d.done()) return malformed("token request");
  return r;
}

Bytes encode(const Enrolment &e) { return begin("cfj1").raw(e.token).text(e.name).raw(e.host).take(); }

Result<Enrolment> decode_enrolment(ByteSpan payload) {
  Decoder d(payload);
  Enrolment e;
  begins(d, "cfj1");
  e.token = d.array<16>();
  e.name = d.text(kMaxHostName);
  e.host = d.array<32>();
  if (!d.done()) return malformed("enrolment");
  return e;
}

Bytes encode(const MachineToken &t, HmacSha256 &key) {
  Encoder e = begin("cft1");
  e.raw(t.id).raw(t.app_id).text(t.machine).text(t.instance_id).raw(t.host).raw(t.spec);
  e.u64(t.issued_ms).u64(t.expires_ms);
  const Hash mac = token_mac(e.out(), key);
  return e.raw(mac).take();
}

Result<MachineToken> decode_token(ByteSpan in, HmacSha256 &key) {
  constexpr size_t kMac = 32;
  if (in.size() < kMac || !equal_in_constant_time(token_mac(in.first(in.size() - kMac), key), in.last(kMac)))
    return fail(ErrorCode::kPermissionDenied, "the machine token is forged");
  Decoder d(in.first(in.size() - kMac));
  MachineToken t;
  begins(d, "cft1");
  t.id = d.array<16>();
  t.app_id = d.array<16>();
  t.machine = d.text();
  t.instance_id = d.text();
  t.host = d.array<32>();
  t.spec = d.array<32>();
  t.issued_ms = d.u64();
  t.expires_ms = d.u64();
  if (!d.done()) return malformed("machine token");
  return t;
}

Bytes encode(const OpenRequest &r) {
  Encoder e = begin("cfo1");
  e.bytes(r.token).bytes(r.spec);
  write_list(e, r.headers, write_bytes);
  e.bytes(r.proof_header).bytes(r.proof_body);
  write_list(e, r.proof_parts, write_bytes);
  write_records(e, r.records);
  return e.raw(r.ephemeral).take();
}

Result<OpenRequest> decode_open_request(ByteSpan payload) {
  Decoder d(payload);
  OpenRequest r;
  begins(d, "cfo1");
  r.token = read_bytes(d);
  r.spec = read_bytes(d);
  r.headers = read_list<Bytes>(d, read_bytes);
  r.proof_header = read_bytes(d);
  r.proof_body = read_bytes(d);
  r.proof_parts = read_list<Bytes>(d, read_bytes);
  r.records = read_records(d);
  r.ephemeral = d.array<32>();
  if (!d.done()) return malformed("open request");
  return r;
}

Bytes encode(const OpenAnswer &a) {
  return begin("cfw1").raw(a.request).raw(a.enc).bytes(a.ciphertext).take();
}

Result<OpenAnswer> decode_open_answer(ByteSpan payload) {
  Decoder d(payload);
  OpenAnswer a;
  begins(d, "cfw1");
  a.request = d.array<32>();
  a.enc = d.array<32>();
  a.ciphertext = read_bytes(d);
  if (!d.done()) return malformed("open answer");
  return a;
}

Bytes encode(const ResealRequest &r) {
  Encoder e = begin("cff1");
  e.raw(r.app_id);
  write_list(e, r.headers, write_bytes);
  e.bytes(r.proof_header).bytes(r.proof_body);
  write_list(e, r.proof_parts, write_bytes);
  write_records(e, r.records);
  return e.take();
}

Result<ResealRequest> decode_reseal_request(ByteSpan in) {
  Decoder d(in);
  ResealRequest r;
  begins(d, "cff1");
  r.app_id = d.array<16>();
  r.headers = read_list<Bytes>(d, read_bytes);
  r.proof_header = read_bytes(d);
  r.proof_body = read_bytes(d);
  r.proof_parts = read_list<Bytes>(d, read_bytes);
  r.records = read_records(d);
  if (!d.done()) return malformed("reseal request");
  return r;
}

Bytes encode(const ResealAnswer &a) {
  Encoder e = begin("cfi1");
  e.raw(a.request).u32(a.epoch);
  write_records(e, a.records);
  return e.take();
}

Result<ResealAnswer> decode_reseal_answer(ByteSpan payload) {
  Decoder d(payload);
  ResealAnswer a;
  begins(d, "cfi1");
  a.request = d.array<32>();
  a.epoch = d.u32();
  a.records = read_records(d);
  if (!d.done()) return malformed("reseal answer");
  return a;
}

// Written straight into locked memory: Encoder's buffer is ordinary.
SecretBytes encode_opened(const std::vector<OpenedSecret> &opened) {
  size_t size = 4;
  for (const OpenedSecret &s : opened) size += 4 + s.name.size() + 4 + s.value.size();
  SecretBytes out(size);
  uint8_t *to = out.fill().data();
  const auto put_u32 = [&to](size_t v) {
    for (int shift = 24; shift >= 0; shift -= 8) *to++ = static_cast<uint8_t>(v >> shift);
  };
  const auto put = [&](ByteSpan bytes) {
    put_u32(bytes.size());
    if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
    to += bytes.size();
  };
  put_u32(opened.size());
  for (const OpenedSecret &s : opened) {
    put(as_bytes(s.name));
    put(s.value.reveal());
  }
  return out;
}

Result<std::vector<OpenedSecret>> decode_opened(const SecretBytes &in) {
  Decoder d(in.reveal());
  std::vector<OpenedSecret> out;
  for (uint32_t n = d.u32(); n > 0 && d.ok(); --n) {
    std::string name = d.text();
    out.push_back({std::move(name), SecretBytes::copy_of(d.bytes())});
  }
  if (!d.done()) return malformed("open answer");
  return out;
}

Bytes answer_info(const Hash &request) { return Encoder().text(kAnswerLabel).bytes(request).take(); }

}  // namespace coffer
