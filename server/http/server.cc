#include "server/http/server.h"

#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <list>
#include <set>
#include <typeinfo>
#include <unordered_map>

#include "coffer/base/json.h"
#include "coffer/base/log.h"
#include "coffer/base/unix_socket.h"
#include "coffer/posix.hpp"
#include "server/http/listen.h"
#include "server/http/tls.h"

namespace coffer::http {
namespace {

constexpr std::string_view kTarget = "http";
constexpr size_t kReadAtOnce = 32 * 1024;
constexpr size_t kMostDrained = 1 << 20;
constexpr std::chrono::seconds kDrainLimit{
    2};  // for a client to take the answer of a request it is still sending
constexpr std::chrono::seconds kIdleThread{30};
constexpr std::chrono::milliseconds kAcceptPause{100};

// Whatever is left of the signals stays with the threads that the program made.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    ::sigfillset(&all);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) ::sigdelset(&all, fault);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  NoSignals(const NoSignals &) = delete;
  NoSignals &operator=(const NoSignals &) = delete;
  ~NoSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

bool has_body(int status) { return status >= 200 && status != 204 && status != 304; }

}  // namespace

// A client's connection.  The server's thread owns it, except in kWorking, when the thread of its handler
// does; what both touch then is behind `mutex`.
class Connection {
 public:
  enum class State { kHead, kBody, kWorking, kWriting, kDraining };

  Connection(Dispatcher &server, uint64_t number, std::unique_ptr<Channel> c, Peer who)
      : dispatcher(server), id(number), fd(c->fd()), channel(std::move(c)), peer(std::move(who)) {}

  Dispatcher &dispatcher;
  const uint64_t id;
  const int fd;
  std::unique_ptr<Channel> channel;
  const Peer peer;

  State state = State::kHead;
  WipedBytes in, out;
  size_t scanned = 0, written = 0, counted = 0, drained = 0;
  std::optional<Head> head;
  Admission admission;
  bool close_after = false, broken = false;
  bool between = false;  // answered before, and nothing of the next request is here
  uint32_t watched = 0;
  Clock::time_point deadline = Clock::time_point::max();
  std::optional<std::list<Connection *>::iterator> place;  // in the order of age, unless at work

  std::mutex mutex;
  std::condition_variable changed;
  bool gone = false, stopping = false, notified = false, upgraded = false;

  void set(bool Connection::*flag) {
    const std::lock_guard lock(mutex);
    if (flag == &Connection::gone && upgraded) return;  // it may have ended one direction only
    this->*flag = true;
    if (flag == &Connection::stopping && upgraded) ::shutdown(fd, SHUT_RDWR);
    changed.notify_all();
  }
  bool get(bool Connection::*flag) {
    const std::lock_guard lock(mutex);
    return this->*flag;
  }

  // ---- by the handler's thread ----
  void serve(const Handler &);
  bool send(std::string_view bytes);  // waits; false: broken
  // Around what waits: the place among the workers is somebody else's meanwhile.
  void park();
  void unpark();

 private:
  Response handle(const Handler &);
  void stream(Response &);
  void upgrade(Response &);
  int parked_ = 0;  // a session waits as a whole, and may wait within
};

class Dispatcher {
 public:
  Dispatcher(ServerConfig config, Handler handler, Admit admit)
      : config_(std::move(config)), handler_(std::move(handler)), admit_(std::move(admit)) {}
  ~Dispatcher();
  Result<void> start();
  void stop();
  uint16_t port() const { return port_; }
  const ServerConfig &config() const { return config_; }

  // A handler's thread leaves its place among the workers, and takes one again; `done`: and never comes back.
  void park();
  void unpark();
  void done(bool waits);

 private:
  using State = Connection::State;
  enum : uint64_t { kWake = 0, kUnix = 1, kTcp = 2, kFirst = 3 };  // of epoll; above: connections

