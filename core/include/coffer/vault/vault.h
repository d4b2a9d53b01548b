// Vault: an App's sealed secrets, Machines and releases, in a storage backend that is not trusted.
//
// Everything it reads is either named by its hash or signed by a pinned key, and checked; what was changed is
// refused with App and object named (kDataLoss).  It cannot open a value: it sees sealed records only.
// Every write is one conditional commit; a lost race is tried again on the new state.
// Thread rule: one thread at a time.
#ifndef COFFER_VAULT_VAULT_H
#define COFFER_VAULT_VAULT_H

#include <map>

#include "coffer/format/machine.h"
#include "coffer/format/manifest.h"
#include "coffer/plugin_host/storage.h"
#include "coffer/vault/sealer.h"

namespace coffer {

// Keys trusted from files written at init, never from the vault.
struct Pins {
  std::vector<PublicKey> writers;  // of manifests, launch specs, Machine records, releases
  PublicKey identity{};            // of the key service: App key records, answers
};

struct App {
  AppEntry entry;
  AppKeyRecord key;
  Bytes signed_key;           // as the key service signed it
  uint64_t key_revision = 0;  // of the key record, as it was read
  const std::string &name() const { return entry.name; }
  const AppId &id() const { return entry.app_id; }
};

struct Manifest {
  HashedHeader head;
  Bytes envelope;              // the signed header
  std::vector<Entry> entries;  // sorted by name
  std::vector<Hash> parts;     // of the body
  uint64_t revision = 0;       // of the head key, for the next conditional commit
  uint64_t version() const { return head.header.version; }
  const Entry *find(std::string_view name) const;
};

// The signed pieces that prove which record belongs to a name: for an open request.
struct ManifestProof {
  Bytes header, body;
  std::vector<Bytes> parts;
};

struct Written {
  Manifest manifest;
  std::vector<std::string> changed, unchanged, removed, unknown;  // unknown: unset, but not there
};

struct StoredMachine {
  MachineRecord record;
  uint64_t revision = 0;
};

struct NewSpec {
  StoredMachine machine;  // revision 0: a new Machine
  MachineConfig config;
  Hash undo{};             // its last good spec; zeros: none
  bool as_wanted = false;  // not booted: one that is stopped stays so
};

// What a release is made for.
struct ReleaseDraft {
  std::string reason;
  std::optional<DeployPolicy> policy = {};  // absent: that of the release before
  std::vector<MachineConfig> configs = {};  // of the App config's processes, when these hold from now on
};

struct StoredRollout {
  Rollout rollout;
  uint64_t revision = 0;
};

struct Finding {
  std::string app, object, problem;
};

class Vault {
 public:
  // Refuses a vault that was moved away (kFailedPrecondition), and one of an unknown format.
  static Result<Vault> open(Storage storage, SigningKey writer, Pins pins);
  // Makes an empty storage a vault.  A vault that is there stays as it is.
  static Result<void> initialize(const Storage &storage);

  // ---- Apps ----
  Result<App> create_app(std::string_view name, const AppId &id, ByteSpan signed_key, std::string_view who);
  Result<std::vector<AppEntry>> apps() const;
  Result<App> app(std::string_view name) const;  // kNotFound
  Result<void> drop_app(const App &);

  // ---- secrets ----
  Result<Manifest> newest(const App &) const;
  Result<Manifest> at(const App &, uint64_t version) const;
  // All versions whose secrets are known yet, the newest one (`head`) first: checked to be its history.
  Result<std::vector<Manifest>> retained(const App &, const Manifest &head) const;
  // `accept` may refuse the manifest that the write would build on; then nothing is written.
  // kAborted: the App's key was rotated since `App` was read; seal again for the new one.
  Result<Written> write(const App &, const std::vector<SealedSecret> &set,
                        const std::vector<std::string> &unset, std::string_view who,
                        const std::function<Result<void>(const Manifest &)> &accept = {});
  Result<ManifestProof> proof(const App &, const Manifest &, const std::vector<std::string> &names) const;
  Result<Bytes> record(const App &, const Entry &) const;
  // Signed headers first..last, both included.
  Result<std::vector<Bytes>> headers(const App &, uint64_t first, uint64_t last) const;

  // A new manifest with the secrets that `old` has: the same records, of which nothing is opened.  An entry
  // that the head has as well stays as it is, the others count as set now.  Nothing: the head has moved.
  // Unchanged: `head` itself.  REQUIRES: `old` is retained().
  Result<std::optional<Manifest>> roll_back(const App &, const Manifest &head, const Manifest &old,
                                            std::string_view who);
  // Once more what `head` holds, as a later version: what was between them is not in this vault.
  // REQUIRES: version > head.version().
  Result<Manifest> restore_head(const App &, const Manifest &head, uint64_t version, std::string_view who);

