#include "once.h"

#include <atomic>

#include "coffer/base/codec.h"
#include "coffer/crypto/primitives.h"
#include "coffer/format/magic.h"

namespace coffer::api {
namespace {

constexpr std::string_view kSpace = "requests", kMagic = "crq1";

struct Remembered {
  uint64_t created_ms = 0;
  Hash request{};
  std::string owner;  // who is doing it
  uint32_t cut_off = 0;
  bool done = false;
  uint16_t status = 0;
  std::string body;
};
Bytes encode(const Remembered &r) {
  Encoder e = begin(kMagic);
  e.u64(r.created_ms).raw(r.request).text(r.owner).u32(r.cut_off).u8(r.done).u16(r.status).text(r.body);
  return e.take();
}
Result<Remembered> decode(ByteSpan bytes) {
  Decoder d(bytes);
  begins(d, kMagic);
  Remembered r;
  r.created_ms = d.u64();
  r.request = d.array<32>();
  r.owner = d.text();
  r.cut_off = d.u32();
  r.done = read_flag(d);
  r.status = d.u16();
  r.body = d.text();
  if (!d.done()) return malformed("a remembered request");
  return r;
}

}  // namespace

Once::Once(const Storage &storage, const TokenId &token, std::string_view key, const Hash &request,
           std::function<uint64_t()> clock)
    : storage_(storage),
      key_(hex(sha256(Encoder().raw(token).text(key).take()))),
      request_(request),
      clock_(std::move(clock)),
      owner_(worker_identity()) {}

Result<std::optional<http::Response>> Once::begin() {
  for (;;) {
    COFFER_TRY(const auto stored, storage_.get(kSpace, key_));
    created_ms_ = clock_();
    cut_off_ = 0;
    if (stored) {
      COFFER_TRY(const Remembered r, decode(stored->value));
      const bool old = clock_() - r.created_ms > kRememberedMs;
      if (!old && r.request != request_)
        return fail(ErrorCode::kInvalidArgument, "the Idempotency-Key was that of another request",
                    "Use a new key for each request.");
      if (!old && r.done) {
        http::Response again = http::Response::json(r.body, r.status);
        again.headers.add("Idempotent-Replayed", "true");
        return again;
      }
      if (!old && process_alive(r.owner))
        return fail(ErrorCode::kAborted, "the request with this Idempotency-Key is at work",
                    "Ask again until it is done.");
      if (!old) {
        created_ms_ = r.created_ms;
        cut_off_ = r.cut_off + 1;
      }
    } else {
      COFFER_CHECK(forget_old());
    }
    Batch b;
    b.require(key_, stored ? stored->revision : 0)
        .put(key_, encode({created_ms_, request_, *owner_, cut_off_, false, 0, {}}));
    const auto ours = storage_.commit(kSpace, b);
    if (ours) return std::nullopt;
    if (ours.error().code != ErrorCode::kAborted) return std::unexpected(ours.error());
  }
}

std::vector<std::string> Once::ids() const {
  std::vector<std::string> out;
  for (uint32_t n = 0; n <= cut_off_; ++n)
    out.push_back(hex(sha256(Encoder().text(key_).u64(created_ms_).u32(n).out())).substr(0, 14));
  return out;
}

Result<void> Once::end(const Result<http::Response> &answer) {
  Batch b;
  if (answer)
    b.put(key_, encode({created_ms_,
                        request_,
                        {},
                        cut_off_,
                        true,
                        static_cast<uint16_t>(answer->status),
                        answer->body}));
  else
    b.erase(key_);
  COFFER_CHECK(storage_.commit(kSpace, b));
  return {};
}

Result<void> Once::forget_old() const {
  constexpr uint64_t kEach = 60 * 60 * 1000;
  static std::atomic<uint64_t> last{0};
  uint64_t before = last, now = clock_();
  if (now - before < kEach || !last.compare_exchange_strong(before, now)) return {};
  std::vector<std::string> old;
  const size_t most = storage_.limits().max_ops;
  COFFER_CHECK(storage_.list(kSpace, "", true, [&](const Stored &s) {
    const auto r = decode(s.value);
    if (!r || now - r->created_ms > kRememberedMs) old.push_back(s.key);
    return old.size() < most;
  }));
  if (old.empty()) return {};
  Batch b;
  for (const std::string &key : old) b.erase(key);
  COFFER_CHECK(storage_.commit(kSpace, b));
  return {};
}

}  // namespace coffer::api
