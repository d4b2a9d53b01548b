// What a Machine has to do before it counts as updated, and what it said when it did not.
#include <algorithm>
#include <chrono>

#include "coffer/agent/agent.h"
#include "coffer/agent/redactor.h"
#include "coffer/base/codec.h"
#include "held.h"
#include "state.h"

namespace coffer {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr auto kAsk = 1s;           // whether it is wanted yet
constexpr auto kLongestPause = 1s;  // between two tries of a check, whatever its interval: somebody waits
constexpr uint64_t kLogLines = 20;
constexpr size_t kMostLog = 8192;

std::string seconds(uint64_t ms) {
  const std::string whole = std::to_string(ms / 1000);
  return ms % 1000 ? whole + "." + std::to_string(ms % 1000 / 100) + " s" : whole + " s";
}

}  // namespace

// One try.
Result<void> Agent::try_once(const MachineState &m, const Check &check) {
  COFFER_TRY(const Runtime *rt, runtime());
  const CallOptions options = call_options(check.timeout_ms * 1'000'000);
  auto tried = [&]() -> Result<void> {
    if (check.kind != Check::Kind::kCommand) return rt->probe(m.current->handle, check, options);
    const auto nothing = [](uint32_t, ByteSpan) { return true; };
    COFFER_TRY(const int32_t code, rt->exec(m.current->handle, check.command, nothing, {}, options));
    if (code == 0) return {};
    return fail(ErrorCode::kFailedPrecondition, "it ended with exit code " + std::to_string(code));
  }();
  if (!tried && tried.error().code == ErrorCode::kDeadlineExceeded)
    tried.error().message = "no answer within " + seconds(check.timeout_ms);
  return tried;
}

// REQUIRES: its `current` was started just now.
Result<void> Agent::prove(const MachineState &m, const MachineConfig &config, const Probation &probation,
                          const std::function<Result<void>()> &still_wanted) {
  struct Open {
    const Check *check;
    Clock::time_point due;
    std::string last = "it was not tried";
  };
  const auto begin = Clock::now();
  const auto until = begin + std::chrono::milliseconds(probation.smoke_ms);
  const auto patience = begin + std::chrono::milliseconds(probation.patience_ms);
  std::vector<Open> open;
  if (probation.checks)
    for (const Check &c : config.checks) open.push_back({&c, begin + std::chrono::milliseconds(c.grace_ms)});
  if (open.empty() && probation.smoke_ms == 0) return {};
  COFFER_TRY(const Runtime *rt, runtime());
  step(m.machine, open.empty() ? "watching" : "checking");
  auto ask = begin + kAsk;
  for (;;) {
    if (cancelled()) return fail(ErrorCode::kCancelled, "interrupted");
    COFFER_TRY(const InstanceStatus now, rt->inspect(m.current->handle));
    if (now.state != COFFER_M_STARTED)
      return fail(ErrorCode::kUnknown,
                  "its app " + how_it_ended(now) + " within " +
                      seconds(static_cast<uint64_t>(
                          std::chrono::ceil<std::chrono::milliseconds>(Clock::now() - begin).count())) +
                      " of its start");
    for (Open &o : open) {
      if (Clock::now() < o.due) continue;
      if (const auto tried = try_once(m, *o.check); tried) {
        o.check = nullptr;
      } else {
        if (tried.error().code == ErrorCode::kUnimplemented) return tried;
        o.last = tried.error().message;
        o.due = Clock::now() +
                std::min<Clock::duration>(std::chrono::milliseconds(o.check->interval_ms), kLongestPause);
      }
    }
    std::erase_if(open, [](const Open &o) { return !o.check; });
    if (open.empty() && Clock::now() >= until) return {};
    if (!open.empty() && Clock::now() >= patience)
      return fail(ErrorCode::kUnknown, "its check " + open.front().check->name + " did not pass within " +
                                           seconds(probation.patience_ms) + ": " + open.front().last);
    if (still_wanted && Clock::now() >= ask) {
      COFFER_CHECK(still_wanted());
      ask = Clock::now() + kAsk;
    }
    auto next = open.empty() ? until : patience;
    for (const Open &o : open) next = std::min(next, o.due);
    if (still_wanted) next = std::min(next, ask);
    const auto left = next - Clock::now();
    if (left <= 0ns) continue;
    // Until then, or until its app ends.
    const auto waited = rt->wait(m.current->handle,
                                 call_options(static_cast<uint64_t>(std::chrono::nanoseconds(left).count())));
    if (!waited && waited.error().code != ErrorCode::kDeadlineExceeded &&
        waited.error().code != ErrorCode::kCancelled)
      return std::unexpected(waited.error());
  }
}

// The last lines that an instance which failed has written.  `opened`: what it was given; nullptr: that is
// not known.
void Agent::take_log(ByteSpan handle, const BootOrder &order, const std::vector<OpenedSecret> *opened,
                     Boot &boot) const {
  boot.log.clear();
  std::vector<ByteSpan> values;
  std::vector<SecretBytes> decoded;  // of files
  if (opened)
    for (const OpenedSecret &s : *opened) {
      values.push_back(s.value.reveal());
      if (auto bytes = unbase64(as_text(s.value.reveal())); bytes && !bytes->empty()) {
        decoded.push_back(SecretBytes::copy_of(*bytes));
        secure_wipe(bytes->data(), bytes->size());
      }
    }
  for (const SecretBytes &d : decoded)
    if (d.size() >= Redactor::kShortest) values.push_back(d.reveal());
  Redactor redactors[] = {Redactor(values), Redactor(values)};  // of stdout, of stderr
  boot.log_withheld = redactors[0].withhold() || (!opened && !order.secrets.empty());
  if (boot.log_withheld) return;
  const auto rt = runtime();
  if (!rt) return;
  std::string log;
  const auto read = (*rt)->logs(handle, {.follow = false, .since_ns = 0, .tail = kLogLines},
                                [&](uint32_t stream, int64_t, ByteSpan data) {
                                  redactors[stream == 2].add(data, log);
                                  return true;
                                },
                                {5'000'000'000, -1});
  for (Redactor &r : redactors) r.end(log);
  if (!read) return;
  if (log.size() > kMostLog) log.erase(0, log.find('\n', log.size() - kMostLog) + 1);
  if (!log.empty() && log.back() != '\n') log += '\n';
  boot.log = std::move(log);
}

}  // namespace coffer