  // The server's thread.  Functions that may end the connection come last in their callers.
  void run();
  void accept_from(uint64_t listener);
  void event(Connection &, uint32_t events);
  void read_more(Connection &);
  bool advance(Connection &);  // true: needs more bytes
  bool begin_body(Connection &, Head);
  void count_body(Connection &);
  void dispatch(Connection &);
  void answer(Connection &, Response);
  void refuse(Connection &, Refusal);
  void flush(Connection &);
  void after_answer(Connection &);
  void drain(Connection &);
  void close(Connection &);
  bool close_oldest(bool only_with_body, const Connection *but);
  void enter(Connection &, State, Clock::time_point deadline);
  void watch(Connection &, uint32_t events);
  void expire(Clock::time_point now);
  void begin_stop();
  void pause_accepting(bool);
  int timeout() const;
  Connection *find(uint64_t id);
  void wake() const;

  void work();
  bool spawn();

  const ServerConfig config_;
  const Handler handler_;
  const Admit admit_;
  std::optional<Tls> tls_;
  sdk::Fd epoll_, wake_, unix_, tcp_;
  uint16_t port_ = 0;
  struct stat unix_file_ = {};
  pthread_t thread_ = {};
  bool started_ = false;
  std::string id_prefix_;

  // Of the server's thread alone.
  std::unordered_map<uint64_t, std::unique_ptr<Connection>> connections_;
  std::list<Connection *> by_age_;
  std::set<std::pair<Clock::time_point, Connection *>> deadlines_;
  std::vector<uint64_t> again_;  // have bytes that came ahead
  WipedBytes scratch_ = WipedBytes(kReadAtOnce);
  uint64_t next_id_ = kFirst, requests_ = 0;
  size_t buffered_ = 0;
  bool ending_ = false, cut_ = false;
  std::optional<Clock::time_point> accept_again_;
  Clock::time_point stop_end_;

