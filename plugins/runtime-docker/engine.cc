#include "engine.h"

#include <Poco/Buffer.h>
#include <Poco/JSON/Parser.h>
#include <Poco/JSON/Stringifier.h>
#include <Poco/Net/HTTPClientSession.h>
#include <Poco/Net/HTTPRequest.h>
#include <Poco/Net/HTTPResponse.h>
#include <Poco/Net/SocketAddress.h>
#include <Poco/StreamCopier.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <sstream>

#include <coffer/posix.hpp>

namespace coffer::runtime_docker {
namespace {
using sdk::Call;
using sdk::Error;
namespace net = Poco::Net;

constexpr std::string_view kScheme = "unix://";
constexpr int kOldestMinor = 41, kNewestMinor = 47;  // of API 1.x; what the newest one lacks is not used
constexpr size_t kLargestSentence = 400;

uint64_t monotonic_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

// The engine's sentences: one line, bounded.
std::string one_line(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, kLargestSentence)) out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  while (!out.empty() && (out.back() == ' ' || out.back() == '.')) out.pop_back();
  return out;
}

int minor_of(const std::string &api) {
  int minor = -1;
  if (api.starts_with("1.")) std::from_chars(api.data() + 2, api.data() + api.size(), minor);
  return minor;
}

}  // namespace

bool wait_for(const Call &call, int fd, short events, int timeout_ms) {
  const uint64_t begin = monotonic_ns();
  const uint64_t own_end =
      timeout_ms < 0 ? UINT64_MAX : begin + static_cast<uint64_t>(timeout_ms) * 1'000'000;
  for (;;) {
    if (call.cancelled()) throw Error{COFFER_CANCELLED, "cancelled"};
    const uint64_t now = monotonic_ns();
    if (call.deadline_ns() && now >= call.deadline_ns())
      throw Error{COFFER_DEADLINE_EXCEEDED, "the Docker engine was not done in time"};
    const uint64_t end = std::min(own_end, call.deadline_ns() ? call.deadline_ns() : UINT64_MAX);
    int wait_ms = -1;
    if (end != UINT64_MAX)
      wait_ms = end > now ? static_cast<int>(std::min<uint64_t>((end - now) / 1'000'000 + 1, 1'000'000)) : 0;
    pollfd fds[] = {{fd, events, 0}, {call.cancel_fd(), POLLIN, 0}};
    const int n = ::poll(fds, 2, wait_ms);
    if (n < 0 && errno != EINTR) throw Error{COFFER_INTERNAL, "poll failed"};
    if (n > 0 && fds[0].revents) return true;
    if (monotonic_ns() >= own_end) return false;
  }
}

// ---- answers ----

Json Answer::object() const {
  try {
    Poco::JSON::Parser parser;
    return parser.parse(body).extract<Json>();
  } catch (const Poco::Exception &) {
    throw Error{COFFER_DATA_LOSS, "the Docker engine answered something that is no JSON object"};
  }
}

Error refusal(const Answer &a, const std::string &what) {
  std::string sentence;
  try {
    sentence = one_line(a.object()->optValue<std::string>("message", ""));
  } catch (...) {
    sentence = "status " + std::to_string(a.status);
  }
  const auto says = [&](std::string_view part) { return sentence.find(part) != std::string::npos; };
  Error e{COFFER_UNKNOWN, what + ": " + sentence, "http", a.status};
  if (a.status == 400) e.status = COFFER_INVALID_ARGUMENT;
  if (a.status == 401 || a.status == 403) e.status = COFFER_PERMISSION_DENIED;
  if (a.status == 404) e.status = COFFER_NOT_FOUND;
  if (a.status == 409) e.status = COFFER_ABORTED;
  if (a.status == 503) e.status = COFFER_UNAVAILABLE;
  if (says("no space left on device")) {
    e.status = COFFER_RESOURCE_EXHAUSTED;
    e.remedy = "Make room on the disk of the Docker engine: `docker system df` shows what takes it.";
  } else if (says("port is already allocated") || says("address already in use")) {
    e.status = COFFER_FAILED_PRECONDITION;
    e.remedy = "Another program has this port: end it, or publish another one with -p.";
  } else if (says("bind source path does not exist")) {
    e.status = COFFER_FAILED_PRECONDITION;
    e.remedy = "Make the folder first, or give -v a volume's name.";
  }
  return e;
}

std::string escaped(std::string_view text) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  for (const char ch : text) {
    const auto c = static_cast<unsigned char>(ch);
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       c == '-' || c == '.' || c == '_' || c == '~';
    if (plain) {
      out += ch;
    } else {
      out += '%';
      out += kHex[c >> 4];
      out += kHex[c & 15];
    }
  }
  return out;
}

std::string text_of(const Json &o, const char *key) {
  return o && o->has(key) && !o->isNull(key) ? o->optValue<std::string>(key, "") : "";
}

std::string json_text(const Json &o) {
  std::ostringstream out;
  Poco::JSON::Stringifier::stringify(o, out);
  return out.str();
}

