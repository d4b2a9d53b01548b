// The file of `coffer vault backup`: one stream of items, sealed in chunks under a key of the root key's own.
//   backup  = "cfv1" wrapped_root(bytes) salt(32) chunk*
//   chunk   = ChaCha20-Poly1305(file key, nonce, aad, content): of 65,536 bytes; the last one may have fewer
//   nonce   = 000000 counter(u64) last(u8)                    aad = SHA-256 of what is before the first chunk
//   content = item* end
//   item    = 1(u8) name(text) content(bytes)                                   a file of the home
//           | 2(u8) store(u8: 1 vault, 2 key service) space(text) key(text) value(bytes)
//           | 3(u8) store(u8) space(text) key(text)                             the key is not there after
//           all
//   end     = 0(u8) created_ms items(u64)
// Rationale: the construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizar, "Online
// Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015, section 7), as age uses it: a chunk
// that is changed, moved, repeated or cut off does not open.  The file key is used for this one file: its
// salt is random. `wrapped_root` is the root key as the KMS wrapped it: who has the KMS opens the file, and
// nobody else.
#ifndef COFFER_BACKUP_BACKUP_FILE_H
#define COFFER_BACKUP_BACKUP_FILE_H

#include <functional>

#include "coffer/crypto/primitives.h"

namespace coffer {

enum class BackupStore : uint8_t { kVault = 1, kKeys = 2 };

struct BackupItem {
  enum class Kind : uint8_t { kEnd = 0, kFile = 1, kPut = 2, kErase = 3 };
  Kind kind = Kind::kEnd;
  BackupStore store = BackupStore::kVault;
  std::string space, key;  // key: a file's name
  Bytes value;             // what is public anyhow: sealed, signed, wrapped
  SecretBytes secret;      // a file's content
  uint64_t created_ms = 0;
};

// Writes what may be secret into locked memory only.
class BackupWriter {
 public:
  using Sink = std::function<Result<void>(ByteSpan)>;
  // `key`: KeyService::backup_key().
  static Result<BackupWriter> begin(const SecretBytes &key, ByteSpan wrapped_root, Sink);
  Result<void> file(std::string_view name, const SecretBytes &content);
  Result<void> put(BackupStore, std::string_view space, std::string_view key, ByteSpan value);
  Result<void> erase(BackupStore, std::string_view space, std::string_view key);
  // Nothing may be added any more.
  Result<void> end(uint64_t created_ms);

 private:
  BackupWriter(Aead aead, const Hash &header, Sink sink);
  Result<void> add(ByteSpan);
  Result<void> flush(bool last);
  Aead aead_;
  Hash header_;
  Sink sink_;
  SecretBytes chunk_;
  size_t used_ = 0;
  uint64_t counter_ = 0, items_ = 0;
};

class BackupReader {
 public:
  // Answers how many bytes came; fewer than asked for: the end of the file.
  using Source = std::function<Result<size_t>(std::span<uint8_t>)>;
  // `open_key`: of the root key that is wrapped so.  kInvalidArgument: no backup, or of an unknown version.
  static Result<BackupReader> begin(
      Source, const std::function<Result<SecretBytes>(ByteSpan wrapped_root)> &open_key);
  // Items in the order in which they were added, at last one of kind kEnd.  kDataLoss: the file was changed
  // or cut off.
  Result<BackupItem> next();

 private:
  BackupReader(Aead aead, const Hash &header, Source source);
  Result<void> fill();
  Result<void> take(std::span<uint8_t> out);
  Result<uint64_t> number(size_t bytes);
  Result<Bytes> bytes(size_t most);
  Result<std::string> text();
  Aead aead_;
  Hash header_;
  Source source_;
  Bytes ahead_;  // the next chunk, sealed
  SecretBytes chunk_;
  size_t at_ = 0;
  uint64_t counter_ = 0, items_ = 0;
  bool last_ = false;
};

}  // namespace coffer
#endif
