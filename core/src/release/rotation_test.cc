// Key rotation over the whole embedded path: what opens in between, what fails, and what others do meanwhile.
#include <set>

#include "coffer/format/record.h"
#include "test_world.h"

namespace coffer {
namespace {

using fakes::fail_next;
using fakes::Fails;
using fakes::stop_failing;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

class RotationTest : public testing::Test {
 protected:
  RotationTest() { EXPECT_TRUE(ok(us_.deployer.create_app("web"))); }

  App app() const { return *us_.vault.app("web"); }
  MachineStatus run(const std::string &name) {
    MachineConfig config;
    config.name = name;
    config.image = "host";
    auto ran = us_.deployer.run(app(), std::move(config));
    EXPECT_TRUE(ok(ran));
    return ran ? std::move(ran->machine) : MachineStatus{};
  }
  MachineStatus status(const std::string &name) { return *us_.deployer.machine(app(), name); }
  std::string variable(const std::string &machine, const std::string &name) {
    const std::string instance = world_.machines.of(status(machine).stored.record.id);
    return world_.machines.get(instance, "env-" + name).value_or("-");
  }
  Rotated rotate(bool now = false) {
    auto out = us_.deployer.rotate(app(), now);
    EXPECT_TRUE(ok(out));
    return out ? *std::move(out) : Rotated{};
  }
  // Epochs whose private keys are held: the App's, then the older ones.
  std::vector<uint32_t> epochs() const {
    const auto service = KeyService::open(world_.storage("keys"), [this] { return world_.kms(); }, {});
    std::vector<uint32_t> out;
    const std::vector<KeyInfo> keys = service->list().value();
    for (const KeyInfo &k : keys) {
      out.push_back(k.epoch);
      out.insert(out.end(), k.old_epochs.begin(), k.old_epochs.end());
    }
    return out;
  }
  // Of the records that the newest manifest names.
  std::set<uint32_t> head_epochs() const {
    std::set<uint32_t> out;
    const Manifest head = us_.vault.newest(app()).value();
    for (const Entry &e : head.entries) out.insert(decode_record(us_.vault.record(app(), e).value())->epoch);
    return out;
  }
  std::filesystem::path at(const std::string &role) const { return world_.folder.path() / role; }

  World world_;
  Process us_{world_};
};

TEST_F(RotationTest, SealsTheHeadForANewKeyAndKeepsEverythingElseOfIt) {
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "1"}, {"B", ""}, {"C", std::string(5000, 'c')}})));
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "2"}})));
  const App before = app();
  const Manifest old = us_.vault.newest(before).value();
  const Rotated r = rotate();
  EXPECT_EQ(r.from, 1u);
  EXPECT_EQ(r.epoch, 2u);
  EXPECT_EQ(r.secrets, 3u);
  EXPECT_EQ(r.oldest, 1u);  // the versions before it are retained
  EXPECT_EQ(app().key.epoch, 2u);
  EXPECT_NE(app().key.public_key, before.key.public_key);
  EXPECT_EQ(app().id(), before.id());
  const Manifest head = us_.vault.newest(app()).value();
  EXPECT_EQ(head.version(), old.version() + 1);
  ASSERT_EQ(head.entries.size(), old.entries.size());
  for (size_t i = 0; i < head.entries.size(); ++i) {
    const Entry &is = head.entries[i], &was = old.entries[i];
    EXPECT_EQ(is.name, was.name);
    EXPECT_EQ(is.version, was.version);
    EXPECT_EQ(is.digest, was.digest);
    EXPECT_EQ(is.flags, was.flags);
    EXPECT_EQ(is.created_ms, was.created_ms);
    EXPECT_EQ(is.updated_ms, was.updated_ms);
    EXPECT_EQ(is.who, was.who);
    EXPECT_NE(is.record, was.record);
  }
  EXPECT_EQ(head_epochs(), std::set<uint32_t>{2});
  EXPECT_THAT(epochs(), ElementsAre(2, 1));
  run("one");
  EXPECT_EQ(variable("one", "A"), "2");
  EXPECT_EQ(variable("one", "B"), "");
  EXPECT_EQ(variable("one", "C"), std::string(5000, 'c'));
  // A value that is there already is still recognised.
  EXPECT_THAT(us_.set(app(), {{"A", "2"}})->changed, IsEmpty());
  EXPECT_THAT(us_.vault.check().value(), IsEmpty());
}

