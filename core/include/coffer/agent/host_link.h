// A host's Machines ordered over a socket: HostClient is a MachineHost that asks, serve_host() answers for
// the agent.
//   message = u32 size, then: kind(u8) payload
//   kCall   verb(u8) arguments            caller: one call; it ends with kResult
//   kResult code(u32; 0: done) and, done: the result; else message remedy
//   kAsk    order(u8) question(u8) ...    agent, during a boot: what BootOrder has as callbacks; answered by
//                                         kResult
//   kStep   machine text                  agent, at any time in a call: what it is doing; machine "": an
//   image kPiece  stream(u32) ns(u64) bytes     agent, of logs and exec kInput  bytes caller: standard input
//   of an exec; none: its end kEnd                                  caller: enough of the logs
// Calls of one link are answered one after the other.
#ifndef COFFER_AGENT_HOST_LINK_H
#define COFFER_AGENT_HOST_LINK_H

#include <coffer/posix.hpp>

#include "coffer/agent/machine_changes.h"
#include "coffer/agent/machine_host.h"

namespace coffer {

inline constexpr std::string_view kHostHelloLabel = "coffer host hello v1";
inline constexpr size_t kLargestMessage = 256u << 20;  // an order carries the records

// A connected stream socket that carries whole messages.  One thread may send while another receives.
class MessageSocket {
 public:
  explicit MessageSocket(sdk::Fd fd) : fd_(std::move(fd)) {}
  static Result<std::pair<MessageSocket, MessageSocket>> pair();
  // kUnavailable: the other side has gone.
  Result<void> send(ByteSpan message);
  Result<Bytes> receive(size_t most = kLargestMessage);
  Result<SecretBytes> receive_secret(size_t most);
  // kDeadlineExceeded: nothing has come.  Then the socket is as it was.
  Result<void> wait(std::chrono::milliseconds patience) const;
  int fd() const { return fd_.get(); }
  // Nothing waits to be read, and the other side is there.
  bool quiet() const;
  sdk::Fd take() { return std::move(fd_); }

 private:
  sdk::Fd fd_;
};

// What a host is doing for whoever asked: `machine` is empty for an image.
using Steps = std::function<void(std::string_view machine, std::string_view step)>;

// Thread rule: one thread at a time.
class HostClient : public MachineHost {
 public:
  // What it leaves half done when it ends can be finished by others: with the link ends whoever held the
  // leases.
  HostClient(const PublicKey &host, MessageSocket link, Steps steps = {})
      : host_(host), link_(std::move(link)), steps_(std::move(steps)) {}
  // Nothing was changed by way of the link, so that it holds no lease, and it can be asked more.
  bool only_looked() const { return only_looked_ && !broken_; }
  MessageSocket take_link() { return std::move(link_); }
  int fd() const { return link_.fd(); }  // to shut it down from another thread, so that a call ends
  // Of the host's MachineChanges.  Waits for as long as that takes, up to half a minute.
  Result<MachineChanges::News> changes(uint64_t seen);

  const PublicKey &host() const override { return host_; }
  Result<std::string> ensure_image(const std::string &image, bool pull) const override;
  Result<BootOutcome> boot(const BootOrder &next, const BootOrder *way_back, const Probation & = {}) override;
  Result<BootOutcome> boot_again(const BootOrder &previous, std::optional<Hash> instead_of = {}) override;
  Result<BootOutcome> boot_ended(const BootOrder &same, const std::string &instance_id) override;
  Result<void> hand_over(const BootOrder &order, const std::set<std::string> &only, const Ticket &) override;
  Result<void> reserve(const AppId &app, std::string_view app_name, const std::string &machine,
                       std::string_view name) override;
  Result<void> stop(const std::string &machine) override;
  Result<void> finish_stop(const MachineState &seen) override;
  Result<void> announce(const std::string &machine, State next) override;
  Result<void> finish_cut_off(const std::string &machine) override;
  Result<void> destroy(const std::string &machine) override;
  Result<std::vector<MachineState>> states() const override;
  Result<std::optional<MachineState>> state(const std::string &machine) const override;
  Result<MachineView> view(const MachineState &) const override;
  Result<std::vector<MachineView>> views(const AppId &) const override;
  Result<void> logs(const MachineState &, const LogQuery &,
                    const std::function<bool(uint32_t, int64_t, ByteSpan)> &) override;
  Result<int32_t> exec(const MachineState &, const std::vector<std::string> &argv,
                       const std::function<bool(uint32_t, ByteSpan)> &out,
                       const std::function<int64_t(std::span<uint8_t>)> &in, int in_fd) override;
  Result<void> wait_change(const MachineState &, uint64_t timeout_ns) override;

 private:
  struct During;
  Result<Bytes> call(Bytes request, const During &) const;
  Result<Bytes> call(Bytes request) const;
  Result<BootOutcome> boot(Bytes request, const BootOrder &next, const BootOrder *way_back);
  PublicKey host_;
  mutable MessageSocket link_;
  Steps steps_;
  mutable bool broken_ = false, only_looked_ = true;
};

// Answers what comes over `link` until it ends.  `keep`: is shown each order before it is booted, and may
// wrap its callbacks.  `changes`: of the host; nullptr: it has none.
void serve_host(MachineHost &, MessageSocket &link, const std::function<void(BootOrder &)> &keep = {},
                MachineChanges *changes = nullptr);
// For the agent that is served: its steps, to the caller whose call it is doing.
Result<void> tell_step(MessageSocket &link, std::string_view machine, std::string_view step);

}  // namespace coffer
#endif
