// The vault over storages that fail, lie and are small.
#include "coffer/vault/vault.h"

#include <set>
#include <thread>

#include "coffer/base/names.h"
#include "coffer/crypto/hpke_receiver.h"
#include "coffer/format/record.h"
#include "fakes.h"
#include "layout.h"

namespace coffer {
namespace {

using fakes::fail_next;
using fakes::Fails;
using fakes::ok;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

template <size_t N>
std::array<uint8_t, N> filled(uint8_t byte) {
  std::array<uint8_t, N> a;
  a.fill(byte);
  return a;
}
SecretBytes secret(std::string_view text) { return SecretBytes::copy_of(as_bytes(text)); }

using Values = std::map<std::string, std::string>;

// One backend, who may write to it, and a look below the vault.
class Backend {
 public:
  explicit Backend(const std::string &max_ops = "1048576", const std::string &max_batch = "268435456") {
    static int count = 0;
    options_ = {{"max-ops", max_ops}, {"max-batch", max_batch}};
    options_["name"] = "vault-" + std::to_string(++count);
    options_["folder"] = folder_.path().string();
    EXPECT_TRUE(ok(Vault::initialize(storage())));
  }
  Storage storage() const { return *Storage::open(fakes::plugin("storage-memory", options_)); }
  const std::filesystem::path &folder() const { return folder_.path(); }

  Bytes get(std::string_view space, std::string_view key) const {
    const auto stored = storage().get(space, key);
    return stored && *stored ? (*stored)->value : Bytes{};
  }
  void put(std::string_view space, std::string_view key, Bytes value) const {
    Batch b;
    b.put(std::string(key), std::move(value));
    EXPECT_TRUE(ok(storage().commit(space, b)));
  }
  void erase(std::string_view space, std::string_view key) const {
    Batch b;
    b.erase(std::string(key));
    EXPECT_TRUE(ok(storage().commit(space, b)));
  }
  void flip(std::string_view space, std::string_view key) const {
    Bytes value = get(space, key);
    ASSERT_FALSE(value.empty()) << key;
    value[value.size() / 2] ^= 1;
    put(space, key, value);
  }
  void swap(std::string_view space, std::string_view one, std::string_view other) const {
    const Bytes a = get(space, one), b = get(space, other);
    ASSERT_NE(a, b);
    put(space, one, b);
    put(space, other, a);
  }
  std::vector<std::string> keys(std::string_view space, std::string_view prefix) const {
    std::vector<std::string> out;
    EXPECT_TRUE(ok(storage().list(space, prefix, false, [&](Stored s) {
      out.push_back(s.key);
      return true;
    })));
    return out;
  }

 private:
  fakes::Folder folder_;
  std::map<std::string, std::string> options_;
};

const SecretBytes &credential() {
  static const SecretBytes c = SecretBytes::copy_of(filled<32>(4));
  return c;
}
SigningKey writer() { return *SigningKey::from_seed(filled<32>(1)); }
SigningKey identity() { return *SigningKey::from_seed(filled<32>(2)); }
Pins pins() { return {{writer().public_key()}, identity().public_key()}; }

// What the key service would answer for an App of that name.
AppKeyRecord key_of(std::string_view name) {
  AppKeyRecord k;
  k.name = name;
  k.app_id = to_array<16>(ByteSpan(sha256(as_bytes(name))).first(16));
  k.epoch = 1;
  k.public_key = *x25519_public(filled<32>(3));
  return k;
}

Vault open(const Backend &b) { return *Vault::open(b.storage(), writer(), pins()); }

Result<App> create(Vault &vault, std::string_view name) {
  const AppKeyRecord key = key_of(name);
  return vault.create_app(name, key.app_id, sign(identity(), kAppKeyLabel, encode(key)), "ann");
}

std::vector<SealedSecret> seal(const App &app, const Values &values) {
  auto sealer = Sealer::create(app.key, credential());
  EXPECT_TRUE(ok(sealer));
  std::vector<SealedSecret> out;
  for (const auto &[name, value] : values) out.push_back(*sealer->seal(name, secret(value)));
  return out;
}

Result<Written> write(Vault &vault, const App &app, const Values &set,
                      const std::vector<std::string> &unset = {}) {
  return vault.write(app, seal(app, set), unset, "ann");
}

// What who has the App's private key reads.
Values opened(const Vault &vault, const App &app, const Manifest &m) {
  Values out;
  for (const Entry &e : m.entries) {
    const auto bytes = vault.record(app, e);
    EXPECT_TRUE(ok(bytes));
    if (!bytes) continue;
    const Record r = *decode_record(*bytes);
    auto receiver = HpkeReceiver::setup(filled<32>(3), r.enc, seal_info(app.id(), r.epoch));
    const auto padded = receiver->open(r.sequence, seal_aad(app.id(), r.epoch, e.name), r.ciphertext);
    EXPECT_TRUE(ok(padded)) << e.name;
    if (padded) out[e.name] = as_text(unpad(*padded)->reveal());
  }
  return out;
}

std::vector<AppEntry> apps_of(const Vault &vault) {
  auto all = vault.apps();
  EXPECT_TRUE(ok(all));
  return all ? *std::move(all) : std::vector<AppEntry>{};
}
std::vector<StoredMachine> machines_of(const Vault &vault, const App &app) {
  auto all = vault.machines(app);
  EXPECT_TRUE(ok(all));
  return all ? *std::move(all) : std::vector<StoredMachine>{};
}

NewSpec new_machine(const std::string &id, const Hash &undo = {}) {
  NewSpec s;
  s.machine.record.id = id;
  s.config.name = "web-" + id.substr(0, 2);
  s.config.image = "host";
  s.undo = undo;
  return s;
}

class VaultTest : public testing::Test {
 protected:
  Manifest newest() {
    auto m = vault_.newest(app_);
    EXPECT_TRUE(ok(m));
    return m ? *std::move(m) : Manifest{};
  }
  std::string space() const { return layout::space(app_.id()); }
  Values stored() { return opened(vault_, app_, newest()); }

