// Apps, secrets, roll-outs and Machines: what fails, and what others do meanwhile.
#include "coffer/release/deployer.h"

#include <set>

#include "test_world.h"

namespace coffer {
namespace {

using fakes::calls;
using fakes::fail_next;
using fakes::Fails;
using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;
using testing::SizeIs;
using testing::StartsWith;
using testing::UnorderedElementsAre;

class DeployerTest : public testing::Test {
 protected:
  DeployerTest() : app_(*us_.deployer.create_app("web")) {}

  MachineStatus run(const std::string &name) {
    MachineConfig config;
    config.name = name;
    config.image = "host";
    auto ran = us_.deployer.run(app_, std::move(config));
    EXPECT_TRUE(ok(ran));
    return ran ? std::move(ran->machine) : MachineStatus{};
  }
  MachineStatus status(const std::string &name) {
    auto m = us_.deployer.machine(app_, name);
    EXPECT_TRUE(ok(m));
    return m ? *std::move(m) : MachineStatus{};
  }
  std::string instance(const std::string &name) { return machines_.of(status(name).stored.record.id); }
  // A variable of the Machine's app; "-" when it does not have it.
  std::string variable(const std::string &machine, const std::string &name) {
    return machines_.get(instance(machine), "env-" + name).value_or("-");
  }
  RolloutResult rollout(bool force = false) {
    auto out = us_.deployer.rollout(app_, {"secrets set", force});
    EXPECT_TRUE(ok(out));
    return out ? *std::move(out) : RolloutResult{};
  }
  static std::map<std::string, std::string> results(const RolloutResult &r) {
    std::map<std::string, std::string> out;
    for (const MachineResult &m : r.machines) out[m.name] = m.result;
    return out;
  }
  std::map<std::string, std::string> statuses() {
    std::map<std::string, std::string> out;
    const auto manifest = us_.deployer.newest(app_);
    EXPECT_TRUE(ok(manifest));
    const auto all = us_.deployer.secrets(app_, *manifest);
    EXPECT_TRUE(ok(all));
    for (const SecretView &s : *all) out[s.entry.name] = to_string(s.status);
    return out;
  }
  // Nobody holds a Machine, nothing is half done, and the runtime has what is known and nothing else.
  void expect_tidy() {
    const auto states = us_.agent.states();
    ASSERT_TRUE(ok(states));
    std::vector<std::string> known;
    for (const MachineState &s : *states) {
      EXPECT_EQ(s.lease_owner, "") << s.name;
      EXPECT_FALSE(s.pending) << s.name;
      EXPECT_THAT(s.leftovers, IsEmpty()) << s.name;
      if (s.current) known.push_back(s.current->instance_id);
      if (s.failed) known.push_back(s.failed->instance_id);  // for its log
    }
    std::ranges::sort(known);
    EXPECT_EQ(machines_.all(), known);
  }
  void expect_nothing() {
    EXPECT_THAT(machines_.all(), IsEmpty());
    EXPECT_THAT(us_.agent.states().value_or(std::vector<MachineState>(1)), IsEmpty());
    EXPECT_THAT(us_.vault.machines(app_).value_or(std::vector<StoredMachine>(1)), IsEmpty());
  }
  // From now on the leases of this process are those of one that died.
  void die() { hand_leases_to(world_, kDead); }
  std::filesystem::path at(const std::string &role) const { return world_.folder.path() / role; }

