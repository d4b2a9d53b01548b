#include "coffer/backup/backup_file.h"

#include <algorithm>
#include <cstring>

#include "coffer/format/magic.h"

namespace coffer {
namespace {

constexpr size_t kChunk = 64 * 1024, kTag = 16;
constexpr size_t kMostWrapped = 64 * 1024, kMostText = 4096, kMostValue = size_t{64} << 20;

Aead file_aead(const SecretBytes &key, ByteSpan salt) {
  const Bytes info = Encoder().text("coffer backup file v1").take();
  return Aead(hkdf(key.reveal(), salt, info, 32)->reveal());  // 32 bytes are always in range
}

std::array<uint8_t, 12> nonce_of(uint64_t counter, bool last) {
  return to_array<12>(Encoder().u8(0).u16(0).u64(counter).u8(last).take());
}

std::unexpected<Error> damaged(std::string_view what) {
  return fail(ErrorCode::kDataLoss, "the backup was changed or cut off: " + std::string(what),
              "Take another copy of it; nothing was changed here.");
}

}  // namespace

// ---- writing ----

BackupWriter::BackupWriter(Aead aead, const Hash &header, Sink sink)
    : aead_(std::move(aead)), header_(header), sink_(std::move(sink)), chunk_(kChunk) {}

Result<BackupWriter> BackupWriter::begin(const SecretBytes &key, ByteSpan wrapped_root, Sink sink) {
  const auto salt = random_array<32>();
  const Bytes header = coffer::begin("cfv1").bytes(wrapped_root).raw(salt).take();
  COFFER_CHECK(sink(header));
  return BackupWriter(file_aead(key, salt), sha256(header), std::move(sink));
}

Result<void> BackupWriter::flush(bool last) {
  COFFER_TRY(const Bytes sealed,
             aead_.seal(nonce_of(counter_++, last), header_, chunk_.reveal().first(used_)));
  used_ = 0;
  return sink_(sealed);
}

Result<void> BackupWriter::add(ByteSpan bytes) {
  while (!bytes.empty()) {
    // A full chunk waits: it may be the last one.
    if (used_ == kChunk) COFFER_CHECK(flush(false));
    const size_t n = std::min(bytes.size(), kChunk - used_);
    std::memcpy(chunk_.fill().data() + used_, bytes.data(), n);
    used_ += n;
    bytes = bytes.subspan(n);
  }
  return {};
}

Result<void> BackupWriter::file(std::string_view name, const SecretBytes &content) {
  ++items_;
  COFFER_CHECK(add(Encoder().u8(1).text(name).u32(static_cast<uint32_t>(content.size())).take()));
  return add(content.reveal());
}

Result<void> BackupWriter::put(BackupStore store, std::string_view space, std::string_view key,
                               ByteSpan value) {
  ++items_;
  return add(Encoder().u8(2).u8(static_cast<uint8_t>(store)).text(space).text(key).bytes(value).take());
}

Result<void> BackupWriter::erase(BackupStore store, std::string_view space, std::string_view key) {
  ++items_;
  return add(Encoder().u8(3).u8(static_cast<uint8_t>(store)).text(space).text(key).take());
}

Result<void> BackupWriter::end(uint64_t created_ms) {
  COFFER_CHECK(add(Encoder().u8(0).u64(created_ms).u64(items_).take()));
  return flush(true);
}

// ---- reading ----

BackupReader::BackupReader(Aead aead, const Hash &header, Source source)
    : aead_(std::move(aead)), header_(header), source_(std::move(source)) {}

Result<BackupReader> BackupReader::begin(Source source,
                                         const std::function<Result<SecretBytes>(ByteSpan)> &open_key) {
  const auto exactly = [&](Bytes &header, size_t n) -> Result<bool> {
    const size_t before = header.size();
    header.resize(before + n);
    COFFER_TRY(const size_t got, source(std::span(header).subspan(before)));
    return got == n;
  };
  const auto none = [] {
    return fail(ErrorCode::kInvalidArgument, "the file is no backup of a vault, or of a newer coffer");
  };
  Bytes header;
  COFFER_TRY(const bool begun, exactly(header, 8));
  if (!begun || as_text(ByteSpan(header).first(4)) != "cfv1") return none();
  Decoder size(ByteSpan(header).subspan(4));
  const size_t wrapped = size.u32();
  if (wrapped > kMostWrapped) return none();
  COFFER_TRY(const bool whole, exactly(header, wrapped + 32));
  if (!whole) return damaged("it ends in its header");
  COFFER_TRY(const SecretBytes key, open_key(ByteSpan(header).subspan(8, wrapped)));
  BackupReader reader(file_aead(key, ByteSpan(header).last(32)), sha256(header), std::move(source));
  reader.ahead_.resize(kChunk + kTag);
  COFFER_TRY(const size_t got, reader.source_(reader.ahead_));
  reader.ahead_.resize(got);
  return reader;
}

// The next chunk.  Which one is the last is known when nothing follows it.
Result<void> BackupReader::fill() {
  if (last_ || ahead_.size() < kTag) return damaged("it ends too early");
  Bytes following;
  if (ahead_.size() == kChunk + kTag) {
    following.resize(kChunk + kTag);
    COFFER_TRY(const size_t got, source_(following));
    following.resize(got);
  }
  last_ = following.empty();
  auto opened = aead_.open(nonce_of(counter_, last_), header_, ahead_);
  if (!opened) return damaged("chunk " + std::to_string(counter_ + 1) + " does not open");
  ++counter_;
  chunk_ = *std::move(opened);
  at_ = 0;
  ahead_ = std::move(following);
  return {};
}

Result<void> BackupReader::take(std::span<uint8_t> out) {
  while (!out.empty()) {
    if (at_ == chunk_.size()) COFFER_CHECK(fill());
    const size_t n = std::min(out.size(), chunk_.size() - at_);
    if (n) std::memcpy(out.data(), chunk_.reveal().data() + at_, n);
    at_ += n;
    out = out.subspan(n);
  }
  return {};
}

Result<uint64_t> BackupReader::number(size_t bytes) {
  std::array<uint8_t, 8> raw{};
  COFFER_CHECK(take(std::span(raw).last(bytes)));
  return Decoder(raw).u64();
}

Result<Bytes> BackupReader::bytes(size_t most) {
  COFFER_TRY(const uint64_t size, number(4));
  if (size > most) return damaged("an item is too large");
  Bytes out(size);
  COFFER_CHECK(take(out));
  return out;
}

Result<std::string> BackupReader::text() {
  COFFER_TRY(const Bytes b, bytes(kMostText));
  return std::string(as_text(b));
}

Result<BackupItem> BackupReader::next() {
  BackupItem item;
  COFFER_TRY(const uint64_t kind, number(1));
  if (kind > 3) return damaged("an item is of no known kind");
  item.kind = static_cast<BackupItem::Kind>(kind);
  if (item.kind == BackupItem::Kind::kEnd) {
    COFFER_TRY(item.created_ms, number(8));
    COFFER_TRY(const uint64_t items, number(8));
    if (items != items_ || at_ != chunk_.size() || !last_)
      return damaged("its end is not where it should be");
    return item;
  }
  ++items_;
  if (item.kind == BackupItem::Kind::kFile) {
    COFFER_TRY(item.key, text());
    COFFER_TRY(const uint64_t size, number(4));
    if (size > kMostValue) return damaged("an item is too large");
    item.secret = SecretBytes(size);
    COFFER_CHECK(take(item.secret.fill()));
    return item;
  }
  COFFER_TRY(const uint64_t store, number(1));
  if (store != 1 && store != 2) return damaged("an item is of no known store");
  item.store = static_cast<BackupStore>(store);
  COFFER_TRY(item.space, text());
  COFFER_TRY(item.key, text());
  if (item.kind == BackupItem::Kind::kPut) {
    COFFER_TRY(item.value, bytes(kMostValue));
  }
  return item;
}

}  // namespace coffer