  // ---- key rotation: vault_rotation.cc ----
  // The key record of a later epoch becomes the App's: from then on nothing is written that was sealed for an
  // older one.
  Result<App> replace_key(const App &, ByteSpan signed_key);
  // Records that are in the vault, needed or not, and sealed for an older epoch than the App's; with it.
  Result<std::map<Hash, uint32_t>> old_records(const App &) const;
  Result<size_t> count_records(const App &) const;
  // Of the last sweep; 0: there was none.
  Result<uint64_t> sweep_revision(const App &) const;
  // Records that no manifest names yet: the next sweep would take them.
  Result<void> put_records(const App &, const std::vector<Bytes> &);
  // The manifest after `head`: the same secrets with other records (old hash to new), names, versions and
  // times kept.  `drop_older`: bodies of all versions before it may go with the next sweep.  Nothing: the
  // head has moved, or a sweep has run since `swept`.
  Result<std::optional<Manifest>> replace_records(const App &, const Manifest &head,
                                                  const std::map<Hash, Hash> &replaced, uint64_t swept,
                                                  bool drop_older, std::string_view who);
  // Forgets what no retained manifest and no launch spec refers to.
  Result<void> sweep(const App &, const Manifest &head);

  // ---- Machines and releases ----
  Result<std::vector<StoredMachine>> machines(const App &) const;
  Result<bool> wanted(const App &, const std::string &machine) const;  // it is to be started
  Result<SignedSpec> spec(const App &, const MachineRecord &, uint64_t number) const;
  Result<SignedSpec> spec_by_hash(const App &, const MachineRecord &, const Hash &) const;
  // A new release: the next launch spec of each Machine from `manifest`, in one commit.  kAborted: others
  // were faster.
  struct Made {
    Release release;
    std::vector<SignedSpec> specs;  // in the order of `machines`
    StoredRollout rollout;
  };
  // `rollout`: it begins as well, with these steps in the order of `machines`; kAborted when another one is
  // under way.
  Result<Made> release(const App &, const Manifest &manifest, const std::vector<NewSpec> &machines,
                       const ReleaseDraft &, std::string_view who, const Rollout *rollout = nullptr);
  Result<void> finish_release(const App &, uint64_t number, ReleaseOutcome);
  Result<std::vector<Release>> releases(const App &) const;
  Result<std::optional<Release>> release(const App &, uint64_t number) const;
  Result<std::optional<Release>> newest_release(const App &) const;

  Result<std::optional<StoredRollout>> rollout(const App &) const;
  Result<bool> has_rollout(const AppId &) const;  // not checked: whoever acts on it reads it
  // The next state of it; kAborted: it has ended, or another process has taken it.
  Result<void> keep_rollout(const App &, StoredRollout &);
  // Its end, and its release's.  When it is done: `removed` are to be destroyed, and stopped Machines get the
  // launch specs `parked`.
  Result<void> end_rollout(const App &, const StoredRollout &, ReleaseOutcome, const Manifest &,
                           const std::vector<NewSpec> &parked);

  Result<StoredMachine> set_desired(const App &, const std::string &machine, Desired);
  Result<void> remove_machine(const App &, const std::string &machine);

  // ---- the whole ----
  // Reads and checks everything; changes nothing.
  Result<std::vector<Finding>> check() const;
  // Copies everything to `target`, which must be empty (or the rest of a copy that was cut off), without
  // opening a value, and marks this vault as moved to `where`.
  Result<void> migrate(const Storage &target, std::string_view where,
                       const std::function<void(size_t done, size_t total)> &progress);

  const Storage &storage() const { return storage_; }
  const Pins &pins() const { return pins_; }

 private:
  Vault(Storage storage, SigningKey writer, Pins pins)
      : storage_(std::move(storage)), writer_(std::move(writer)), pins_(std::move(pins)) {}
  Result<void> still_here() const;
  Result<uint64_t> commit(std::string_view space, Batch batch);
  Result<Manifest> load(const App &, std::string_view what, Bytes envelope, uint64_t revision) const;
  Result<Bytes> immutable(const App &, std::string_view kind, const Hash &) const;
  SignedSpec next_spec(const App &, const Manifest &, const NewSpec &, uint64_t release, uint64_t now,
                       Batch &);
  Result<std::vector<HashedHeader>> chain(const App &, const HashedHeader &newest, uint64_t oldest) const;
  static Manifest after(const App &, const Manifest &old, std::string_view who);
  Result<std::optional<Manifest>> commit_after(const App &, const Manifest &old, Manifest next, Batch named);
  void check_app(const AppEntry &, std::vector<Finding> &) const;

  Storage storage_;
  SigningKey writer_;
  Pins pins_;
};

}  // namespace coffer
#endif