  World world_;
  fakes::Instances &machines_ = world_.machines;
  Process us_{world_};
  const App app_;
};

// ---- run, start, stop, destroy ----

TEST_F(DeployerTest, ARunMachineHasTheSecretsAndANumberedRelease) {
  const std::string odd = "line\nquote\" = \x01 \xc3\xa9";
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "1"}, {"ODD", odd}})));
  const MachineStatus m = run("one");
  EXPECT_TRUE(m.started());
  EXPECT_EQ(m.release(), 1u);
  EXPECT_EQ(m.version(), 2u);
  EXPECT_EQ(variable("one", "ODD"), odd);
  run("two");
  EXPECT_EQ(status("two").release(), 2u);
  for (const Release &r : us_.vault.releases(app_).value_or(std::vector<Release>{}))
    EXPECT_EQ(r.outcome, ReleaseOutcome::kDone);
  MachineConfig again;
  again.name = "one";
  EXPECT_THAT(us_.deployer.run(app_, again), Fails(ErrorCode::kAlreadyExists, "a Machine one already"));
  expect_tidy();
}

TEST_F(DeployerTest, AnImageIsResolvedOnceAndBeforeAnythingIsStored) {
  MachineConfig config;
  config.name = "one";
  config.image = config.image_name = "nginx:1";
  fail_next(at("runtime"), "image", 1, ErrorCode::kNotFound);
  EXPECT_EQ(us_.deployer.run(app_, config).error().code, ErrorCode::kNotFound);
  expect_nothing();
  EXPECT_THAT(calls(at("runtime")), IsEmpty());

  const auto asked = [&] {
    std::ifstream in(at("runtime") / "image");
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  const auto ran = us_.deployer.run(app_, config, /*pull=*/true);
  ASSERT_TRUE(ok(ran));
  EXPECT_EQ(asked(), "nginx:1 pull");
  EXPECT_EQ(ran->machine.spec.spec.config.image, "nginx:1@1");
  EXPECT_EQ(ran->machine.spec.spec.config.image_name, "nginx:1");
  EXPECT_EQ(machines_.get(instance("one"), "image"), "nginx:1@1");
  // A later boot takes the image of the launch spec, whatever its name means by then.
  std::filesystem::remove(at("runtime") / "image");
  ASSERT_TRUE(ok(us_.deployer.start(app_, status("one"))));
  EXPECT_EQ(asked(), "");
  EXPECT_EQ(machines_.get(instance("one"), "image"), "nginx:1@1");
}

TEST_F(DeployerTest, AStoppedMachineStartsWithTheNewestSecretsUnderItsOldId) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "1"}})));
  const MachineStatus before = run("one");
  ASSERT_TRUE(ok(us_.deployer.stop(app_, before)));
  EXPECT_EQ(status("one").now(), State::kStopped);
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "2"}})));
  const auto started = us_.deployer.start(app_, status("one"));
  ASSERT_TRUE(ok(started));
  EXPECT_EQ(started->machine.stored.record.id, before.stored.record.id);
  EXPECT_NE(started->machine.view->state.current->instance_id, before.view->state.current->instance_id);
  EXPECT_EQ(variable("one", "A"), "2");
  expect_tidy();
}

TEST_F(DeployerTest, AnOrderThatIsGivenAgainMakesNoSecondMachine) {
  const std::string id = "00112233445566";
  const auto order = [&](const std::vector<std::string> &ids) {
    MachineConfig config;  // without a name
    config.image = "host";
    auto ran = us_.deployer.run(app_, std::move(config), false, ids);
    EXPECT_TRUE(ok(ran));
    return ran ? ran->machine.stored.record.id + " " + ran->machine.stored.record.name : "";
  };
  EXPECT_EQ(order({id}), id + " web-001122");
  const std::string first = machines_.of(id);
  EXPECT_EQ(order({id}), id + " web-001122");
  EXPECT_EQ(machines_.of(id), first);  // it was not booted again
  // Stopped meanwhile, it is started.
  ASSERT_TRUE(ok(us_.deployer.stop(app_, status("web-001122"))));
  EXPECT_EQ(order({id}), id + " web-001122");
  EXPECT_EQ(status("web-001122").now(), State::kStarted);
  EXPECT_EQ(order({id, "99112233445566"}), id + " web-001122");
  // Undone or destroyed, its id is never a Machine's again: the next one is for that.
  ASSERT_TRUE(ok(us_.deployer.destroy(app_, status("web-001122"))));
  EXPECT_EQ(order({id, "99112233445566"}), "99112233445566 web-991122");
  EXPECT_EQ(us_.deployer.machines(app_)->size(), 1u);
  expect_tidy();
}

