// An entry to its line and back.
#include <array>
#include <charconv>
#include <map>
#include <variant>

#include "audit_line.h"
#include "coffer/base/clock.h"
#include "coffer/base/codec.h"
#include "coffer/base/json.h"
#include "coffer/base/text.h"
#include "coffer/crypto/primitives.h"

namespace coffer {
namespace {

constexpr std::string_view kLabel = "coffer audit v1";
constexpr std::string_view kNumber = "{\"n\":", kPrevious = ",\"prev\":\"", kHash = "\",\"hash\":\"",
                           kEnd = "\"}";
constexpr size_t kHex = 2 * sizeof(Hash);
constexpr size_t kTail = kPrevious.size() + kHex + kHash.size() + kHex + kEnd.size();
constexpr size_t kMaxText = 256;
// Names of one line, in bytes: with all else of the line well below its limit, also when each is escaped.
constexpr size_t kMaxNames = 8 * 1024;

Hash chain(const Hash &previous, std::string_view hashed) {
  return sha256(Encoder().text(kLabel).bytes(previous).text(hashed).take());
}

std::string line(const AuditEntry &e, std::span<const std::string> names, bool more, const std::string &time,
                 Checkpoint &at) {
  JsonWriter j;
  j.begin_object().field("n", at.number + 1).field("time", time);
  const auto text = [&j](std::string_view name, std::string_view value) {
    if (!value.empty()) j.field(name, printable(value, kMaxText));
  };
  const auto number = [&j](std::string_view name, uint64_t value) {
    if (value) j.field(name, value);
  };
  text("who", e.who);
  text("action", e.action);
  text("app", e.app);
  text("app_id", e.app_id);
  text("machine", e.machine);
  text("instance", e.instance);
  text("host", e.host);
  text("host_name", e.host_name);
  if (!names.empty()) {
    j.key("names").begin_array();
    for (const std::string &n : names) j.value(printable(n, kMaxText));
    j.end_array();
  }
  if (more) j.field("more", true);
  number("count", e.count);
  number("spec", e.spec);
  number("version", e.version);
  number("release", e.release);
  if (e.other) {
    text("log", e.other->log);
    number("number", e.other->at.number);
    j.field("head", hex(e.other->at.hash));
  }
  text("outcome", e.outcome);
  std::string out = j.str();
  out.append(kPrevious).append(hex(at.hash));
  at = {at.number + 1, chain(at.hash, out)};
  return out.append(kHash).append(hex(at.hash)).append(kEnd);
}

// A flat JSON object as `line` writes it: texts, numbers, lists of texts, `true`.
class Reader {
 public:
  using Value = std::variant<std::string, uint64_t, std::vector<std::string>, bool>;
  explicit Reader(std::string_view in) : in_(in) {}

  std::optional<std::map<std::string, Value, std::less<>>> object() {
    std::map<std::string, Value, std::less<>> out;
    if (!take('{')) return std::nullopt;
    do {
      auto name = text();
      if (!name || !take(':')) return std::nullopt;
      auto v = value();
      if (!v || !out.emplace(*std::move(name), *std::move(v)).second) return std::nullopt;
    } while (take(','));
    if (!take('}') || !in_.empty()) return std::nullopt;
    return out;
  }

 private:
  bool take(char c) {
    if (!in_.starts_with(c)) return false;
    in_.remove_prefix(1);
    return true;
  }
  std::optional<Value> value() {
    if (in_.starts_with('"')) return text();
    if (take('[')) {
      std::vector<std::string> list;
      do {
        auto item = text();
        if (!item) return std::nullopt;
        list.push_back(*std::move(item));
      } while (take(','));
      if (!take(']')) return std::nullopt;
      return list;
    }
    constexpr std::string_view kTrue = "true";
    if (in_.starts_with(kTrue)) {
      in_.remove_prefix(kTrue.size());
      return true;
    }
    uint64_t n = 0;
    const auto [end, error] = std::from_chars(in_.data(), in_.data() + in_.size(), n);
    if (error != std::errc()) return std::nullopt;
    in_.remove_prefix(static_cast<size_t>(end - in_.data()));
    return n;
  }
  std::optional<std::string> text() {
    std::string out;
    if (!take('"')) return std::nullopt;
    while (!in_.empty() && !in_.starts_with('"')) {
      char c = in_.front();
      if (static_cast<unsigned char>(c) < 0x20) return std::nullopt;
      in_.remove_prefix(1);
      if (c == '\\') {
        if (in_.empty() || (in_.front() != '"' && in_.front() != '\\')) return std::nullopt;
        c = in_.front();
        in_.remove_prefix(1);
      }
      out += c;
    }
    if (!take('"')) return std::nullopt;
    return out;
  }

