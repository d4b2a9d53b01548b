#include "server/http/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <atomic>
#include <condition_variable>
#include <future>
#include <stdexcept>
#include <thread>

#include "coffer/base/log.h"
#include "server/http/client.h"
#include "server/http/json_body.h"
#include "server/http/test_support.h"

namespace coffer::http {
namespace {
using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;

constexpr std::string_view kGet = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

std::string request(std::string_view method, std::string_view target, std::string_view headers = "",
                    std::string_view body = "") {
  std::string r =
      std::string(method) + " " + std::string(target) + " HTTP/1.1\r\nHost: x\r\n" + std::string(headers);
  if (!body.empty()) r += "Content-Length: " + std::to_string(body.size()) + "\r\n";
  return r + "\r\n" + std::string(body);
}

// Opens once, for everybody.
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
  }
  // Without waiting for the gate.
  void arrive() {
    const std::lock_guard lock(mutex_);
    ++arrived_;
    changed_.notify_all();
  }
  bool await(int arrived) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] { return arrived_ >= arrived; });
  }
  int arrived() {
    const std::lock_guard lock(mutex_);
    return arrived_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  bool open_ = false;
};

// A server on a unix socket.  /wait/... waits for `changed`; what else a path does, the test says.
class HttpServer : public testing::Test {
 protected:
  void TearDown() override { gate_.open(); }

  void start(Handler handler, ServerConfig config = {}) {
    config.unix_path = path_;
    auto server = Server::start(config, std::move(handler), [](const Request &r) {
      Admission a;
      if (!r.path.empty() && r.path[0] == "wait") a.waits = true;
      if (!r.path.empty() && r.path[0] == "small") a.max_body = 10;
      return a;
    });
    ASSERT_TRUE(server) << server.error().message;
    server_ = *std::move(server);
  }
  // Answers "hello"; /block waits for the gate, /wait for the signal.
  Response usual(const Request &r, Context &context) {
    if (!r.path.empty() && r.path[0] == "block") gate_.pass();
    if (!r.path.empty() && r.path[0] == "wait") {
      const uint64_t seen = changed_.count();
      gate_.arrive();
      switch (context.wait(changed_, seen, Clock::now() + (r.query.contains("short") ? 20ms : 60s))) {
        case Woken::kNotified:
          return Response::json("\"notified\"");
        case Woken::kDeadline:
          return Response::json("\"deadline\"");
        case Woken::kGone:
          gone_.arrive();
          return Response::json("\"gone\"");
        case Woken::kStopping:
          return Response::json("\"stopping\"");
      }
    }
    return Response::json("\"hello\"");
  }
  Handler usual() {
    return [this](const Request &r, Context &c) { return usual(r, c); };
  }
  Raw raw() { return Raw::to_unix(path_); }
  Folder folder_;
  const std::string path_ = folder_ / "s";
  Gate gate_, gone_;
  Signal changed_;
  std::unique_ptr<Server> server_;
};

// ---- requests and answers ----

TEST_F(HttpServer, HandsOverTheWholeRequestAndSendsTheAnswer) {
  start([](const Request &r, Context &) {
    std::string all = r.method;
    for (const auto &s : r.path) all += "|" + s;
    for (const auto &[name, value] : r.query) all += "|" + name + "=" + value;
    all += "|" + std::string(*r.headers.find("x-a")) + "|" + std::string(view(r.body));
    Response answer;
    answer.status = 201;
    answer.content_type = "text/plain";
    answer.body = all;
    answer.headers.add("ETag", "\"7\"");
    return answer;
  });
  Raw client = raw();
  client.send(request("PUT", "/a/b%20c?d=e", "X-A: f\r\n", "body"));
  ASSERT_TRUE(client.read_until("|body"));
  EXPECT_THAT(client.got, testing::StartsWith("HTTP/1.1 201 Created\r\n"));
  EXPECT_THAT(client.got, HasSubstr("\r\n\r\nPUT|a|b c|d=e|f|body"));
  EXPECT_THAT(client.got, HasSubstr("ETag: \"7\"\r\n"));
  EXPECT_THAT(client.got, HasSubstr("Content-Type: text/plain\r\n"));
  EXPECT_THAT(client.got, HasSubstr("X-Request-Id: "));
}