TEST_F(DeployerTest, ARestartThatFailsSaysThatThePreviousInstanceRuns) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "1"}})));
  run("one");
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "2"}})));
  fail_next(at("runtime"), "start");
  EXPECT_THAT(us_.deployer.start(app_, status("one")), Fails(ErrorCode::kUnavailable, "Machine one"));
  EXPECT_TRUE(status("one").started());
  EXPECT_EQ(variable("one", "A"), "1");
  expect_tidy();
}

TEST_F(DeployerTest, ADestroyedMachineLeavesNothingAndItsGrantStaysRevoked) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "1"}})));
  const MachineStatus m = run("one");
  ASSERT_TRUE(ok(us_.deployer.destroy(app_, m)));
  expect_nothing();
  EXPECT_THAT(us_.keys.grant(app_.id(), m.stored.record.id, us_.agent.host(), m.spec.envelope),
              Fails(ErrorCode::kPermissionDenied, "revoked"));
  EXPECT_THAT(us_.deployer.machine(app_, "one"), Fails(ErrorCode::kNotFound, "no Machine one"));
}

TEST_F(DeployerTest, ADestroyThatFailsIsFinishedByTheNextCommandAndNothingStartsItAgain) {
  for (const char *role : {"vault", "keys", "agent", "runtime"})
    for (int nth = 1; nth <= 20; ++nth) {
      const MachineStatus m = run("one");
      const std::string what = role == std::string("runtime") ? "destroy" : "commit";
      fail_next(at(role), what, nth);
      const auto destroyed = us_.deployer.destroy(app_, m);
      fakes::stop_failing(at(role), what);
      if (destroyed) break;
      ASSERT_LT(nth, 20);
      if (const auto there = us_.deployer.machine(app_, "one");
          there && there->stored.record.desired == Desired::kDestroyed) {
        EXPECT_FALSE(us_.deployer.start(app_, *there));
      }
      // Any command that writes goes on with it, if it was said at all.
      Process next(world_);
      ASSERT_TRUE(ok(next.deployer.rollout(app_, {"deploy", false})));
      if (const auto there = us_.deployer.machine(app_, "one")) {
        EXPECT_NE(there->stored.record.desired, Desired::kDestroyed) << role << nth;
        ASSERT_TRUE(ok(us_.deployer.destroy(app_, *there)));
      }
      expect_nothing();
    }
}

struct Point {
  const char *role, *what;
  bool after = false;
};
constexpr Point kPoints[] = {{"vault", "get"},
                             {"vault", "list"},
                             {"vault", "commit"},
                             {"vault", "commit", true},
                             {"keys", "get"},
                             {"keys", "commit"},
                             {"keys", "commit", true},
                             {"runtime", "create"},
                             {"runtime", "create", true},
                             {"runtime", "start"},
                             {"runtime", "start", true},
                             {"runtime", "inspect"}};

TEST_F(DeployerTest, ARunThatFailsAtAnyStepLeavesNoHalfMachine) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "1"}})));
  int failures = 0;
  for (const Point &p : kPoints)
    for (int nth = 1; nth <= 60; ++nth) {
      SCOPED_TRACE(std::string(p.role) + " " + p.what + " " + std::to_string(nth) +
                   (p.after ? " after" : ""));
      Process process(world_);
      fail_next(at(p.role), p.what, nth, ErrorCode::kUnavailable, p.after);
      MachineConfig config;
      config.name = "one";
      const auto ran = process.deployer.run(app_, config);
      const bool reached = !std::filesystem::exists(at(p.role) / ("fail-" + std::string(p.what)));
      fakes::stop_failing(at(p.role), p.what);
      failures += !ran;
      expect_tidy();
      if (const auto m = us_.deployer.machine(app_, "one")) {
        EXPECT_TRUE(m->started());
        ASSERT_TRUE(ok(us_.deployer.destroy(app_, *m)));
      }
      expect_nothing();
      if (!reached) break;
    }
  EXPECT_GT(failures, 30);
}

