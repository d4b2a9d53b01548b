#include "host_wire.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace coffer {

namespace {
constexpr size_t kReadAtOnce = 1u << 20;

Error gone() {
  return {ErrorCode::kUnavailable, "the host's agent has gone", "Is coffer-agent running there?"};
}

Result<void> send_all(int fd, const uint8_t *from, size_t size) {
  while (size > 0) {
    const ssize_t n = ::send(fd, from, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return std::unexpected(gone());
    from += n;
    size -= static_cast<size_t>(n);
  }
  return {};
}

Result<void> receive_all(int fd, uint8_t *to, size_t size) {
  while (size > 0) {
    const ssize_t n = ::recv(fd, to, size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return std::unexpected(gone());
    to += n;
    size -= static_cast<size_t>(n);
  }
  return {};
}

Result<size_t> receive_size(int fd, size_t most) {
  uint8_t head[4];
  COFFER_CHECK(receive_all(fd, head, sizeof head));
  const size_t size = Decoder(head).u32();
  if (size == 0 || size > most) return wire::nonsense();
  return size;
}
}  // namespace

Result<std::pair<MessageSocket, MessageSocket>> MessageSocket::pair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
    return fail(ErrorCode::kResourceExhausted, "no more sockets can be made");
  return std::pair(MessageSocket(sdk::Fd(fds[0])), MessageSocket(sdk::Fd(fds[1])));
}

Result<void> MessageSocket::send(ByteSpan message) {
  const Bytes size = Encoder().u32(static_cast<uint32_t>(message.size())).take();
  COFFER_CHECK(send_all(fd_.get(), size.data(), size.size()));
  return send_all(fd_.get(), message.data(), message.size());
}

Result<Bytes> MessageSocket::receive(size_t most) {
  COFFER_TRY(const size_t size, receive_size(fd_.get(), most));
  Bytes out;  // grows with what comes, not with what was announced
  while (out.size() < size) {
    const size_t at = out.size(), piece = std::min<size_t>(size - at, kReadAtOnce);
    out.resize(at + piece);
    COFFER_CHECK(receive_all(fd_.get(), out.data() + at, piece));
  }
  return out;
}

Result<SecretBytes> MessageSocket::receive_secret(size_t most) {
  COFFER_TRY(const size_t size, receive_size(fd_.get(), most));
  SecretBytes out(size);
  COFFER_CHECK(receive_all(fd_.get(), out.fill().data(), size));
  return out;
}

Result<void> MessageSocket::wait(std::chrono::milliseconds patience) const {
  const auto end = std::chrono::steady_clock::now() + patience;
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd p{fd_.get(), POLLIN, 0};
    const int n = ::poll(&p, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (n > 0) return {};
    if (n == 0)
      return fail(ErrorCode::kDeadlineExceeded, "the host's agent does not answer",
                  "Is the host overloaded?");
  }
}

bool MessageSocket::quiet() const {
  pollfd p{fd_.get(), POLLIN, 0};
  return ::poll(&p, 1, 0) == 0;
}

namespace wire {

void write_texts(Encoder &e, const std::vector<std::string> &all) {
  write_list(e, all, [](Encoder &to, const std::string &t) { to.text(t); });
}
std::vector<std::string> read_texts(Decoder &d) {
  return read_list<std::string>(d, [](Decoder &from) { return from.text(); });
}

void write_state(Encoder &e, const MachineState &m) { e.bytes(encode(m)).u8(m.owner_alive); }
MachineState read_state(Decoder &d) {
  auto m = decode_state(d.bytes());
  if (!m) d.reject();
  MachineState out = m ? *std::move(m) : MachineState{};
  out.owner_alive = read_flag(d);
  return out;
}

namespace {
void write_status(Encoder &e, const InstanceStatus &s) {
  e.u32(s.state).text(s.name).text(s.instance_id).text(s.native_id).text(s.message);
  e.u32(static_cast<uint32_t>(s.exit_code)).u32(static_cast<uint32_t>(s.exit_signal)).u8(s.out_of_memory);
  for (const int64_t at : {s.created_ns, s.started_ns, s.finished_ns}) e.u64(static_cast<uint64_t>(at));
  e.bytes(s.handle);
  write_list(e, s.labels, [](Encoder &to, const auto &l) { to.text(l.first).text(l.second); });
}
InstanceStatus read_status(Decoder &d) {
  InstanceStatus s;
  s.state = d.u32();
  s.name = d.text();
  s.instance_id = d.text();
  s.native_id = d.text();
  s.message = d.text();
  s.exit_code = static_cast<int32_t>(d.u32());
  s.exit_signal = static_cast<int32_t>(d.u32());
  s.out_of_memory = read_flag(d);
  for (int64_t *at : {&s.created_ns, &s.started_ns, &s.finished_ns}) *at = static_cast<int64_t>(d.u64());
  s.handle = copied(d.bytes());
  s.labels = read_list<std::pair<std::string, std::string>>(d, [](Decoder &from) {
    std::string name = from.text();
    return std::pair(std::move(name), from.text());
  });
  return s;
}
}  // namespace

void write_view(Encoder &e, const MachineView &v) {
  write_state(e, v.state);
  e.u8(static_cast<uint8_t>(v.now)).text(v.message);
  e.u8(v.exit_code.has_value()).u32(static_cast<uint32_t>(v.exit_code.value_or(0)));
  e.u32(static_cast<uint32_t>(v.exit_signal)).u8(v.instance.has_value());
  if (v.instance) write_status(e, *v.instance);
  e.u8(v.cut_off).u8(v.busy);
}
MachineView read_view(Decoder &d) {
  MachineView v;
  v.state = read_state(d);
  const uint8_t now = d.u8();
  if (now < 1 || now > static_cast<uint8_t>(State::kDestroyed)) d.reject();
  v.now = static_cast<State>(now);
  v.message = d.text();
  const bool ended = read_flag(d);
  const auto code = static_cast<int32_t>(d.u32());
  if (ended) v.exit_code = code;
  v.exit_signal = static_cast<int32_t>(d.u32());
  if (read_flag(d)) v.instance = read_status(d);
  v.cut_off = read_flag(d);
  v.busy = read_flag(d);
  return v;
}

void write_outcome(Encoder &e, const BootOutcome &o) {
  write_state(e, o.state);
  write_error(e, o.failed);
  e.u8(static_cast<uint8_t>(o.done)).u8(o.went_back);
  write_texts(e, o.warnings);
  e.text(o.log).u8(o.log_withheld);
}
BootOutcome read_outcome(Decoder &d) {
  BootOutcome o;
  o.state = read_state(d);
  o.failed = read_error(d);
  const uint8_t done = d.u8();
  if (done > static_cast<uint8_t>(BootOutcome::Done::kUnchanged)) d.reject();
  o.done = static_cast<BootOutcome::Done>(done);
  o.went_back = read_flag(d);
  o.warnings = read_texts(d);
  o.log = d.text();
  o.log_withheld = read_flag(d);
  return o;
}

void write_order(Encoder &e, const BootOrder &o) {
  e.text(o.app).bytes(o.spec).bytes(encode_part(o.secrets));
}
BootOrder read_order(Decoder &d) {
  BootOrder o;
  o.app = d.text();
  o.spec = copied(d.bytes());
  if (!decode_part(d.bytes(), o.secrets)) d.reject();
  return o;
}

void write_sealed(Encoder &e, const BootOrder::Sealed &s) {
  const auto bytes = [](Encoder &to, const Bytes &b) { to.bytes(b); };
  write_list(e, s.headers, bytes);
  e.bytes(s.proof_header).bytes(s.proof_body);
  write_list(e, s.proof_parts, bytes);
  write_list(e, s.records, [](Encoder &to, const auto &r) { to.text(r.first).bytes(r.second); });
}
BootOrder::Sealed read_sealed(Decoder &d) {
  const auto bytes = [](Decoder &from) { return copied(from.bytes()); };
  BootOrder::Sealed s;
  s.headers = read_list<Bytes>(d, bytes);
  s.proof_header = bytes(d);
  s.proof_body = bytes(d);
  s.proof_parts = read_list<Bytes>(d, bytes);
  s.records = read_list<std::pair<std::string, Bytes>>(d, [](Decoder &from) {
    std::string name = from.text();
    return std::pair(std::move(name), copied(from.bytes()));
  });
  return s;
}

}  // namespace wire
}  // namespace coffer
