// Macaroons: bearer tokens that whoever holds one can narrow, without a key and without asking anybody.
//
// The binary format v2 and the signatures of libmacaroons, first-party caveats only, so that any macaroon
// library can narrow a Coffer token.  docs/format.md, "User tokens", is the grammar of what is accepted here.
// A macaroon is a credential: text() and binary() go to its holder and nowhere else, no error repeats a byte.
// SPEC: Birgisson et al., "Macaroons: Cookies with Contextual Caveats for Decentralized Authorization in the
// Cloud", NDSS 2014; libmacaroons, doc/format.txt.
#ifndef COFFER_TOKENS_MACAROON_H
#define COFFER_TOKENS_MACAROON_H

#include "coffer/base/bytes.h"
#include "coffer/base/result.h"

namespace coffer {

inline constexpr size_t kMaxToken = 8192;  // bytes, as text and as binary
inline constexpr size_t kMaxCaveats = 64;
inline constexpr std::string_view kTokenPrefix = "coffer_";

class Macaroon {
 public:
  static Macaroon make(ByteSpan root_key, ByteSpan identifier);
  // kInvalidArgument for anything else than the one v2 form of a macaroon.
  static Result<Macaroon> parse(ByteSpan binary);
  // base64 of it, with the alphabet for URLs or the standard one, padded or not, with or without the prefix.
  static Result<Macaroon> parse_text(std::string_view text);

  const Bytes &identifier() const { return identifier_; }
  const std::vector<std::string> &caveats() const { return caveats_; }

  // Adds a caveat.  kInvalidArgument: an empty one, a 65th, or the text would be over 8 KiB; nothing changed.
  Result<void> narrow(std::string_view caveat);
  // The signature is that of this identifier and these caveats, in this order, under that key.
  bool signed_by(ByteSpan root_key) const;

  Bytes binary() const;
  std::string text() const;  // with the prefix, for URLs, not padded

 private:
  Macaroon() = default;
  Bytes identifier_;
  std::vector<std::string> caveats_;
  Hash signature_{};
};

// What a token looks like where only a name, a path or a flag belongs; also inside "--option=...".
bool looks_like_token(std::string_view text);

}  // namespace coffer
#endif
