// The wire of the key service, from both sides, and its client.  The server's loop: key_server.cc.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "coffer/base/unix_socket.h"
#include "coffer/format/magic.h"
#include "coffer/keys/key_socket.h"

namespace coffer {
namespace {

constexpr int kAnswerPatienceMs = 60'000;  // a KMS may be slow
constexpr size_t kLargestAnswer = 256u << 20;

enum class Verb : uint8_t {
  kCreateApp = 1,
  kDestroyApp,
  kSeen,
  kAdvance,
  kGrant,
  kRevoke,
  kToken,
  kOpen,
  kEnrol,
  kList,
  kUnlock,
  kInvite,
  kHosts,
  kRevokeHost,
  kExchange,
  kRotate,
  kReseal,
  kRetire,
  kRewrap,
};

unsigned who_may(Verb v) {
  constexpr unsigned kAnybody = ~0u;
  switch (v) {
    case Verb::kCreateApp:
    case Verb::kDestroyApp:
    case Verb::kSeen:
    case Verb::kAdvance:
    case Verb::kGrant:
    case Verb::kRevoke:
    case Verb::kExchange:
    case Verb::kRotate:
    case Verb::kReseal:
    case Verb::kRetire:
      return kCallerApi;
    case Verb::kToken:
      return kCallerAgent;
    case Verb::kOpen:
    case Verb::kEnrol:
      return kAnybody;
    case Verb::kList:
    case Verb::kHosts:
      return kCallerApi | kCallerAdmin;
    case Verb::kUnlock:
    case Verb::kInvite:
    case Verb::kRevokeHost:
    case Verb::kRewrap:
      return kCallerAdmin;
  }
  return 0;
}

void write_app_key(Encoder &e, const AppKeys::AppKey &k) { e.raw(k.app_id).bytes(k.signed_record); }
AppKeys::AppKey read_app_key(Decoder &d) {
  AppKeys::AppKey k;
  k.app_id = d.array<16>();
  const ByteSpan record = d.bytes();
  k.signed_record.assign(record.begin(), record.end());
  return k;
}

Encoder request(Verb v) { return std::move(Encoder().u8(static_cast<uint8_t>(v))); }
Encoder done() { return std::move(Encoder().u32(0)); }

Bytes refused(const Error &e) {
  return Encoder().u32(static_cast<uint32_t>(e.code)).text(e.message).text(e.remedy).take();
}
Bytes answer(Result<void> r) { return r ? done().take() : refused(r.error()); }
// `write(encoder, value)`
template <class T>
Bytes answer(const Result<T> &r, auto &&write) {
  if (!r) return refused(r.error());
  Encoder e = done();
  write(e, *r);
  return e.take();
}

std::unexpected<Error> nonsense() {
  return fail(ErrorCode::kDataLoss, "the key service answered something that cannot be read");
}
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

void write_bytes(Encoder &e, const Bytes &b) { e.bytes(b); }
Bytes read_bytes(Decoder &d) {
  const ByteSpan b = d.bytes();
  return Bytes(b.begin(), b.end());
}
void write_checkpoint(Encoder &e, const Checkpoint &c) { e.u64(c.number).raw(c.hash); }
Checkpoint read_checkpoint(Decoder &d) {
  Checkpoint c;
  c.number = d.u64();
  c.hash = d.array<32>();
  return c;
}
bool read_bool(Decoder &d) { return read_flag(d); }

void write_key(Encoder &e, const KeyInfo &k) {
  e.text(k.app).raw(k.app_id).u32(k.epoch).raw(k.public_key).u8(k.destroyed);
  write_list(e, k.old_epochs, [](Encoder &to, uint32_t epoch) { to.u32(epoch); });
}
KeyInfo read_key(Decoder &d) {
  KeyInfo k;
  k.app = d.text();
  k.app_id = d.array<16>();
  k.epoch = d.u32();
  k.public_key = d.array<32>();
  k.destroyed = read_bool(d);
  k.old_epochs = read_list<uint32_t>(d, [](Decoder &from) { return from.u32(); });
  return k;
}
void write_host(Encoder &e, const HostInfo &h) { e.text(h.name).raw(h.key).u64(h.enrolled_ms).u8(h.revoked); }
HostInfo read_host(Decoder &d) {
  HostInfo h;
  h.name = d.text();
  h.key = d.array<32>();
  h.enrolled_ms = d.u64();
  h.revoked = read_bool(d);
  return h;
}

}  // namespace

bool reports_headers(ByteSpan request) { return static_cast<Verb>(Decoder(request).u8()) == Verb::kAdvance; }

Bytes answer_key_request(Keys &keys, unsigned callers, ByteSpan request) {
  Decoder d(request);
  const auto verb = static_cast<Verb>(d.u8());
  const unsigned may = who_may(verb);
  const auto wrong = [] {
    return refused({ErrorCode::kInvalidArgument, "the request to the key service cannot be read"});
  };
  if (!may) return wrong();
  if (may != ~0u && !(may & callers))
    return refused({ErrorCode::kPermissionDenied, "this user may not ask that of the key service",
                    may & kCallerAdmin
                        ? "Run it as root, or as the key service's own user."
                        : "Name the user under `api` or `agents` in [keys] of its engine.toml."});
  switch (verb) {
    case Verb::kCreateApp: {
      const std::string name = d.text();
      if (!d.done()) return wrong();
      return answer(keys.create_app(name), write_app_key);
    }
    case Verb::kDestroyApp: {
      const std::string name = d.text();
      return d.done() ? answer(keys.destroy_app(name)) : wrong();
    }
    case Verb::kSeen: {
      const AppId app = d.array<16>();
      if (!d.done()) return wrong();
      return answer(keys.seen(app), [](Encoder &e, const std::optional<SeenHead> &s) {
        e.u8(s.has_value()).u64(s ? s->version : 0).raw(s ? s->header : Hash{});
      });
    }
    case Verb::kAdvance: {
      const AppId app = d.array<16>();
      const auto headers = read_list<Bytes>(d, read_bytes);
      return d.done() ? answer(keys.advance(app, headers)) : wrong();
    }
    case Verb::kGrant: {
      const AppId app = d.array<16>();
      const std::string machine = d.text();
      const PublicKey host = d.array<32>();
      const Bytes spec = read_bytes(d);
      return d.done() ? answer(keys.grant(app, machine, host, spec)) : wrong();
    }
    case Verb::kRevoke: {
      const AppId app = d.array<16>();
      const std::string machine = d.text();
      return d.done() ? answer(keys.revoke(app, machine)) : wrong();
    }
    case Verb::kToken: {
      const ByteSpan signed_request = d.bytes();
      return d.done() ? answer(keys.token(signed_request), write_bytes) : wrong();
    }
    case Verb::kOpen: {
      const ByteSpan signed_request = d.bytes();
      return d.done() ? answer(keys.open(signed_request), write_bytes) : wrong();
    }
    case Verb::kEnrol: {
      const ByteSpan signed_request = d.bytes();
      return d.done() ? answer(keys.enrol(signed_request)) : wrong();
    }
    case Verb::kList:
      if (!d.done()) return wrong();
      return answer(keys.list(), [](Encoder &e, const auto &all) { write_list(e, all, write_key); });
    case Verb::kUnlock:
      return d.done() ? answer(keys.unlock()) : wrong();
    case Verb::kInvite: {
      const std::string name = d.text();
      if (!d.done()) return wrong();
      return answer(keys.invite(name), [](Encoder &e, const std::string &token) { e.text(token); });
    }
    case Verb::kHosts:
      if (!d.done()) return wrong();
      return answer(keys.hosts(), [](Encoder &e, const auto &all) { write_list(e, all, write_host); });
    case Verb::kRevokeHost: {
      const std::string which = d.text();
      return d.done() ? answer(keys.revoke_host(which)) : wrong();
    }
    case Verb::kExchange: {
      const Checkpoint mine = read_checkpoint(d);
      return d.done() ? answer(keys.exchange(mine), write_checkpoint) : wrong();
    }
    case Verb::kRotate: {
      const AppId app = d.array<16>();
      const uint32_t from = d.u32();
      return d.done() ? answer(keys.rotate(app, from), write_app_key) : wrong();
    }
    case Verb::kReseal: {
      const ByteSpan reseal_request = d.bytes();
      return d.done() ? answer(keys.reseal(reseal_request), write_bytes) : wrong();
    }
    case Verb::kRetire: {
      const AppId app = d.array<16>();
      const uint32_t oldest = d.u32();
      return d.done() ? answer(keys.retire(app, oldest)) : wrong();
    }
    case Verb::kRewrap:
      return d.done() ? answer(keys.rewrap()) : wrong();
  }
  return wrong();
}

// ---- the client ----

struct KeyClient::Connection {
  std::string socket;
  std::function<Result<sdk::Fd>()> dial = {};  // absent: `socket` is connected to
  int fd = -1;

