#include "server/http/json_body.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "coffer/base/text.h"
#include "server/http/wiped.h"

namespace coffer::http {

enum class Kind : uint8_t { kNull, kFalse, kTrue, kNumber, kString, kArray, kObject };

// Nodes lie in the order of the text, each before its children; strings and numbers lie in `text`.
struct JsonNode {
  Kind kind = Kind::kNull;
  uint32_t begin = 0, size = 0;            // of a string or a number
  uint32_t name_begin = 0, name_size = 0;  // of an object's member
  uint32_t next = 0;                       // the node behind this one and all that is in it
  uint32_t count = 0;                      // of an array or an object
};

struct JsonDocument {
  std::vector<JsonNode> nodes;
  WipedBytes text;  // never longer than what was read
  std::string_view at(uint32_t begin, uint32_t size) const { return view(text).substr(begin, size); }
  std::string_view name(const JsonNode &n) const { return at(n.name_begin, n.name_size); }
};

namespace {

constexpr int kDeepest = 32;
constexpr size_t kMostNodes = 1 << 18;  // 7 MB

class Reader {
 public:
  Reader(std::string_view text, JsonDocument &to) : text_(text), to_(to) { to_.text.reserve(text.size()); }

  Result<void> read() {
    if (text_.size() > UINT32_MAX / 2) return bad("the JSON is too long");
    COFFER_CHECK(value(0, 0, 0));
    blank();
    if (at_ != text_.size()) return bad("the JSON has something behind its end");
    return {};
  }

