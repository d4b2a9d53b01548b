#include "host_wire.h"

namespace coffer {

using namespace wire;

namespace {

constexpr auto kChangesPatience = std::chrono::seconds(30);

class Session {
 public:
  Session(MachineHost &host, MessageSocket &link, const std::function<void(BootOrder &)> &keep,
          MachineChanges *changes)
      : host_(host), link_(link), keep_(keep), changes_(changes) {}

  // False: the link has ended.
  bool serve() {
    const auto in = link_.receive();
    if (!in) return false;
    Decoder d(*in);
    const auto kind = static_cast<Kind>(d.u8());
    if (kind == Kind::kInput || kind == Kind::kEnd) return true;  // of a call that has ended meanwhile
    if (kind != Kind::kCall) return false;
    return link_.send(result_of(d)).has_value();
  }

 private:
  Bytes result_of(Decoder &d) {
    const auto verb = static_cast<Verb>(d.u8());
    const auto bad = [] { return refused(nonsense().error()); };
    switch (verb) {
      case Verb::kEnsureImage: {
        const std::string image = d.text();
        const bool pull = read_flag(d);
        if (!d.done()) return bad();
        return answer(host_.ensure_image(image, pull), [](Encoder &e, const std::string &t) { e.text(t); });
      }
      case Verb::kBoot: {
        Probation probation;
        probation.may_stay = read_flag(d);
        probation.smoke_ms = d.u64();
        probation.checks = read_flag(d);
        probation.patience_ms = d.u64();
        const BootOrder next = boot_order(d, 0);
        std::optional<BootOrder> back;
        if (read_flag(d)) back = boot_order(d, 1);
        if (!d.done()) return bad();
        return answer(host_.boot(next, back ? &*back : nullptr, probation), write_outcome);
      }
      case Verb::kBootAgain: {
        const BootOrder previous = boot_order(d, 0);
        const bool only = read_flag(d);
        const Hash instead_of = d.array<32>();
        if (!d.done()) return bad();
        return answer(host_.boot_again(previous, only ? std::optional(instead_of) : std::nullopt),
                      write_outcome);
      }
      case Verb::kBootEnded: {
        const BootOrder same = boot_order(d, 0);
        const std::string instance = d.text();
        if (!d.done()) return bad();
        return answer(host_.boot_ended(same, instance), write_outcome);
      }
      case Verb::kHandOver: {
        const BootOrder values = order(d, 0);
        const std::vector<std::string> only = read_texts(d);
        const Ticket ticket = d.array<32>();
        return d.done() ? answer(host_.hand_over(values, {only.begin(), only.end()}, ticket)) : bad();
      }
      case Verb::kReserve: {
        const AppId app = d.array<16>();
        const std::string app_name = d.text(), machine = d.text(), name = d.text();
        if (!d.done()) return bad();
        return answer(host_.reserve(app, app_name, machine, name));
      }
      case Verb::kFinishStop: {
        const MachineState seen = read_state(d);
        return d.done() ? answer(host_.finish_stop(seen)) : bad();
      }
      case Verb::kAnnounce: {
        const std::string machine = d.text();
        const uint8_t next = d.u8();
        if (!d.done() || next < 1 || next > static_cast<uint8_t>(State::kDestroyed)) return bad();
        return answer(host_.announce(machine, static_cast<State>(next)));
      }
      case Verb::kStop:
      case Verb::kFinishCutOff:
      case Verb::kDestroy: {
        const std::string machine = d.text();
        if (!d.done()) return bad();
        return answer(verb == Verb::kStop      ? host_.stop(machine)
                      : verb == Verb::kDestroy ? host_.destroy(machine)
                                               : host_.finish_cut_off(machine));
      }
      case Verb::kStates:
        if (!d.done()) return bad();
        return answer(host_.states(), [](Encoder &e, const auto &all) { write_list(e, all, write_state); });
      case Verb::kState: {
        const std::string machine = d.text();
        if (!d.done()) return bad();
        return answer(host_.state(machine), [](Encoder &e, const std::optional<MachineState> &m) {
          e.u8(m.has_value());
          if (m) write_state(e, *m);
        });
      }
      case Verb::kView: {
        const MachineState m = read_state(d);
        return d.done() ? answer(host_.view(m), write_view) : bad();
      }
      case Verb::kViews: {
        const AppId app = d.array<16>();
        if (!d.done()) return bad();
        return answer(host_.views(app), [](Encoder &e, const auto &all) { write_list(e, all, write_view); });
      }
      case Verb::kLogs: {
        const MachineState m = read_state(d);
        return answer_logs(
            link_, d, [&](const LogQuery &query, const auto &each) { return host_.logs(m, query, each); });
      }
      case Verb::kExec: {
        const MachineState m = read_state(d);
        return answer_exec(link_, d, [&](const auto &argv, const auto &out, const auto &in, int in_fd) {
          return host_.exec(m, argv, out, in, in_fd);
        });
      }
      case Verb::kWaitChange: {
        const MachineState m = read_state(d);
        const uint64_t timeout_ns = d.u64();
        return d.done() ? answer(host_.wait_change(m, timeout_ns)) : bad();
      }
      case Verb::kChanges: {
        const uint64_t seen = d.u64();
        if (!d.done() || !changes_) return bad();
        const MachineChanges::News news = changes_->since(seen, kChangesPatience);
        Encoder e = done();
        e.u64(news.count).u8(news.all);
        write_texts(e, news.machines);
        return e.take();
      }
    }
    return bad();
  }

  BootOrder order(Decoder &d, uint8_t which) {
    BootOrder o = read_order(d);
    o.fetch = [this, which](const std::vector<std::string> &names) -> Result<BootOrder::Sealed> {
      Encoder e = message(Kind::kAsk).u8(which).u8(static_cast<uint8_t>(Question::kFetch));
      write_texts(e, names);
      COFFER_TRY(const Bytes answered, ask(e.take()));
      Decoder in(answered);
      BootOrder::Sealed sealed = read_sealed(in);
      if (!in.done()) return nonsense();
      return sealed;
    };
    o.still_wanted = [this, which]() -> Result<void> {
      COFFER_CHECK(
          ask(message(Kind::kAsk).u8(which).u8(static_cast<uint8_t>(Question::kStillWanted)).take()));
      return {};
    };
    return o;
  }
  BootOrder boot_order(Decoder &d, uint8_t which) {
    BootOrder o = order(d, which);
    if (keep_ && d.ok()) keep_(o);
    return o;
  }

  Result<Bytes> ask(Bytes question) {
    COFFER_CHECK(link_.send(question));
    COFFER_TRY(const Bytes in, link_.receive());
    Decoder d(in);
    if (static_cast<Kind>(d.u8()) != Kind::kResult) return nonsense();
    if (auto error = read_error(d)) return std::unexpected(*std::move(error));
    return copied(d.raw(d.left()));
  }

  MachineHost &host_;
  MessageSocket &link_;
  const std::function<void(BootOrder &)> &keep_;
  MachineChanges *const changes_;
};

}  // namespace

Result<void> tell_step(MessageSocket &link, std::string_view machine, std::string_view step) {
  return link.send(message(Kind::kStep).text(machine).text(step).take());
}

void serve_host(MachineHost &host, MessageSocket &link, const std::function<void(BootOrder &)> &keep,
                MachineChanges *changes) {
  Session session(host, link, keep, changes);
  while (session.serve()) {
  }
}

}  // namespace coffer
