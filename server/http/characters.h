// What characters of a message are: ASCII, whatever the locale.
#ifndef COFFER_HTTP_CHARACTERS_H
#define COFFER_HTTP_CHARACTERS_H

#include <algorithm>
#include <string_view>

namespace coffer::http {

inline char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

inline bool same(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) { return lower(x) == lower(y); });
}

inline bool is_alnum(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

}  // namespace coffer::http
#endif
