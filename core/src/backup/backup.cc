#include "coffer/backup/backup.h"

#include <algorithm>

#include "../keys/key_store.h"
#include "../vault/layout.h"

namespace coffer {
namespace {

constexpr int kMaxPasses = 200;

// What a restore voids is not taken along.
bool is_taken(BackupStore store, std::string_view key) {
  return store == BackupStore::kVault || (!key.starts_with(kGrantPrefix) && !key.starts_with(kUsedPrefix));
}

// Puts items into one store, as many at once as it takes.
class Filling {
 public:
  explicit Filling(const Storage &storage) : storage_(storage) {}

  Result<void> add(BackupItem item) {
    const coffer_storage_limits &limits = storage_.limits();
    const size_t size = item.key.size() + item.value.size();
    const bool twice = std::ranges::find(piece_.ops(), item.key, &Batch::Op::key) != piece_.ops().end();
    if (item.space != space_ || twice || piece_.ops().size() >= std::min<size_t>(limits.max_ops, 1000) ||
        bytes_ + size + 4096 > limits.max_batch_bytes)
      COFFER_CHECK(flush());
    space_ = std::move(item.space);
    bytes_ += size;
    if (item.kind == BackupItem::Kind::kPut)
      piece_.put(std::move(item.key), std::move(item.value));
    else
      piece_.erase(std::move(item.key));
    return {};
  }

  Result<void> flush() {
    if (!piece_.empty()) COFFER_CHECK(storage_.commit(space_, piece_));
    piece_ = {};
    bytes_ = 0;
    return {};
  }

