// What a host and the key service say to each other, in bytes that anybody may carry.
//   token_request = "cfq1" app_id(16) machine instance_id spec(32) nonce(16)      signed by the host:
//   kTokenRequestLabel token         = "cft1" id(16) app_id(16) machine instance_id host(32) spec(32)
//   issued_ms(u64) expires_ms(u64)
//                   mac(32)    HMAC-SHA256 over label and the bytes before it, length-prefixed
//   open_request  = "cfo1" token spec header* proof_header proof_body proof_part* (name record)*
//   ephemeral(32)
//                                                                                 signed by the host:
//                                                                                 kOpenRequestLabel
//   open_answer   = "cfw1" request(32) enc(32) ciphertext                         signed by identity:
//   kOpenAnswerLabel opened        = u32 count, then (name value)*: what is sealed to the ephemeral key
//   enrolment     = "cfj1" token(16) name host(32)                                signed by the host:
//   kEnrolmentLabel
// And the API, while the keys of an App are rotated:
//   reseal_request = "cff1" app_id(16) header* proof_header proof_body proof_part* (name record)*
//   reseal_answer  = "cfi1" request(32) epoch(u32) (name record)*          signed by identity:
//                                                                          kResealAnswerLabel
#ifndef COFFER_KEYS_PROTOCOL_H
#define COFFER_KEYS_PROTOCOL_H

#include "coffer/audit/audit_log.h"
#include "coffer/format/machine.h"
#include "coffer/format/manifest.h"
#include "coffer/plugin_host/injector.h"

namespace coffer {

inline constexpr uint64_t kTokenLifetimeMs = 10 * 60 * 1000;
inline constexpr uint64_t kInvitationLifetimeMs = 60 * 60 * 1000;

struct TokenRequest {
  AppId app_id{};
  std::string machine, instance_id;
  Hash spec{};
  std::array<uint8_t, 16> nonce{};
};
Bytes encode(const TokenRequest &);
Result<TokenRequest> decode_token_request(ByteSpan payload);

struct MachineToken {
  std::array<uint8_t, 16> id{};
  AppId app_id{};
  std::string machine, instance_id;
  PublicKey host{};
  Hash spec{};
  uint64_t issued_ms = 0, expires_ms = 0;
};
Bytes encode(const MachineToken &, HmacSha256 &key);
// kPermissionDenied: forged.
Result<MachineToken> decode_token(ByteSpan, HmacSha256 &key);

struct OpenRequest {
  Bytes token, spec;
  std::vector<Bytes> headers;  // oldest first; a chain from the newest one the key service has seen
  Bytes proof_header, proof_body;
  std::vector<Bytes> proof_parts;
  std::vector<std::pair<std::string, Bytes>> records;
  PublicKey ephemeral{};
};
Bytes encode(const OpenRequest &);
Result<OpenRequest> decode_open_request(ByteSpan payload);

struct OpenAnswer {
  Hash request{};
  PublicKey enc{};
  Bytes ciphertext;
};
Bytes encode(const OpenAnswer &);
Result<OpenAnswer> decode_open_answer(ByteSpan payload);

// Not signed: what counts in it is signed by a writer, and the answer opens for nobody but the key service.
struct ResealRequest {
  AppId app_id{};
  std::vector<Bytes> headers;      // as in OpenRequest; they reach the head
  Bytes proof_header, proof_body;  // of the head
  std::vector<Bytes> proof_parts;
  std::vector<std::pair<std::string, Bytes>> records;
};
Bytes encode(const ResealRequest &);
Result<ResealRequest> decode_reseal_request(ByteSpan);

struct ResealAnswer {
  Hash request{};
  uint32_t epoch = 0;
  std::vector<std::pair<std::string, Bytes>> records;  // in the order of the request
};
Bytes encode(const ResealAnswer &);
Result<ResealAnswer> decode_reseal_answer(ByteSpan payload);

SecretBytes encode_opened(const std::vector<OpenedSecret> &);
Result<std::vector<OpenedSecret>> decode_opened(const SecretBytes &);

// info of the answer's HPKE context: binds it to the request.
Bytes answer_info(const Hash &request);

inline constexpr size_t kMaxHostName = 63;  // as of an App

// A host names itself with the one-time token that the administrator gave it.
struct Enrolment {
  std::array<uint8_t, 16> token{};
  std::string name;
  PublicKey host{};
};
Bytes encode(const Enrolment &);
Result<Enrolment> decode_enrolment(ByteSpan payload);

struct SeenHead {
  uint64_t version = 0;
  Hash header{};
  bool operator==(const SeenHead &) const = default;
};

// What the API may ask of the key service: it can have keys made and rights granted, and opens nothing.
class AppKeys {
 public:
  struct AppKey {
    AppId app_id{};
    Bytes signed_record;
  };
  virtual ~AppKeys() = default;
  // The key of a new App; asked again for the same name it answers the same.
  virtual Result<AppKey> create_app(std::string_view name) = 0;
  // Erases keys and grants; a tombstone stays.  Asked again: done.
  virtual Result<void> destroy_app(std::string_view name) = 0;
  // The newest manifest header seen.
  virtual Result<std::optional<SeenHead>> seen(const AppId &) const = 0;
  // Signed headers, oldest first, that reach from the newest one seen.  Durable when it returns.  Refused: a
  // gap, a fork, an older head (kDataLoss).
  virtual Result<void> advance(const AppId &, const std::vector<Bytes> &headers) = 0;
  // The standing right of `host` to boot `machine`, with its first launch spec.
  virtual Result<void> grant(const AppId &, std::string_view machine, const PublicKey &host,
                             ByteSpan signed_spec) = 0;
  // Durable when it returns: nothing is opened for the Machine any more.
  virtual Result<void> revoke(const AppId &, std::string_view machine) = 0;
  // `mine` is where the caller's audit log is, durably: the key service's keeps it.  Answers where that is
  // then; number 0: it has none.
  virtual Result<Checkpoint> exchange(const Checkpoint &mine) = 0;

