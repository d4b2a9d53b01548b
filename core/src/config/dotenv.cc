#include "coffer/config/dotenv.h"

#include <map>

namespace coffer {
namespace {

// Views into the caller's (secret) input; nothing here owns text.
using Text = std::string_view;

bool blank(char c) { return c == ' ' || c == '\t'; }
Text skip_blanks(Text t) {
  while (!t.empty() && blank(t.front())) t.remove_prefix(1);
  return t;
}
Text drop_blanks(Text t) {
  while (!t.empty() && blank(t.back())) t.remove_suffix(1);
  return t;
}
// May this stand after a closing quote?
bool only_comment(Text t) {
  t = skip_blanks(t);
  return t.empty() || t.front() == '#';
}

std::unexpected<Error> wrong(size_t line, const std::string &what) {
  return fail(ErrorCode::kInvalidArgument, "line " + std::to_string(line) + ": " + what);
}

class Parser {
 public:
  Parser(Text input, DotenvOptions options) : rest_(input), options_(options) {}

  Result<std::vector<DotenvEntry>> parse() {
    std::vector<DotenvEntry> entries;
    std::map<std::string, size_t, std::less<>> first_line;
    while (!rest_.empty()) {
      Text line = skip_blanks(next_line());
      const size_t at = line_;
      if (line.empty() || line.front() == '#') continue;
      const size_t equals = line.find('=');
      if (equals == line.npos) return wrong(at, "expected NAME=VALUE");
      const Text name = name_of(line.substr(0, equals));
      if (!valid_secret_name(name)) return wrong(at, check_secret_name(name).error().message);
      if (const auto [it, fresh] = first_line.emplace(name, at); !fresh)
        return wrong(at, "the same name as in line " + std::to_string(it->second));
      COFFER_TRY(SecretBytes value,
                 this->value(skip_blanks(line.substr(equals + 1)), equals_blank(line, equals)));
      entries.push_back({std::string(name), std::move(value), at});
    }
    return entries;
  }

 private:
  // The next line without its end.
  Text next_line() {
    const size_t end = rest_.find('\n');
    Text line = rest_.substr(0, end);
    rest_.remove_prefix(end == rest_.npos ? rest_.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    ++line_;
    return line;
  }

  static Text name_of(Text left) {
    left = drop_blanks(left);
    constexpr Text kExport = "export";
    if (left.size() > kExport.size() && left.starts_with(kExport) && blank(left[kExport.size()]))
      left = skip_blanks(left.substr(kExport.size()));
    return left;
  }
  // Is what follows the '=' set off by a blank, so that a '#' there begins a comment?
  static bool equals_blank(Text line, size_t equals) {
    return equals + 1 < line.size() && blank(line[equals + 1]);
  }

  Result<SecretBytes> value(Text t, bool after_blank) {
    for (const Text quote : {Text("\"\"\""), Text("\""), Text("'")})
      if (t.starts_with(quote)) return quoted(t.substr(quote.size()), quote);
    size_t end = t.size();
    for (size_t i = 0; i < t.size() && end == t.size(); ++i)
      if (t[i] == '#' && (i ? blank(t[i - 1]) : after_blank)) end = i;
    return copy(drop_blanks(t.substr(0, end)), line_);
  }

  // `t` is what follows the opening quote in its line.
  Result<SecretBytes> quoted(Text t, Text quote) {
    const size_t opened = line_;
    const bool escapes = options_.escapes && quote == "\"";
    const char *const begin = t.data();
    while (true) {
      bool seen = false;
      for (size_t i = 0; i < t.size(); ++i) {
        if (escapes && t[i] == '\\') {
          ++i;
          continue;
        }
        if (!t.substr(i).starts_with(quote)) continue;
        seen = true;
        if (!only_comment(t.substr(i + quote.size()))) continue;
        const Text whole(begin, static_cast<size_t>(t.data() + i - begin));
        return escapes ? unescape(whole, opened) : copy(whole, opened);
      }
      if (seen) return wrong(line_, "there is text after the closing quote");
      if (quote == "\"" || rest_.empty()) return wrong(opened, "the quote is not closed");
      t = next_line();
    }
  }

  Result<SecretBytes> check_size(size_t size, size_t line) const {
    if (size > options_.max_value)
      return wrong(line, "the value has more than " + std::to_string(options_.max_value) + " bytes");
    return SecretBytes(size);
  }

  // CRLF between the lines of a value becomes LF.
  Result<SecretBytes> copy(Text t, size_t line) const {
    size_t crlf = 0;
    for (size_t i = 0; i + 1 < t.size(); ++i) crlf += t[i] == '\r' && t[i + 1] == '\n';
    COFFER_TRY(SecretBytes out, check_size(t.size() - crlf, line));
    uint8_t *to = out.fill().data();
    for (size_t i = 0; i < t.size(); ++i)
      if (t[i] != '\r' || i + 1 == t.size() || t[i + 1] != '\n') *to++ = static_cast<uint8_t>(t[i]);
    return out;
  }

  // A backslash before anything but n t " \ stays one.
  Result<SecretBytes> unescape(Text t, size_t line) const {
    const auto decoded = [&](size_t i) -> char {
      if (t[i] != '\\' || i + 1 == t.size()) return 0;
      switch (t[i + 1]) {
        case 'n':
          return '\n';
        case 't':
          return '\t';
        case '"':
        case '\\':
          return t[i + 1];
        default:
          return 0;
      }
    };
    size_t size = 0;
    for (size_t i = 0; i < t.size(); ++i, ++size) i += decoded(i) != 0;
    COFFER_TRY(SecretBytes out, check_size(size, line));
    uint8_t *to = out.fill().data();
    for (size_t i = 0; i < t.size(); ++i) {
      const char c = decoded(i);
      *to++ = static_cast<uint8_t>(c ? c : t[i]);
      i += c != 0;
    }
    return out;
  }

  Text rest_;
  DotenvOptions options_;
  size_t line_ = 0;
};

}  // namespace

Result<std::vector<DotenvEntry>> parse_dotenv(ByteSpan input, DotenvOptions options) {
  Text text = as_text(input);
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // what some editors put before UTF-8
  return Parser(text, options).parse();
}

}  // namespace coffer
