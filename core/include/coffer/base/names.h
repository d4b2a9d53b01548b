// What names, paths and values may be.  Every error says the rule and never repeats the text: what is not a
// name may be a value that was typed in the wrong place.
#ifndef COFFER_BASE_NAMES_H
#define COFFER_BASE_NAMES_H

#include <span>

#include "coffer/base/bytes.h"
#include "coffer/base/result.h"

namespace coffer {

bool valid_app_name(std::string_view);     // [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?
bool valid_secret_name(std::string_view);  // [A-Za-z_][A-Za-z0-9_]{0,254}, not COFFER_...
Result<void> check_app_name(std::string_view);
Result<void> check_secret_name(std::string_view);

// Where a file may appear in a Machine: absolute, at most 4,095 bytes of UTF-8 and 255 per component; without
// `.`, `..`, `//`, a slash at its end, control characters, ':' and ',' (engines use them as separators); not
// at or below /proc, /sys, /dev and /.coffer.
Result<void> check_guest_path(std::string_view);
// Each path on its own, and no two the same or one a folder of another.  The error names both: they are valid
// paths then.
Result<void> check_guest_paths(std::span<const std::string> paths);

// "0400", "644", "0o600": octal, at most 0777.
Result<uint32_t> parse_mode(std::string_view);

// What a value is good for; marked when it is sealed.
inline constexpr size_t kMaxValue = 1 << 20;
bool fits_env(std::string_view name, ByteSpan value);  // no NUL, NAME=VALUE at most 131,071 bytes
bool is_base64(ByteSpan value);  // RFC 4648, section 4, padded, with blanks, tabs and line ends anywhere

}  // namespace coffer
#endif
