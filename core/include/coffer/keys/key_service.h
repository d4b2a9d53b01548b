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
  static Result<KeyService> open(Storage store, OpenKms open_kms, std::vector<PublicKey> writers,
                                 std::function<uint64_t()> now = now_ms);

  // ---- for the API: protocol.h ----
  Result<AppKey> create_app(std::string_view name) override;
  Result<void> destroy_app(std::string_view name) override;
  Result<std::optional<SeenHead>> seen(const AppId &) const override;
  Result<void> advance(const AppId &, const std::vector<Bytes> &headers) override;
  Result<void> grant(const AppId &, std::string_view machine, const PublicKey &host,
                     ByteSpan signed_spec) override;
  Result<void> revoke(const AppId &, std::string_view machine) override;

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

  // A host that needs no enrolment: embedded mode's own.
  void trust(const PublicKey &host) { trusted_hosts_.push_back(host); }
  // Forgets root key and identity until they are needed again.
  void lock();

 private:
  struct Grant;
  KeyService(Storage store, OpenKms open_kms, std::vector<PublicKey> writers, std::function<uint64_t()> now)
      : store_(std::move(store)),
        open_kms_(std::move(open_kms)),
        writers_(std::move(writers)),
        now_(std::move(now)) {}
  Result<const SecretBytes *> root();
  Result<const SigningKey *> identity();
  Result<HmacSha256> token_key();
  Result<Opener> opener(const AppId &);
  Result<std::pair<Grant, uint64_t>> find_grant(const AppId &, std::string_view machine) const;
  Result<void> check_host(const PublicKey &) const;

  Storage store_;
  OpenKms open_kms_;
  std::vector<PublicKey> writers_;
  std::function<uint64_t()> now_;
  SecretBytes root_;
  std::optional<SigningKey> identity_;
  std::vector<PublicKey> trusted_hosts_;
};

}  // namespace coffer
#endif