  std::mutex mutex_;
  std::condition_variable jobs_changed_, place_free_, thread_ended_;
  std::deque<Connection *> jobs_;
  std::vector<uint64_t> returned_;
  size_t at_work_ = 0, waiting_ = 0, threads_ = 0, idle_ = 0;
  bool stop_asked_ = false, quit_ = false;
};

// ---- what a handler has ----

uint64_t Signal::count() const {
  const std::lock_guard lock(mutex_);
  return count_;
}

void Signal::notify() {
  const std::lock_guard lock(mutex_);
  ++count_;
  for (Connection *const c : waiting_) c->set(&Connection::notified);
}

Woken Context::wait(Signal &signal, uint64_t seen, Clock::time_point end) {
  Connection &c = connection_;
  {
    const std::lock_guard lock(signal.mutex_);
    if (signal.count_ != seen) return Woken::kNotified;
    {
      const std::lock_guard own(c.mutex);
      c.notified = false;
    }
    signal.waiting_.push_back(&c);
  }
  c.park();
  Woken woken = Woken::kDeadline;
  {
    std::unique_lock lock(c.mutex);
    c.changed.wait_until(lock, end, [&] { return c.notified || c.gone || c.stopping; });
    if (c.notified) woken = Woken::kNotified;
    if (c.stopping) woken = Woken::kStopping;
    if (c.gone) woken = Woken::kGone;
  }
  {
    const std::lock_guard lock(signal.mutex_);
    std::erase(signal.waiting_, &c);
  }
  c.unpark();
  return woken;
}

bool Context::gone() const { return connection_.get(&Connection::gone); }
bool Context::stopping() const { return connection_.get(&Connection::stopping); }

bool Writer::write(std::string_view bytes) {
  if (connection_.broken || connection_.get(&Connection::gone) || connection_.get(&Connection::stopping)) {
    connection_.broken = true;  // no end mark: what was left out must not look complete
    return false;
  }
  if (bytes.empty()) return true;  // an empty chunk would be the end
  if (!chunked_) return connection_.send(bytes);
  char size[20];
  const int n = std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  WipedBytes chunk;
  chunk.reserve(bytes.size() + 24);
  append(chunk, {size, static_cast<size_t>(n)});
  append(chunk, bytes);
  append(chunk, "\r\n");
  return connection_.send(view(chunk));
}

Response Response::json(std::string body, int status) {
  Response r;
  r.status = status;
  r.body = std::move(body);
  return r;
}

Response Response::error(int status, std::string_view sentence) {
  return json(JsonWriter().begin_object().field("error", sentence).end_object().str(), status);
}

// ---- a connection at work ----

namespace {

// The answer's head, and its body behind it.
WipedBytes rendered(const Response &r, const Head *request, bool close, std::string_view framing = {}) {
  Headers headers;
  const bool body = has_body(r.status);
  if (r.upgrade) {
    headers.add("Connection", "Upgrade");
    headers.add("Upgrade", std::string(kUpgrade));
  } else {
    if (body) headers.add("Content-Type", r.content_type);
    if (!framing.empty())
      headers.add("Transfer-Encoding", std::string(framing));
    else if (body && !r.stream)
      headers.add("Content-Length", std::to_string(r.body.size()));
    headers.add("Cache-Control", "no-store");
    headers.add("Connection", close ? "close" : "keep-alive");
  }
  if (request) headers.add("X-Request-Id", request->request.id);
  for (const auto &[name, value] : r.headers) headers.add(name, value);
  const std::string head = write_answer_head(r.status, headers);
  WipedBytes out;
  out.reserve(head.size() + r.body.size());
  append(out, head);
  if (body && !r.stream && !r.upgrade && !(request && request->request.method == "HEAD")) append(out, r.body);
  return out;
}

bool sound(const Response &r) {
  return r.status >= 200 && r.status <= 599 && header_ok("Content-Type", r.content_type) &&
         std::ranges::all_of(r.headers, [](const auto &h) { return header_ok(h.first, h.second); });
}

void log_answer(const Connection &c, const Response &r, Clock::time_point begin) {
  if (!log_enabled(LogLevel::kDebug)) return;
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin).count();
  log(LogLevel::kDebug, kTarget,
      (c.head ? c.head->request.id + " " + c.head->request.method : std::string("- -")) + " " +
          std::string(r.route) + " " + std::to_string(r.upgrade ? 101 : r.status) + " " + std::to_string(ms) +
          " ms " + c.peer.text());
}

Response internal_error(const Connection &c, std::string_view what) {
  log(LogLevel::kError, kTarget, (c.head ? c.head->request.id : std::string("-")) + ": " + std::string(what));
  return Response::error(500, "internal error");
}

}  // namespace

Response Connection::handle(const Handler &handler) {
  Context context(*this);
  Response r;
  try {
    r = handler(head->request, context);
  } catch (const std::exception &e) {
    r = internal_error(*this, std::string("the handler threw ") + typeid(e).name());
  } catch (...) {
    r = internal_error(*this, "the handler threw");
  }
  if (!sound(r)) r = internal_error(*this, "the handler's answer has a bad status or header");
  if (r.upgrade && !head->request.upgrade) {
    const std::string_view route = r.route;
    r = Response::error(426, "this path needs an upgrade of the connection");
    r.headers.add("Upgrade", std::string(kUpgrade));
    r.route = route;
  }
  return r;
}

void Connection::serve(const Handler &handler) {
  const Clock::time_point begin = Clock::now();
  Response r = handle(handler);
  close_after = !head->keep_alive;
  if (r.upgrade) {
    upgrade(r);
  } else if (r.stream && has_body(r.status) && head->request.method != "HEAD") {
    stream(r);
  } else {
    out = rendered(r, &*head, close_after);
    written = 0;
  }
  // Before the last byte of the answer, so that who has read it finds the place free.
  dispatcher.done(admission.waits);
  // Mostly all of it goes at once; what does not is the server's thread's to send.
  if (!broken && !out.empty()) {
    const ssize_t n = channel->write(out.data(), out.size());
    if (n == Channel::kBroken) broken = true;
    if (n > 0) written = static_cast<size_t>(n);
  }
  log_answer(*this, r, begin);
  head.reset();  // wipes the body
}