TEST_F(DeployerTest, WhatIsWrongWithASecretIsSaidBeforeAnInstanceExists) {
  MachineConfig config;
  config.name = "one";
  config.files = {{"/run/key", "ABSENT", "", 0400, FileEncoding::kRaw, false, false, 0, 0}};
  EXPECT_THAT(us_.deployer.run(app_, config), Fails(ErrorCode::kNotFound, "ABSENT"));
  ASSERT_TRUE(ok(us_.set(app_, {{"NUL", std::string("a\0b", 3)}})));
  config.files.clear();
  EXPECT_THAT(us_.deployer.run(app_, config), Fails(ErrorCode::kInvalidArgument, "secret NUL"));
  ASSERT_TRUE(ok(us_.set(app_, {{"LONG", std::string(131071, 'x')}}, {"NUL"})));
  EXPECT_THAT(us_.deployer.run(app_, config), Fails(ErrorCode::kInvalidArgument, "secret LONG"));
  EXPECT_EQ(fakes::position(calls(at("runtime")), "create"), -1);
  expect_nothing();

  Values many;
  for (int i = 0; i < 17; ++i) many["V" + std::to_string(i)] = std::string(128'000, 'x');
  ASSERT_TRUE(ok(us_.set(app_, many, {"LONG"})));
  EXPECT_THAT(us_.deployer.run(app_, config), Fails(ErrorCode::kFailedPrecondition, "2 MiB"));
  EXPECT_EQ(fakes::position(calls(at("runtime")), "start"), -1);
  expect_nothing();
}

TEST_F(DeployerTest, APlainVariableThatASecretHidesIsWarnedOf) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "secret"}})));
  MachineConfig config;
  config.name = "one";
  config.env = {{"A", "plain"}};
  const auto ran = us_.deployer.run(app_, config);
  ASSERT_TRUE(ok(ran));
  EXPECT_THAT(ran->warnings, ElementsAre(HasSubstr("variable A is set both")));
  EXPECT_EQ(variable("one", "A"), "secret");
}

// ---- roll-out ----

TEST_F(DeployerTest, ARolloutBootsTheStartedMachinesAnewAndLeavesStoppedOnes) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "1"}})));
  run("one");
  run("two");
  ASSERT_TRUE(ok(us_.deployer.stop(app_, run("still"))));
  const std::string old = instance("one");
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "2"}})));
  const RolloutResult r = rollout();
  EXPECT_THAT(results(r), UnorderedElementsAre(Pair("one", "started"), Pair("two", "started")));
  EXPECT_EQ(r.version, 3u);
  EXPECT_NE(instance("one"), old);
  EXPECT_EQ(variable("one", "A"), "2");
  EXPECT_EQ(variable("two", "A"), "2");
  EXPECT_EQ(status("still").now(), State::kStopped);
  EXPECT_EQ(variable("still", "A"), "1");
  EXPECT_EQ(rollout().release, 0u);  // nothing is behind
  EXPECT_EQ(rollout(true).release, r.release + 1);
  expect_tidy();
}

TEST_F(DeployerTest, AFailedMachineIsBootedByTheNextRollout) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "wrong"}})));
  run("one");
  machines_.set(instance("one"), "state", "failed");
  EXPECT_EQ(status("one").now(), State::kFailed);
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "right"}})));
  EXPECT_THAT(results(rollout()), ElementsAre(Pair("one", "started")));
  EXPECT_EQ(variable("one", "A"), "right");
  expect_tidy();
}

