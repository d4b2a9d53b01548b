#include "coffer/base/text.h"

#include <gtest/gtest.h>

#include <array>

namespace coffer {
namespace {

TEST(Printable, KeepsTextAndNothingThatCommandsATerminal) {
  EXPECT_EQ(printable("plain, grün, 漢字, 😀"), "plain, grün, 漢字, 😀");
  EXPECT_EQ(printable("a\nb\tc\x7f"
                      "d\x1b[2J"),
            "a b c d [2J");
  EXPECT_EQ(printable("a\xc2\x9b"
                      "b"),
            "a b")
      << "C1: CSI in one character";
  EXPECT_EQ(printable("a\xe2\x80\xae"
                      "b\xe2\x80\xa8"
                      "c\xe2\x81\xa6"
                      "d"),
            "a b c d")
      << "marks that turn the line";
  EXPECT_EQ(printable(std::string_view("a\0b", 3)), "a b");
  EXPECT_EQ(printable("end \n\n"), "end");
}

TEST(Utf8Length, IsZeroForWhatIsNotUtf8) {
  EXPECT_EQ(utf8_length("a"), 1u);
  EXPECT_EQ(utf8_length(std::string_view("\0", 1)), 1u);
  EXPECT_EQ(utf8_length("漢字"), 3u);
  EXPECT_EQ(utf8_length(""), 0u);
  EXPECT_EQ(utf8_length("\xc3"), 0u) << "cut";
  EXPECT_EQ(utf8_length("\xc0\x80"), 0u) << "overlong";
  EXPECT_EQ(utf8_length("\xed\xa0\x80"), 0u) << "surrogate";
}

TEST(Printable, ReplacesWhatIsNotUtf8) {
  EXPECT_EQ(printable("\xff\xfe"), "??");
  EXPECT_EQ(printable("\xc0\xaf"), "??") << "overlong";
  EXPECT_EQ(printable("\xed\xa0\x80"), "???") << "surrogate";
  EXPECT_EQ(printable("\xf4\x90\x80\x80"), "????") << "beyond U+10FFFF";
  EXPECT_EQ(printable("a\xe2\x82"), "a??") << "cut off";
}

TEST(Printable, NeverExceedsItsLimitNorCutsACharacter) {
  EXPECT_EQ(printable("abcdef", 6), "abcdef");
  EXPECT_EQ(printable("abcdefg", 6), "abc...");
  EXPECT_EQ(printable("ääää", 7), "ää...");
  EXPECT_EQ(printable("ääää", 8), "ääää");
  for (size_t max = 3; max < 40; ++max) EXPECT_LE(printable("漢字漢字漢字漢字漢字", max).size(), max);
}

TEST(Closest, FindsTheMistypedWordAndNoOther) {
  static constexpr std::array<std::string_view, 4> kWords = {"storage", "kms", "runtime", "injector"};
  EXPECT_EQ(closest("storge", kWords), "storage");
  EXPECT_EQ(closest("injectors", kWords), "injector");
  EXPECT_EQ(closest("run-time", kWords), "runtime");
  EXPECT_EQ(closest("kmss", kWords), "kms");
  EXPECT_EQ(closest("database", kWords), "");
  EXPECT_EQ(closest("", kWords), "");
  EXPECT_EQ(closest(std::string(10'000, 's'), kWords), "");
}

}  // namespace
}  // namespace coffer