void Connection::stream(Response &r) {
  const bool chunked = !head->is_http10;
  close_after = close_after || !chunked;
  if (!send(view(rendered(r, &*head, close_after, chunked ? "chunked" : "")))) return;
  Context context(*this);
  Writer writer(*this, chunked);
  try {
    r.stream(context, writer);
  } catch (const std::exception &e) {
    internal_error(*this, std::string("the stream threw ") + typeid(e).name());
    broken = true;
  } catch (...) {
    internal_error(*this, "the stream threw");
    broken = true;
  }
  if (chunked && !broken) append(out, "0\r\n\r\n");
}

void Connection::upgrade(Response &r) {
  close_after = true;
  r.status = 101;
  if (!send(view(rendered(r, &*head, false)))) return;
  {
    const std::lock_guard lock(mutex);
    upgraded = true;
    gone = false;  // see set()
    if (stopping) ::shutdown(fd, SHUT_RDWR);
  }
  park();
  Context context(*this);
  Duplex duplex(std::move(channel), std::exchange(in, {}));
  try {
    r.upgrade(context, duplex);
  } catch (const std::exception &e) {
    internal_error(*this, std::string("the session threw ") + typeid(e).name());
  } catch (...) {
    internal_error(*this, "the session threw");
  }
  channel = duplex.take_channel();
  unpark();
  channel->finish_writing();
}

void Connection::park() {
  if (admission.waits && parked_++ == 0) dispatcher.park();
}

void Connection::unpark() {
  if (admission.waits && --parked_ == 0) dispatcher.unpark();
}

bool Connection::send(std::string_view bytes) {
  std::optional<Clock::time_point> end;
  while (!bytes.empty() && !broken) {
    const ssize_t n = channel->write(bytes.data(), bytes.size());
    if (n >= 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
      continue;
    }
    if (n == Channel::kBroken) {
      broken = true;
      break;
    }
    if (!end) end = Clock::now() + dispatcher.config().write_limit;
    park();
    if (!wait_ready(fd, channel->wants(), *end)) broken = true;
    unpark();
  }
  return !broken;
}

// ---- places and threads ----

void Dispatcher::park() {
  const std::lock_guard lock(mutex_);
  --at_work_;
  place_free_.notify_one();
}

void Dispatcher::done(bool waits) {
  const std::lock_guard lock(mutex_);
  --at_work_;
  if (waits) --waiting_;
  place_free_.notify_one();
}

void Dispatcher::unpark() {
  std::unique_lock lock(mutex_);
  place_free_.wait(lock, [&] { return at_work_ < config_.workers; });
  ++at_work_;
}

bool Dispatcher::spawn() {
  const NoSignals quiet;
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, config_.stack);
  ::pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  const int error = ::pthread_create(
      &thread, &attributes,
      [](void *self) -> void * { return static_cast<Dispatcher *>(self)->work(), nullptr; }, this);
  ::pthread_attr_destroy(&attributes);
  if (error == 0) ++threads_;
  return error == 0;
}

void Dispatcher::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (jobs_.empty() && !quit_) {
      ++idle_;
      jobs_changed_.wait_for(lock, kIdleThread, [&] { return !jobs_.empty() || quit_; });
      --idle_;
    }
    if (jobs_.empty()) break;
    Connection &c = *jobs_.front();
    jobs_.pop_front();
    lock.unlock();
    c.serve(handler_);
    lock.lock();
    returned_.push_back(c.id);
    if (returned_.size() == 1) wake();
  }
  --threads_;
  thread_ended_.notify_all();  // under the lock: after it, nothing of this object is touched
}

// ---- the server's thread ----

Dispatcher::~Dispatcher() { stop(); }

void Dispatcher::wake() const {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(wake_.get(), &one, sizeof one);
}

