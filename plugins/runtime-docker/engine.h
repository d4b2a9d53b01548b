// engine.h - the Docker Engine API over its local unix socket.  Poco speaks HTTP here and in engine.cc only.
// Errors: sdk::Error; what the engine says is passed on, for nothing secret is ever sent to it in a request.
// Thread rule: any number of threads.
#ifndef COFFER_RUNTIME_DOCKER_ENGINE_H
#define COFFER_RUNTIME_DOCKER_ENGINE_H
#include <coffer/runtime.hpp>

#include <Poco/JSON/Object.h>
#include <Poco/Net/StreamSocket.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace coffer::runtime_docker {

using Json = Poco::JSON::Object::Ptr;

// Waits until `fd` has one of `events` (poll) or, where it is not negative, `timeout_ms` is over: true when
// it has.  Throws CANCELLED or DEADLINE_EXCEEDED for the call.
bool wait_for(const sdk::Call &, int fd, short events, int timeout_ms = -1);

struct Answer {
  int status = 0;
  std::string body;
  bool ok() const { return status >= 200 && status < 300; }
  Json object() const;  // throws DATA_LOSS when it is none
};

// A connection that carries a stream of bytes: attach, exec, logs, events, wait.
class Stream {
 public:
  Stream(Poco::Net::StreamSocket socket, std::string ahead)
      : socket_(std::move(socket)), ahead_(std::move(ahead)) {}
  Stream(const Stream &) = delete;
  Stream &operator=(const Stream &) = delete;

  int fd() const;
  bool has_ahead() const { return !ahead_.empty(); }  // then read() does not wait
  // At least one byte, 0 at the end.  Waits.
  size_t read(const sdk::Call &, char *to, size_t size);
  // Everything, or false when the other side reads no more.  Waits.
  bool write(const sdk::Call &, const void *data, size_t size);
  // As much as goes at once: bytes written, -1 when the other side reads no more.
  ssize_t write_some(const void *data, size_t size);
  void finish_writing();

 private:
  Poco::Net::StreamSocket socket_;
  std::string ahead_;
};

class Engine {
 public:
  // How long an engine may take for the first byte of an answer: one that hangs must not hang its callers.
  static constexpr int kAnswerPatienceMs = 120'000;
  // REQUIRES: endpoint_ok(endpoint).
  explicit Engine(std::string endpoint, int answer_patience_ms = kAnswerPatienceMs);
  ~Engine();
  static bool endpoint_ok(std::string_view endpoint);  // "unix:///absolute/path"
  const std::string &endpoint() const { return endpoint_; }

  using Headers = std::vector<std::pair<std::string, std::string>>;
  // One request on a kept-alive connection.  Any status of the engine is an answer; UNAVAILABLE when there is
  // none.
  Answer call(const sdk::Call &, const std::string &method, const std::string &path,
              const std::string &body = "", const Headers & = {});
  // The answer's body, or with `upgrade` both directions, as a stream.  A status of 400 or more: `refused` is
  // filled and there is no stream.
  std::unique_ptr<Stream> stream(const sdk::Call &, const std::string &method, const std::string &path,
                                 const std::string &body, bool upgrade, Answer &refused,
                                 const Headers & = {});

  struct Version {
    std::string engine, api;  // "Docker/20.10.24 (linux)", "1.41"
  };
  const Version &version(const sdk::Call &);  // asked once

 private:
  class Session;
  std::unique_ptr<Session> connect(const sdk::Call &) const;
  // Before the version is known.
  Answer ask(const sdk::Call &, const std::string &path, Version &said) const;
  void await_answer(const sdk::Call &, const Session &) const;
  std::string prefix(const sdk::Call &);
  std::string endpoint_, path_;
  int answer_patience_ms_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Session>> idle_;
  std::optional<Version> version_;
};

// The error for an answer that is not ok: the engine's own sentence behind `what`.
sdk::Error refusal(const Answer &, const std::string &what);

// For a query: everything but letters, digits and -._~ escaped.
std::string escaped(std::string_view);

std::string json_text(const Json &);
// "" where there is none, or no text.
std::string text_of(const Json &, const char *key);

}  // namespace coffer::runtime_docker
#endif
