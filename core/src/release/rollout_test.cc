// Roll-outs: waves, probation, the way back, what was cut off, what others do meanwhile.
#include <thread>

#include "coffer/release/control.h"
#include "test_world.h"

namespace coffer {
namespace {

using fakes::calls;
using fakes::fail_next;
using fakes::Fails;
using testing::AllOf;
using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::Pair;
using testing::SizeIs;
using testing::UnorderedElementsAre;

// A process of this boot that is dead.
std::string dead() {
  const std::string &us = process_identity();
  return us.substr(0, us.find(':')) + ":1:1";
}

MachineConfig config_of(const std::string &process, const std::string &image = "host") {
  MachineConfig c;
  c.process = process;
  c.image = c.image_name = image;
  return c;
}

class RolloutTest : public testing::Test {
 protected:
  RolloutTest() : app_(*us_.deployer.create_app("web")) {
    us_.at_once(4);
    us_.deployer.set_patience(std::chrono::seconds(60), std::chrono::milliseconds(0));
  }

  void run(const std::string &name, std::vector<Check> checks = {}) {
    MachineConfig config;
    config.name = name;
    config.image = "host";
    config.checks = std::move(checks);
    EXPECT_TRUE(ok(us_.deployer.run(app_, std::move(config))));
  }
  MachineStatus status(const std::string &name) {
    auto m = us_.deployer.machine(app_, name);
    EXPECT_TRUE(ok(m));
    return m ? *std::move(m) : MachineStatus{};
  }
  std::map<std::string, uint64_t> versions() {
    std::map<std::string, uint64_t> out;
    const auto all = us_.deployer.machines(app_);
    EXPECT_TRUE(ok(all));
    for (const MachineStatus &m : *all)
      if (m.started()) out[m.stored.record.name] = m.version();
    return out;
  }
  std::vector<std::string> values(const std::string &name) {
    std::vector<std::string> out;
    for (const std::string &id : machines_.in_state("started"))
      out.push_back(machines_.get(id, "env-" + name).value_or("-"));
    return out;
  }
  RolloutResult rollout(bool force = false) {
    auto out = us_.deployer.rollout(app_, {"secrets set", force});
    EXPECT_TRUE(ok(out));
    return out ? *std::move(out) : RolloutResult{};
  }
  RolloutResult deploy(std::vector<MachineConfig> configs) {
    auto out = us_.deployer.deploy(app_, {.configs = std::move(configs)});
    EXPECT_TRUE(ok(out));
    return out ? *std::move(out) : RolloutResult{};
  }
  uint64_t set(const Values &values) { return us_.set(app_, values)->manifest.version(); }
  static std::map<std::string, std::string> results(const RolloutResult &r) {
    std::map<std::string, std::string> out;
    for (const MachineResult &m : r.machines) out[m.name] = m.result;
    return out;
  }
  std::map<std::string, std::string> statuses() {
    std::map<std::string, std::string> out;
    const auto all = us_.deployer.secrets(app_, *us_.deployer.newest(app_));
    EXPECT_TRUE(ok(all));
    for (const SecretView &s : *all) out[s.entry.name] = to_string(s.status);
    return out;
  }
  // Nothing is under way, nobody holds a Machine, and the vault is whole.
  void expect_tidy() {
    EXPECT_FALSE(us_.vault.rollout(app_).value());
    const auto states = us_.agent.states();
    ASSERT_TRUE(ok(states));
    std::vector<std::string> known;
    for (const MachineState &s : *states) {
      EXPECT_EQ(s.lease_owner, "") << s.name;
      EXPECT_FALSE(s.pending) << s.name;
      EXPECT_THAT(s.leftovers, IsEmpty()) << s.name;
      if (s.current) known.push_back(s.current->instance_id);
      if (s.failed) known.push_back(s.failed->instance_id);
    }
    std::ranges::sort(known);
    EXPECT_EQ(machines_.all(), known);
    EXPECT_THAT(us_.vault.check().value(), IsEmpty());
    const std::vector<Release> all = us_.vault.releases(app_).value();
    for (const Release &r : all) EXPECT_NE(r.outcome, ReleaseOutcome::kRunning);
  }
  ReleaseOutcome outcome(uint64_t release) { return us_.vault.release(app_, release).value()->outcome; }

