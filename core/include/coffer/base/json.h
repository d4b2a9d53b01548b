// Writes JSON (RFC 8259).  Reading JSON is left to a library; this only saves the start-up time of one.
#ifndef COFFER_BASE_JSON_H
#define COFFER_BASE_JSON_H

#include <concepts>
#include <string>
#include <string_view>

namespace coffer {

class JsonWriter {
 public:
  JsonWriter &begin_object() { return open('{'); }
  JsonWriter &end_object() { return close('}'); }
  JsonWriter &begin_array() { return open('['); }
  JsonWriter &end_array() { return close(']'); }
  JsonWriter &key(std::string_view name) {
    separate();
    quote(name);
    out_ += ':';
    fresh_ = true;
    return *this;
  }
  JsonWriter &value(std::string_view text) {
    separate();
    quote(text);
    return *this;
  }
  JsonWriter &value(const char *text) { return value(std::string_view(text)); }
  JsonWriter &value(bool b) { return raw(b ? "true" : "false"); }
  template <std::integral T>
    requires(!std::same_as<T, bool>)
  JsonWriter &value(T n) {
    return raw(std::to_string(n));
  }
  JsonWriter &null() { return raw("null"); }
  template <class T>
  JsonWriter &field(std::string_view name, const T &v) {
    return key(name).value(v);
  }
  const std::string &str() const { return out_; }

 private:
  JsonWriter &raw(std::string_view text) {
    separate();
    out_ += text;
    return *this;
  }
  JsonWriter &open(char c) {
    separate();
    out_ += c;
    fresh_ = true;
    return *this;
  }
  JsonWriter &close(char c) {
    out_ += c;
    fresh_ = false;
    return *this;
  }
  void separate() {
    if (!fresh_) out_ += ',';
    fresh_ = false;
  }
  void quote(std::string_view text);

  std::string out_;
  bool fresh_ = true;
};

}  // namespace coffer
#endif
