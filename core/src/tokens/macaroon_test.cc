// Macaroons: the vectors of two other libraries, and everything that is not the one form of a token.
#include "coffer/tokens/macaroon.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>

namespace coffer {
namespace {

constexpr uint8_t kRoot[32] = {1, 2, 3};
constexpr std::string_view kId = "\x01identifier";

struct Vector {
  std::string what, token;
  Bytes root, identifier;
  std::vector<std::string> caveats;
  bool refused() const { return what.starts_with("refused: "); }
};

std::vector<std::string> split(const std::string &line, char at) {
  std::vector<std::string> out(1);
  for (const char c : line)
    if (c == at)
      out.emplace_back();
    else
      out.back() += c;
  return out;
}

std::vector<Vector> vectors(const std::string &file) {
  std::ifstream in(std::string(COFFER_TOKEN_VECTORS) + "/" + file);
  std::vector<Vector> out;
  for (std::string line; std::getline(in, line);) {
    const auto columns = split(line, '\t');
    Vector v{columns.at(0), columns.at(4), unhex(columns.at(1)).value(), unhex(columns.at(2)).value(), {}};
    if (!columns.at(3).empty())
      for (const std::string &c : split(columns.at(3), ','))
        v.caveats.emplace_back(as_text(unhex(c).value()));
    out.push_back(std::move(v));
  }
  return out;
}

class Vectors : public testing::TestWithParam<const char *> {};
INSTANTIATE_TEST_SUITE_P(, Vectors, testing::Values("npm.tsv", "pymacaroons.tsv"));

TEST_P(Vectors, AreReadVerifiedAndMadeAgain) {
  size_t seen = 0;
  for (const Vector &v : vectors(GetParam())) {
    if (v.refused()) continue;
    SCOPED_TRACE(v.what);
    ++seen;
    auto read = Macaroon::parse_text(v.token);
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(read->identifier(), v.identifier);
    EXPECT_EQ(read->caveats(), v.caveats);
    EXPECT_TRUE(read->signed_by(v.root));
    Bytes other = v.root;
    other[0] ^= 1;
    EXPECT_FALSE(read->signed_by(other));
    // Our own hands come to the same signature, and read back what they wrote.
    Macaroon made = Macaroon::make(v.root, v.identifier);
    for (const std::string &c : v.caveats) ASSERT_TRUE(made.narrow(c));
    EXPECT_EQ(made.text(), read->text());
    EXPECT_EQ(Macaroon::parse_text(made.text())->text(), made.text());
    EXPECT_EQ(Macaroon::parse(made.binary())->text(), made.text());
  }
  EXPECT_GE(seen, 6u);
}

TEST_P(Vectors, OfOtherFormsAreRefusedEachByItsName) {
  const std::map<std::string, std::string> reasons = {
      {"refused: 65 caveats", "more than 64 caveats"},
      {"refused: over 8,192 bytes", "more than 8,192 bytes"},
      {"refused: location", "has a location"},
      {"refused: third-party", "has a third-party caveat, which Coffer does not know: caveat 2"},
      {"refused: v1", "is a macaroon of format v1"},
      {"refused: JSON", "is a macaroon in JSON"},
  };
  size_t seen = 0;
  for (const Vector &v : vectors(GetParam())) {
    if (!v.refused()) continue;
    SCOPED_TRACE(v.what);
    ++seen;
    const auto read = Macaroon::parse_text(v.token);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(read.error().message, testing::HasSubstr(reasons.at(v.what)));
  }
  EXPECT_GE(seen, 3u);
}

// Without prefix, as libraries see it: the URL form and the standard one, padded or not.
TEST(MacaroonText, IsReadInEachFormOfBase64AndInNoOther) {
  // One whose text has all that differs between the forms.
  Macaroon m = Macaroon::make(kRoot, as_bytes(kId));
  for (uint8_t i = 0; i < 255; ++i) {
    m = Macaroon::make(kRoot, Bytes{1, i});
    const std::string text = base64(m.binary());
    if (text.find('+') != text.npos && text.find('/') != text.npos) break;
  }
  const std::string standard = base64(m.binary());
  const std::string bare = standard.substr(0, standard.find('='));
  const std::string url = m.text().substr(kTokenPrefix.size());
  for (const std::string &form : {standard, bare, url, m.text(), std::string(kTokenPrefix) + standard}) {
    const auto read = Macaroon::parse_text(form);
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(read->text(), m.text());
  }
  ASSERT_THAT(standard,
              testing::AllOf(testing::HasSubstr("+"), testing::HasSubstr("/"), testing::EndsWith("=")));
  std::string mixed = standard;
  mixed[mixed.find('+')] = '-';
  std::string spare_bits = bare;  // the last character's low bits say nothing
  spare_bits.back() = static_cast<char>(spare_bits.back() + 1);
  for (const std::string &wrong :
       {mixed, spare_bits, " " + url, url + "\n", url + "==", url + "====", url.substr(1), "coffer-" + url,
        "COFFER_" + url, std::string(kTokenPrefix) + std::string(kTokenPrefix) + url, std::string("coffer_"),
        std::string(), std::string("====")})
    EXPECT_FALSE(Macaroon::parse_text(wrong)) << "length " << wrong.size();
}

// Whoever changes one bit of a token has none: as text, and as what is behind the text.
TEST(MacaroonText, WithAnySingleBitFlippedIsNoTokenOfOurs) {
  Macaroon m = Macaroon::make(kRoot, as_bytes(kId));
  ASSERT_TRUE(m.narrow("app = web"));
  ASSERT_TRUE(m.narrow("allow = list,set"));
  ASSERT_TRUE(m.narrow("expires = 2027-01-01T00:00:00Z"));
  const auto ours = [](const Result<Macaroon> &r) { return r && r->signed_by(kRoot); };
  std::string text = m.text();
  ASSERT_TRUE(ours(Macaroon::parse_text(text)));
  for (char &c : text)
    for (int bit = 0; bit < 8; ++bit) {
      c = static_cast<char>(c ^ 1 << bit);
      EXPECT_FALSE(ours(Macaroon::parse_text(text))) << "at " << &c - text.data() << ", bit " << bit;
      c = static_cast<char>(c ^ 1 << bit);
    }
  // The form that pymacaroons writes has an empty location.
  Bytes plain = m.binary(), located = plain;
  located.insert(located.begin() + 1, {1, 0});
  for (Bytes &binary : std::vector<Bytes>{plain, located}) {
    ASSERT_TRUE(ours(Macaroon::parse(binary)));
    for (uint8_t &b : binary)
      for (int bit = 0; bit < 8; ++bit) {
        b = static_cast<uint8_t>(b ^ 1 << bit);
        EXPECT_FALSE(ours(Macaroon::parse(binary))) << "at " << &b - binary.data() << ", bit " << bit;
        b = static_cast<uint8_t>(b ^ 1 << bit);
      }
    for (size_t n = 0; n < binary.size(); ++n)
      EXPECT_FALSE(Macaroon::parse(ByteSpan(binary).first(n))) << "cut to " << n;
    Bytes longer = binary;
    longer.push_back(0);
    EXPECT_FALSE(Macaroon::parse(longer));
  }
}

TEST(MacaroonBinary, WithFieldsMissingDoubledUnknownOrOutOfOrderIsRefused) {
  const Bytes signature = [] {
    Bytes b = {6, 32};
    b.insert(b.end(), 32, 7);
    return b;
  }();
  const auto token = [&](Bytes b, bool with_signature = true) {
    if (with_signature) b.insert(b.end(), signature.begin(), signature.end());
    return Macaroon::parse(b);
  };
  EXPECT_TRUE(token({2, 2, 1, 'i', 0, 0}));
  EXPECT_TRUE(token({2, 1, 0, 2, 1, 'i', 0, 2, 1, 'c', 0, 0}));
  const std::vector<Bytes> wrong = {
      {},
      {1, 2, 1, 'i', 0, 0},  // another version
      {3, 2, 1, 'i', 0, 0},
      {2, 2, 0, 0, 0},                                // an empty identifier
      {2, 0, 0},                                      // none
      {2, 2, 1, 'i', 2, 1, 'i', 0, 0},                // two
      {2, 2, 1, 'i', 1, 0, 0, 0},                     // a location behind it
      {2, 1, 0, 1, 0, 2, 1, 'i', 0, 0},               // two locations
      {2, 1, 1, 'x', 2, 1, 'i', 0, 0},                // one that says something
      {2, 2, 1, 'i', 3, 1, 'x', 0, 0},                // an unknown field
      {2, 2, 1, 'i', 4, 1, 'x', 0, 0},                // a verification id without caveat
      {2, 2, 1, 'i', 0},                              // no end of the caveats
      {2, 2, 1, 'i', 0, 0, 0},                        // two
      {2, 2, 1, 'i', 0, 2, 0, 0, 0},                  // an empty caveat
      {2, 2, 1, 'i', 0, 2, 1, 'c', 0},                // the list does not end
      {2, 2, 1, 'i', 0, 2, 1, 'c', 2, 1, 'c', 0, 0},  // two in one
      {2, 2, 1, 'i', 0, 1, 0, 2, 1, 'c', 0, 0},       // a caveat with a location
      {2, 2, 1, 'i', 0, 2, 1, 'c', 4, 1, 'v', 0, 0},  // a third-party one
      {2, 2, 1, 'i', 0, 2, 1, 'c', 9, 1, 'v', 0, 0},  // an unknown field
      {2, 2, 0x81, 0, 'i', 0, 0},                     // a length in more bytes than it needs
      {2, 2, 0x81, 0x80, 0, 'i', 0, 0},
      {2, 0x82, 0, 1, 'i', 0, 0},     // a type, the same
      {2, 2, 0xff, 0x7f, 'i', 0, 0},  // a length beyond the end
      {2, 2, 0xff, 0xff, 0xff, 0xff, 0x7f, 'i', 0, 0},
  };
  for (const Bytes &head : wrong) EXPECT_FALSE(token(head)) << hex(head);
  EXPECT_FALSE(token({2, 2, 1, 'i', 0, 0}, false));  // no signature
  Bytes short_signature = {2, 2, 1, 'i', 0, 0, 6, 31};
  short_signature.insert(short_signature.end(), 31, 7);
  EXPECT_FALSE(Macaroon::parse(short_signature));
  Bytes long_signature = {2, 2, 1, 'i', 0, 0, 6, 33};
  long_signature.insert(long_signature.end(), 33, 7);
  EXPECT_FALSE(Macaroon::parse(long_signature));
}

TEST(MacaroonNarrow, GoesTo64CaveatsAnd8KiBAndChangesNothingBeyond) {
  Macaroon many = Macaroon::make(kRoot, as_bytes(kId));
  for (int i = 0; i < 64; ++i) ASSERT_TRUE(many.narrow("app = web"));
  std::string before = many.text();
  EXPECT_TRUE(Macaroon::parse_text(before)->signed_by(kRoot));
  EXPECT_FALSE(many.narrow("app = web"));
  EXPECT_EQ(many.text(), before);

  Macaroon large = Macaroon::make(kRoot, as_bytes(kId));
  EXPECT_FALSE(large.narrow(""));
  size_t fits = 0;
  for (size_t n = 6000; n < 6200; ++n) {
    Macaroon tried = large;
    if (!tried.narrow(std::string(n, 'x'))) break;
    EXPECT_LE(tried.text().size(), kMaxToken);
    EXPECT_TRUE(Macaroon::parse_text(tried.text()));
    fits = n;
  }
  EXPECT_GT(fits, 6050u);
  EXPECT_FALSE(large.narrow(std::string(fits + 1, 'x')));
  EXPECT_TRUE(large.caveats().empty());
  EXPECT_TRUE(large.signed_by(kRoot));
  EXPECT_FALSE(Macaroon::parse_text(std::string(kMaxToken + 1, 'A')));
}

TEST(MacaroonNarrow, IsNotUndoneByTakingACaveatAwayOrChangingTheOrder) {
  const std::vector<std::string> caveats = {"app = web", "allow = list", "expires = 2027-01-01T00:00:00Z"};
  Macaroon whole = Macaroon::make(kRoot, as_bytes(kId));
  for (const std::string &c : caveats) ASSERT_TRUE(whole.narrow(c));
  const Bytes signed_whole = whole.binary(), signature(signed_whole.end() - 32, signed_whole.end());
  // The same signature over other caveats.
  const auto with = [&](const std::vector<size_t> &which) {
    Macaroon m = Macaroon::make(kRoot, as_bytes(kId));
    for (const size_t i : which) EXPECT_TRUE(m.narrow(caveats[i]));
    Bytes b = m.binary();
    std::ranges::copy(signature, b.end() - 32);
    return Macaroon::parse(b)->signed_by(kRoot);
  };
  EXPECT_TRUE(with({0, 1, 2}));
  for (const auto &wrong : std::vector<std::vector<size_t>>{
           {}, {0}, {0, 1}, {1, 2}, {0, 2}, {0, 2, 1}, {1, 0, 2}, {2, 1, 0}, {0, 1, 2, 2}, {0, 0, 1, 2}})
    EXPECT_FALSE(with(wrong)) << wrong.size();
}

TEST(Argument, ThatIsATokenIsSeenAsOneAndAPathOrNameIsNot) {
  Macaroon m = Macaroon::make(kRoot, as_bytes(kId));
  ASSERT_TRUE(m.narrow("app = web"));
  const std::string text = m.text(), bare = text.substr(kTokenPrefix.size());
  for (const std::string &token : {text, bare, base64(m.binary()), "--name=" + text, "--name=" + bare,
                                   "X=" + text, text.substr(0, text.size() - 3), "Bearer " + text})
    EXPECT_TRUE(looks_like_token(token)) << "length " << token.size();
  for (const std::string &other : {std::string("ci"), std::string(32, 'a'), std::string("coffer_"),
                                   "/tmp/coffer_" + std::string(80, 'a'), std::string("coffer_Agile"),
                                   std::string(100, 'A'), "--name=" + std::string(100, 'A'), std::string()})
    EXPECT_FALSE(looks_like_token(other)) << other;
}

}  // namespace
}  // namespace coffer
