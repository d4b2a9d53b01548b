// Signed: the envelope around everything that an authority says and a storage backend keeps.
//   signed = "cfs1" payload(u32 length, bytes) signer(32) signature(64)
// The signature is Ed25519 over label and payload (crypto/primitives.h).  The signer's key is only a hint
// which of the trusted keys to use: trust comes from pinned keys, never from the envelope.
#ifndef COFFER_FORMAT_SIGNED_H
#define COFFER_FORMAT_SIGNED_H

#include "coffer/crypto/primitives.h"

namespace coffer {

// Labels, one per purpose; a signature for one says nothing for another.
inline constexpr std::string_view kAppLabel = "coffer app v1";
inline constexpr std::string_view kAppKeyLabel = "coffer app key v1";
inline constexpr std::string_view kManifestLabel = "coffer manifest v1";
inline constexpr std::string_view kMachineLabel = "coffer machine v1";
inline constexpr std::string_view kLaunchSpecLabel = "coffer launch spec v1";
inline constexpr std::string_view kReleaseLabel = "coffer release v1";
inline constexpr std::string_view kRolloutLabel = "coffer rollout v1";
inline constexpr std::string_view kReceiptLabel = "coffer receipt v1";
inline constexpr std::string_view kTokenRequestLabel = "coffer token request v1";
inline constexpr std::string_view kOpenRequestLabel = "coffer open request v1";
inline constexpr std::string_view kEnrolmentLabel = "coffer enrolment v1";
inline constexpr std::string_view kOpenAnswerLabel = "coffer open answer v1";
inline constexpr std::string_view kResealAnswerLabel = "coffer reseal answer v1";

Bytes sign(const SigningKey &key, std::string_view label, ByteSpan payload);

// The payload, which points into `envelope`.  kDataLoss: malformed, signer not in `trusted`, or wrong
// signature.
Result<ByteSpan> open_signed(ByteSpan envelope, std::string_view label, std::span<const PublicKey> trusted);

}  // namespace coffer
#endif