  ~Connection() { close(); }
  void close() {
    if (fd >= 0) ::close(std::exchange(fd, -1));
  }
  std::unexpected<Error> gone(const char *what) {
    close();
    return fail(ErrorCode::kUnavailable, "the key service at " + socket + " " + what,
                "Start it (`systemctl start coffer-keys`). Running Machines are not affected.");
  }

  Result<void> connect() {
    // One that the service has ended meanwhile is noticed before anything is sent on it.
    pollfd p{fd, POLLIN | POLLRDHUP, 0};
    if (fd >= 0 && ::poll(&p, 1, 0) != 0) close();
    if (fd >= 0) return {};
    if (dial) {
      COFFER_TRY(sdk::Fd dialled, dial());
      fd = dialled.release();
      return {};
    }
    auto connected = connect_unix(socket);
    if (!connected && connected.error().code == ErrorCode::kUnavailable) return gone("does not answer");
    if (!connected) return std::unexpected(std::move(connected).error().in("the key service"));
    fd = connected->release();
    return {};
  }

  // All of `size` bytes, in or out, while the other side keeps moving.
  template <class F>
  bool all(size_t size, short events, F &&move) {
    for (size_t at = 0; at < size;) {
      const ssize_t n = move(at, size - at);
      if (n > 0) {
        at += static_cast<size_t>(n);
        continue;
      }
      if (n == 0 || (errno != EINTR && errno != EAGAIN)) return false;
      pollfd p{fd, events, 0};
      const int ready = ::poll(&p, 1, kAnswerPatienceMs);
      if (ready == 0 || (ready < 0 && errno != EINTR)) return false;
    }
    return true;
  }
  bool send(ByteSpan data) {
    return all(data.size(), POLLOUT, [&](size_t at, size_t n) {
      return ::send(fd, data.data() + at, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    });
  }
  bool receive(std::span<uint8_t> data) {
    return all(data.size(), POLLIN,
               [&](size_t at, size_t n) { return ::recv(fd, data.data() + at, n, MSG_DONTWAIT); });
  }
};

KeyClient::KeyClient(std::string socket) : connection_(new Connection{std::move(socket)}) {}
KeyClient::KeyClient(std::string name, std::function<Result<sdk::Fd>()> dial)
    : connection_(new Connection{std::move(name), std::move(dial)}) {}
KeyClient::KeyClient(KeyClient &&) noexcept = default;
KeyClient::~KeyClient() = default;

Result<Bytes> KeyClient::ask(Bytes request) const {
  Connection &c = *connection_;
  if (request.size() > kLargestKeyRequest)
    return fail(ErrorCode::kResourceExhausted, "the request to the key service would be over 256 MiB");
  COFFER_CHECK(c.connect());
  if (!c.send(Encoder().u32(static_cast<uint32_t>(request.size())).out()) || !c.send(request))
    return c.gone("ended the connection");
  std::array<uint8_t, 4> head{};
  if (!c.receive(head)) return c.gone("ended the connection");
  const uint32_t size = Decoder(head).u32();
  if (size > kLargestAnswer) return c.gone("answered something that cannot be read");
  Bytes body(size);
  if (!c.receive(body)) return c.gone("ended the connection");
  Decoder d(body);
  const uint32_t code = d.u32();
  if (d.ok() && code == 0) return Bytes(body.begin() + 4, body.end());
  Error e{static_cast<ErrorCode>(code), d.text(), d.text()};
  if (!d.done() || code == 0 || code > static_cast<uint32_t>(ErrorCode::kUnauthenticated)) return nonsense();
  return std::unexpected(std::move(e));
}

Result<AppKeys::AppKey> KeyClient::create_app(std::string_view name) {
  return result<AppKey>(ask(request(Verb::kCreateApp).text(name).take()), read_app_key);
}
Result<void> KeyClient::destroy_app(std::string_view name) {
  return nothing(ask(request(Verb::kDestroyApp).text(name).take()));
}
Result<std::optional<SeenHead>> KeyClient::seen(const AppId &app) const {
  return result<std::optional<SeenHead>>(ask(request(Verb::kSeen).raw(app).take()), [](Decoder &d) {
    const bool there = read_bool(d);
    SeenHead s;
    s.version = d.u64();
    s.header = d.array<32>();
    return there ? std::optional(s) : std::nullopt;
  });
}
Result<void> KeyClient::advance(const AppId &app, const std::vector<Bytes> &headers) {
  Encoder e = request(Verb::kAdvance);
  e.raw(app);
  write_list(e, headers, write_bytes);
  return nothing(ask(e.take()));
}
Result<void> KeyClient::grant(const AppId &app, std::string_view machine, const PublicKey &host,
                              ByteSpan signed_spec) {
  return nothing(ask(request(Verb::kGrant).raw(app).text(machine).raw(host).bytes(signed_spec).take()));
}
Result<void> KeyClient::revoke(const AppId &app, std::string_view machine) {
  return nothing(ask(request(Verb::kRevoke).raw(app).text(machine).take()));
}
Result<Checkpoint> KeyClient::exchange(const Checkpoint &mine) {
  Encoder e = request(Verb::kExchange);
  write_checkpoint(e, mine);
  return result<Checkpoint>(ask(e.take()), read_checkpoint);
}
Result<Bytes> KeyClient::token(ByteSpan signed_request) {
  return result<Bytes>(ask(request(Verb::kToken).bytes(signed_request).take()), read_bytes);
}
Result<Bytes> KeyClient::open(ByteSpan signed_request) {
  return result<Bytes>(ask(request(Verb::kOpen).bytes(signed_request).take()), read_bytes);
}
Result<void> KeyClient::enrol(ByteSpan signed_request) {
  return nothing(ask(request(Verb::kEnrol).bytes(signed_request).take()));
}
Result<std::vector<KeyInfo>> KeyClient::list() const {
  return result<std::vector<KeyInfo>>(ask(request(Verb::kList).take()),
                                      [](Decoder &d) { return read_list<KeyInfo>(d, read_key); });
}
Result<void> KeyClient::unlock() { return nothing(ask(request(Verb::kUnlock).take())); }
Result<std::string> KeyClient::invite(std::string_view name) {
  return result<std::string>(ask(request(Verb::kInvite).text(name).take()),
                             [](Decoder &d) { return d.text(); });
}
Result<std::vector<HostInfo>> KeyClient::hosts() const {
  return result<std::vector<HostInfo>>(ask(request(Verb::kHosts).take()),
                                       [](Decoder &d) { return read_list<HostInfo>(d, read_host); });
}
Result<void> KeyClient::revoke_host(std::string_view which) {
  return nothing(ask(request(Verb::kRevokeHost).text(which).take()));
}

Result<AppKeys::AppKey> KeyClient::rotate(const AppId &app, uint32_t from) {
  return result<AppKey>(ask(request(Verb::kRotate).raw(app).u32(from).take()), read_app_key);
}
Result<Bytes> KeyClient::reseal(ByteSpan reseal_request) {
  return result<Bytes>(ask(request(Verb::kReseal).bytes(reseal_request).take()), read_bytes);
}
Result<void> KeyClient::retire(const AppId &app, uint32_t oldest) {
  return nothing(ask(request(Verb::kRetire).raw(app).u32(oldest).take()));
}
Result<void> KeyClient::rewrap() { return nothing(ask(request(Verb::kRewrap).take())); }

}  // namespace coffer