TEST_F(RotationTest, TheOldKeyOpensAsLongAsAMachineOrARetainedVersionNeedsIt) {
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "1"}})));
  run("one");
  rotate();
  // Its launch spec is of before the rotation: booted once more, as after a crash.
  const MachineStatus m = status("one");
  world_.machines.end(m.view->state.current->instance_id, 1);
  ASSERT_TRUE(ok(us_.deployer.boot_ended(app(), status("one"))));
  EXPECT_EQ(variable("one", "A"), "1");
  EXPECT_THAT(epochs(), ElementsAre(2, 1));
  rotate();
  EXPECT_THAT(epochs(), ElementsAre(3, 1, 2));
  // 50 versions later neither a retained version nor a launch spec is older.
  for (int i = 0; i < 60; ++i) {
    ASSERT_TRUE(ok(us_.set(app(), {{"A", "v" + std::to_string(i)}})));
    if (i % 20 == 0) {
      ASSERT_TRUE(ok(us_.deployer.rollout(app(), {"secrets set", false})));
    }
  }
  ASSERT_TRUE(ok(us_.deployer.rollout(app(), {"secrets set", true})));
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(ok(us_.set(app(), {{"A", "w" + std::to_string(i)}})));
  EXPECT_THAT(epochs(), ElementsAre(3));
  EXPECT_THAT(us_.vault.check().value(), IsEmpty());
}

TEST_F(RotationTest, AMachineKeepsItsInstanceWhenItGetsTheSameValuesSealedAnew) {
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "1"}})));
  const std::string instance = run("web-1").view->state.current->instance_id;
  rotate();
  const auto plan = us_.deployer.plan(app());
  ASSERT_TRUE(ok(plan));
  ASSERT_THAT(plan->machines, SizeIs(1));
  EXPECT_EQ(plan->machines[0].effect, PlannedEffect::kNone);
  const auto rolled_out = us_.deployer.rollout(app(), {"deploy"});
  ASSERT_TRUE(ok(rolled_out));
  ASSERT_THAT(rolled_out->machines, SizeIs(1));
  EXPECT_EQ(rolled_out->machines[0].result, "unchanged");
  EXPECT_EQ(status("web-1").view->state.current->instance_id, instance);
  EXPECT_EQ(status("web-1").version(), us_.deployer.newest(app())->version());
  // What it is booted from next opens.
  ASSERT_TRUE(ok(us_.deployer.start(app(), status("web-1"))));
  EXPECT_EQ(variable("web-1", "A"), "1");
}

TEST_F(RotationTest, NowRollsOutAndTheOldKeyIsGone) {
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "1"}})));
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "2"}, {"B", "b"}})));
  run("one");
  run("two");
  const Rotated r = rotate(true);
  EXPECT_THAT(r.rollout.machines, SizeIs(2));
  EXPECT_FALSE(r.rollout.failed);
  EXPECT_THAT(r.warnings, IsEmpty());
  EXPECT_EQ(r.oldest, 2u);
  EXPECT_THAT(epochs(), ElementsAre(2));
  EXPECT_THAT(us_.vault.old_records(app()).value(), IsEmpty());
  EXPECT_THAT(us_.vault.check().value(), IsEmpty());
  EXPECT_EQ(variable("one", "A"), "2");
  // Everything goes on: a restart, a roll-out, and the way back of one that fails.
  ASSERT_TRUE(ok(us_.deployer.start(app(), status("one"))));
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "3"}})));
  fail_next(at("runtime"), "start", 2);
  const auto rolled = us_.deployer.rollout(app(), {"secrets set", false});
  ASSERT_TRUE(ok(rolled));
  EXPECT_TRUE(rolled->failed);
  EXPECT_EQ(variable("one", "A"), "2");
  EXPECT_EQ(variable("two", "A"), "2");
  const MachineStatus m = status("two");
  world_.machines.end(m.view->state.current->instance_id, 1);
  ASSERT_TRUE(ok(us_.deployer.boot_ended(app(), status("two"))));
  EXPECT_EQ(variable("two", "B"), "b");
  EXPECT_THAT(us_.vault.check().value(), IsEmpty());
}

