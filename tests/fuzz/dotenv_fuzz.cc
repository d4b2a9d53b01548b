// libFuzzer target for the import grammar; not part of the default build.  From the source folder:
//   clang++ -std=c++23 -g -O1 -fsanitize=fuzzer,address,undefined -Icore/include -Isdk/include
//     tests/fuzz/dotenv_fuzz.cc core/src/config/dotenv.cc core/src/base/{names,bytes,secret_bytes}.cc
#include <cstdlib>

#include "coffer/config/dotenv.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const bool escapes = size > 0 && data[0] & 1;
  const coffer::ByteSpan input(data + (size > 0), size - (size > 0));
  const auto entries = coffer::parse_dotenv(input, {.escapes = escapes, .max_value = 256});
  if (!entries) return 0;
  size_t values = 0, line = 0;
  for (const coffer::DotenvEntry &e : *entries) {
    if (!coffer::valid_secret_name(e.name) || e.value.size() > 256 || e.line <= line) std::abort();
    line = e.line;
    values += e.name.size() + 1 + e.value.size();
  }
  if (values > input.size()) std::abort();  // a value is never longer than what it was read from
  return 0;
}
