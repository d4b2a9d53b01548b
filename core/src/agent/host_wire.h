// What host_client.cc and host_server.cc say to each other: host_link.h has the grammar.
#ifndef COFFER_AGENT_HOST_WIRE_H
#define COFFER_AGENT_HOST_WIRE_H

#include "coffer/agent/host_streams.h"
#include "coffer/base/secret_bytes.h"
#include "coffer/format/magic.h"
#include "state.h"

namespace coffer::wire {

enum class Kind : uint8_t { kCall = 1, kResult, kAsk, kPiece, kInput, kEnd, kStep };
enum class Verb : uint8_t {
  kEnsureImage = 1,
  kBoot,
  kBootAgain,
  kBootEnded,
  kReserve,
  kStop,
  kFinishStop,
  kAnnounce,
  kFinishCutOff,
  kDestroy,
  kStates,
  kState,
  kView,
  kLogs,
  kExec,
  kWaitChange,
  kChanges,
  kHandOver,
  kViews,
};
// Those that change nothing, and are answered at once.
constexpr bool looks(Verb v) {
  return v == Verb::kStates || v == Verb::kState || v == Verb::kView || v == Verb::kViews;
}
enum class Question : uint8_t { kFetch = 1, kStillWanted };

constexpr size_t kMostInput = 4096;  // bytes of one kInput

// A message that may carry what a command prints or is given, and that may be a value: wiped when it goes.
class Wiped {
 public:
  explicit Wiped(Bytes message) : message_(std::move(message)) {}
  Wiped(const Wiped &) = delete;
  Wiped &operator=(const Wiped &) = delete;
  ~Wiped() { secure_wipe(message_.data(), message_.size()); }
  ByteSpan bytes() const { return message_; }

 private:
  Bytes message_;
};

inline Bytes copied(ByteSpan b) { return Bytes(b.begin(), b.end()); }
inline Encoder message(Kind k) { return std::move(Encoder().u8(static_cast<uint8_t>(k))); }
inline Encoder call(Verb v) { return std::move(message(Kind::kCall).u8(static_cast<uint8_t>(v))); }
inline Encoder done() { return std::move(message(Kind::kResult).u32(0)); }
inline Bytes refused(const Error &e) {
  return message(Kind::kResult).u32(static_cast<uint32_t>(e.code)).text(e.message).text(e.remedy).take();
}
inline std::unexpected<Error> nonsense() {
  return fail(ErrorCode::kDataLoss, "the other side of a host's link said something that cannot be read");
}

inline void write_error(Encoder &e, const std::optional<Error> &error) {
  e.u32(error ? static_cast<uint32_t>(error->code) : 0);
  if (error) e.text(error->message).text(error->remedy);
}
inline std::optional<Error> read_error(Decoder &d) {
  const uint32_t code = d.u32();
  if (code == 0) return std::nullopt;
  if (code > static_cast<uint32_t>(ErrorCode::kUnauthenticated)) d.reject();
  Error out;
  out.code = static_cast<ErrorCode>(code);
  out.message = d.text();
  out.remedy = d.text();
  return out;
}

void write_state(Encoder &, const MachineState &);
MachineState read_state(Decoder &);
void write_view(Encoder &, const MachineView &);
MachineView read_view(Decoder &);
void write_outcome(Encoder &, const BootOutcome &);
BootOutcome read_outcome(Decoder &);
// Without its callbacks.
void write_order(Encoder &, const BootOrder &);
BootOrder read_order(Decoder &);
void write_sealed(Encoder &, const BootOrder::Sealed &);
BootOrder::Sealed read_sealed(Decoder &);
// Of kLogs and kExec, behind the Machine; `link` carries what comes and goes meanwhile.
Bytes answer_logs(MessageSocket &link, Decoder &, const decltype(HostStreams::logs) &);
Bytes answer_exec(MessageSocket &link, Decoder &, const decltype(HostStreams::exec) &);

inline Bytes answer(const Result<void> &r) { return r ? done().take() : refused(r.error()); }
template <class T>
Bytes answer(const Result<T> &r, auto &&write) {
  if (!r) return refused(r.error());
  Encoder e = done();
  write(e, *r);
  return e.take();
}

void write_texts(Encoder &, const std::vector<std::string> &);
std::vector<std::string> read_texts(Decoder &);

}  // namespace coffer::wire
#endif