 private:
  std::unexpected<Error> bad(const char *what) const {
    return fail(ErrorCode::kInvalidArgument, std::string(what) + " (at byte " + std::to_string(at_) + ")");
  }
  std::unexpected<Error> malformed() const { return bad("the body is not well-formed JSON"); }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void blank() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").contains(text_[at_])) ++at_;
  }
  bool skip(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  Result<void> value(int depth, uint32_t name_begin, uint32_t name_size) {
    blank();
    if (to_.nodes.size() >= kMostNodes) return bad("the JSON has too many values");
    const size_t self = to_.nodes.size();
    to_.nodes.push_back({.name_begin = name_begin, .name_size = name_size});
    JsonNode made = to_.nodes[self];
    if (peek() == '{' || peek() == '[') {
      if (depth == kDeepest) return bad("the JSON is nested more than 32 deep");
      made.kind = peek() == '{' ? Kind::kObject : Kind::kArray;
      COFFER_TRY(made.count, members(depth, made.kind == Kind::kObject));
      if (made.kind == Kind::kObject) {
        to_.nodes[self] = made;
        COFFER_CHECK(names_differ(self));
      }
    } else if (peek() == '"') {
      made.kind = Kind::kString;
      COFFER_CHECK(string(made.begin, made.size));
    } else if (skip("true")) {
      made.kind = Kind::kTrue;
    } else if (skip("false")) {
      made.kind = Kind::kFalse;
    } else if (!skip("null")) {
      made.kind = Kind::kNumber;
      COFFER_CHECK(number(made.begin, made.size));
    }
    made.next = static_cast<uint32_t>(to_.nodes.size());
    to_.nodes[self] = made;
    return {};
  }

  Result<uint32_t> members(int depth, bool named) {
    ++at_;
    const char close = named ? '}' : ']';
    uint32_t count = 0;
    blank();
    if (peek() == close) return ++at_, count;
    for (;;) {
      uint32_t begin = 0, size = 0;
      if (named) {
        blank();
        if (peek() != '"') return malformed();
        COFFER_CHECK(string(begin, size));
        blank();
        if (!skip(":")) return malformed();
      }
      COFFER_CHECK(value(depth + 1, begin, size));
      ++count;
      blank();
      if (skip(",")) continue;
      if (peek() != close) return malformed();
      return ++at_, count;
    }
  }

  Result<void> names_differ(size_t object) {
    std::vector<std::string_view> names;
    names.reserve(to_.nodes[object].count);
    for (size_t i = object + 1; i < to_.nodes.size(); i = to_.nodes[i].next)
      names.push_back(to_.name(to_.nodes[i]));
    std::ranges::sort(names);
    if (std::ranges::adjacent_find(names) != names.end())
      return bad("the JSON has a name twice in one object");
    return {};
  }

  Result<void> string(uint32_t &begin, uint32_t &size) {
    ++at_;
    begin = static_cast<uint32_t>(to_.text.size());
    for (;;) {
      if (at_ >= text_.size()) return malformed();
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') break;
      if (c < 0x20) return malformed();
      if (c == '\\') {
        COFFER_CHECK(escape());
        continue;
      }
      const size_t n = utf8_length(text_.substr(at_));
      if (n == 0) return bad("the JSON is not UTF-8");
      append(to_.text, text_.substr(at_, n));
      at_ += n;
    }
    ++at_;
    size = static_cast<uint32_t>(to_.text.size()) - begin;
    return {};
  }

  Result<void> escape() {
    ++at_;
    static constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
    if (const size_t i = kFrom.find(peek()); at_ < text_.size() && i != kFrom.npos) {
      to_.text.push_back(kTo[i]);
      ++at_;
      return {};
    }
    COFFER_TRY(uint32_t point, unit());
    if (point >= 0xdc00 && point <= 0xdfff) return malformed();
    if (point >= 0xd800 && point <= 0xdbff) {
      if (!text_.substr(at_).starts_with("\\u")) return malformed();
      ++at_;
      COFFER_TRY(const uint32_t low, unit());
      if (low < 0xdc00 || low > 0xdfff) return malformed();
      point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
    }
    if (point == 0) return bad("the JSON has a NUL in a string");
    const auto put = [&](uint32_t byte) { to_.text.push_back(static_cast<char>(byte)); };
    if (point < 0x80) {
      put(point);
    } else if (point < 0x800) {
      put(0xc0 | point >> 6), put(0x80 | (point & 0x3f));
    } else if (point < 0x10000) {
      put(0xe0 | point >> 12), put(0x80 | (point >> 6 & 0x3f)), put(0x80 | (point & 0x3f));
    } else {
      put(0xf0 | point >> 18), put(0x80 | (point >> 12 & 0x3f)), put(0x80 | (point >> 6 & 0x3f)),
          put(0x80 | (point & 0x3f));
    }
    return {};
  }

  // The "uXXXX" of an escape.
  Result<uint32_t> unit() {
    uint32_t point = 0;
    const std::string_view digits = text_.substr(std::min(at_ + 1, text_.size()), 4);
    if (peek() != 'u' || digits.size() != 4) return malformed();
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + 4, point, 16);
    if (error != std::errc{} || end != digits.data() + 4 || digits[0] == '-') return malformed();
    at_ += 5;
    return point;
  }

  Result<void> number(uint32_t &begin, uint32_t &size) {
    const size_t from = at_;
    const auto digits = [&] {
      const size_t first = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      return at_ > first;
    };
    skip("-");
    if (peek() == '0')
      ++at_;
    else if (!digits())
      return malformed();
    if (skip(".") && !digits()) return malformed();
    if (skip("e") || skip("E")) {
      if (!skip("+")) skip("-");
      if (!digits()) return malformed();
    }
    begin = static_cast<uint32_t>(to_.text.size());
    append(to_.text, text_.substr(from, at_ - from));
    size = static_cast<uint32_t>(at_ - from);
    return {};
  }

  const std::string_view text_;
  JsonDocument &to_;
  size_t at_ = 0;
};

}  // namespace

JsonBody::JsonBody(std::unique_ptr<JsonDocument> d) : document_(std::move(d)) {}
JsonBody::JsonBody(JsonBody &&) noexcept = default;
JsonBody &JsonBody::operator=(JsonBody &&) noexcept = default;
JsonBody::~JsonBody() = default;

