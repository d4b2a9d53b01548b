#include "coffer/base/json.h"

#include "coffer/base/bytes.h"

namespace coffer {

void JsonWriter::quote(std::string_view text) {
  out_ += '"';
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out_ += '\\';
      out_ += c;
    } else if (c == '\n') {
      out_ += "\\n";
    } else if (u < 0x20 || u == 0x7f) {
      out_ += "\\u00";
      out_ += hex({&u, 1});
    } else {
      out_ += c;
    }
  }
  out_ += '"';
}

}  // namespace coffer