TEST_F(HttpServer, KnowsWhoIsAtTheOtherEndOfAUnixSocket) {
  Peer seen;
  start([&](const Request &r, Context &) {
    seen = r.peer;
    return Response::json("1");
  });
  Raw client = raw();
  client.send(kGet);
  ASSERT_TRUE(client.read_until("\r\n\r\n1"));
  EXPECT_TRUE(seen.is_unix);
  EXPECT_EQ(seen.uid, ::geteuid());
  EXPECT_EQ(seen.gid, ::getegid());
  EXPECT_EQ(seen.pid, ::getpid());
}

TEST_F(HttpServer, KeepsTheConnectionAndAnswersRequestsSentAheadInOrder) {
  start([](const Request &r, Context &) {
    return Response::json("\"<" + r.path[0] + std::string(view(r.body)) + ">\"");
  });
  Raw client = raw();
  std::string all;
  for (int i = 0; i < 200; ++i) all += request("POST", "/" + std::to_string(i), "", "b");
  client.send(all);
  ASSERT_TRUE(client.read_until("<199b>"));
  size_t at = 0;
  for (int i = 0; i < 200; ++i) {
    at = client.got.find("\"<" + std::to_string(i) + "b>\"", at);
    ASSERT_NE(at, std::string::npos) << i;
  }
  client.got.clear();
  client.send(request("GET", "/again"));
  EXPECT_TRUE(client.read_until("<again>"));
}

TEST_F(HttpServer, ClosesAfterHttp10AndWhenAsked) {
  start(usual());
  for (const std::string_view bytes :
       {"GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"}) {
    Raw client = raw();
    client.send(bytes);
    EXPECT_THAT(client.read_all(), testing::EndsWith("\r\n\r\n\"hello\""));
  }
}

TEST_F(HttpServer, AnswersHeadWithoutABody) {
  start(usual());
  Raw client = raw();
  client.send(request("HEAD", "/", "Connection: close\r\n"));
  EXPECT_THAT(client.read_all(), testing::EndsWith("\r\n\r\n"));
  EXPECT_THAT(client.got, HasSubstr("Content-Length: 7\r\n"));
}

TEST_F(HttpServer, SaysContinueBeforeItTakesABody) {
  start([](const Request &r, Context &) { return Response::json("\"" + std::string(view(r.body)) + "\""); });
  Raw client = raw();
  client.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
  ASSERT_TRUE(client.read_until("HTTP/1.1 100 Continue\r\n\r\n"));
  client.send("data");
  EXPECT_TRUE(client.read_until("\"data\""));

  Raw small = raw();  // and does not where the body would be refused
  small.send("POST /small HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 40\r\n\r\n");
  small.read_all();
  EXPECT_EQ(small.status(), 413);
}

TEST_F(HttpServer, RefusesABodyOverTheLimitOfItsRouteAndTheClientReadsWhy) {
  std::atomic<int> calls = 0;
  ServerConfig config;
  config.max_body = 100'000;
  start([&](const Request &, Context &) { return ++calls, Response::json("1"); }, config);
  for (const auto &[path, size, status] : {std::tuple("/", 100'001, 413), std::tuple("/", 100'000, 200),
                                           std::tuple("/small", 11, 413), std::tuple("/small", 10, 200)}) {
    Raw client = raw();
    // All of it is sent before the answer is looked at.
    client.send(request("POST", path, "Connection: close\r\n", std::string(static_cast<size_t>(size), 'x')));
    client.read_all();
    EXPECT_EQ(client.status(), status) << path << " " << size;
  }
  EXPECT_EQ(calls, 2);
}

// ---- abuse ----

