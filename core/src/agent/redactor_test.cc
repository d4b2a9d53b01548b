#include "coffer/agent/redactor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace coffer {
namespace {

using testing::HasSubstr;

Redactor redactor(const std::vector<std::string> &values) {
  std::vector<ByteSpan> spans;
  for (const std::string &v : values) spans.push_back(as_bytes(v));
  return Redactor(spans);
}

// In chunks that end at `cuts`.
std::string redact(Redactor &r, std::string_view text, const std::vector<size_t> &cuts = {}) {
  std::string out;
  size_t from = 0;
  for (const size_t cut : cuts) {
    r.add(as_bytes(text.substr(from, cut - from)), out);
    from = cut;
  }
  r.add(as_bytes(text.substr(from)), out);
  r.end(out);
  return out;
}
std::string redact(const std::vector<std::string> &values, std::string_view text) {
  Redactor r = redactor(values);
  return redact(r, text);
}

std::string percent(std::string_view text, const char *digits, bool plus) {
  std::string out;
  for (const char c : text) {
    const auto b = static_cast<uint8_t>(c);
    if (std::isalnum(b) || std::string_view("-._~").find(c) != std::string_view::npos)
      out += c;
    else if (plus && c == ' ')
      out += '+';
    else
      out += {'%', digits[b >> 4], digits[b & 15]};
  }
  return out;
}

std::string upper(std::string text) {
  std::ranges::transform(text, text.begin(), [](char c) { return static_cast<char>(std::toupper(c)); });
  return text;
}

std::string url_safe(std::string text) {
  std::ranges::replace(text, '+', '-');
  std::ranges::replace(text, '/', '_');
  return text;
}

constexpr const char *kLower = "0123456789abcdef", *kUpper = "0123456789ABCDEF";
const std::string kValue = "p\xc3\xa4ss w\"ord\\/\n\x01<\xf0\x9f\x94\x91?~>";

TEST(Redactor, EachFormOfAValueIsHidden) {
  const std::vector<std::string> forms = {
      kValue,
      base64(as_bytes(kValue)),
      url_safe(base64(as_bytes(kValue))),
      hex(as_bytes(kValue)),
      upper(hex(as_bytes(kValue))),
      percent(kValue, kLower, false),
      percent(kValue, kUpper, false),
      percent(kValue, kLower, true),
      percent(kValue, kUpper, true),
      "p\xc3\xa4ss w\\\"ord\\\\/\\n\\u0001<\xf0\x9f\x94\x91?~>",
      "p\\u00e4ss w\\\"ord\\\\\\/\\n\\u0001<\\ud83d\\udd11?~>",
      "p\\u00E4ss w\\\"ord\\\\/\\u000A\\u0001\\u003C\\uD83D\\uDD11?~\\u003E",
  };
  std::string unlike = kValue;
  std::ranges::replace(unlike, 'w', 'v');
  std::ranges::replace(unlike, '?', '!');
  for (const std::string &form : forms) {
    EXPECT_EQ(redact({kValue}, form), "[redacted]") << form;
    EXPECT_EQ(redact({kValue}, "it is: \"" + form + "\", that"), "it is: \"[redacted]\", that") << form;
    EXPECT_EQ(redact({unlike}, form), form);  // it was the value
  }
}

TEST(Redactor, Base64OfALongerTextIsHiddenAtEachPlace) {
  const std::string value = "hunter2-hunter3";
  for (size_t before = 0; before < 7; ++before)
    for (size_t behind = 0; behind < 4; ++behind) {
      const std::string whole = base64(as_bytes(std::string(before, '<') + value + std::string(behind, '>')));
      // Hidden are the digits that have bits of it, and padding behind its last one.
      const size_t from = before * 8 / 6, to = ((before + value.size()) * 8 + 5) / 6;
      EXPECT_EQ(redact({value}, whole),
                whole.substr(0, from) + "[redacted]" + (behind ? whole.substr(to) : ""));
      EXPECT_EQ(redact({value + "4"}, whole), whole);
    }
  std::string wrapped = base64(as_bytes(value + value + value + value + value));
  wrapped.insert(76, "\n");
  EXPECT_EQ(redact({value + value + value + value + value}, "- " + wrapped + "\n"), "- [redacted]\n");
}

TEST(Redactor, ChunksChangeNothing) {
  const std::string value = "s3cr3t v\xc3\xa4lue";
  for (const std::string &form :
       {value, base64(as_bytes(value)), base64(as_bytes("x" + value)), base64(as_bytes("xy" + value + "z")),
        hex(as_bytes(value)), percent(value, kUpper, true), std::string("s3cr3t v\\u00e4lue")}) {
    const std::string text = "a s3cr: " + form + form + "\nb %7 \\u00 s3cr3";
    Redactor r = redactor({value, value + "s"});
    const std::string whole = redact(r, text);
    EXPECT_THAT(whole, HasSubstr("[redacted]"));
    for (size_t i = 0; i <= text.size(); ++i)
      for (size_t k = i; k <= text.size(); ++k) ASSERT_EQ(redact(r, text, {i, k}), whole) << i << " " << k;
    std::string out;
    for (const char c : text) r.add(as_bytes({&c, 1}), out);
    r.end(out);
    EXPECT_EQ(out, whole);
  }
}

TEST(Redactor, OtherTextIsTheSame) {
  const std::string other =
      "GET /a%20b?x=1+2 HTTP/1.1 \"q\\\"\\u00e4\\ud83d\\n\" aGVsbG8gd29ybGQ= 00ff%zz%\\x\\u12\r\n"
      "secre secre t hunte r2 \xff\xfe";
  EXPECT_EQ(redact({"secret", "hunter2"}, other), other);
  EXPECT_EQ(redact(std::vector<std::string>(), other), other);
  EXPECT_EQ(redact({"secret", "hunter2"}, other + "hunter2"), other + "[redacted]");
}

TEST(Redactor, ALineIsToldAtOnce) {
  Redactor r = redactor({"secret", "hunter2\nhunter3"});
  for (const char *line : {"started\n", "{\"a\":\"b\"}\n", "c2Vj\n", "50%\n", "the secr\n"}) {
    std::string out;
    r.add(as_bytes(line), out);
    EXPECT_EQ(out, line);
  }
  std::string out;
  r.add(as_bytes("the secr"), out);
  EXPECT_EQ(out, "the ");
  r.add(as_bytes("et."), out);
  EXPECT_EQ(out, "the [redacted].");
}

TEST(Redactor, TheLongestValueIsHiddenAndOverlapsLeaveNothing) {
  EXPECT_EQ(redact({"secret", "secret-long"}, "secret-long secret-lon secret"),
            "[redacted] [redacted]-lon [redacted]");
  EXPECT_EQ(redact({"abcdefgh", "efghijkl"}, ".abcdefghijkl."), ".[redacted].");
  EXPECT_EQ(redact({"abcdefghijkl", "cdefgh"}, ".abcdefghijkl."), ".[redacted].");
  EXPECT_EQ(redact({"aaaaaa"}, "." + std::string(100, 'a') + "." + std::string(5, 'a') + "."),
            ".[redacted].aaaaa.");
  EXPECT_EQ(redact({"secret"}, "secretsecret"), "[redacted]");
}

TEST(Redactor, LinesOfAValueAreHiddenByThemselves) {
  const std::string key =
      "-----BEGIN KEY-----\r\n  MIIBVgIBADANBgk\t\nqhk=\nMCowBQYDK2VwAyEA\n-----END KEY-----\n";
  EXPECT_EQ(redact({key}, key), "[redacted]");
  EXPECT_EQ(redact({key}, "1: MIIBVgIBADANBgk\n2: qhk=\n3:   MCowBQYDK2VwAyEA\n"),
            "1: [redacted]\n2: qhk=\n3:   [redacted]\n");
  EXPECT_EQ(redact({key}, base64(as_bytes("MCowBQYDK2VwAyEA"))), "[redacted]");
  EXPECT_EQ(redact({"a1b2c3\n"}, "it is a1b2c3."), "it is [redacted].");
  EXPECT_EQ(redact({"{\n      \n      }\n}"}, "      \n"), "      \n");  // blanks are no value
}

TEST(Redactor, ShortValuesWithholdTheLog) {
  EXPECT_FALSE(redactor({}).withhold());
  EXPECT_FALSE(redactor({"", "secret"}).withhold());
  for (const char *value : {"1", "12345"}) EXPECT_TRUE(redactor({"secret", value}).withhold()) << value;
  EXPECT_EQ(redact({"", "12345", "secret"}, "12345 secret"), "12345 [redacted]");
}

TEST(Redactor, LargeValuesAreHiddenWholeAndCostNoMore) {
  std::mt19937 random(1);
  std::string value(1 << 16, '\0');
  for (char &c : value) c = static_cast<char>(random());
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += "\xc3\xa4\xf0\x9f\x94\x91";  // cut within no character
  for (const std::string &v : {value, text}) {
    EXPECT_EQ(redact({v}, "<" + v + ">"), "<[redacted]>");
    EXPECT_EQ(redact({v}, "<" + base64(as_bytes(v)) + ">"), "<[redacted]>");
    EXPECT_EQ(redact({v}, "<" + hex(as_bytes(v)) + ">"), "<[redacted]>");
    EXPECT_EQ(redact({v}, "<" + percent(v, kUpper, false) + ">"), "<[redacted]>");
  }
  std::string escaped = "<";
  for (int i = 0; i < 20'000; ++i) escaped += "\\u00e4\\ud83d\\udd11";
  EXPECT_EQ(redact({text}, escaped + ">"), "<[redacted]>");
  // The worst there is: each byte could begin it.
  EXPECT_EQ(redact({std::string(1 << 20, 'a')}, "<" + std::string(20'000, 'a') + ">"), "<[redacted]>");
}

// Against the simplest way: every value is looked for at every place.
TEST(Redactor, RandomTextsOfFewLetters) {
  std::mt19937 random(2);
  const auto word = [&](size_t least, size_t most) {
    std::string out(least + random() % (most - least + 1), 'a');
    for (char &c : out) c = "ab."[random() % 20 / 9];
    return out;
  };
  size_t hidden_texts = 0;
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::string> values;
    for (size_t n = 1 + random() % 3; n > 0; --n) values.push_back(word(6, 9));
    const std::string text = word(0, 60);
    std::vector<bool> hidden(text.size() + 1);
    for (const std::string &v : values)
      for (size_t at = text.find(v); at != std::string::npos; at = text.find(v, at + 1))
        std::fill_n(hidden.begin() + static_cast<ptrdiff_t>(at), v.size(), true);
    std::string expected;
    for (size_t i = 0; i < text.size(); ++i) {
      if (!hidden[i]) expected += text[i];
      if (hidden[i] && !hidden[i + 1]) expected += "[redacted]";
    }
    hidden_texts += expected != text;
    std::vector<size_t> cuts;
    for (int i = 0; i < 3; ++i) cuts.push_back(random() % (text.size() + 1));
    std::ranges::sort(cuts);
    Redactor r = redactor(values);
    ASSERT_EQ(redact(r, text, cuts), expected) << text << " " << testing::PrintToString(values);
  }
  EXPECT_GT(hidden_texts, 100u);
}

// Any bytes as values, in any form, between bytes that belong to none.
TEST(Redactor, RandomValuesInRandomForms) {
  std::mt19937 random(3);
  for (int round = 0; round < 1000; ++round) {
    std::vector<std::string> values;
    for (int n = 0; n < 4; ++n) {
      values.emplace_back(6 + random() % 40, '\0');
      for (char &c : values.back()) c = static_cast<char>(random());
    }
    std::string text, expected;
    for (int n = 0; n < 5; ++n) {
      const std::string &v = values[random() % values.size()];
      const std::string forms[] = {v,
                                   base64(as_bytes(v)),
                                   url_safe(base64(as_bytes(v))),
                                   hex(as_bytes(v)),
                                   percent(v, kLower, random() % 2),
                                   percent(v, kUpper, random() % 2)};
      const std::string between(1 + random() % 4, ".,; "[random() % 4]);
      text += between + forms[random() % 6];
      expected += between + "[redacted]";
    }
    std::vector<size_t> cuts;
    for (int i = 0; i < 5; ++i) cuts.push_back(random() % (text.size() + 1));
    std::ranges::sort(cuts);
    Redactor r = redactor(values);
    ASSERT_EQ(redact(r, text + "\n", cuts), expected + "\n") << round;
  }
}

}  // namespace
}  // namespace coffer
