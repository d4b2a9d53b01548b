#include <poll.h>

#include "host_wire.h"

namespace coffer {

using namespace wire;

// What may be asked of the caller while a call is under way.
struct HostClient::During {
  const BootOrder *orders[2] = {nullptr, nullptr};  // the next one, the way back
  std::function<bool(uint32_t, int64_t, ByteSpan)> piece = {};
  std::function<int64_t(std::span<uint8_t>)> in = {};
  int in_fd = -1;
};

namespace {

constexpr auto kLookPatience = std::chrono::seconds(30);

// `read(decoder)`
template <class T>
Result<T> result(const Result<Bytes> &in, auto &&read) {
  if (!in) return std::unexpected(in.error());
  Decoder d(*in);
  T out = read(d);
  if (!d.done()) return nonsense();
  return out;
}
Result<void> nothing(const Result<Bytes> &in) {
  if (!in) return std::unexpected(in.error());
  if (!in->empty()) return nonsense();
  return {};
}

Bytes answer(const BootOrder *order, Question question, Decoder &d) {
  if (!order) return refused(nonsense().error());
  if (question == Question::kStillWanted) {
    const auto wanted = order->still_wanted ? order->still_wanted() : Result<void>();
    return wanted ? done().take() : refused(wanted.error());
  }
  const std::vector<std::string> names = read_texts(d);
  if (!d.done() || question != Question::kFetch) return refused(nonsense().error());
  const auto sealed = order->fetch(names);
  if (!sealed) return refused(sealed.error());
  Encoder e = done();
  write_sealed(e, *sealed);
  return e.take();
}

}  // namespace

Result<Bytes> HostClient::call(Bytes request) const { return call(std::move(request), During{}); }

Result<Bytes> HostClient::call(Bytes request, const During &during) const {
  if (broken_) return fail(ErrorCode::kUnavailable, "the host's agent has gone", "Try again.");
  broken_ = true;  // until the answer is there
  const auto verb = static_cast<Verb>(request.at(1));
  only_looked_ = only_looked_ && (looks(verb) || verb == Verb::kWaitChange || verb == Verb::kEnsureImage);
  COFFER_CHECK(link_.send(request));
  bool input = during.in_fd >= 0, wanted = true;
  for (;;) {
    if (input) {
      pollfd fds[] = {{link_.fd(), POLLIN, 0}, {during.in_fd, POLLIN, 0}};
      if (::poll(fds, 2, -1) < 0) continue;  // EINTR
      if (!fds[0].revents) {
        // Never blocked in a send while the agent is: it may have much to say before it takes more.
        pollfd link{link_.fd(), POLLIN | POLLOUT, 0};
        if (::poll(&link, 1, -1) < 0) continue;
        fds[0].revents = link.revents & ~POLLOUT;
      }
      if (!fds[0].revents) {
        uint8_t buffer[kMostInput];
        const int64_t n = during.in(buffer);
        if (n < 0) return fail(ErrorCode::kCancelled, "interrupted");
        input = n > 0;
        const Wiped sent(message(Kind::kInput).raw(ByteSpan(buffer, static_cast<size_t>(n))).take());
        secure_wipe(buffer, sizeof buffer);
        COFFER_CHECK(link_.send(sent.bytes()));
        continue;
      }
    }
    if (looks(verb)) COFFER_CHECK(link_.wait(kLookPatience));
    COFFER_TRY(Bytes received, link_.receive());
    const Wiped in(std::move(received));
    Decoder d(in.bytes());
    switch (static_cast<Kind>(d.u8())) {
      case Kind::kResult: {
        broken_ = false;
        if (auto error = read_error(d)) {
          if (!d.done()) return nonsense();
          return std::unexpected(*std::move(error));
        }
        return copied(d.raw(d.left()));
      }
      case Kind::kAsk: {
        const uint8_t which = d.u8();
        const auto question = static_cast<Question>(d.u8());
        COFFER_CHECK(link_.send(answer(which < 2 ? during.orders[which] : nullptr, question, d)));
        break;
      }
      case Kind::kPiece: {
        const uint32_t stream = d.u32();
        const auto ns = static_cast<int64_t>(d.u64());
        if (!d.ok() || !during.piece) return nonsense();
        if (!wanted || during.piece(stream, ns, d.raw(d.left()))) break;
        wanted = false;
        COFFER_CHECK(link_.send(message(Kind::kEnd).take()));
        break;
      }
      case Kind::kStep: {
        const std::string machine = d.text(), step = d.text();
        if (!d.done()) return nonsense();
        if (steps_) steps_(machine, step);
        break;
      }
      default:
        return nonsense();
    }
  }
}

Result<std::string> HostClient::ensure_image(const std::string &image, bool pull) const {
  return result<std::string>(call(wire::call(Verb::kEnsureImage).text(image).u8(pull).take()),
                             [](Decoder &d) { return d.text(); });
}

Result<BootOutcome> HostClient::boot(Bytes request, const BootOrder &next, const BootOrder *way_back) {
  During during;
  during.orders[0] = &next;
  during.orders[1] = way_back;
  return result<BootOutcome>(call(std::move(request), during), read_outcome);
}

Result<BootOutcome> HostClient::boot(const BootOrder &next, const BootOrder *way_back, const Probation &p) {
  Encoder e = wire::call(Verb::kBoot);
  e.u8(p.may_stay).u64(p.smoke_ms).u8(p.checks).u64(p.patience_ms);
  write_order(e, next);
  e.u8(way_back != nullptr);
  if (way_back) write_order(e, *way_back);
  return boot(e.take(), next, way_back);
}

Result<BootOutcome> HostClient::boot_again(const BootOrder &previous, std::optional<Hash> instead_of) {
  Encoder e = wire::call(Verb::kBootAgain);
  write_order(e, previous);
  e.u8(instead_of.has_value()).raw(instead_of.value_or(Hash{}));
  return boot(e.take(), previous, nullptr);
}

Result<BootOutcome> HostClient::boot_ended(const BootOrder &same, const std::string &instance_id) {
  Encoder e = wire::call(Verb::kBootEnded);
  write_order(e, same);
  return boot(e.text(instance_id).take(), same, nullptr);
}

Result<void> HostClient::hand_over(const BootOrder &order, const std::set<std::string> &only,
                                   const Ticket &ticket) {
  Encoder e = wire::call(Verb::kHandOver);
  write_order(e, order);
  write_texts(e, {only.begin(), only.end()});
  During during;
  during.orders[0] = &order;
  return nothing(call(e.raw(ticket).take(), during));
}

Result<void> HostClient::reserve(const AppId &app, std::string_view app_name, const std::string &machine,
                                 std::string_view name) {
  return nothing(call(wire::call(Verb::kReserve).raw(app).text(app_name).text(machine).text(name).take()));
}
Result<void> HostClient::stop(const std::string &machine) {
  return nothing(call(wire::call(Verb::kStop).text(machine).take()));
}
Result<void> HostClient::finish_stop(const MachineState &seen) {
  Encoder e = wire::call(Verb::kFinishStop);
  write_state(e, seen);
  return nothing(call(e.take()));
}
Result<void> HostClient::announce(const std::string &machine, State next) {
  return nothing(call(wire::call(Verb::kAnnounce).text(machine).u8(static_cast<uint8_t>(next)).take()));
}
Result<void> HostClient::finish_cut_off(const std::string &machine) {
  return nothing(call(wire::call(Verb::kFinishCutOff).text(machine).take()));
}
Result<void> HostClient::destroy(const std::string &machine) {
  return nothing(call(wire::call(Verb::kDestroy).text(machine).take()));
}

Result<std::vector<MachineState>> HostClient::states() const {
  return result<std::vector<MachineState>>(call(wire::call(Verb::kStates).take()),
                                           [](Decoder &d) { return read_list<MachineState>(d, read_state); });
}
Result<std::optional<MachineState>> HostClient::state(const std::string &machine) const {
  return result<std::optional<MachineState>>(
      call(wire::call(Verb::kState).text(machine).take()),
      [](Decoder &d) { return read_flag(d) ? std::optional(read_state(d)) : std::nullopt; });
}
Result<MachineView> HostClient::view(const MachineState &m) const {
  Encoder e = wire::call(Verb::kView);
  write_state(e, m);
  return result<MachineView>(call(e.take()), read_view);
}

Result<std::vector<MachineView>> HostClient::views(const AppId &app) const {
  return result<std::vector<MachineView>>(call(wire::call(Verb::kViews).raw(app).take()),
                                          [](Decoder &d) { return read_list<MachineView>(d, read_view); });
}

Result<void> HostClient::logs(const MachineState &m, const LogQuery &query,
                              const std::function<bool(uint32_t, int64_t, ByteSpan)> &each) {
  Encoder e = wire::call(Verb::kLogs);
  write_state(e, m);
  e.u8(query.follow).u64(static_cast<uint64_t>(query.since_ns)).u64(query.tail).u8(query.failed);
  During during;
  during.piece = each;
  return nothing(call(e.take(), during));
}

Result<int32_t> HostClient::exec(const MachineState &m, const std::vector<std::string> &argv,
                                 const std::function<bool(uint32_t, ByteSpan)> &out,
                                 const std::function<int64_t(std::span<uint8_t>)> &in, int in_fd) {
  Encoder e = wire::call(Verb::kExec);
  write_state(e, m);
  write_texts(e, argv);
  e.u8(in_fd >= 0);
  During during;
  during.piece = [&](uint32_t stream, int64_t, ByteSpan bytes) { return out(stream, bytes); };
  during.in = in;
  during.in_fd = in_fd;
  return result<int32_t>(call(e.take(), during), [](Decoder &d) { return static_cast<int32_t>(d.u32()); });
}

Result<void> HostClient::wait_change(const MachineState &m, uint64_t timeout_ns) {
  Encoder e = wire::call(Verb::kWaitChange);
  write_state(e, m);
  return nothing(call(e.u64(timeout_ns).take()));
}

Result<MachineChanges::News> HostClient::changes(uint64_t seen) {
  return result<MachineChanges::News>(call(wire::call(Verb::kChanges).u64(seen).take()), [](Decoder &d) {
    MachineChanges::News news;
    news.count = d.u64();
    news.all = read_flag(d);
    news.machines = read_texts(d);
    return news;
  });
}

}  // namespace coffer
