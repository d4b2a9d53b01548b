// Backup and restore over real vault and key service: what is in the file, what is not, and what fails.
#include "coffer/backup/backup.h"

#include <atomic>
#include <set>
#include <thread>

#include "../keys/key_store.h"
#include "coffer/base/codec.h"
#include "coffer/format/record.h"
#include "fakes.h"

namespace coffer {
namespace {

using fakes::fail_next;
using fakes::Fails;
using fakes::ok;
using fakes::stop_failing;
using testing::IsEmpty;
using testing::SizeIs;

template <size_t N>
std::array<uint8_t, N> filled(uint8_t byte) {
  std::array<uint8_t, N> a;
  a.fill(byte);
  return a;
}
using Values = std::map<std::string, std::string>;

// A home: the two stores, and who uses them.  Homes of one test share the KMS unless told otherwise.
class TestHome {
 public:
  explicit TestHome(const std::string &kms) : kms_folder_(kms) {
    static int count = 0;
    number_ = std::to_string(++count);
    for (const char *role : {"vault", "keys"}) std::filesystem::create_directory(folder_.path() / role);
    EXPECT_TRUE(ok(Vault::initialize(storage("vault"))));
    EXPECT_TRUE(ok(KeyService::initialize(storage("keys"), *kms_())));
  }
  Storage storage(const std::string &role) const {
    return *Storage::open(fakes::plugin(
        "storage-memory", {{"name", "backup-" + role + number_}, {"folder", folder_.file(role)}}));
  }
  std::filesystem::path at(const std::string &role) const { return folder_.path() / role; }
  Result<Kms> kms_() const { return Kms::open(fakes::plugin("kms-local", {{"path", kms_folder_}})); }
  PublicKey identity() const { return *KeyService::initialize(storage("keys"), *kms_()); }
  static SigningKey writer() { return *SigningKey::from_seed(filled<32>(1)); }
  Vault vault() const {
    return *Vault::open(storage("vault"), writer(), {{writer().public_key()}, identity()});
  }
  KeyService keys() const {
    return *KeyService::open(storage("keys"), [this] { return kms_(); }, {writer().public_key()});
  }

  App create(const std::string &name) const {
    KeyService service = keys();
    Vault v = vault();
    const auto key = service.create_app(name);
    EXPECT_TRUE(ok(key));
    App app = *v.create_app(name, key->app_id, key->signed_record, "ann");
    EXPECT_TRUE(ok(service.advance(app.id(), *v.headers(app, 1, 1))));
    return app;
  }
  void set(const std::string &name, const Values &values) const {
    Vault v = vault();
    const App app = *v.app(name);
    auto sealer = Sealer::create(app.key, SecretBytes::copy_of(filled<32>(3)));
    std::vector<SealedSecret> sealed;
    for (const auto &[key, value] : values)
      sealed.push_back(*sealer->seal(key, SecretBytes::copy_of(as_bytes(value))));
    const auto written = v.write(app, sealed, {}, "ann");
    ASSERT_TRUE(ok(written));
    const uint64_t version = written->manifest.version();
    ASSERT_TRUE(ok(keys().advance(app.id(), *v.headers(app, version, version))));
  }
  // The names that the newest manifest has, all of which the key service opens.
  std::set<std::string> names(const std::string &name) const {
    Vault v = vault();
    KeyService service = keys();
    const App app = *v.app(name);
    const Manifest head = *v.newest(app);
    ResealRequest request;
    request.app_id = app.id();
    std::vector<std::string> all;
    for (const Entry &e : head.entries) {
      request.records.emplace_back(e.name, *v.record(app, e));
      all.push_back(e.name);
    }
    request.headers = {head.envelope};
    ManifestProof proof = *v.proof(app, head, all);
    request.proof_header = proof.header;
    request.proof_body = proof.body;
    request.proof_parts = proof.parts;
    EXPECT_TRUE(ok(service.reseal(encode(request))));
    return {all.begin(), all.end()};
  }

