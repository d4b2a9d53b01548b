// Text of others, as it may reach a terminal or a log, and help for a mistyped word.
#ifndef COFFER_BASE_TEXT_H
#define COFFER_BASE_TEXT_H

#include <span>
#include <string>
#include <string_view>

namespace coffer {

// At most `max` bytes of valid UTF-8 on one line: control characters become blanks, what is not UTF-8 a '?'.
// A text that was cut ends with "...".
std::string printable(std::string_view text, size_t max = 1024);

// The length of the UTF-8 sequence that `text` begins with, 0 when there is none (RFC 3629, section 4: no
// overlong form, no surrogate).
size_t utf8_length(std::string_view text);

// The candidate that `word` was probably meant to be; empty when none is close.
std::string_view closest(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace coffer
#endif