// It starts with the newest secrets, so it needs no old key; what it ran last is no way back any more.
TEST_F(RotationTest, NowMovesAMachineThatIsStoppedAsWell) {
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "1"}})));
  run("one");
  run("two");
  ASSERT_TRUE(ok(us_.deployer.stop(app(), status("two"))));
  EXPECT_EQ(rotate(true).oldest, 2u);
  EXPECT_THAT(epochs(), ElementsAre(2));
  EXPECT_FALSE(status("two").started());
  EXPECT_THAT(us_.vault.check().value(), IsEmpty());
  ASSERT_TRUE(ok(us_.deployer.start(app(), status("two"))));
  EXPECT_EQ(variable("two", "A"), "1");
  EXPECT_THAT(us_.vault.check().value(), IsEmpty());
  EXPECT_EQ(rotate(true).oldest, 3u);
  EXPECT_THAT(epochs(), ElementsAre(3));
}

TEST_F(RotationTest, NowKeepsTheOldKeyWhenTheRollOutFails) {
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "1"}})));
  run("one");
  fail_next(at("runtime"), "start");
  const Rotated r = rotate(true);
  EXPECT_TRUE(r.rollout.failed);
  EXPECT_EQ(r.oldest, 1u);
  EXPECT_THAT(epochs(), ElementsAre(2, 1));
  EXPECT_EQ(variable("one", "A"), "1");
  const MachineStatus m = status("one");
  world_.machines.end(m.view->state.current->instance_id, 1);
  ASSERT_TRUE(ok(us_.deployer.boot_ended(app(), status("one"))));
  EXPECT_EQ(variable("one", "A"), "1");
}

TEST_F(RotationTest, MoreSecretsThanOneRequestHolds) {
  Values many;
  for (int i = 0; i < 600; ++i) many["S_" + std::to_string(i)] = "value " + std::to_string(i);
  many["LARGE_1"] = many["LARGE_2"] = many["LARGE_3"] = std::string(1 << 20, 'x');
  ASSERT_TRUE(ok(us_.set(app(), many)));
  int requests = 0;
  std::function<void()> count = [&] {
    ++requests;
    us_.keys.before_reseal = count;
  };
  us_.keys.before_reseal = count;
  EXPECT_EQ(rotate().secrets, 603u);
  EXPECT_GT(requests, 2);
  EXPECT_EQ(head_epochs(), std::set<uint32_t>{2});
  EXPECT_THAT(us_.vault.check().value(), IsEmpty());
}

// ---- others meanwhile ----

TEST_F(RotationTest, WhatIsSetMeanwhileIsInTheNewHead) {
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "1"}, {"B", "1"}})));
  Process other(world_);
  us_.keys.before_reseal = [&] {
    // By now the vault has the new key.
    EXPECT_EQ(app().key.epoch, 2u);
    ASSERT_TRUE(ok(other.set(app(), {{"A", "2"}, {"C", "3"}}, {"B"})));
  };
  rotate();
  const Manifest head = us_.vault.newest(app()).value();
  EXPECT_EQ(head.entries.size(), 2u);
  EXPECT_EQ(head_epochs(), std::set<uint32_t>{2});
  run("one");
  EXPECT_EQ(variable("one", "A"), "2");
  EXPECT_EQ(variable("one", "C"), "3");
}

TEST_F(RotationTest, WhatWasSealedForTheOldKeyIsRefusedAndNothingIsStored) {
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "1"}})));
  const App before = app();
  rotate();
  const Manifest head = us_.vault.newest(app()).value();
  EXPECT_THAT(us_.set(before, {{"A", "2"}}), Fails(ErrorCode::kAborted, "its key was rotated meanwhile"));
  EXPECT_EQ(us_.vault.newest(app())->head.hash, head.head.hash);
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "2"}})));
  // Who removes seals nothing.
  EXPECT_TRUE(ok(us_.set(before, {}, {"A"})));
}

TEST_F(RotationTest, TwoRotationsAtOnceAreOne) {
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "1"}})));
  Process other(world_);
  const App before = app();
  us_.keys.before_reseal = [&] { ASSERT_TRUE(ok(other.deployer.rotate(before, false))); };
  rotate();
  EXPECT_EQ(app().key.epoch, 2u);
  EXPECT_EQ(head_epochs(), std::set<uint32_t>{2});
  run("one");
  EXPECT_EQ(variable("one", "A"), "1");
}

