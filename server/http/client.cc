#include "server/http/client.h"

#include <Poco/Exception.h>
#include <Poco/Net/SocketAddress.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <mutex>
#include <optional>

#include "coffer/posix.hpp"
#include "server/http/listen.h"
#include "server/http/tls.h"

namespace coffer::http {
namespace {

constexpr size_t kLargestHead = 64 * 1024, kReadAtOnce = 16 * 1024, kMostIdle = 8, kLongestLine = 1 << 20;

bool closes(const AnswerHead &head) {
  const auto connection = head.headers.find("Connection");
  return connection && (*connection == "close" || *connection == "Close");
}

struct Limit {
  Clock::time_point end;
  int cancel_fd;
};

// A connection and the bytes of it that nobody has taken yet.
class Link {
 public:
  explicit Link(std::unique_ptr<Channel> c) : channel_(std::move(c)) {}

  // More bytes behind the others; false at the end.
  Result<bool> fill(const Limit &limit) {
    const size_t before = bytes_.size();
    bytes_.resize(before + kReadAtOnce);
    for (;;) {
      const ssize_t n = channel_->read(bytes_.data() + before, kReadAtOnce);
      if (n == Channel::kAgain) {
        if (auto ready = wait_ready(channel_->fd(), channel_->wants(), limit.end, limit.cancel_fd); !ready)
          return bytes_.resize(before), std::unexpected(std::move(ready).error());
        continue;
      }
      bytes_.resize(before + static_cast<size_t>(std::max<ssize_t>(n, 0)));
      if (n < 0) return fail(ErrorCode::kUnavailable, "the connection broke");
      return n > 0;
    }
  }
  Result<void> send(std::string_view bytes, const Limit &limit) {
    while (!bytes.empty()) {
      const ssize_t n = channel_->write(bytes.data(), bytes.size());
      if (n == Channel::kBroken) return fail(ErrorCode::kUnavailable, "the connection broke");
      if (n == Channel::kAgain)
        COFFER_CHECK(wait_ready(channel_->fd(), channel_->wants(), limit.end, limit.cancel_fd));
      else
        bytes.remove_prefix(static_cast<size_t>(n));
    }
    return {};
  }
  std::string_view bytes() const { return view(bytes_).substr(taken_); }
  void take(size_t n) {
    taken_ += n;
    if (taken_ == bytes_.size()) bytes_.clear(), taken_ = 0;
    if (taken_ > 4 * kReadAtOnce)
      bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<ptrdiff_t>(taken_)), taken_ = 0;
  }
  // Nothing has come on it that nobody asked for, such as its end.
  bool quiet() const {
    pollfd p{channel_->fd(), POLLIN | POLLRDHUP, 0};
    return bytes().empty() && ::poll(&p, 1, 0) == 0;
  }
  bool untrusted() const { return channel_->untrusted(); }
  std::unique_ptr<Duplex> to_duplex() {
    const std::string_view ahead = bytes();
    return std::make_unique<Duplex>(std::move(channel_), WipedBytes(ahead.begin(), ahead.end()));
  }
  bool reused = false;

 private:
  std::unique_ptr<Channel> channel_;
  WipedBytes bytes_;
  size_t taken_ = 0;
};

class OwnClient : public Client {
 public:
  explicit OwnClient(ClientConfig config) : config_(std::move(config)) {}
  Result<void> read_url();

  Result<Answer> call(const Call &) override;
  Result<Answer> stream(const Call &, const Sink &) override;
  Result<Answer> lines(const Call &, const Sink &) override;
  Result<std::unique_ptr<Duplex>> upgrade(const Call &, Answer &refused) override;

 private:
  Result<std::unique_ptr<Link>> connect(const Limit &) const;
  Result<std::unique_ptr<Link>> ask(const Call &, bool upgrade, Limit &, AnswerHead &);
  Result<void> read_body(Link &, const Call &, const AnswerHead &, Limit &, const Sink &) const;
  void keep(std::unique_ptr<Link>);
  Error broken() const;

