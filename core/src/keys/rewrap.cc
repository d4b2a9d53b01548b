// `coffer keys rewrap`: a new root key takes over.
//   1. space keys: root.next, the new root key as the KMS wrapped it
//   2. each App: private.next, its private keys wrapped under the new root key
//   3. space keys, one commit: root.next becomes root, and the identity is wrapped under it
//   4. each App: private.next becomes private
// Invariant: for each App, `private` or `private.next` opens under `root`, at every moment.
//   * No App is named (create_app) while root.next is there, so step 2 sees all of them.
//   * No key is made or forgotten (rotate, retire) while private.next is there, so both hold the same keys.
//   * The next rewrap begins with step 4 of the one before.
// Cut off anywhere, whoever makes a key or rewraps again goes on; who only opens tries both.
#include <algorithm>

#include "coffer/format/magic.h"
#include "coffer/keys/key_service.h"
#include "key_store.h"

namespace coffer {

using namespace key_store;

Result<void> KeyService::settle_root() {
  COFFER_TRY(const auto next, store_.get(kKeysSpace, kRootNextKey));
  if (next) return finish_rewrap();
  COFFER_TRY(const auto present, store_.get(kKeysSpace, kRootKey));
  if (present && !root_.empty() && present->revision != root_revision_) lock();
  return {};
}

Result<void> KeyService::rewrap() {
  COFFER_CHECK(log_ready());
  AuditEntry about;
  about.who = kAdmin;
  about.action = "rewrap";
  return logged(std::move(about), rewrapped());
}

Result<void> KeyService::rewrapped() {
  COFFER_TRY(const auto next, store_.get(kKeysSpace, kRootNextKey));
  if (!next) {
    COFFER_CHECK(settle_root());
    COFFER_CHECK(tidy_rewrap());
    COFFER_CHECK(root());
    const SecretBytes fresh = random_secret(32);
    COFFER_TRY(const Kms kms, open_kms_());
    COFFER_TRY(const WrappedKey wrapped, kms.wrap(kKmsKeyName, fresh, as_bytes(kRootContext)));
    Batch b;
    b.require(std::string(kRootKey), root_revision_).require_absent(std::string(kRootNextKey));
    b.put(std::string(kRootNextKey), key_store::encode(wrapped));
    const auto begun = store_.commit(kKeysSpace, b);
    // Another process rewraps: then with its root key.
    if (!begun && begun.error().code != ErrorCode::kAborted) return std::unexpected(begun.error());
  }
  return finish_rewrap();
}

// Step 2 for one App.  False: it is not wrapped under `from` any more.
Result<bool> KeyService::wrap_anew(const AppId &app, const SecretBytes &from, const SecretBytes &to) {
  const std::string space = app_space(app);
  for (int tries = 0; tries < kMaxTries; ++tries) {
    COFFER_TRY(const auto stored, store_.get(space, kPrivateKey));
    if (!stored) return true;
    COFFER_TRY(const auto next, store_.get(space, kPrivateNextKey));
    COFFER_TRY(std::vector<HeldKey> held, decode_held(stored->value));
    for (HeldKey &k : held) {
      const Bytes aad = private_aad(app, k.epoch);
      const auto key = unwrap(from, k.wrapped, aad);
      if (!key) return false;
      COFFER_TRY(k.wrapped, wrap(to, *key, aad));
    }
    Batch b;
    b.require(std::string(kPrivateKey), stored->revision);
    b.require(std::string(kPrivateNextKey), next ? next->revision : 0);
    b.put(std::string(kPrivateNextKey), key_store::encode(held));
    const auto done = store_.commit(space, b);
    if (done) return true;
    if (done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
  }
  return fail(ErrorCode::kAborted, "the App's key is being changed by others", "Try again.");
}

Result<void> KeyService::finish_rewrap() {
  for (int tries = 0; tries < kMaxTries; ++tries) {
    lock();  // the present one counts
    COFFER_TRY(const auto next, store_.get(kKeysSpace, kRootNextKey));
    if (!next) return tidy_rewrap();  // another process has done it
    COFFER_TRY(const SecretBytes *from, root());
    COFFER_TRY(const auto stored_identity, store_.get(kKeysSpace, kIdentityKey));
    if (!stored_identity || stored_identity->value.size() < 32)
      return malformed("identity of the key service");
    COFFER_TRY(const WrappedKey wrapped, decode_wrapped(next->value));
    COFFER_TRY(const Kms kms, open_kms_());
    COFFER_TRY(const SecretBytes to, kms.unwrap(wrapped, as_bytes(kRootContext)));
    if (to.size() != 32) return fail(ErrorCode::kDataLoss, "the KMS answered a root key of the wrong size");

    const ByteSpan identity_bytes(stored_identity->value);
    const auto seed = unwrap(*from, identity_bytes.subspan(32), identity_aad());
    bool current = seed.has_value();
    COFFER_TRY(const std::vector<KeyInfo> apps, list());
    for (const KeyInfo &app : apps) {
      if (app.destroyed || !current) continue;
      COFFER_TRY(current, wrap_anew(app.app_id, *from, to));
    }
    if (!current) {
      COFFER_TRY(const auto still, store_.get(kKeysSpace, kRootNextKey));
      if (still && still->revision == next->revision)
        return fail(ErrorCode::kDataLoss, "a key in the key service's store does not open under its root key",
                    "Restore the key service's store from a backup.");
      continue;  // another process was faster
    }
    COFFER_TRY(const Bytes wrapped_seed, wrap(to, *seed, identity_aad()));
    Batch b;
    b.require(std::string(kRootKey), root_revision_).require(std::string(kRootNextKey), next->revision);
    b.require(std::string(kIdentityKey), stored_identity->revision);
    b.put(std::string(kRootKey), next->value).erase(std::string(kRootNextKey));
    b.put(std::string(kIdentityKey), Encoder().raw(identity_bytes.first(32)).raw(wrapped_seed).take());
    const auto done = store_.commit(kKeysSpace, b);
    if (!done && done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
  }
  return fail(ErrorCode::kAborted, "the root key is being replaced by others all the time", "Try again.");
}

// Step 4.  REQUIRES: there is no root.next, or was not when this began.
Result<void> KeyService::tidy_rewrap() {
  COFFER_TRY(const std::vector<KeyInfo> apps, list());
  for (const KeyInfo &app : apps) {
    if (app.destroyed) continue;
    const std::string space = app_space(app.app_id);
    COFFER_TRY(const auto next, store_.get(space, kPrivateNextKey));
    if (!next) continue;
    COFFER_TRY(const auto stored, store_.get(space, kPrivateKey));
    // Another rewrap may have begun meanwhile: then what it has put there is not for now.
    COFFER_TRY(const auto begun, store_.get(kKeysSpace, kRootNextKey));
    if (begun) return {};
    Batch b;
    b.require(std::string(kPrivateKey), stored ? stored->revision : 0);
    b.require(std::string(kPrivateNextKey), next->revision);
    b.put(std::string(kPrivateKey), next->value).erase(std::string(kPrivateNextKey));
    const auto done = store_.commit(space, b);
    if (!done && done.error().code != ErrorCode::kAborted) return std::unexpected(done.error());
  }
  return {};
}

}  // namespace coffer
