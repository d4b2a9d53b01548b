// measure_http: what the HTTP layer costs by itself, over a unix socket, with the server in a process of its
// own.
//   idle KB, KB with 500 long polls waiting, requests/s of one and of 16 clients, p50/p99 at 200 requests/s
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <thread>

#include "bench/load.h"
#include "server/http/server.h"

namespace http = coffer::http;
using namespace coffer::bench;
using namespace std::chrono_literals;

namespace {

[[noreturn]] void serve(const std::string &path, int ready) {
  static http::Signal never;
  auto server = http::Server::start(
      {.unix_path = path},
      [](const http::Request &r, http::Context &c) {
        if (!r.path.empty()) c.wait(never, 0, http::Clock::now() + 600s);
        return http::Response::json("{}");
      },
      [](const http::Request &r) { return http::Admission{.waits = !r.path.empty()}; });
  if (!server || ::write(ready, "x", 1) != 1) ::_exit(1);
  for (;;) ::pause();
}

}  // namespace

int main() {
  const std::string path = "/tmp/coffer-measure-http." + std::to_string(::getpid());
  int ready[2];
  if (::pipe(ready) != 0) return 1;
  const pid_t server = ::fork();
  if (server == 0) serve(path, ready[1]);
  char byte;
  ::close(ready[1]);
  if (::read(ready[0], &byte, 1) != 1) return 1;
  std::printf("idle                        %8ld KB\n", status_of(server, "VmRSS"));

  const auto client = *http::Client::open({.url = "unix://" + path});
  const auto ask = [&] {
    if (!client->call({})) std::abort();
  };
  for (int i = 0; i < 1'000; ++i) ask();
  auto begin = http::Clock::now();
  for (int i = 0; i < 20'000; ++i) ask();
  std::printf("one client, one after other %8.0f requests/s\n", 20'000 / seconds(http::Clock::now() - begin));
  begin = http::Clock::now();
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 16; ++t)
      threads.emplace_back([&] {
        const auto own = *http::Client::open({.url = "unix://" + path});
        for (int i = 0; i < 3'000; ++i)
          if (!own->call({})) std::abort();
      });
  }
  std::printf("16 clients                  %8.0f requests/s\n", 48'000 / seconds(http::Clock::now() - begin));

  const std::vector<double> ms = at_rate(1, 200, 2'000, [&](int) { ask(); });
  std::printf("at 200 requests/s           %8.2f ms p50 %8.2f ms p99 %8.2f ms most\n", percentile(ms, 50),
              percentile(ms, 99), ms.back());

  {
    // Not all at once: more than there are workers at one moment are answered 503.
    const LongPolls polls("unix://" + path, {.target = "/wait", .timeout = 600s}, 500, 2ms);
    // Each of them has a thread of the server.
    while (status_of(server, "Threads") < 502 && polls.ended() == 0) std::this_thread::sleep_for(10ms);
    if (polls.ended() != 0) std::printf("%zu did not wait: %s\n", polls.ended(), polls.first_end().c_str());
    std::printf("500 long polls              %8ld KB\n", status_of(server, "VmRSS"));
  }
  ::kill(server, SIGKILL);
  ::waitpid(server, nullptr, 0);
  ::unlink(path.c_str());
}