// ---- streams ----

int Stream::fd() const { return socket_.impl()->sockfd(); }

size_t Stream::read(const Call &call, char *to, size_t size) {
  if (!ahead_.empty()) {
    const size_t n = std::min(size, ahead_.size());
    std::memcpy(to, ahead_.data(), n);
    ahead_.erase(0, n);
    return n;
  }
  for (;;) {
    wait_for(call, fd(), POLLIN);
    const ssize_t n = ::recv(fd(), to, size, MSG_DONTWAIT);
    if (n >= 0) return static_cast<size_t>(n);
    if (errno == ECONNRESET) return 0;
    if (errno != EAGAIN && errno != EINTR)
      throw Error{COFFER_UNAVAILABLE, "the connection to the Docker engine broke", "errno", errno};
  }
}

ssize_t Stream::write_some(const void *data, size_t size) {
  const ssize_t n = ::send(fd(), data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
  return n >= 0 ? n : errno == EAGAIN || errno == EINTR ? 0 : -1;
}

bool Stream::write(const Call &call, const void *data, size_t size) {
  for (const char *p = static_cast<const char *>(data); size;) {
    wait_for(call, fd(), POLLOUT);
    const ssize_t n = write_some(p, size);
    if (n < 0) return false;
    p += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

void Stream::finish_writing() { ::shutdown(fd(), SHUT_WR); }

// ---- requests ----

class Engine::Session : public net::HTTPClientSession {
 public:
  explicit Session(const std::string &path)
      : HTTPClientSession("127.0.0.1", 80), address_(net::SocketAddress::UNIX_LOCAL, path) {
    setKeepAlive(true);
    setTimeout(Poco::Timespan(60, 0));
  }
  // HTTPClientSession knows host and port only: whatever it asks for, it is the engine's socket.
  // HTTPSession's own connect() wants TCP_NODELAY, which a unix socket does not have.
  void connect(const net::SocketAddress &) override {
    socket().connect(address_, getTimeout());
    socket().setReceiveTimeout(getTimeout());
    ::fcntl(socket().impl()->sockfd(), F_SETFD, FD_CLOEXEC);
  }
  int fd() const { return const_cast<Session *>(this)->socket().impl()->sockfd(); }
  bool used = false;

 private:
  net::SocketAddress address_;
};

Engine::Engine(std::string endpoint, int answer_patience_ms)
    : endpoint_(std::move(endpoint)),
      path_(endpoint_.substr(kScheme.size())),
      answer_patience_ms_(answer_patience_ms) {}
Engine::~Engine() = default;

bool Engine::endpoint_ok(std::string_view endpoint) {
  return endpoint.starts_with(kScheme) && endpoint.size() > kScheme.size() + 1 &&
         endpoint[kScheme.size()] == '/' && endpoint.size() - kScheme.size() < sizeof(sockaddr_un::sun_path);
}

namespace {

Error no_engine(const std::string &endpoint, int code) {
  if (code == EACCES || code == EPERM)
    return {COFFER_PERMISSION_DENIED,
            "the Docker engine's socket " + endpoint + " is not open to this user",
            "errno",
            code,
            0,
            "Join the group that owns it (mostly `docker`), or run as root."};
  return {COFFER_UNAVAILABLE,
          "no Docker engine answers at " + endpoint,
          "errno",
          code,
          0,
          "Start it (`systemctl start docker`), or correct `endpoint` under [runtime] in engine.toml."};
}

// What Poco throws when a peer goes away; its texts are not needed.
template <class F>
auto contained(const std::string &endpoint, F &&body) {
  try {
    return body();
  } catch (const Poco::Exception &e) {
    throw no_engine(endpoint, e.code());
  }
}

net::HTTPRequest make_request(const std::string &method, const std::string &path, const std::string &body,
                              const std::string &version, const Engine::Headers &headers) {
  net::HTTPRequest request(method, path, version);
  request.setHost("docker");
  request.set("User-Agent", "coffer");
  if (!body.empty()) request.setContentType("application/json");
  if (method != "GET") request.setContentLength64(static_cast<Poco::Int64>(body.size()));
  for (const auto &[key, value] : headers) request.set(key, value);
  return request;
}

}  // namespace

std::unique_ptr<Engine::Session> Engine::connect(const Call &) const {
  return contained(endpoint_, [&] { return std::make_unique<Session>(path_); });
}

void Engine::await_answer(const Call &call, const Session &session) const {
  if (wait_for(call, session.fd(), POLLIN, answer_patience_ms_)) return;
  throw Error{COFFER_UNAVAILABLE,
              "the Docker engine at " + endpoint_ + " takes requests, but does not answer them",
              "",
              0,
              0,
              "See whether `docker ps` answers; if it does not, restart the engine."};
}

Answer Engine::call(const Call &call, const std::string &method, const std::string &path,
                    const std::string &body, const Headers &headers) {
  const std::string full = prefix(call) + path;
  const sdk::NoSigpipe quiet;
  for (;;) {
    std::unique_ptr<Session> session;
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        session = std::move(idle_.back());
        idle_.pop_back();
      }
    }
    if (!session) session = connect(call);
    const bool reused = std::exchange(session->used, true);
    try {
      net::HTTPRequest request = make_request(method, full, body, net::HTTPMessage::HTTP_1_1, headers);
      request.setKeepAlive(true);
      std::ostream &out = session->sendRequest(request);
      out.write(body.data(), static_cast<std::streamsize>(body.size()));
      out.flush();
      await_answer(call, *session);
      net::HTTPResponse response;
      std::istream &in = session->receiveResponse(response);
      Answer a;
      a.status = response.getStatus();
      Poco::StreamCopier::copyToString(in, a.body);
      const std::lock_guard lock(mutex_);
      if (response.getKeepAlive() && idle_.size() < 8) idle_.push_back(std::move(session));
      return a;
    } catch (const Poco::Exception &e) {
      // The engine ends connections that were idle, and all of them when it restarts: asking again is safe
      // where nothing changes by it.
      if (!(reused && method == "GET")) throw no_engine(endpoint_, e.code());
    }
  }
}

std::unique_ptr<Stream> Engine::stream(const Call &call, const std::string &method, const std::string &path,
                                       const std::string &body, bool upgrade, Answer &refused,
                                       const Headers &headers) {
  const std::string full = prefix(call) + path;
  const sdk::NoSigpipe quiet;
  return contained(endpoint_, [&]() -> std::unique_ptr<Stream> {
    const std::unique_ptr<Session> session = connect(call);
    // HTTP/1.0: the body is not chunked and ends with the connection.
    net::HTTPRequest request = make_request(
        method, full, body, upgrade ? net::HTTPMessage::HTTP_1_1 : net::HTTPMessage::HTTP_1_0, headers);
    if (upgrade) {
      request.set("Connection", "Upgrade");
      request.set("Upgrade", "tcp");
    }
    std::ostream &out = session->sendRequest(request);
    out.write(body.data(), static_cast<std::streamsize>(body.size()));
    out.flush();
    await_answer(call, *session);
    net::HTTPResponse response;
    std::istream &in = session->receiveResponse(response);
    if (response.getStatus() >= 400) {
      refused.status = response.getStatus();
      Poco::StreamCopier::copyToString(in, refused.body);
      return nullptr;
    }
    Poco::Buffer<char> ahead(0);
    session->drainBuffer(ahead);
    return std::make_unique<Stream>(session->detachSocket(), std::string(ahead.begin(), ahead.size()));
  });
}

Answer Engine::ask(const Call &call, const std::string &path, Version &said) const {
  const sdk::NoSigpipe quiet;
  return contained(endpoint_, [&] {
    const std::unique_ptr<Session> session = connect(call);
    net::HTTPRequest request = make_request("GET", path, "", net::HTTPMessage::HTTP_1_1, {});
    session->sendRequest(request).flush();
    await_answer(call, *session);
    net::HTTPResponse response;
    std::istream &in = session->receiveResponse(response);
    Answer a;
    a.status = response.getStatus();
    Poco::StreamCopier::copyToString(in, a.body);
    said.engine = one_line(response.get("Server", ""));
    said.api = response.get("Api-Version", "");
    return a;
  });
}

// Rationale: GET /version says all of it, but starts three programs to do so, which takes as long as a tenth
// of a boot.
const Engine::Version &Engine::version(const Call &call) {
  {
    const std::lock_guard lock(mutex_);
    if (version_) return *version_;
  }
  Version found, ignored;
  const Answer ping = ask(call, "/_ping", found);
  if (!ping.ok()) throw refusal(ping, "the Docker engine");
  const int newest = minor_of(found.api);
  if (newest < 0)
    throw Error{COFFER_FAILED_PRECONDITION, "what answers at " + endpoint_ + " is no Docker engine"};
  if (newest < kOldestMinor)
    throw Error{COFFER_FAILED_PRECONDITION,
                "the Docker engine at " + endpoint_ + " is too old: it speaks API 1." +
                    std::to_string(newest) + ", and 1.41 (Docker 20.10) is needed",
                "",
                0,
                0,
                "Upgrade Docker."};
  int use = std::min(newest, kNewestMinor);
  // A much newer one may have forgotten that.
  if (newest > kNewestMinor && !ask(call, "/v1." + std::to_string(use) + "/_ping", ignored).ok()) {
    const Answer a = ask(call, "/version", ignored);
    if (!a.ok()) throw refusal(a, "the Docker engine's version");
    use = std::max(use, minor_of(text_of(a.object(), "MinAPIVersion")));
  }
  found.api = "1." + std::to_string(use);
  const std::lock_guard lock(mutex_);
  if (!version_) version_ = std::move(found);
  return *version_;
}

std::string Engine::prefix(const Call &call) { return "/v" + version(call).api; }

}  // namespace coffer::runtime_docker
