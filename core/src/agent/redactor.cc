#include "coffer/agent/redactor.h"

#include <algorithm>
#include <array>

namespace coffer {
namespace {

constexpr std::string_view kMark = "[redacted]";
// Longer values are searched in pieces, so that a byte of the log costs no more than this, whatever they are.
constexpr size_t kPiece = 256;

enum class Form { kRaw, kHex, kPercent, kFormEncoded, kJson, kBase64, kBase64Second, kBase64Third };
constexpr std::array kForms = {Form::kRaw,  Form::kHex,    Form::kPercent,      Form::kFormEncoded,
                               Form::kJson, Form::kBase64, Form::kBase64Second, Form::kBase64Third};

// Reads text as what encodes bytes in one of the forms.
class Decoder {
 public:
  static constexpr int kNone = -1;  // this is not such an encoding
  static constexpr int kEnd = -2;   // the text ends in it

  Decoder(Form form, ByteSpan text) : form_(form), text_(text) {}

  // The next byte, or one of the above.  `sure`: so much was found that line ends do not matter.
  int next(bool sure) {
    if (queued_) return utf8_[--queued_];
    if (at_ == text_.size()) return kEnd;
    switch (form_) {
      case Form::kRaw:
        return text_[at_++];
      case Form::kHex:
        return taken(2, number(at_, 2));
      case Form::kPercent:
      case Form::kFormEncoded:
        if (text_[at_] == '%') return taken(3, number(at_ + 1, 2));
        if (text_[at_] == '+' && form_ == Form::kFormEncoded) return taken(1, ' ');
        return text_[at_++];
      case Form::kJson:
        return json();
      default:
        return base64(sure);
    }
  }

  // Behind the last byte of a value: false when the text ends in its padding.
  bool take_padding() {
    for (int n = n_bits_ / 2; n > 0; --n, ++at_) {
      if (at_ == text_.size()) return false;
      if (text_[at_] != '=') break;
    }
    return true;
  }

  size_t at() const { return at_; }

 private:
  int taken(size_t n, int byte) {
    if (byte >= 0) at_ += n;
    return byte;
  }

  int number(size_t at, size_t digits) const {
    int n = 0;
    for (const size_t end = at + digits; at < end; ++at) {
      if (at >= text_.size()) return kEnd;
      const uint8_t c = text_[at], low = c | 0x20;
      if (c >= '0' && c <= '9')
        n = n * 16 + c - '0';
      else if (low >= 'a' && low <= 'f')
        n = n * 16 + low - 'a' + 10;
      else
        return kNone;
    }
    return n;
  }

  int json() {
    if (text_[at_] != '\\') return text_[at_++];
    if (at_ + 1 == text_.size()) return kEnd;
    constexpr std::string_view kEscapes = "\"\\/bfnrt", kBytes = "\"\\/\b\f\n\r\t";
    const auto c = static_cast<char>(text_[at_ + 1]);
    if (const size_t i = kEscapes.find(c); i != std::string_view::npos)
      return taken(2, static_cast<uint8_t>(kBytes[i]));
    return c == 'u' ? unicode() : kNone;
  }

  // \uXXXX, or two of them beyond 16 bits.
  int unicode() {
    int code = number(at_ + 2, 4);
    if (code < 0) return code;
    size_t used = 6;
    if (code >= 0xd800 && code < 0xdc00) {
      for (size_t i = 0; i < 2; ++i) {
        if (at_ + 6 + i >= text_.size()) return kEnd;
        if (text_[at_ + 6 + i] != "\\u"[i]) return kNone;
      }
      const int low = number(at_ + 8, 4);
      if (low < 0) return low;
      if (low < 0xdc00 || low >= 0xe000) return kNone;
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      used = 12;
    }
    at_ += used;
    if (code < 0x80) return code;
    do {  // the last byte goes first onto the queue
      utf8_[queued_++] = static_cast<uint8_t>(0x80 | (code & 0x3f));
      code >>= 6;
    } while (code >= (queued_ == 1 ? 0x20 : queued_ == 2 ? 0x10 : 0x08));
    return (queued_ == 1 ? 0xc0 : queued_ == 2 ? 0xe0 : 0xf0) | code;
  }

