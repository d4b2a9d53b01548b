// KeyService: holds the Apps' private keys, wrapped under a root key that only the KMS can unwrap; says who
// may boot what, and opens for a host that proves it.  Its own store is trusted for freshness and never holds
// anything of a vault.
// Thread rule: one thread at a time.
#ifndef COFFER_KEYS_KEY_SERVICE_H
#define COFFER_KEYS_KEY_SERVICE_H

#include <functional>

#include "coffer/base/clock.h"
#include "coffer/keys/protocol.h"
#include "coffer/plugin_host/kms.h"
#include "coffer/plugin_host/storage.h"

namespace coffer {

class Opener;

class KeyService : public Keys {
 public:
  using OpenKms = std::function<Result<Kms>()>;  // called when a private key is needed, once

  // Makes root key and identity in an empty store; a store that has them stays as it is.  Answers the
  // identity.
  static Result<PublicKey> initialize(const Storage &store, const Kms &kms);
  // `writers`: whose manifests and launch specs count.
  // `now`: milliseconds since 1970, for the life of tokens.
  // `audit`: has what is done before the caller does, and every refusal of a token or an open; outlives the
  // service.  nullptr: nothing is logged.
  static Result<KeyService> open(Storage store, OpenKms open_kms, std::vector<PublicKey> writers,
                                 std::function<uint64_t()> now = now_ms, const AuditLog *audit = nullptr);

  // ---- for the API: protocol.h ----
  Result<AppKey> create_app(std::string_view name) override;
  Result<void> destroy_app(std::string_view name) override;
  Result<std::optional<SeenHead>> seen(const AppId &) const override;
  Result<void> advance(const AppId &, const std::vector<Bytes> &headers) override;
  Result<void> grant(const AppId &, std::string_view machine, const PublicKey &host,
                     ByteSpan signed_spec) override;
  Result<void> revoke(const AppId &, std::string_view machine) override;
  Result<Checkpoint> exchange(const Checkpoint &mine) override;
  Result<AppKey> rotate(const AppId &, uint32_t from) override;
  Result<Bytes> reseal(ByteSpan request) override;
  Result<void> retire(const AppId &, uint32_t oldest) override;

  // ---- for whoever administers vault and key service together: not in protocol.h ----
  // The head of a restored vault becomes the newest one seen, although it does not chain to the one before.
  // REQUIRES: grants and tokens are void.
  Result<void> bring_in(const AppId &, ByteSpan signed_header);
  // The key that backups are sealed under, and the root key as the KMS wrapped it, by which it is found
  // again.
  struct BackupKey {
    SecretBytes key;
    Bytes wrapped_root;
  };
  Result<BackupKey> backup_key();
  static Result<SecretBytes> backup_key(const Kms &, ByteSpan wrapped_root);

  // ---- for hosts: protocol.h ----
  Result<Bytes> token(ByteSpan signed_request) override;
  Result<Bytes> open(ByteSpan signed_request) override;
  Result<void> enrol(ByteSpan signed_request) override;

  // ---- for the administrator: protocol.h ----
  Result<std::vector<KeyInfo>> list() const override;
  Result<void> unlock() override;
  Result<std::string> invite(std::string_view name) override;
  Result<std::vector<HostInfo>> hosts() const override;
  Result<void> revoke_host(std::string_view which) override;
  Result<void> rewrap() override;

  // A host that needs no enrolment: embedded mode's own.
  void trust(const PublicKey &host) { trusted_hosts_.push_back(host); }
  // Forgets root key and identity until they are needed again.
  void lock();

 private:
  struct Grant;
  KeyService(Storage store, OpenKms open_kms, std::vector<PublicKey> writers, std::function<uint64_t()> now,
             const AuditLog *audit)
      : store_(std::move(store)),
        open_kms_(std::move(open_kms)),
        writers_(std::move(writers)),
        now_(std::move(now)),
        audit_(audit) {}
  Result<const SecretBytes *> root();
  Result<const SigningKey *> identity();
  Result<HmacSha256> token_key();
  // Finishes a rewrap that is under way, and forgets a root key that is not the present one any more.
  Result<void> settle_root();
  Result<void> rewrapped();
  Result<void> finish_rewrap();
  Result<bool> wrap_anew(const AppId &, const SecretBytes &from, const SecretBytes &to);
  Result<void> tidy_rewrap();
  Result<Opener> opener(const AppId &);
  // What `header` pins: body, parts, and of their entries the records, which are opened.
  static Result<std::vector<OpenedSecret>> open_proven(
      Opener &, const HashedHeader &header, ByteSpan body, const std::vector<Bytes> &parts,
      const std::vector<std::pair<std::string, Bytes>> &records);
  Result<Bytes> resealed(const ResealRequest &, const Hash &request_hash);
  Result<AppKeyRecord> newest_key(const AppId &, const Stored &record);
  Result<std::pair<Grant, uint64_t>> find_grant(const AppId &, std::string_view machine) const;
  Result<void> check_host(const PublicKey &) const;
  // The unlogged half of token(), open() and enrol(): they say in `entry` who asked for what.
  Result<Bytes> issue(ByteSpan signed_request, AuditEntry &entry);
  Result<Bytes> open(ByteSpan signed_request, AuditEntry &entry);
  Result<void> enrol(ByteSpan signed_request, AuditEntry &entry);
  AuditEntry entry(std::string_view who, std::string_view action, const AppId &,
                   std::string_view machine = {}) const;
  Result<void> log_ready() const { return audit_ ? audit_->ready() : Result<void>{}; }
  // What was done is told when it stands in the log; what was refused is refused in any case.
  template <class T>
  Result<T> logged(AuditEntry, Result<T> done, AuditLog::Sync = AuditLog::Sync::kNow) const;

  Storage store_;
  OpenKms open_kms_;
  std::vector<PublicKey> writers_;
  std::function<uint64_t()> now_;
  const AuditLog *audit_;
  SecretBytes root_;
  uint64_t root_revision_ = 0;  // of the stored one that root_ is
  std::optional<SigningKey> identity_;
  std::vector<PublicKey> trusted_hosts_;
};

}  // namespace coffer
#endif
