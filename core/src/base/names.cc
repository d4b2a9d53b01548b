#include "coffer/base/names.h"

#include <algorithm>

namespace coffer {
namespace {

constexpr size_t kMaxEnvEntry = 131'071;  // MAX_ARG_STRLEN of Linux without the final NUL
constexpr std::string_view kReservedPrefix = "COFFER_";
constexpr std::string_view kReservedTrees[] = {"/proc", "/sys", "/dev", "/.coffer"};

// Not <cctype>: what a name is does not depend on a locale.
bool digit(char c) { return c >= '0' && c <= '9'; }
bool lower(char c) { return c >= 'a' && c <= 'z'; }
bool upper(char c) { return c >= 'A' && c <= 'Z'; }

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t at) { return static_cast<uint8_t>(text[at]); };
    const uint8_t lead = byte(i);
    const size_t more = lead < 0x80                   ? 0
                        : lead >= 0xc2 && lead < 0xe0 ? 1
                        : lead >= 0xe0 && lead < 0xf0 ? 2
                        : lead >= 0xf0 && lead < 0xf5 ? 3
                                                      : SIZE_MAX;
    if (more == SIZE_MAX || text.size() - i <= more) return false;
    for (size_t k = 1; k <= more; ++k)
      if ((byte(i + k) & 0xc0) != 0x80) return false;
    if ((lead == 0xe0 && byte(i + 1) < 0xa0) || (lead == 0xed && byte(i + 1) > 0x9f) ||
        (lead == 0xf0 && byte(i + 1) < 0x90) || (lead == 0xf4 && byte(i + 1) > 0x8f))
      return false;
    i += more + 1;
  }
  return true;
}

bool inside(std::string_view path, std::string_view folder) {
  return path.starts_with(folder) && (path.size() == folder.size() || path[folder.size()] == '/');
}

std::unexpected<Error> wrong(std::string text) { return fail(ErrorCode::kInvalidArgument, std::move(text)); }

}  // namespace

bool valid_app_name(std::string_view name) {
  if (name.empty() || name.size() > 63 || name.front() == '-' || name.back() == '-') return false;
  return std::ranges::all_of(name, [](char c) { return lower(c) || digit(c) || c == '-'; });
}

Result<void> check_app_name(std::string_view name) {
  if (valid_app_name(name)) return {};
  return wrong("an App's name has 1 to 63 of a-z, 0-9 and -, and neither begins nor ends with -");
}

bool valid_secret_name(std::string_view name) { return check_secret_name(name).has_value(); }

Result<void> check_secret_name(std::string_view name) {
  if (name.empty() || name.size() > 255 || digit(name.front()) ||
      !std::ranges::all_of(name, [](char c) { return lower(c) || upper(c) || digit(c) || c == '_'; }))
    return wrong("a secret's name has 1 to 255 of A-Z, a-z, 0-9 and _, and does not begin with a digit");
  if (name.starts_with(kReservedPrefix)) return wrong("names that begin with COFFER_ are reserved");
  return {};
}

Result<void> check_guest_path(std::string_view path) {
  if (path.empty() || path[0] != '/') return wrong("a path in a Machine must be absolute");
  if (path.size() > 4095) return wrong("a path in a Machine has at most 4095 bytes");
  if (path == "/") return wrong("the path in a Machine must be that of a file, not /");
  for (const char c : path) {
    if (static_cast<uint8_t>(c) < 0x20 || c == 0x7f)
      return wrong("a path in a Machine must not have control characters");
    if (c == ':' || c == ',') return wrong("a path in a Machine must not have ':' or ','");
  }
  if (!is_utf8(path)) return wrong("a path in a Machine must be UTF-8");
  for (size_t at = 0; at < path.size();) {
    const size_t end = std::min(path.find('/', at + 1), path.size());
    const std::string_view part = path.substr(at + 1, end - at - 1);
    if (part.empty()) return wrong("a path in a Machine must not have // or end with /");
    if (part == "." || part == "..") return wrong("a path in a Machine must not have . or .. in it");
    if (part.size() > 255) return wrong("a component of a path in a Machine has at most 255 bytes");
    at = end;
  }
  for (const std::string_view tree : kReservedTrees)
    if (inside(path, tree)) return wrong("a path in a Machine must not be below " + std::string(tree));
  return {};
}

Result<void> check_guest_paths(std::span<const std::string> paths) {
  for (const std::string &path : paths) COFFER_CHECK(check_guest_path(path));
  // '/' as the smallest character puts a folder right before what is below it.
  std::vector<std::string_view> sorted(paths.begin(), paths.end());
  std::ranges::sort(sorted, [](std::string_view a, std::string_view b) {
    return std::ranges::lexicographical_compare(
        a, b, {}, [](char c) { return c == '/' ? 0 : static_cast<uint8_t>(c); },
        [](char c) { return c == '/' ? 0 : static_cast<uint8_t>(c); });
  });
  for (size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i - 1] == sorted[i]) return wrong("the path " + std::string(sorted[i]) + " is given twice");
    if (inside(sorted[i], sorted[i - 1]))
      return wrong("the path " + std::string(sorted[i - 1]) + " would be both a file and the folder of " +
                   std::string(sorted[i]));
  }
  return {};
}

Result<uint32_t> parse_mode(std::string_view text) {
  std::string_view digits = text;
  if (digits.starts_with("0o")) digits.remove_prefix(2);
  uint32_t mode = 0;
  bool fine = !digits.empty() && digits.size() <= 6;
  for (const char c : digits) {
    fine = fine && c >= '0' && c <= '7';
    mode = mode * 8 + static_cast<uint32_t>(c - '0') % 8;
  }
  if (!fine) return wrong("a mode is octal, as in 0400");
  if (mode > 0777) return wrong("a mode is at most 0777: no set-user-id, set-group-id or sticky bit");
  return mode;
}

bool fits_env(std::string_view name, ByteSpan value) {
  return name.size() + 1 + value.size() <= kMaxEnvEntry && std::ranges::find(value, 0) == value.end();
}

bool is_base64(ByteSpan value) {
  size_t digits = 0, padding = 0;
  for (const uint8_t byte : value) {
    const char c = static_cast<char>(byte);
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n') continue;
    if (c == '=') {
      if (digits % 4 < 2 || ++padding > 4 - digits % 4) return false;
    } else if (padding || !(lower(c) || upper(c) || digit(c) || c == '+' || c == '/')) {
      return false;
    } else {
      ++digits;
    }
  }
  return digits % 4 != 1 && (digits % 4 == 0 || digits % 4 + padding == 4);
}

}  // namespace coffer