// ---- failures ----

TEST_F(RotationTest, WhateverCallFailsTheAppWorksAndTheNextRotationGoesOn) {
  struct Point {
    const char *role, *what;
    bool after;
  };
  int failures = 0;
  for (const bool now : {false, true}) {
    for (const Point p :
         {Point{"vault", "commit", false}, Point{"vault", "commit", true}, Point{"vault", "get", false},
          Point{"vault", "list", false}, Point{"keys", "commit", false}, Point{"keys", "commit", true},
          Point{"keys", "get", false}, Point{"keys", "list", false}}) {
      for (int nth = 1;; ++nth) {
        SCOPED_TRACE(std::string(p.role) + " " + p.what + " " + std::to_string(nth) +
                     (p.after ? " after" : " before") + (now ? " now" : ""));
        World world;
        Process us(world);
        ASSERT_TRUE(ok(us.deployer.create_app("web")));
        const auto app = [&] { return *us.vault.app("web"); };
        ASSERT_TRUE(ok(us.set(app(), {{"A", "1"}, {"B", "2"}})));
        MachineConfig config;
        config.name = "one";
        config.image = "host";
        ASSERT_TRUE(ok(us.deployer.run(app(), config)));
        const auto folder = world.folder.path() / p.role;
        const App before = app();
        fail_next(folder, p.what, nth, ErrorCode::kUnavailable, p.after);
        const auto failed = us.deployer.rotate(before, now);
        const bool struck = !std::filesystem::exists(folder / ("fail-" + std::string(p.what)));
        stop_failing(folder, p.what);
        if (!struck) {
          EXPECT_TRUE(ok(failed));
          break;
        }
        ++failures;
        // The App works.
        Process next(world);
        ASSERT_TRUE(ok(next.set(app(), {{"C", "3"}})));
        ASSERT_TRUE(ok(next.deployer.rollout(app(), {"secrets set", true})));
        // It goes on.
        const auto rotated = next.deployer.rotate(app(), now);
        ASSERT_TRUE(ok(rotated));
        EXPECT_LE(app().key.epoch, 3u);  // one more, if the first was done but for its end
        const Manifest head = next.vault.newest(app()).value();
        for (const Entry &e : head.entries)
          EXPECT_EQ(decode_record(next.vault.record(app(), e).value())->epoch, app().key.epoch);
        if (now) {
          EXPECT_EQ(rotated->oldest, app().key.epoch);
        }
        ASSERT_TRUE(ok(next.deployer.rollout(app(), {"secrets set", true})));
        const auto m = next.deployer.machine(app(), "one");
        ASSERT_TRUE(ok(m));
        const std::string instance = world.machines.of(m->stored.record.id);
        EXPECT_EQ(world.machines.get(instance, "env-A"), "1");
        EXPECT_EQ(world.machines.get(instance, "env-C"), "3");
        EXPECT_THAT(next.vault.check().value(), IsEmpty());
        if (HasFailure()) return;
      }
    }
  }
  EXPECT_GT(failures, 100);
}

TEST_F(RotationTest, AVaultThatWasRolledBackOrChangedIsNotSealedAnew) {
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "1"}})));
  const std::string space = "app-" + hex(app().id());
  const Storage storage = world_.storage("vault");
  const auto old_head = storage.get(space, "head").value().value();
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "2"}})));
  {
    Batch b;
    b.put("head", old_head.value);
    ASSERT_TRUE(ok(storage.commit(space, b)));
  }
  EXPECT_THAT(us_.deployer.rotate(app(), false), Fails(ErrorCode::kDataLoss, "has been seen"));
  EXPECT_THAT(epochs(), ElementsAre(1));
}

// ---- the root key ----

// Every stored form of a key.
std::map<std::string, Bytes> wrapped(const World &world) {
  std::map<std::string, Bytes> out;
  const Storage store = world.storage("keys");
  const std::vector<std::string> spaces = store.spaces("").value();
  for (const std::string &space : spaces)
    EXPECT_TRUE(ok(store.list(space, "", true, [&](Stored s) {
      if (s.key != "record" && s.key != "seen" && !s.key.starts_with("name/") &&
          !s.key.starts_with("grant/") && !s.key.starts_with("used/"))
        out[space + " " + s.key] = s.value;
      return true;
    })));
  return out;
}
KeyService service_of(const World &world) {
  return *KeyService::open(world.storage("keys"), [&world] { return world.kms(); },
                           {SigningKey::from_seed(filled<32>(1))->public_key()});
}

