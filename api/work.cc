#include "work.h"

#include <utility>

#include "coffer/base/json.h"

namespace coffer::api {

using namespace std::chrono_literals;
constexpr auto kSilence = 10s;  // a client that hears nothing for longer takes the API for dead

void Work::say(std::string_view machine, std::string_view step) {
  JsonWriter j;
  j.begin_object();
  if (!machine.empty()) j.field("machine", machine);
  j.field("step", step).end_object();
  const std::lock_guard lock(mutex_);
  said_ += j.str() + "\n";
  news_.notify();
}

Answer Work::wait(http::Context &context, const std::function<bool(const std::string &)> &each) {
  for (bool there = true;;) {
    const uint64_t seen = news_.count();
    std::string said;
    std::optional<Answer> answer;
    {
      const std::lock_guard lock(mutex_);
      said = std::exchange(said_, {});
      answer = std::exchange(answer_, {});
    }
    if (each && there && !said.empty()) there = each(said);
    if (answer) return *std::move(answer);
    if (there) {
      const auto woken = context.wait(news_, seen, http::Clock::now() + kSilence);
      if (woken == http::Woken::kDeadline && each) there = each("\n");
      there = there && woken != http::Woken::kGone && woken != http::Woken::kStopping;
    } else {
      thread_.join();
    }
  }
}

}  // namespace coffer::api