Result<void> Dispatcher::start() {
  if (config_.unix_path.empty() && config_.tcp.empty())
    return fail(ErrorCode::kInvalidArgument, "the server has nothing to listen at");
  // Else connections at work could fill the table, and no place could be made for a new one.
  if (config_.workers == 0 || config_.max_connections <= config_.workers + config_.max_waiting)
    return fail(ErrorCode::kInvalidArgument,
                "max_connections must be above workers and max_waiting together, and workers above 0");
  if (config_.tls_certificate_file.empty() != config_.tls_key_file.empty())
    return fail(ErrorCode::kInvalidArgument, "a TLS certificate and its key go together");
  if (!config_.tls_certificate_file.empty()) {
    COFFER_TRY(tls_, Tls::server(config_.tls_certificate_file, config_.tls_key_file));
  }
  epoll_ = sdk::Fd(::epoll_create1(EPOLL_CLOEXEC));
  wake_ = sdk::Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_ || !wake_) return fail(ErrorCode::kUnavailable, "the system has no file descriptors left");
  uint8_t random[6];
  if (::getentropy(random, sizeof random) != 0)
    return fail(ErrorCode::kInternal, "the system has no random bytes");
  id_prefix_ = hex(random) + "-";

  if (!config_.tcp.empty()) {
    COFFER_TRY(const int fd, listen_tcp(config_.tcp, tls_.has_value()));
    tcp_ = sdk::Fd(fd);
    port_ = port_of(fd);
  }
  if (!config_.unix_path.empty()) {
    COFFER_TRY(unix_, listen_unix(config_.unix_path, config_.unix_mode));
    ::lstat(config_.unix_path.c_str(), &unix_file_);
  }
  const auto add = [&](int fd, uint64_t id) {
    epoll_event e{.events = EPOLLIN, .data = {.u64 = id}};
    return fd < 0 || ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &e) == 0;
  };
  const NoSignals quiet;
  if (!add(wake_.get(), kWake) || !add(unix_.get(), kUnix) || !add(tcp_.get(), kTcp) ||
      ::pthread_create(
          &thread_, nullptr,
          [](void *self) -> void * { return static_cast<Dispatcher *>(self)->run(), nullptr; }, this) != 0)
    return fail(ErrorCode::kUnavailable, "the system has no room for the server's thread");
  started_ = true;
  return {};
}

void Dispatcher::stop() {
  if (!started_) return;
  {
    const std::lock_guard lock(mutex_);
    stop_asked_ = true;
  }
  wake();
  ::pthread_join(thread_, nullptr);
  started_ = false;
  std::unique_lock lock(mutex_);
  quit_ = true;
  jobs_changed_.notify_all();
  thread_ended_.wait(lock, [&] { return threads_ == 0; });
}

void Dispatcher::run() {
  std::vector<epoll_event> events(256);
  while (!ending_ || !connections_.empty()) {
    const int n = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout());
    for (int i = 0; i < std::max(n, 0); ++i) {
      const uint64_t id = events[static_cast<size_t>(i)].data.u64;
      if (id == kWake) {
        uint64_t count;
        [[maybe_unused]] const ssize_t got = ::read(wake_.get(), &count, sizeof count);
      } else if (id == kUnix || id == kTcp) {
        accept_from(id);
      } else if (Connection *const c = find(id)) {
        event(*c, events[static_cast<size_t>(i)].events);
      }
    }
    std::vector<uint64_t> returned;
    bool stop;
    {
      const std::lock_guard lock(mutex_);
      returned.swap(returned_);
      stop = stop_asked_;
    }
    for (const uint64_t id : returned)
      if (Connection *const c = find(id)) {
        enter(*c, State::kWriting, Clock::now() + config_.write_limit);
        flush(*c);
      }
    for (const uint64_t id : std::exchange(again_, {}))
      if (Connection *const c = find(id); c && c->state == State::kHead && advance(*c)) read_more(*c);
    if (stop && !ending_) begin_stop();
    expire(Clock::now());
  }
}

