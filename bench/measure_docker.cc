// measure-docker: runs a command that recreates Machines, and in turn recreates as many containers through
// the raw Engine API, one by one on one kept-alive connection.
//
//   measure-docker --socket PATH --image IMAGE [--containers N] [--pairs N] ::: OURS...
//
// A recreation is what nobody can do without: stop, remove, create, start.  The engine answers `start` when
// the container's first process runs.  {n} in any argument of OURS is the number of the pair.  Which of the
// two comes first changes from pair to pair.  One line comes out, as of measure:
//   ms of OURS, ms of PEER, ratio, MB of OURS, -
#include <Poco/Net/HTTPClientSession.h>
#include <Poco/Net/HTTPRequest.h>
#include <Poco/Net/HTTPResponse.h>
#include <Poco/StreamCopier.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace {

namespace net = Poco::Net;

double now_ms() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) * 1e3 + double(t.tv_nsec) / 1e6;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  const size_t half = v.size() / 2;
  return v.size() % 2 ? v[half] : (v[half - 1] + v[half]) / 2;
}

[[noreturn]] void fail(const std::string &what) {
  std::fprintf(stderr, "measure-docker: %s\n", what.c_str());
  std::exit(1);
}

class Peer : public net::HTTPClientSession {
 public:
  Peer(const std::string &socket_path, std::string image, int n)
      : HTTPClientSession("127.0.0.1", 80),
        address_(net::SocketAddress::UNIX_LOCAL, socket_path),
        image_(std::move(image)),
        names_(static_cast<size_t>(n)) {
    setKeepAlive(true);
    setTimeout(Poco::Timespan(120, 0));
    for (size_t i = 0; i < names_.size(); ++i) {
      names_[i] = "coffer-bench-" + std::to_string(getpid()) + "-" + std::to_string(i);
      make(names_[i]);
    }
  }
  ~Peer() override {
    for (const std::string &name : names_) ask("DELETE", "/containers/" + name + "?force=1&v=1");
  }
  void connect(const net::SocketAddress &) override { socket().connect(address_, getTimeout()); }

  void recreate() {
    for (const std::string &name : names_) {
      ask("POST", "/containers/" + name + "/stop");
      ask("DELETE", "/containers/" + name + "?v=1");
      make(name);
    }
  }

 private:
  void make(const std::string &name) {
    ask("POST", "/containers/create?name=" + name,
        R"({"Image":")" + image_ +
            R"(","Cmd":["sleep"],"StopSignal":"SIGTERM","Labels":{"coffer.bench":"peer"}})");
    ask("POST", "/containers/" + name + "/start");
  }

  void ask(const std::string &method, const std::string &path, const std::string &body = "") {
    net::HTTPRequest request(method, "/v1.41" + path, net::HTTPMessage::HTTP_1_1);
    request.setHost("docker");
    request.setKeepAlive(true);
    if (!body.empty()) request.setContentType("application/json");
    request.setContentLength64(static_cast<Poco::Int64>(body.size()));
    std::ostream &out = sendRequest(request);
    out << body << std::flush;
    net::HTTPResponse response;
    std::string answer;
    Poco::StreamCopier::copyToString(receiveResponse(response), answer);
    if (response.getStatus() >= 300) fail(method + " " + path + ": " + answer);
  }

  const net::SocketAddress address_;
  const std::string image_;
  std::vector<std::string> names_;
};

long run(const std::vector<std::string> &command, int n) {  // -> KiB
  std::vector<std::string> words = command;
  for (std::string &w : words)
    for (size_t at = 0; (at = w.find("{n}", at)) != w.npos;) w.replace(at, 3, std::to_string(n));
  std::vector<char *> argv;
  for (std::string &w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t to_null;
  posix_spawn_file_actions_init(&to_null);
  posix_spawn_file_actions_addopen(&to_null, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t pid = 0;
  int status = 0;
  rusage used{};
  if (posix_spawnp(&pid, argv[0], &to_null, nullptr, argv.data(), environ) != 0)
    fail(words[0] + " cannot be run");
  wait4(pid, &status, 0, &used);
  posix_spawn_file_actions_destroy(&to_null);
  if (status != 0) fail(words[0] + " failed");
  return used.ru_maxrss;
}

}  // namespace

int main(int argc, char **argv) try {
  std::string socket, image;
  int containers = 1, pairs = 15, at = 1;
  for (; at + 1 < argc && std::strcmp(argv[at], ":::") != 0; at += 2) {
    const std::string option = argv[at], value = argv[at + 1];
    if (option == "--socket")
      socket = value;
    else if (option == "--image")
      image = value;
    else if (option == "--containers")
      containers = std::atoi(value.c_str());
    else if (option == "--pairs")
      pairs = std::atoi(value.c_str());
    else
      fail("unknown option " + option);
  }
  const std::vector<std::string> ours(argv + std::min(at + 1, argc), argv + argc);
  if (socket.empty() || image.empty() || ours.empty() || containers < 1 || pairs < 1)
    fail("usage: --socket PATH --image IMAGE [--containers N] [--pairs N] ::: OURS...");

  Peer peer(socket, image, containers);
  std::vector<double> our_ms, peer_ms, ratios;
  long rss_kb = 0;
  for (int n = -1; n < pairs; ++n) {  // -1: to warm up
    double ms[2] = {};
    for (int turn = 0; turn < 2; ++turn) {
      const int which = (turn + n) & 1;
      const double begin = now_ms();
      if (which == 0)
        rss_kb = std::max(rss_kb, run(ours, n));
      else
        peer.recreate();
      ms[which] = now_ms() - begin;
    }
    if (std::getenv("COFFER_BENCH_VERBOSE"))
      std::fprintf(stderr, "%d: %.1f %.1f %.3f\n", n, ms[0], ms[1], ms[0] / ms[1]);
    if (n < 0) continue;
    our_ms.push_back(ms[0]);
    peer_ms.push_back(ms[1]);
    ratios.push_back(ms[0] / ms[1]);
  }
  std::printf("%.1f %.1f %.3f %.1f -\n", median(our_ms), median(peer_ms), median(ratios),
              double(rss_kb) / 1024);
  return 0;
} catch (const Poco::Exception &e) {
  fail("the engine: " + e.displayText());
}
