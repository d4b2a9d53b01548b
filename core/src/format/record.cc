#include "coffer/format/record.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "coffer/base/names.h"
#include "coffer/format/magic.h"

namespace coffer {
namespace {
constexpr std::string_view kSealLabel = "coffer secret v1";
constexpr uint8_t kSuite = 1;
}  // namespace

Bytes encode(const Record &r) {
  Encoder e = begin("cfr1");
  e.reserve(4 + 1 + 4 + 32 + 8 + 4 + r.ciphertext.size());
  return e.u8(kSuite).u32(r.epoch).raw(r.enc).u64(r.sequence).bytes(r.ciphertext).take();
}

Result<Record> decode_record(ByteSpan in) {
  Decoder d(in);
  Record r;
  begins(d, "cfr1");
  const uint8_t suite = d.u8();
  r.epoch = d.u32();
  r.enc = d.array<32>();
  r.sequence = d.u64();
  const ByteSpan ciphertext = d.bytes();
  if (!d.done()) return malformed("record");
  if (suite != kSuite)
    return fail(ErrorCode::kDataLoss, "record of unknown suite " + std::to_string(suite),
                "It may have been written by a newer coffer.");
  r.ciphertext.assign(ciphertext.begin(), ciphertext.end());
  return r;
}

// Padme (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", 2019,
// section 4): the length keeps only its log2(log2) highest bits.
size_t padded_size(size_t size) {
  constexpr size_t kSmallest = 64;
  if (size <= kSmallest) return kSmallest;
  const int exponent = std::bit_width(size) - 1;
  const int kept = std::bit_width(static_cast<unsigned>(exponent));
  const size_t mask = (size_t{1} << (exponent - kept)) - 1;
  return (size + mask) & ~mask;
}

SecretBytes pad(const SecretBytes &value) {
  SecretBytes out(padded_size(4 + value.size()));
  const auto to = out.fill();
  for (int i = 0; i < 4; ++i) to[static_cast<size_t>(i)] = static_cast<uint8_t>(value.size() >> (24 - 8 * i));
  if (!value.empty()) std::memcpy(to.data() + 4, value.reveal().data(), value.size());
  return out;
}

Result<SecretBytes> unpad(const SecretBytes &padded) {
  Decoder d(padded.reveal());
  const ByteSpan value = d.bytes(kMaxValue);
  const ByteSpan rest = d.raw(d.left());
  if (!d.done() || padded.size() != padded_size(4 + value.size()) ||
      !std::ranges::all_of(rest, [](uint8_t b) { return b == 0; }))
    return malformed("sealed plaintext");
  return SecretBytes::copy_of(value);
}

Bytes seal_info(const AppId &app, uint32_t epoch) {
  return Encoder().text(kSealLabel).bytes(app).u32(4).u32(epoch).take();
}

Bytes seal_aad(const AppId &app, uint32_t epoch, std::string_view name) {
  return Encoder().text(kSealLabel).bytes(app).u32(4).u32(epoch).text(name).take();
}

Result<Bytes> seal_record(HpkeSender &sender, const AppId &app, uint32_t epoch, std::string_view name,
                          const SecretBytes &value) {
  Record record;
  record.epoch = epoch;
  record.enc = sender.enc();
  record.sequence = sender.sequence();
  const SecretBytes padded = pad(value);
  COFFER_TRY(record.ciphertext, sender.seal(seal_aad(app, epoch, name), padded.reveal()));
  return encode(record);
}

}  // namespace coffer