  World world_;
  const fakes::Instances &machines_ = world_.machines;
  Process us_{world_};
  App app_;
};

TEST_F(RolloutTest, TheFirstMachineGoesAloneAndTheOthersInWavesOfAThird) {
  set({{"A", "one"}});
  for (int i = 0; i < 10; ++i) run("m" + std::to_string(i));
  const uint64_t version = set({{"A", "two"}});
  std::vector<std::string> waves;
  us_.deployer.set_progress([&](std::string_view machine, std::string_view step) {
    if (machine.empty()) waves.emplace_back(step);
  });
  const RolloutResult r = rollout();
  EXPECT_FALSE(r.failed);
  ASSERT_THAT(waves, SizeIs(4));
  EXPECT_THAT(waves[0], HasSubstr("1 of 10 Machines, wave 1 of 4"));
  EXPECT_THAT(waves[1], HasSubstr("3 of 10 Machines, wave 2 of 4"));
  EXPECT_THAT(waves[3], HasSubstr("3 of 10 Machines, wave 4 of 4"));
  EXPECT_THAT(versions(), AllOf(SizeIs(10), Each(Pair(testing::_, version))));
  EXPECT_THAT(values("A"), AllOf(SizeIs(10), Each("two")));
  expect_tidy();
}

TEST_F(RolloutTest, MachinesThatAChangeIsNothingToComeLastAndAreNotTouched) {
  set({{"A", "one"}, {"B", "one"}});
  for (int i = 0; i < 8; ++i) {
    MachineConfig config = config_of("");
    config.name = "m" + std::to_string(i);
    if (i != 5) config.secrets = std::vector<SecretVariable>{{"B", "B"}};
    ASSERT_TRUE(ok(us_.deployer.run(app_, std::move(config))));
  }
  const std::vector<std::string> before = machines_.in_state("started");
  const auto untouched = [&] {
    std::vector<std::string> same;
    std::ranges::set_intersection(machines_.in_state("started"), before, std::back_inserter(same));
    return same.size();
  };
  const uint64_t version = set({{"A", "two"}});
  const auto plan = us_.deployer.plan(app_);
  ASSERT_TRUE(ok(plan));
  for (const Plan::Machine &m : plan->machines)
    EXPECT_EQ(m.effect, m.name == "m5" ? PlannedEffect::kRestart : PlannedEffect::kNone);
  fail_next(machines_.folder(), "start");
  RolloutResult r = rollout();
  ASSERT_TRUE(r.failed);
  EXPECT_THAT(r.failed->message, HasSubstr("m5"));
  EXPECT_THAT(results(r), AllOf(Contains(Pair("m0", "skipped")), Contains(Pair("m5", "kept"))));
  EXPECT_EQ(untouched(), 7u);
  r = rollout();
  EXPECT_FALSE(r.failed);
  EXPECT_THAT(results(r), AllOf(Contains(Pair("m0", "unchanged")), Contains(Pair("m5", "started"))));
  EXPECT_THAT(versions(), AllOf(SizeIs(8), Each(Pair(testing::_, version))));
  EXPECT_THAT(statuses(), Each(Pair(testing::_, "Deployed")));
  EXPECT_EQ(untouched(), 7u);
  expect_tidy();
}

TEST_F(RolloutTest, AValueThatEndsTheAppChangesNothingButTheFirstMachineForAMoment) {
  us_.deployer.set_policy({.smoke_ms = 60'000});
  set({{"A", "a long value"}, {"CHATTY", "please"}});
  for (int i = 0; i < 5; ++i) run("m" + std::to_string(i));
  const auto before = versions();
  fakes::forget_calls(world_.machines.folder());
  set({{"DIES", "7-----"}});
  const RolloutResult r = rollout();
  ASSERT_TRUE(r.failed);
  EXPECT_THAT(r.failed->message, AllOf(HasSubstr("Machine m0 ("), HasSubstr("ended with exit code 7")));
  EXPECT_THAT(r.failed->message, Not(HasSubstr("7-----")));
  EXPECT_THAT(r.log, AllOf(HasSubstr("A is [redacted]"), Not(HasSubstr("long value"))));
  EXPECT_THAT(results(r),
              UnorderedElementsAre(Pair("m0", "kept"), Pair("m1", "skipped"), Pair("m2", "skipped"),
                                   Pair("m3", "skipped"), Pair("m4", "skipped")));
  EXPECT_EQ(versions(), before);
  EXPECT_THAT(values("DIES"), Each("-"));
  EXPECT_EQ(statuses()["DIES"], "Staged");
  EXPECT_EQ(outcome(r.release), ReleaseOutcome::kFailed);
  EXPECT_EQ(us_.vault.release(app_, r.release).value()->why, r.failed->message);
  int starts = 0;
  for (const std::string &line : calls(world_.machines.folder())) starts += line.starts_with("start ");
  EXPECT_EQ(starts, 2);
  expect_tidy();
}

TEST_F(RolloutTest, WhicheverMachineIsNoGoodAllGoBack) {
  set({{"A", "one"}});
  for (int i = 0; i < 5; ++i) run("m" + std::to_string(i));
  for (int nth = 1; nth <= 5; ++nth) {
    const auto before = versions();
    set({{"A", "try " + std::to_string(nth)}});
    fail_next(world_.machines.folder(), "start", nth);
    const RolloutResult r = rollout();
    fakes::stop_failing(world_.machines.folder(), "start");
    ASSERT_TRUE(r.failed) << nth;
    EXPECT_EQ(versions(), before) << nth;
    EXPECT_THAT(values("A"), Each("one")) << nth;
    EXPECT_EQ(results(r).size(), 5u);
    for (const auto &[name, result] : results(r))
      EXPECT_THAT(result, testing::AnyOf("kept", "skipped")) << name;
    expect_tidy();
  }
  EXPECT_FALSE(rollout().failed);
  EXPECT_THAT(values("A"), AllOf(SizeIs(5), Each("try 5")));
}

TEST_F(RolloutTest, HastyWithoutSmokeTimeAndChecks) {
  us_.deployer.set_policy({.smoke_ms = 60'000, .patience_ms = 50});
  run("m", {{.name = "never", .port = 80, .interval_ms = 10}});
  set({{"A", "one"}});
  EXPECT_TRUE(us_.deployer.rollout(app_, {"set", false, false})->failed);
  const auto hasty = us_.deployer.rollout(app_, {"set", false, true});
  ASSERT_TRUE(ok(hasty));
  EXPECT_FALSE(hasty->failed);
  EXPECT_THAT(values("A"), ElementsAre("one"));
}

// ---- cut off ----

class CutOff : public RolloutTest, public testing::WithParamInterface<Rollout::Stage> {
 protected:
  // A roll-out of three Machines that died when it had done `booted` of them.
  uint64_t cut_off(size_t booted) {
    set({{"A", "one"}});
    for (const char *name : {"m0", "m1", "m2"}) run(name);
    set({{"A", "two"}});
    Rollout r;
    r.owner = dead();
    r.stage = GetParam();
    if (r.stage == Rollout::Stage::kBack) r.why = "told to";
    std::vector<NewSpec> specs;
    const auto all = us_.deployer.machines(app_);
    for (const MachineStatus &m : *all) {
      const Hash now = m.view->state.current->spec;
      specs.push_back({m.stored, m.spec.spec.config, now});
      r.steps.push_back({m.stored.record.id, m.stored.record.name, {}, now, false, true});
    }
    const Manifest head = *us_.vault.newest(app_);
    auto made = us_.vault.release(app_, head, specs, {"secrets set"}, "ann", &r);
    EXPECT_TRUE(ok(made));
    // As the one that died has booted them.
    for (size_t i = 0; i < booted; ++i) {
      Process other(world_);
      BootOrder order;
      order.app = "web";
      order.spec = made->specs[i].envelope;
      order.secrets = head.entries;
      order.fetch = [&](const std::vector<std::string> &names) -> Result<BootOrder::Sealed> {
        BootOrder::Sealed sealed;
        sealed.headers = *us_.vault.headers(app_, 1, head.version());
        auto proof = us_.vault.proof(app_, head, names);
        sealed.proof_header = proof->header;
        sealed.proof_body = proof->body;
        sealed.proof_parts = proof->parts;
        for (const std::string &name : names)
          sealed.records.emplace_back(name, *us_.vault.record(app_, *head.find(name)));
        return sealed;
      };
      const auto out = other.agent.boot(order, nullptr);
      EXPECT_TRUE(ok(out));
      EXPECT_FALSE(out->failed);
    }
    return made->release.number;
  }
};

TEST_P(CutOff, TheAgentFinishesItOrUndoesIt) {
  for (size_t booted = 0; booted <= 3; ++booted) {
    const uint64_t release = cut_off(booted);
    const auto said = us_.deployer.finish_cut_off(app_);
    ASSERT_TRUE(ok(said));
    const bool forward = GetParam() == Rollout::Stage::kForward;
    EXPECT_THAT(*said, Contains(HasSubstr(forward ? "was finished" : "was undone: told to")));
    EXPECT_EQ(outcome(release), forward ? ReleaseOutcome::kDone : ReleaseOutcome::kFailed);
    EXPECT_THAT(values("A"), AllOf(SizeIs(3), Each(forward ? "two" : "one")));
    expect_tidy();
    for (const char *name : {"m0", "m1", "m2"}) ASSERT_TRUE(ok(us_.deployer.destroy(app_, status(name))));
  }
}

TEST_P(CutOff, TheNextSetGoesOnWithItFirst) {
  const uint64_t release = cut_off(1);
  set({{"A", "three"}});
  const RolloutResult r = rollout();
  EXPECT_FALSE(r.failed);
  EXPECT_GT(r.release, release);
  EXPECT_THAT(values("A"), AllOf(SizeIs(3), Each("three")));
  expect_tidy();
}

TEST_P(CutOff, OnRequestItGoesBack) {
  const uint64_t release = cut_off(2);
  const auto r = us_.deployer.end_rollout(app_, true);
  ASSERT_TRUE(ok(r));
  EXPECT_TRUE(r->failed);
  EXPECT_EQ(outcome(release), ReleaseOutcome::kFailed);
  EXPECT_THAT(values("A"), AllOf(SizeIs(3), Each("one")));
  expect_tidy();
  EXPECT_THAT(us_.deployer.end_rollout(app_, true), Fails(ErrorCode::kNotFound, "no roll-out"));
}

TEST_P(CutOff, WhatIsGoneMeanwhileStandsInNobodysWay) {
  cut_off(2);
  ASSERT_TRUE(ok(us_.deployer.destroy(app_, status("m1"))));
  ASSERT_TRUE(ok(us_.deployer.stop(app_, status("m2"))));
  ASSERT_TRUE(ok(us_.deployer.finish_cut_off(app_)));
  EXPECT_THAT(values("A"), SizeIs(1));
  expect_tidy();
}

TEST_P(CutOff, OneThatIsAtWorkIsLeftAlone) {
  cut_off(1);
  const auto somebody = worker_identity();
  auto stored = us_.vault.rollout(app_).value();
  stored->rollout.owner = *somebody;
  ASSERT_TRUE(ok(us_.vault.keep_rollout(app_, *stored)));
  ASSERT_TRUE(ok(us_.deployer.finish_cut_off(app_)));
  EXPECT_TRUE(us_.vault.rollout(app_).value());
  EXPECT_THAT(us_.deployer.end_rollout(app_, true), Fails(ErrorCode::kFailedPrecondition, "right now"));
  EXPECT_TRUE(us_.deployer.under_way(app_).value()->alive);
}

// After a reboot, or of another host: nothing but its silence tells.
TEST_P(CutOff, OneOfAnotherBootIsTakenOnceItGivesNoSign) {
  const uint64_t release = cut_off(1);
  auto stored = us_.vault.rollout(app_).value();
  stored->rollout.owner = kDead;
  ASSERT_TRUE(ok(us_.vault.keep_rollout(app_, *stored)));
  ASSERT_TRUE(ok(us_.deployer.finish_cut_off(app_)));
  EXPECT_TRUE(us_.deployer.under_way(app_).value()->alive);
  // As an agent does it, which looks again and again, and as coffer-api, with another Deployer each time.
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (us_.vault.rollout(app_).value() && std::chrono::steady_clock::now() < give_up) {
    Process them(world_);
    them.deployer.set_patience(std::chrono::milliseconds(50), std::chrono::milliseconds(0));
    ASSERT_TRUE(ok(them.deployer.finish_cut_off(app_)));
  }
  EXPECT_NE(outcome(release), ReleaseOutcome::kRunning);
  EXPECT_THAT(values("A"), AllOf(SizeIs(3), Each(GetParam() == Rollout::Stage::kForward ? "two" : "one")));
  expect_tidy();
}

INSTANTIATE_TEST_SUITE_P(Stages, CutOff, testing::Values(Rollout::Stage::kForward, Rollout::Stage::kBack));

TEST_F(RolloutTest, AHostThatIsAwayOnTheWayBackIsMadeUpForLater) {
  set({{"A", "one"}});
  run("m0");
  run("m1");
  set({{"A", "two"}});
  // The second Machine does not start, and from then on nothing does.
  fail_next(world_.machines.folder(), "start", 2);
  bool second = false;
  us_.on_step = [&](const std::string &, std::string_view step) {
    if (step == "starting" && std::exchange(second, true)) fail_next(world_.machines.folder(), "start", 0);
  };
  const RolloutResult r = rollout();
  us_.on_step = {};
  ASSERT_TRUE(r.failed);
  EXPECT_TRUE(r.unfinished);
  EXPECT_THAT(r.warnings,
              Contains(HasSubstr("the next command that changes the App, or the agent, goes on")));
  EXPECT_EQ(us_.deployer.under_way(app_).value()->rollout.stage, Rollout::Stage::kBack);
  fakes::stop_failing(world_.machines.folder(), "start");
  ASSERT_TRUE(ok(us_.deployer.finish_cut_off(app_)));
  EXPECT_THAT(values("A"), ElementsAre("one", "one"));
  expect_tidy();
}

// ---- many at once ----

TEST_F(RolloutTest, WhoFindsOneUnderWayJoinsTheNextOne) {
  set({{"A", "one"}});
  run("m0");
  run("m1");
  constexpr int kWriters = 8;
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  fakes::forget_calls(world_.machines.folder());
  for (int i = 0; i < kWriters; ++i)
    threads.emplace_back([&, i] {
      Process them(world_);
      them.deployer.set_policy({.smoke_ms = 100});
      them.deployer.set_patience(std::chrono::seconds(60), std::chrono::seconds(0));
      const auto written = them.set(app_, {{"S" + std::to_string(i), std::to_string(i)}});
      if (!written) return void(++failures);
      const auto out = them.deployer.rollout(app_, {"secrets set"});
      if (!out || out->failed || std::max(out->version, written->manifest.version()) != out->version)
        ++failures;
    });
  for (std::thread &t : threads) t.join();
  EXPECT_EQ(failures, 0);
  for (int i = 0; i < kWriters; ++i)
    EXPECT_THAT(values("S" + std::to_string(i)), ElementsAre(std::to_string(i), std::to_string(i)));
  expect_tidy();
}

// ---- coffer deploy ----

TEST_F(RolloutTest, DeployMakesUpdatesAndRemoves) {
  set({{"A", "one"}});
  run("alone");
  RolloutResult r = deploy({config_of("web"), config_of("worker")});
  EXPECT_FALSE(r.failed);
  EXPECT_THAT(results(r), UnorderedElementsAre(Pair("web", "started"), Pair("worker", "started")));
  EXPECT_THAT(versions(), SizeIs(3));
  expect_tidy();
  EXPECT_EQ(deploy({config_of("web"), config_of("worker")}).release, 0u);  // nothing to do

  ASSERT_TRUE(ok(us_.deployer.stop(app_, status("worker"))));
  r = deploy({config_of("web", "new"), config_of("worker", "new")});
  EXPECT_THAT(results(r), UnorderedElementsAre(Pair("web", "started")));
  EXPECT_EQ(status("web").spec.spec.config.image, "new@1");
  EXPECT_FALSE(status("worker").started());
  EXPECT_EQ(status("worker").spec.spec.config.image, "new@1");  // for its next start
  EXPECT_EQ(status("alone").spec.spec.config.image, "host@1");
  expect_tidy();

  r = deploy({config_of("web", "new")});
  EXPECT_EQ(results(r).size(), 1u);
  EXPECT_THAT(us_.deployer.machine(app_, "worker"), Fails(ErrorCode::kNotFound, ""));
  expect_tidy();
}

TEST_F(RolloutTest, ADeployThatFailsLeavesNothing) {
  us_.deployer.set_policy({.smoke_ms = 300});
  set({{"A", "one"}});
  EXPECT_FALSE(us_.deployer.deploy(app_, {.configs = {config_of("web")}, .hasty = true})->failed);
  MachineConfig bad = config_of("web", "new");
  bad.env = {{"DIES", "1-----"}};
  const RolloutResult r = deploy({bad, config_of("worker")});
  ASSERT_TRUE(r.failed);
  EXPECT_EQ(status("web").older->image, "host@1");
  EXPECT_THAT(us_.deployer.machine(app_, "worker"), Fails(ErrorCode::kNotFound, ""));
  expect_tidy();
  // What the failed one wanted is not carried on.
  us_.deployer.set_policy({.smoke_ms = 0});
  set({{"A", "two"}});
  EXPECT_FALSE(rollout().failed);
  EXPECT_EQ(status("web").spec.spec.config.image, "host@1");
  EXPECT_THAT(values("A"), ElementsAre("two"));
}

TEST_F(RolloutTest, ANewMachineThatFailsIsUndoneWithTheOthers) {
  us_.deployer.set_policy({.smoke_ms = 300});
  MachineConfig bad = config_of("worker");
  bad.env = {{"DIES", "1-----"}};
  const RolloutResult r = deploy({config_of("web"), bad});
  ASSERT_TRUE(r.failed);
  EXPECT_THAT(us_.deployer.machines(app_).value(), IsEmpty());
  EXPECT_THAT(machines_.all(), IsEmpty());
  EXPECT_THAT(us_.agent.states().value(), IsEmpty());
}

TEST_F(RolloutTest, ReleasesGoBackToAnEarlierConfigWithTheNewestSecrets) {
  set({{"A", "one"}});
  const uint64_t first = deploy({config_of("web", "v1")}).release;
  deploy({config_of("web", "v2")});
  set({{"A", "two"}});
  rollout();
  auto back = us_.deployer.roll_back_release(app_, 0, false);
  ASSERT_TRUE(ok(back));
  EXPECT_EQ(status("web").spec.spec.config.image_name, "v1");
  EXPECT_THAT(values("A"), ElementsAre("two"));
  back = us_.deployer.roll_back_release(app_, 0, false);
  EXPECT_EQ(status("web").spec.spec.config.image_name, "v2");
  back = us_.deployer.roll_back_release(app_, first, false);
  EXPECT_EQ(status("web").spec.spec.config.image_name, "v1");
  EXPECT_THAT(us_.deployer.roll_back_release(app_, 99, false), Fails(ErrorCode::kNotFound, "no release 99"));
  expect_tidy();
}

// ---- older secrets ----

TEST_F(RolloutTest, SecretsGoBackWithoutBeingOpened) {
  const uint64_t first = set({{"A", "one"}, {"B", "b"}});
  run("m");
  set({{"A", "two"}, {"C", "c"}});
  rollout();
  const int opened = us_.keys.opened;
  const auto back = us_.deployer.roll_back_secrets(app_, first);
  ASSERT_TRUE(ok(back));
  EXPECT_EQ(us_.keys.opened, opened);
  EXPECT_EQ(back->version(), first + 2);
  EXPECT_EQ(back->find("A")->version, back->version());
  EXPECT_EQ(back->find("B")->version, first);
  EXPECT_THAT(statuses(), UnorderedElementsAre(Pair("A", "Staged"), Pair("B", "Deployed"),
                                               Pair("C", "Removed (staged)")));
  rollout();
  EXPECT_THAT(values("A"), ElementsAre("one"));
  EXPECT_THAT(values("C"), ElementsAre("-"));
  // Once more is nothing new; without a version it is the one before.
  EXPECT_EQ(us_.deployer.roll_back_secrets(app_, first)->version(), back->version());
  EXPECT_EQ(us_.deployer.roll_back_secrets(app_, 0)->version(), back->version() + 1);
  rollout();
  EXPECT_THAT(values("A"), ElementsAre("two"));
  EXPECT_THAT(us_.deployer.roll_back_secrets(app_, 99),
              Fails(ErrorCode::kNotFound, "does not keep version 99"));
  expect_tidy();
}

TEST_F(RolloutTest, PurgeForgetsOlderValues) {
  set({{"A", "leaked"}, {"B", "b"}});
  run("m");
  run("stopped");
  ASSERT_TRUE(ok(us_.deployer.stop(app_, status("stopped"))));
  const Entry entry = *us_.vault.newest(app_)->find("A");
  set({{"A", "new"}});
  EXPECT_THAT(us_.deployer.purge(app_, "A"),
              Fails(ErrorCode::kFailedPrecondition, "runs with an older value of A"));
  EXPECT_THAT(us_.deployer.purge(app_, "NONE"), Fails(ErrorCode::kNotFound, ""));
  rollout();
  ASSERT_TRUE(ok(us_.vault.record(app_, entry)));  // control
  const auto purged = us_.deployer.purge(app_, "A");
  ASSERT_TRUE(ok(purged));
  EXPECT_EQ(purged->records, 1u);
  EXPECT_FALSE(us_.vault.record(app_, entry));
  EXPECT_EQ(us_.deployer.history(app_)->size(), 1u);
  expect_tidy();
  // The Machines can be booted all the same.
  ASSERT_TRUE(ok(us_.deployer.start(app_, status("stopped"))));
  world_.machines.end(status("m").view->state.current->instance_id, 1);
  ASSERT_TRUE(ok(us_.deployer.boot_ended(app_, status("m"))));
  EXPECT_THAT(values("A"), ElementsAre("new", "new"));
  expect_tidy();
}

TEST_F(RolloutTest, DriftIsNamed) {
  set({{"A", "one"}});
  run("m0");
  run("m1");
  const auto drift = [&](const std::string &name) {
    return summary(status(name), *us_.vault.newest(app_)).drift;
  };
  EXPECT_EQ(drift("m0"), "");
  set({{"A", "two"}});
  ASSERT_TRUE(ok(us_.deployer.start(app_, status("m0"))));
  EXPECT_EQ(drift("m0"), "");
  EXPECT_EQ(drift("m1"), "secrets v2, newest v3");
  EXPECT_EQ(statuses()["A"], "Partial");
  world_.machines.start_again(status("m1").view->state.current->instance_id);
  EXPECT_EQ(drift("m1"), "started by somebody else, without its secrets");
}

}  // namespace
}  // namespace coffer