  // Makes the App's key pair of epoch `from` + 1.  Asked again it answers the newest one that there is.
  virtual Result<AppKey> rotate(const AppId &, uint32_t from) = 0;
  // A reseal_request, checked as an open is, of records of the head; answers a signed reseal_answer: the same
  // values, sealed to the newest epoch.
  virtual Result<Bytes> reseal(ByteSpan request) = 0;
  // Destroys the private keys of epochs below `oldest`: nothing in the vault is sealed for them any more. The
  // newest one stays in any case.
  virtual Result<void> retire(const AppId &, uint32_t oldest) = 0;
};

// What a host may ask of the key service.  Embedded: the service itself; else its socket.
class BootKeys {
 public:
  virtual ~BootKeys() = default;
  virtual Result<Bytes> token(ByteSpan signed_request) = 0;
  virtual Result<Bytes> open(ByteSpan signed_request) = 0;
  // An Enrolment.  Once done it is done: asked again by the same host it answers the same.
  virtual Result<void> enrol(ByteSpan signed_request) = 0;
};

struct KeyInfo {
  std::string app;
  AppId app_id{};
  uint32_t epoch = 0;
  PublicKey public_key{};
  bool destroyed = false;
  std::vector<uint32_t> old_epochs;  // whose private keys are still held
};

struct HostInfo {
  std::string name;
  PublicKey key{};
  uint64_t enrolled_ms = 0;
  bool revoked = false;
};

// What the administrator of the key service may ask of it, and nobody else: who enrols a host can have
// everything opened.
class KeyAdmin {
 public:
  virtual ~KeyAdmin() = default;
  virtual Result<std::vector<KeyInfo>> list() const = 0;
  // Unwraps the root key: does the KMS work?
  virtual Result<void> unlock() = 0;
  // A one-time token in hex, with which one new host may enrol under `name` for kInvitationLifetimeMs.
  virtual Result<std::string> invite(std::string_view name) = 0;
  virtual Result<std::vector<HostInfo>> hosts() const = 0;
  // By name or by public key in hex.  Durable when it returns: all its grants are void, and it gets no new
  // one.
  virtual Result<void> revoke_host(std::string_view which) = 0;
  // A new root key, wrapped by the KMS, takes over; everything that was wrapped under the old one is wrapped
  // anew.  Others may go on meanwhile; cut off, it goes on when it is called again.  Tokens become void.
  virtual Result<void> rewrap() = 0;
};

// All of a key service: itself, or its socket.
class Keys : public AppKeys, public BootKeys, public KeyAdmin {};

}  // namespace coffer
#endif
