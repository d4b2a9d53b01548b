// Reads JSON (RFC 8259) of others, strictly, in memory that is wiped: a body may hold values.
//
// Refused: more than 32 levels, a name twice in one object, \u0000, surrogates without their partner, bytes
// that are not UTF-8, anything behind the value, fractions where an integer is expected.  Errors are
// kInvalidArgument and name fields that the program asked for, by position what the sender named, and never
// repeat what was sent.
//
// Rationale: no library here keeps its strings in memory that is wiped.
#ifndef COFFER_HTTP_JSON_BODY_H
#define COFFER_HTTP_JSON_BODY_H

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "coffer/base/result.h"
#include "coffer/base/secret_bytes.h"

namespace coffer::http {

struct JsonNode;
struct JsonDocument;

// A view; valid as long as its JsonBody.
class JsonValue {
 public:
  bool is_null() const;
  // "field config.image: expected a string", and so on.
  Result<std::string_view> text() const;
  Result<SecretBytes> secret() const;  // a string, as a value
  Result<int64_t> integer(int64_t least = INT64_MIN, int64_t most = INT64_MAX) const;
  Result<bool> boolean() const;

  // Of an object.
  Result<JsonValue> at(
      std::string_view name) const;  // "field config.image is missing"; null counts as missing
  Result<std::optional<JsonValue>> find(std::string_view name) const;
  Result<void> only(std::initializer_list<std::string_view> names) const;  // no others are there

  // In the order of the text.
  Result<std::vector<JsonValue>> items() const;                                 // of an array
  Result<std::vector<std::pair<std::string_view, JsonValue>>> members() const;  // of an object
  const std::string &where() const { return where_; }                           // "config.env[2]"

 private:
  friend class JsonBody;
  JsonValue(const JsonDocument &document, uint32_t node, std::string where)
      : document_(&document), node_(node), where_(std::move(where)) {}
  const JsonNode &node() const;
  std::unexpected<Error> expected(const char *what) const;
  Result<void> is_object() const;

  const JsonDocument *document_;
  uint32_t node_;
  std::string where_;
};

class JsonBody {
 public:
  static Result<JsonBody> parse(std::string_view text);
  JsonBody(JsonBody &&) noexcept;
  JsonBody &operator=(JsonBody &&) noexcept;
  ~JsonBody();
  JsonValue root() const;

 private:
  explicit JsonBody(std::unique_ptr<JsonDocument>);
  std::unique_ptr<JsonDocument> document_;
};

}  // namespace coffer::http
#endif
