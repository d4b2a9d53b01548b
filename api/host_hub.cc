#include "host_hub.h"

#include "coffer/base/log.h"
#include "server/http/session.h"

namespace coffer::api {
namespace {
using namespace std::chrono_literals;
constexpr auto kPatience = 5s;  // an agent dials again in less
}  // namespace

HostHub::HostHub(Config config) : config_(std::move(config)), teller_([this] { tell(); }) {}

HostHub::~HostHub() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  teller_.join();
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

void HostHub::serve(http::Duplex &connection) {
  const auto host = http::hear_hello(connection);
  if (!host) return log(LogLevel::kWarn, "api", "a host was turned away: " + host.error().message);
  if (const auto admitted = config_.admit(*host); !admitted)
    return log(LogLevel::kWarn, "api",
               "host " + hex(std::span(*host).first<8>()) + " was turned away: " + admitted.error().message);
  auto pair = MessageSocket::pair();
  if (!pair) return log(LogLevel::kWarn, "api", pair.error().message);
  {
    const std::lock_guard lock(mutex_);
    if (sessions_++ == 0) news_ = true;
    std::erase_if(spares_, [](const Spare &s) { return !s.link.quiet(); });
    spares_.push_back({*host, std::move(pair->first)});
  }
  changed_.notify_all();
  http::carry(connection, std::move(pair->second));
  const std::lock_guard lock(mutex_);
  --sessions_;
}

Result<std::unique_ptr<MachineHost>> HostHub::host() {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  std::unique_lock lock(mutex_);
  for (;;) {
    while (!spares_.empty()) {
      Spare spare = std::move(spares_.front());
      spares_.pop_front();
      if (!spare.link.quiet()) continue;  // its agent has gone
      return std::make_unique<HostClient>(spare.host, std::move(spare.link));
    }
    if (ends_ || changed_.wait_until(lock, end) == std::cv_status::timeout)
      return fail(ErrorCode::kUnavailable, "no host's agent is connected", "Start coffer-agent on the host.");
  }
}

}  // namespace coffer::api
