// HTTP/1.1 messages (RFC 9112), read strictly: what two readers could understand differently is refused.
// Nothing here waits or knows a socket.
#ifndef COFFER_HTTP_MESSAGE_H
#define COFFER_HTTP_MESSAGE_H

#include <sys/types.h>

#include <cstdint>
#include <expected>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "coffer/base/result.h"
#include "server/http/wiped.h"

namespace coffer::http {

inline constexpr std::string_view kUpgrade = "coffer-session";  // the one protocol a connection changes to

// In the order they came; names are compared without case.
class Headers {
 public:
  Headers() = default;
  Headers(std::initializer_list<std::pair<std::string, std::string>> all) : all_(all) {}
  void add(std::string name, std::string value) { all_.emplace_back(std::move(name), std::move(value)); }
  std::optional<std::string_view> find(std::string_view name) const;  // the first
  size_t count(std::string_view name) const;
  auto begin() const { return all_.begin(); }
  auto end() const { return all_.end(); }

 private:
  std::vector<std::pair<std::string, std::string>> all_;
};

// Who is at the other end.  Of a unix socket the kernel says it (SO_PEERCRED), as of the connect.
struct Peer {
  bool is_unix = false;
  uid_t uid = static_cast<uid_t>(-1);
  gid_t gid = static_cast<gid_t>(-1);
  pid_t pid = 0;
  std::string address;  // of TCP: "127.0.0.1:4711"
  std::string text() const;
};

struct Request {
  std::string method;                        // GET, HEAD, POST, PUT, PATCH or DELETE
  std::vector<std::string> path;             // decoded segments, none empty, "." or ".."; "/" has none
  std::map<std::string, std::string> query;  // decoded, each name once
  Headers headers;                           // each name once, but for lists that the handler has no use for
  WipedBytes body;
  Peer peer;
  std::string id;        // of this request, in its answer's X-Request-Id and in the log
  bool upgrade = false;  // asks for kUpgrade
};

// Why a request is not taken: a status, and a sentence that repeats nothing of it.
struct Refusal {
  int status;
  std::string_view sentence;
};

struct Head {
  Request request;
  size_t size = 0;  // bytes of it
  uint64_t content_length = 0;
  bool expects_continue = false, keep_alive = false, is_http10 = false;
};

struct HeadLimits {
  size_t bytes = 16 * 1024, target = 8 * 1024;
};

// The head at the front of `bytes`; nullopt while it is not complete.  `scanned` is where an earlier call
// with fewer bytes left off.
std::expected<std::optional<Head>, Refusal> read_head(std::string_view bytes, const HeadLimits &,
                                                      size_t &scanned);

struct AnswerHead {
  int status = 0;
  Headers headers;
  size_t size = 0;
};
// The same for the answer that a client reads; kDataLoss when it is none.
Result<std::optional<AnswerHead>> read_answer_head(std::string_view bytes, size_t limit);

// May stand in a header: a name, and a value that cannot end its line.
bool header_ok(std::string_view name, std::string_view value);

// REQUIRES: header_ok() for each.
std::string write_answer_head(int status, const Headers &);
std::string write_request_head(const std::string &method, const std::string &target, const Headers &);

// For a path's segment or a query: all but letters, digits and -._~ as %XX.
std::string escaped(std::string_view);

}  // namespace coffer::http
#endif