TEST_F(HttpServer, RefusesWhatIsNoRequestAndRepeatsNothingOfIt) {
  std::atomic<int> calls = 0;
  start([&](const Request &, Context &) { return ++calls, Response::json("1"); });
  const std::pair<std::string, int> rows[] = {
      {"canary\r\n\r\n", 400},
      {"GET /canary/../x HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /canary%2fx HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /canary%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /?canary=1&canary=2 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n\r\n", 400},
      {request("GET", "/", "canary canary\r\n"), 400},
      {request("GET", "/", "canary : 1\r\n"), 400},
      {request("GET", "/", "X: 1\r\n canary\r\n"), 400},
      {request("GET", "/", "Authorization: canary\r\nAuthorization: canary\r\n"), 400},
      {request("GET", "/", "Content-Length: canary\r\n"), 400},
      {request("POST", "/", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n") + "canary", 400},
      {request("POST", "/", "Transfer-Encoding: chunked\r\n") + "6\r\ncanary\r\n0\r\n\r\n", 411},
      {request("POST", "/", "Transfer-Encoding: canary\r\n"), 501},
      {request("POST", "/", "Content-Length: 99999999\r\n") + "canary", 413},
      {"GET /" + std::string(9'000, 'c') + " HTTP/1.1\r\n", 414},
      {request("GET", "/", "X: canary" + std::string(9'000, 'c') + "\r\n"), 431},
      {"GET / HTTP/1.1\r\nX: canary" + std::string(20'000, 'c'), 431},
      {request("GET", "/", "Expect: canary\r\n"), 417},
      {"CANARY / HTTP/1.1\r\nHost: x\r\n\r\n", 501},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
  };
  for (const auto &[bytes, status] : rows) {
    Raw client = raw();
    client.send(bytes);
    client.read_all();  // the connection ends: where the next request begins is not known
    EXPECT_EQ(client.status(), status) << bytes.substr(0, 100);
    EXPECT_THAT(client.got, Not(testing::ContainsRegex("[Cc][Aa][Nn][Aa][Rr][Yy]"))) << bytes.substr(0, 100);
    const size_t body = client.got.find("\r\n\r\n");
    ASSERT_NE(body, std::string::npos);
    const auto json = JsonBody::parse(client.got.substr(body + 4));
    ASSERT_TRUE(json) << client.got;
    EXPECT_TRUE(json->root().at("error")->text());
  }
  EXPECT_EQ(calls, 0);
}

TEST_F(HttpServer, NeverLogsOrAnswersWhatCameOrWhatAnExceptionSays) {
  start([](const Request &r, Context &) -> Response {
    Response answer = Response::json("1");
    answer.route = "/v1/{name}";
    if (r.query.contains("throw")) throw std::runtime_error("canary");
    if (r.query.contains("split")) answer.headers.add("ETag", "canary\r\nX: canary");
    return answer;
  });
  set_log_level(LogLevel::kTrace);
  testing::internal::CaptureStderr();
  std::string answers;
  for (const std::string_view query : {"?canary=canary", "?canary=canary&throw", "?canary=canary&split"}) {
    Raw client = raw();
    client.send(request("POST", "/canary" + std::string(query),
                        "Authorization: canary\r\nX-Canary: canary\r\nConnection: close\r\n",
                        "{\"canary\":canary}"));
    answers += client.read_all();
  }
  Raw broken = raw();
  broken.send("canary canary\r\n\r\n");
  answers += broken.read_all();
  server_->stop();
  const std::string log = testing::internal::GetCapturedStderr();
  set_log_level(LogLevel::kWarn);
  EXPECT_THAT(log, HasSubstr("POST /v1/{name} 200 "));  // a log that says nothing would prove nothing
  EXPECT_THAT(log, HasSubstr("runtime_error"));
  EXPECT_THAT(log, HasSubstr(" 400 "));
  EXPECT_THAT(log, Not(HasSubstr("canary")));
  EXPECT_THAT(answers, HasSubstr("500 Internal Server Error"));
  EXPECT_THAT(answers, HasSubstr("{\"error\":\"internal error\"}"));
  EXPECT_THAT(answers, Not(HasSubstr("canary")));
}

// Sends a byte whenever nothing has come for 5 ms, until something comes.
int drip(Raw &client) {
  int sent = 0;
  while (!client.readable(5ms) && client.send("x")) ++sent;
  return sent;
}

TEST_F(HttpServer, CutsASlowHeadAtItsTotalDeadline) {
  ServerConfig config;
  config.head_limit = 150ms;
  start(usual(), config);
  Raw client = raw();
  client.send("GET / HTTP/1.1\r\nX-");
  const auto begin = Clock::now();
  EXPECT_GT(drip(client), 3) << "it was slow, not silent";
  EXPECT_GE(Clock::now() - begin, 100ms);
  client.read_all();
  EXPECT_EQ(client.status(), 408);
  Raw silent = raw();  // sends nothing at all: closed without a word
  EXPECT_EQ(silent.read_all(), "");
}

TEST_F(HttpServer, CutsASlowBodyAtItsTotalDeadlineAndNeverCallsTheHandler) {
  std::atomic<int> calls = 0;
  ServerConfig config;
  config.body_limit = 150ms;
  start([&](const Request &, Context &) { return ++calls, Response::json("1"); }, config);
  Raw client = raw();
  client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
  EXPECT_GT(drip(client), 3);
  client.read_all();
  EXPECT_EQ(client.status(), 408);
  EXPECT_EQ(calls, 0);
}

TEST_F(HttpServer, ClosesAnIdleConnection) {
  ServerConfig config;
  config.idle_limit = 50ms;
  start(usual(), config);
  Raw client = raw();
  client.send(kGet);
  EXPECT_THAT(client.read_all(), testing::EndsWith("\"hello\""));
}

TEST_F(HttpServer, NeverCallsTheHandlerForAClientThatDiesInMidBody) {
  std::atomic<int> calls = 0;
  start([&](const Request &, Context &) { return ++calls, Response::json("1"); });
  {
    Raw client = raw();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nhalf");
  }
  {
    Raw client = raw();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nhalf");
    client.finish();
    EXPECT_EQ(client.read_all(), "");
  }
  server_->stop();
  EXPECT_EQ(calls, 0);
}

TEST_F(HttpServer, EndsAClientThatDoesNotReadItsAnswer) {
  ServerConfig config;
  config.write_limit = 100ms;
  config.workers = 1;
  start(
      [&](const Request &r, Context &) {
        Response answer = Response::json(std::string(8 << 20, 'x'));
        if (r.path.empty()) return answer;
        answer.stream = [this](Context &, Writer &w) {
          while (w.write(std::string(64 << 10, 'x'))) {
          }
          gone_.arrive();
        };
        return answer;
      },
      config);
  Raw whole = raw();
  whole.send(kGet);
  // Its answer is not the one worker's any more: another one is served meanwhile.
  Raw streamed = raw();
  ASSERT_TRUE(whole.readable(kPatience));
  streamed.send(request("GET", "/wait/stream"));
  EXPECT_TRUE(gone_.await(1));
  EXPECT_TRUE(whole.hung_up(kPatience));
  EXPECT_TRUE(streamed.hung_up(kPatience));
}

TEST_F(HttpServer, AnswersWhileTenThousandConnectionsAreOpenedAndLeft) {
  constexpr rlim_t kOpened = 10'000;
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const rlimit before = limit;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, kOpened + 4'000);
  ::setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < kOpened + 4'000)
    GTEST_SKIP() << "only " << limit.rlim_cur << " files may be open here (ulimit -Hn)";
  start(usual());
  Raw kept = raw();
  std::vector<Raw> left;
  left.reserve(kOpened);
  for (rlim_t i = 0; i < kOpened; ++i) {
    left.push_back(raw());
    ASSERT_TRUE(left.back()) << i;
    if (i % 3 == 1) left.back().send("GET / HTT");
    if (i % 3 == 2) left.back().send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1");
    if (i % 500 == 0) {
      Raw client = raw();
      client.send(request("GET", "/", "Connection: close\r\n"));
      ASSERT_THAT(client.read_all(), testing::EndsWith("\"hello\"")) << i;
    }
  }
  Raw client = raw();
  client.send(kGet);
  EXPECT_TRUE(client.read_until("\"hello\""));
  EXPECT_TRUE(left.front().hung_up(kPatience)) << "the oldest made room";
  left.clear();
  server_->stop();
  ::setrlimit(RLIMIT_NOFILE, &before);
}

TEST_F(HttpServer, BoundsTheMemoryOfIncompleteBodiesAndStillTakesWholeOnes) {
  ServerConfig config;
  config.max_buffered = 1 << 20;
  start([](const Request &r, Context &) { return Response::json(std::to_string(r.body.size())); }, config);
  const std::string most = request("POST", "/", "", std::string(400'000, 'x'));
  std::vector<Raw> left;
  for (int i = 0; i < 10; ++i) {
    left.push_back(raw());
    left.back().send(std::string_view(most).substr(0, most.size() - 1));
  }
  EXPECT_TRUE(left.front().hung_up(kPatience));
  Raw client = raw();
  client.send(most);
  EXPECT_TRUE(client.read_until("\r\n\r\n400000"));
}

// ---- places ----

TEST_F(HttpServer, AnswersTheSixtyFifthRequestAtWorkWith503AndSixHundredWaitingOnesDoNotCount) {
  std::atomic<int> calls = 0;
  start([&](const Request &r, Context &c) {
    ++calls;
    return usual(r, c);
  });
  std::vector<Raw> waiting, working;
  for (int i = 0; i < 600; ++i) {
    waiting.push_back(raw());
    ASSERT_TRUE(waiting.back().send(request("GET", "/wait")));
    ASSERT_TRUE(gate_.await(i + 1));
  }
  Raw one_too_many = raw();
  one_too_many.send(request("GET", "/wait"));
  ASSERT_TRUE(one_too_many.read_until("\r\n\r\n{"));
  EXPECT_EQ(one_too_many.status(), 503);
  EXPECT_THAT(one_too_many.got, HasSubstr("Retry-After: 1\r\n"));

  for (int i = 0; i < 64; ++i) {
    working.push_back(raw());
    working.back().send(request("GET", "/block"));
  }
  ASSERT_TRUE(gate_.await(664));
  Raw busy = raw();
  busy.send(kGet);
  ASSERT_TRUE(busy.read_until("\r\n\r\n{"));
  EXPECT_EQ(busy.status(), 503);
  EXPECT_THAT(busy.got, HasSubstr("Retry-After: 1\r\n"));
  EXPECT_EQ(calls, 664) << "nothing of the handler was done";

  gate_.open();
  for (Raw &client : working) EXPECT_TRUE(client.read_until("\"hello\""));
  changed_.notify();
  for (Raw &client : waiting) EXPECT_TRUE(client.read_until("\"notified\""));
  busy.got.clear();
  busy.send(kGet);  // its connection was kept
  EXPECT_TRUE(busy.read_until("\"hello\""));
}

TEST_F(HttpServer, WakesAWaitingHandlerAtItsDeadline) {
  start(usual());
  Raw client = raw();
  client.send(request("GET", "/wait?short"));
  EXPECT_TRUE(client.read_until("\"deadline\""));
}

TEST_F(HttpServer, FreesThePlaceOfAWaitingClientThatIsGone) {
  ServerConfig config;
  config.max_waiting = 1;
  start(usual(), config);
  Raw dead = raw();
  dead.send(request("GET", "/wait"));
  ASSERT_TRUE(gate_.await(1));
  dead.close();
  ASSERT_TRUE(gone_.await(1));
  // The place is free as soon as the handler has returned, which is a moment after it was woken.
  for (Raw next = raw();;) {
    next.got.clear();
    next.send(request("GET", "/wait?short"));
    ASSERT_TRUE(next.read_until("\r\n\r\n"));
    if (next.status() != 503) break;
    ASSERT_TRUE(next.read_until("}"));
  }
}

// ---- stop ----

TEST_F(HttpServer, StopWakesWhoWaitsLetsWhatRunsEndAndClosesTheRest) {
  start(usual());
  Raw idle = raw(), half = raw(), waiting = raw(), working = raw();
  idle.send(kGet);
  ASSERT_TRUE(idle.read_until("\"hello\""));
  half.send("GET / HT");
  waiting.send(request("GET", "/wait"));
  working.send(request("GET", "/block"));
  ASSERT_TRUE(gate_.await(2));
  std::thread stopper([&] { server_->stop(); });
  EXPECT_THAT(waiting.read_all(), testing::EndsWith("\"stopping\""));
  EXPECT_EQ(half.read_all(), "");
  EXPECT_THAT(idle.read_all(), testing::EndsWith("\"hello\""));
  EXPECT_FALSE(raw()) << "nobody listens";
  gate_.open();
  EXPECT_THAT(working.read_all(), testing::EndsWith("\"hello\""));
  stopper.join();
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(HttpServer, StopCutsWhoDoesNotReadAfterItsLimit) {
  ServerConfig config;
  config.stop_limit = 50ms;
  start([&](const Request &, Context &) { return Response::json(std::string(8 << 20, 'x')); }, config);
  Raw client = raw();
  client.send(kGet);
  ASSERT_TRUE(client.readable(kPatience));
  const auto begin = Clock::now();
  server_->stop();
  EXPECT_LT(Clock::now() - begin, 10s);
}

TEST_F(HttpServer, StopEndsStreamsAndSessions) {
  start([&](const Request &r, Context &) {
    Response answer;
    if (r.upgrade)
      answer.upgrade = [&](Context &, Duplex &d) {
        char bytes[10];
        gate_.arrive();
        EXPECT_FALSE(d.read(bytes, Clock::now() + kPatience).value_or(0));
      };
    else
      answer.stream = [&](Context &c, Writer &w) {
        w.write("first");
        const uint64_t seen = changed_.count();
        gate_.arrive();
        EXPECT_EQ(c.wait(changed_, seen, Clock::now() + kPatience), Woken::kStopping);
        EXPECT_FALSE(w.write("second"));
      };
    return answer;
  });
  Raw session = raw(), stream = raw();
  session.send(request("GET", "/wait", "Connection: Upgrade\r\nUpgrade: coffer-session\r\n"));
  stream.send(request("GET", "/wait"));
  ASSERT_TRUE(gate_.await(2));
  server_->stop();
  EXPECT_THAT(session.read_all(), testing::EndsWith("\r\n\r\n"));
  EXPECT_THAT(stream.read_all(), testing::EndsWith("5\r\nfirst\r\n")) << "without the end mark: it was cut";
}

// ---- streams and sessions ----

TEST_F(HttpServer, StreamsPiecesAsTheyAreWritten) {
  start([&](const Request &, Context &) {
    Response answer;
    answer.stream = [&](Context &c, Writer &w) {
      EXPECT_TRUE(w.write("one"));
      EXPECT_EQ(c.wait(changed_, 0, Clock::now() + kPatience), Woken::kNotified);
      EXPECT_TRUE(w.write(""));
      EXPECT_TRUE(w.write("two"));
    };
    return answer;
  });
  Raw client = raw();
  client.send(request("GET", "/wait"));
  ASSERT_TRUE(client.read_until("3\r\none\r\n"));  // it is here while the handler waits
  changed_.notify();
  ASSERT_TRUE(client.read_until("3\r\ntwo\r\n0\r\n\r\n"));
  Raw old = raw();
  old.send("GET / HTTP/1.0\r\n\r\n");
  EXPECT_THAT(old.read_all(), testing::EndsWith("\r\n\r\nonetwo"));
}

TEST_F(HttpServer, TellsAStreamThatItsClientIsGone) {
  start([&](const Request &, Context &) {
    Response answer;
    answer.stream = [&](Context &c, Writer &w) {
      EXPECT_TRUE(w.write("one"));
      EXPECT_EQ(c.wait(changed_, 0, Clock::now() + kPatience), Woken::kGone);
      EXPECT_FALSE(w.write("two"));
      gone_.arrive();
    };
    return answer;
  });
  {
    Raw client = raw();
    client.send(request("GET", "/wait"));
    ASSERT_TRUE(client.read_until("one"));
  }
  EXPECT_TRUE(gone_.await(1));
}

Response echo(const Request &, Context &) {
  Response answer;
  answer.upgrade = [](Context &, Duplex &d) {
    char bytes[1000];
    for (;;) {
      const auto n = d.read(bytes, Clock::now() + kPatience);
      if (n.value_or(0) == 0 || !d.write({bytes, *n}, Clock::now() + kPatience)) break;
    }
    (void)d.write("end", Clock::now() + kPatience);
  };
  return answer;
}

TEST_F(HttpServer, UpgradesAConnectionWithWhatWasSentAhead) {
  start(echo);
  Raw client = raw();
  client.send(request("GET", "/wait", "Connection: Upgrade\r\nUpgrade: coffer-session\r\n") + "ahead ");
  ASSERT_TRUE(client.read_until("\r\n\r\nahead "));
  EXPECT_EQ(client.status(), 101);
  EXPECT_THAT(client.got, HasSubstr("Upgrade: coffer-session\r\n"));
  client.send("and behind");
  client.finish();
  EXPECT_THAT(client.read_all(), testing::EndsWith("ahead and behindend"));
  Raw plain = raw();
  plain.send(request("GET", "/wait"));
  ASSERT_TRUE(plain.read_until("}"));
  EXPECT_EQ(plain.status(), 426);
}

TEST_F(HttpServer, RelaysBetweenTwoSessions) {
  // The first to come lends its connection; the second one's handler passes bytes between both.
  std::mutex mutex;
  Duplex *first = nullptr;
  std::promise<void> given_back;
  start([&](const Request &, Context &) {
    Response answer;
    answer.upgrade = [&](Context &, Duplex &d) {
      Duplex *other = nullptr;
      {
        const std::lock_guard lock(mutex);
        other = std::exchange(first, first ? nullptr : &d);
      }
      if (other) {
        relay(*other, d, 10s);
        given_back.set_value();
      } else {
        gate_.arrive();
        given_back.get_future().wait();
      }
    };
    return answer;
  });
  const std::string upgrade = request("GET", "/wait", "Connection: Upgrade\r\nUpgrade: coffer-session\r\n");
  Raw a = raw();
  a.send(upgrade + "to b;");
  ASSERT_TRUE(gate_.await(1));
  Raw b = raw();
  b.send(upgrade);
  ASSERT_TRUE(a.read_until("\r\n\r\n"));
  ASSERT_TRUE(b.read_until("to b;"));
  // More than any buffer holds, while nobody reads.
  const std::string much(4 << 20, 'm');
  std::thread sender([&] {
    b.send(much);
    b.finish();
  });
  a.got.clear();
  EXPECT_EQ(a.read_all().size(), much.size());
  sender.join();
  a.send("after your end");
  a.finish();
  EXPECT_THAT(b.read_all(), testing::EndsWith("after your end"));
  server_->stop();  // the handlers still know what is on this stack
}

// ---- where it listens ----

TEST_F(HttpServer, ReplacesTheSocketOfADeadServerAndNoLiveOneOrOtherFile) {
  ServerConfig config;
  config.unix_mode = 0660;
  start(usual(), config);
  struct stat s;
  ASSERT_EQ(::stat(path_.c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777, 0660u);
  config.unix_path = path_;
  const auto second = Server::start(config, usual());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kAlreadyExists);
  Raw client = raw();
  client.send(kGet);
  EXPECT_TRUE(client.read_until("hello"));

  config.unix_path = folder_ / "file";
  ::close(::open(config.unix_path.c_str(), O_CREAT | O_WRONLY, 0600));
  EXPECT_EQ(Server::start(config, usual()).error().code, ErrorCode::kAlreadyExists);
  EXPECT_TRUE(std::filesystem::is_regular_file(config.unix_path));

  config.unix_path = folder_ / "dead";
  {
    const sdk::Fd dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    config.unix_path.copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
  }
  EXPECT_TRUE(Server::start(config, usual()));
}

TEST_F(HttpServer, RefusesAConfigurationThatItCannotKeep) {
  const auto code = [&](ServerConfig config) { return Server::start(config, usual()).error().code; };
  EXPECT_EQ(code({}), ErrorCode::kInvalidArgument) << "nothing to listen at";
  EXPECT_EQ(code({.tcp = "0.0.0.0:0"}), ErrorCode::kInvalidArgument) << "off loopback without TLS";
  EXPECT_EQ(code({.tcp = "nonsense"}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({.unix_path = "relative"}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({.unix_path = "/" + std::string(200, 'a')}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code({.unix_path = path_, .max_connections = 600}), ErrorCode::kInvalidArgument);
  EXPECT_EQ(
      code({.tcp = "0.0.0.0:0", .tls_certificate_file = folder_ / "none", .tls_key_file = folder_ / "none"}),
      ErrorCode::kNotFound);
  EXPECT_EQ(code({.tcp = "0.0.0.0:0", .tls_certificate_file = folder_ / "none"}),
            ErrorCode::kInvalidArgument);
}

TEST_F(HttpServer, ListensOnLoopbackTcp) {
  auto server = Server::start({.tcp = "127.0.0.1:0"}, [](const Request &r, Context &) {
    return Response::json("\"" + r.peer.address.substr(0, 10) + "\"");
  });
  ASSERT_TRUE(server) << server.error().message;
  Raw client = Raw::to_port((*server)->port());
  client.send(kGet);
  EXPECT_TRUE(client.read_until("\"127.0.0.1:\""));
}

// ---- TLS ----

// A certificate for 127.0.0.1 that vouches for itself, and its key.
void make_certificate(const std::string &certificate_file, const std::string &key_file) {
  EVP_PKEY *const key = EVP_EC_gen("P-256");
  X509 *const certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_NAME *const name = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const uint8_t *>("coffer"), -1, -1,
                             0);
  X509_set_issuer_name(certificate, name);
  X509_EXTENSION *const alternative =
      X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1");
  X509_add_ext(certificate, alternative, -1);
  X509_sign(certificate, key, EVP_sha256());
  std::FILE *f = std::fopen(certificate_file.c_str(), "w");
  PEM_write_X509(f, certificate);
  std::fclose(f);
  f = std::fopen(key_file.c_str(), "w");
  PEM_write_PrivateKey(f, key, nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(f);
  X509_EXTENSION_free(alternative);
  X509_free(certificate);
  EVP_PKEY_free(key);
}

TEST_F(HttpServer, SpeaksTlsWithWhoPinsItsCertificateAndWithNobodyElse) {
  make_certificate(folder_ / "crt", folder_ / "key");
  make_certificate(folder_ / "other.crt", folder_ / "other.key");
  auto server = Server::start(
      {.tcp = "0.0.0.0:0",
       .tls_certificate_file = folder_ / "crt",
       .tls_key_file = folder_ / "key",
       .head_limit = 200ms},
      [&](const Request &r, Context &c) {
        if (r.upgrade) return echo(r, c);
        return Response::json(std::string(view(r.body)));
      },
      [](const Request &) { return Admission{.waits = true}; });
  ASSERT_TRUE(server) << server.error().message;
  const std::string port = std::to_string((*server)->port());
  const auto client = [&](const std::string &host, const std::string &pin) {
    return *Client::open(
        {.url = "https://" + host + ":" + port, .ca_file = pin.empty() ? "" : folder_ / pin});
  };
  const auto pinned = client("127.0.0.1", "crt");
  const std::string large(3 << 20, 'x');
  for (int i = 0; i < 3; ++i) {
    const auto answer = pinned->call({.method = "POST", .body = large});
    ASSERT_TRUE(answer) << answer.error().message;
    EXPECT_EQ(view(answer->body), large);
  }
  Answer refused;
  const auto session = pinned->upgrade({}, refused);
  ASSERT_TRUE(session && *session);
  const auto end = Clock::now() + kPatience;
  ASSERT_TRUE((*session)->write("over TLS", end));
  (*session)->finish_writing();
  std::string got;
  char bytes[100];
  for (;;) {
    const auto n = (*session)->read(bytes, end);
    if (n.value_or(0) == 0) break;
    got.append(bytes, *n);
  }
  EXPECT_EQ(got, "over TLSend");

  EXPECT_EQ(client("127.0.0.1", "other.crt")->call({}).error().code, ErrorCode::kUnauthenticated);
  EXPECT_EQ(client("127.0.0.1", "")->call({}).error().code, ErrorCode::kUnauthenticated);
  EXPECT_EQ(client("127.0.0.2", "crt")->call({}).error().code, ErrorCode::kUnauthenticated) << "another name";
  Raw clear = Raw::to_port((*server)->port());
  clear.send(kGet);
  EXPECT_EQ(clear.read_all().find("HTTP"), std::string::npos);
  Raw silent = Raw::to_port((*server)->port());  // never shakes hands
  EXPECT_EQ(silent.read_all(), "");
  EXPECT_TRUE(pinned->call({}));
}

}  // namespace
}  // namespace coffer::http