  std::string_view in_;
};

std::optional<Hash> hash_of(std::string_view text) {
  const auto bytes = unhex(text);
  if (!bytes || bytes->size() != sizeof(Hash)) return std::nullopt;
  return to_array<sizeof(Hash)>(*bytes);
}

}  // namespace

std::string outcome_of(const Error &e) {
  constexpr std::array<std::string_view, 17> kCodes = {"failed",
                                                       "cancelled",
                                                       "failed",
                                                       "invalid_argument",
                                                       "deadline_exceeded",
                                                       "not_found",
                                                       "already_exists",
                                                       "permission_denied",
                                                       "resource_exhausted",
                                                       "failed_precondition",
                                                       "aborted",
                                                       "out_of_range",
                                                       "unimplemented",
                                                       "internal",
                                                       "unavailable",
                                                       "data_loss",
                                                       "unauthenticated"};
  if (!e.reason.empty()) return std::string(e.reason);
  const auto code = static_cast<size_t>(e.code);
  return std::string(kCodes[code < kCodes.size() ? code : 0]);
}

std::optional<AuditFrame> audit_frame(std::string_view line) {
  if (line.size() < kNumber.size() + 1 + kTail || line.size() > kMaxAuditLine || !line.starts_with(kNumber))
    return std::nullopt;
  AuditFrame f;
  const char *digits = line.data() + kNumber.size();
  const auto [end, error] = std::from_chars(digits, line.data() + line.size(), f.number);
  if (error != std::errc() || *end != ',' || f.number == 0) return std::nullopt;
  std::string_view tail = line.substr(line.size() - kTail);
  const auto part = [&tail](size_t n) {
    const std::string_view p = tail.substr(0, n);
    tail.remove_prefix(n);
    return p;
  };
  if (part(kPrevious.size()) != kPrevious) return std::nullopt;
  const auto previous = hash_of(part(kHex));
  if (part(kHash.size()) != kHash) return std::nullopt;
  const auto hash = hash_of(part(kHex));
  if (tail != kEnd || !previous || !hash) return std::nullopt;
  f.previous = *previous;
  f.hash = *hash;
  if (chain(f.previous, line.substr(0, line.size() - kHash.size() - kHex - kEnd.size())) != f.hash)
    return std::nullopt;
  return f;
}

void append_audit_lines(std::string &out, const AuditEntry &e, uint64_t ms, Checkpoint &at) {
  const std::string time = rfc3339_ms(ms);
  std::span<const std::string> left = e.names;
  do {
    size_t taken = 0;
    for (size_t bytes = 0; taken < left.size(); ++taken) {
      bytes += std::min(left[taken].size(), kMaxText) + 3;
      if (bytes > kMaxNames) break;
    }
    out += line(e, left.first(taken), taken < left.size(), time, at) + "\n";
    left = left.subspan(taken);
  } while (!left.empty());
}

Result<StoredAudit> decode_audit_line(std::string_view in) {
  const auto wrong = [] { return fail(ErrorCode::kDataLoss, "not an entry of an audit log"); };
  const auto frame = audit_frame(in);
  if (!frame) return wrong();
  auto object = Reader(in).object();
  if (!object) return wrong();
  bool fits = true;
  const auto take = [&](std::string_view name, auto &to) {
    const auto at = object->find(name);
    if (at == object->end()) return;
    if (auto *v = std::get_if<std::remove_reference_t<decltype(to)>>(&at->second))
      to = std::move(*v);
    else
      fits = false;
  };
  StoredAudit out;
  out.number = frame->number;
  out.previous = frame->previous;
  out.hash = frame->hash;
  take("time", out.time);
  AuditEntry &e = out.entry;
  take("who", e.who);
  take("action", e.action);
  take("app", e.app);
  take("app_id", e.app_id);
  take("machine", e.machine);
  take("instance", e.instance);
  take("host", e.host);
  take("host_name", e.host_name);
  take("names", e.names);
  take("more", out.more);
  take("count", e.count);
  take("spec", e.spec);
  take("version", e.version);
  take("release", e.release);
  e.outcome.clear();
  take("outcome", e.outcome);
  if (std::string head; object->contains("head")) {
    take("head", head);
    const auto hash = hash_of(head);
    e.other.emplace();
    take("log", e.other->log);
    take("number", e.other->at.number);
    if (hash) e.other->at.hash = *hash;
    fits = fits && hash;
  }
  if (!fits || out.time.empty() || e.action.empty()) return wrong();
  return out;
}

}  // namespace coffer