 private:
  fakes::Folder folder_;
  std::string kms_folder_, number_;
};

BackupReader::Source source_of(const Bytes &file) {
  return [&file, at = size_t{0}](std::span<uint8_t> out) mutable -> Result<size_t> {
    const size_t n = std::min(out.size(), file.size() - at);
    std::copy_n(file.begin() + static_cast<ptrdiff_t>(at), n, out.begin());
    at += n;
    return n;
  };
}

Result<BackupReader> read(const Bytes &file, const TestHome &home) {
  return BackupReader::begin(source_of(file), [&](ByteSpan wrapped) -> Result<SecretBytes> {
    COFFER_TRY(const Kms kms, home.kms_());
    return KeyService::backup_key(kms, wrapped);
  });
}

Result<Bytes> backup(const TestHome &home) {
  KeyService keys = home.keys();
  COFFER_TRY(const KeyService::BackupKey key, keys.backup_key());
  Bytes file;
  COFFER_TRY(BackupWriter to, BackupWriter::begin(key.key, key.wrapped_root, [&](ByteSpan b) -> Result<void> {
               file.insert(file.end(), b.begin(), b.end());
               return {};
             }));
  COFFER_CHECK(to.file("api/writer.key", TestHome::writer().seed()));
  COFFER_CHECK(back_up(home.storage("vault"), home.storage("keys"), to));
  COFFER_CHECK(to.end(1234));
  return file;
}

Result<std::vector<RestoredApp>> restore(const Bytes &file, const TestHome &home, RestorePlan &plan) {
  COFFER_TRY(BackupReader checking, read(file, home));
  COFFER_CHECK(check_backup(checking, plan));
  COFFER_CHECK(add_seen(home.storage("keys"), plan));
  COFFER_TRY(BackupReader from, read(file, home));
  COFFER_CHECK(restore_stores(from, home.storage("vault"), home.storage("keys"),
                              [](std::string_view, SecretBytes) -> Result<void> { return {}; }));
  COFFER_TRY(Vault vault, Vault::open(home.storage("vault"), TestHome::writer(),
                                      {{TestHome::writer().public_key()}, home.identity()}));
  KeyService keys = home.keys();
  return restore_heads(vault, keys, plan, "ann");
}
Result<std::vector<RestoredApp>> restore(const Bytes &file, const TestHome &home) {
  RestorePlan plan;
  return restore(file, home, plan);
}

bool holds(const Bytes &file, ByteSpan what) { return !std::ranges::search(file, what).empty(); }

class BackupTest : public testing::Test {
 protected:
  fakes::Folder kms_;
  TestHome home_{kms_.file("kms")};
};

TEST_F(BackupTest, ARestoredHomeHasEverythingUnderALaterVersion) {
  home_.create("web");
  home_.create("other");
  home_.set("web", {{"A", "1"}, {"B", std::string(200'000, 'b')}});
  home_.set("web", {{"A", "2"}});
  const auto file = backup(home_);
  ASSERT_TRUE(ok(file));
  const TestHome fresh(kms_.file("kms"));
  const auto restored = restore(*file, fresh);
  ASSERT_TRUE(ok(restored));
  ASSERT_THAT(*restored, SizeIs(2));
  EXPECT_EQ((*restored)[1].name, "web");
  EXPECT_EQ((*restored)[1].restored_from, 3u);
  EXPECT_EQ((*restored)[1].version, 4u);
  EXPECT_EQ(fresh.identity(), home_.identity());
  EXPECT_EQ(fresh.names("web"), (std::set<std::string>{"A", "B"}));
  EXPECT_THAT(fresh.vault().check().value(), IsEmpty());
  fresh.set("web", {{"C", "3"}});
  EXPECT_EQ(fresh.names("web"), (std::set<std::string>{"A", "B", "C"}));
  EXPECT_THAT(fresh.vault().check().value(), IsEmpty());
}

TEST_F(BackupTest, AnOlderBackupComesBackAboveWhatWasSeenSince) {
  home_.create("web");
  home_.set("web", {{"A", "1"}});
  const auto file = backup(home_);
  ASSERT_TRUE(ok(file));
  const Storage keys_store = home_.storage("keys");
  for (int i = 0; i < 7; ++i) home_.set("web", {{"B", std::to_string(i)}});
  Vault vault = home_.vault();
  const App app = *vault.app("web");
  const std::vector<Bytes> lost = *vault.headers(app, 9, 9);
  ASSERT_TRUE(ok(restore(*file, home_)));
  EXPECT_EQ(home_.names("web"), std::set<std::string>{"A"});
  Vault again = home_.vault();
  const Manifest head = *again.newest(*again.app("web"));
  EXPECT_EQ(head.version(), 10u);
  EXPECT_EQ(head.head.header.restored_from, 2u);
  // What was lost does not come back, nor does the API bring in a restored head by itself.
  KeyService keys = home_.keys();
  EXPECT_THAT(keys.advance(app.id(), lost), Fails(ErrorCode::kDataLoss, "has been seen"));
  EXPECT_EQ(keys.seen(app.id())->value().version, 10u);
  const Manifest twice = *again.restore_head(*again.app("web"), head, 20, "mallory");
  EXPECT_THAT(keys.advance(app.id(), {head.envelope, twice.envelope}),
              Fails(ErrorCode::kDataLoss, "made by a restore"));
  EXPECT_TRUE(ok(keys.bring_in(app.id(), twice.envelope)));
  EXPECT_THAT(keys.bring_in(app.id(), twice.envelope), Fails(ErrorCode::kPermissionDenied, "has been seen"));
  // Versions go on over the gap, as far as the sweep looks and further.
  for (int i = 0; i < 70; ++i) home_.set("web", {{"B", "new " + std::to_string(i)}});
  EXPECT_THAT(home_.vault().check().value(), IsEmpty());
  EXPECT_EQ(home_.names("web"), (std::set<std::string>{"A", "B"}));
}

TEST_F(BackupTest, GrantsAndTokensAreNotTakenAlong) {
  const App app = home_.create("web");
  const Storage store = home_.storage("keys");
  const std::string space = app_space(app.id());
  Batch b;
  b.put("grant/m1", {1}).put("used/00", {2});
  ASSERT_TRUE(ok(store.commit(space, b)));
  ASSERT_TRUE(ok(restore(*backup(home_), home_)));
  EXPECT_FALSE(store.get(space, "grant/m1").value());
  EXPECT_FALSE(store.get(space, "used/00").value());
  EXPECT_TRUE(store.get(space, "private").value());
}

TEST_F(BackupTest, HoldsNoValueAndNoKeyInClear) {
  const App app = home_.create("web");
  const std::string canary = "canary-0123456789abcdef";
  home_.set("web", {{"A", canary}});
  const Bytes file = *backup(home_);
  // Every raw key that there is, as the key service has it in memory.
  const Storage store = home_.storage("keys");
  const Bytes wrapped_root = store.get("keys", "root")->value().value;
  const SecretBytes root =
      *home_.kms_()->unwrap(*key_store::decode_wrapped(wrapped_root), as_bytes(key_store::kRootContext));
  const auto held =
      *key_store::decode_held(store.get(app_space(app.id()), "private")->value().value);
  const SecretBytes private_key =
      *key_store::unwrap(root, held.back().wrapped, key_store::private_aad(app.id(), 1));
  ASSERT_EQ(*x25519_public(private_key.reveal()), app.key.public_key);  // it is that key
  const Bytes identity = store.get("keys", "identity")->value().value;
  const SecretBytes seed =
      *key_store::unwrap(root, ByteSpan(identity).subspan(32), key_store::identity_aad());
  const SigningKey writer = TestHome::writer();
  for (const ByteSpan key : {root.reveal(), private_key.reveal(), seed.reveal(), writer.seed().reveal(),
                             as_bytes(canary), as_bytes("web")})
    EXPECT_FALSE(holds(file, key));
  // The search finds what is there: the wrapped root key, and all of it once it is opened.
  EXPECT_TRUE(holds(file, wrapped_root));
  BackupReader reader = *read(file, home_);
  bool found = false;
  for (;;) {
    const BackupItem item = *reader.next();
    if (item.kind == BackupItem::Kind::kEnd) break;
    found = found || (item.kind == BackupItem::Kind::kFile &&
                      std::ranges::equal(item.secret.reveal(), writer.seed().reveal()));
    for (const ByteSpan key : {root.reveal(), private_key.reveal(), seed.reveal(), as_bytes(canary)})
      EXPECT_FALSE(holds(item.value, key)) << item.space << " " << item.key;
  }
  EXPECT_TRUE(found);
}

TEST_F(BackupTest, ADamagedFileIsRefusedAndNothingIsChanged) {
  home_.create("web");
  home_.set("web", {{"A", std::string(150'000, 'a')}});
  const Bytes file = *backup(home_);
  const TestHome fresh(kms_.file("kms"));
  const auto refused = [&](const Bytes &damaged) {
    RestorePlan plan;
    auto reader = read(damaged, fresh);
    const auto checked = reader ? check_backup(*reader, plan) : std::unexpected(reader.error());
    ASSERT_FALSE(checked);
    EXPECT_THAT(checked.error().code, testing::AnyOf(ErrorCode::kDataLoss, ErrorCode::kInvalidArgument,
                                                     ErrorCode::kPermissionDenied));
  };
  for (size_t at = 0; at < file.size(); at += at < 400 ? 1 : 997) {
    SCOPED_TRACE(at);
    Bytes damaged = file;
    damaged[at] ^= 0x10;
    refused(damaged);
    damaged = file;
    damaged.resize(at);
    refused(damaged);
  }
  Bytes longer = file;
  longer.push_back(0);
  refused(longer);
  // Cut between two chunks, and two chunks exchanged.
  constexpr ptrdiff_t kChunk = 64 * 1024 + 16;
  const ptrdiff_t first = 4 + 4 + Decoder(ByteSpan(file).subspan(4)).u32() + 32;
  ASSERT_GT(static_cast<ptrdiff_t>(file.size()), first + 2 * kChunk);
  refused(Bytes(file.begin(), file.begin() + first + kChunk));
  Bytes exchanged = file;
  std::swap_ranges(exchanged.begin() + first, exchanged.begin() + first + kChunk,
                   exchanged.begin() + first + kChunk);
  refused(exchanged);
  EXPECT_THAT(fresh.vault().apps().value(), IsEmpty());
}

TEST_F(BackupTest, AnotherKmsKeyIsNamedAsTheReason) {
  home_.create("web");
  const Bytes file = *backup(home_);
  fakes::Folder elsewhere;
  const TestHome other(elsewhere.file("kms"));
  EXPECT_THAT(read(file, other), Fails(ErrorCode::kPermissionDenied, "another KMS key"));
  EXPECT_THAT(read(Bytes{'h', 'e', 'l', 'l', 'o', ',', ' ', 'w', 'o'}, home_),
              Fails(ErrorCode::kInvalidArgument, "no backup"));
}

TEST_F(BackupTest, IsOfOneMomentWhileOthersWrite) {
  home_.create("web");
  home_.set("web", {{"A", "0"}});
  std::atomic<bool> end = false;
  std::thread writer([&] {
    for (int i = 1; !end; ++i) {
      home_.set("web", {{"A", std::to_string(i)}, {"B", std::to_string(i)}});
      std::this_thread::yield();
    }
  });
  for (int i = 0; i < 10; ++i) {
    const auto file = backup(home_);
    if (!file) {
      EXPECT_EQ(file.error().code, ErrorCode::kAborted);
      continue;
    }
    const TestHome fresh(kms_.file("kms"));
    EXPECT_TRUE(ok(restore(*file, fresh)));
    EXPECT_THAT(fresh.vault().check().value(), IsEmpty());
    fresh.names("web");
  }
  end = true;
  writer.join();
  EXPECT_TRUE(ok(backup(home_)));
}

TEST_F(BackupTest, ARestoreThatFailsAnywhereIsDoneByTheNextOne) {
  home_.create("web");
  home_.set("web", {{"A", "1"}, {"B", "2"}});
  const Bytes file = *backup(home_);
  int failures = 0;
  for (const char *role : {"vault", "keys"})
    for (const auto &[what, after] :
         {std::pair("commit", false), std::pair("commit", true), std::pair("get", false),
          std::pair("drop", false), std::pair("drop", true)})
      for (int nth = 1;; ++nth) {
        SCOPED_TRACE(std::string(role) + " " + what + " " + std::to_string(nth) + (after ? " after" : ""));
        const TestHome target(kms_.file("kms"));
        target.create("web");
        for (int i = 0; i < 5; ++i) target.set("web", {{"OLD", std::to_string(i)}});
        RestorePlan plan;  // as the marker keeps it
        fail_next(target.at(role), what, nth, ErrorCode::kUnavailable, after);
        const auto first = restore(file, target, plan);
        const bool struck = !std::filesystem::exists(target.at(role) / ("fail-" + std::string(what)));
        stop_failing(target.at(role), what);
        if (!struck) {
          EXPECT_TRUE(ok(first));
          break;
        }
        ++failures;
        ASSERT_TRUE(ok(restore(file, target, plan)));
        EXPECT_EQ(target.names("web"), (std::set<std::string>{"A", "B"}));
        EXPECT_THAT(target.vault().check().value(), IsEmpty());
        if (HasFailure()) return;
      }
  EXPECT_GT(failures, 15);
}

}  // namespace
}  // namespace coffer
