#include "server/http/message.h"

#include <Poco/Exception.h>
#include <Poco/MemoryStream.h>
#include <Poco/Net/HTTPRequest.h>
#include <Poco/Net/HTTPResponse.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>

#include "server/http/characters.h"

namespace coffer::http {
namespace {
namespace net = Poco::Net;

constexpr size_t kLongestHeader = 8 * 1024;  // Poco reads no longer value
constexpr size_t kMostHeaders = 100;
constexpr size_t kLongestName = 256;

// RFC 9110, section 5.6.2.
bool is_token(std::string_view s) {
  return !s.empty() && std::ranges::all_of(s, [](char c) {
    return is_alnum(c) || std::string_view("!#$%&'*+-.^_`|~").contains(c);
  });
}

bool is_field_text(std::string_view s) {
  return std::ranges::all_of(s, [](char c) { return c == '\t' || (c >= 0x20 && c < 0x7f); });
}

// One header line.  Poco decodes "=?charset?Q?...?=" (RFC 2047) in values, and so would put in what was
// checked to be absent here.
bool line_ok(std::string_view line) {
  const size_t colon = line.find(':');
  return colon != line.npos && colon <= kLongestName && is_token(line.substr(0, colon)) &&
         is_field_text(line.substr(colon + 1)) && !line.contains("=?");
}

bool has_word(std::string_view list, std::string_view word) {
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    std::string_view item = list.substr(0, comma);
    while (item.starts_with(' ') || item.starts_with('\t')) item.remove_prefix(1);
    while (item.ends_with(' ') || item.ends_with('\t')) item.remove_suffix(1);
    if (same(item, word)) return true;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return false;
}

// Lists that proxies and browsers write on several lines; whatever else comes twice is refused.
bool may_repeat(std::string_view name) {
  constexpr std::array<std::string_view, 9> kLists = {
      "Accept",         "Accept-Charset", "Accept-Encoding", "Accept-Language",
      "Cache-Control",  "Forwarded",      "Cookie",          "Via",
      "X-Forwarded-For"};
  return std::ranges::any_of(kLists, [&](std::string_view list) { return same(list, name); });
}

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = lower(c);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// %XX undone.  nullopt: malformed, or with a control character.
std::optional<std::string> unescaped(std::string_view s, bool plus_is_blank) {
  std::string out;
  for (size_t i = 0; i < s.size(); ++i) {
    char c = s[i];
    if (c == '%') {
      const int high = i + 2 < s.size() ? digit(s[i + 1]) : -1, low = high < 0 ? -1 : digit(s[i + 2]);
      if (low < 0) return std::nullopt;
      c = static_cast<char>(high * 16 + low);
      i += 2;
    } else if (c == '+' && plus_is_blank) {
      c = ' ';
    }
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return std::nullopt;
    out += c;
  }
  return out;
}

std::optional<Refusal> read_target(std::string_view target, Request &to) {
  if (!target.starts_with('/') || target.contains('#') ||
      !std::ranges::all_of(target, [](char c) { return c > 0x20 && c < 0x7f; }))
    return Refusal{400, "the request's target is not an absolute path"};
  const size_t mark = target.find('?');
  std::string_view path = target.substr(1, mark == target.npos ? mark : mark - 1);
  for (bool more = !path.empty(); more;) {
    const size_t slash = path.find('/');
    const std::optional<std::string> segment = unescaped(path.substr(0, slash), false);
    if (!segment) return Refusal{400, "the path has a bad percent sign or a control character"};
    if (segment->contains('/')) return Refusal{400, "the path has an encoded slash"};
    if (segment->empty() || *segment == "." || *segment == "..")
      return Refusal{400, "the path has a segment that is empty, . or .."};
    to.path.push_back(*segment);
    more = slash != path.npos;
    if (more) path.remove_prefix(slash + 1);
  }
  std::string_view query = mark == target.npos ? "" : target.substr(mark + 1);
  for (bool more = !query.empty(); more;) {
    const size_t end = query.find('&');
    const std::string_view pair = query.substr(0, end);
    const size_t equals = pair.find('=');
    const auto name = unescaped(pair.substr(0, equals), true);
    const auto value = unescaped(equals == pair.npos ? "" : pair.substr(equals + 1), true);
    if (!name || name->empty() || !value)
      return Refusal{400, "the query is not a list of NAME=VALUE, or has a control character"};
    if (!to.query.emplace(*name, *value).second) return Refusal{400, "the query has a name twice"};
    more = end != query.npos;
    if (more) query.remove_prefix(end + 1);
  }
  return std::nullopt;
}

// How long the body is, and whether it can be read at all.
std::optional<Refusal> read_framing(Head &head) {
  const Headers &h = head.request.headers;
  const auto length = h.find("Content-Length");
  if (const auto coding = h.find("Transfer-Encoding")) {
    if (length) return Refusal{400, "Content-Length and Transfer-Encoding exclude each other"};
    if (head.is_http10) return Refusal{400, "HTTP/1.0 has no Transfer-Encoding"};
    if (same(*coding, "chunked")) return Refusal{411, "a request's body needs a Content-Length"};
    return Refusal{501, "this Transfer-Encoding is not supported"};
  }
  if (length) {
    const char *const end = length->data() + length->size();
    const auto [at, error] = std::from_chars(length->data(), end, head.content_length);
    // 18 digits are any size; from_chars takes no sign, blank or list, which others might.
    if (error != std::errc{} || at != end || length->size() > 18)
      return Refusal{400, "Content-Length is not a number"};
  }
  if (const auto expect = h.find("Expect")) {
    if (!same(*expect, "100-continue")) return Refusal{417, "only 100-continue can be expected"};
    head.expects_continue = !head.is_http10;
  }
  return std::nullopt;
}

std::string text_of(const auto &head) {
  std::ostringstream out;
  head.write(out);
  return std::move(out).str();
}

}  // namespace

std::expected<std::optional<Head>, Refusal> read_head(std::string_view bytes, const HeadLimits &limits,
                                                      size_t &scanned) {
  const auto refuse = [](int status, std::string_view sentence) {
    return std::unexpected(Refusal{status, sentence});
  };
  size_t front = 0;  // an empty line before the request is no request (RFC 9112, section 2.2)
  while (bytes.substr(front).starts_with("\r\n") && front < 8) front += 2;

  const size_t end = bytes.find("\r\n\r\n", std::max(front, scanned > 3 ? scanned - 3 : 0));
  // A line that ends without CR is an end for some readers and none for others.
  const std::string_view seen = bytes.substr(0, end);
  for (size_t i = seen.find('\n', scanned); i != seen.npos; i = seen.find('\n', i + 1))
    if (i == 0 || seen[i - 1] != '\r') return refuse(400, "a line of the head does not end with CR LF");
  const size_t line_end = bytes.find("\r\n", front);
  const size_t longest_line = limits.target + 32;
  if (std::min(line_end, bytes.size()) - front > longest_line)
    return refuse(414, "the request's target is too long");
  if (std::min(end, bytes.size()) > limits.bytes) return refuse(431, "the head of the request is too large");
  if (end == bytes.npos) {
    scanned = bytes.size();
    return std::nullopt;
  }

  Head head;
  head.size = end + 4;
  const std::string_view line = bytes.substr(front, line_end - front);
  const size_t first = line.find(' '), last = line.rfind(' ');
  if (first == line.npos || first == last || !is_token(line.substr(0, first)) ||
      line.substr(first + 1, last - first - 1).contains(' '))
    return refuse(400, "the first line is not METHOD TARGET VERSION");
  const std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (target.size() > limits.target) return refuse(414, "the request's target is too long");
  head.is_http10 = version == "HTTP/1.0";
  if (!head.is_http10 && version != "HTTP/1.1") {
    if (!version.starts_with("HTTP/")) return refuse(400, "the first line is not METHOD TARGET VERSION");
    return refuse(505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
  }
  constexpr std::array<std::string_view, 6> kMethods = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"};
  if (std::ranges::find(kMethods, line.substr(0, first)) == kMethods.end())
    return refuse(501, "this method is not supported");

  size_t lines = 0;
  for (std::string_view rest = bytes.substr(line_end + 2, end - line_end); !rest.empty();) {
    const size_t n = std::min(rest.find("\r\n"), rest.size());
    if (n > kLongestHeader) return refuse(431, "a header is too long");
    if (++lines > kMostHeaders) return refuse(431, "there are too many headers");
    if (!line_ok(rest.substr(0, n)))
      return refuse(400, "a line of the head is not NAME: VALUE in plain ASCII");
    rest.remove_prefix(std::min(n + 2, rest.size()));
  }

  try {
    Poco::MemoryInputStream in(bytes.data() + front, static_cast<std::streamsize>(head.size - front));
    net::HTTPRequest parsed;
    parsed.setFieldLimit(kMostHeaders + 1);
    parsed.read(in);
    head.request.method = parsed.getMethod();
    for (const auto &[name, value] : parsed) head.request.headers.add(name, value);

  } catch (const Poco::Exception &) {
    return refuse(400, "the head is not that of an HTTP request");
  }
  if (const auto refusal = read_target(target, head.request)) return std::unexpected(*refusal);
  const Headers &h = head.request.headers;
  for (const auto &[name, value] : h)
    if (h.count(name) > 1 && !may_repeat(name)) return refuse(400, "a header is there twice");
  if (!head.is_http10 && !h.find("Host")) return refuse(400, "the Host header is missing");
  if (const auto refusal = read_framing(head)) return std::unexpected(*refusal);
  const std::string_view connection = h.find("Connection").value_or("");
  head.keep_alive = head.is_http10 ? has_word(connection, "keep-alive") : !has_word(connection, "close");
  head.request.upgrade =
      !head.is_http10 && has_word(connection, "upgrade") && same(h.find("Upgrade").value_or(""), kUpgrade);
  return head;
}

Result<std::optional<AnswerHead>> read_answer_head(std::string_view bytes, size_t limit) {
  const auto none = [] { return fail(ErrorCode::kDataLoss, "the answer is not HTTP"); };
  const size_t end = bytes.find("\r\n\r\n");
  if (std::min(end, bytes.size()) > limit) return none();
  if (!bytes.starts_with(std::string_view("HTTP/1.").substr(0, bytes.size()))) return none();
  if (end == bytes.npos) return std::nullopt;
  const size_t line_end = bytes.find("\r\n");
  for (std::string_view rest = bytes.substr(line_end + 2, end - line_end); !rest.empty();) {
    const size_t n = std::min(rest.find("\r\n"), rest.size());
    if (n > kLongestHeader || !line_ok(rest.substr(0, n))) return none();
    rest.remove_prefix(std::min(n + 2, rest.size()));
  }
  try {
    AnswerHead head;
    head.size = end + 4;
    Poco::MemoryInputStream in(bytes.data(), static_cast<std::streamsize>(head.size));
    net::HTTPResponse parsed;
    parsed.read(in);
    head.status = parsed.getStatus();
    for (const auto &[name, value] : parsed) head.headers.add(name, value);
    if (head.headers.count("Content-Length") > 1) return none();
    return head;
  } catch (const Poco::Exception &) {
    return none();
  }
}

bool header_ok(std::string_view name, std::string_view value) {
  return is_token(name) && name.size() <= kLongestName && is_field_text(value) &&
         value.size() + name.size() < kLongestHeader;
}

std::string write_answer_head(int status, const Headers &headers) {
  net::HTTPResponse head(net::HTTPMessage::HTTP_1_1, static_cast<net::HTTPResponse::HTTPStatus>(status));
  for (const auto &[name, value] : headers) head.add(name, value);
  return text_of(head);
}

std::string write_request_head(const std::string &method, const std::string &target, const Headers &headers) {
  net::HTTPRequest head(method, target, net::HTTPMessage::HTTP_1_1);
  for (const auto &[name, value] : headers) head.add(name, value);
  return text_of(head);
}

}  // namespace coffer::http
