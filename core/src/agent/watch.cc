#include "watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <new>

namespace coffer {
namespace {

using namespace std::chrono_literals;
constexpr size_t kMostNews = 1024;
constexpr auto kShortestPause = 100ms, kLongestPause = 5000ms, kStable = 5000ms;

int event_fd() {
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) throw std::bad_alloc();
  return fd;
}

void raise(int fd) {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(fd, &one, sizeof one);
}

std::string machine_of(const InstanceStatus &s) {
  const auto at = std::ranges::find(s.labels, "coffer.machine", &std::pair<std::string, std::string>::first);
  return at == s.labels.end() ? "" : at->second;
}

}  // namespace

Watch::Watch(Runtime runtime, std::pair<std::string, std::string> label)
    : runtime_(std::move(runtime)), labels_{std::move(label)}, news_fd_(event_fd()), stop_fd_(event_fd()) {
  thread_ = std::thread([this] { listen(); });
}

Watch::~Watch() {
  raise(stop_fd_);
  thread_.join();
  ::close(news_fd_);
  ::close(stop_fd_);
}

Watch::News Watch::take() {
  const std::lock_guard lock(mutex_);
  uint64_t count;
  [[maybe_unused]] const ssize_t n = ::read(news_fd_, &count, sizeof count);
  return std::exchange(news_, {});
}

void Watch::tell(const std::function<void(News &)> &change) {
  const std::lock_guard lock(mutex_);
  change(news_);
  raise(news_fd_);
}

bool Watch::stopped_within(std::chrono::milliseconds time) const {
  pollfd p{stop_fd_, POLLIN, 0};
  return ::poll(&p, 1, static_cast<int>(time.count())) != 0;
}

void Watch::listen() {
  auto pause = kShortestPause;
  while (!stopped_within(0ms)) {
    const auto begin = std::chrono::steady_clock::now();
    Result<void> heard = hear();
    if (!heard && heard.error().code == ErrorCode::kUnimplemented) heard = look_each_second();
    if (stopped_within(0ms)) return;
    Error why = heard ? Error{ErrorCode::kUnavailable, "the runtime stopped telling of changes"}
                      : std::move(heard).error();
    tell([&](News &n) {
      n = {};  // what was heard before is looked at when it listens again
      n.lost = std::move(why);
    });
    if (std::chrono::steady_clock::now() - begin > kStable) pause = kShortestPause;
    if (stopped_within(pause)) return;
    pause = std::min<std::chrono::milliseconds>(2 * pause, kLongestPause);
  }
}

Result<void> Watch::hear() {
  return runtime_.events(labels_,
                         [this](const InstanceStatus &s) {
                           tell([&](News &n) {
                             if (s.instance_id.empty())
                               n.listens = true;
                             else if (n.machines.size() < kMostNews)
                               n.machines.insert(machine_of(s));
                             else
                               n.overflow = true;
                           });
                           return true;
                         },
                         {0, stop_fd_});
}

// For a runtime that does not tell of changes.
Result<void> Watch::look_each_second() {
  struct Seen {
    uint32_t state;
    int64_t started_ns;
    std::string machine;
    bool operator==(const Seen &) const = default;
  };
  std::map<std::string, Seen> before;
  for (bool first = true; first || !stopped_within(1000ms); first = false) {
    COFFER_TRY(const std::vector<InstanceStatus> all, runtime_.list(labels_, {0, stop_fd_}));
    std::map<std::string, Seen> now;
    for (const InstanceStatus &s : all)
      now.emplace(s.instance_id, Seen{s.state, s.started_ns, machine_of(s)});
    std::set<std::string> changed;
    const auto compare = [&](const auto &these, const auto &those) {
      for (const auto &[id, seen] : these)
        if (const auto at = those.find(id); at == those.end() || at->second != seen)
          changed.insert(seen.machine);
    };
    compare(now, before);
    compare(before, now);
    if (first) tell([](News &n) { n.listens = true; });
    if (!first && !changed.empty()) tell([&](News &n) { n.machines.merge(changed); });
    before = std::move(now);
  }
  return {};
}

}  // namespace coffer
