#include "server/http/session.h"

#include <fcntl.h>

#include "coffer/crypto/primitives.h"
#include "coffer/format/magic.h"
#include "coffer/format/signed.h"

namespace coffer::http {
namespace {

using namespace std::chrono_literals;
constexpr auto kPatience = 10s;
constexpr size_t kLargestHello = 1024;

Result<Bytes> read_exactly(Duplex &from, size_t size) {
  Bytes out(size);
  const auto end = Clock::now() + kPatience;
  for (size_t have = 0; have < size;) {
    COFFER_TRY(const size_t n, from.read({reinterpret_cast<char *>(out.data()) + have, size - have}, end));
    if (n == 0) return fail(ErrorCode::kUnavailable, "the connection ended");
    have += n;
  }
  return out;
}

Bytes hello(ByteSpan challenge) { return begin("cfj2").raw(challenge).take(); }

}  // namespace

Result<void> say_hello(Duplex &to, const SigningKey &host) {
  COFFER_TRY(const Bytes challenge, read_exactly(to, 32));
  const Bytes said = sign(host, kHostHelloLabel, hello(challenge));
  Encoder e;
  e.u16(static_cast<uint16_t>(said.size())).raw(said);
  return to.write(as_text(e.out()), Clock::now() + kPatience);
}

Result<PublicKey> hear_hello(Duplex &from) {
  const auto challenge = random_array<32>();
  COFFER_CHECK(from.write(as_text(challenge), Clock::now() + kPatience));
  COFFER_TRY(const Bytes head, read_exactly(from, 2));
  const size_t size = static_cast<size_t>(head[0]) << 8 | head[1];
  if (size == 0 || size > kLargestHello) return malformed("a host's hello");
  COFFER_TRY(const Bytes said, read_exactly(from, size));
  // Who signed it: any host may say hello, which ones are known is the caller's question.
  Decoder d(said);
  begins(d, "cfs1");
  d.bytes();
  const PublicKey host = d.array<32>();
  COFFER_TRY(const ByteSpan payload, open_signed(said, kHostHelloLabel, {&host, 1}));
  if (Bytes(payload.begin(), payload.end()) != hello(challenge))
    return fail(ErrorCode::kPermissionDenied, "a host's hello answers another challenge");
  return host;
}

void carry(Duplex &connection, MessageSocket end, std::chrono::milliseconds patience,
           const std::function<bool()> &still) {
  const int fd = end.take().release();
  ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
  Duplex inner(std::make_unique<Channel>(fd), {});
  relay(connection, inner, patience, still);
}

}  // namespace coffer::http
