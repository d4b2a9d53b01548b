// libFuzzer target for user tokens.  A short form with fixed mutations is part of the tests (replay.cc).  For
// a long run, from the source folder, with tokens of tests/tokens as the corpus:
//   clang++ -std=c++23 -g -O1 -fsanitize=fuzzer,address,undefined -Icore/include -Isdk/include
//     tests/fuzz/macaroon_fuzz.cc core/src/tokens/{macaroon,rights}.cc
//     core/src/crypto/{primitives,botan_memory}.cc core/src/base/{names,bytes,secret_bytes}.cc -lbotan-2
#include <cstdlib>

#include "coffer/tokens/macaroon.h"
#include "coffer/tokens/rights.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  using coffer::Macaroon;
  const coffer::ByteSpan input(data, size);
  for (const auto &read : {Macaroon::parse(input), Macaroon::parse_text(coffer::as_text(input))}) {
    if (!read) {
      if (read.error().message.size() > 100) std::abort();  // an error holds nothing of the input
      continue;
    }
    if (size > coffer::kMaxToken || read->caveats().size() > coffer::kMaxCaveats) std::abort();
    // What is read is written as it was, but for an empty location.
    const coffer::Bytes written = read->binary();
    const auto again = Macaroon::parse(written);
    if (!again || again->binary() != written) std::abort();
    if (const auto rights = coffer::Rights::of(read->caveats()); rights && !coffer::Rights().covers(*rights))
      std::abort();
  }
  return 0;
}