Result<JsonBody> JsonBody::parse(std::string_view text) {
  auto document = std::make_unique<JsonDocument>();
  COFFER_CHECK(Reader(text, *document).read());
  return JsonBody(std::move(document));
}

JsonValue JsonBody::root() const { return JsonValue(*document_, 0, ""); }

const JsonNode &JsonValue::node() const { return document_->nodes[node_]; }

std::unexpected<Error> JsonValue::expected(const char *what) const {
  return fail(ErrorCode::kInvalidArgument,
              (where_.empty() ? "the body" : "field " + where_) + ": expected " + what);
}

bool JsonValue::is_null() const { return node().kind == Kind::kNull; }

Result<std::string_view> JsonValue::text() const {
  if (node().kind != Kind::kString) return expected("a string");
  return document_->at(node().begin, node().size);
}

Result<SecretBytes> JsonValue::secret() const {
  COFFER_TRY(const std::string_view value, text());
  return SecretBytes::copy_of(as_bytes(value));
}

Result<int64_t> JsonValue::integer(int64_t least, int64_t most) const {
  const std::string_view digits = document_->at(node().begin, node().size);
  int64_t n = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), n);
  if (node().kind != Kind::kNumber || end != digits.data() + digits.size() ||
      (error != std::errc{} && error != std::errc::result_out_of_range))
    return expected("an integer");
  if (error != std::errc{} || n < least || n > most)
    return expected(("an integer from " + std::to_string(least) + " to " + std::to_string(most)).c_str());
  return n;
}

Result<bool> JsonValue::boolean() const {
  if (node().kind != Kind::kTrue && node().kind != Kind::kFalse) return expected("true or false");
  return node().kind == Kind::kTrue;
}

Result<void> JsonValue::is_object() const {
  if (node().kind != Kind::kObject) return expected("an object");
  return {};
}

Result<std::optional<JsonValue>> JsonValue::find(std::string_view name) const {
  COFFER_CHECK(is_object());
  uint32_t child = node_ + 1;
  for (uint32_t i = 0; i < node().count; ++i, child = document_->nodes[child].next)
    if (document_->name(document_->nodes[child]) == name)
      return JsonValue(*document_, child, (where_.empty() ? "" : where_ + ".") + std::string(name));
  return std::nullopt;
}

Result<JsonValue> JsonValue::at(std::string_view name) const {
  COFFER_TRY(auto found, find(name));
  if (!found || found->is_null())
    return fail(ErrorCode::kInvalidArgument,
                "field " + (where_.empty() ? "" : where_ + ".") + std::string(name) + " is missing");
  return *std::move(found);
}

Result<void> JsonValue::only(std::initializer_list<std::string_view> names) const {
  COFFER_TRY(const auto all, members());
  for (size_t i = 0; i < all.size(); ++i)
    if (std::ranges::find(names, all[i].first) == names.end())
      return fail(ErrorCode::kInvalidArgument, (where_.empty() ? "the body" : "field " + where_) +
                                                   ": member " + std::to_string(i + 1) +
                                                   " has a name that is not known here");
  return {};
}

Result<std::vector<JsonValue>> JsonValue::items() const {
  if (node().kind != Kind::kArray) return expected("an array");
  std::vector<JsonValue> all;
  uint32_t child = node_ + 1;
  for (uint32_t i = 0; i < node().count; ++i, child = document_->nodes[child].next)
    all.push_back(JsonValue(*document_, child, where_ + "[" + std::to_string(i) + "]"));
  return all;
}

Result<std::vector<std::pair<std::string_view, JsonValue>>> JsonValue::members() const {
  COFFER_CHECK(is_object());
  std::vector<std::pair<std::string_view, JsonValue>> all;
  uint32_t child = node_ + 1;
  for (uint32_t i = 0; i < node().count; ++i, child = document_->nodes[child].next)
    all.emplace_back(document_->name(document_->nodes[child]),
                     JsonValue(*document_, child, where_ + "[" + std::to_string(i) + "]"));
  return all;
}

}  // namespace coffer::http
