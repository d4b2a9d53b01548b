// What the agent does about Machines that are not as they are wanted.
#include "coffer/release/vault_orders.h"

#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test_world.h"

namespace coffer {
namespace {

using namespace std::chrono_literals;
using fakes::fail_next;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class ReconcilerTest : public testing::Test {
 protected:
  ReconcilerTest() : app_(*us_.deployer.create_app("web")) { set("A", "1"); }
  ~ReconcilerTest() override { ::close(cancel_); }

  void set(const std::string &name, const std::string &value) {
    EXPECT_TRUE(ok(us_.set(app_, {{name, value}})));
  }
  // Answers its id.
  std::string run(const std::string &name, RestartPolicy policy = RestartPolicy::kOnFailure) {
    MachineConfig config;
    config.name = name;
    config.image = "host";
    config.restart = policy;
    auto ran = us_.deployer.run(app_, std::move(config));
    EXPECT_TRUE(ok(ran));
    return ran ? ran->machine.stored.record.id : "";
  }
  std::string instance(const std::string &machine) { return machines_.of(machine); }
  std::string variable(const std::string &machine, const std::string &name) {
    return machines_.get(instance(machine), "env-" + name).value_or("-");
  }
  MachineState state(const std::string &machine) {
    const auto s = us_.agent.state(machine);
    EXPECT_TRUE(ok(s));
    return s && *s ? **s : MachineState{};
  }
  MachineStatus status(const std::string &machine) {
    auto m = us_.deployer.machine(app_, machine);
    EXPECT_TRUE(ok(m));
    return m ? *std::move(m) : MachineStatus{};
  }
  Reconciler agent() {
    return Reconciler::create(
        {.orders = &orders_,
         .agent = &us_.agent,
         .open_runtime =
             [this] {
               return Runtime::open(fakes::plugin("runtime-files", {{"path", machines_.folder().string()}}));
             },
         .cancel_fd = cancel_,
         .now = [this] { return now_; }});
  }
  // One that has been watching for a while.
  Reconciler watching() {
    Reconciler r = agent();
    EXPECT_TRUE(ok(r.look_at_everything(true)));
    return r;
  }
  // The instance ends while `r` watches.  Answers what is noted.
  std::string end(Reconciler &r, const std::string &machine, int exit_code, int exit_signal = 0) {
    machines_.end(instance(machine), exit_code, exit_signal);
    r.changed(machine);
    return state(machine).message;
  }
  void pass(Reconciler &r, std::chrono::milliseconds time) {
    now_ += time;
    r.tend();
  }
  bool up(const std::string &machine) { return machines_.get(instance(machine), "state") == "started"; }
  // Every Machine has the one instance that is known, and nobody holds one.
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
  size_t started() const { return machines_.in_state("started").size(); }
  std::filesystem::path at(const std::string &role) const { return world_.folder.path() / role; }
  // A process of another boot, and one that lives.
  void leases_are_of(const std::string &owner) { hand_leases_to(world_, owner); }

  World world_;
  fakes::Instances &machines_ = world_.machines;
  Process us_{world_};
  VaultOrders orders_{us_.vault, us_.deployer};
  const App app_;
  int cancel_ = ::eventfd(0, EFD_CLOEXEC);
  Reconciler::Time now_ = std::chrono::steady_clock::now();
};

// ---- ends that are seen ----

TEST_F(ReconcilerTest, CrashedMachineRunsAgainWithItsOwnManifest) {
  const std::string m = run("one");
  set("A", "2");  // staged
  Reconciler r = watching();
  const std::string before = instance(m);
  EXPECT_EQ(end(r, m, 3), "ended with exit code 3, restarting in 1 s");
  EXPECT_EQ(state(m).state, State::kFailed);
  EXPECT_EQ(status(m).view->exit_code, 3);
  pass(r, 999ms);
  EXPECT_FALSE(up(m));
  pass(r, 1ms);
  EXPECT_TRUE(up(m));
  EXPECT_NE(instance(m), before);
  EXPECT_EQ(variable(m, "A"), "1");
  EXPECT_EQ(state(m).state, State::kStarted);
  EXPECT_EQ(state(m).message, "");
  EXPECT_EQ(us_.vault.releases(app_)->size(), 1u);
  expect_tidy();
}

TEST_F(ReconcilerTest, ExitZeroStaysStopped) {
  const std::string m = run("one");
  Reconciler r = watching();
  EXPECT_EQ(end(r, m, 0), "ended with exit code 0");
  EXPECT_EQ(state(m).state, State::kStopped);
  pass(r, 10min);
  EXPECT_EQ(started(), 0u);
  Reconciler later = watching();  // which finds it noted
  pass(later, 10min);
  EXPECT_EQ(started(), 0u);
  expect_tidy();
}

TEST_F(ReconcilerTest, ExitZeroStaysStoppedAlsoWhereItWasFasterThanTheFirstLook) {
  Reconciler r = watching();
  const std::string m = run("one");
  EXPECT_EQ(end(r, m, 0), "ended with exit code 0");
  pass(r, 10min);
  EXPECT_EQ(started(), 0u);
}

TEST_F(ReconcilerTest, PolicyAlwaysRestartsAfterExitZero) {
  const std::string m = run("one", RestartPolicy::kAlways);
  Reconciler r = watching();
  EXPECT_EQ(end(r, m, 0), "ended with exit code 0, restarting in 1 s");
  EXPECT_EQ(state(m).state, State::kStopped);
  pass(r, 1s);
  EXPECT_TRUE(up(m));
}

TEST_F(ReconcilerTest, PolicyNoStaysFailed) {
  const std::string m = run("one", RestartPolicy::kNo);
  {
    Reconciler r = watching();
    EXPECT_EQ(end(r, m, 0, 9), "ended by signal 9 (SIGKILL)");
    EXPECT_EQ(state(m).state, State::kFailed);
    pass(r, 10min);
  }
  Reconciler later = watching();
  pass(later, 10min);
  EXPECT_EQ(started(), 0u);
}

TEST_F(ReconcilerTest, PolicyNoStaysAsItEndedAlsoUnseen) {
  const std::string m = run("one", RestartPolicy::kNo);
  machines_.end(instance(m), 4);
  Reconciler r = watching();
  pass(r, 10min);
  EXPECT_EQ(started(), 0u);
  EXPECT_EQ(state(m).message, "ended with exit code 4");
}

TEST_F(ReconcilerTest, OutOfMemoryAndARemovedInstanceAreNamedAndRestarted) {
  const std::string m = run("one"), n = run("two");
  Reconciler r = watching();
  machines_.set(instance(m), "out-of-memory", "1");
  EXPECT_EQ(end(r, m, 137), "ended: out of memory, restarting in 1 s");
  machines_.remove(instance(n));
  r.changed(n);
  EXPECT_EQ(state(n).message, "lost its instance: somebody removed it, restarting in 1 s");
  pass(r, 1s);
  EXPECT_TRUE(up(m));
  EXPECT_TRUE(up(n));
  expect_tidy();
}

TEST_F(ReconcilerTest, BackOffGrowsAndIsReset) {
  const std::string m = run("one");
  Reconciler r = watching();
  for (const auto wait : {1s, 2s, 4s, 8s, 16s, 32s, 60s, 60s}) {
    EXPECT_EQ(end(r, m, 1), "ended with exit code 1, restarting in " + std::to_string(wait.count()) + " s");
    pass(r, wait - 1ms);
    EXPECT_FALSE(up(m));
    pass(r, 1ms);
    ASSERT_TRUE(up(m));
  }
  pass(r, 59s);
  EXPECT_THAT(end(r, m, 1), HasSubstr("in 60 s"));
  pass(r, 60s);
  pass(r, 60s);
  EXPECT_THAT(end(r, m, 1), HasSubstr("in 1 s"));
}

TEST_F(ReconcilerTest, AnInstanceOfSomebodyElsesMakingBeginsTheBackOffAnew) {
  const std::string m = run("one");
  Reconciler r = watching();
  end(r, m, 1);
  pass(r, 1s);
  EXPECT_THAT(end(r, m, 1), HasSubstr("in 2 s"));
  set("A", "better");
  ASSERT_TRUE(ok(us_.deployer.rollout(app_, {"secrets set", false})));
  r.changed(m);
  EXPECT_THAT(end(r, m, 1), HasSubstr("in 1 s"));
}

TEST_F(ReconcilerTest, ARestartThatFailsIsTriedAgainAndItsReasonIsKept) {
  const std::string m = run("one");
  Reconciler r = watching();
  end(r, m, 1);
  fail_next(at("runtime"), "start");
  pass(r, 1s);
  EXPECT_EQ(state(m).state, State::kFailed);
  EXPECT_THAT(state(m).message, HasSubstr("told to fail; trying again in 2 s"));
  expect_tidy();
  pass(r, 1999ms);
  EXPECT_FALSE(up(m));
  pass(r, 1ms);
  EXPECT_TRUE(up(m));
  EXPECT_EQ(state(m).message, "");
  expect_tidy();
}

TEST_F(ReconcilerTest, ARolloutThatLeftAMachineFailedIsNotTheEndOfIt) {
  const std::string m = run("one");
  Reconciler r = watching();
  set("A", "2");
  machines_.end(instance(m), 1);
  fail_next(at("runtime"), "start");
  ASSERT_TRUE(ok(us_.deployer.rollout(app_, {"secrets set", false})));
  ASSERT_EQ(state(m).state, State::kFailed);
  pass(r, 2s);
  EXPECT_THAT(state(m).message, HasSubstr("told to fail; trying again in 1 s"));
  pass(r, 1s);
  EXPECT_TRUE(up(m));
  EXPECT_EQ(variable(m, "A"), "1");  // what ran before
}

// ---- ends that nobody saw ----

TEST_F(ReconcilerTest, EndUnseenIsBootedAgain) {
  const std::string m = run("one"), n = run("two");
  machines_.end(instance(m), 0);
  machines_.end(instance(n), 0, 15);
  Reconciler r = agent();
  EXPECT_EQ(r.once().value_or(9), 0u);
  EXPECT_TRUE(up(m));
  EXPECT_TRUE(up(n));
  expect_tidy();
}

TEST_F(ReconcilerTest, APromisedRestartIsKeptByTheNextAgent) {
  const std::string m = run("one", RestartPolicy::kAlways);
  {
    Reconciler r = watching();
    end(r, m, 0);
  }
  Reconciler r = watching();
  EXPECT_TRUE(up(m));
  expect_tidy();
}

TEST_F(ReconcilerTest, EngineGoneAndBack) {
  const std::string early = run("early"), late = run("late"), unseen = run("unseen"),
                    no = run("no", RestartPolicy::kNo);
  Reconciler r = watching();
  end(r, early, 0);
  pass(r, 31s);
  end(r, late, 0);  // the engine's shutdown ends it
  end(r, no, 0);
  r.lost({ErrorCode::kUnavailable, "the engine is gone"});
  machines_.end(instance(unseen), 0);
  fail_next(at("runtime"), "list", 0);
  fail_next(at("runtime"), "inspect", 0);
  pass(r, 10min);
  r.changed(late);
  EXPECT_FALSE(r.look_at_everything(true));
  EXPECT_EQ(started(), 0u);
  fakes::stop_failing(at("runtime"), "list");
  fakes::stop_failing(at("runtime"), "inspect");
  ASSERT_TRUE(ok(r.look_at_everything(true)));
  EXPECT_FALSE(up(early));
  EXPECT_TRUE(up(late));
  EXPECT_TRUE(up(unseen));
  EXPECT_FALSE(up(no));
  expect_tidy();
}

// ---- what others do ----

TEST_F(ReconcilerTest, InstanceStartedBehindOurBackIsReplacedWhenItHasEnded) {
  const std::string m = run("one");
  Reconciler r = watching();
  const std::string before = instance(m);
  end(r, m, 0);  // by `docker restart`: its app ends well
  ASSERT_EQ(state(m).state, State::kStopped);
  machines_.start_again(before);
  r.changed(m);
  pass(r, 10min);
  EXPECT_EQ(instance(m), before);  // its init waits for a frame
  end(r, m, 78);
  EXPECT_NE(instance(m), before);
  EXPECT_TRUE(up(m));
  expect_tidy();
}

TEST_F(ReconcilerTest, InstanceStartedBehindOurBackIsReplacedAlsoByAnAgentThatWasNotThere) {
  const std::string m = run("one", RestartPolicy::kNo), n = run("two");
  machines_.start_again(instance(m));
  machines_.end(instance(m), 78);
  machines_.start_again(instance(n));
  Reconciler r = watching();
  EXPECT_TRUE(up(m));
  const std::string waits = instance(n);
  EXPECT_EQ(end(r, n, 78), "");
  EXPECT_NE(instance(n), waits);
  EXPECT_TRUE(up(n));
  expect_tidy();
}

TEST_F(ReconcilerTest, ARestartFasterThanTheLookIsNoEnd) {
  const std::string m = run("one");
  Reconciler r = watching();
  const std::string before = instance(m);
  EXPECT_THAT(end(r, m, 143), HasSubstr("restarting in 1 s"));
  machines_.start_again(before);
  pass(r, 1s);
  EXPECT_EQ(instance(m), before);
  end(r, m, 78);
  EXPECT_TRUE(up(m));
  EXPECT_EQ(started(), 1u);
}

TEST_F(ReconcilerTest, StoppedOrderBeatsARestart) {
  const std::string m = run("one");
  Reconciler r = watching();
  end(r, m, 1);
  ASSERT_TRUE(ok(us_.deployer.stop(app_, status(m))));
  pass(r, 10min);
  EXPECT_EQ(started(), 0u);
  EXPECT_EQ(state(m).state, State::kStopped);
  Reconciler later = watching();
  pass(later, 10min);
  EXPECT_EQ(started(), 0u);
}

TEST_F(ReconcilerTest, AStopDuringTheBootOfARestartWins) {
  const std::string m = run("one");
  Reconciler r = watching();
  end(r, m, 1);
  // After the look, before the lease is taken.
  us_.keys.after_seen = [&] { ASSERT_TRUE(ok(us_.vault.set_desired(app_, m, Desired::kStopped))); };
  Process other(world_);
  pass(r, 1s);
  ASSERT_TRUE(ok(other.deployer.stop(app_, *other.deployer.machine(app_, m))));
  pass(r, 10min);
  EXPECT_EQ(started(), 0u);
}

TEST_F(ReconcilerTest, AStoppedMachineThatSomebodyStartsIsStopped) {
  const std::string m = run("one");
  ASSERT_TRUE(ok(us_.deployer.stop(app_, status(m))));
  Reconciler r = watching();
  machines_.start_again(instance(m));
  r.changed(m);
  EXPECT_EQ(machines_.get(instance(m), "state"), "stopped");
  expect_tidy();
}

TEST_F(ReconcilerTest, AnOldRecordThatIsPutBackStartsNothing) {
  const std::string m = run("one");
  ASSERT_TRUE(ok(us_.deployer.stop(app_, status(m))));
  ASSERT_TRUE(ok(us_.vault.set_desired(app_, m, Desired::kStarted)));  // as the replayed record says
  Reconciler r = watching();
  pass(r, 10min);
  EXPECT_EQ(started(), 0u);
}

TEST_F(ReconcilerTest, MachineOfALiveLeaseIsLeftAlone) {
  const std::string m = run("one");
  Reconciler r = watching();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::pause();
    ::_exit(0);
  }
  // The identity of the child: boot id and start time come from /proc.
  std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
  std::string line, word;
  std::getline(stat, line);
  std::istringstream fields(line.substr(line.rfind(')') + 2));
  for (int field = 3; field <= 22; ++field) fields >> word;
  const std::string owner =
      process_identity().substr(0, process_identity().find(':') + 1) + std::to_string(child) + ":" + word;
  ASSERT_TRUE(process_alive(owner));
  us_.on_step = [&](const std::string &, std::string_view step) {
    if (step == "preparing") leases_are_of(owner);
  };
  set("A", "2");
  (void)us_.deployer.rollout(app_, {"secrets set", false});  // does nothing more, without the lease
  us_.on_step = {};
  const std::vector<std::string> before = machines_.all();
  ASSERT_THAT(before, SizeIs(1));
  ASSERT_EQ(state(m).lease_owner, owner);
  machines_.end(before.front(), 1);
  r.changed(m);
  pass(r, 2s);
  Reconciler other = watching();
  pass(other, 2s);
  EXPECT_EQ(machines_.all(), before);
  ASSERT_EQ(state(m).lease_owner, owner);

  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  pass(r, 2s);  // which finds the end
  pass(r, 1s);
  EXPECT_EQ(started(), 1u);
  expect_tidy();
}

TEST_F(ReconcilerTest, KilledBootIsFinishedOnce) {
  const std::string m = run("one");
  Reconciler r = watching();
  set("A", "2");
  for (const char *at :
       {"preparing", "opening secrets", "stopping the old instance", "starting", "started"}) {
    us_.on_step = [&](const std::string &, std::string_view step) {
      if (step == at) leases_are_of(kDead);
    };
    (void)us_.deployer.rollout(app_, {"secrets set", true});
    us_.on_step = {};
    pass(r, 2s);
    EXPECT_EQ(started(), 1u) << at;
    EXPECT_TRUE(up(m)) << at;
    expect_tidy();
  }
  EXPECT_EQ(variable(m, "A"), "2");
}

TEST_F(ReconcilerTest, AnAgentThatIsKilledInARestartIsFollowedByOneThatGoesOn) {
  const std::string m = run("one");
  set("A", "2");
  for (const char *at : {"preparing", "opening secrets", "starting", "started"}) {
    machines_.end(instance(m), 0);
    {
      Reconciler r = agent();
      us_.on_step = [&](const std::string &, std::string_view step) {
        if (step == at) leases_are_of(kDead);
      };
      (void)r.once();
      us_.on_step = {};
    }
    Reconciler next = watching();
    EXPECT_EQ(started(), 1u) << at;
    EXPECT_TRUE(up(m)) << at;
    EXPECT_EQ(variable(m, "A"), "1") << at;  // no roll-out by accident
    expect_tidy();
  }
}

TEST_F(ReconcilerTest, ADestroyThatWasSaidIsFinished) {
  const std::string m = run("one");
  ASSERT_TRUE(ok(us_.vault.set_desired(app_, m, Desired::kDestroyed)));
  Reconciler r = watching();
  EXPECT_THAT(machines_.all(), IsEmpty());
  EXPECT_THAT(us_.vault.machines(app_).value_or(std::vector<StoredMachine>(1)), IsEmpty());
}

TEST_F(ReconcilerTest, UnknownInstanceOfThisHostIsDestroyed) {
  const std::string m = run("one");
  const auto [key, value] = us_.agent.label();
  machines_.set("lost", "label-coffer.machine", "00000000000000");
  machines_.set("lost", "label-" + key, value);
  machines_.set("lost", "state", "started");
  machines_.set("second", "label-coffer.machine", m);
  machines_.set("second", "label-" + key, value);
  machines_.set("second", "state", "started");
  Reconciler r = watching();
  EXPECT_EQ(started(), 1u);
  EXPECT_TRUE(up(m));
  expect_tidy();
}

TEST_F(ReconcilerTest, InstanceOfAnotherHostIsLeftAlone) {
  machines_.set("other", "label-coffer.host", "0123456789abcdef");
  machines_.set("other", "label-coffer.machine", "00000000000000");
  machines_.set("other", "state", "started");
  machines_.set("none", "state", "started");  // not even ours
  Reconciler r = watching();
  EXPECT_THAT(machines_.all(), ElementsAre("none", "other"));
}

TEST_F(ReconcilerTest, AMachineThatTheVaultLacksIsNotTouched) {
  const std::string m = run("one");
  const std::string before = instance(m);
  ASSERT_TRUE(ok(us_.vault.remove_machine(app_, m)));
  Reconciler r = agent();
  EXPECT_EQ(r.once().value_or(9), 1u);
  machines_.end(before, 1);
  EXPECT_EQ(r.once().value_or(9), 1u);
  EXPECT_THAT(machines_.all(), ElementsAre(before));
  EXPECT_EQ(started(), 0u);
}

// ---- as it runs ----

TEST_F(ReconcilerTest, ItHearsOfEndsAndOfTheEngineAndEndsWhenItIsToldTo) {
  const std::string m = run("one"), n = run("two");
  Process ours(world_);  // the thread's own
  VaultOrders orders(ours.vault, ours.deployer);
  Reconciler r = Reconciler::create(
      {.orders = &orders,
       .agent = &ours.agent,
       .open_runtime =
           [this] {
             return Runtime::open(fakes::plugin("runtime-files", {{"path", machines_.folder().string()}}));
           },
       .cancel_fd = cancel_});
  const auto eventually = [](const std::function<bool()> &is) {
    for (int i = 0; i < 1000 && !is(); ++i) ::usleep(10'000);
    return is();
  };
  Result<void> ran;
  std::thread thread([&] { ran = r.run(); });
  const std::string first = instance(m);
  ::usleep(200'000);
  machines_.end(first, 1);
  EXPECT_TRUE(eventually([&] { return instance(m) != first && up(m); }));
  fail_next(at("runtime"), "events", 0);  // gone, and gone again at the first tries
  ::usleep(300'000);
  const std::string second = instance(n);
  machines_.end(second, 0);
  ::usleep(100'000);
  EXPECT_EQ(instance(n), second);
  fakes::stop_failing(at("runtime"), "events");
  EXPECT_TRUE(eventually([&] { return instance(n) != second && up(n); }));
  const auto begin = std::chrono::steady_clock::now();
  const uint64_t one = 1;
  ASSERT_EQ(::write(cancel_, &one, sizeof one), 8);
  thread.join();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 1s);
  EXPECT_TRUE(ok(ran));
  EXPECT_EQ(started(), 2u);
  expect_tidy();
}

}  // namespace
}  // namespace coffer
