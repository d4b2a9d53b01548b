#include "coffer/agent/kept_orders.h"

#include <algorithm>
#include <map>

#include "coffer/base/log.h"
#include "host_wire.h"

namespace coffer {
namespace {

constexpr std::string_view kSpace = "orders", kMagic = "cfo2";
constexpr size_t kPiece = 1 << 20;  // every storage takes that much

std::string key_of(const std::string &machine, const Hash &spec) { return machine + "/" + hex(spec); }
std::string piece_of(const std::string &key, size_t n) { return key + "/" + std::to_string(n); }

}  // namespace

Result<void> OrderBook::write(const BootOrder &order, const BootOrder::Sealed &sealed) {
  COFFER_TRY(const SignedSpec spec, open_spec(order.spec, writers_));
  Encoder e;
  wire::write_order(e, order);
  wire::write_sealed(e, sealed);
  const Bytes whole = e.take();
  const std::string key = key_of(spec.spec.machine, spec.hash);
  const size_t pieces = (whole.size() + kPiece - 1) / kPiece;
  for (size_t i = 0; i < pieces; ++i) {
    const ByteSpan piece =
        ByteSpan(whole).subspan(i * kPiece).first(std::min(kPiece, whole.size() - i * kPiece));
    Batch b;
    b.put(piece_of(key, i), wire::copied(piece));
    COFFER_CHECK(store_.commit(kSpace, b));
  }
  Batch b;
  b.put(key, begin(kMagic).u32(static_cast<uint32_t>(pieces)).take());
  COFFER_CHECK(store_.commit(kSpace, b));
  return {};
}

void OrderBook::keep(BootOrder &order) {
  BootOrder kept;
  kept.app = order.app;
  kept.spec = order.spec;
  kept.secrets = order.secrets;
  order.fetch = [this, kept = std::move(kept),
                 fetch = std::move(order.fetch)](const auto &names) -> Result<BootOrder::Sealed> {
    auto sealed = fetch(names);
    if (!sealed) return sealed;
    // Not the end of a boot: it only needs the API again when its app ends by itself.
    if (const auto written = write(kept, *sealed); !written)
      log(LogLevel::kWarn, "agent", "an order could not be kept: " + written.error().message);
    return sealed;
  };
}

Result<BootOrder> OrderBook::find(const std::string &machine, const Hash &spec) const {
  const std::string key = key_of(machine, spec);
  COFFER_TRY(const auto head, store_.get(kSpace, key));
  if (!head)
    return fail(ErrorCode::kNotFound, "Machine " + machine + ": its order is not kept on this host",
                "It is booted again when the API is reached: `coffer machine start`.");
  Decoder d(head->value);
  begins(d, kMagic);
  const uint32_t pieces = d.u32();
  if (!d.done()) return malformed("Machine " + machine + ": the kept order");
  Bytes whole;
  for (uint32_t i = 0; i < pieces; ++i) {
    COFFER_TRY(const auto piece, store_.get(kSpace, piece_of(key, i)));
    if (!piece) return malformed("Machine " + machine + ": the kept order");
    whole.insert(whole.end(), piece->value.begin(), piece->value.end());
  }
  Decoder in(whole);
  BootOrder order = wire::read_order(in);
  BootOrder::Sealed sealed = wire::read_sealed(in);
  if (!in.done() || sha256(order.spec) != spec) return malformed("Machine " + machine + ": the kept order");
  order.fetch = [sealed = std::move(sealed),
                 machine](const std::vector<std::string> &names) -> Result<BootOrder::Sealed> {
    BootOrder::Sealed out = sealed;
    std::erase_if(out.records,
                  [&](const auto &r) { return std::ranges::find(names, r.first) == names.end(); });
    if (out.records.size() != names.size())
      return fail(ErrorCode::kFailedPrecondition,
                  "Machine " + machine + ": a secret that it needs is not kept here");
    return out;
  };
  return order;
}

Result<void> OrderBook::tidy(const std::vector<MachineState> &states) {
  std::vector<std::string> needed, all;
  for (const MachineState &s : states) {
    if (s.current) needed.push_back(key_of(s.machine, s.current->spec));
    if (s.pending) needed.push_back(key_of(s.machine, s.pending->spec));
    needed.push_back(key_of(s.machine, s.last_good));
  }
  COFFER_CHECK(store_.list(kSpace, "", false, [&](const Stored &s) {
    const size_t end = s.key.find('/', s.key.find('/') + 1);
    if (std::ranges::find(needed, s.key.substr(0, end)) == needed.end()) all.push_back(s.key);
    return true;
  }));
  for (const std::string &key : all) {
    Batch b;
    b.erase(key);
    COFFER_CHECK(store_.commit(kSpace, b));
  }
  return {};
}

Result<std::vector<std::string>> KeptOrders::finish_cut_off(const MachineState &of) {
  std::vector<std::string> warnings;
  COFFER_TRY(const std::vector<MachineState> all, agent_.states());
  for (const MachineState &before : all) {
    if (before.app_id != of.app_id || agent_.busy(before)) continue;
    if (!cut_off(before) && before.state != State::kStopping && before.lease_owner.empty()) continue;
    COFFER_CHECK(agent_.finish_cut_off(before.machine));
    COFFER_TRY(const auto s, agent_.state(before.machine));
    if (!s || s->state != State::kStarting || !s->current) continue;
    // Its old instance was stopped by then: what it ran is booted again.  What it was to run, the API orders
    // anew.
    const auto again = [&]() -> Result<void> {
      COFFER_TRY(const BootOrder order, book_.find(s->machine, s->current->spec));
      COFFER_TRY(const BootOutcome booted, agent_.boot_again(order));
      if (booted.failed) return std::unexpected(*booted.failed);
      return {};
    };
    if (const auto done = again(); !done)
      warnings.push_back("Machine " + s->machine +
                         " was left by a change that was cut off: " + done.error().message);
  }
  return warnings;
}

Result<Orders::Wanted> KeptOrders::look_at(const MachineState &s) {
  looked_ = s;
  COFFER_TRY(MachineView view, agent_.view(s));
  return Wanted{s.state == State::kStopped && !s.end ? Desired::kStopped : Desired::kStarted,
                std::move(view)};
}

Result<RestartPolicy> KeptOrders::restart_policy() {
  COFFER_TRY(const BootOrder order, book_.find(looked_.machine, looked_.current->spec));
  COFFER_TRY(const SignedSpec spec, open_spec(order.spec, book_.writers()));
  return spec.spec.config.restart;
}

Result<BootOutcome> KeptOrders::boot_ended() {
  COFFER_TRY(const BootOrder order, book_.find(looked_.machine, looked_.current->spec));
  return agent_.boot_ended(order, looked_.current->instance_id);
}

}  // namespace coffer
