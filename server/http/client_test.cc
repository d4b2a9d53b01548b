#include "server/http/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <thread>

#include "coffer/base/unix_socket.h"
#include "server/http/server.h"
#include "server/http/test_support.h"

namespace coffer::http {
namespace {
using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;

// A server that answers each connection with prepared bytes, whatever it is asked, and closes it.
class Scripted {
 public:
  Scripted(const std::string &path, std::vector<std::string> answers) : listener_(*listen_unix(path, 0600)) {
    thread_ = std::jthread([this, all = std::move(answers)] {
      for (const std::string &answer : all) {
        pollfd p{listener_.get(), POLLIN, 0};
        if (::poll(&p, 1, 30'000) <= 0) return;
        const sdk::Fd c(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        std::string asked;
        char bytes[4096];
        while (asked.find("\r\n\r\n") == asked.npos) {
          const ssize_t n = ::recv(c.get(), bytes, sizeof bytes, 0);
          if (n <= 0) break;
          asked.append(bytes, static_cast<size_t>(n));
        }
        ++connections;
        (void)::send(c.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
      }
    });
  }
  std::atomic<int> connections = 0;

 private:
  sdk::Fd listener_;
  std::jthread thread_;
};

class HttpClient : public testing::Test {
 protected:
  std::unique_ptr<Client> client(size_t max_answer = 1 << 20) {
    return *Client::open({.url = url_, .max_answer = max_answer});
  }
  std::unique_ptr<Server> server(Handler handler) {
    auto s = Server::start({.unix_path = path_}, std::move(handler),
                           [](const Request &) { return Admission{.waits = true}; });
    EXPECT_TRUE(s) << s.error().message;
    return *std::move(s);
  }
  Folder folder_;
  const std::string path_ = folder_ / "s", url_ = "unix://" + path_;
};

TEST_F(HttpClient, AsksAndKeepsItsConnection) {
  std::atomic<int> calls = 0;
  std::vector<pid_t> peers;
  const auto s = server([&](const Request &r, Context &) {
    ++calls;
    return Response::json(
        r.method + std::string(view(r.body)) + std::string(r.headers.find("X").value_or("")), 201);
  });
  const auto c = client();
  for (int i = 0; i < 20; ++i) {
    const auto answer = c->call({.method = "PUT", .target = "/x", .headers = {{"X", "h"}}, .body = "body"});
    ASSERT_TRUE(answer) << answer.error().message;
    EXPECT_EQ(answer->status, 201);
    EXPECT_EQ(view(answer->body), "PUTbodyh");
    EXPECT_TRUE(answer->headers.find("X-Request-Id"));
  }
  EXPECT_EQ(calls, 20);
  EXPECT_EQ(c->call({.method = "HEAD"})->body.size(), 0u);
  EXPECT_TRUE(c->call({})) << "a HEAD leaves nothing on the connection";
}

TEST_F(HttpClient, UsesOneConnectionForManyCalls) {
  std::atomic<int> connections = 0;
  const sdk::Fd listener = *listen_unix(path_, 0600);
  std::jthread one([&] {
    pollfd p{listener.get(), POLLIN, 0};
    ::poll(&p, 1, 30'000);
    const sdk::Fd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ++connections;
    char bytes[4096];
    while (::recv(fd.get(), bytes, sizeof bytes, 0) > 0)
      (void)::send(fd.get(), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 40, MSG_NOSIGNAL);
  });
  {
    const auto c = client();
    for (int i = 0; i < 5; ++i) EXPECT_EQ(view(c->call({.timeout = 5s})->body), "ok");
  }
  EXPECT_EQ(connections, 1);
}

TEST_F(HttpClient, SaysWhoDoesNotAnswer) {
  const auto none = client()->call({});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(none.error().message, HasSubstr(url_));
  Scripted s(path_, {""});
  const auto broken = client()->call({});
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(broken.error().message, HasSubstr(url_));
}

TEST_F(HttpClient, EndsAtItsDeadlineAndWhenCancelled) {
  Signal never;
  const auto s = server([&](const Request &r, Context &c) {
    Response answer = Response::json("1");
    if (r.path.empty())
      c.wait(never, 0, Clock::now() + kPatience);
    else
      answer.stream = [&](Context &context, Writer &w) {
        w.write("piece");
        context.wait(never, 0, Clock::now() + kPatience);
      };
    return answer;
  });
  const auto c = client();
  for (const std::string target : {"/", "/stream"}) {
    const auto late = c->call({.target = target, .timeout = 50ms});
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().code, ErrorCode::kDeadlineExceeded);
    EXPECT_THAT(late.error().message, HasSubstr(url_));
    const sdk::Fd cancel(::eventfd(1, EFD_CLOEXEC));
    const auto cancelled = c->call({.target = target, .cancel_fd = cancel.get()});
    ASSERT_FALSE(cancelled);
    EXPECT_EQ(cancelled.error().code, ErrorCode::kCancelled);
  }
  const auto silent =
      c->stream({.target = "/stream", .timeout = 50ms}, [](std::string_view) { return true; });
  EXPECT_EQ(silent.error().code, ErrorCode::kDeadlineExceeded);
}

TEST_F(HttpClient, AsksAgainOnlyWhatMayBeRepeatedAndOnlyWhenAKeptConnectionIsGone) {
  // The first connection answers once and takes a second request without answering it.
  const std::string ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
  const sdk::Fd listener = *listen_unix(path_, 0600);
  std::atomic<int> asked = 0;
  std::jthread thread([&] {
    for (int i = 0; i < 3; ++i) {
      pollfd p{listener.get(), POLLIN, 0};
      if (::poll(&p, 1, 30'000) <= 0) return;
      const sdk::Fd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
      char bytes[4096];
      if (::recv(fd.get(), bytes, sizeof bytes, 0) <= 0) return;
      ++asked;
      (void)::send(fd.get(), ok.data(), ok.size(), MSG_NOSIGNAL);
      if (i < 2 && ::recv(fd.get(), bytes, sizeof bytes, 0) > 0) ++asked;
    }
  });
  const auto c = client();
  ASSERT_TRUE(c->call({}));
  ASSERT_TRUE(c->call({.repeatable = true})) << "on a second connection";
  EXPECT_EQ(asked, 3);
  const auto once = c->call({.method = "POST"});
  ASSERT_FALSE(once);
  EXPECT_EQ(once.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(asked, 4) << "no second time";
  EXPECT_TRUE(c->call({}));
}

TEST_F(HttpClient, NoticesAnAnswerThatIsCutOrNone) {
  const std::pair<std::string, ErrorCode> rows[] = {
      {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", ErrorCode::kDataLoss},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n", ErrorCode::kDataLoss},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwho", ErrorCode::kDataLoss},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nwho", ErrorCode::kDataLoss},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\nwho", ErrorCode::kDataLoss},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nwho\r\n", ErrorCode::kDataLoss},
      {"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nshort", ErrorCode::kDataLoss},
      {"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + std::string(2'000'000, 'x'),
       ErrorCode::kResourceExhausted},
      {"HTTP/1.1 200 OK\r\nContent-", ErrorCode::kUnavailable},
      {"SSH-2.0-OpenSSH\r\n", ErrorCode::kDataLoss},
      {"HTTP/1.1 200 OK\r\nX: " + std::string(100'000, 'x'), ErrorCode::kDataLoss}};
  for (const auto &[bytes, code] : rows) {
    Scripted s(path_, {bytes});
    const auto answer = client()->call({});
    ASSERT_FALSE(answer) << bytes.substr(0, 80);
    EXPECT_EQ(answer.error().code, code) << bytes.substr(0, 80) << ": " << answer.error().message;
    std::filesystem::remove(path_);
  }
}

TEST_F(HttpClient, ReadsBodiesThatEndWithTheConnectionAndSkipsContinue) {
  Scripted s(path_, {"HTTP/1.0 200 OK\r\n\r\nuntil the end",
                     "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
                     "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"});
  EXPECT_EQ(view(client()->call({})->body), "until the end");
  EXPECT_EQ(view(client()->call({})->body), "abc0123456789");
  const auto early = client()->call({.method = "POST", .body = std::string(500'000, 'x')});
  ASSERT_TRUE(early) << early.error().message;  // it answered and closed without reading the body
  EXPECT_EQ(early->status, 413);
}

TEST_F(HttpClient, StreamsLinesAndStopsWhenItIsTold) {
  const auto s = server([](const Request &r, Context &) {
    if (!r.path.empty()) return Response::error(404, "no such thing");
    Response answer;
    answer.stream = [](Context &, Writer &w) {
      for (const std::string_view piece : {"one\ntw", "o\n", "\nthree"}) w.write(piece);
    };
    return answer;
  });
  const auto c = client();
  std::vector<std::string> lines;
  const auto collect = [&](std::string_view line) { return lines.emplace_back(line), lines.size() < 99; };
  ASSERT_TRUE(c->lines({}, collect));
  EXPECT_THAT(lines, ElementsAre("one", "two", "", "three"));
  lines.clear();
  ASSERT_TRUE(c->lines({}, [&](std::string_view line) { return lines.emplace_back(line), false; }));
  EXPECT_THAT(lines, ElementsAre("one"));
  lines.clear();
  const auto refused = c->lines({.target = "/none"}, collect);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 404);
  EXPECT_THAT(std::string(view(refused->body)), HasSubstr("no such thing"));
  EXPECT_TRUE(lines.empty());
}

TEST_F(HttpClient, UpgradesOrHandsOverTheRefusal) {
  const auto s = server([](const Request &r, Context &) {
    if (!r.path.empty()) return Response::error(403, "not you");
    Response answer;
    answer.upgrade = [](Context &, Duplex &d) {
      (void)d.write("hello", Clock::now() + kPatience);
      char bytes[10];
      const auto n = d.read(bytes, Clock::now() + kPatience);
      (void)d.write(std::string_view(bytes, n.value_or(0)), Clock::now() + kPatience);
    };
    return answer;
  });
  const auto c = client();
  Answer refused;
  const auto session = c->upgrade({}, refused);
  ASSERT_TRUE(session && *session);
  std::string got;
  const auto read = [&] {
    char bytes[100];
    const auto n = (*session)->read(bytes, Clock::now() + kPatience);
    got.append(bytes, n.value_or(0));
    return n.value_or(0) > 0;
  };
  while (got.size() < 5 && read()) {
  }
  ASSERT_TRUE((*session)->write(" you", Clock::now() + kPatience));
  while (read()) {
  }
  EXPECT_EQ(got, "hello you");
  const auto none = c->upgrade({.target = "/no"}, refused);
  ASSERT_TRUE(none);
  EXPECT_EQ(*none, nullptr);
  EXPECT_EQ(refused.status, 403);
}

TEST_F(HttpClient, RefusesUrlsThatItCannotOrMustNotUse) {
  for (const std::string_view url :
       {"", "ftp://x", "unix://relative", "http://192.0.2.1:80", "http://example.org", "http://127.0.0.1:0",
        "http://127.0.0.1:x", "http://127.0.0.1:99999", "http://127.0.0.1:80/path", "http://user@127.0.0.1",
        "https://", "https://h?x"}) {
    const auto c = Client::open({.url = std::string(url)});
    ASSERT_FALSE(c) << url;
    EXPECT_EQ(c.error().code, ErrorCode::kInvalidArgument);
  }
  for (const std::string_view url :
       {"http://127.0.0.1:80", "http://localhost", "http://[::1]:80/", "https://example.org"})
    EXPECT_TRUE(Client::open({.url = std::string(url)})) << url;
  EXPECT_EQ(Client::open({.url = "https://h", .ca_file = folder_ / "none"}).error().code,
            ErrorCode::kNotFound);
}

TEST_F(HttpClient, RefusesHeadersAndTargetsThatWouldSplitTheRequest) {
  EXPECT_EQ(client()->call({.headers = {{"X", "a\r\nY: b"}}}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(client()->call({.target = "/ HTTP/1.1\r\nX: y"}).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace coffer::http
