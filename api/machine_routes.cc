// Machines: their life, and what is said to them.
#include "coffer/agent/host_streams.h"
#include "coffer/base/names.h"
#include "desk.h"
#include "json.h"
#include "server/http/session.h"

namespace coffer::api {
namespace {

using namespace std::chrono_literals;
constexpr uint64_t kLongestWait = 60;
constexpr auto kLook = 10s;       // for what no host tells: another copy of the API has destroyed it
constexpr auto kFirstWord = 10s;  // of a stream

}  // namespace

Answer Desk::list_machines() {
  COFFER_TRY(const App a, app());
  return listed(control_->machines(a));
}

Answer Desk::run_machine() {
  COFFER_TRY(const JsonValue root, body({"name", "config", "pull"}));
  COFFER_TRY(const JsonValue config, root.at("config"));
  COFFER_TRY(MachineConfig c, read_config(config));
  COFFER_TRY(const auto name, root.find("name"));
  if (name && !name->is_null()) {
    COFFER_TRY(const std::string_view text, name->text());
    if (!text.empty() && !valid_app_name(text))
      return fail(ErrorCode::kInvalidArgument, "field name: a Machine's name is 1 to 63 of a-z, 0-9 and -");
    c.name = text;
  }
  COFFER_TRY(const bool pull, flag(root, "pull"));
  COFFER_TRY(const App a, app());
  return at_length([this, a, c, pull] { return answered(control_->run(a, c, pull, once_ids_), 201); });
}

Answer Desk::get_machine() {
  COFFER_TRY(const App a, app());
  return answered(control_->machine(a, machine()));
}

Answer Desk::destroy_machine() {
  COFFER_TRY(const App a, app());
  COFFER_TRY(const MachineSummary m, control_->machine(a, machine()));
  return at_length([this, a, id = m.id]() -> Answer {
    COFFER_CHECK(control_->destroy(a, id));
    config_.changed->notify(id);
    return said("destroyed");
  });
}

Answer Desk::start_machine() {
  COFFER_TRY(const App a, app());
  return at_length([this, a, m = machine()] { return answered(control_->start(a, m)); });
}

Answer Desk::stop_machine() {
  COFFER_TRY(const App a, app());
  return at_length([this, a, m = machine()] { return answered(control_->stop(a, m)); });
}

Answer Desk::wait_machine() {
  const auto wanted = state_of(asked("state").value_or("started"));
  if (!wanted) return fail(ErrorCode::kInvalidArgument, "query state: not a state of a Machine");
  COFFER_TRY(const uint64_t seconds, asked_number("timeout", kLongestWait, kLongestWait));
  COFFER_TRY(const App a, app());
  const auto end = http::Clock::now() + std::chrono::seconds(seconds);
  std::shared_ptr<http::Signal> changed;
  for (;;) {
    // First this, then the look: no change is missed.
    const uint64_t seen = changed ? changed->count() : 0;
    const auto m = control_->machine(a, machine());
    if (!m && m.error().code == ErrorCode::kNotFound && *wanted == State::kDestroyed)
      return said("destroyed");
    if (!m) return std::unexpected(m.error());
    if (m->state == *wanted) return answered(m);
    if (!changed) {
      changed = config_.changed->of(m->id);
      continue;  // from now on its changes are heard
    }
    if (http::Clock::now() >= end)
      return fail(ErrorCode::kDeadlineExceeded, "Machine " + m->name + " is " +
                                                    std::string(to_string(m->state)) + " after " +
                                                    std::to_string(seconds) + " s");
    stand_up();
    const auto woken = context_.wait(*changed, seen, std::min(end, http::Clock::now() + kLook));
    if (woken == http::Woken::kGone || woken == http::Woken::kStopping)
      return fail(ErrorCode::kUnavailable, "the API is being stopped", "Try again.");
    COFFER_CHECK(sit_down());
  }
}

// Logs, or a command.  Bytes pass; the API neither logs nor stores them.
Answer Desk::streams() {
  if (!request_.upgrade) return fail(ErrorCode::kInvalidArgument, "this is a stream: ask for the upgrade");
  COFFER_TRY(const App a, app());
  COFFER_TRY(const MachineSummary m, control_->machine(a, machine()));
  Response r;
  r.upgrade = [self = shared_from_this(), a, id = m.id, commands = request_.path.back() == "exec"](
                  Context &, http::Duplex &connection) {
    auto pair = MessageSocket::pair();
    if (!pair) return;
    std::thread work([&, link = std::move(pair->first)]() mutable {
      if (!link.wait(kFirstWord)) return;
      const auto wrong = [] { return fail(ErrorCode::kPermissionDenied, "this stream is not for that"); };
      HostStreams streams;
      streams.logs = [&](const LogQuery &query, const auto &each) -> Result<void> {
        if (commands) return wrong();
        return self->control_->logs(a, id, query, each);
      };
      streams.exec = [&](const auto &argv, const auto &out, const auto &in, int in_fd) -> Result<int32_t> {
        if (!commands) return wrong();
        return self->control_->exec(a, id, argv, out, in, in_fd);
      };
      serve_streams(link, streams);
    });
    // A token that was revoked, or has expired, ends it.
    const auto valid = [&] { return self->still_valid(); };
    http::carry(connection, std::move(pair->second), http::kPagerPatience, valid);
    self->hang_up();
    work.join();
  };
  return r;
}

}  // namespace coffer::api
