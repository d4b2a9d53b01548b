#include "coffer/tokens/macaroon.h"

#include <algorithm>

#include "coffer/crypto/primitives.h"

namespace coffer {
namespace {

constexpr uint8_t kVersion = 2;
enum Field : uint8_t { kEnd = 0, kLocation = 1, kIdentifier = 2, kVerificationId = 4, kSignature = 6 };

// Zero padded to 32 bytes, as libmacaroons has it.
constexpr std::array<uint8_t, 32> kKeyGenerator = [] {
  std::array<uint8_t, 32> key{};
  std::ranges::copy(std::string_view("macaroons-key-generator"), key.begin());
  return key;
}();

std::unexpected<Error> malformed(std::string_view why) {
  return fail(ErrorCode::kInvalidArgument, "the token " + std::string(why));
}

Hash first_signature(ByteSpan root_key, ByteSpan identifier) {
  Hash key = HmacSha256(kKeyGenerator).update(root_key).finish();
  const Hash signature = HmacSha256(key).update(identifier).finish();
  secure_wipe(key.data(), key.size());
  return signature;
}

Hash next_signature(const Hash &signature, std::string_view caveat) {
  return HmacSha256(signature).update(as_bytes(caveat)).finish();
}

void put_field(Bytes &out, Field type, ByteSpan data) {
  out.push_back(type);
  size_t n = data.size();
  for (; n >= 0x80; n >>= 7) out.push_back(static_cast<uint8_t>(n | 0x80));
  out.push_back(static_cast<uint8_t>(n));
  out.insert(out.end(), data.begin(), data.end());
}

// Reads fields one after the other.  Every type and every length has one form here: no type needs more than
// one byte, no length within 8 KiB more than two.
class Fields {
 public:
  explicit Fields(ByteSpan in) : rest_(in) {}
  bool at(Field type) const { return !rest_.empty() && rest_[0] == type; }
  bool at_end() const { return rest_.empty(); }
  bool take_end() {
    if (!at(kEnd)) return false;
    rest_ = rest_.subspan(1);
    return true;
  }
  std::optional<ByteSpan> take(Field type) {
    if (!at(type) || rest_.size() < 2) return std::nullopt;
    size_t size = rest_[1], used = 2;
    if (size >= 0x80) {
      if (rest_.size() < 3 || rest_[2] == 0 || rest_[2] >= 0x80) return std::nullopt;
      size = (size & 0x7f) | static_cast<size_t>(rest_[2]) << 7;
      used = 3;
    }
    if (rest_.size() - used < size) return std::nullopt;
    const ByteSpan data = rest_.subspan(used, size);
    rest_ = rest_.subspan(used + size);
    return data;
  }

