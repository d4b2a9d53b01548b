// measure-docker: runs a command that recreates Machines, and in turn recreates as many containers through
// the raw Engine API, on kept-alive connections.
//
//   measure-docker --socket PATH --image IMAGE [--containers N] [--parallel N] [--pairs N] ::: OURS...
//
// A recreation is what nobody can do without: stop, remove, create, start.  The engine answers `start` when
// the container's first process runs.  {n} in any argument of OURS is the number of the pair.  Which of the
// two comes first changes from pair to pair.
// Without --parallel the peer works one by one on one connection.  With it, as a roll-out does: a wave of
// one, then waves of a third of the containers, in each so many at once, each with a connection of its own;
// and the new container is created before the old one is stopped, which is removed last. One line comes out,
// medians, and the largest memory:
//   ms of OURS, ms of PEER, ratio, MB of OURS, ms of processor time of OURS and what it waited for
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
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

namespace net = Poco::Net;

double now_ms() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) * 1e3 + double(t.tv_nsec) / 1e6;
}

double ms_of(const timeval &t) { return double(t.tv_sec) * 1e3 + double(t.tv_usec) / 1e3; }

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  const size_t half = v.size() / 2;
  return v.size() % 2 ? v[half] : (v[half - 1] + v[half]) / 2;
}

[[noreturn]] void fail(const std::string &what) {
  std::fprintf(stderr, "measure-docker: %s\n", what.c_str());
  std::exit(1);
}

// One kept-alive connection to the engine.
class Engine : public net::HTTPClientSession {
 public:
  Engine(const std::string &socket_path, std::string image)
      : HTTPClientSession("127.0.0.1", 80),
        address_(net::SocketAddress::UNIX_LOCAL, socket_path),
        image_(std::move(image)) {
    setKeepAlive(true);
    setTimeout(Poco::Timespan(120, 0));
    setKeepAliveTimeout(Poco::Timespan(3600, 0));
    ask("GET", "/_ping");
  }
  void connect(const net::SocketAddress &) override { socket().connect(address_, getTimeout()); }

  void create(const std::string &name) {
    ask("POST", "/containers/create?name=" + name,
        R"({"Image":")" + image_ +
            R"(","Cmd":["sleep"],"StopSignal":"SIGTERM","Labels":{"coffer.bench":"peer"}})");
  }
  void start(const std::string &name) { ask("POST", "/containers/" + name + "/start"); }
  void stop(const std::string &name) { ask("POST", "/containers/" + name + "/stop"); }
  void remove(const std::string &name) { ask("DELETE", "/containers/" + name + "?v=1"); }
  void destroy(const std::string &name) { ask("DELETE", "/containers/" + name + "?force=1&v=1"); }

 private:
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
};

class Peer {
 public:
  // parallel 0: one by one.
  Peer(const std::string &socket_path, const std::string &image, size_t n, size_t parallel)
      : names_(n), parallel_(parallel) {
    for (size_t i = 0; i < std::max<size_t>(parallel, 1); ++i)
      engines_.push_back(std::make_unique<Engine>(socket_path, image));
    for (size_t i = 0; i < n; ++i) {
      names_[i] = name(i);
      engines_[0]->create(names_[i]);
      engines_[0]->start(names_[i]);
    }
  }
  ~Peer() {
    for (const std::string &name : names_) engines_[0]->destroy(name);
  }

  void recreate() {
    ++round_;
    if (parallel_) return in_waves();
    for (std::string &old : names_) {
      engines_[0]->stop(old);
      engines_[0]->remove(old);
      engines_[0]->create(old);
      engines_[0]->start(old);
    }
  }

 private:
  std::string name(size_t i) const {
    return "coffer-bench-" + std::to_string(getpid()) + "-" + std::to_string(round_) + "-" +
           std::to_string(i);
  }
  void in_waves() {
    const size_t most = std::max<size_t>((names_.size() * 333 + 500) / 1000, 1);
    for (size_t at = 0, wave = 1; at < names_.size(); at += wave) {
      wave = at ? std::min(most, names_.size() - at) : 1;
      std::atomic<size_t> next = at;
      const size_t end = at + wave;
      std::vector<std::jthread> threads;
      for (size_t k = 0; k < std::min(parallel_, wave); ++k)
        threads.emplace_back([&, k] {
          try {
            for (size_t i; (i = next++) < end;) replace(*engines_[k], i);
          } catch (const Poco::Exception &e) {
            fail("the engine: " + e.displayText());
          }
        });
    }
  }
  void replace(Engine &engine, size_t i) {
    const std::string fresh = name(i), old = names_[i];
    engine.create(fresh);
    engine.stop(old);
    engine.start(fresh);
    engine.remove(old);
    names_[i] = fresh;
  }

  std::vector<std::string> names_;
  const size_t parallel_;
  std::vector<std::unique_ptr<Engine>> engines_;
  int round_ = 0;
};

rusage run(const std::vector<std::string> &command, int n) {
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
  return used;
}

}  // namespace

int main(int argc, char **argv) try {
  std::string socket, image;
  int containers = 1, parallel = 0, pairs = 15, at = 1;
  for (; at + 1 < argc && std::strcmp(argv[at], ":::") != 0; at += 2) {
    const std::string option = argv[at], value = argv[at + 1];
    if (option == "--socket")
      socket = value;
    else if (option == "--image")
      image = value;
    else if (option == "--containers")
      containers = std::atoi(value.c_str());
    else if (option == "--parallel")
      parallel = std::atoi(value.c_str());
    else if (option == "--pairs")
      pairs = std::atoi(value.c_str());
    else
      fail("unknown option " + option);
  }
  const std::vector<std::string> ours(argv + std::min(at + 1, argc), argv + argc);
  if (socket.empty() || image.empty() || ours.empty() || containers < 1 || parallel < 0 || pairs < 1)
    fail("usage: --socket PATH --image IMAGE [--containers N] [--parallel N] [--pairs N] ::: OURS...");

  Peer peer(socket, image, static_cast<size_t>(containers), static_cast<size_t>(parallel));
  std::vector<double> our_ms, peer_ms, ratios, cpu_ms;
  long rss_kb = 0;
  for (int n = -1; n < pairs; ++n) {  // -1: to warm up
    double ms[2] = {}, cpu = 0;
    for (int turn = 0; turn < 2; ++turn) {
      const int which = (turn + n) & 1;
      const double begin = now_ms();
      if (which == 0) {
        const rusage used = run(ours, n);
        rss_kb = std::max(rss_kb, used.ru_maxrss);
        cpu = ms_of(used.ru_utime) + ms_of(used.ru_stime);
      } else {
        peer.recreate();
      }
      ms[which] = now_ms() - begin;
    }
    if (std::getenv("COFFER_BENCH_VERBOSE"))
      std::fprintf(stderr, "%d: %.1f %.1f %.3f, %.1f\n", n, ms[0], ms[1], ms[0] / ms[1], cpu);
    if (n < 0) continue;
    our_ms.push_back(ms[0]);
    peer_ms.push_back(ms[1]);
    ratios.push_back(ms[0] / ms[1]);
    cpu_ms.push_back(cpu);
  }
  std::printf("%.1f %.1f %.3f %.1f %.1f\n", median(our_ms), median(peer_ms), median(ratios),
              double(rss_kb) / 1024, median(cpu_ms));
  return 0;
} catch (const Poco::Exception &e) {
  fail("the engine: " + e.displayText());
}