TEST_F(DeployerTest, AfterAFailureAllMachinesGoBack) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "1"}})));
  for (const char *name : {"one", "two", "three"}) run(name);
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "2"}})));
  fail_next(at("runtime"), "start", 2);
  const RolloutResult r = rollout();
  ASSERT_TRUE(r.failed);
  EXPECT_THAT(r.failed->message, StartsWith("Machine "));
  std::multiset<std::string> each;
  for (const auto &[name, result] : results(r)) each.insert(result);
  EXPECT_THAT(each, UnorderedElementsAre("kept", "kept", "skipped"));
  for (const char *name : {"one", "two", "three"}) {
    EXPECT_TRUE(status(name).started());
    EXPECT_EQ(variable(name, "A"), "1") << name;
    EXPECT_EQ(status(name).version(), 2u);
  }
  EXPECT_EQ(us_.vault.releases(app_)->back().outcome, ReleaseOutcome::kFailed);
  EXPECT_THAT(statuses(), ElementsAre(Pair("A", "Staged")));
  expect_tidy();

  // And again, without the failure.
  EXPECT_FALSE(rollout().failed);
  for (const char *name : {"one", "two", "three"}) EXPECT_EQ(variable(name, "A"), "2") << name;
  EXPECT_THAT(statuses(), ElementsAre(Pair("A", "Deployed")));
  expect_tidy();
}

TEST_F(DeployerTest, ARolloutThatFailsAtAnyStepEndsAllNewOrAllOld) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "0"}})));
  run("one");
  run("two");
  int failures = 0, round = 0;
  for (const Point &p : kPoints)
    for (int nth = 1; nth <= 80; ++nth) {
      SCOPED_TRACE(std::string(p.role) + " " + p.what + " " + std::to_string(nth) +
                   (p.after ? " after" : ""));
      const std::string old = variable("one", "A"), fresh = std::to_string(++round);
      Process process(world_);
      ASSERT_TRUE(ok(process.set(app_, {{"A", fresh}})));
      fail_next(at(p.role), p.what, nth, ErrorCode::kUnavailable, p.after);
      const auto r = process.deployer.rollout(app_, {"secrets set", false});
      const bool reached = !std::filesystem::exists(at(p.role) / ("fail-" + std::string(p.what)));
      fakes::stop_failing(at(p.role), p.what);
      failures += !r || r->failed;
      expect_tidy();
      ASSERT_TRUE(status("one").started());
      ASSERT_TRUE(status("two").started());
      ASSERT_THAT(variable("one", "A"), AnyOf(old, fresh));
      ASSERT_EQ(variable("one", "A"), variable("two", "A"));
      EXPECT_TRUE(!r || r->failed || variable("one", "A") == fresh);
      if (!reached) break;
    }
  EXPECT_GT(failures, 30);
}

TEST_F(DeployerTest, AfterAFailureOfTheAgentsStoreTheNextRolloutMakesAllNew) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "0"}})));
  run("one");
  run("two");
  int round = 0;
  for (const bool after : {false, true})
    for (int nth = 1; nth <= 40; ++nth) {
      SCOPED_TRACE(std::to_string(nth) + (after ? " after" : ""));
      const std::string fresh = std::to_string(++round);
      ASSERT_TRUE(ok(us_.set(app_, {{"A", fresh}})));
      fail_next(at("agent"), "commit", nth, ErrorCode::kUnavailable, after);
      (void)us_.deployer.rollout(app_, {"secrets set", false});
      const bool reached = !std::filesystem::exists(at("agent") / "fail-commit");
      fakes::stop_failing(at("agent"), "commit");
      die();
      Process next(world_);
      const auto r = next.deployer.rollout(app_, {"deploy", false});
      ASSERT_TRUE(ok(r));
      EXPECT_FALSE(r->failed);
      for (const char *name : {"one", "two"}) {
        EXPECT_TRUE(status(name).started());
        EXPECT_EQ(variable(name, "A"), fresh);
      }
      expect_tidy();
      if (!reached) break;
    }
}