 private:
  ByteSpan rest_;
};

// RFC 4648, sections 4 and 5.  One text for one token: the alphabets are not mixed, padding is whole or
// absent, bits that say nothing are zero.
std::optional<Bytes> unbase64_any(std::string_view text) {
  if (const size_t n = text.find('='); n != text.npos) {
    if (text.size() % 4 != 0 || text.size() - n > 2 || text.substr(n).find_first_not_of('=') != text.npos)
      return std::nullopt;
    text = text.substr(0, n);
  }
  if (text.size() % 4 == 1) return std::nullopt;
  if (text.find_first_of("+/") != text.npos && text.find_first_of("-_") != text.npos) return std::nullopt;
  std::string standard(text);
  std::ranges::replace(standard, '-', '+');
  std::ranges::replace(standard, '_', '/');
  standard.append((4 - standard.size() % 4) % 4, '=');
  return unbase64(standard);
}

}  // namespace

Macaroon Macaroon::make(ByteSpan root_key, ByteSpan identifier) {
  Macaroon m;
  m.identifier_.assign(identifier.begin(), identifier.end());
  m.signature_ = first_signature(root_key, identifier);
  return m;
}

Result<Macaroon> Macaroon::parse(ByteSpan binary) {
  if (binary.size() > kMaxToken) return malformed("has more than 8,192 bytes");
  if (binary.empty()) return malformed("is empty");
  // Version 1 begins with the length of its first field, in hex digits.
  if (binary[0] == '0') return malformed("is a macaroon of format v1; v2 is expected");
  if (binary[0] == '{' || binary[0] == '[')
    return malformed("is a macaroon in JSON; the binary form is expected");
  if (binary[0] != kVersion) return malformed("is no macaroon of format v2");

  Fields in(binary.subspan(1));
  Macaroon m;
  if (in.at(kLocation)) {
    // No signature covers it, so it must not say anything.  Some libraries always write an empty one.
    const auto location = in.take(kLocation);
    if (!location) return malformed("is cut short");
    if (!location->empty()) return malformed("has a location, which Coffer's tokens have not");
  }
  const auto identifier = in.take(kIdentifier);
  if (!identifier || identifier->empty() || !in.take_end())
    return malformed("has no identifier where it should");
  m.identifier_.assign(identifier->begin(), identifier->end());
  while (!in.take_end()) {
    const std::string where = "caveat " + std::to_string(m.caveats_.size() + 1);
    if (m.caveats_.size() == kMaxCaveats) return malformed("has more than 64 caveats");
    if (in.at(kLocation)) return malformed("has a third-party caveat, which Coffer does not know: " + where);
    const auto caveat = in.take(kIdentifier);
    if (!caveat || caveat->empty()) return malformed("is malformed at " + where);
    if (in.at(kVerificationId))
      return malformed("has a third-party caveat, which Coffer does not know: " + where);
    if (!in.take_end()) return malformed("is malformed at " + where);
    m.caveats_.emplace_back(as_text(*caveat));
  }
  const auto signature = in.take(kSignature);
  if (!signature || signature->size() != m.signature_.size())
    return malformed("has no signature of 32 bytes");
  if (!in.at_end()) return malformed("has bytes behind its signature");
  m.signature_ = to_array<32>(*signature);
  return m;
}

Result<Macaroon> Macaroon::parse_text(std::string_view text) {
  if (text.size() > kMaxToken) return malformed("has more than 8,192 bytes");
  if (text.starts_with('{') || text.starts_with('['))
    return malformed("is a macaroon in JSON; the binary form in base64 is expected");
  if (text.starts_with(kTokenPrefix)) text.remove_prefix(kTokenPrefix.size());
  const auto binary = unbase64_any(text);
  if (!binary) return malformed("is not base64");
  return parse(*binary);
}

Result<void> Macaroon::narrow(std::string_view caveat) {
  if (caveat.empty()) return fail(ErrorCode::kInvalidArgument, "the caveat is empty");
  if (caveats_.size() == kMaxCaveats) return malformed("has 64 caveats already, and cannot have more");
  caveats_.emplace_back(caveat);
  if (text().size() > kMaxToken) {
    caveats_.pop_back();
    return malformed("would have more than 8,192 bytes");
  }
  signature_ = next_signature(signature_, caveat);
  return {};
}

bool Macaroon::signed_by(ByteSpan root_key) const {
  Hash expected = first_signature(root_key, identifier_);
  for (const std::string &caveat : caveats_) expected = next_signature(expected, caveat);
  return equal_in_constant_time(expected, signature_);
}

Bytes Macaroon::binary() const {
  Bytes out = {kVersion};
  put_field(out, kIdentifier, identifier_);
  out.push_back(kEnd);
  for (const std::string &caveat : caveats_) {
    put_field(out, kIdentifier, as_bytes(caveat));
    out.push_back(kEnd);
  }
  out.push_back(kEnd);
  put_field(out, kSignature, signature_);
  return out;
}

std::string Macaroon::text() const {
  std::string out = base64(binary());
  std::ranges::replace(out, '+', '-');
  std::ranges::replace(out, '/', '_');
  out.erase(out.find_last_not_of('=') + 1);
  return std::string(kTokenPrefix) + out;
}

bool looks_like_token(std::string_view text) {
  // The shortest macaroon has an identifier of one byte: 2, identifier, two ends, signature.
  constexpr size_t kShortest = (1 + 3 + 2 + 34) * 8 / 6;
  const size_t prefix = text.find(kTokenPrefix);
  if (prefix == text.npos) {
    if (const size_t equals = text.find('='); text.starts_with("-") && equals != text.npos)
      text.remove_prefix(equals + 1);
    return text.size() > kShortest && Macaroon::parse_text(text).has_value();
  }
  // Behind the prefix also one that was changed or cut: every token begins so.
  text.remove_prefix(prefix + kTokenPrefix.size());
  return text.size() > kShortest && text.starts_with("Ag");
}

}  // namespace coffer
