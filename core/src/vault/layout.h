// Where things lie in a vault's storage.
//   space "vault":       format
//   space "apps":        NAME -> signed App entry
//   space "app-APPID":   key  head  header/VERSION  body/HASH  part/HASH  record/HASH
//                        machine/ID  spec/ID/NUMBER  release/NUMBER  rollout  sweep
//   space "tokens":      ID -> record of a user token (core/src/tokens)
//   in every space:      .moved -> where the vault went (vault_migrate.cc); no App has that name
#ifndef COFFER_VAULT_LAYOUT_H
#define COFFER_VAULT_LAYOUT_H

#include <algorithm>

#include "coffer/format/manifest.h"

namespace coffer::layout {

inline constexpr std::string_view kVaultSpace = "vault", kFormatKey = "format", kFormat = "coffer vault 1";
inline constexpr std::string_view kAppsSpace = "apps", kAppPrefix = "app-", kTokensSpace = "tokens";
inline constexpr std::string_view kMovedKey = ".moved", kSweepKey = "sweep", kRolloutKey = "rollout";
inline constexpr std::string_view kHeadKey = "head", kKeyKey = "key";

// Of the newest 50 versions everything is kept, but for what was dropped on purpose.
inline uint64_t oldest_kept(const Header &newest) {
  return std::max(newest.version > 50 ? newest.version - 49 : 1, newest.kept_from);
}

// Of the manifest that this one's `previous` is; 0: this is the first.
inline uint64_t version_before(const Header &h) { return h.restored_from ? h.restored_from : h.version - 1; }

inline std::string space(const AppId &id) { return std::string(kAppPrefix) + hex(id); }
// Twenty digits, so that numbers sort as they count.
inline std::string number(uint64_t n) {
  std::string digits = std::to_string(n);
  return std::string(20 - digits.size(), '0') + digits;
}
inline std::string header(uint64_t version) { return "header/" + number(version); }
inline std::string named(std::string_view kind, const Hash &hash) {
  return std::string(kind) + "/" + hex(hash);
}
inline std::string machine(std::string_view id) { return "machine/" + std::string(id); }
inline std::string specs(std::string_view machine_id) { return "spec/" + std::string(machine_id) + "/"; }
inline std::string spec(std::string_view machine_id, uint64_t n) { return specs(machine_id) + number(n); }
inline std::string release(uint64_t n) { return "release/" + number(n); }

}  // namespace coffer::layout
#endif
