// Public bytes: ciphertext, hashes, signatures, encodings.  For values and keys: secret_bytes.h.
#ifndef COFFER_BASE_BYTES_H
#define COFFER_BASE_BYTES_H

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace coffer {

using Bytes = std::vector<uint8_t>;
using ByteSpan = std::span<const uint8_t>;
using Hash = std::array<uint8_t, 32>;  // SHA-256

inline ByteSpan as_bytes(std::string_view s) {
  return {reinterpret_cast<const uint8_t *>(s.data()), s.size()};
}
inline std::string_view as_text(ByteSpan b) { return {reinterpret_cast<const char *>(b.data()), b.size()}; }

std::string hex(ByteSpan bytes);                       // lower case
std::optional<Bytes> unhex(std::string_view text);     // lower case only; nullopt otherwise
std::string base64(ByteSpan bytes);                    // RFC 4648, section 4, padded
std::optional<Bytes> unbase64(std::string_view text);  // of exactly that form; nullopt otherwise

// Fixed-size view -> array.  REQUIRES: bytes.size() == N.
template <size_t N>
std::array<uint8_t, N> to_array(ByteSpan bytes) {
  std::array<uint8_t, N> out{};
  for (size_t i = 0; i < N; ++i) out[i] = bytes[i];
  return out;
}

}  // namespace coffer
#endif