int Dispatcher::timeout() const {
  if (!again_.empty()) return 0;
  Clock::time_point next = Clock::time_point::max();
  if (!deadlines_.empty()) next = deadlines_.begin()->first;
  if (accept_again_) next = std::min(next, *accept_again_);
  if (ending_ && !cut_) next = std::min(next, stop_end_);
  if (next == Clock::time_point::max()) return -1;
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(ms, 0, 1'000'000));
}

Connection *Dispatcher::find(uint64_t id) {
  const auto it = connections_.find(id);
  return it == connections_.end() ? nullptr : it->second.get();
}

void Dispatcher::accept_from(uint64_t listener) {
  const bool is_unix = listener == kUnix;
  for (int i = 0; i < 64; ++i) {  // then the others have their turn
    const int fd =
        ::accept4(is_unix ? unix_.get() : tcp_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      if (errno == ECONNABORTED || errno == EINTR) continue;
      if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
      if (close_oldest(false, nullptr)) continue;
      return pause_accepting(true);
    }
    if (connections_.size() >= config_.max_connections) close_oldest(false, nullptr);
    Peer peer = peer_of(fd, is_unix);
    auto channel = !is_unix && tls_ ? tls_->accept(fd) : std::make_unique<Channel>(fd);
    if (!channel) continue;
    const uint64_t id = next_id_++;
    auto connection = std::make_unique<Connection>(*this, id, std::move(channel), std::move(peer));
    Connection &c = *connection;
    epoll_event e{.events = EPOLLIN, .data = {.u64 = id}};
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &e) != 0) continue;
    c.watched = EPOLLIN;
    connections_.emplace(id, std::move(connection));
    enter(c, State::kHead, Clock::now() + config_.head_limit);
  }
}

void Dispatcher::pause_accepting(bool pause) {
  accept_again_.reset();
  if (pause) accept_again_ = Clock::now() + kAcceptPause;
  for (const auto &[fd, id] : {std::pair(unix_.get(), kUnix), std::pair(tcp_.get(), kTcp)}) {
    epoll_event e{.events = pause ? 0u : EPOLLIN, .data = {.u64 = id}};
    if (fd >= 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &e);
  }
}

// Invariant: a connection has a place in by_age_ and may have a deadline unless it is at work.
void Dispatcher::enter(Connection &c, State state, Clock::time_point deadline) {
  deadlines_.erase({c.deadline, &c});
  if (c.place) by_age_.erase(*c.place);
  c.place.reset();
  c.state = state;
  c.deadline = deadline;
  if (state == State::kWorking) return;
  c.place = by_age_.insert(by_age_.end(), &c);
  deadlines_.emplace(deadline, &c);
}

void Dispatcher::watch(Connection &c, uint32_t events) {
  if (c.watched == events) return;
  epoll_event e{.events = events, .data = {.u64 = c.id}};
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, c.fd, &e);
  c.watched = events;
}

void Dispatcher::close(Connection &c) {
  deadlines_.erase({c.deadline, &c});
  if (c.place) by_age_.erase(*c.place);
  buffered_ -= c.counted;
  connections_.erase(c.id);
}

bool Dispatcher::close_oldest(bool only_with_body, const Connection *but) {
  for (Connection *const c : by_age_)
    if (c != but && (!only_with_body || c->counted > 0)) return close(*c), true;
  return false;
}

void Dispatcher::event(Connection &c, uint32_t events) {
  switch (c.state) {
    case State::kHead:
    case State::kBody:
      return read_more(c);
    case State::kWriting:
      return flush(c);
    case State::kDraining:
      return drain(c);
    case State::kWorking:
      c.watched = 0;  // it was watched for once
      if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) c.set(&Connection::gone);
  }
}

namespace {
uint32_t epoll_events(short poll_events) { return poll_events == POLLOUT ? EPOLLOUT : EPOLLIN; }
}  // namespace