  Backend backend_;
  Vault vault_ = open(backend_);
  App app_ = *create(vault_, "web");
};

// ---- the vault itself ----

TEST(VaultOpen, WantsAVaultOfAKnownFormat) {
  EXPECT_THAT(
      Vault::open(*Storage::open(fakes::plugin("storage-memory", {{"name", "no vault"}})), writer(), pins()),
      Fails(ErrorCode::kFailedPrecondition, "no vault yet"));
  const Backend b;
  b.put("vault", "format", Bytes{'c', 'o', 'f', 'f', 'e', 'r', ' ', 'v', 'a', 'u', 'l', 't', ' ', '9'});
  EXPECT_THAT(Vault::open(b.storage(), writer(), pins()), Fails(ErrorCode::kFailedPrecondition, "format"));
}

TEST(VaultOpen, InitializedAgainItStaysAsItIs) {
  const Backend b;
  Vault vault = open(b);
  ASSERT_TRUE(ok(create(vault, "web")));
  ASSERT_TRUE(ok(Vault::initialize(b.storage())));
  EXPECT_TRUE(ok(open(b).app("web")));
}

// ---- Apps ----

TEST_F(VaultTest, AppsAreCreatedListedAndDropped) {
  ASSERT_TRUE(ok(create(vault_, "api")));
  EXPECT_THAT(create(vault_, "web"), Fails(ErrorCode::kAlreadyExists, "App web exists"));
  auto names = [&] {
    std::vector<std::string> out;
    for (const AppEntry &e : apps_of(vault_)) out.push_back(e.name);
    return out;
  };
  EXPECT_THAT(names(), ElementsAre("api", "web"));
  EXPECT_EQ(vault_.app("web")->key.public_key, key_of("web").public_key);
  ASSERT_TRUE(ok(write(vault_, app_, {{"A", "1"}})));
  ASSERT_TRUE(ok(vault_.drop_app(app_)));
  EXPECT_THAT(names(), ElementsAre("api"));
  EXPECT_THAT(vault_.app("web"), Fails(ErrorCode::kNotFound, "App web does not exist"));
  EXPECT_THAT(backend_.keys(space(), ""), IsEmpty());
}

TEST_F(VaultTest, ACreationThatWasCutOffIsGoneOnWith) {
  for (const bool after : {false, true})
    for (const int nth : {1, 2}) {
      const std::string name = "app-" + std::to_string(nth) + (after ? "a" : "b");
      fail_next(backend_.folder(), "commit", nth, ErrorCode::kUnavailable, after);
      EXPECT_FALSE(create(vault_, name));
      // The directory names only Apps that are whole.
      for (const AppEntry &e : apps_of(vault_)) EXPECT_TRUE(ok(vault_.app(e.name)));
      const auto again = create(vault_, name);
      if (again) continue;
      EXPECT_THAT(again, Fails(ErrorCode::kAlreadyExists, name));  // only the answer was lost
      EXPECT_TRUE(after && nth == 2);
    }
  EXPECT_THAT(*vault_.check(), IsEmpty());
}

TEST_F(VaultTest, AnAppMayHaveAnyName) {
  for (const char *name : {"moved", "format", "head", "incoming"}) {
    ASSERT_TRUE(ok(create(vault_, name))) << name;
    EXPECT_TRUE(ok(vault_.app(name))) << name;
  }
  EXPECT_TRUE(ok(create(vault_, "next")));
  EXPECT_THAT(*vault_.check(), IsEmpty());
}

TEST_F(VaultTest, AnAppKeyRecordCountsOnlyWhenTheKeyServiceSignedItForThisApp) {
  const App api = *create(vault_, "api");
  const Bytes own = backend_.get(space(), "key");
  backend_.put(space(), "key", backend_.get(layout::space(api.id()), "key"));
  EXPECT_THAT(vault_.app("web"),
              Fails(ErrorCode::kDataLoss, "App web: App key record belongs to another App"));
  // Signed by whoever may write manifests: the API must not be able to hand out a key of its own.
  backend_.put(space(), "key", sign(writer(), kAppKeyLabel, encode(key_of("web"))));
  EXPECT_THAT(vault_.app("web"), Fails(ErrorCode::kDataLoss, "App web: App key record"));
  backend_.put(space(), "key", own);
  EXPECT_TRUE(ok(vault_.app("web")));
}

// ---- secrets ----

TEST_F(VaultTest, ValuesComeBackExactlyAndOnlyWithThePrivateKey) {
  const Values values = {{"A", "1"},
                         {"EMPTY", ""},
                         {"ODD", std::string("\0\n\"=\xff", 5)},
                         {"BIG", std::string(kMaxValue, 'x')}};
  const auto written = write(vault_, app_, values);
  ASSERT_TRUE(ok(written));
  EXPECT_THAT(written->changed, ElementsAre("A", "BIG", "EMPTY", "ODD"));
  EXPECT_EQ(written->manifest.version(), 2u);
  EXPECT_EQ(stored(), values);
  auto sealer = Sealer::create(app_.key, credential());
  EXPECT_THAT(sealer->seal("X", SecretBytes(kMaxValue + 1)), Fails(ErrorCode::kInvalidArgument, "secret X"));
}

TEST_F(VaultTest, AnUnchangedValueMakesNoManifest) {
  ASSERT_TRUE(ok(write(vault_, app_, {{"A", "1"}, {"B", "2"}})));
  const auto same = write(vault_, app_, {{"A", "1"}});
  ASSERT_TRUE(ok(same));
  EXPECT_THAT(same->unchanged, ElementsAre("A"));
  EXPECT_THAT(same->changed, IsEmpty());
  EXPECT_EQ(newest().version(), 2u);

  const auto mixed = write(vault_, app_, {{"A", "1"}, {"B", "3"}}, {"C"});
  EXPECT_THAT(mixed->unchanged, ElementsAre("A"));
  EXPECT_THAT(mixed->changed, ElementsAre("B"));
  EXPECT_THAT(mixed->unknown, ElementsAre("C"));
  const Manifest m = newest();
  EXPECT_EQ(m.find("A")->version, 2u);
  EXPECT_EQ(m.find("B")->version, 3u);
  EXPECT_EQ(m.find("C"), nullptr);
}

TEST_F(VaultTest, UnsetRemovesAndSetAgainIsANewSecret) {
  ASSERT_TRUE(ok(write(vault_, app_, {{"A", "1"}, {"B", "2"}})));
  const auto unset = write(vault_, app_, {}, {"A"});
  ASSERT_TRUE(ok(unset));
  EXPECT_THAT(unset->removed, ElementsAre("A"));
  EXPECT_EQ(stored(), (Values{{"B", "2"}}));
  EXPECT_EQ(vault_.at(app_, 2)->find("A")->version, 2u);
  ASSERT_TRUE(ok(write(vault_, app_, {{"A", "1"}})));
  EXPECT_EQ(newest().find("A")->version, 4u);
}

TEST_F(VaultTest, EachVersionChainsToTheOneBefore) {
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(ok(write(vault_, app_, {{"A", std::to_string(i)}})));
  const auto envelopes = vault_.headers(app_, 1, 6);
  ASSERT_TRUE(ok(envelopes));
  Hash previous{};
  for (size_t i = 0; i < envelopes->size(); ++i) {
    const auto h = open_header((*envelopes)[i], pins().writers, app_.id());
    ASSERT_TRUE(ok(h));
    EXPECT_EQ(h->header.version, i + 1);
    EXPECT_EQ(h->header.previous, previous);
    previous = h->hash;
  }
  EXPECT_EQ(newest().head.hash, previous);
  EXPECT_FALSE(vault_.headers(app_, 6, 7));
}

TEST_F(VaultTest, ASecretSealedForAnotherKeyIsRefused) {
  AppKeyRecord old = app_.key;
  old.epoch = 9;
  auto sealer = Sealer::create(old, credential());
  const std::vector<SealedSecret> stale = {*sealer->seal("A", secret("1"))};
  EXPECT_THAT(vault_.write(app_, stale, {}, "ann"), Fails(ErrorCode::kInvalidArgument, "secret A"));
  // Of a key that was replaced after it was asked for: whoever sealed may seal again.
  App newer = app_;
  newer.key.epoch = 2;
  EXPECT_THAT(vault_.write(newer, seal(app_, {{"A", "1"}}), {}, "ann"),
              Fails(ErrorCode::kAborted, "its key was rotated meanwhile"));
  std::vector<SealedSecret> other_hash = seal(app_, {{"A", "1"}});
  other_hash.front().hash[0] ^= 1;
  EXPECT_THAT(vault_.write(app_, other_hash, {}, "ann"), Fails(ErrorCode::kInvalidArgument, "secret A"));
  EXPECT_EQ(newest().version(), 1u);
}

TEST_F(VaultTest, AProofHoldsOnlyThePartsThatAreNeeded) {
  Values many;
  for (int i = 0; i < 2000; ++i) many["NAME_" + std::to_string(i)] = std::to_string(i);
  ASSERT_TRUE(ok(write(vault_, app_, many)));
  const Manifest m = newest();
  const auto proof = vault_.proof(app_, m, {"NAME_1000"});
  ASSERT_TRUE(ok(proof));
  EXPECT_EQ(sha256(proof->body), m.head.header.body);
  EXPECT_GT(decode_body(proof->body)->parts.size(), 2u);
  ASSERT_THAT(proof->parts, SizeIs(1));
  std::vector<Entry> entries;
  ASSERT_TRUE(ok(decode_part(proof->parts.front(), entries)));
  EXPECT_TRUE(std::ranges::any_of(entries, [](const Entry &e) { return e.name == "NAME_1000"; }));
}

TEST_F(VaultTest, AWriteToALargeAppStoresOnlyThePartsThatChange) {
  Values many;
  for (int i = 0; i < 3000; ++i) many["NAME_" + std::to_string(i)] = std::to_string(i);
  ASSERT_TRUE(ok(write(vault_, app_, many)));
  const size_t before = backend_.keys(space(), "part/").size();
  EXPECT_GT(before, 4u);
  fakes::forget_calls(backend_.folder());
  ASSERT_TRUE(ok(write(vault_, app_, {{"NAME_7", "other"}})));
  const auto commits = fakes::calls(backend_.folder());
  ASSERT_THAT(commits, SizeIs(1));
  size_t parts = 0;
  for (size_t at = 0; (at = commits[0].find("+part/", at)) != std::string::npos; ++at) ++parts;
  EXPECT_EQ(parts, 1u);
  EXPECT_EQ(backend_.keys(space(), "part/").size(), before + 1);
  many["NAME_7"] = "other";
  EXPECT_EQ(stored(), many);
}

// ---- two writers ----

TEST_F(VaultTest, ALostRaceIsTriedAgainOnTheNewHead) {
  fail_next(backend_.folder(), "commit", 1, ErrorCode::kAborted);
  ASSERT_TRUE(ok(write(vault_, app_, {{"A", "1"}})));
  EXPECT_EQ(stored(), (Values{{"A", "1"}}));

  // Who always loses ends with a sentence.
  fail_next(backend_.folder(), "commit", 0, ErrorCode::kAborted);
  EXPECT_THAT(write(vault_, app_, {{"A", "2"}}), Fails(ErrorCode::kAborted, "App web"));
  fakes::stop_failing(backend_.folder(), "commit");
  EXPECT_EQ(stored(), (Values{{"A", "1"}}));
}

TEST(VaultRace, TwoWritersLoseNoUpdate) {
  for (const char *plugin : {"storage-sqlite", "storage-file"}) {
    fakes::Folder folder;
    const auto config = fakes::plugin(plugin, {{"path", folder.file("vault")}});
    ASSERT_TRUE(ok(Vault::initialize(*Storage::open(config)))) << plugin;
    Vault first = *Vault::open(*Storage::open(config), writer(), pins());
    const App app = *create(first, "web");
    constexpr int kEach = 12;
    const auto work = [&](char letter) {
      Vault vault = *Vault::open(*Storage::open(config), writer(), pins());
      for (int i = 0; i < kEach; ++i)
        EXPECT_TRUE(
            ok(write(vault, app, {{letter + std::to_string(i), std::to_string(i)}, {"BOTH", {letter}}})));
    };
    // Plugins are loaded on the main thread; the threads open instances of their own.
    std::thread other(work, 'A');
    work('B');
    other.join();
    const Manifest m = *first.newest(app);
    EXPECT_EQ(m.entries.size(), 2u * kEach + 1);
    EXPECT_LE(m.version(), 2u * kEach + 1);
    EXPECT_THAT(*first.check(), IsEmpty()) << plugin;
  }
}

// ---- small storages ----

TEST(VaultSmall, AWriteBeyondTheLimitsOfABatchIsStillAllOrNothing) {
  const Backend small("64", "1310720");
  Vault vault = open(small);
  const App app = *create(vault, "web");
  ASSERT_TRUE(ok(write(vault, app, {{"FIRST", "1"}})));
  Values many;
  for (int i = 0; i < 300; ++i) many["NAME_" + std::to_string(i)] = std::to_string(i);
  for (int i = 0; i < 4; ++i) many["LARGE_" + std::to_string(i)] = std::string(500'000, 'x');
  int nth = 1;
  for (;; ++nth) {
    fail_next(small.folder(), "commit", nth);
    const auto written = write(vault, app, many);
    if (written) break;
    const Manifest m = *vault.newest(app);
    EXPECT_EQ(m.version(), 2u);
    EXPECT_EQ(opened(vault, app, m), (Values{{"FIRST", "1"}}));
  }
  fakes::stop_failing(small.folder(), "commit");
  EXPECT_GT(nth, 6);
  many["FIRST"] = "1";
  EXPECT_EQ(opened(vault, app, *vault.newest(app)), many);
  EXPECT_THAT(*vault.check(), IsEmpty());
}

TEST(VaultSmall, AMachineWithManyLaunchSpecsIsRemovedWhole) {
  const Backend small("64");
  Vault vault = open(small);
  const App app = *create(vault, "web");
  const Manifest m = *vault.newest(app);
  NewSpec spec = new_machine("0123456789abcd");
  for (int i = 0; i < 150; ++i) {
    ASSERT_TRUE(ok(vault.release(app, m, {spec}, {"restart"}, "ann")));
    spec.machine = machines_of(vault, app).front();
  }
  for (int nth = 1;; ++nth) {
    fail_next(small.folder(), "commit", nth);
    if (vault.remove_machine(app, "0123456789abcd")) break;
    // Cut off in between: every Machine that is still listed has its launch spec.
    for (const StoredMachine &s : machines_of(vault, app))
      EXPECT_TRUE(ok(vault.spec(app, s.record, s.record.spec_number)));
  }
  fakes::stop_failing(small.folder(), "commit");
  EXPECT_THAT(machines_of(vault, app), IsEmpty());
  EXPECT_THAT(small.keys(layout::space(app.id()), "spec/"), IsEmpty());
}

// ---- sweep ----

TEST(VaultSweep, KeepsFiftyVersionsAndWhatMachinesNeedAndForgetsTheRest) {
  for (const char *max_ops : {"1048576", "64"}) {
    const Backend backend(max_ops);
    Vault vault = open(backend);
    const App app = *create(vault, "web");
    const std::string space = layout::space(app.id());
    std::map<uint64_t, std::set<std::string>> records;  // of each version
    NewSpec machine = new_machine("0123456789abcd");
    for (uint64_t version = 2; version <= 64; ++version) {
      Values values;
      for (int i = 0; i < 8; ++i) values["N" + std::to_string(i)] = std::to_string(version);
      const auto written = write(vault, app, values);
      ASSERT_TRUE(ok(written));
      ASSERT_EQ(written->manifest.version(), version);
      for (const Entry &e : written->manifest.entries)
        records[version].insert(layout::named("record", e.record));
      // Launch specs of versions 3, 4 and 5; what runs is 3, so the one of 4 is needed by nobody.
      if (version >= 3 && version <= 5) {
        const auto made = vault.release(app, written->manifest, {machine}, {"run"}, "ann");
        ASSERT_TRUE(ok(made));
        if (version == 3) machine.undo = made->specs[0].hash;
        machine.machine = machines_of(vault, app).front();
      }
    }
    std::set<std::string> wanted;
    for (const auto &[version, of] : records)
      if (version >= 15 || version == 3 || version == 5) wanted.insert(of.begin(), of.end());
    const auto there = backend.keys(space, "record/");
    EXPECT_EQ(std::set<std::string>(there.begin(), there.end()), wanted) << max_ops;
    EXPECT_THAT(backend.keys(space, "body/"), SizeIs(52));
    EXPECT_THAT(backend.keys(space, "part/"), SizeIs(52));
    EXPECT_THAT(backend.keys(space, "header/"), SizeIs(64));  // for ever
    EXPECT_THAT(backend.keys(space, "spec/"), SizeIs(2));
    for (const uint64_t version : {3, 5, 15, 64}) EXPECT_TRUE(ok(vault.at(app, version))) << version;
    EXPECT_THAT(vault.at(app, 4), Fails(ErrorCode::kDataLoss, "missing"));
    EXPECT_THAT(*vault.check(), IsEmpty());
  }
}

// ---- Machines and releases ----

class VaultMachines : public VaultTest {
 protected:
  const std::string id_ = "0123456789abcd", other_ = "abcd0123456789";
};

TEST_F(VaultMachines, AReleaseIsOneCommitAndNumbersRise) {
  const Manifest m = newest();
  const auto first = vault_.release(app_, m, {new_machine(id_), new_machine(other_)}, {"machine run"}, "ann");
  ASSERT_TRUE(ok(first));
  EXPECT_EQ(first->release.number, 1u);
  ASSERT_THAT(first->specs, SizeIs(2));
  EXPECT_EQ(first->specs[1].spec.machine, other_);
  EXPECT_EQ(first->specs[0].spec.header, m.head.hash);
  const auto stored_machines = vault_.machines(app_);
  ASSERT_TRUE(ok(stored_machines));
  ASSERT_THAT(*stored_machines, SizeIs(2));
  const StoredMachine &one = (*stored_machines)[0];
  EXPECT_EQ(one.record.desired, Desired::kStarted);
  EXPECT_EQ(vault_.spec(app_, one.record, 1)->hash, one.record.spec);
  EXPECT_EQ(vault_.spec_by_hash(app_, one.record, one.record.spec)->spec.number, 1u);

  NewSpec again = new_machine(one.record.id, one.record.spec);
  again.machine = one;
  const auto second = vault_.release(app_, m, {again}, {"restart"}, "bob");
  ASSERT_TRUE(ok(second));
  EXPECT_EQ(second->release.number, 2u);
  EXPECT_EQ(second->specs[0].spec.number, 2u);
  EXPECT_EQ(second->specs[0].spec.undo, one.record.spec);
  // From what was read before, nothing can be stored any more.
  EXPECT_THAT(vault_.release(app_, m, {again}, {"restart"}, "bob"), Fails(ErrorCode::kAborted, ""));

  ASSERT_TRUE(ok(vault_.finish_release(app_, 2, ReleaseOutcome::kFailed)));
  const auto releases = vault_.releases(app_);
  ASSERT_TRUE(ok(releases));
  ASSERT_THAT(*releases, SizeIs(2));
  EXPECT_EQ((*releases)[0].outcome, ReleaseOutcome::kRunning);
  EXPECT_EQ((*releases)[1].outcome, ReleaseOutcome::kFailed);
  EXPECT_EQ((*releases)[1].who, "bob");
}

TEST_F(VaultMachines, WhatIsBeingDestroyedComesNotBack) {
  ASSERT_TRUE(ok(vault_.release(app_, newest(), {new_machine(id_)}, {"run"}, "ann")));
  ASSERT_TRUE(ok(vault_.set_desired(app_, id_, Desired::kStopped)));
  ASSERT_TRUE(ok(vault_.set_desired(app_, id_, Desired::kDestroyed)));
  ASSERT_TRUE(ok(vault_.set_desired(app_, id_, Desired::kDestroyed)));  // gone on with
  for (const Desired d : {Desired::kStarted, Desired::kStopped})
    EXPECT_THAT(vault_.set_desired(app_, id_, d), Fails(ErrorCode::kFailedPrecondition, "being destroyed"));
  NewSpec again = new_machine(id_);
  again.machine = machines_of(vault_, app_).front();
  EXPECT_THAT(vault_.release(app_, newest(), {again}, {"start"}, "ann"),
              Fails(ErrorCode::kFailedPrecondition, "being destroyed"));
  ASSERT_TRUE(ok(vault_.remove_machine(app_, id_)));
  ASSERT_TRUE(ok(vault_.remove_machine(app_, id_)));
  EXPECT_THAT(vault_.set_desired(app_, id_, Desired::kDestroyed), Fails(ErrorCode::kNotFound, id_));
}

TEST_F(VaultMachines, AKeyThatIsNoReleaseNumberIsRefusedByName) {
  for (const char *key :
       {"release/x", "release/99999999999999999999", "release/1", "release/00000000000000000000"}) {
    backend_.put(space(), key, {1});
    EXPECT_THAT(vault_.release(app_, newest(), {new_machine(id_)}, {"run"}, "ann"),
                Fails(ErrorCode::kDataLoss, "App web"))
        << key;
    backend_.erase(space(), key);
  }
}

// ---- damage ----

struct Damage {
  const char *name;
  std::function<void(const Backend &, const std::string &space, const App &web)> harm;
  std::string app, object;  // as check() names them
};
void PrintTo(const Damage &d, std::ostream *out) { *out << d.name; }

class VaultDamage : public VaultMachines, public testing::WithParamInterface<Damage> {
 protected:
  void SetUp() override {
    const App api = *create(vault_, "api");
    ASSERT_TRUE(ok(write(vault_, api, {{"X", "9"}})));
    ASSERT_TRUE(ok(write(vault_, app_, {{"A", "1"}, {"B", "2"}})));
    NewSpec one = new_machine(id_), two = new_machine(other_);
    const auto first = vault_.release(app_, newest(), {one, two}, {"run"}, "ann");
    ASSERT_TRUE(ok(first));
    ASSERT_TRUE(ok(write(vault_, app_, {{"B", "3"}})));
    ASSERT_TRUE(ok(write(vault_, app_, {{"B", "4"}})));
    for (const StoredMachine &m : machines_of(vault_, app_))
      if (m.record.id == id_) one.machine = m;
    one.undo = first->specs[0].hash;
    ASSERT_TRUE(ok(vault_.release(app_, newest(), {one}, {"set"}, "ann")));
    ASSERT_THAT(*vault_.check(), IsEmpty());
  }
};

std::string of_entry(const Backend &b, const App &app, uint64_t version, std::string_view name) {
  const Vault vault = open(b);
  return layout::named("record", vault.at(app, version)->find(name)->record);
}

TEST_P(VaultDamage, IsFoundAndNamedAndNothingIsChanged) {
  GetParam().harm(backend_, space(), app_);
  fakes::forget_calls(backend_.folder());
  const auto findings = vault_.check();
  ASSERT_TRUE(ok(findings));
  EXPECT_THAT(fakes::calls(backend_.folder()), IsEmpty());
  ASSERT_FALSE(findings->empty());
  EXPECT_EQ(findings->front().app, GetParam().app);
  EXPECT_THAT(findings->front().object + ": " + findings->front().problem, HasSubstr(GetParam().object));
  // No other App is blamed.
  for (const Finding &f : *findings) EXPECT_TRUE(f.app == GetParam().app || f.app.empty()) << f.app;
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, VaultDamage,
    testing::Values(
        Damage{"a flipped bit in a record",
               [](auto &b, auto &s, auto &web) { b.flip(s, of_entry(b, web, 4, "A")); }, "web", "secret A"},
        Damage{"a record that is gone",
               [](auto &b, auto &s, auto &web) { b.erase(s, of_entry(b, web, 4, "A")); }, "web", "secret A"},
        Damage{"two swapped records",
               [](auto &b, auto &s, auto &web) {
                 b.swap(s, of_entry(b, web, 4, "A"), of_entry(b, web, 4, "B"));
               },
               "web", "secret "},
        Damage{"an old value under the key of the new one",
               [](auto &b, auto &s, auto &web) {
                 b.put(s, of_entry(b, web, 4, "B"), b.get(s, of_entry(b, web, 3, "B")));
               },
               "web", "secret B"},
        Damage{"a record that only a Machine's launch spec needs",
               [](auto &b, auto &s, auto &web) { b.erase(s, of_entry(b, web, 2, "B")); }, "web", "secret B"},
        Damage{"a part", [](auto &b, auto &s, auto &) { b.flip(s, b.keys(s, "part/").front()); }, "web",
               "part "},
        Damage{"all parts",
               [](auto &b, auto &s, auto &) {
                 for (auto &k : b.keys(s, "part/")) b.erase(s, k);
               },
               "web", "part "},
        Damage{"all bodies",
               [](auto &b, auto &s, auto &) {
                 for (auto &k : b.keys(s, "body/")) b.flip(s, k);
               },
               "web", "body "},
        Damage{"the head", [](auto &b, auto &s, auto &) { b.flip(s, "head"); }, "web", "manifest head"},
        Damage{"no head", [](auto &b, auto &s, auto &) { b.erase(s, "head"); }, "web", "manifest head"},
        Damage{"another App's head",
               [](auto &b, auto &s, auto &) {
                 b.put(s, "head", b.get(layout::space(key_of("api").app_id), "head"));
               },
               "web", "manifest head"},
        Damage{"a header that is gone", [](auto &b, auto &s, auto &) { b.erase(s, layout::header(2)); },
               "web", layout::header(2)},
        Damage{"two swapped headers",
               [](auto &b, auto &s, auto &) { b.swap(s, layout::header(1), layout::header(2)); }, "web",
               "header"},
        Damage{"another App's key record",
               [](auto &b, auto &s, auto &) {
                 b.put(s, "key", b.get(layout::space(key_of("api").app_id), "key"));
               },
               "web", "App key record"},
        Damage{"no key record", [](auto &b, auto &s, auto &) { b.erase(s, "key"); }, "web", "App key record"},
        Damage{"a directory entry", [](auto &b, auto &, auto &) { b.flip("apps", "web"); }, "web",
               "directory entry"},
        Damage{"another App's directory entry",
               [](auto &b, auto &, auto &) { b.put("apps", "web", b.get("apps", "api")); }, "web",
               "directory entry"},
        Damage{"a Machine record",
               [](auto &b, auto &s, auto &) { b.flip(s, layout::machine("0123456789abcd")); }, "web",
               "Machine 0123456789abcd"},
        Damage{"two swapped Machine records",
               [](auto &b, auto &s, auto &) {
                 b.swap(s, layout::machine("0123456789abcd"), layout::machine("abcd0123456789"));
               },
               "web", "Machine 0123456789abcd"},
        Damage{"an old Machine record put back",
               [](auto &b, auto &s, auto &web) {
                 MachineRecord m;
                 m.app_id = web.id();
                 m.id = "0123456789abcd";
                 m.spec_number = 1;
                 b.put(s, layout::machine(m.id), sign(writer(), kMachineLabel, encode(m)));
               },
               "web", "Machine 0123456789abcd"},
        Damage{"a changed command in a launch spec",
               [](auto &b, auto &s, auto &) { b.flip(s, layout::spec("0123456789abcd", 2)); }, "web",
               "Machine 0123456789abcd"},
        Damage{"another Machine's launch spec",
               [](auto &b, auto &s, auto &) {
                 b.put(s, layout::spec("0123456789abcd", 2), b.get(s, layout::spec("abcd0123456789", 1)));
               },
               "web", "Machine 0123456789abcd"},
        Damage{"the launch spec before",
               [](auto &b, auto &s, auto &) { b.flip(s, layout::spec("0123456789abcd", 1)); }, "web",
               "Machine 0123456789abcd"},
        Damage{"a launch spec that is gone",
               [](auto &b, auto &s, auto &) { b.erase(s, layout::spec("abcd0123456789", 1)); }, "web",
               "Machine abcd0123456789"},
        Damage{"a release", [](auto &b, auto &s, auto &) { b.flip(s, layout::release(1)); }, "web",
               "release"},
        Damage{"a release under another number",
               [](auto &b, auto &s, auto &) { b.put(s, layout::release(3), b.get(s, layout::release(1))); },
               "web", "release"},
        Damage{"a space that belongs to nobody",
               [](auto &b, auto &, auto &) { b.put("app-00000000000000000000000000000000", "x", {1}); }, "",
               "app-00000000000000000000000000000000"}));

// ---- migrate ----

class VaultMigrate : public testing::Test {
 protected:
  // Two Apps, one with more keys than one batch holds.
  static Values fill(const Backend &b) {
    Vault vault = open(b);
    const App web = *create(vault, "web"), api = *create(vault, "api");
    Values many;
    for (int i = 0; i < 100; ++i) many["N" + std::to_string(i)] = std::to_string(i);
    EXPECT_TRUE(ok(write(vault, web, many)));
    EXPECT_TRUE(ok(write(vault, api, {{"X", "1"}})));
    EXPECT_TRUE(ok(vault.release(web, *vault.newest(web), {new_machine("0123456789abcd")}, {"run"}, "ann")));
    return many;
  }
  // A storage without a vault.
  class Empty {
   public:
    Empty() {
      static int count = 0;
      options_ = {{"name", "target-" + std::to_string(++count)},
                  {"folder", folder_.path().string()},
                  {"max-ops", "64"}};
    }
    Storage storage() const { return *Storage::open(fakes::plugin("storage-memory", options_)); }
    const std::filesystem::path &folder() const { return folder_.path(); }

   private:
    fakes::Folder folder_;
    std::map<std::string, std::string> options_;
  };
  static void expect_moved(const Backend &source, const Empty &target, const Values &values) {
    EXPECT_THAT(Vault::open(source.storage(), writer(), pins()),
                Fails(ErrorCode::kFailedPrecondition, "moved to there"));
    auto vault = Vault::open(target.storage(), writer(), pins());
    ASSERT_TRUE(ok(vault));
    const App web = *vault->app("web");
    EXPECT_EQ(opened(*vault, web, *vault->newest(web)), values);
    EXPECT_THAT(apps_of(*vault), SizeIs(2));
    EXPECT_THAT(machines_of(*vault, web), SizeIs(1));
    EXPECT_THAT(*vault->check(), IsEmpty());
    EXPECT_TRUE(ok(write(*vault, web, {{"AFTER", "1"}})));
    EXPECT_TRUE(ok(create(*vault, "next")));
  }
};

TEST_F(VaultMigrate, MovesEverythingAndTheSourceRefusesReadersAndWriters) {
  const Backend source;
  const Empty target;
  const Values values = fill(source);
  Vault before = open(source);  // of a process that goes on running
  const App web = *before.app("web");
  const Digest digest = before.newest(web)->find("N7")->digest;
  Vault vault = open(source);
  std::vector<size_t> steps;
  ASSERT_TRUE(
      ok(vault.migrate(target.storage(), "there", [&](size_t done, size_t) { steps.push_back(done); })));
  EXPECT_GT(steps.size(), 2u);
  EXPECT_TRUE(std::ranges::is_sorted(steps));
  EXPECT_EQ(Vault::open(target.storage(), writer(), pins())->newest(web)->find("N7")->digest, digest);
  expect_moved(source, target, values);
  EXPECT_THAT(before.app("web"), Fails(ErrorCode::kFailedPrecondition, "moved to there"));
  EXPECT_THAT(before.apps(), Fails(ErrorCode::kFailedPrecondition, "moved to there"));
  EXPECT_THAT(write(before, web, {{"A", "1"}}), Fails(ErrorCode::kFailedPrecondition, "moved to there"));
  EXPECT_THAT(create(before, "late"), Fails(ErrorCode::kFailedPrecondition, "moved to there"));
  EXPECT_THAT(before.set_desired(web, "0123456789abcd", Desired::kStopped),
              Fails(ErrorCode::kFailedPrecondition, "moved to there"));
  EXPECT_THAT(before.drop_app(web), Fails(ErrorCode::kFailedPrecondition, "moved to there"));
}

TEST_F(VaultMigrate, CutOffAtAnyStepItIsRunAgainAndEndsRight) {
  int cuts = 0;
  for (const bool at_source : {true, false})
    for (const bool after : {false, true})
      for (const char *what : {"commit", "drop"})
        for (int nth = 1;; ++nth) {
          const Backend source;
          const Empty target;
          const Values values = fill(source);
          Vault vault = open(source);
          const auto &folder = at_source ? source.folder() : target.folder();
          fail_next(folder, what, nth, ErrorCode::kUnavailable, after);
          const auto first = vault.migrate(target.storage(), "there", {});
          const bool reached = !std::filesystem::exists(folder / ("fail-" + std::string(what)));
          fakes::stop_failing(folder, what);
          if (!reached) break;
          ++cuts;
          EXPECT_FALSE(first);
          // A vault is at one place at most.
          const bool here = Vault::open(source.storage(), writer(), pins()).has_value();
          const bool there = Vault::open(target.storage(), writer(), pins()).has_value();
          EXPECT_TRUE(here || there) << what << nth;
          if (here) {
            Vault again = open(source);
            ASSERT_TRUE(ok(again.migrate(target.storage(), "there", {})))
                << what << nth << after << at_source;
          }
          expect_moved(source, target, values);
        }
  EXPECT_GT(cuts, 20);
}

TEST_F(VaultMigrate, ATargetThatHoldsSomethingIsRefused) {
  const Backend source, other;
  const Empty target;
  fill(source);
  Vault vault = open(source);
  EXPECT_THAT(vault.migrate(other.storage(), "there", {}), Fails(ErrorCode::kAlreadyExists, "holds a vault"));
  Batch b;
  b.put("x", {1});
  ASSERT_TRUE(ok(target.storage().commit("foreign", b)));
  EXPECT_THAT(vault.migrate(target.storage(), "there", {}), Fails(ErrorCode::kAlreadyExists, "not empty"));
  // Nothing was marked: the vault goes on.
  const App web = *vault.app("web");
  EXPECT_TRUE(ok(write(vault, web, {{"A", "1"}})));
}

}  // namespace
}  // namespace coffer
