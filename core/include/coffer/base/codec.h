// The byte grammar that every stored object shares: integers big-endian, strings and byte strings preceded
// by their length as u32.  docs/format.md is the specification.
#ifndef COFFER_BASE_CODEC_H
#define COFFER_BASE_CODEC_H

#include "coffer/base/bytes.h"

namespace coffer {

class Encoder {
 public:
  Encoder &u8(uint8_t v);
  Encoder &u16(uint16_t v);
  Encoder &u32(uint32_t v);
  Encoder &u64(uint64_t v);
  Encoder &raw(ByteSpan bytes);    // no length
  Encoder &bytes(ByteSpan bytes);  // u32 length, bytes
  Encoder &text(std::string_view text) { return bytes(as_bytes(text)); }
  const Bytes &out() const { return out_; }
  Bytes take() { return std::move(out_); }
  void reserve(size_t n) { out_.reserve(n); }

 private:
  Bytes out_;
};

// Reads what Encoder wrote.  A read past the end answers zeros or empty and makes done() false for good, so
// a decoder reads everything and asks once.  Views point into the input.
class Decoder {
 public:
  explicit Decoder(ByteSpan in) : rest_(in) {}
  uint8_t u8();
  uint16_t u16();
  uint32_t u32();
  uint64_t u64();
  ByteSpan raw(size_t n);
  ByteSpan bytes(size_t max = SIZE_MAX);  // a longer one fails
  std::string text(size_t max = SIZE_MAX) { return std::string(as_text(bytes(max))); }
  template <size_t N>
  std::array<uint8_t, N> array() {
    const ByteSpan b = raw(N);
    return b.size() == N ? to_array<N>(b) : std::array<uint8_t, N>{};
  }
  void reject() { ok_ = false; }  // the caller saw a value it must not accept
  bool ok() const { return ok_; }
  bool done() const { return ok_ && rest_.empty(); }
  size_t left() const { return rest_.size(); }

 private:
  ByteSpan rest_;
  bool ok_ = true;
};

}  // namespace coffer
#endif