TEST_F(DeployerTest, AMachineThatANewerReleaseHasReachedIsSuperseded) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "1"}})));
  const std::string one = run("one").stored.record.id;
  run("two");
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "2"}})));
  Process others(world_);
  std::string first;
  us_.on_step = [&](const std::string &machine, std::string_view step) {
    if (step != "preparing" || !first.empty()) return;
    first = machine == one ? "one" : "two";
    const std::string other = first == "one" ? "two" : "one";
    ASSERT_TRUE(ok(others.set(app_, {{"A", "3"}})));
    ASSERT_TRUE(ok(others.deployer.start(app_, *others.deployer.machine(app_, other))));
  };
  const RolloutResult r = rollout();
  EXPECT_FALSE(r.failed) << r.failed->message;
  EXPECT_EQ(results(r)[first], "started");
  EXPECT_EQ(results(r)[first == "one" ? "two" : "one"], "superseded");
  EXPECT_EQ(variable(first == "one" ? "two" : "one", "A"), "3");
}

// ---- statuses ----

TEST_F(DeployerTest, StatusSaysWhatTheStartedMachinesHave) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "1"}, {"B", "1"}})));
  EXPECT_THAT(statuses(), ElementsAre(Pair("A", "Staged"), Pair("B", "Staged")));
  run("one");
  run("two");
  EXPECT_THAT(statuses(), ElementsAre(Pair("A", "Deployed"), Pair("B", "Deployed")));
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "2"}, {"C", "1"}}, {"B"})));
  EXPECT_THAT(statuses(),
              ElementsAre(Pair("A", "Staged"), Pair("B", "Removed (staged)"), Pair("C", "Staged")));
  ASSERT_TRUE(ok(us_.deployer.start(app_, status("two"))));
  EXPECT_THAT(statuses(),
              ElementsAre(Pair("A", "Partial"), Pair("B", "Removed (staged)"), Pair("C", "Partial")));
  // A stopped Machine has nothing.
  ASSERT_TRUE(ok(us_.deployer.stop(app_, status("one"))));
  EXPECT_THAT(statuses(), ElementsAre(Pair("A", "Deployed"), Pair("C", "Deployed")));
  ASSERT_TRUE(ok(us_.deployer.stop(app_, status("two"))));
  EXPECT_THAT(statuses(), ElementsAre(Pair("A", "Staged"), Pair("C", "Staged")));
}

// ---- a command of this host ----

TEST_F(DeployerTest, ACommandOfTheHostGetsTheValuesAndItsGrantEndsWithThat) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "1"}, {"B", "2"}})));
  const Ticket ticket = filled<32>(7);
  std::string id;
  Bytes spec;
  us_.receiver = [&](const Ticket &asked) -> Result<TakeValues> {
    EXPECT_EQ(asked, ticket);
    return [&](const std::vector<Delivery> &values) -> Result<void> {
      std::map<std::string, std::string> got;
      for (const Delivery &d : values) got[d.name] = as_text(d.value.reveal());
      EXPECT_THAT(got, ElementsAre(Pair("B", "2")));
      const auto all = us_.vault.machines(app_);
      EXPECT_TRUE(all && all->size() == 1);
      id = all->front().record.id;
      spec = us_.vault.spec(app_, all->front().record, 1)->envelope;
      EXPECT_THAT(us_.deployer.machines(app_).value_or(std::vector<MachineStatus>(1)),
                  IsEmpty());  // not listed
      // What others do meanwhile does not end it.
      Process other(world_);
      EXPECT_TRUE(ok(other.deployer.rollout(app_, {"deploy", false})));
      EXPECT_THAT(us_.vault.machines(app_).value_or(std::vector<StoredMachine>{}), SizeIs(1));
      return {};
    };
  };
  ASSERT_TRUE(ok(us_.deployer.hand_over(app_, {"B"}, ticket)));
  expect_nothing();
  EXPECT_THAT(us_.keys.grant(app_.id(), id, us_.agent.host(), spec),
              Fails(ErrorCode::kPermissionDenied, "revoked"));

  us_.receiver = [](const Ticket &) -> Result<TakeValues> {
    return [](const std::vector<Delivery> &) -> Result<void> {
      return fail(ErrorCode::kUnavailable, "it has gone");
    };
  };
  EXPECT_THAT(us_.deployer.hand_over(app_, {}, ticket), Fails(ErrorCode::kUnavailable, "it has gone"));
  EXPECT_THAT(us_.deployer.hand_over(app_, {"X"}, ticket), Fails(ErrorCode::kNotFound, "no secret X"));
  expect_nothing();
  // Nothing is opened for nobody.
  us_.receiver = [](const Ticket &) -> Result<TakeValues> {
    return fail(ErrorCode::kNotFound, "nobody waits");
  };
  EXPECT_THAT(us_.deployer.hand_over(app_, {}, ticket), Fails(ErrorCode::kNotFound, "nobody waits"));
  EXPECT_EQ(us_.keys.opened, 2);
  expect_nothing();
}

