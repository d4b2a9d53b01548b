// `coffer vault migrate`: moves a vault between storage backends without opening a value.
//
// Invariant: at every moment one of the two is complete and writable, never both.
//   1. the target gets "incoming", so that it is no vault yet
//   2. each space of the source gets "moved": from then on its commits fail (Vault::commit)
//   3. everything is copied, a space at a time
//   4. the target becomes a vault ("format" in, "incoming" out), then the source's own space says so too
// Cut off in between, `migrate --to` the same place is run again and goes on.
#include "coffer/vault/vault.h"
#include "layout.h"

namespace coffer {
namespace {

constexpr std::string_view kIncomingKey = "incoming";

Bytes text_bytes(std::string_view s) { return Bytes(s.begin(), s.end()); }

}  // namespace

Result<void> Vault::migrate(const Storage &target, std::string_view where,
                            const std::function<void(size_t, size_t)> &progress) {
  const auto mark = [&](std::string_view space) {
    Batch b;
    b.put(std::string(layout::kMovedKey), text_bytes(where));
    return storage_.commit(space, b);
  };
  COFFER_TRY(const auto format, target.get(layout::kVaultSpace, layout::kFormatKey));
  if (format) {
    // Cut off before its last step: everything has arrived, only the source does not say so.
    COFFER_TRY(const auto marker, storage_.get(layout::kAppsSpace, layout::kMovedKey));
    if (!marker || as_text(marker->value) != where)
      return fail(ErrorCode::kAlreadyExists, "the target holds a vault already",
                  "Name an engine config whose [storage] is empty.");
    COFFER_CHECK(mark(layout::kVaultSpace));
    return {};
  }
  COFFER_TRY(const auto incoming, target.get(layout::kVaultSpace, kIncomingKey));
  COFFER_TRY(const auto leftover, target.spaces(""));
  if (!incoming && !leftover.empty())
    return fail(ErrorCode::kAlreadyExists, "the target is not empty",
                "Name an engine config whose [storage] is empty.");
  Batch announce;
  announce.put(std::string(kIncomingKey), {});
  COFFER_CHECK(target.commit(layout::kVaultSpace, announce));

  // First: from here on no App and no token can appear, also where there was none yet.
  COFFER_CHECK(mark(layout::kAppsSpace));
  COFFER_CHECK(mark(layout::kTokensSpace));
  COFFER_TRY(const auto spaces, storage_.spaces(""));
  size_t done = 0;
  for (const std::string &space : spaces)
    if (space != layout::kVaultSpace) COFFER_CHECK(mark(space));
  for (const std::string &space : spaces) {
    if (progress) progress(done++, spaces.size());
    if (space == layout::kVaultSpace) continue;
    COFFER_CHECK(target.drop_space(space));  // the rest of a copy that was cut off
    const coffer_storage_limits &limits = target.limits();
    Batch piece;
    size_t bytes = 0;
    std::optional<Error> failed;
    const auto flush = [&] {
      if (piece.empty()) return true;
      const auto written = target.commit(space, piece);
      if (!written) failed = written.error();
      piece = {};
      bytes = 0;
      return !failed;
    };
    COFFER_CHECK(storage_.list(space, "", true, [&](Stored s) {
      if (s.key == layout::kMovedKey) return true;
      const size_t size = s.key.size() + s.value.size();
      if (piece.ops().size() >= limits.max_ops || bytes + size + 4096 > limits.max_batch_bytes)
        if (!flush()) return false;
      bytes += size;
      piece.put(std::move(s.key), std::move(s.value));
      return true;
    }));
    if (!failed) flush();
    if (failed) return std::unexpected(*failed);
  }
  Batch arrive;
  arrive.put(std::string(layout::kFormatKey), text_bytes(layout::kFormat)).erase(std::string(kIncomingKey));
  COFFER_CHECK(target.commit(layout::kVaultSpace, arrive));
  COFFER_CHECK(mark(layout::kVaultSpace));
  if (progress) progress(spaces.size(), spaces.size());
  return {};
}

}  // namespace coffer