 private:
  const Storage &storage_;
  Batch piece_;
  std::string space_;
  size_t bytes_ = 0;
};

}  // namespace

// Each pass lists the keys of all spaces with their revisions, and adds what is other than it was added.  A
// revision is never used again, so when a whole pass finds nothing, then everything was as it was added at
// the moment between that pass and the one before.
Result<int> back_up(const Storage &vault, const Storage &keys, BackupWriter &to) {
  using Place = std::pair<BackupStore, std::string>;
  std::map<Place, std::map<std::string, uint64_t>> added;
  for (int pass = 1; pass <= kMaxPasses; ++pass) {
    bool changed = false;
    std::map<Place, std::map<std::string, uint64_t>> there;
    for (const BackupStore store : {BackupStore::kKeys, BackupStore::kVault}) {
      const Storage &from = store == BackupStore::kVault ? vault : keys;
      COFFER_TRY(const std::vector<std::string> spaces, from.spaces(""));
      for (const std::string &space : spaces) {
        const Place place(store, space);
        auto &revisions = there[place];
        auto &known = added[place];
        if (known.empty()) {
          // Mostly everything is new: in one go.
          std::optional<Error> failed;
          COFFER_CHECK(from.list(space, "", true, [&](Stored s) {
            if (!is_taken(store, s.key)) return true;
            changed = true;
            if (const auto put = to.put(store, space, s.key, s.value); !put) failed = put.error();
            known[s.key] = revisions[s.key] = s.revision;
            return !failed;
          }));
          if (failed) return std::unexpected(*failed);
          continue;
        }
        COFFER_CHECK(from.list(space, "", false, [&](Stored s) {
          if (is_taken(store, s.key)) revisions[std::move(s.key)] = s.revision;
          return true;
        }));
        for (auto &[key, revision] : revisions) {
          const auto at = known.find(key);
          if (at != known.end() && at->second == revision) continue;
          changed = true;
          COFFER_TRY(const auto stored, from.get(space, key));
          if (!stored) continue;  // gone again: the next pass sees that
          COFFER_CHECK(to.put(store, space, key, stored->value));
          known[key] = stored->revision;
        }
      }
    }
    for (auto &[place, known] : added) {
      const auto now = there.find(place);
      for (auto at = known.begin(); at != known.end();) {
        if (now != there.end() && now->second.contains(at->first)) {
          ++at;
          continue;
        }
        changed = true;
        COFFER_CHECK(to.erase(place.first, place.second, at->first));
        at = known.erase(at);
      }
    }
    if (!changed) return pass;
  }
  return fail(ErrorCode::kAborted, "the vault is being written all the time",
              "Try again when it is quieter.");
}

Result<BackupItem> check_backup(BackupReader &from, RestorePlan &plan,
                                const std::function<Result<void>(const BackupItem &)> &each) {
  for (;;) {
    COFFER_TRY(BackupItem item, from.next());
    if (item.kind == BackupItem::Kind::kEnd) return item;
    if (item.kind == BackupItem::Kind::kPut && item.store == BackupStore::kKeys && item.key == kSeenKey) {
      COFFER_TRY(const SeenHead seen, key_store::decode_seen(item.value));
      uint64_t &version = plan.seen[item.space];
      version = std::max(version, seen.version);
    }
    if (each) COFFER_CHECK(each(item));
  }
}

Result<void> add_seen(const Storage &keys, RestorePlan &plan) {
  COFFER_TRY(const auto spaces, keys.spaces(kAppPrefix));
  for (const std::string &space : spaces) {
    COFFER_TRY(const auto stored, keys.get(space, kSeenKey));
    if (!stored) continue;
    COFFER_TRY(const SeenHead seen, key_store::decode_seen(stored->value));
    uint64_t &version = plan.seen[space];
    version = std::max(version, seen.version);
  }
  return {};
}

Result<void> restore_stores(BackupReader &from, const Storage &vault, const Storage &keys,
                            const std::function<Result<void>(std::string_view, SecretBytes)> &file) {
  // First of all this is no vault any more; it becomes one again with the last commit.
  COFFER_CHECK(vault.drop_space(layout::kVaultSpace));
  for (const Storage *store : {&vault, &keys}) {
    COFFER_TRY(const auto spaces, store->spaces(""));
    for (const std::string &space : spaces) COFFER_CHECK(store->drop_space(space));
  }
  Filling vault_filling(vault), keys_filling(keys);
  std::vector<BackupItem> last;
  for (;;) {
    COFFER_TRY(BackupItem item, from.next());
    if (item.kind == BackupItem::Kind::kEnd) break;
    if (item.kind == BackupItem::Kind::kFile) {
      COFFER_CHECK(file(item.key, std::move(item.secret)));
    } else if (item.store == BackupStore::kVault && item.space == layout::kVaultSpace) {
      last.push_back(std::move(item));
    } else {
      COFFER_CHECK((item.store == BackupStore::kVault ? vault_filling : keys_filling).add(std::move(item)));
    }
  }
  COFFER_CHECK(keys_filling.flush());
  for (BackupItem &item : last) COFFER_CHECK(vault_filling.add(std::move(item)));
  return vault_filling.flush();
}

Result<std::vector<RestoredApp>> restore_heads(Vault &vault, KeyService &keys, const RestorePlan &plan,
                                               std::string_view who) {
  std::vector<RestoredApp> out;
  COFFER_TRY(const std::vector<AppEntry> all, vault.apps());
  COFFER_TRY(const std::vector<KeyInfo> known, keys.list());
  for (const AppEntry &entry : all) {
    // One whose destroying was cut off has no key any more.
    if (std::ranges::none_of(known,
                             [&](const KeyInfo &k) { return k.app_id == entry.app_id && !k.destroyed; }))
      continue;
    const auto restore = [&]() -> Result<RestoredApp> {
      COFFER_TRY(const App app, vault.app(entry.name));
      COFFER_TRY(const Manifest head, vault.newest(app));
      const auto seen = plan.seen.find(app_space(app.id()));
      const uint64_t newest = std::max(head.version(), seen == plan.seen.end() ? 0 : seen->second);
      COFFER_TRY(const Manifest restored, vault.restore_head(app, head, newest + 1, who));
      COFFER_CHECK(keys.bring_in(app.id(), restored.envelope));
      return RestoredApp{entry.name, restored.version(), head.version(), {}};
    };
    auto restored = restore();
    if (!restored && restored.error().code != ErrorCode::kDataLoss)
      return std::unexpected(std::move(restored).error());
    // It was not whole when the backup was made; the others are.
    if (!restored) restored = RestoredApp{entry.name, 0, 0, restored.error().message};
    out.push_back(*std::move(restored));
  }
  return out;
}

}  // namespace coffer