  ClientConfig config_;
  std::string unix_path_, host_, port_;
  std::optional<Tls> tls_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Link>> idle_;
};

Result<void> OwnClient::read_url() {
  const std::string &url = config_.url;
  const auto bad = [](std::string why) {
    return fail(ErrorCode::kInvalidArgument, "the server's URL " + why,
                "Give unix:///PATH, http://127.0.0.1:PORT or https://HOST:PORT.");
  };
  std::string_view rest = url;
  if (rest.starts_with("unix://")) {
    rest.remove_prefix(7);
    if (!rest.starts_with('/') || rest.size() >= sizeof(sockaddr_un::sun_path))
      return bad("is no absolute path of at most 107 bytes");
    unix_path_ = rest;
    return {};
  }
  const bool tls = rest.starts_with("https://");
  if (!tls && !rest.starts_with("http://")) return bad("has no scheme that is known here");
  rest.remove_prefix(tls ? 8 : 7);
  if (rest.ends_with('/')) rest.remove_suffix(1);
  if (rest.empty() || rest.find_first_of("/?#@ ") != rest.npos) return bad("is not just a host and a port");
  const size_t colon = rest.rfind(':');
  const bool has_port = colon != rest.npos && rest.find(']', colon) == rest.npos;
  port_ = has_port ? rest.substr(colon + 1) : tls ? "443" : "80";
  std::string_view host = rest.substr(0, has_port ? colon : rest.npos);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  host_ = host;
  uint16_t number = 0;
  const char *const end = port_.data() + port_.size();
  if (const auto [at, error] = std::from_chars(port_.data(), end, number);
      error != std::errc{} || at != end || number == 0 || host.empty())
    return bad("is not just a host and a port");
  if (tls) {
    COFFER_TRY(Tls context, Tls::client(config_.ca_file));
    tls_ = std::move(context);
  } else if (host != "localhost" && host != "::1" && !host.starts_with("127.")) {
    return bad("would send tokens in clear over a network: http:// is for loopback only");
  }
  return {};
}

Error OwnClient::broken() const {
  return {ErrorCode::kUnavailable, "the connection to " + config_.url + " broke"};
}

Result<std::unique_ptr<Link>> OwnClient::connect(const Limit &limit) const {
  const auto none = [&](int error) -> std::unexpected<Error> {
    if (error == EACCES || error == EPERM)
      return fail(ErrorCode::kPermissionDenied, config_.url + " is not open to this user");
    return fail(ErrorCode::kUnavailable, "nobody answers at " + config_.url);
  };
  sockaddr_storage address{};
  socklen_t size = 0;
  if (!unix_path_.empty()) {
    auto &un = reinterpret_cast<sockaddr_un &>(address);
    un.sun_family = AF_UNIX;
    unix_path_.copy(un.sun_path, sizeof un.sun_path - 1);
    size = sizeof un;
  } else {
    try {
      const Poco::Net::SocketAddress found(host_, port_);
      std::memcpy(&address, found.addr(), found.length());
      size = found.length();
      if (!tls_ && !found.host().isLoopback()) return none(ENETUNREACH);  // a name, or /etc/hosts, may say so
    } catch (const Poco::Exception &) {
      return none(ENOENT);
    }
  }
  sdk::Fd fd(::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return none(errno);
  // A unix socket whose queue is full says EAGAIN and gives nothing to wait for.
  while (::connect(fd.get(), reinterpret_cast<const sockaddr *>(&address), size) != 0) {
    if (errno == EINPROGRESS) {
      COFFER_CHECK(wait_ready(fd.get(), POLLOUT, limit.end, limit.cancel_fd));
      int error = 0;
      socklen_t length = sizeof error;
      ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
      if (error) return none(error);
      break;
    }
    if (errno != EAGAIN && errno != EINTR) return none(errno);
    const auto soon = std::min(limit.end, Clock::now() + std::chrono::milliseconds(10));
    if (auto waited = wait_ready(-1, 0, soon, limit.cancel_fd);
        waited.error().code == ErrorCode::kCancelled || Clock::now() >= limit.end)
      return std::unexpected(std::move(waited).error());
  }
  if (unix_path_.empty()) tune_tcp(fd.get());
  auto channel = tls_ ? tls_->connect(fd.release(), host_) : std::make_unique<Channel>(fd.release());
  if (!channel) return none(ENOMEM);
  return std::make_unique<Link>(std::move(channel));
}

Result<std::unique_ptr<Link>> OwnClient::ask(const Call &call, bool upgrade, Limit &limit, AnswerHead &head) {
  Headers headers;
  headers.add("Host", host_.empty()         ? "coffer"
                      : host_.contains(':') ? "[" + host_ + "]:" + port_
                                            : host_ + ":" + port_);
  headers.add("User-Agent", "coffer");
  if (upgrade) {
    headers.add("Connection", "Upgrade");
    headers.add("Upgrade", std::string(kUpgrade));
  }
  if (!call.body.empty()) headers.add("Content-Type", call.content_type);
  if (call.method != "GET" && call.method != "HEAD")
    headers.add("Content-Length", std::to_string(call.body.size()));
  for (const auto &[name, value] : call.headers) headers.add(name, value);
  if (!std::ranges::all_of(headers, [](const auto &h) { return header_ok(h.first, h.second); }) ||
      call.target.find_first_of(" \r\n") != std::string::npos)
    return fail(ErrorCode::kInvalidArgument,
                "the request has a header or path with a character it cannot have");
  std::string request = write_request_head(call.method, call.target, headers);

  for (;;) {
    std::unique_ptr<Link> link;
    for (bool more = !upgrade; more && !link;) {
      const std::lock_guard lock(mutex_);
      more = !idle_.empty();
      if (!more) break;
      link = std::move(idle_.back());
      idle_.pop_back();
      if (!link->quiet()) link.reset();
    }
    if (!link) {
      COFFER_TRY(link, connect(limit));
    }
    const bool reused = std::exchange(link->reused, true);

    // A server may answer and close before it has read the body: its answer counts.
    Result<void> sent = link->send(request, limit);
    if (sent) sent = link->send(call.body, limit);
    if (!sent && sent.error().code != ErrorCode::kUnavailable)
      return std::unexpected(std::move(sent).error().in(config_.url));
    bool any = false;
    for (;;) {
      COFFER_TRY(auto found, read_answer_head(link->bytes(), kLargestHead));
      if (found && (found->status / 100 != 1 || found->status == 101)) {
        head = std::move(*found);
        link->take(head.size);
        return link;
      }
      if (found) {
        link->take(found->size);
        continue;
      }
      auto more = link->fill(limit);
      any = any || !link->bytes().empty();
      if (more && *more) continue;
      if (!more && more.error().code != ErrorCode::kUnavailable)
        return std::unexpected(std::move(more).error().in(config_.url));
      break;
    }
    if (link->untrusted())
      return fail(ErrorCode::kUnauthenticated,
                  "the certificate of " + config_.url + " is not one that is trusted here");
    if (!(reused && call.repeatable && !any)) return std::unexpected(broken());
  }
}

// The body's bytes to `sink`, until its end; a body that ends early is kDataLoss.  kAborted: `sink` wants no
// more.
Result<void> OwnClient::read_body(Link &link, const Call &call, const AnswerHead &head, Limit &limit,
                                  const Sink &sink) const {
  if (call.method == "HEAD" || head.status == 204 || head.status == 304) return {};
  const auto cut = [&] { return fail(ErrorCode::kDataLoss, "the answer of " + config_.url + " is cut"); };
  const auto pass = [&](std::string_view piece) -> Result<void> {
    if (!piece.empty() && !sink(piece)) return fail(ErrorCode::kAborted, "stopped");
    return {};
  };
  const auto refill = [&]() -> Result<bool> {
    auto more = link.fill(limit);
    if (!more) return std::unexpected(std::move(more).error().in(config_.url));
    return *more;
  };
  // Exactly `n` bytes.
  const auto counted = [&](uint64_t n) -> Result<void> {
    while (n > 0) {
      if (link.bytes().empty()) {
        COFFER_TRY(const bool more, refill());
        if (!more) return cut();
      }
      const std::string_view piece = link.bytes().substr(0, n);
      COFFER_CHECK(pass(piece));
      n -= piece.size();
      link.take(piece.size());
    }
    return {};
  };
  const auto line = [&](std::string &out) -> Result<void> {
    size_t at;
    while ((at = link.bytes().find("\r\n")) == std::string_view::npos) {
      if (link.bytes().size() > 256) return cut();
      COFFER_TRY(const bool more, refill());
      if (!more) return cut();
    }
    out = link.bytes().substr(0, at);
    link.take(at + 2);
    return {};
  };

  if (head.headers.find("Transfer-Encoding")) {
    for (;;) {
      std::string size;
      COFFER_CHECK(line(size));
      uint64_t n = 0;
      const auto [at, error] = std::from_chars(size.data(), size.data() + size.size(), n, 16);
      if (error != std::errc{} || (at != size.data() + size.size() && *at != ';') || n > config_.max_answer)
        return cut();
      if (n == 0) break;
      COFFER_CHECK(counted(n));
      COFFER_CHECK(line(size));
      if (!size.empty()) return cut();
    }
    for (std::string trailer = "-"; !trailer.empty();) COFFER_CHECK(line(trailer));
    return {};
  }
  if (const auto length = head.headers.find("Content-Length")) {
    uint64_t n = 0;
    const auto [at, error] = std::from_chars(length->data(), length->data() + length->size(), n);
    if (error != std::errc{} || at != length->data() + length->size()) return cut();
    return counted(n);
  }
  for (bool more = true; more;) {
    COFFER_CHECK(pass(link.bytes()));
    link.take(link.bytes().size());
    COFFER_TRY(more, refill());
  }
  return {};
}

void OwnClient::keep(std::unique_ptr<Link> link) {
  const std::lock_guard lock(mutex_);
  if (idle_.size() < kMostIdle) idle_.push_back(std::move(link));
}

namespace {
bool is_delimited(const Call &call, const AnswerHead &head) {
  return call.method == "HEAD" || head.status == 204 || head.status == 304 ||
         head.headers.find("Transfer-Encoding") || head.headers.find("Content-Length");
}
}  // namespace

Result<Answer> OwnClient::call(const Call &call) { return stream(call, {}); }

Result<Answer> OwnClient::stream(const Call &call, const Sink &sink) {
  Limit limit{Clock::now() + call.timeout, call.cancel_fd};
  AnswerHead head;
  COFFER_TRY(auto link, ask(call, false, limit, head));
  Answer answer;
  answer.status = head.status;
  const bool streamed = sink && answer.ok();
  bool too_large = false;
  const auto body = read_body(*link, call, head, limit, [&](std::string_view piece) {
    if (streamed) {
      const bool more = sink(piece);
      limit.end = Clock::now() + call.timeout;
      return more;
    }
    too_large = answer.body.size() + piece.size() > config_.max_answer;
    if (!too_large) append(answer.body, piece);
    return !too_large;
  });
  if (too_large) return fail(ErrorCode::kResourceExhausted, "the answer of " + config_.url + " is too large");
  if (!body && body.error().code != ErrorCode::kAborted) return std::unexpected(body.error());
  if (body && !closes(head) && is_delimited(call, head)) keep(std::move(link));
  answer.headers = std::move(head.headers);
  return answer;
}

Result<Answer> OwnClient::lines(const Call &call, const Sink &sink) {
  WipedBytes rest;
  bool too_long = false;
  auto answer = stream(call, [&](std::string_view piece) {
    for (size_t end; (end = piece.find('\n')) != piece.npos; piece.remove_prefix(end + 1)) {
      append(rest, piece.substr(0, end));
      if (!sink(view(std::exchange(rest, {})))) return false;
    }
    append(rest, piece);
    too_long = rest.size() > kLongestLine;
    return !too_long;
  });
  if (too_long) return fail(ErrorCode::kDataLoss, "a line of the answer of " + config_.url + " is too long");
  if (answer && !rest.empty()) sink(view(rest));
  return answer;
}

Result<std::unique_ptr<Duplex>> OwnClient::upgrade(const Call &call, Answer &refused) {
  Limit limit{Clock::now() + call.timeout, call.cancel_fd};
  AnswerHead head;
  COFFER_TRY(auto link, ask(call, true, limit, head));
  if (head.status == 101) return link->to_duplex();
  refused.status = head.status;
  COFFER_CHECK(read_body(*link, call, head, limit, [&](std::string_view piece) {
    if (refused.body.size() + piece.size() > kLongestLine) return false;
    append(refused.body, piece);
    return true;
  }));
  refused.headers = std::move(head.headers);
  return nullptr;
}

}  // namespace

Result<std::unique_ptr<Client>> Client::open(ClientConfig config) {
  auto client = std::make_unique<OwnClient>(std::move(config));
  COFFER_CHECK(client->read_url());
  return client;
}

}  // namespace coffer::http
