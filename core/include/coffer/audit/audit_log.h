// AuditLog: what one service did and what it refused, one line per entry, each bound to the one before it by
// its hash.  docs/format.md has the grammar.  An entry names things and never holds a value or a digest.
// Thread rule: thread-safe.  Several processes append to one file.
#ifndef COFFER_AUDIT_AUDIT_LOG_H
#define COFFER_AUDIT_AUDIT_LOG_H

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "coffer/base/bytes.h"
#include "coffer/base/clock.h"
#include "coffer/base/result.h"

namespace coffer {

// How far a log has come: its last entry.  Number 0: it is empty.
struct Checkpoint {
  uint64_t number = 0;
  Hash hash{};
  bool operator==(const Checkpoint &) const = default;
};

// What was done or refused.  Empty and 0: does not apply.
struct AuditEntry {
  std::string who;                 // who asked, as far as that is proved
  std::string action;              // "set", "open"; empty: nothing happened, nothing is written
  std::string app, app_id;         // name; hex
  std::string machine, instance;   // ids
  std::string host, host_name;     // public key, hex
  std::vector<std::string> names;  // of secrets
  uint64_t count = 0;              // of secrets opened; `repair`: of bytes
  uint64_t spec = 0, version = 0, release = 0;
  std::string outcome = "ok";  // or the reason of the refusal
  // Where the log of another service was: of `checkpoint`.
  struct Other {
    std::string log;
    Checkpoint at;
  };
  std::optional<Other> other = {};
};

// The outcome of what failed: the error's reason, else its code ("not_found").
std::string outcome_of(const Error &);

class AuditLog {
 public:
  enum class Sync { kNow, kLater };

  explicit AuditLog(std::filesystem::path file, std::function<uint64_t()> now = now_ms);
  AuditLog(AuditLog &&) noexcept;
  ~AuditLog();

  // Asked before something is done that has to be logged: could one more entry be written?  Makes file and
  // folder.  kUnavailable with the remedy; kDataLoss: the log's end is not what an AuditLog has written.
  Result<void> ready() const;
  // Answers where the entry stands.  kNow: it survives power loss, and so do all before it.  An entry of very
  // many names becomes several, in one go.  Errors: as ready(); then the log is as it was, unless it could
  // not be synced: then the entry may stand there.
  Result<Checkpoint> append(const AuditEntry &, Sync = Sync::kNow) const;

  const std::filesystem::path &file() const { return file_; }

 private:
  struct Open;
  std::filesystem::path file_;
  std::function<uint64_t()> now_;
  std::unique_ptr<Open> open_;  // the file, as it was when this last wrote
};

// ---- reading ----

struct StoredAudit {
  uint64_t number = 0;
  std::string time;  // RFC 3339, UTC, milliseconds
  AuditEntry entry;
  bool more = false;  // the next entry has more of its names
  Hash previous{}, hash{};
};
// One line, without its end.  kDataLoss: not as an AuditLog writes it; its own hash counts, its place does
// not.
Result<StoredAudit> decode_audit_line(std::string_view line);

// The log of one service.
struct AuditFile {
  std::string log;  // "api", "keys"
  std::filesystem::path file;
};

// Lines in the order of the files; a last one without its end too.  A file that is not there has none.  What
// is appended meanwhile is not read: all files are read as they were at one moment.
Result<void> read_audit(const std::vector<AuditFile> &,
                        const std::function<void(const AuditFile &, std::string_view line, bool whole)> &);

struct AuditReport {
  struct Finding {
    std::string log;
    uint64_t entry = 0;
    std::string problem;
  };
  struct Log {
    std::string log;
    uint64_t entries = 0;  // number of the last one
    uint64_t covered = 0;  // until this one, another log would show what is cut or written anew
  };
  std::vector<Finding> findings;  // tampering
  std::vector<Finding> notices;   // of crashes: nothing that was acknowledged is missing
  std::vector<Log> logs;
};
// Finds entries that were edited, deleted, moved, repeated or cut off.  Changes nothing.
Result<AuditReport> verify_audit(const std::vector<AuditFile> &);

}  // namespace coffer
#endif
