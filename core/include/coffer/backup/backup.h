// What `coffer vault backup` takes and `coffer vault restore` puts back: a vault and the key service's store.
// Done by the key service's administrator: nothing of it is in the API's part of the protocol.
#ifndef COFFER_BACKUP_BACKUP_H
#define COFFER_BACKUP_BACKUP_H

#include <map>

#include "coffer/backup/backup_file.h"
#include "coffer/keys/key_service.h"
#include "coffer/vault/vault.h"

namespace coffer {

// Adds both stores as they were at one moment, while others may go on writing.  Grants and used tokens are
// left out: a restore voids them.  Answers how many passes it took.  kAborted: they were written all the
// time.
Result<int> back_up(const Storage &vault, const Storage &keys, BackupWriter &to);

// What a backup holds, and what the stores had when the restore began.
struct RestorePlan {
  std::map<std::string, uint64_t> seen;  // by space of the App: the newest manifest version ever seen
};

// Reads the file to its end and checks that it is whole.  Adds the versions that it has seen to `plan`.
Result<BackupItem> check_backup(BackupReader &from, RestorePlan &plan,
                                const std::function<Result<void>(const BackupItem &)> &each = {});
// Adds those that this key service has seen.
Result<void> add_seen(const Storage &keys, RestorePlan &plan);

// Puts both stores back, in place of what is in them.  Begun again after a cut it does the same.  The vault
// becomes one with its last commit.  `file` gets the files.
Result<void> restore_stores(BackupReader &from, const Storage &vault, const Storage &keys,
                            const std::function<Result<void>(std::string_view name, SecretBytes)> &file);

struct RestoredApp {
  std::string name;
  uint64_t version = 0, restored_from = 0;
  std::string problem;  // it was not whole in the backup
};
// A new head for each App, of the version after the newest one ever seen, so that nothing older passes for
// it.
Result<std::vector<RestoredApp>> restore_heads(Vault &, KeyService &, const RestorePlan &,
                                               std::string_view who);

}  // namespace coffer
#endif
