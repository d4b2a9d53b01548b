// An HTTP/1.1 client of one server: over a unix socket, TCP on loopback, or TLS.
//
// Errors: kUnavailable (names the URL: nobody answers, or the connection broke), kDeadlineExceeded,
// kCancelled, kPermissionDenied (the socket is not open to this user), kUnauthenticated (its certificate is
// not trusted), kDataLoss (the answer is not HTTP, or cut). A status of the server is an answer and no error.
// Thread rule: any number of threads.
#ifndef COFFER_HTTP_CLIENT_H
#define COFFER_HTTP_CLIENT_H

#include <functional>
#include <memory>

#include "server/http/duplex.h"
#include "server/http/message.h"

namespace coffer::http {

struct ClientConfig {
  std::string url;  // "unix:///absolute/path", "http://127.0.0.1:8080" (loopback only), "https://host[:443]"
  std::string ca_file;  // of https: a CA or the server's own certificate, PEM; "": the system's CAs
  size_t max_answer = 64 << 20;
};

struct Call {
  std::string method = "GET";
  std::string target = "/";  // path and query, escaped()
  Headers headers;
  std::string_view body;
  std::string content_type = "application/json";
  // To the end of the answer; of a stream, for its head and then for each silence.
  std::chrono::milliseconds timeout{30'000};
  int cancel_fd = -1;  // an eventfd: readable = cancelled
  // Asks once more when a kept connection turns out to be gone: for what may be done twice.
  bool repeatable = false;
};

struct Answer {
  int status = 0;
  Headers headers;
  WipedBytes body;
  bool ok() const { return status >= 200 && status < 300; }
};

class Client {
 public:
  // Connects to nobody yet.  kInvalidArgument for the URL, errors of the certificate file.
  static Result<std::unique_ptr<Client>> open(ClientConfig);
  virtual ~Client() = default;

  virtual Result<Answer> call(const Call &) = 0;

  // The body as it comes, piece by piece, while `sink` answers true.  Not ok(): `sink` saw nothing, and the
  // body is in the answer.
  using Sink = std::function<bool(std::string_view piece)>;
  virtual Result<Answer> stream(const Call &, const Sink &) = 0;
  virtual Result<Answer> lines(const Call &, const Sink &) = 0;  // line by line, without the \n

  // Both directions after a 101.  Any other status: `refused` is filled, and there is no connection.
  virtual Result<std::unique_ptr<Duplex>> upgrade(const Call &, Answer &refused) = 0;
};

}  // namespace coffer::http
#endif
