#include "coffer/config/dotenv.h"

#include <gmock/gmock.h>

namespace coffer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::Pair;

// Test values are not secret.
std::string text_of(const SecretBytes &value) { return std::string(as_text(value.reveal())); }

using Pairs = std::vector<std::pair<std::string, std::string>>;

Pairs parse(std::string_view input, DotenvOptions options = {}) {
  const auto entries = parse_dotenv(as_bytes(input), options);
  EXPECT_TRUE(entries.has_value()) << input.substr(0, 80) << ": " << (entries ? "" : entries.error().message);
  Pairs out;
  if (entries)
    for (const DotenvEntry &e : *entries) out.emplace_back(e.name, text_of(e.value));
  return out;
}

std::string error(std::string_view input, DotenvOptions options = {}) {
  const auto entries = parse_dotenv(as_bytes(input), options);
  EXPECT_FALSE(entries.has_value()) << input.substr(0, 80) << " was accepted";
  if (entries) return "";
  EXPECT_EQ(entries.error().code, ErrorCode::kInvalidArgument);
  return entries.error().message;
}

// What flyctl's own parser tests expect.
TEST(Dotenv, LinesCommentsAndBlankLinesAreReadAsFlyctlDoes) {
  const Pairs expected = {{"FOO", "BAR"}, {"QUX", "NAH"}};
  EXPECT_EQ(parse("\n# A comment plus a new line with spaces\n  \nFOO=BAR\n# Another comment\nQUX=NAH\n"),
            expected);
  EXPECT_EQ(parse("FOO=BAR\nQUX=NAH"), expected);
  EXPECT_EQ(parse("FOO=BAR\r\nQUX=NAH\r\n"), expected);
}

TEST(Dotenv, ValuesInTripleQuotesGoOverSeveralLines) {
  EXPECT_EQ(parse("FOO=BAR\nMULTI=\"\"\"SOMETHING\nANOTHER LINE\n\nENDSHERE\"\"\"\nTRAILER=what\n"
                  "FIN=\"\"\"Here is the end,\nmy only friend\"\"\"\n"),
            (Pairs{{"FOO", "BAR"},
                   {"MULTI", "SOMETHING\nANOTHER LINE\n\nENDSHERE"},
                   {"TRAILER", "what"},
                   {"FIN", "Here is the end,\nmy only friend"}}));
  EXPECT_EQ(parse("K=\"\"\"a\n  b\"\"\""), (Pairs{{"K", "a\n  b"}}));
  EXPECT_EQ(parse("K=\"\"\"\na\n\"\"\""), (Pairs{{"K", "\na\n"}}));
  EXPECT_EQ(parse("K=\"\"\"a\r\nb\r\n\"\"\"\r\nL=1\r\n"), (Pairs{{"K", "a\nb\n"}, {"L", "1"}}));
  EXPECT_EQ(parse("K='a\n# no comment\nX=1'\nL=1"), (Pairs{{"K", "a\n# no comment\nX=1"}, {"L", "1"}}));
  EXPECT_EQ(parse("K=\"\"\"say \"hi\"\"\"\"\n"), (Pairs{{"K", "say \"hi\""}}));
}

TEST(Dotenv, SimpleValuesAreReadAsFlyctlDoes) {
  const std::vector<std::pair<std::string, std::string>> same = {
      {"FOO = BAR", "BAR"},
      {"FOO=BAR,BAZ", "BAR,BAZ"},
      {"FOO=BAR BAZ", "BAR BAZ"},
      {"FOO=\"BAR BAZ\"", "BAR BAZ"},
      {"FOO=\"BAR BAZ\" # comment", "BAR BAZ"},
      {"FOO='BAR BAZ'", "BAR BAZ"},
      {"FOO=", ""},
      {"FOO=\"\"", ""},
      {"FOO=''", ""},
      {"FOO=\"\"\"\"\"\"", ""},
      {"FOO=a=b=c", "a=b=c"},
      {"FOO=\"line1\\nline2\"", "line1\\nline2"},
      {"FOO=-", "-"},
      {"FOO=$BAR", "$BAR"},
      {"FOO=`ls`", "`ls`"},
      {"FOO=\"it's\"", "it's"},
      {"FOO=\"{\"a\":1}\"", "{\"a\":1}"},
      {"FOO=\"x\"#c", "x"},
      {"FOO=a\"b", "a\"b"},
      {"FOO=a\tb", "a\tb"},
  };
  for (const auto &[line, value] : same) EXPECT_EQ(parse(line), (Pairs{{"FOO", value}})) << line;
}

