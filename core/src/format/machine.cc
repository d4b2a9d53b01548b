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

void write_check(Encoder &e, const Check &c) {
  e.text(c.name).u8(static_cast<uint8_t>(c.kind)).u32(c.port).text(c.method).text(c.path);
  write_list(e, c.command, write_text);
  e.u64(c.grace_ms).u64(c.interval_ms).u64(c.timeout_ms);
}
Check read_check(Decoder &d) {
  Check c;
  c.name = d.text();
  c.kind = read_enum(d, Check::Kind::kCommand);
  c.port = read_port_number(d);
  c.method = d.text();
  c.path = d.text();
  c.command = read_list<std::string>(d, read_text);
  c.grace_ms = d.u64();
  c.interval_ms = d.u64();
  c.timeout_ms = d.u64();
  return c;
}

}  // namespace

Bytes encode(const MachineConfig &c) {
  Encoder e = begin("cfc3");
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
  e.u8(c.secrets.has_value());
  write_list(e, c.secrets.value_or(std::vector<SecretVariable>()),
             [](Encoder &to, const SecretVariable &s) { to.text(s.secret).text(s.variable); });
  write_list(e, c.checks, write_check);
  write_list(e, c.files, [](Encoder &to, const FileBinding &f) { to.text(f.reload); });
  return e.take();
}

Result<MachineConfig> decode_config(ByteSpan in) {
  Decoder d(in);
  MachineConfig c;
  const std::string_view magic = as_text(in.first(std::min<size_t>(in.size(), 4)));
  const bool first = magic == "cfc1", second = magic == "cfc2";
  begins(d, first ? "cfc1" : second ? "cfc2" : "cfc3");
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
  if (!first && !second) {
    const bool chosen = read_flag(d);
    auto secrets = read_list<SecretVariable>(d, [](Decoder &from) {
      std::string secret = from.text();
      return SecretVariable{std::move(secret), from.text()};
    });
    if (chosen) c.secrets = std::move(secrets);
    c.checks = read_list<Check>(d, read_check);
    const std::vector<std::string> reload = read_list<std::string>(d, read_text);
    if (reload.size() == c.files.size())
      for (size_t i = 0; i < reload.size(); ++i) c.files[i].reload = reload[i];
    else
      d.reject();
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
  Encoder e = begin("cfe2");
  e.raw(r.app_id).u64(r.number).u64(r.version).u8(static_cast<uint8_t>(r.outcome)).u64(r.created_ms);
  e.text(r.who).text(r.reason).text(r.why);
  e.u8(r.policy.has_value());
  if (r.policy) {
    e.u8(static_cast<uint8_t>(r.policy->strategy)).u32(r.policy->max_unavailable);
    e.u64(r.policy->smoke_ms).u64(r.policy->patience_ms);
  }
  write_list(e, r.configs, [](Encoder &to, const MachineConfig &c) { to.bytes(encode(c)); });
  return e.take();
}

Result<Release> decode_release(ByteSpan payload) {
  Decoder d(payload);
  Release r;
  const bool first = as_text(payload.first(std::min<size_t>(payload.size(), 4))) == "cfe1";
  begins(d, first ? "cfe1" : "cfe2");
  r.app_id = d.array<16>();
  r.number = d.u64();
  r.version = d.u64();
  r.outcome = read_enum(d, ReleaseOutcome::kFailed);
  r.created_ms = d.u64();
  r.who = d.text();
  r.reason = d.text();
  std::vector<Bytes> configs;
  if (!first) {
    r.why = d.text();
    if (read_flag(d)) {
      r.policy.emplace();
      r.policy->strategy = read_enum(d, Strategy::kImmediate);
      r.policy->max_unavailable = d.u32();
      r.policy->smoke_ms = d.u64();
      r.policy->patience_ms = d.u64();
    }
    configs = read_list<Bytes>(d, [](Decoder &from) {
      const ByteSpan b = from.bytes();
      return Bytes(b.begin(), b.end());
    });
  }
  if (!d.done()) return malformed("release");
  for (const Bytes &config : configs) {
    COFFER_TRY(MachineConfig c, decode_config(config));
    r.configs.push_back(std::move(c));
  }
  return r;
}

Bytes encode(const Rollout &r) {
  Encoder e = begin("cfR1");
  e.raw(r.app_id).u64(r.release).u64(r.version).u8(static_cast<uint8_t>(r.stage));
  e.text(r.owner).u64(r.beat).u32(r.waves).u8(r.hasty).text(r.why);
  write_list(e, r.steps, [](Encoder &to, const Rollout::Step &s) {
    to.text(s.machine).text(s.name).raw(s.next).raw(s.back).u8(s.made).u8(s.ran);
  });
  write_list(e, r.removed, write_text);
  return e.take();
}

Result<Rollout> decode_rollout(ByteSpan payload) {
  Decoder d(payload);
  Rollout r;
  begins(d, "cfR1");
  r.app_id = d.array<16>();
  r.release = d.u64();
  r.version = d.u64();
  r.stage = read_enum(d, Rollout::Stage::kBack);
  r.owner = d.text();
  r.beat = d.u64();
  r.waves = d.u32();
  r.hasty = read_flag(d);
  r.why = d.text();
  r.steps = read_list<Rollout::Step>(d, [](Decoder &from) {
    Rollout::Step s;
    s.machine = from.text();
    s.name = from.text();
    s.next = from.array<32>();
    s.back = from.array<32>();
    s.made = read_flag(from);
    s.ran = read_flag(from);
    return s;
  });
  r.removed = read_list<std::string>(d, read_text);
  if (!d.done()) return malformed("roll-out");
  return r;
}

}  // namespace coffer
