// probe_test COFFER_INIT [gtest options]: one try of a check, by the program that makes it in a container.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include <chrono>

#include "../tests/support/command.h"
#include "../tests/support/loopback_server.h"
#include "probe.h"

namespace {
using coffer::tests::Argv;
using coffer::tests::closed_port;
using coffer::tests::LoopbackServer;
using coffer::tests::Outcome;
using testing::StartsWith;

std::string init;

Outcome probe(const std::vector<std::string> &words) {
  Argv argv = {init, "probe"};
  argv.insert(argv.end(), words.begin(), words.end());
  return coffer::tests::run(argv, {"SECRET=canary-5b1f"});
}
Outcome http(const std::string &port, const std::string &timeout_ms = "10000",
             const std::string &method = "GET", const std::string &path = "/health") {
  return probe({"http", port, method, path, timeout_ms});
}
Outcome http(const LoopbackServer &server) { return http(server.port()); }

void expect_passed(const Outcome &o) {
  EXPECT_EQ(o.code, 0);
  EXPECT_EQ(o.out, "");
  EXPECT_EQ(o.err, "");
}
void expect_not_passed(const Outcome &o, const std::string &why) {
  EXPECT_EQ(o.code, 1);
  EXPECT_EQ(o.out, why + "\n");
  EXPECT_EQ(o.err, "");
}

TEST(ProbeTcp, PassesWhereSomethingListensOnly) {
  const LoopbackServer server(LoopbackServer::kSilent);
  expect_passed(probe({"tcp", server.port(), "10000"}));
  expect_not_passed(probe({"tcp", closed_port(), "10000"}), "connection refused");
}

TEST(ProbeTcp, FindsAListenerOfIpv6Alone) {
  const LoopbackServer server(LoopbackServer::kSilent, "", /*ipv6=*/true);
  expect_passed(probe({"tcp", server.port(), "10000"}));
}

// Nothing listens, but the only port that the kernel could choose for our end is the very same.
TEST(ProbeTcp, DoesNotTakeAConnectionWithItselfForTheApp) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root: a network of its own";
  const auto in_own_network = [](const std::string &port) {
    const pid_t child = fork();
    if (child == 0) {
      if (unshare(CLONE_NEWNET) != 0) _exit(124);
      const int s = socket(AF_INET, SOCK_DGRAM, 0);
      ifreq up{};
      strcpy(up.ifr_name, "lo");
      up.ifr_flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING;
      if (ioctl(s, SIOCSIFFLAGS, &up) != 0) _exit(124);
      const int range = open("/proc/sys/net/ipv4/ip_local_port_range", O_WRONLY);
      if (range < 0 || write(range, "40001 40001", 11) != 11) _exit(123);
      execl(init.c_str(), init.c_str(), "probe", "tcp", port.c_str(), "5000", nullptr);
      _exit(124);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  const int code = in_own_network("40001");
  if (code == 123) GTEST_SKIP() << "the range of local ports cannot be set here";
  EXPECT_EQ(code, 1);
}

TEST(ProbeHttp, PassesWithAStatusOfSuccessOnly) {
  for (const auto &[line, why] :
       std::vector<std::pair<std::string, std::string>>{{"HTTP/1.1 200 OK", ""},
                                                        {"HTTP/1.0 200", ""},
                                                        {"HTTP/1.1 204 No Content", ""},
                                                        {"HTTP/1.1 299 x", ""},
                                                        {"HTTP/1.1 199 x", "HTTP status 199"},
                                                        {"HTTP/1.1 301 Moved", "HTTP status 301"},
                                                        {"HTTP/1.1 404 Not Found", "HTTP status 404"},
                                                        {"HTTP/1.1 503 canary", "HTTP status 503"},
                                                        {"HTTP/1.1 2000 OK", "the answer is not HTTP"},
                                                        {"HTTP/1.1 20 OK", "the answer is not HTTP"},
                                                        {"HTTP/1.1 099 OK", "the answer is not HTTP"},
                                                        {"HTTP/1.1  200 OK", "the answer is not HTTP"},
                                                        {"ICY 200 OK", "the answer is not HTTP"},
                                                        {"", "the answer is not HTTP"}}) {
    const LoopbackServer server(LoopbackServer::kAnswer, line + "\r\nServer: canary\r\n\r\ncanary\n");
    if (why.empty())
      expect_passed(http(server));
    else
      expect_not_passed(http(server), why);
  }
}

TEST(ProbeHttp, SendsOneWholeRequest) {
  const LoopbackServer server(LoopbackServer::kAnswer, "HTTP/1.1 200 OK\r\n\r\n");
  const std::string common = " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
  const std::string path = "/" + std::string(COFFER_PROBE_MAX_PATH - 7, 'p') + "?a=%20";
  ASSERT_EQ(path.size(), COFFER_PROBE_MAX_PATH);
  expect_passed(http(server.port(), "10000", "GET", path));
  EXPECT_EQ(server.request(), "GET " + path + common + "\r\n");
  expect_passed(http(server.port(), "10000", "HEAD", "/"));
  EXPECT_EQ(server.request(), "HEAD /" + common + "\r\n");
  expect_passed(http(server.port(), "10000", "POST", "/run?now"));
  EXPECT_EQ(server.request(), "POST /run?now" + common + "Content-Length: 0\r\n\r\n");
}

TEST(ProbeHttp, FindsAListenerOfIpv6Alone) {
  const LoopbackServer server(LoopbackServer::kAnswer, "HTTP/1.1 200 OK\r\n\r\n", /*ipv6=*/true);
  expect_passed(http(server));
  EXPECT_THAT(server.request(), StartsWith("GET /health HTTP/1.1\r\n"));
}

TEST(ProbeHttp, SaysWhatIsWrongWithAServer) {
  expect_not_passed(http(closed_port()), "connection refused");
  const LoopbackServer closes(LoopbackServer::kClose);
  EXPECT_THAT(http(closes).out,
              testing::AnyOf("the connection was closed without an answer\n", "the connection was reset\n"));
  const LoopbackServer half(LoopbackServer::kAnswer, "HTTP/1.1 200 OK");
  expect_not_passed(http(half), "the answer is not HTTP");
}

TEST(ProbeHttp, EndsAtItsTimeout) {
  const LoopbackServer silent(LoopbackServer::kSilent);
  const Outcome o = http(silent.port(), "150");
  expect_not_passed(o, "no answer in time");
  EXPECT_GE(o.seconds, 0.15);
  EXPECT_LT(o.seconds, 5);
}

TEST(ProbeHttp, ReadsNoMoreThanAStatusLine) {
  for (const char *garbage : {"x", "\xff\xfe", "HTTP/1.1 200 "}) {
    const LoopbackServer endless(LoopbackServer::kEndless, garbage);
    expect_not_passed(http(endless), "the answer is not HTTP");
  }
  const LoopbackServer headers(LoopbackServer::kEndless, "HTTP/1.1 200 OK\r\nX: y\r\n");
  expect_passed(http(headers));
  std::string zeros(100, '\0');
  const LoopbackServer binary(LoopbackServer::kAnswer, zeros + "\n");
  expect_not_passed(http(binary), "the answer is not HTTP");
}

TEST(ProbeUsage, RefusesWhatARequestLineCannotHold) {
  for (const std::vector<std::string> &words : std::vector<std::vector<std::string>>{
           {"tcp"},
           {"tcp", "80"},
           {"tcp", "0", "100"},
           {"tcp", "65536", "100"},
           {"tcp", "80x", "100"},
           {"tcp", "-1", "100"},
           {"tcp", "99999999999999999999", "100"},
           {"tcp", "80", "0"},
           {"tcp", "80", "3600001"},
           {"tcp", "80", "100", "x"},
           {"udp", "80", "100"},
           {"http", "80", "100"},
           {"http", "80", "GET", "/", "0"},
           {"http", "80", "get", "/", "100"},
           {"http", "80", "", "/", "100"},
           {"http", "80", "GET /", "/", "100"},
           {"http", "80", "GET", "", "100"},
           {"http", "80", "GET", "health", "100"},
           {"http", "80", "GET", "/a b", "100"},
           {"http", "80", "GET", "/a\r\nX: y", "100"},
           {"http", "80", "GET", "/\xc3\xa4", "100"},
           {"http", "80", "GET", "/" + std::string(COFFER_PROBE_MAX_PATH, 'p'), "100"},
           {"http", "80", std::string(COFFER_PROBE_MAX_METHOD + 1, 'G'), "/", "100"}}) {
    const Outcome o = probe(words);
    EXPECT_EQ(o.code, 2) << testing::PrintToString(words);
    EXPECT_EQ(o.out, "");
    EXPECT_THAT(o.err, StartsWith("usage: coffer-init"));
  }
}

// ---- the same without a process of its own, as runtime-process has it ----
uint64_t in(std::chrono::nanoseconds time) {
  return static_cast<uint64_t>((std::chrono::steady_clock::now().time_since_epoch() + time).count());
}

TEST(Probe, EndsWhenItIsCancelled) {
  const LoopbackServer silent(LoopbackServer::kSilent);
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  const coffer_probe p = {silent.port_number(), "GET", "/", in(std::chrono::seconds(30)), fds[0]};
  std::thread canceller([&] {
    while (silent.request().empty()) usleep(1000);  // it waits for the answer now, or will
    close(fds[1]);
  });
  char why[COFFER_PROBE_WHY];
  EXPECT_EQ(coffer_probe_try(&p, why), COFFER_PROBE_CANCELLED);
  canceller.join();
  close(fds[0]);
}

TEST(Probe, TriesNothingAfterItsDeadline) {
  const LoopbackServer server(LoopbackServer::kAnswer, "HTTP/1.1 200 OK\r\n\r\n");
  const coffer_probe p = {server.port_number(), "GET", "/", 1, -1};
  char why[COFFER_PROBE_WHY];
  EXPECT_EQ(coffer_probe_try(&p, why), COFFER_PROBE_NOT_PASSED);
  EXPECT_STREQ(why, "no answer in time");
}

}  // namespace

int main(int argc, char **argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc != 2) {
    fprintf(stderr, "usage: probe_test COFFER_INIT\n");
    return 2;
  }
  init = argv[1];
  return RUN_ALL_TESTS();
}
