#include "server/http/message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace coffer::http {
namespace {
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::Pair;

std::expected<std::optional<Head>, Refusal> read(std::string_view bytes) {
  size_t scanned = 0;
  return read_head(bytes, {}, scanned);
}

// 0: a complete head; 100: more is needed; else the refusal's status.
int status_of(std::string_view bytes) {
  const auto head = read(bytes);
  return !head ? head.error().status : *head ? 0 : 100;
}

std::string get(std::string_view target, std::string_view headers = "") {
  return "GET " + std::string(target) + " HTTP/1.1\r\nHost: x\r\n" + std::string(headers) + "\r\n";
}

TEST(RequestHead, IsReadIntoItsParts) {
  const std::string bytes =
      "POST /v1/apps/a%20b/x?wait=1&q=a%2Bb+c&flag HTTP/1.1\r\nhost: h\r\nX-One:  two \r\nContent-Length: "
      "5\r\n"
      "Expect: 100-continue\r\nAccept: a\r\nAccept: b\r\n\r\nhello";
  const auto head = read(bytes);
  ASSERT_TRUE(head && *head);
  const Request &r = (*head)->request;
  EXPECT_EQ(r.method, "POST");
  EXPECT_THAT(r.path, ElementsAre("v1", "apps", "a b", "x"));
  EXPECT_THAT(r.query, ElementsAre(Pair("flag", ""), Pair("q", "a+b c"), Pair("wait", "1")));
  EXPECT_EQ(r.headers.find("x-oNE"), "two");
  EXPECT_FALSE(r.headers.find("X-Two"));
  EXPECT_EQ((*head)->content_length, 5u);
  EXPECT_EQ((*head)->size, bytes.size() - 5);
  EXPECT_TRUE((*head)->expects_continue);
  EXPECT_TRUE((*head)->keep_alive);
  EXPECT_FALSE(r.upgrade);
  EXPECT_TRUE(read(get("/"))->value().request.path.empty());
}

TEST(RequestHead, SaysWhetherTheConnectionIsKeptOrChanges) {
  EXPECT_FALSE(read(get("/", "Connection: close\r\n"))->value().keep_alive);
  EXPECT_FALSE(read("GET / HTTP/1.0\r\n\r\n")->value().keep_alive);
  EXPECT_TRUE(read("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")->value().keep_alive);
  EXPECT_TRUE(read(get("/", "Connection: keep-alive, Upgrade\r\nUpgrade: coffer-session\r\n"))
                  ->value()
                  .request.upgrade);
  EXPECT_FALSE(read(get("/", "Upgrade: coffer-session\r\n"))->value().request.upgrade);
  EXPECT_FALSE(read(get("/", "Connection: Upgrade\r\nUpgrade: websocket\r\n"))->value().request.upgrade);
}

TEST(RequestHead, IsReadTheSameHoweverItIsCut) {
  const std::string bytes = "\r\n" + get("/a/b?c=d", "X: y\r\nContent-Length: 3\r\n") + "abc";
  size_t scanned = 0;
  for (size_t n = 0; n + 3 < bytes.size(); ++n) {
    const auto head = read_head(std::string_view(bytes).substr(0, n), {}, scanned);
    ASSERT_TRUE(head) << n;
    ASSERT_FALSE(*head) << n;
  }
  const auto head = read_head(bytes, {}, scanned);
  ASSERT_TRUE(head && *head);
  EXPECT_EQ((*head)->size, bytes.size() - 3);
}

TEST(RequestHead, RefusesTargetsThatTwoReadersCouldUnderstandDifferently) {
  for (const std::string_view target :
       {"/a%2fb",       "/a%2Fb", "/.",      "/..",      "/a/../b",  "/a/./b",   "/%2e%2e/x",  "/%2E",
        "//",           "//a",    "/a//b",   "/a/",      "/%",       "/%4",      "/%zz",       "/%00",
        "/a%0d%0ab",    "/a%7f",  "/\x80",   "/a#b",     "a",        "*",        "http://h/a", "/a?b=1&b=2",
        "/a?b=1&%62=2", "/a?=1",  "/a?b=1&", "/a?b=%00", "/a?b=%zz", "/a?b=%0a", "/a\tb"})
    EXPECT_EQ(status_of(get(target)), 400) << target;
  EXPECT_EQ(status_of(get("/a%2")), 400);
  EXPECT_EQ(status_of(get("/" + std::string(9'000, 'a'))), 414);
  EXPECT_EQ(status_of("GET /" + std::string(9'000, 'a')), 414) << "before the line is complete";
}

TEST(RequestHead, RefusesWhatIsNotAFirstLine) {
  for (const std::string_view line :
       {"GET", "GET /", "GET  / HTTP/1.1", "GET / x HTTP/1.1", " GET / HTTP/1.1", "G@T / HTTP/1.1",
        "GET /  HTTP/1.1", "GET / HTTPS/1.1", "GET / ", "\x16\x03\x01"})
    EXPECT_EQ(status_of(std::string(line) + "\r\nHost: x\r\n\r\n"), 400) << line;
  EXPECT_EQ(status_of("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), 505);
  EXPECT_EQ(status_of("GET / HTTP/1.2\r\nHost: x\r\n\r\n"), 505);
  EXPECT_EQ(status_of("TRACE / HTTP/1.1\r\nHost: x\r\n\r\n"), 501);
  EXPECT_EQ(status_of("CONNECT h:1 HTTP/1.1\r\nHost: x\r\n\r\n"), 501);
  EXPECT_EQ(status_of("get / HTTP/1.1\r\nHost: x\r\n\r\n"), 501);
}

TEST(RequestHead, RefusesHeadersThatAreNotPlainOrThereTwice) {
  for (const std::string_view line :
       {"X : y", " X: y", "X", ": y", "X\t: y", "X: a\x01", "X: a\x7f", "X: \x80", "X: a\rb",
        "X: =?utf-8?Q?=0d=0a?=", "Host: y", "hOST: y", "Content-Length: 1\r\nContent-Length: 1",
        "Authorization: a\r\nauthorization: b", "If-Match: a\r\nIf-Match: b", "X: y\r\n\tfolded",
        "X: y\nY: z", "X\x80: y"})
    EXPECT_EQ(status_of(get("/", std::string(line) + "\r\n")), 400) << line;
  EXPECT_EQ(status_of(get("/", std::string_view("X: a\0b\r\n", 8))), 400);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\n\r\n"), 400) << "no Host";
  EXPECT_EQ(status_of("GET / HTTP/1.1\nHost: x\n\n"), 400) << "no CR";
  EXPECT_EQ(status_of(get("/", "X: " + std::string(8'500, 'a') + "\r\n")), 431);
  EXPECT_EQ(status_of(get("/", "X: " + std::string(8'000, 'a') + "\r\n")), 0);
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nX: " + std::string(17'000, 'a')), 431) << "before it is complete";
  std::string many;
  for (int i = 0; i < 101; ++i) many += "X" + std::to_string(i) + ": y\r\n";
  EXPECT_EQ(status_of(get("/", many)), 431);
}

TEST(RequestHead, RefusesFramingThatCouldSmuggleARequest) {
  for (const std::string_view value :
       {"-1", "+1", "1, 1", "1 1", "0x1", "", "1a", "99999999999999999999", "1.0"})
    EXPECT_EQ(status_of(get("/", "Content-Length: " + std::string(value) + "\r\n")), 400) << value;
  EXPECT_EQ(status_of(get("/", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n")), 400);
  EXPECT_EQ(status_of(get("/", "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n")), 400);
  EXPECT_EQ(status_of(get("/", "Transfer-Encoding: chunked\r\n")), 411);
  EXPECT_EQ(status_of(get("/", "Transfer-Encoding: gzip, chunked\r\n")), 501);
  EXPECT_EQ(status_of("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
  EXPECT_EQ(status_of(get("/", "Expect: 200-ok\r\n")), 417);
}

// The short form of tests/fuzz/http_request_fuzz.cc.
TEST(RequestHead, StaysInBoundsAndSilentWhateverComes) {
  std::mt19937 random(1);
  const std::vector<std::string> seeds = {
      get("/v1/apps/canary?canary=canary", "Authorization: canary\r\nContent-Length: 3\r\n"),
      "POST /a%20/b HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "\r\n" + get("/", "X: =?a?b?=\r\n")};
  const std::string_view pieces[] = {"\r\n", "\n", "\r", " ", ":", "%", "%2f",
                                     "/",    "..", "?",  "&", "=", "\t"};
  size_t complete = 0, refused = 0;
  for (int i = 0; i < 30'000; ++i) {
    std::string bytes = seeds[random() % seeds.size()];
    for (unsigned n = random() % 4; n > 0; --n) {
      const size_t at = random() % (bytes.size() + 1);
      if (random() % 2)
        bytes.insert(at, pieces[random() % std::size(pieces)]);
      else if (at < bytes.size())
        bytes[at] = static_cast<char>(random());
    }
    const auto head = read(bytes);
    if (!head) {
      ++refused;
      EXPECT_THAT(std::string(head.error().sentence), Not(HasSubstr("canary")));
      EXPECT_GE(head.error().status, 400);
    } else if (*head) {
      ++complete;
      EXPECT_LE((*head)->size, bytes.size());
      for (const std::string &s : (*head)->request.path) {
        EXPECT_NE(s, "");
        EXPECT_NE(s, "..");
        EXPECT_EQ(s.find('/'), s.npos);
      }
      for (const auto &[name, value] : (*head)->request.headers) EXPECT_TRUE(header_ok(name, value));
    }
  }
  EXPECT_GT(complete, 1'000u);
  EXPECT_GT(refused, 1'000u);
}

TEST(AnswerHead, IsReadAndWhatIsNoneIsRefused) {
  const auto head = read_answer_head("HTTP/1.1 404 Not Found\r\nA: b\r\n\r\nbody", 1'000);
  ASSERT_TRUE(head && *head);
  EXPECT_EQ((*head)->status, 404);
  EXPECT_EQ((*head)->headers.find("a"), "b");
  EXPECT_FALSE(read_answer_head("HTTP/1.1 404 Not", 1'000)->has_value());
  EXPECT_FALSE(read_answer_head("HT", 1'000)->has_value());
  for (const std::string_view bytes :
       {"SSH-2.0-x\r\n", "HTTP/1.1 x\r\n\r\n", "HTTP/1.1 200 OK\r\nA b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"})
    EXPECT_FALSE(read_answer_head(bytes, 1'000)) << bytes;
  EXPECT_FALSE(read_answer_head("HTTP/1.1 200 OK\r\nA: " + std::string(2'000, 'a'), 1'000));
}

TEST(AnswerHead, CannotBeSplitByWhatStandsInAHeader) {
  EXPECT_TRUE(header_ok("ETag", "\"abc\""));
  EXPECT_FALSE(header_ok("ETag", "a\r\nSet-Cookie: b"));
  EXPECT_FALSE(header_ok("E Tag", "a"));
  EXPECT_FALSE(header_ok("", "a"));
  EXPECT_EQ(write_answer_head(204, {{"A", "b"}}), "HTTP/1.1 204 No Content\r\nA: b\r\n\r\n");
}

TEST(Escaped, ComesBackThroughTheReader) {
  std::string all;
  for (int c = 0x20; c < 0x7f; ++c)
    if (c != '/') all += static_cast<char>(c);
  const auto head = read(get("/" + escaped(all) + "?" + escaped(all) + "=" + escaped(all)));
  ASSERT_TRUE(head && *head);
  EXPECT_THAT((*head)->request.path, ElementsAre(all));
  EXPECT_THAT((*head)->request.query, ElementsAre(Pair(all, all)));
}

}  // namespace
}  // namespace coffer::http
