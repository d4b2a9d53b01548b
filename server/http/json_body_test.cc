#include "server/http/json_body.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace coffer::http {
namespace {
using testing::HasSubstr;
using testing::Not;

std::string why(std::string_view text) {
  const auto body = JsonBody::parse(text);
  return body ? "accepted" : body.error().message;
}

template <class T>
std::string error_of(const Result<T> &r) {
  return r ? "none" : r.error().message;
}

TEST(JsonBody, GivesTypedAccess) {
  const auto body = JsonBody::parse(
      R"( {"name":"web \u00e9\ud83d\ude00\n","n":-12,"on":true,"none":null,"list":[1,"two",[]],"o":{"a":{"b":"c"}}} )");
  ASSERT_TRUE(body) << body.error().message;
  const JsonValue root = body->root();
  EXPECT_EQ(*root.at("name")->text(), "web \xc3\xa9\xf0\x9f\x98\x80\n");
  EXPECT_EQ(*root.at("n")->integer(), -12);
  EXPECT_EQ(*root.at("on")->boolean(), true);
  EXPECT_TRUE((*root.find("none"))->is_null());
  EXPECT_FALSE(*root.find("other"));
  const auto list = *root.at("list")->items();
  ASSERT_EQ(list.size(), 3u);
  EXPECT_EQ(*list[1].text(), "two");
  EXPECT_TRUE(list[2].items()->empty());
  EXPECT_EQ(*root.at("o")->at("a")->at("b")->text(), "c");
  const auto members = *root.members();
  ASSERT_EQ(members.size(), 6u);
  EXPECT_EQ(members[5].first, "o");
  EXPECT_EQ(as_text(root.at("name")->secret()->reveal()).size(), 11u);
}

TEST(JsonBody, ErrorsNameTheFieldAndNeverRepeatWhatWasSent) {
  const auto body = JsonBody::parse(
      R"({"o":{"a":"canary","canary2":7},"list":[{"x":1}],"big":9223372036854775808,"f":1.5})");
  ASSERT_TRUE(body);
  const JsonValue root = body->root();
  EXPECT_EQ(error_of(root.at("o")->at("a")->integer()), "field o.a: expected an integer");
  EXPECT_EQ(error_of(root.at("o")->at("b")), "field o.b is missing");
  EXPECT_EQ(error_of(root.text()), "the body: expected a string");
  EXPECT_EQ(error_of(root.at("list")->items()->at(0).at("x")->text()), "field list[0].x: expected a string");
  EXPECT_EQ(error_of(root.at("o")->only({"a"})), "field o: member 2 has a name that is not known here");
  EXPECT_EQ(error_of(root.at("o")->members()->at(1).second.text()), "field o[1]: expected a string");
  EXPECT_EQ(error_of(root.at("list")->members()), "field list: expected an object");
  EXPECT_EQ(error_of(root.at("o")->items()), "field o: expected an array");
  EXPECT_EQ(error_of(root.at("o")->boolean()), "field o: expected true or false");
  EXPECT_THAT(error_of(root.at("big")->integer()), HasSubstr("field big: expected an integer from "));
  EXPECT_EQ(error_of(root.at("f")->integer()), "field f: expected an integer");
  EXPECT_EQ(error_of(root.at("o")->at("canary2")->integer(0, 5)),
            "field o.canary2: expected an integer from 0 to 5");
}

TEST(JsonBody, RefusesWhatIsNotStrictJson) {
  for (const std::string_view text : {"",
                                      " ",
                                      "{",
                                      "[",
                                      "{}x",
                                      "{} {}",
                                      "[1,]",
                                      "[,1]",
                                      "{\"a\":1,}",
                                      "{a:1}",
                                      "{'a':1}",
                                      "{\"a\" 1}",
                                      "[1 2]",
                                      "01",
                                      "1.",
                                      ".5",
                                      "+1",
                                      "-",
                                      "1e",
                                      "1e+",
                                      "0x1",
                                      "NaN",
                                      "Infinity",
                                      "nul",
                                      "True",
                                      "\"a",
                                      "\"a\nb\"",
                                      "\"\\x\"",
                                      "\"\\u12\"",
                                      "\"\\u12g4\"",
                                      "\"\\u-123\"",
                                      "\"\\ud800\"",
                                      "\"\\ud800x\"",
                                      "\"\\ud800\\n\"",
                                      "\"\\ud800\\u0041\"",
                                      "\"\\udc00\"",
                                      "//x\n1",
                                      "[1]/*x*/",
                                      "\xef\xbb\xbf{}",
                                      "\"\\"})
    EXPECT_THAT(why(text), HasSubstr("(at byte ")) << text;
  EXPECT_THAT(why(std::string_view("{}\0", 3)), HasSubstr("behind its end"));
  EXPECT_THAT(why(std::string_view("\"a\0b\"", 5)), HasSubstr("not well-formed"));
  EXPECT_THAT(why(R"("a\u0000b")"), HasSubstr("NUL"));
  EXPECT_THAT(why("\"\xff\""), HasSubstr("not UTF-8"));
  EXPECT_THAT(why("\"\xed\xa0\x80\""), HasSubstr("not UTF-8"));
  EXPECT_THAT(why("\"\xc3"), HasSubstr("not UTF-8"));
}

TEST(JsonBody, RefusesANameTwiceHoweverItIsWritten) {
  EXPECT_THAT(why(R"({"a":1,"b":2,"a":3})"), HasSubstr("name twice"));
  EXPECT_THAT(why(R"({"x":[{"a":1,"\u0061":2}]})"), HasSubstr("name twice"));
  EXPECT_EQ(why(R"({"a":{"a":1},"b":{"a":1}})"), "accepted");
}

TEST(JsonBody, RefusesDepthAndNumberOfValuesWithoutRunningOutOfStack) {
  const auto nested = [](size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  EXPECT_EQ(why(nested(32)), "accepted");
  EXPECT_THAT(why(nested(33)), HasSubstr("32 deep"));
  EXPECT_THAT(why(nested(200'000)), HasSubstr("32 deep"));
  std::string objects;
  for (int i = 0; i < 200'000; ++i) objects += "{\"a\":";
  EXPECT_THAT(why(objects), HasSubstr("32 deep"));
  std::string many = "[0";
  for (int i = 0; i < 300'000; ++i) many += ",0";
  EXPECT_THAT(why(many + "]"), HasSubstr("too many values"));
}

TEST(JsonBody, ErrorsOfParsingHoldNothingOfTheText) {
  const std::string valid = R"({"canary":"canary","n":[1,2,{"canary":null}],"t":true})";
  ASSERT_EQ(why(valid), "accepted");
  for (size_t i = 0; i < valid.size(); ++i)
    for (const char c : {'"', '{', 'x', '\\', '\x80', '\x01'}) {
      std::string broken = valid;
      broken[i] = c;
      EXPECT_THAT(why(broken), Not(HasSubstr("canar")));
      EXPECT_THAT(why(broken.substr(0, i)), HasSubstr("(at byte "));
    }
}

}  // namespace
}  // namespace coffer::http
