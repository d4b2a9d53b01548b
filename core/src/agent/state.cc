#include "state.h"

#include <string.h>

#include <algorithm>

#include "coffer/format/magic.h"

namespace coffer {
namespace {

void write_instance(Encoder &e, const std::optional<InstanceRecord> &i) {
  e.u8(i ? 1 : 0);
  if (!i) return;
  e.text(i->instance_id).bytes(i->handle).raw(i->spec).u64(i->spec_number).u64(i->version).u64(i->release);
  e.u64(i->started_ms).raw(i->made_of);
  write_list(e, i->files, [](Encoder &to, const Hash &h) { to.raw(h); });
}

Bytes copied(ByteSpan b) { return Bytes(b.begin(), b.end()); }

std::optional<InstanceRecord> read_instance(Decoder &d, bool whole) {
  if (!read_flag(d)) return std::nullopt;
  InstanceRecord i;
  i.instance_id = d.text();
  i.handle = copied(d.bytes());
  i.spec = d.array<32>();
  i.spec_number = d.u64();
  i.version = d.u64();
  i.release = d.u64();
  i.started_ms = d.u64();
  if (!whole) return i;
  i.made_of = d.array<32>();
  i.files = read_list<Hash>(d, [](Decoder &from) { return from.array<32>(); });
  return i;
}

}  // namespace

bool InstanceRecord::mixed() const { return made_of == kMixed; }

std::string_view to_string(State s) {
  switch (s) {
    case State::kCreated:
      return "created";
    case State::kStarting:
      return "starting";
    case State::kStarted:
      return "started";
    case State::kStopping:
      return "stopping";
    case State::kStopped:
      return "stopped";
    case State::kFailed:
      return "failed";
    case State::kDestroyed:
      return "destroyed";
  }
  return "unknown";
}

bool is_foreign(const InstanceRecord &record, const InstanceStatus &i) {
  return i.started_ns > 0 && static_cast<uint64_t>(i.started_ns) / 1'000'000 != record.started_ms;
}

std::string how_it_ended(const InstanceStatus &i) {
  if (i.state == COFFER_M_GONE) return "lost its instance: somebody removed it";
  if (i.out_of_memory) return "ended: out of memory";
  if (i.exit_signal) {
    const char *name = ::sigabbrev_np(i.exit_signal);
    return "ended by signal " + std::to_string(i.exit_signal) +
           (name ? std::string(" (SIG") + name + ")" : "");
  }
  if (i.exit_code == 0 && i.state == COFFER_M_FAILED)
    return "failed" + (i.message.empty() ? "" : ": " + i.message);
  return "ended with exit code " + std::to_string(i.exit_code);
}

bool cut_off(const MachineState &m) { return (m.pending || m.state == State::kStarting) && !m.owner_alive; }

Bytes encode(const MachineState &m) {
  Encoder e = begin("cfd4");
  e.raw(m.app_id).text(m.app).text(m.machine).text(m.name).u8(static_cast<uint8_t>(m.state));
  write_instance(e, m.current);
  write_instance(e, m.pending);
  write_list(e, m.leftovers, [](Encoder &to, const Bytes &b) { to.bytes(b); });
  e.raw(m.last_good).bytes(m.receipt).text(m.message);
  e.text(m.lease_owner).u64(m.lease_attempt).u64(m.lease_until_ms).u64(m.updated_ms);
  e.u8(m.end ? 1 : 0);
  if (m.end) e.u32(static_cast<uint32_t>(m.end->exit_code)).u32(static_cast<uint32_t>(m.end->exit_signal));
  if (m.end) e.u64(m.end->at_ms).u8(m.end->again ? 1 : 0);
  write_instance(e, m.failed);
  return e.take();
}

Result<MachineState> decode_state(ByteSpan in) {
  Decoder d(in);
  MachineState m;
  const std::string_view magic = as_text(in.first(std::min<size_t>(in.size(), 4)));
  const bool first = magic == "cfd1", second = magic == "cfd2", whole = !first && !second && magic != "cfd3";
  begins(d, whole ? "cfd4" : magic);
  m.app_id = d.array<16>();
  m.app = d.text();
  m.machine = d.text();
  m.name = d.text();
  const uint8_t state = d.u8();
  if (state < 1 || state > static_cast<uint8_t>(State::kDestroyed)) d.reject();
  m.state = static_cast<State>(state);
  m.current = read_instance(d, whole);
  m.pending = read_instance(d, whole);
  m.leftovers = read_list<Bytes>(d, [](Decoder &from) { return copied(from.bytes()); });
  m.last_good = d.array<32>();
  m.receipt = copied(d.bytes());
  m.message = d.text();
  m.lease_owner = d.text();
  m.lease_attempt = d.u64();
  m.lease_until_ms = d.u64();
  m.updated_ms = d.u64();
  if (!first && read_flag(d)) {
    End end;
    end.exit_code = static_cast<int32_t>(d.u32());
    end.exit_signal = static_cast<int32_t>(d.u32());
    end.at_ms = d.u64();
    end.again = read_flag(d);
    m.end = end;
  }
  if (!first && !second) m.failed = read_instance(d, whole);
  if (!d.done()) return malformed("Machine state");
  return m;
}

}  // namespace coffer