TEST(Dotenv, WhatFlyctlLosesOrChangesIsKept) {
  const std::vector<std::pair<std::string, std::string>> better = {
      {"FOO=a#b", "a#b"},
      {"FOO=pa#ss", "pa#ss"},
      {"FOO=https://x/#frag", "https://x/#frag"},
      {"FOO=https://x/y#frag # comment", "https://x/y#frag"},
      {"FOO='a#b'", "a#b"},
      {"FOO='a #b' # c", "a #b"},
      {"FOO=\"a#b\" # c", "a#b"},
      {"FOO=\"x\" ", "x"},
      {"FOO='x'\t", "x"},
      {"FOO=bar  ", "bar"},
      {"FOO=bar\t \r\n", "bar"},
      {"FOO=\"\"\"a\n\"\"\" ", "a\n"},
      {"FOO=\"\"\"a\"\"\" # c", "a"},
      {"FOO=#x", "#x"},
      {"FOO= # comment", ""},
      {"FOO=\t#comment", ""},
      {"FOO=a # b # c", "a"},
      {"  FOO=x", "x"},
      {"\tFOO\t=\tx", "x"},
      {"export FOO=x", "x"},
      {"  export\t FOO = x", "x"},
      {"\xef\xbb\xbf"
       "FOO=x",
       "x"},
  };
  for (const auto &[line, value] : better) EXPECT_EQ(parse(line), (Pairs{{"FOO", value}})) << line;
  EXPECT_EQ(parse("  # c=1\nA=1\n\t#B=2"), (Pairs{{"A", "1"}}));
}

TEST(Dotenv, TheWordExportIsANameWhenNoNameFollows) {
  EXPECT_EQ(parse("export = 1"), (Pairs{{"export", "1"}}));
  EXPECT_EQ(parse("exportA=2"), (Pairs{{"exportA", "2"}}));
  EXPECT_EQ(parse("export export=3"), (Pairs{{"export", "3"}}));
}

TEST(Dotenv, AllBytesArriveAsTheyAre) {
  std::string value;
  for (int i = 1; i < 256; ++i)
    if (i != '\n' && i != '\'' && i != '\r') value.push_back(static_cast<char>(i));
  value.push_back('\0');
  value += "\r.";
  EXPECT_EQ(parse("A='" + value + "'"), (Pairs{{"A", value}}));
  EXPECT_EQ(parse("A=\xff\xfe#\xc3"), (Pairs{{"A", "\xff\xfe#\xc3"}}));
}

TEST(Dotenv, LinesOfAnyLengthUpToTheValueLimit) {
  const std::string big(1 << 20, 'x');
  EXPECT_EQ(parse("A=" + big + "\nB=2"), (Pairs{{"A", big}, {"B", "2"}}));
  EXPECT_EQ(parse("A=\"\"\"" + big + "\"\"\"\nB=2"), (Pairs{{"A", big}, {"B", "2"}}));
  EXPECT_THAT(error("A=1\n\nB=" + big + "x\nC=3"), HasSubstr("line 3:"));
  EXPECT_THAT(error("A=1\n\nB='" + big + "x'\nC=3"), HasSubstr("line 3:"));
  EXPECT_EQ(parse("A=\"" + std::string(8, '\\') + "\"", {.escapes = true, .max_value = 4}),
            (Pairs{{"A", std::string(4, '\\')}}));
  EXPECT_THAT(error("A=12345", {.max_value = 4}), HasSubstr("line 1: the value has more than 4 bytes"));
}

