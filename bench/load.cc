#include "bench/load.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <thread>

namespace coffer::bench {

double seconds(http::Clock::duration d) { return std::chrono::duration<double>(d).count(); }

long status_of(pid_t pid, const char *field) {
  const std::string name = std::string(field) + ":";
  std::ifstream in("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name)) return std::atol(line.c_str() + name.size());
  return -1;
}

std::vector<double> at_rate(int clients, int rate, int calls, const std::function<void(int)> &ask) {
  std::vector<double> ms(static_cast<size_t>(calls));
  std::atomic<int> next = 0;
  const auto begin = http::Clock::now();
  {
    std::vector<std::jthread> threads;
    for (int client = 0; client < clients; ++client)
      threads.emplace_back([&, client] {
        for (int i; (i = next++) < calls;) {
          const auto due = begin + i * std::chrono::nanoseconds(1'000'000'000 / rate);
          std::this_thread::sleep_until(due);
          ask(client);
          ms[static_cast<size_t>(i)] = seconds(http::Clock::now() - due) * 1'000;
        }
      });
  }
  std::ranges::sort(ms);
  return ms;
}

double percentile(const std::vector<double> &sorted, int percent) {
  return sorted[std::min(sorted.size() - 1, sorted.size() * static_cast<size_t>(percent) / 100)];
}

struct LongPolls::State {
  int hang_up = ::eventfd(0, EFD_CLOEXEC);
  mutable std::mutex mutex;
  size_t ended = 0;
  std::string first_end;
  std::vector<std::jthread> threads;
};

LongPolls::LongPolls(const std::string &url, const http::Call &call, int polls,
                     std::chrono::milliseconds apart)
    : state_(std::make_unique<State>()) {
  State &s = *state_;
  for (int i = 0; i < polls; ++i) {
    std::this_thread::sleep_for(apart);
    s.threads.emplace_back([&s, url, poll = call]() mutable {
      poll.cancel_fd = s.hang_up;
      const auto client = http::Client::open({.url = url});
      const auto answer = client ? (*client)->call(poll) : std::unexpected(client.error());
      const std::lock_guard lock(s.mutex);
      if (s.ended++ == 0)
        s.first_end = answer ? "status " + std::to_string(answer->status) : answer.error().message;
    });
  }
}

LongPolls::~LongPolls() {
  const uint64_t one = 1;
  (void)!::write(state_->hang_up, &one, sizeof one);
  state_->threads.clear();
  ::close(state_->hang_up);
}

size_t LongPolls::ended() const {
  const std::lock_guard lock(state_->mutex);
  return state_->ended;
}
std::string LongPolls::first_end() const {
  const std::lock_guard lock(state_->mutex);
  return state_->first_end;
}

}  // namespace coffer::bench
