// libFuzzer target for the reader of request heads and for JSON bodies; not part of the default build (its
// short form is RequestHead.StaysInBoundsAndSilentWhateverComes).  From the source folder:
//   clang++ -std=c++23 -g -O1 -fsanitize=fuzzer,address,undefined -I. -Icore/include -Isdk/include
//     tests/fuzz/http_request_fuzz.cc server/http/{message,json_body}.cc
//     core/src/base/{text,bytes,secret_bytes}.cc -lPocoNet -lPocoFoundation
#include <cstdlib>

#include "server/http/json_body.h"
#include "server/http/message.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  namespace http = coffer::http;
  const std::string_view bytes(reinterpret_cast<const char *>(data), size);
  size_t scanned = 0;
  if (const auto head = http::read_head(bytes, {}, scanned); head && *head) {
    if ((*head)->size > size) std::abort();
    for (const std::string &s : (*head)->request.path)
      if (s.empty() || s == "." || s == ".." || s.find('/') != s.npos) std::abort();
    for (const auto &[name, value] : (*head)->request.headers)
      if (!http::header_ok(name, value)) std::abort();
    // Read in two pieces it is the same.
    scanned = 0;
    if (const auto half = http::read_head(bytes.substr(0, (*head)->size / 2), {}, scanned); !half || *half)
      std::abort();
    if (const auto whole = http::read_head(bytes, {}, scanned);
        !whole || !*whole || (*whole)->size != (*head)->size)
      std::abort();
  }
  (void)http::JsonBody::parse(bytes);
  return 0;
}
