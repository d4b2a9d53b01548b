#include "host_hub.h"

#include <sys/socket.h>

#include <algorithm>

#include "coffer/base/log.h"
#include "server/http/session.h"

namespace coffer::api {
namespace {
using namespace std::chrono_literals;
constexpr auto kReader = 60s;          // an agent that takes nothing is dead
constexpr size_t kMostSpares = 8;      // above, a session ends with its request
constexpr size_t kMostStrangers = 32;  // above, who connects is sent away
}  // namespace

class HostHub::Borrowed : public HostClient {
 public:
  Borrowed(HostHub &hub, Spare spare, Steps steps)
      : HostClient(spare.host, std::move(spare.link), std::move(steps)), hub_(hub) {}
  ~Borrowed() override {
    if (only_looked()) hub_.give_back({host(), take_link()});
  }

 private:
  HostHub &hub_;
};

HostHub::HostHub(Config config)
    : config_(std::move(config)), teller_([this] { tell(); }), watcher_([this] { watch(); }) {}

HostHub::~HostHub() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
    if (watched_ >= 0) ::shutdown(watched_, SHUT_RDWR);
  }
  changed_.notify_all();
  teller_.join();
  watcher_.join();
}

void HostHub::remind() {
  {
    const std::lock_guard lock(mutex_);
    news_ = news_ || sessions_ > 0;
  }
  changed_.notify_all();
}

void HostHub::tell() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return news_ || ends_; });
    if (ends_) return;
    news_ = false;
    lock.unlock();
    if (config_.came) config_.came();
    lock.lock();
  }
}

// Hears from the host which Machines change, over a session of its own.
void HostHub::watch() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return sessions_ > 0 || ends_; });
      if (ends_) return;
    }
    auto spare = take();
    if (!spare) continue;  // take() has waited
    HostClient client(spare->host, std::move(spare->link));
    {
      const std::lock_guard lock(mutex_);
      if (ends_) return;
      watched_ = client.fd();
    }
    for (uint64_t seen = 0;;) {
      const auto news = client.changes(seen);
      if (!news) break;
      seen = news->count;
      if (!config_.changed) continue;
      if (news->all) config_.changed("");
      for (const std::string &machine : news->machines) config_.changed(machine);
    }
    {
      const std::lock_guard lock(mutex_);
      watched_ = -1;
      if (ends_) return;
    }
  }
}

void HostHub::serve(http::Duplex &connection) {
  {
    const std::lock_guard lock(mutex_);
    if (strangers_ >= kMostStrangers) return;
    ++strangers_;
  }
  const auto host = http::hear_hello(connection);
  {
    const std::lock_guard lock(mutex_);
    --strangers_;
    if (host) ++arriving_;
  }
  if (!host) return log(LogLevel::kWarn, "api", "a host was turned away: " + host.error().message);
  const auto turn_away = [&](const std::string &why) {
    log(LogLevel::kWarn, "api", "host " + hex(std::span(*host).first<8>()) + " was turned away: " + why);
    {
      const std::lock_guard lock(mutex_);
      --arriving_;
    }
    changed_.notify_all();
  };
  if (const auto admitted = config_.admit(*host); !admitted) return turn_away(admitted.error().message);
  auto pair = MessageSocket::pair();
  if (!pair) return turn_away(pair.error().message);
  {
    const std::lock_guard lock(mutex_);
    --arriving_;
    if (sessions_++ == 0) news_ = true;
    std::erase_if(spares_, [](const Spare &s) { return !s.link.quiet(); });
    spares_.push_back({*host, std::move(pair->first)});
  }
  changed_.notify_all();
  // One that was revoked meanwhile is sent away.
  http::carry(connection, std::move(pair->second), kReader, [&] {
    const auto admitted = config_.admit(*host);
    return admitted || admitted.error().code != ErrorCode::kPermissionDenied;
  });
  const std::lock_guard lock(mutex_);
  --sessions_;
  last_seen_ = http::Clock::now();
}

void HostHub::give_back(Spare spare) {
  {
    const std::lock_guard lock(mutex_);
    if (ends_ || spares_.size() >= kMostSpares) return;
    spares_.push_front(std::move(spare));  // its agent has everything open
  }
  changed_.notify_all();
}

Result<HostHub::Spare> HostHub::take(const std::optional<PublicKey> &which) {
  const auto end = http::Clock::now() + config_.patience;
  std::unique_lock lock(mutex_);
  for (;;) {
    const auto fits = [&](const Spare &s) { return !which || s.host == *which; };
    for (auto at = spares_.begin(); (at = std::find_if(at, spares_.end(), fits)) != spares_.end();) {
      Spare spare = std::move(*at);
      at = spares_.erase(at);
      if (!spare.link.quiet()) continue;  // its agent has gone
      lock.unlock();
      const auto admitted = config_.admit(spare.host);
      if (admitted || admitted.error().code != ErrorCode::kPermissionDenied) return spare;
      lock.lock();  // it was revoked
      at = spares_.begin();
    }
    // An agent that was there or is coming is waited for, and one that never was is not.
    const auto until = sessions_ || arriving_ ? end : std::min(end, last_seen_ + config_.patience);
    if (ends_ || changed_.wait_until(lock, until) == std::cv_status::timeout)
      return fail(ErrorCode::kUnavailable,
                  which ? "this host's agent is not connected" : "no host's agent is connected",
                  "Start coffer-agent on the host.");
  }
}

Result<std::unique_ptr<HostClient>> HostHub::host(Steps steps, const std::optional<PublicKey> &which) {
  COFFER_TRY(Spare spare, take(which));
  return std::make_unique<Borrowed>(*this, std::move(spare), std::move(steps));
}

}  // namespace coffer::api