TEST(Dotenv, WrongInputIsRefusedByLineAndNotQuoted) {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"A=1\nZebrafish\nB=2", "line 2: expected NAME=VALUE"},
      {"# c\r\n\r\nZebrafish\r\n", "line 3: expected NAME=VALUE"},
      {"A=\"", "line 1: the quote is not closed"},
      {"A='", "line 1: the quote is not closed"},
      {"A=\"\"\"", "line 1: the quote is not closed"},
      {"A=\"\"\"\"", "line 1: the quote is not closed"},
      {"A=\"Zebrafish\nB=\"", "line 1: the quote is not closed"},
      {"X=1\nA='Zebrafish\nB=2\n", "line 2: the quote is not closed"},
      {"X=1\nA=\"\"\"Zebrafish\nB=\"2\"\n", "line 2: the quote is not closed"},
      {"A=\"Zebra\"fish", "line 1: there is text after the closing quote"},
      {"A='Zebra'fish # c", "line 1: there is text after the closing quote"},
      {"A=\"\"\"\nZebra\"\"\" fish\nB=1", "line 2: there is text after the closing quote"},
      {"=Zebrafish", "line 1: a secret's name has"},
      {"Zebra fish=1", "line 1: a secret's name has"},
      {"1Zebrafish=1", "line 1: a secret's name has"},
      {"Zebra-fish=1", "line 1: a secret's name has"},
      {"A\nB=1", "line 1: expected NAME=VALUE"},
      {std::string("A\0=1", 4), "line 1: a secret's name has"},
      {"\xc3\x89=1", "line 1: a secret's name has"},
      {std::string(256, 'A') + "=1", "line 1: a secret's name has"},
      {"COFFER_HOME=1", "line 1: names that begin with COFFER_ are reserved"},
      {"export export Zebrafish=1", "line 1: a secret's name has"},
      {"A=1\nB=2\nA=Zebrafish", "line 3: the same name as in line 1"},
      {"A='1\n2'\nexport A=1", "line 3: the same name as in line 1"},
  };
  for (const auto &[input, message] : wrong) {
    EXPECT_THAT(error(input), HasSubstr(message)) << input;
    EXPECT_THAT(error(input), Not(HasSubstr("Zebra"))) << input;
  }
}

TEST(Dotenv, EscapesWorkOnlyWhenAskedForAndOnlyInDoubleQuotes) {
  const std::string input =
      "A=\"a\\nb\\tc\\\"d\\\\e\\x\"\nB='a\\nb'\nC=a\\nb\nD=\"\"\"a\\nb\"\"\"\nE=\"\\\\\" # c\n";
  EXPECT_EQ(parse(input, {.escapes = true}),
            (Pairs{{"A", "a\nb\tc\"d\\e\\x"}, {"B", "a\\nb"}, {"C", "a\\nb"}, {"D", "a\\nb"}, {"E", "\\"}}));
  EXPECT_EQ(parse("A=\"a\\nb\\\\\""), (Pairs{{"A", "a\\nb\\\\"}}));
  EXPECT_THAT(error("A=\"a\\\"", {.escapes = true}), HasSubstr("line 1: the quote is not closed"));
  EXPECT_EQ(parse("A=\"a\\\""), (Pairs{{"A", "a\\"}}));
}

TEST(Dotenv, EntriesKeepTheirOrderAndLine) {
  const auto entries = parse_dotenv(as_bytes("\n# c\nB='1\n2'\nA=3\n"));
  ASSERT_TRUE(entries.has_value());
  std::vector<std::pair<std::string, size_t>> lines;
  for (const DotenvEntry &e : *entries) lines.emplace_back(e.name, e.line);
  EXPECT_THAT(lines, ElementsAre(Pair("B", 3u), Pair("A", 5u)));
}

TEST(Dotenv, NoEntriesAreNoFault) {
  EXPECT_TRUE(parse("").empty());
  EXPECT_TRUE(parse("\n\r\n  \n# c").empty());
  EXPECT_TRUE(parse("\xef\xbb\xbf").empty());
}

}  // namespace
}  // namespace coffer
