#include "coffer/agent/local_receiver.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "coffer/base/log.h"
#include "coffer/base/unix_socket.h"
#include "coffer/crypto/primitives.h"
#include "host_wire.h"

namespace coffer {
namespace {

constexpr size_t kMostOfUser = 16;  // above, the one that has waited longest goes
constexpr size_t kLargestHello = 4096, kLargestValues = 64u << 20;
constexpr timeval kReader = {.tv_sec = 10, .tv_usec = 0};  // a process that takes nothing is given up

Result<void> give(MessageSocket &link, const std::vector<Delivery> &all) {
  SecretBuilder message;
  message.append(Encoder().u32(static_cast<uint32_t>(all.size())).take());
  for (const Delivery &d : all) {
    message.append(Encoder().text(d.name).u32(static_cast<uint32_t>(d.value.size())).take());
    message.append(d.value.reveal());
  }
  return link.send(message.take().reveal());
}

}  // namespace

// ---- the agent's end ----

Result<std::unique_ptr<LocalReceivers>> LocalReceivers::listen(Config config) {
  COFFER_TRY(sdk::Fd listener, listen_unix(config.socket, 0666));
  sdk::Fd ends(::eventfd(0, EFD_CLOEXEC));
  if (!ends) return fail(ErrorCode::kResourceExhausted, "no more descriptors are to be had");
  return std::unique_ptr<LocalReceivers>(
      new LocalReceivers(std::move(config), std::move(listener), std::move(ends)));
}

LocalReceivers::LocalReceivers(Config config, sdk::Fd listener, sdk::Fd ends)
    : config_(std::move(config)),
      listener_(std::move(listener)),
      ends_(std::move(ends)),
      thread_([this] { run(); }) {}

LocalReceivers::~LocalReceivers() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(ends_.get(), &one, sizeof one);
  thread_.join();
  ::unlink(config_.socket.c_str());
}

void LocalReceivers::run() {
  for (;;) {
    std::vector<pollfd> fds = {{ends_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    {
      const std::lock_guard lock(mutex_);
      for (const Waiting &w : waiting_) fds.push_back({w.link.fd(), POLLIN, 0});
    }
    if (::poll(fds.data(), fds.size(), -1) < 0) continue;
    if (fds[0].revents) return;
    {
      // Nothing is to be said by who waits: it has gone.
      const std::lock_guard lock(mutex_);
      std::erase_if(waiting_, [](const Waiting &w) { return !w.link.quiet(); });
    }
    if (fds[1].revents) accept();
  }
}

void LocalReceivers::accept() {
  sdk::Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!fd) return;
  const uid_t uid = peer_uid(fd.get());
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &kReader, sizeof kReader);
  Waiting w{uid, random_array<32>(), MessageSocket(std::move(fd))};
  if (uid != 0 && uid != ::geteuid() && std::ranges::find(config_.users, uid) == config_.users.end()) {
    log(LogLevel::kWarn, "agent",
        "user " + std::to_string(uid) + " asked for values and is not among `users`");
    const Error refused{ErrorCode::kPermissionDenied, "this host hands no values to commands of this user",
                        "Name the user in `users` under [agent] of the host's engine config."};
    Encoder e;
    wire::write_error(e, refused);
    (void)w.link.send(e.out());
    return;
  }
  const Bytes hello = Encoder().u32(0).raw(config_.host).raw(w.ticket).take();
  const std::lock_guard lock(mutex_);
  if (std::ranges::count(waiting_, uid, &Waiting::uid) >= static_cast<ptrdiff_t>(kMostOfUser))
    waiting_.erase(std::ranges::find(waiting_, uid, &Waiting::uid));
  waiting_.push_back(std::move(w));
  if (!waiting_.back().link.send(hello)) waiting_.pop_back();
}

Result<TakeValues> LocalReceivers::take(const Ticket &ticket) {
  const std::lock_guard lock(mutex_);
  const auto at = std::ranges::find(waiting_, ticket, &Waiting::ticket);
  if (at == waiting_.end() || !at->link.quiet())
    return fail(ErrorCode::kNotFound, "nobody on this host waits for these values any more", "Try again.");
  const auto link = std::make_shared<MessageSocket>(std::move(at->link));
  waiting_.erase(at);
  return [link](std::vector<Delivery> &all) { return give(*link, all); };
}

// ---- the process's end ----

Result<LocalReceiver> LocalReceiver::connect(const std::string &socket) {
  auto fd = connect_unix(socket);
  if (!fd && fd.error().code == ErrorCode::kUnavailable)
    return fail(ErrorCode::kUnavailable, "no coffer-agent of this host answers at " + socket,
                "Values are handed out on a host only: run it there, and start its agent.");
  if (!fd) return std::unexpected(std::move(fd).error().in("the host's agent"));
  MessageSocket link(*std::move(fd));
  COFFER_TRY(const Bytes hello, link.receive(kLargestHello));
  Decoder d(hello);
  if (auto error = wire::read_error(d)) {
    if (!d.done()) return wire::nonsense();
    return std::unexpected(*std::move(error));
  }
  Receiver r;
  r.host = d.array<32>();
  r.ticket = d.array<32>();
  if (!d.done()) return wire::nonsense();
  return LocalReceiver(r, std::move(link));
}

Result<std::vector<Delivery>> LocalReceiver::receive() {
  COFFER_TRY(const SecretBytes message, link_.receive_secret(kLargestValues));
  Decoder d(message.reveal());
  std::vector<Delivery> all;
  for (uint32_t n = d.u32(); n > 0 && d.ok(); --n) {
    Delivery &one = all.emplace_back();
    one.name = d.text();
    one.value = SecretBytes::copy_of(d.bytes());
  }
  if (!d.done()) return wire::nonsense();
  return all;
}

}  // namespace coffer