TEST_F(RotationTest, RewrapWrapsEverythingAnewAndEverythingOpens) {
  ASSERT_TRUE(ok(us_.set(app(), {{"A", "1"}})));
  ASSERT_TRUE(ok(us_.deployer.create_app("other")));
  run("one");
  rotate();
  const auto before = wrapped(world_);
  ASSERT_TRUE(ok(service_of(world_).rewrap()));
  const auto after = wrapped(world_);
  ASSERT_EQ(after.size(), before.size());
  for (const auto &[place, bytes] : after) EXPECT_NE(before.at(place), bytes) << place;
  // Also for a process that has the old root key in memory, which makes keys for Apps and epochs with the new
  // one.
  Process other(world_);
  for (Process *p : {&us_, &other}) {
    ASSERT_TRUE(ok(p->deployer.start(app(), *p->deployer.machine(app(), "one"))));
    EXPECT_EQ(variable("one", "A"), "1");
    ASSERT_TRUE(ok(p->deployer.rotate(app(), false)));
  }
  ASSERT_TRUE(ok(us_.deployer.create_app("third")));
  ASSERT_TRUE(ok(service_of(world_).rewrap()));
  ASSERT_TRUE(ok(us_.deployer.rotate(*us_.vault.app("third"), false)));
  ASSERT_TRUE(ok(us_.deployer.rotate(*us_.vault.app("other"), true)));
  ASSERT_TRUE(ok(us_.deployer.rotate(app(), true)));
  EXPECT_EQ(variable("one", "A"), "1");
}

TEST_F(RotationTest, WhereverARewrapFailsEverythingOpensAndTheNextOneGoesOn) {
  int failures = 0;
  for (const auto &[what, is_after] : {std::pair("commit", false), std::pair("commit", true),
                                       std::pair("get", false), std::pair("list", false)})
    for (int nth = 1;; ++nth) {
      SCOPED_TRACE(std::string(what) + " " + std::to_string(nth) + (is_after ? " after" : ""));
      World world;
      Process us(world);
      const auto the = [&](const char *name) { return *us.vault.app(name); };
      for (const char *name : {"web", "other"}) {
        ASSERT_TRUE(ok(us.deployer.create_app(name)));
        ASSERT_TRUE(ok(us.set(the(name), {{"A", "1"}})));
      }
      MachineConfig config;
      config.name = "one";
      config.image = "host";
      ASSERT_TRUE(ok(us.deployer.run(the("web"), config)));
      const auto folder = world.folder.path() / "keys";
      KeyService cut = service_of(world);
      fail_next(folder, what, nth, ErrorCode::kUnavailable, is_after);
      const auto failed = cut.rewrap();
      const bool struck = !std::filesystem::exists(folder / ("fail-" + std::string(what)));
      stop_failing(folder, what);
      if (!struck) {
        EXPECT_TRUE(ok(failed));
        break;
      }
      ++failures;
      // Who was there before, and who comes now, open; nothing that they make is lost.
      ASSERT_TRUE(ok(us.deployer.start(the("web"), *us.deployer.machine(the("web"), "one"))));
      Process next(world);
      ASSERT_TRUE(ok(next.deployer.start(the("web"), *next.deployer.machine(the("web"), "one"))));
      ASSERT_TRUE(ok((nth % 2 ? us : next).deployer.create_app("third")));
      ASSERT_TRUE(ok((nth % 3 ? us : next).deployer.rotate(the("other"), true)));
      ASSERT_TRUE(ok(service_of(world).rewrap()));
      for (const auto &[place, bytes] : wrapped(world)) EXPECT_FALSE(place.ends_with(".next")) << place;
      for (const char *name : {"web", "other", "third"}) {
        ASSERT_TRUE(ok(next.set(the(name), {{"B", "2"}})));
        ASSERT_TRUE(ok(next.deployer.rotate(the(name), true))) << name;
      }
      if (HasFailure()) return;
    }
  EXPECT_GT(failures, 20);
}

}  // namespace
}  // namespace coffer