void Dispatcher::read_more(Connection &c) {
  for (;;) {
    const ssize_t n = c.channel->read(scratch_.data(), scratch_.size());
    if (n == Channel::kAgain) return watch(c, epoll_events(c.channel->wants()));
    if (n <= 0) return close(c);  // an incomplete request is none
    append(c.in, {scratch_.data(), static_cast<size_t>(n)});
    secure_wipe(scratch_.data(), static_cast<size_t>(n));
    if (std::exchange(c.between, false)) enter(c, State::kHead, Clock::now() + config_.head_limit);
    if (!advance(c)) return;
  }
}

bool Dispatcher::advance(Connection &c) {
  if (c.state == State::kHead) {
    auto head = read_head(view(c.in), config_.head, c.scanned);
    if (!head) return refuse(c, head.error()), false;
    if (!*head) return true;
    if (!begin_body(c, std::move(**head))) return false;
  }
  const size_t size = c.head->content_length;
  if (c.in.size() < size) return count_body(c), true;
  buffered_ -= std::exchange(c.counted, 0);
  if (c.in.size() == size) {
    c.head->request.body = std::exchange(c.in, {});
  } else {
    const auto end = c.in.begin() + static_cast<ptrdiff_t>(size);
    c.head->request.body.assign(c.in.begin(), end);
    c.in = WipedBytes(end, c.in.end());
  }
  dispatch(c);
  return false;
}

// The head is complete: decides whether its body is read.  False: it was refused.
bool Dispatcher::begin_body(Connection &c, Head head) {
  c.in = WipedBytes(c.in.begin() + static_cast<ptrdiff_t>(head.size), c.in.end());
  c.scanned = 0;
  head.request.peer = c.peer;
  head.request.id = id_prefix_ + std::to_string(++requests_);
  c.head = std::move(head);
  c.admission = {};
  try {
    if (admit_) c.admission = admit_(c.head->request);
  } catch (...) {
    c.close_after = true;
    answer(c, internal_error(c, "the admission threw"));
    return false;
  }
  const size_t limit = c.admission.max_body ? c.admission.max_body : config_.max_body;
  if (c.head->content_length > limit) return refuse(c, {413, "the body is too large"}), false;
  enter(c, State::kBody, Clock::now() + config_.body_limit);
  constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
  if (c.head->expects_continue && c.in.size() < c.head->content_length &&
      c.channel->write(kContinue.data(), kContinue.size()) != static_cast<ssize_t>(kContinue.size()))
    return close(c), false;  // a client that has not read 25 bytes is none
  return true;
}

void Dispatcher::count_body(Connection &c) {
  buffered_ += c.in.size() - std::exchange(c.counted, c.in.size());
  while (buffered_ > config_.max_buffered && close_oldest(true, &c)) {
  }
}

void Dispatcher::dispatch(Connection &c) {
  c.close_after = !c.head->keep_alive;
  bool taken = false;
  {
    const std::lock_guard lock(mutex_);
    if (at_work_ < config_.workers && (!c.admission.waits || waiting_ < config_.max_waiting)) {
      // From here on the handler's thread has the connection.
      enter(c, State::kWorking, Clock::time_point::max());
      watch(c, EPOLLRDHUP | EPOLLONESHOT);
      jobs_.push_back(&c);
      if (jobs_.size() <= idle_ || spawn() || threads_ > 0) {
        taken = true;
        ++at_work_;
        if (c.admission.waits) ++waiting_;
        jobs_changed_.notify_one();
      } else {
        jobs_.pop_back();
      }
    }
  }
  if (taken) return;
  Response busy = Response::error(503, "the server is busy: try again");
  busy.headers.add("Retry-After", "1");
  answer(c, std::move(busy));
}

void Dispatcher::refuse(Connection &c, Refusal refusal) {
  c.close_after = true;  // where the next request would begin is not known
  answer(c, Response::error(refusal.status, refusal.sentence));
}

