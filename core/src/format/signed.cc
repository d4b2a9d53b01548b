#include "coffer/format/signed.h"

#include <algorithm>

#include "coffer/format/magic.h"

namespace coffer {

Bytes sign(const SigningKey &key, std::string_view label, ByteSpan payload) {
  return begin("cfs1").bytes(payload).raw(key.public_key()).raw(key.sign(label, payload)).take();
}

Result<ByteSpan> open_signed(ByteSpan envelope, std::string_view label, std::span<const PublicKey> trusted) {
  Decoder d(envelope);
  begins(d, "cfs1");
  const ByteSpan payload = d.bytes();
  const auto signer = d.array<32>();
  const ByteSpan signature = d.raw(64);
  if (!d.done()) return malformed("envelope");
  if (std::ranges::find(trusted, signer) == trusted.end())
    return fail(ErrorCode::kDataLoss, "signed by a key that is not trusted here");
  if (!verify(signer, label, payload, signature)) return fail(ErrorCode::kDataLoss, "signature is wrong");
  return payload;
}

}  // namespace coffer
