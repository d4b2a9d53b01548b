#include "coffer/format/machine.h"

#include "coffer/format/magic.h"

namespace coffer {
namespace {

void write_text(Encoder &e, const std::string &s) { e.text(s); }
std::string read_text(Decoder &d) { return d.text(); }

void write_file(Encoder &e, const FileBinding &f) {
  e.text(f.guest_path)
      .text(f.secret)
      .text(f.literal)
      .u32(f.mode)
      .u8(static_cast<uint8_t>(f.encoding))
      .u8(f.env);
  e.u8(f.has_owner).u32(f.uid).u32(f.gid);
}

FileBinding read_file(Decoder &d) {
  FileBinding f;
  f.guest_path = d.text();
  f.secret = d.text();
  f.literal = d.text();
  f.mode = d.u32();
  f.encoding = read_flag(d) ? FileEncoding::kBase64 : FileEncoding::kRaw;
  f.env = read_flag(d);
  f.has_owner = read_flag(d);
  f.uid = d.u32();
  f.gid = d.u32();
  return f;
}

uint16_t read_port_number(Decoder &d) {
  const uint32_t n = d.u32();
  if (n > 65535) d.reject();
  return static_cast<uint16_t>(n);
}
Port read_port(Decoder &d) {
  Port p;
  p.host_ip = d.text();
  p.host_port = read_port_number(d);
  p.port = read_port_number(d);
  p.udp = read_flag(d);
  return p;
}

// One of the values 1 .. most of a closed enumeration.
template <class E>
E read_enum(Decoder &d, E most) {
  const uint8_t b = d.u8();
  if (b < 1 || b > static_cast<uint8_t>(most)) d.reject();
  return static_cast<E>(b);
}

}  // namespace

Bytes encode(const MachineConfig &c) {
  Encoder e = begin("cfc2");
  e.text(c.name).text(c.process).text(c.image).text(c.image_name);
  write_list(e, c.entrypoint, write_text);
  write_list(e, c.argv, write_text);
  write_list(e, c.env, [](Encoder &to, const auto &kv) { to.text(kv.first).text(kv.second); });
  write_list(e, c.files, write_file);
  e.text(c.user).text(c.workdir).text(c.stop_signal).u64(c.stop_timeout_ms).u8(static_cast<uint8_t>(c.kind));
  write_list(e, c.ports,
             [](Encoder &to, const Port &p) { to.text(p.host_ip).u32(p.host_port).u32(p.port).u8(p.udp); });
  write_list(e, c.mounts,
             [](Encoder &to, const Mount &m) { to.text(m.source).text(m.target).u8(m.read_only); });
  write_list(e, c.cap_drop, write_text);
  e.text(c.network).u8(c.read_only).u64(c.memory_bytes).u8(static_cast<uint8_t>(c.restart));
  return e.take();
}

Result<MachineConfig> decode_config(ByteSpan in) {
  Decoder d(in);
  MachineConfig c;
  const bool first = as_text(in.first(std::min<size_t>(in.size(), 4))) == "cfc1";
  begins(d, first ? "cfc1" : "cfc2");
  c.name = d.text();
  c.process = d.text();
  c.image = d.text();
  c.image_name = d.text();
  c.entrypoint = read_list<std::string>(d, read_text);
  c.argv = read_list<std::string>(d, read_text);
  c.env = read_list<std::pair<std::string, std::string>>(d, [](Decoder &from) {
    std::string key = from.text();
    return std::pair(std::move(key), from.text());
  });
  c.files = read_list<FileBinding>(d, read_file);
  c.user = d.text();
  c.workdir = d.text();
  c.stop_signal = d.text();
  c.stop_timeout_ms = d.u64();
  c.kind = read_flag(d) ? MachineKind::kLocal : MachineKind::kService;
  if (!first) {
    c.ports = read_list<Port>(d, read_port);
    c.mounts = read_list<Mount>(d, [](Decoder &from) {
      Mount m;
      m.source = from.text();
      m.target = from.text();
      m.read_only = read_flag(from);
      return m;
    });
    c.cap_drop = read_list<std::string>(d, read_text);
    c.network = d.text();
    c.read_only = read_flag(d);
    c.memory_bytes = d.u64();
    c.restart = read_enum(d, RestartPolicy::kAlways);
  }
  if (!d.done()) return malformed("Machine config");
  return c;
}

Bytes encode(const LaunchSpec &s) {
  return begin("cfl1")
      .raw(s.app_id)
      .text(s.machine)
      .u64(s.number)
      .raw(s.undo)
      .bytes(encode(s.config))
      .u64(s.version)
      .raw(s.header)
      .u64(s.release)
      .u64(s.created_ms)
      .take();
}

Result<LaunchSpec> decode_spec(ByteSpan payload) {
  Decoder d(payload);
  LaunchSpec s;
  begins(d, "cfl1");
  s.app_id = d.array<16>();
  s.machine = d.text();
  s.number = d.u64();
  s.undo = d.array<32>();
  const ByteSpan config = d.bytes();
  s.version = d.u64();
  s.header = d.array<32>();
  s.release = d.u64();
  s.created_ms = d.u64();
  if (!d.done() || s.number == 0 || s.version == 0) return malformed("launch spec");
  COFFER_TRY(s.config, decode_config(config));
  return s;
}

Result<SignedSpec> open_spec(Bytes envelope, std::span<const PublicKey> writers) {
  COFFER_TRY(const ByteSpan payload, open_signed(envelope, kLaunchSpecLabel, writers));
  COFFER_TRY(LaunchSpec spec, decode_spec(payload));
  const Hash hash = sha256(envelope);
  return SignedSpec{std::move(spec), std::move(envelope), hash};
}

Bytes encode(const MachineRecord &m) {
  return begin("cfx1")
      .raw(m.app_id)
      .text(m.id)
      .text(m.name)
      .u8(static_cast<uint8_t>(m.desired))
      .u64(m.spec_number)
      .raw(m.spec)
      .u64(m.created_ms)
      .u64(m.updated_ms)
      .take();
}

Result<MachineRecord> decode_machine(ByteSpan payload) {
  Decoder d(payload);
  MachineRecord m;
  begins(d, "cfx1");
  m.app_id = d.array<16>();
  m.id = d.text();
  m.name = d.text();
  m.desired = read_enum(d, Desired::kDestroyed);
  m.spec_number = d.u64();
  m.spec = d.array<32>();
  m.created_ms = d.u64();
  m.updated_ms = d.u64();
  if (!d.done()) return malformed("Machine record");
  return m;
}

Bytes encode(const Release &r) {
  return begin("cfe1")
      .raw(r.app_id)
      .u64(r.number)
      .u64(r.version)
      .u8(static_cast<uint8_t>(r.outcome))
      .u64(r.created_ms)
      .text(r.who)
      .text(r.reason)
      .take();
}

Result<Release> decode_release(ByteSpan payload) {
  Decoder d(payload);
  Release r;
  begins(d, "cfe1");
  r.app_id = d.array<16>();
  r.number = d.u64();
  r.version = d.u64();
  r.outcome = read_enum(d, ReleaseOutcome::kFailed);
  r.created_ms = d.u64();
  r.who = d.text();
  r.reason = d.text();
  if (!d.done()) return malformed("release");
  return r;
}

}  // namespace coffer
