// Non-blocking sockets: a connection is read until a request is whole, then it is answered.
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <list>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "coffer/base/codec.h"
#include "coffer/base/log.h"
#include "coffer/base/unix_socket.h"
#include "coffer/keys/key_socket.h"
#include "coffer/posix.hpp"

namespace coffer {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kRequestPatience = std::chrono::seconds(30);  // from a request's first byte to its last
constexpr size_t kHead = 4, kReadAtOnce = 64 * 1024;

std::string why() { return std::strerror(errno); }

using sdk::Fd;

struct Connection {
  Fd fd;
  uint64_t id = 0;
  bool at_work = false;  // its request is with Reports
  uid_t uid = 0;
  unsigned callers = 0;
  Bytes in, out;
  size_t sent = 0;
  Clock::time_point since = Clock::now();  // idle, or at this request, since then

  bool answering() const { return sent < out.size(); }
  bool idle() const { return in.empty() && !answering() && !at_work; }
  size_t wanted() const {  // bytes of the whole request, as far as is known
    return in.size() < kHead ? kHead : kHead + Decoder(in).u32();
  }
  // False: the connection is over.
  bool read() {
    const size_t before = in.size(), room = std::min(wanted() - before, kReadAtOnce);
    in.resize(before + room);
    const ssize_t n = ::recv(fd.get(), in.data() + before, room, MSG_DONTWAIT);
    in.resize(before + static_cast<size_t>(std::max<ssize_t>(n, 0)));
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    if (before == 0) since = Clock::now();
    return n > 0 && wanted() <= kHead + kLargestKeyRequest;
  }
  bool write() {
    const ssize_t n = ::send(fd.get(), out.data() + sent, out.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    sent += static_cast<size_t>(n);
    if (!answering()) {
      out = {};
      sent = 0;
      since = Clock::now();
    }
    return true;
  }
};

// Requests that are answered in threads of their own.
class Reports {
 public:
  struct Job {
    uint64_t connection = 0;
    unsigned callers = 0;
    Bytes bytes;  // the request, then the answer
  };
  explicit Reports(std::function<Result<std::unique_ptr<Keys>>()> open) : open_(std::move(open)) {}
  ~Reports() {
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
    }
    changed_.notify_all();
    for (std::thread &t : threads_) t.join();
  }
  int fd() const { return done_fd_.get(); }  // readable: some are done
  // False: there is nobody to do it.
  bool add(Job job) {
    {
      const std::lock_guard lock(mutex_);
      if (todo_.size() >= idle_ && threads_.size() < kMostThreads) {
        auto service = open_();
        if (!service && threads_.empty()) return false;
        if (service) threads_.emplace_back([this, s = *std::move(service)] { work(*s); });
      }
      todo_.push_back(std::move(job));
    }
    changed_.notify_one();
    return true;
  }
  std::vector<Job> done() {
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t n = ::read(done_fd_.get(), &count, sizeof count);
    const std::lock_guard lock(mutex_);
    return std::exchange(done_, {});
  }

 private:
  static constexpr size_t kMostThreads = 16;

  void work(Keys &service) {
    std::unique_lock lock(mutex_);
    for (;;) {
      ++idle_;
      changed_.wait(lock, [&] { return ends_ || !todo_.empty(); });
      --idle_;
      if (ends_) return;
      Job job = std::move(todo_.front());
      todo_.pop_front();
      lock.unlock();
      job.bytes = answer_key_request(service, job.callers, job.bytes);
      lock.lock();
      done_.push_back(std::move(job));
      const uint64_t one = 1;
      [[maybe_unused]] const ssize_t n = ::write(done_fd_.get(), &one, sizeof one);
    }
  }

  const std::function<Result<std::unique_ptr<Keys>>()> open_;
  const Fd done_fd_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> todo_;
  std::vector<Job> done_;
  size_t idle_ = 0;
  bool ends_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

struct KeyServer::State {
  Config config;
  Keys *keys = nullptr;
  Fd lock, listener;
  uint64_t last_id = 0;
  std::optional<Reports> reports;
  std::list<Connection> connections;

  ~State() {
    if (listener.get() >= 0) ::unlink(config.socket.c_str());
  }

  unsigned callers_of(uid_t uid) const {
    unsigned c = 0;
    if (std::ranges::find(config.api, uid) != config.api.end()) c |= kCallerApi;
    if (std::ranges::find(config.agents, uid) != config.agents.end()) c |= kCallerAgent;
    if (uid == 0 || uid == ::geteuid()) c |= kCallerAdmin;
    return c;
  }

