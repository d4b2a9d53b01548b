// App and App key record: who owns a vault, and to which public key its values are sealed.
#ifndef COFFER_FORMAT_APP_H
#define COFFER_FORMAT_APP_H

#include <optional>

#include "coffer/format/signed.h"

namespace coffer {

using AppId = std::array<uint8_t, 16>;  // random, never reused

// Entry of the App directory, signed by a writer (kAppLabel).
//   app = "cfa1" name app_id(16) created_ms(u64)
struct AppEntry {
  std::string name;
  AppId app_id{};
  uint64_t created_ms = 0;
};
Bytes encode(const AppEntry &);
Result<AppEntry> decode_app(ByteSpan payload);

// Signed by the identity key of the key service (kAppKeyLabel).
//   app_key = "cfk1" name app_id(16) epoch(u32) public_key(32) state(u8 = 1) has_replaces(u8) [replaces(16)]
struct AppKeyRecord {
  std::string name;
  AppId app_id{};
  uint32_t epoch = 0;
  PublicKey public_key{};
  std::optional<AppId> replaces;  // the app_id that had the name before
};
Bytes encode(const AppKeyRecord &);
Result<AppKeyRecord> decode_app_key(ByteSpan payload);

}  // namespace coffer
#endif