// ---- what a process that died has left ----

TEST_F(DeployerTest, ACreationThatWasNeverAcknowledgedIsUndone) {
  // Reserved only; and with its release in the vault.
  for (const bool released : {false, true}) {
    const std::string id = "0123456789abcd";
    ASSERT_TRUE(ok(us_.agent.reserve(app_.id(), "web", id, "one")));
    if (released) {
      NewSpec spec;
      spec.machine.record.id = id;
      spec.config.name = "one";
      const auto made = us_.vault.release(app_, *us_.vault.newest(app_), {spec}, {"machine run"}, "ann");
      ASSERT_TRUE(ok(made));
      ASSERT_TRUE(ok(us_.keys.grant(app_.id(), id, us_.agent.host(), made->specs[0].envelope)));
    }
    die();
    Process next(world_);
    ASSERT_TRUE(ok(next.deployer.rollout(app_, {"deploy", false})));
    expect_nothing();
  }
}

TEST_F(DeployerTest, ACreationThatIsUnderWayIsLeftAlone) {
  ASSERT_TRUE(ok(us_.agent.reserve(app_.id(), "web", "0123456789abcd", "one")));
  Process next(world_);
  ASSERT_TRUE(ok(next.deployer.rollout(app_, {"deploy", false})));
  EXPECT_THAT(us_.agent.states().value_or(std::vector<MachineState>{}), SizeIs(1));
}

// ---- others at work ----

TEST_F(DeployerTest, AnotherWriterBetweenTwoLooksIsNoRollBack) {
  Process other(world_);
  int n = 0;
  us_.keys.after_seen = [&] { ASSERT_TRUE(ok(other.set(app_, {{"THEIRS", std::to_string(++n)}}))); };
  EXPECT_TRUE(ok(us_.deployer.newest(app_)));
  us_.keys.after_seen = [&] { ASSERT_TRUE(ok(other.set(app_, {{"THEIRS", std::to_string(++n)}}))); };
  EXPECT_TRUE(ok(us_.set(app_, {{"OURS", "1"}})));
  const auto m = us_.deployer.newest(app_);
  ASSERT_TRUE(ok(m));
  EXPECT_NE(m->find("OURS"), nullptr);
  EXPECT_NE(m->find("THEIRS"), nullptr);
}

TEST_F(DeployerTest, ABootGoesThroughWhileAnotherWrites) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "1"}})));
  Process other(world_);
  us_.keys.before_open = [&] { ASSERT_TRUE(ok(other.set(app_, {{"B", "1"}}))); };
  run("one");
  EXPECT_EQ(variable("one", "A"), "1");
  expect_tidy();
}