  void accept() {
    Fd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) return;
    const uid_t peer = peer_uid(fd.get());
    // One user who opens and leaves connections is in nobody's way but his own.
    size_t of_user = 0;
    auto oldest = connections.end();
    for (auto c = connections.begin(); c != connections.end(); ++c) {
      if (c->uid != peer) continue;
      ++of_user;
      if (!c->answering() && !c->at_work && (oldest == connections.end() || c->since < oldest->since))
        oldest = c;
    }
    if (of_user >= config.connections_per_user) {
      if (oldest == connections.end()) return;
      connections.erase(oldest);
    }
    Connection c;
    c.fd = std::move(fd);
    c.id = ++last_id;
    c.uid = peer;
    c.callers = callers_of(peer);
    connections.push_back(std::move(c));
  }

  // False: the connection is over.
  bool serve(Connection &c, short events) {
    if (c.answering()) return !(events & POLLOUT) || c.write();
    if (!(events & (POLLIN | POLLHUP))) return true;
    if (!c.read()) return false;
    if (c.in.size() < kHead || c.in.size() < c.wanted()) return true;
    const ByteSpan request = ByteSpan(c.in).subspan(kHead);
    if (reports && reports_headers(request) &&
        reports->add({c.id, c.callers, Bytes(request.begin(), request.end())})) {
      c.in = {};
      c.at_work = true;
      return true;
    }
    const Bytes answer = answer_key_request(*keys, c.callers, request);
    c.in = {};
    c.out = Encoder().bytes(answer).take();
    return c.write();
  }

  void answer_reports() {
    for (const Reports::Job &job : reports->done()) {
      const auto c = std::ranges::find(connections, job.connection, &Connection::id);
      if (c == connections.end()) continue;
      c->at_work = false;
      c->out = Encoder().bytes(job.bytes).take();
      if (!c->write()) connections.erase(c);
    }
  }

  Result<void> run(int stop_fd) {
    for (;;) {
      std::vector<pollfd> fds = {
          {stop_fd, POLLIN, 0}, {listener.get(), POLLIN, 0}, {reports ? reports->fd() : -1, POLLIN, 0}};
      bool hurry = false;
      for (const Connection &c : connections) {
        fds.push_back({c.at_work ? -1 : c.fd.get(), static_cast<short>(c.answering() ? POLLOUT : POLLIN), 0});
        hurry = hurry || !c.idle();
      }
      const int n = ::poll(fds.data(), fds.size(), hurry ? 1000 : -1);
      if (n < 0 && errno != EINTR)
        return fail(ErrorCode::kInternal, "the key service cannot wait for requests: " + why());
      if (fds[0].revents) return {};
      if (n < 0) continue;
      size_t i = 3;
      for (auto c = connections.begin(); c != connections.end(); ++i) {
        const bool late = !c->idle() && !c->at_work && Clock::now() - c->since > kRequestPatience;
        c = !late && (!fds[i].revents || serve(*c, fds[i].revents)) ? std::next(c) : connections.erase(c);
      }
      if (fds[2].revents) answer_reports();
      if (fds[1].revents) accept();
    }
  }
};

KeyServer::KeyServer(std::unique_ptr<State> state) : state_(std::move(state)) {}
KeyServer::KeyServer(KeyServer &&) noexcept = default;
KeyServer::~KeyServer() = default;

Result<void> KeyServer::check(const Config &config) {
  for (const uid_t uid : config.api)
    if (uid == 0 || uid == ::geteuid())
      return fail(ErrorCode::kInvalidArgument,
                  "`api` under [keys] names root or the key service's own user, who may enrol hosts",
                  "Give the API a user of its own: who enrols a host can have everything opened.");
  return {};
}

Result<KeyServer> KeyServer::listen(Config config, Keys &keys) {
  auto state = std::make_unique<State>();
  state->keys = &keys;
  // Two key services on one path would take each other's socket away.
  const std::string lock = config.socket + ".lock";
  state->lock = Fd(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (state->lock.get() < 0)
    return fail(ErrorCode::kPermissionDenied, "cannot make " + lock + ": " + why(),
                "The folder must exist and belong to the key service's user.");
  if (::flock(state->lock.get(), LOCK_EX | LOCK_NB) != 0)
    return fail(ErrorCode::kAlreadyExists, "another key service listens at " + config.socket);
  COFFER_TRY(Fd listener, listen_unix(config.socket, 0666));
  if (config.beside) state->reports.emplace(config.beside);
  state->config = std::move(config);
  state->listener = std::move(listener);
  return KeyServer(std::move(state));
}

Result<void> KeyServer::run(int stop_fd) { return state_->run(stop_fd); }

}  // namespace coffer