void Dispatcher::answer(Connection &c, Response r) {
  const Clock::time_point now = Clock::now();
  log_answer(c, r, now);
  c.out = rendered(r, c.head ? &*c.head : nullptr, c.close_after);
  c.written = 0;
  buffered_ -= std::exchange(c.counted, 0);
  c.head.reset();
  enter(c, State::kWriting, now + config_.write_limit);
  flush(c);
}

void Dispatcher::flush(Connection &c) {
  while (!c.broken && c.written < c.out.size()) {
    const ssize_t n = c.channel->write(c.out.data() + c.written, c.out.size() - c.written);
    if (n == Channel::kAgain) return watch(c, epoll_events(c.channel->wants()));
    if (n == Channel::kBroken) c.broken = true;
    if (n > 0) c.written += static_cast<size_t>(n);
  }
  if (c.broken) return close(c);
  after_answer(c);
}

void Dispatcher::after_answer(Connection &c) {
  c.out = {};
  c.written = 0;
  if (ending_) return close(c);
  if (c.close_after) {
    c.channel->finish_writing();
    enter(c, State::kDraining, Clock::now() + kDrainLimit);
    return drain(c);
  }
  c.between = c.in.empty();
  enter(c, State::kHead, Clock::now() + (c.between ? config_.idle_limit : config_.head_limit));
  if (!c.between) return again_.push_back(c.id);
  read_more(c);
}

// A socket that is closed with bytes unread takes the answer back from who still sends.
void Dispatcher::drain(Connection &c) {
  for (;;) {
    const ssize_t n = c.channel->read(scratch_.data(), scratch_.size());
    if (n == Channel::kAgain) return watch(c, epoll_events(c.channel->wants()));
    if (n <= 0 || (c.drained += static_cast<size_t>(n)) > kMostDrained) return close(c);
    secure_wipe(scratch_.data(), static_cast<size_t>(n));
  }
}

void Dispatcher::expire(Clock::time_point now) {
  if (accept_again_ && now >= *accept_again_ && !ending_) pause_accepting(false);
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    Connection &c = *deadlines_.begin()->second;
    const bool incomplete = c.state == State::kBody || (c.state == State::kHead && !c.in.empty());
    if (incomplete)
      refuse(c, {408, "the request did not come in time"});
    else
      close(c);
  }
  if (ending_ && !cut_ && now >= stop_end_) {
    cut_ = true;
    std::vector<Connection *> all;
    for (const auto &[id, c] : connections_) all.push_back(c.get());
    for (Connection *const c : all) {
      if (c->state == State::kWorking)
        ::shutdown(c->fd, SHUT_RDWR);
      else
        close(*c);
    }
  }
}

void Dispatcher::begin_stop() {
  ending_ = true;
  stop_end_ = Clock::now() + config_.stop_limit;
  accept_again_.reset();
  if (unix_) {
    struct stat now;  // of another server by now, perhaps
    if (::lstat(config_.unix_path.c_str(), &now) == 0 && now.st_ino == unix_file_.st_ino &&
        now.st_dev == unix_file_.st_dev)
      ::unlink(config_.unix_path.c_str());
  }
  unix_.close();
  tcp_.close();
  std::vector<Connection *> all;
  for (const auto &[id, c] : connections_) all.push_back(c.get());
  for (Connection *const c : all) {
    if (c->state == State::kWorking)
      c->set(&Connection::stopping);
    else if (c->state != State::kWriting)
      close(*c);
  }
}

// ---- Server ----

Server::Server(std::unique_ptr<Dispatcher> d) : dispatcher_(std::move(d)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::start(ServerConfig config, Handler handler, Admit admit) {
  auto dispatcher = std::make_unique<Dispatcher>(std::move(config), std::move(handler), std::move(admit));
  COFFER_CHECK(dispatcher->start());
  return std::unique_ptr<Server>(new Server(std::move(dispatcher)));
}

void Server::stop() { dispatcher_->stop(); }
uint16_t Server::port() const { return dispatcher_->port(); }

}  // namespace coffer::http