  int base64(bool sure) {
    while (n_bits_ < 8) {
      while (sure && at_ < text_.size() && (text_[at_] == '\n' || text_[at_] == '\r')) ++at_;
      if (at_ == text_.size()) return kEnd;
      const uint8_t c = text_[at_];
      const int digit = c >= 'A' && c <= 'Z'   ? c - 'A'
                        : c >= 'a' && c <= 'z' ? c - 'a' + 26
                        : c >= '0' && c <= '9' ? c - '0' + 52
                        : c == '+' || c == '-' ? 62
                        : c == '/' || c == '_' ? 63
                                               : kNone;
      if (digit < 0) return kNone;
      // The first digit of a value that does not begin with a group also has bits of what is before it.
      const int foreign = at_ > 0                        ? 0
                          : form_ == Form::kBase64Second ? 2
                          : form_ == Form::kBase64Third  ? 4
                                                         : 0;
      bits_ = (bits_ << 6 | static_cast<uint32_t>(digit)) & 0xffff;
      n_bits_ += 6 - foreign;
      ++at_;
    }
    n_bits_ -= 8;
    return static_cast<uint8_t>(bits_ >> n_bits_);
  }

  const Form form_;
  const ByteSpan text_;
  size_t at_ = 0;
  uint8_t utf8_[3] = {};
  int queued_ = 0;
  uint32_t bits_ = 0;
  int n_bits_ = 0;
};

}  // namespace

Redactor::Redactor(std::span<const ByteSpan> values) {
  for (const ByteSpan value : values) {
    if (value.empty()) continue;
    if (value.size() < kShortest) {
      withhold_ = true;
      continue;
    }
    values_.push_back(SecretBytes::copy_of(value));
    add_value(values_.back().reveal());
  }
  const auto less = [](ByteSpan a, ByteSpan b) { return std::ranges::lexicographical_compare(a, b); };
  std::ranges::sort(patterns_, less);
  const auto rest =
      std::ranges::unique(patterns_, [](ByteSpan a, ByteSpan b) { return std::ranges::equal(a, b); });
  patterns_.erase(rest.begin(), rest.end());
}

void Redactor::add_value(ByteSpan value) {
  add_pieces(value);
  if (std::ranges::find(value, '\n') == value.end()) return;
  const auto blank = [](uint8_t c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!value.empty()) {
    const auto n = static_cast<size_t>(std::ranges::find(value, '\n') - value.begin());
    ByteSpan line = value.first(n);
    value = value.subspan(std::min(n + 1, value.size()));
    while (!line.empty() && blank(line.front())) line = line.subspan(1);
    while (!line.empty() && blank(line.back())) line = line.first(line.size() - 1);
    if (line.size() >= kShortest) add_pieces(line);
  }
}

void Redactor::add_pieces(ByteSpan value) {
  const auto inner = [](uint8_t c) { return (c & 0xc0) == 0x80; };  // of a UTF-8 sequence
  while (!value.empty()) {
    size_t n = value.size() < 2 * kPiece ? value.size() : kPiece;
    for (int i = 0; i < 3 && n < value.size() && inner(value[n]); ++i) ++n;
    patterns_.push_back(value.first(n));
    value = value.subspan(n);
  }
}

// Follows the sorted patterns as one would a tree: [low, high) begin with the `depth` bytes that were read.
Redactor::Found Redactor::find(ByteSpan text, bool last) const {
  Found found;
  for (const Form form : kForms) {
    Decoder decoder(form, text);
    auto low = patterns_.begin(), high = patterns_.end();
    for (size_t depth = 0; low != high;) {
      const int byte = decoder.next(depth >= kShortest);
      if (byte == Decoder::kEnd && !last) found.open = true;
      if (byte < 0) break;
      low = std::partition_point(low, high, [&](ByteSpan p) { return p[depth] < byte; });
      high = std::partition_point(low, high, [&](ByteSpan p) { return p[depth] == byte; });
      ++depth;
      if (low == high || low->size() > depth) continue;
      ++low;
      Decoder behind = decoder;
      if (!behind.take_padding() && !last) found.open = true;
      found.length = std::max(found.length, behind.at());
    }
  }
  return found;
}

// Tells what can be told and says how much that was.
size_t Redactor::sweep(ByteSpan text, bool last, std::string &out) {
  size_t at = 0;
  for (; at < text.size(); ++at) {
    const Found found = find(text.subspan(at), last);
    if (found.open) break;
    covered_ = std::max(covered_, found.length);
    if (covered_ == 0)
      out += static_cast<char>(text[at]);
    else if (!hidden_)
      out += kMark;
    hidden_ = covered_ > 0;
    if (hidden_) --covered_;
  }
  return at;
}

void Redactor::add(ByteSpan chunk, std::string &out) {
  SecretBytes text(held_.size() + chunk.size());
  std::ranges::copy(held_.reveal(), text.fill().begin());
  std::ranges::copy(chunk, text.fill().begin() + static_cast<ptrdiff_t>(held_.size()));
  const size_t told = sweep(text.reveal(), false, out);
  held_ = SecretBytes::copy_of(text.reveal().subspan(told));
}

void Redactor::end(std::string &out) {
  sweep(held_.reveal(), true, out);
  held_.reset();
  covered_ = 0;
  hidden_ = false;
}

}  // namespace coffer
