// An HTTP/1.1 server on a unix socket, TCP or both, that knows nothing of what it serves.
//
// One thread owns every connection that is idle, incomplete or being answered; handlers run on threads of
// their own and see complete requests only.  A handler that waits (Context::wait, a blocked write, an
// upgraded connection) gives its place among the workers back as long as it does.
//
// What is not a request gets a status, {"error": "sentence"} and nothing of itself back.  A request with a
// body has a Content-Length: chunked bodies are refused (411).  HTTP/1.0 is answered and closed, unless it
// asks to be kept.  Requests sent ahead are answered one after the other.
#ifndef COFFER_HTTP_SERVER_H
#define COFFER_HTTP_SERVER_H

#include <functional>
#include <memory>
#include <mutex>

#include "server/http/duplex.h"
#include "server/http/message.h"

namespace coffer::http {

struct ServerConfig {
  std::string unix_path;  // "": none.  What is left of a dead server there is replaced, a live one is not
  unsigned unix_mode = 0600;
  std::string tcp;                                 // "127.0.0.1:8080", "[::1]:0"; "": none
  std::string tls_certificate_file, tls_key_file;  // for TCP; needed off loopback

  size_t workers = 64;             // requests at work; above: 503
  size_t max_waiting = 600;        // requests of routes that wait; above: 503
  size_t max_connections = 2'000;  // above, the oldest that is idle or incomplete is closed
  size_t max_body = 4 << 20;       // bytes, unless Admission says otherwise; above: 413
  size_t max_buffered = 64 << 20;  // of incomplete bodies in all; above, the oldest is closed
  HeadLimits head;
  size_t stack = 256 << 10;  // of a handler's thread

  using ms = std::chrono::milliseconds;
  ms head_limit{10'000};   // from the connect or first byte to the end of the head; above: 408
  ms body_limit{30'000};   // for the whole body; above: 408
  ms idle_limit{60'000};   // between requests
  ms write_limit{30'000};  // for the client to take an answer, or a piece of a stream
  ms stop_limit{10'000};   // for what runs when the server stops
};

// Decided by method and path, before the body is read.
struct Admission {
  size_t max_body = 0;  // 0: the server's
  bool waits = false;   // the handler may wait(), stream or upgrade: counted against max_waiting
};
using Admit = std::function<Admission(const Request &)>;  // on the server's own thread: must not block

class Signal;
class Connection;
class Dispatcher;

enum class Woken {
  kNotified,
  kDeadline,
  kGone,      // the client hung up (also: will send nothing more); whatever is answered, nobody reads it
  kStopping,  // the server stops: answer at once
};

// What a handler may ask while it is at work.  Valid during the call.
class Context {
 public:
  // Until `signal` is notified after it was at `seen`, or until `end`.  Pattern of a long poll:
  //   for (;;) {
  //     const uint64_t seen = changed.count();       // first this, then the look: no change is missed
  //     if (auto news = look()) return answer(*news);
  //     if (context.wait(changed, seen, end) != Woken::kNotified) return answer_unchanged();
  //   }
  // Gives the place among the workers back meanwhile if Admission::waits was given, and keeps it if not.
  Woken wait(Signal &signal, uint64_t seen, Clock::time_point end);
  bool gone() const;
  bool stopping() const;

 private:
  friend class Connection;
  explicit Context(Connection &connection) : connection_(connection) {}
  Connection &connection_;
};

// What a waiting handler waits for.  Outlives every wait.  Thread-safe.
class Signal {
 public:
  uint64_t count() const;
  void notify();

 private:
  friend class Context;
  mutable std::mutex mutex_;
  uint64_t count_ = 0;
  std::vector<Connection *> waiting_;
};

// The body of a streamed answer.
class Writer {
 public:
  // Sent at once.  False when the client is gone or the server stops: then end.
  bool write(std::string_view bytes);

 private:
  friend class Connection;
  Writer(Connection &connection, bool chunked) : connection_(connection), chunked_(chunked) {}
  Connection &connection_;
  const bool chunked_;
};

struct Response {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  Headers headers;
  std::string_view route = "-";  // a literal, for the log, in which paths do not appear
  // Instead of `body`: writes it, piece by piece.  A stream that stopped early is seen by the client as cut.
  std::function<void(Context &, Writer &)> stream;
  // Instead of all of it, where Request::upgrade is set: has the connection after the 101, for as long as it
  // likes: it holds no place among the workers and may block on anything.  The end of one direction is not
  // Context::gone(); when the server stops, reads and writes end.  A Duplex that was lent to another
  // session's handler must be given back before this returns.
  std::function<void(Context &, Duplex &)> upgrade;

  static Response json(std::string body, int status = 200);
  static Response error(int status, std::string_view sentence);  // {"error": sentence}
};

// Called on many threads at once.  What it throws is answered with 500 and logged by its type alone.
using Handler = std::function<Response(const Request &, Context &)>;

class Server {
 public:
  // Listens when it returns.  Errors name path or address: kAlreadyExists when somebody listens there,
  // kInvalidArgument, kPermissionDenied, kUnavailable.
  static Result<std::unique_ptr<Server>> start(ServerConfig, Handler, Admit = {});
  ~Server();
  // Takes no more requests, closes idle connections, wakes who waits and gives what runs stop_limit to end;
  // then connections are cut.  Returns when the last handler has: none is killed.  A second call does
  // nothing.
  void stop();
  uint16_t port() const;  // of TCP

 private:
  explicit Server(std::unique_ptr<Dispatcher>);
  std::unique_ptr<Dispatcher> dispatcher_;
};

}  // namespace coffer::http
#endif
