// The input of `coffer secrets import`: lines NAME=VALUE.
//
//   input    = { line (LF | CRLF) }
//   line     = blanks | blanks "#" anything | blanks ["export" blanks] NAME blanks "=" blanks value
//   value    = unquoted | quoted blanks ["#" anything]
//   unquoted = everything up to a blank followed by "#" or the end of the line, without trailing blanks
//   quoted   = '"' text '"' | "'" text "'" | '"""' text '"""'
//
// A blank is a space or a tab. Text in ' or """ may go on over several lines; there CRLF counts as LF. The
// closing quote is the first one, on the first line that has one, that only blanks or a comment follow, so
// "a"b" is a"b. There are no escapes and no $VARIABLES, except that with `escapes` \n \t \" \\ inside " mean
// what they mean in C. Everything else is taken byte for byte, also bytes that are not UTF-8.
//
// Values are never copied into ordinary memory. Errors name lines, and nothing of their text.
#ifndef COFFER_CONFIG_DOTENV_H
#define COFFER_CONFIG_DOTENV_H

#include <vector>

#include "coffer/base/names.h"
#include "coffer/base/result.h"
#include "coffer/base/secret_bytes.h"

namespace coffer {

struct DotenvEntry {
  std::string name;
  SecretBytes value;
  size_t line = 0;  // where it begins, from 1
};

struct DotenvOptions {
  bool escapes = false;
  size_t max_value = kMaxValue;
};

// All entries in their order, none twice; or kInvalidArgument, and then nothing.
Result<std::vector<DotenvEntry>> parse_dotenv(ByteSpan input, DotenvOptions = {});

}  // namespace coffer
#endif
