#include "coffer/base/codec.h"

#include <cassert>

namespace coffer {

Encoder &Encoder::u8(uint8_t v) {
  out_.push_back(v);
  return *this;
}
Encoder &Encoder::u16(uint16_t v) { return u8(static_cast<uint8_t>(v >> 8)).u8(static_cast<uint8_t>(v)); }
Encoder &Encoder::u32(uint32_t v) {
  return u16(static_cast<uint16_t>(v >> 16)).u16(static_cast<uint16_t>(v));
}
Encoder &Encoder::u64(uint64_t v) {
  return u32(static_cast<uint32_t>(v >> 32)).u32(static_cast<uint32_t>(v));
}
Encoder &Encoder::raw(ByteSpan bytes) {
  out_.insert(out_.end(), bytes.begin(), bytes.end());
  return *this;
}
Encoder &Encoder::bytes(ByteSpan bytes) {
  assert(bytes.size() <= UINT32_MAX);
  return u32(static_cast<uint32_t>(bytes.size())).raw(bytes);
}

ByteSpan Decoder::raw(size_t n) {
  if (!ok_ || n > rest_.size()) {
    ok_ = false;
    return {};
  }
  const ByteSpan out = rest_.first(n);
  rest_ = rest_.subspan(n);
  return out;
}
uint8_t Decoder::u8() {
  const ByteSpan b = raw(1);
  return b.empty() ? uint8_t{0} : b[0];
}
uint16_t Decoder::u16() {
  const auto hi = u8();
  return static_cast<uint16_t>(hi << 8 | u8());
}
uint32_t Decoder::u32() {
  const uint32_t hi = u16();
  return hi << 16 | u16();
}
uint64_t Decoder::u64() {
  const uint64_t hi = u32();
  return hi << 32 | u32();
}
ByteSpan Decoder::bytes(size_t max) {
  const uint32_t n = u32();
  if (n > max) {
    ok_ = false;
    return {};
  }
  return raw(n);
}

}  // namespace coffer
