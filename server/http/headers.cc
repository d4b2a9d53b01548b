// Of message.h what needs no parser.
#include "server/http/characters.h"
#include "server/http/message.h"

namespace coffer::http {

std::optional<std::string_view> Headers::find(std::string_view name) const {
  for (const auto &[n, value] : all_)
    if (same(n, name)) return value;
  return std::nullopt;
}

size_t Headers::count(std::string_view name) const {
  return static_cast<size_t>(std::ranges::count_if(all_, [&](const auto &h) { return same(h.first, name); }));
}

std::string Peer::text() const {
  return is_unix ? "uid " + std::to_string(uid) + " pid " + std::to_string(pid) : address;
}

std::string escaped(std::string_view text) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (is_alnum(c) || c == '-' || c == '.' || c == '_' || c == '~')
      out += c;
    else
      out += {'%', kHex[u >> 4], kHex[u & 15]};
  }
  return out;
}

}  // namespace coffer::http