TEST_F(DeployerTest, AMachineThatIsDestroyedWhileTheyAreListedIsNoDamage) {
  run("one");
  run("two");
  Process reader(world_), other(world_);
  bool destroyed = false;
  reader.before_runtime = [&] {
    destroyed = true;
    for (const MachineStatus &m : us_.deployer.machines(app_).value_or(std::vector<MachineStatus>{}))
      ASSERT_TRUE(ok(other.deployer.destroy(app_, m)));
  };
  const auto listed = reader.deployer.machines(app_);
  EXPECT_TRUE(destroyed);
  ASSERT_TRUE(ok(listed));
}

TEST_F(DeployerTest, AMachineStoppedDuringARolloutStaysStopped) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "1"}})));
  const std::string one = run("one").stored.record.id;
  run("two");
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "2"}})));
  Process other(world_);
  std::string stopped;
  us_.on_step = [&](const std::string &machine, std::string_view step) {
    if (step != "preparing" || !stopped.empty()) return;
    stopped = machine == one ? "two" : "one";
    ASSERT_TRUE(ok(other.deployer.stop(app_, *other.deployer.machine(app_, stopped))));
  };
  const RolloutResult r = rollout();
  EXPECT_FALSE(r.failed);
  EXPECT_EQ(results(r)[stopped], "superseded");
  EXPECT_EQ(status(stopped).now(), State::kStopped);
  EXPECT_EQ(status(stopped).stored.record.desired, Desired::kStopped);
  expect_tidy();
}

// ---- a vault that is not what it was ----

TEST_F(DeployerTest, YesterdaysVaultIsRefusedAndNothingIsDone) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "1"}})));
  run("one");
  const std::string space = "app-" + hex(app_.id());
  const Storage storage = world_.storage("vault");
  std::vector<Stored> copy;
  ASSERT_TRUE(ok(storage.list(space, "", true, [&](Stored s) {
    copy.push_back(std::move(s));
    return true;
  })));
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "2"}})));
  rollout();
  run("two");
  const std::vector<std::string> running = machines_.all();
  ASSERT_TRUE(ok(storage.drop_space(space)));
  Batch b;
  for (Stored &s : copy) b.put(std::move(s.key), std::move(s.value));
  ASSERT_TRUE(ok(storage.commit(space, b)));
  fakes::forget_calls(at("runtime"));

  Process next(world_);
  MachineConfig config;
  config.name = "three";
  EXPECT_THAT(next.deployer.newest(app_), Fails(ErrorCode::kDataLoss, "App web"));
  EXPECT_THAT(next.set(app_, {{"A", "3"}}), Fails(ErrorCode::kDataLoss, "App web"));
  EXPECT_THAT(next.deployer.rollout(app_, {"deploy", true}), Fails(ErrorCode::kDataLoss, "App web"));
  EXPECT_THAT(next.deployer.run(app_, config), Fails(ErrorCode::kDataLoss, "App web"));
  EXPECT_THAT(next.deployer.hand_over(app_, {}, {}), Fails(ErrorCode::kDataLoss, "App web"));
  EXPECT_THAT(calls(at("runtime")), IsEmpty());
  EXPECT_EQ(machines_.all(), running);
}

TEST_F(DeployerTest, ADestroyedAppIsGoneAndItsNameMayComeAgainAsAnotherApp) {
  ASSERT_TRUE(ok(us_.set(app_, {{"A", "1"}})));
  run("one");
  for (const char *role : {"vault", "keys"}) {
    const App app = *us_.vault.app("web");
    fail_next(at(role), "drop");
    EXPECT_FALSE(us_.deployer.destroy_app(app)) << role;
    if (const auto still = us_.vault.app("web")) {
      ASSERT_TRUE(ok(us_.deployer.destroy_app(*still))) << role;
    }
    expect_nothing();
    const auto again = us_.deployer.create_app("web");
    ASSERT_TRUE(ok(again));
    EXPECT_NE(again->id(), app.id());
    EXPECT_EQ(again->key.replaces, app.id());
    EXPECT_THAT(us_.vault.newest(*again)->entries, IsEmpty());
  }
}

}  // namespace
}  // namespace coffer
