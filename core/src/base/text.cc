#include "coffer/base/text.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace coffer {

size_t utf8_length(std::string_view s) {
  const auto byte = [&](size_t i) { return i < s.size() ? static_cast<uint8_t>(s[i]) : uint8_t{0}; };
  const auto tail = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const uint8_t b = byte(0);
  if (b < 0x80) return s.empty() ? 0 : 1;
  if (b >= 0xc2 && b <= 0xdf) return tail(1) ? 2 : 0;
  if (b >= 0xe0 && b <= 0xef) {
    if (!tail(1) || !tail(2)) return 0;
    if (b == 0xe0 && byte(1) < 0xa0) return 0;
    return b == 0xed && byte(1) > 0x9f ? 0 : 3;
  }
  if (b >= 0xf0 && b <= 0xf4) {
    if (!tail(1) || !tail(2) || !tail(3)) return 0;
    if (b == 0xf0 && byte(1) < 0x90) return 0;
    return b == 0xf4 && byte(1) > 0x8f ? 0 : 4;
  }
  return 0;
}

namespace {

// C0, DEL, C1, and the marks that reorder or break a line (U+2028..202E, U+2066..2069).
bool is_control(std::string_view sequence) {
  if (sequence.size() == 1) return static_cast<uint8_t>(sequence[0]) < 0x20 || sequence[0] == 0x7f;
  const auto b = [&](size_t i) { return static_cast<uint8_t>(sequence[i]); };
  if (sequence.size() == 2) return b(0) == 0xc2 && b(1) < 0xa0;
  if (sequence.size() != 3 || b(0) != 0xe2) return false;
  return (b(1) == 0x80 && b(2) >= 0xa8 && b(2) <= 0xae) || (b(1) == 0x81 && b(2) >= 0xa6 && b(2) <= 0xa9);
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0u : 1u)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

std::string printable(std::string_view text, size_t max) {
  std::string out;
  while (!text.empty()) {
    const size_t n = utf8_length(text);
    const std::string_view piece = text.substr(0, std::max<size_t>(n, 1));
    const std::string_view shown = n == 0 ? "?" : is_control(piece) ? " " : piece;
    if (out.size() + shown.size() > max) {
      while (!out.empty() && out.size() + 3 > max) {
        while ((static_cast<uint8_t>(out.back()) & 0xc0) == 0x80) out.pop_back();
        out.pop_back();
      }
      return out + "...";
    }
    out += shown;
    text.remove_prefix(piece.size());
  }
  while (out.ends_with(' ')) out.pop_back();
  return out;
}

std::string_view closest(std::string_view word, std::span<const std::string_view> candidates) {
  std::string_view best;
  // Half of the letters may be wrong, at most three; long words are not worth the time.
  size_t limit = std::min<size_t>(3, std::max<size_t>(word.size() / 2, 1)) + 1;
  if (word.size() > 64) return best;
  for (const std::string_view c : candidates)
    if (const size_t d = edit_distance(word, c); d < limit) best = c, limit = d;
  return best;
}

}  // namespace coffer
