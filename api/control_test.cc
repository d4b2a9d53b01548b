// Control, twice: done here, and asked of an API.  Whoever has one need not know which.
#include "coffer/release/control.h"

#include <fcntl.h>
#include <sys/eventfd.h>

#include <future>
#include <sstream>

#include "test_world.h"

namespace coffer::api {
namespace {

using fakes::fail_next;
using fakes::Fails;
using testing::AllOf;
using testing::AnyOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

// ---- everything that a user is told, as text ----

struct Text {
  template <class T>
  static std::string all(const std::vector<T> &list) {
    std::string out;
    for (const T &one : list) out += show(one) + "\n";
    return out;
  }
  static std::string show(const std::string &s) { return s; }
  static std::string show(const Error &e) {
    return "error " + std::to_string(static_cast<int>(e.code)) + ": " + e.message + " / " + e.remedy;
  }
  static std::string show(const AppSummary &a) {
    std::ostringstream o;
    o << a.name << ' ' << hex(a.id) << ' ' << a.status << ' ' << a.machines << ' ' << a.created_ms;
    return o.str();
  }
  static std::string show(const App &a) {
    return a.name() + " " + hex(a.id()) + " " + std::to_string(a.key.epoch) + " " + hex(a.signed_key) + " " +
           std::to_string(a.entry.created_ms) + " " + a.entry.name;
  }
  static std::string show(const SecretBytes &key) { return hex(key.reveal()); }
  static std::string show(const MachineSummary &m) {
    std::ostringstream o;
    o << m.id << ' ' << m.name << ' ' << to_string(m.state) << ' ' << m.image << ' ' << m.instance_id << ' '
      << m.release << ' ' << m.version << ' ' << m.created_ms << ' ' << m.updated_ms << ' ' << m.started_ms
      << ' ' << (m.exit_code ? std::to_string(*m.exit_code) : "-") << ' ' << m.exit_signal << ' ' << m.cut_off
      << ' ' << m.message;
    return o.str();
  }
  static std::string show(const SecretView &s) {
    std::ostringstream o;
    o << s.entry.name << ' ' << hex(s.entry.digest) << ' ' << to_string(s.status) << ' ' << s.entry.version
      << ' ' << s.entry.created_ms << ' ' << s.entry.updated_ms;
    return o.str();
  }
  static std::string show(const Control::Secrets &s) { return std::to_string(s.version) + "\n" + all(s.all); }
  static std::string show(const Changes &c) {
    return std::to_string(c.version) + " changed " + all(c.changed) + " unchanged " + all(c.unchanged) +
           " removed " + all(c.removed) + " unknown " + all(c.unknown);
  }
  static std::string show(const Plan &p) {
    std::ostringstream o;
    o << p.version;
    for (const auto &[name, change] : p.secrets) o << ' ' << to_string(change) << ' ' << name;
    for (const Plan::Machine &m : p.machines) o << ' ' << m.id << ' ' << m.name << ' ' << m.version;
    return o.str();
  }
  static std::string show(const VersionView &v) {
    return std::to_string(v.version) + " " + std::to_string(v.created_ms) + " " + v.who + " " +
           std::to_string(v.restored_from) + " set " + all(v.set) + " removed " + all(v.removed);
  }
  template <class T>
  static std::string show(const std::vector<T> &list) {
    return all(list);
  }
  static std::string show(const RolloutResult &r) {
    std::string out = std::to_string(r.release) + " " + std::to_string(r.version);
    for (const MachineResult &m : r.machines) out += " " + m.id + " " + m.name + " " + m.result;
    return out + (r.failed ? " " + show(*r.failed) : "") + " " + all(r.warnings);
  }
  static std::string show(const Rotated &r) {
    std::ostringstream o;
    o << r.from << ' ' << r.epoch << ' ' << r.went_on << ' ' << r.version << ' ' << r.secrets << ' '
      << r.oldest << ' ' << show(r.rollout) << ' ' << all(r.warnings);
    return o.str();
  }
  static std::string show(const Control::Booted &b) { return show(b.machine) + " " + all(b.warnings); }
  static std::string show(int32_t code) { return std::to_string(code); }
  template <class T>
  static std::string show(const Result<T> &r) {
    if (!r) return show(r.error());
    if constexpr (std::is_void_v<T>)
      return "done";
    else
      return show(*r);
  }
};
template <class T>
std::string show(const T &told) {
  return Text::show(told);
}

MachineConfig config(const std::string &name) {
  MachineConfig c;
  c.name = name;
  c.image = c.image_name = "host";
  return c;
}

enum class Where { kHere, kApi };

class ControlTest : public testing::TestWithParam<Where> {
 protected:
  App create(const std::string &name) {
    auto app = control().create_app(name);
    EXPECT_TRUE(ok(app));
    return app ? *std::move(app) : App{};
  }
  Result<Changes> set(const App &app, const Values &values, const std::vector<std::string> &unset = {}) {
    return control().write(app, sealed(control(), app, values), unset);
  }
  MachineSummary run(const App &app, const std::string &name) {
    auto ran = control().run(app, config(name), false);
    EXPECT_TRUE(ok(ran));
    return ran ? std::move(ran->machine) : MachineSummary{};
  }
  // A variable of the Machine's app; "-" when it does not have it.
  std::string variable(const MachineSummary &m, const std::string &name) {
    return world_.machines.get(world_.machines.of(m.id), "env-" + name).value_or("-");
  }
  Control &control() {
    if (GetParam() == Where::kHere) return local_.control;
    return remote_.control;
  }

  World world_;
  Local local_{world_};
  Remote remote_{world_};
};
INSTANTIATE_TEST_SUITE_P(, ControlTest, testing::Values(Where::kHere, Where::kApi),
                         [](const auto &where) { return where.param == Where::kHere ? "Here" : "Api"; });

// ---- Apps ----

TEST_P(ControlTest, AnAppIsMadeOnceAndIsListedUntilItIsDestroyed) {
  EXPECT_THAT(control().apps().value(), IsEmpty());
  EXPECT_THAT(control().app("web"), Fails(ErrorCode::kNotFound, "App web does not exist"));
  const App app = create("web");
  EXPECT_EQ(app.name(), "web");
  EXPECT_EQ(app.key.epoch, 1u);
  EXPECT_GT(app.entry.created_ms, 0u);
  EXPECT_THAT(control().create_app("web"), Fails(ErrorCode::kAlreadyExists, "App web exists already"));
  create("api");
  const auto apps = control().apps();
  ASSERT_TRUE(ok(apps));
  ASSERT_THAT(*apps, SizeIs(2));
  EXPECT_EQ(apps->at(1).name, "web");
  EXPECT_EQ(apps->at(1).id, app.id());
  EXPECT_EQ(apps->at(1).status, "pending");
  run(app, "one");
  EXPECT_EQ(control().apps().value().at(1).status, "deployed");
  EXPECT_EQ(control().apps().value().at(1).machines, 1u);
  ASSERT_TRUE(ok(control().stop(app, "one")));
  EXPECT_EQ(control().apps().value().at(1).status, "suspended");
  ASSERT_TRUE(ok(control().destroy_app(app)));
  EXPECT_THAT(control().apps().value(), SizeIs(1));
  EXPECT_THAT(control().app("web"), Fails(ErrorCode::kNotFound, "App web does not exist"));
  EXPECT_THAT(world_.machines.all(), IsEmpty());
}

TEST_P(ControlTest, AnAppsDigestKeyIsItsOwn) {
  const App web = create("web"), api = create("api");
  const auto key = control().digest_key(web);
  ASSERT_TRUE(ok(key));
  EXPECT_EQ(hex(key->reveal()), hex(digest_key(digest_credential(), web.id()).reveal()));
  EXPECT_NE(show(key), show(control().digest_key(api)));
}

// ---- secrets ----

TEST_P(ControlTest, AWriteSaysWhatItDidToEachName) {
  const App app = create("web");
  const auto first = set(app, {{"A", "1"}, {"B", "1"}});
  ASSERT_TRUE(ok(first));
  EXPECT_EQ(first->version, 2u);
  EXPECT_THAT(first->changed, ElementsAre("A", "B"));
  const auto second = set(app, {{"A", "1"}, {"C", "2"}}, {"B", "ABSENT"});
  ASSERT_TRUE(ok(second));
  EXPECT_EQ(second->version, 3u);
  EXPECT_THAT(second->changed, ElementsAre("C"));
  EXPECT_THAT(second->unchanged, ElementsAre("A"));
  EXPECT_THAT(second->removed, ElementsAre("B"));
  EXPECT_THAT(second->unknown, ElementsAre("ABSENT"));
  const auto nothing = set(app, {{"A", "1"}});
  ASSERT_TRUE(ok(nothing));
  EXPECT_EQ(nothing->version, 3u);
  const auto secrets = control().secrets(app);
  ASSERT_TRUE(ok(secrets));
  EXPECT_EQ(secrets->version, 3u);
  ASSERT_THAT(secrets->all, SizeIs(2));
  EXPECT_EQ(secrets->all[0].entry.name, "A");
  EXPECT_EQ(secrets->all[0].entry.version, 2u);
  EXPECT_EQ(secrets->all[1].entry.name, "C");
  EXPECT_EQ(secrets->all[1].status, SecretStatus::kStaged);
}

TEST_P(ControlTest, AWriteThatIsRefusedChangesNothing) {
  const App app = create("web");
  ASSERT_TRUE(ok(set(app, {{"A", "1"}})));
  const std::string before = show(control().secrets(app));
  auto torn = sealed(control(), app, {{"B", "1"}});
  torn.front().record.pop_back();
  torn.front().hash = sha256(torn.front().record);
  EXPECT_THAT(control().write(app, torn, {}), Fails(ErrorCode::kDataLoss, "record"));
  App later = app;
  later.key.epoch = 9;
  EXPECT_THAT(control().write(app, sealed(control(), later, {{"B", "1"}}), {}),
              Fails(ErrorCode::kInvalidArgument, "secret B was not sealed for the App's current key"));
  EXPECT_EQ(show(control().secrets(app)), before);
}

TEST_P(ControlTest, PlanAndHistoryTellWhatARolloutBringsAndWhatWasWritten) {
  const App app = create("web");
  ASSERT_TRUE(ok(set(app, {{"A", "1"}, {"B", "1"}})));
  const MachineSummary m = run(app, "one");
  ASSERT_TRUE(ok(set(app, {{"A", "2"}, {"C", "1"}}, {"B"})));
  const auto plan = control().plan(app);
  ASSERT_TRUE(ok(plan));
  EXPECT_EQ(plan->version, 3u);
  EXPECT_THAT(plan->secrets, ElementsAre(testing::Pair("A", PlannedChange::kChange),
                                         testing::Pair("B", PlannedChange::kRemove),
                                         testing::Pair("C", PlannedChange::kAdd)));
  ASSERT_THAT(plan->machines, SizeIs(1));
  EXPECT_EQ(plan->machines[0].id, m.id);
  EXPECT_EQ(plan->machines[0].version, 2u);
  const auto history = control().history(app);
  ASSERT_TRUE(ok(history));
  ASSERT_GE(history->size(), 2u);
  EXPECT_EQ(history->at(0).version, 3u);
  EXPECT_THAT(history->at(0).set, ElementsAre("A", "C"));
  EXPECT_THAT(history->at(0).removed, ElementsAre("B"));
  EXPECT_THAT(history->at(0).who, HasSubstr(GetParam() == Where::kHere ? "ann@laptop" : "token "));
}

// ---- roll-outs and keys ----

TEST_P(ControlTest, ARolloutBootsAnewAndOneThatFailsGoesBack) {
  const App app = create("web");
  ASSERT_TRUE(ok(set(app, {{"A", "1"}})));
  const MachineSummary m = run(app, "one");
  ASSERT_TRUE(ok(set(app, {{"A", "2"}})));
  const auto out = control().rollout(app, {"secrets set", false});
  ASSERT_TRUE(ok(out));
  EXPECT_EQ(out->release, 2u);
  EXPECT_EQ(out->version, 3u);
  ASSERT_THAT(out->machines, SizeIs(1));
  EXPECT_EQ(out->machines[0].name, "one");
  EXPECT_EQ(out->machines[0].result, "started");
  EXPECT_FALSE(out->failed);
  EXPECT_EQ(variable(m, "A"), "2");

  ASSERT_TRUE(ok(set(app, {{"A", "3"}})));
  fail_next(world_.folder.path() / "runtime", "start", 1, ErrorCode::kResourceExhausted);
  const auto back = control().rollout(app, {"secrets set", false});
  ASSERT_TRUE(ok(back));
  ASSERT_THAT(back->machines, SizeIs(1));
  EXPECT_EQ(back->machines[0].result, "kept");
  ASSERT_TRUE(back->failed);
  EXPECT_EQ(back->failed->code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(back->failed->message, HasSubstr("Machine one"));
  EXPECT_EQ(variable(m, "A"), "2");

  ASSERT_TRUE(ok(control().rollout(app, {"again", false})));
  EXPECT_EQ(variable(m, "A"), "3");
  const auto nothing = control().rollout(app, {"again", false});
  ASSERT_TRUE(ok(nothing));
  EXPECT_EQ(nothing->release, 0u);
  EXPECT_GT(control().rollout(app, {"again", true}).value().release, 0u);
}

TEST_P(ControlTest, AnAppConfigIsDeployedAndReleasesGoBack) {
  const App app = create("web");
  ASSERT_TRUE(ok(set(app, {{"A", "long enough"}})));
  MachineConfig config;
  config.process = "worker";
  config.image = config.image_name = "host";
  config.env = {{"MODE", "one"}};
  const DeployWish policy{.strategy = Strategy::kImmediate, .smoke_ms = 1};
  auto out = control().deploy(app, {.configs = {config}, .policy = policy});
  ASSERT_TRUE(ok(out));
  ASSERT_FALSE(out->failed) << out->failed->message;
  EXPECT_EQ(out->release, 1u);
  MachineSummary m = control().machine(app, "worker").value();
  EXPECT_EQ(variable(m, "MODE"), "one");
  EXPECT_EQ(m.drift, "");
  EXPECT_EQ(control().deploy(app, {.configs = {config}, .policy = policy})->release, 0u);

  config.env = {{"MODE", "two"}};
  ASSERT_TRUE(ok(control().deploy(app, {.configs = {config}, .policy = policy})));
  EXPECT_EQ(variable(m, "MODE"), "two");

  // One that fails has its reason and its log told.
  config.env = {{"CHATTY", "yes"}, {"DIES", "9"}};
  const auto bad = control().deploy(app, {.configs = {config}, .policy = {.smoke_ms = 10'000}});
  ASSERT_TRUE(ok(bad));
  ASSERT_TRUE(bad->failed);
  EXPECT_THAT(bad->failed->message, HasSubstr("ended with exit code 9"));
  EXPECT_THAT(bad->log, HasSubstr("A is [redacted]"));
  EXPECT_EQ(variable(m, "MODE"), "two");

  ASSERT_TRUE(ok(control().roll_back_release(app, 0, false)));
  EXPECT_EQ(variable(m, "MODE"), "one");
  EXPECT_THAT(control().roll_back_release(app, 99, false), Fails(ErrorCode::kNotFound, "no release 99"));
  EXPECT_THAT(control().end_rollout(app, true), Fails(ErrorCode::kNotFound, "no roll-out"));
  const auto releases = control().releases(app);
  ASSERT_TRUE(ok(releases));
  EXPECT_FALSE(releases->under_way);
  ASSERT_THAT(releases->all, SizeIs(4));
  EXPECT_EQ(releases->all[0].reason, "rollback to release 1");
  EXPECT_EQ(releases->all[1].outcome, ReleaseOutcome::kFailed);
  EXPECT_EQ(releases->all[1].why, bad->failed->message);
  EXPECT_EQ(releases->all[3].configs.at(0).image_name, "host");
}

TEST_P(ControlTest, SecretsGoBackAndOlderOnesAreForgotten) {
  const App app = create("web");
  ASSERT_TRUE(ok(set(app, {{"A", "1"}})));
  const MachineSummary m = run(app, "one");
  ASSERT_TRUE(ok(set(app, {{"A", "2"}})));
  EXPECT_EQ(control().roll_back_secrets(app, 0).value(), 4u);
  EXPECT_EQ(control().roll_back_secrets(app, 3).value(), 5u);
  EXPECT_THAT(control().roll_back_secrets(app, 77), Fails(ErrorCode::kNotFound, "does not keep version 77"));
  EXPECT_THAT(control().purge(app, "A"),
              Fails(ErrorCode::kFailedPrecondition, "runs with an older value of A"));
  EXPECT_EQ(control().machine(app, "one")->drift, "secrets v2, newest v5");
  ASSERT_TRUE(ok(control().rollout(app, {"again"})));
  EXPECT_EQ(variable(m, "A"), "2");
  const auto purged = control().purge(app, "A");
  ASSERT_TRUE(ok(purged));
  EXPECT_EQ(purged->records, 1u);
  EXPECT_EQ(control().history(app)->size(), 1u);
  EXPECT_THAT(control().purge(app, "NONE"), Fails(ErrorCode::kNotFound, "keeps no value of the secret NONE"));
}

TEST_P(ControlTest, ARotationSealsAnewAndWhatWasSealedBeforeIsRefused) {
  const App app = create("web");
  ASSERT_TRUE(ok(set(app, {{"A", "1"}, {"B", "1"}})));
  const auto old = sealed(control(), app, {{"A", "2"}});
  const MachineSummary m = run(app, "one");
  const auto rotated = control().rotate(app, false);
  ASSERT_TRUE(ok(rotated));
  EXPECT_EQ(rotated->from, 1u);
  EXPECT_EQ(rotated->epoch, 2u);
  EXPECT_EQ(rotated->secrets, 2u);
  EXPECT_EQ(rotated->oldest, 1u);
  EXPECT_FALSE(rotated->went_on);
  EXPECT_THAT(control().write(app, old, {}), Fails(ErrorCode::kAborted, "its key was rotated meanwhile"));
  const auto now = control().app("web");
  ASSERT_TRUE(ok(now));
  EXPECT_EQ(now->key.epoch, 2u);
  ASSERT_TRUE(ok(set(*now, {{"A", "2"}})));
  const auto at_once = control().rotate(*now, true);
  ASSERT_TRUE(ok(at_once));
  EXPECT_EQ(at_once->epoch, 3u);
  EXPECT_EQ(at_once->oldest, 3u);
  ASSERT_THAT(at_once->rollout.machines, SizeIs(1));
  EXPECT_EQ(at_once->rollout.machines[0].result, "started");
  EXPECT_EQ(variable(m, "A"), "2");
}

// ---- Machines ----

TEST_P(ControlTest, ValuesAreHandedToWhoWaitsOnThatHostAndToNobodyElse) {
  const App app = create("web");
  ASSERT_TRUE(ok(set(app, {{"A", "1"}, {"B", "2"}})));
  const Receiver waits{host_key().public_key(), Ticket{1}};
  ASSERT_TRUE(ok(control().hand_over(app, {"A"}, waits)));
  EXPECT_THAT(world_.handed_over, ElementsAre(testing::Pair("A", "1")));
  ASSERT_TRUE(ok(control().hand_over(app, {}, waits)));
  EXPECT_THAT(world_.handed_over, ElementsAre(testing::Pair("A", "1"), testing::Pair("B", "2")));
  world_.handed_over.clear();
  EXPECT_THAT(control().hand_over(app, {"C"}, waits), Fails(ErrorCode::kNotFound, "no secret C"));
  EXPECT_THAT(control().hand_over(app, {}, {host_key().public_key(), Ticket{2}}),
              Fails(ErrorCode::kNotFound, "nobody on this host waits"));
  if (GetParam() != Where::kHere) {
    EXPECT_THAT(control().hand_over(app, {}, {PublicKey{1}, Ticket{1}}),
                Fails(ErrorCode::kUnavailable, "this host's agent is not connected"));
  }
  EXPECT_THAT(world_.handed_over, IsEmpty());
  const auto left = control().machines(app);
  ASSERT_TRUE(ok(left));
  EXPECT_THAT(*left, IsEmpty());
}

TEST_P(ControlTest, AMachineRunsStopsStartsAndIsDestroyed) {
  const App app = create("web");
  ASSERT_TRUE(ok(set(app, {{"A", "1"}})));
  EXPECT_THAT(control().machines(app).value(), IsEmpty());
  EXPECT_THAT(control().machine(app, "one"), Fails(ErrorCode::kNotFound, "no Machine one"));
  MachineConfig wanted = config("one");
  wanted.env = {{"A", "hidden"}, {"PLAIN", "p"}};
  const auto ran = control().run(app, wanted, false);
  ASSERT_TRUE(ok(ran));
  EXPECT_THAT(ran->warnings, ElementsAre(HasSubstr("variable A is set both")));
  const MachineSummary &m = ran->machine;
  EXPECT_EQ(m.name, "one");
  EXPECT_EQ(m.state, State::kStarted);
  EXPECT_EQ(m.image, "host");
  EXPECT_EQ(m.release, 1u);
  EXPECT_EQ(m.version, 2u);
  EXPECT_EQ(variable(m, "A"), "1");
  EXPECT_EQ(variable(m, "PLAIN"), "p");
  EXPECT_THAT(control().run(app, config("one"), false),
              Fails(ErrorCode::kAlreadyExists, "a Machine one already"));

  const auto stopped = control().stop(app, "one");
  ASSERT_TRUE(ok(stopped));
  EXPECT_EQ(stopped->state, State::kStopped);
  EXPECT_EQ(stopped->id, m.id);
  ASSERT_TRUE(ok(set(app, {{"A", "2"}})));
  const auto started = control().start(app, m.id);
  ASSERT_TRUE(ok(started));
  EXPECT_EQ(started->machine.version, 3u);
  EXPECT_NE(started->machine.instance_id, m.instance_id);
  EXPECT_EQ(variable(m, "A"), "2");
  EXPECT_EQ(show(control().machine(app, "one")), show(started->machine));
  EXPECT_EQ(show(control().machines(app)), show(started->machine) + "\n");

  ASSERT_TRUE(ok(control().destroy(app, "one")));
  EXPECT_THAT(control().machines(app).value(), IsEmpty());
  EXPECT_THAT(world_.machines.all(), IsEmpty());
  for (const auto &r : {control().stop(app, m.id).error(), control().start(app, m.id).error(),
                        control().destroy(app, m.id).error(), control().machine(app, m.id).error()})
    EXPECT_EQ(r.code, ErrorCode::kNotFound) << r.message;
}

TEST_P(ControlTest, WhatARunIsAskedForStandsInTheLaunchSpec) {
  const App app = create("web");
  ASSERT_TRUE(ok(set(app, {{"KEY", "aw=="}})));
  MachineConfig c = config("");
  c.process = "worker";
  c.entrypoint = {"/bin/sh", "-c"};
  c.argv = {"echo \"\\ \xc3\xa9\n\t\x01", ""};
  c.env = {{"EMPTY", ""}, {"ODD", "line\nquote\" \\ \xe2\x82\xac \x7f"}};
  c.files = {{"/run/a", "KEY", "", 0440, FileEncoding::kBase64, false, true, 1000, 4294967294, ""},
             {"/run/b", "", std::string("\x00\xff\n", 3), 0400, FileEncoding::kRaw, false, false, 0, 0, ""},
             {"/run/c", "", "", 0444, FileEncoding::kRaw, true, false, 0, 0, ""},
             {"/run/d/a", "KEY", "", 0400, FileEncoding::kRaw, false, false, 0, 0, "signal:SIGHUP"},
             {"/run/d/b", "KEY", "", 0400, FileEncoding::kRaw, false, false, 0, 0, "none"}};
  c.secrets = std::vector<SecretVariable>{{"KEY", "KEY"}, {"KEY", "OTHER"}};
  c.checks = {{"alive", Check::Kind::kTcp, 80, "GET", "", {}, 1, 2, 3},
              {"services.1.http.1", Check::Kind::kHttp, 8080, "HEAD", "/up?a=\"b\"", {}, 0, 86'400'000, 1},
              {"own", Check::Kind::kCommand, 0, "GET", "", {"sh", "-c", ""}}};
  c.user = "1000:1000";
  c.workdir = "/srv";
  c.stop_signal = "SIGINT";
  c.stop_timeout_ms = 2500;
  c.ports = {{"127.0.0.1", 8080, 80, false}, {"", 5353, 53, true}};
  c.mounts = {{"/srv/data", "/data", true}};
  c.cap_drop = {"ALL"};
  c.network = "back";
  c.read_only = true;
  c.memory_bytes = 64 << 20;
  c.restart = RestartPolicy::kAlways;
  const auto ran = control().run(app, c, true);
  ASSERT_TRUE(ok(ran));
  EXPECT_EQ(ran->machine.name, "web-" + ran->machine.id.substr(0, 6));
  const auto stored = local_.deployer.machine(app, ran->machine.id);
  ASSERT_TRUE(ok(stored));
  MachineConfig got = stored->spec.spec.config;
  EXPECT_EQ(got.image, "host@1");
  got.image = c.image;
  c.name = got.name;
  EXPECT_EQ(hex(encode(got)), hex(encode(c)));
  std::ifstream image(world_.machines.folder() / "image");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(image), {}), "host pull");
}

TEST_P(ControlTest, ARunThatFailsLeavesNothingAndSaysWhy) {
  const App app = create("web");
  MachineConfig c = config("one");
  c.files = {{"/run/key", "ABSENT", "", 0400, FileEncoding::kRaw, false, false, 0, 0}};
  EXPECT_THAT(control().run(app, c, false), Fails(ErrorCode::kNotFound, "ABSENT"));
  fail_next(world_.folder.path() / "runtime", "image", 1, ErrorCode::kNotFound);
  EXPECT_THAT(control().run(app, config("one"), true), Fails(ErrorCode::kNotFound, ""));
  fail_next(world_.folder.path() / "runtime", "start", 1, ErrorCode::kResourceExhausted);
  EXPECT_THAT(control().run(app, config("one"), false), Fails(ErrorCode::kResourceExhausted, "told to fail"));
  EXPECT_THAT(control().machines(app).value(), IsEmpty());
  EXPECT_THAT(world_.machines.all(), IsEmpty());
}

TEST_P(ControlTest, AnAppThatEndedIsTold) {
  const App app = create("web");
  const MachineSummary m = run(app, "one"), killed = run(app, "two");
  world_.machines.end(m.instance_id, 42);
  world_.machines.end(killed.instance_id, 0, 9);
  const auto now = control().machine(app, "one");
  ASSERT_TRUE(ok(now));
  EXPECT_EQ(now->state, State::kFailed);
  EXPECT_EQ(now->exit_code, 42);
  EXPECT_EQ(now->exit_signal, 0);
  EXPECT_EQ(control().machine(app, "two").value().exit_signal, 9);
}

TEST_P(ControlTest, AWaitEndsWithTheStateOrWithTheTime) {
  const App app = create("web");
  const MachineSummary m = run(app, "one");
  EXPECT_EQ(show(control().wait(app, "one", State::kStarted, 1, -1)), show(m));
  EXPECT_THAT(control().wait(app, "absent", State::kStarted, 1, -1),
              Fails(ErrorCode::kNotFound, "no Machine absent"));
  EXPECT_THAT(control().wait(app, "absent", State::kDestroyed, 1, -1).value().state, State::kDestroyed);
  auto stopping = std::async(std::launch::async, [this, &app] {
    Local other(world_);
    return other.control.stop(app, "one").has_value();
  });
  const auto stopped = control().wait(app, m.id, State::kStopped, 30, -1);
  ASSERT_TRUE(ok(stopped));
  EXPECT_EQ(stopped->state, State::kStopped);
  EXPECT_TRUE(stopping.get());
  EXPECT_THAT(control().wait(app, "one", State::kStarted, 1, -1),
              Fails(ErrorCode::kDeadlineExceeded, "Machine one is stopped after 1 s"));
}

TEST_P(ControlTest, LogsComeUntilTheReaderHasEnough) {
  const App app = create("web");
  run(app, "one");
  std::string got;
  const auto each = [&](uint32_t stream, int64_t ns, ByteSpan piece) {
    EXPECT_EQ(stream, 1u);
    EXPECT_EQ(ns, 7);
    got += as_text(piece);
    return got.size() < 12;
  };
  ASSERT_TRUE(ok(control().logs(app, "one", {}, each)));
  EXPECT_EQ(got, "one\n");
  ASSERT_TRUE(ok(control().logs(app, "one", {.follow = true}, each)));
  EXPECT_EQ(got, "one\none\none\n");
  EXPECT_THAT(control().logs(app, "absent", {}, each), Fails(ErrorCode::kNotFound, "no Machine absent"));
}

TEST_P(ControlTest, ACommandGetsItsInputAndIsLoggedWithoutItsWords) {
  const App app = create("web");
  run(app, "one");
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  ASSERT_EQ(::write(fds[1], "input", 5), 5);
  ::close(fds[1]);
  std::string out;
  const auto exec = [&](const char *machine) {
    return control().exec(
        app, machine, {"canary", "b"},
        [&](uint32_t stream, ByteSpan piece) {
          out += std::to_string(stream) + ":" + std::string(as_text(piece));
          return true;
        },
        [&](std::span<uint8_t> to) { return ::read(fds[0], to.data(), to.size()); }, fds[0]);
  };
  EXPECT_THAT(exec("absent"), Fails(ErrorCode::kNotFound, "no Machine absent"));
  const auto code = exec("one");
  ASSERT_TRUE(ok(code));
  EXPECT_EQ(*code, 2);
  EXPECT_EQ(out, "1:canary\n1:b\n2:input");
  ASSERT_TRUE(ok(control().stop(app, "one")));
  const auto refused = exec("one");
  EXPECT_THAT(refused, Fails(ErrorCode::kFailedPrecondition, "Machine one is stopped, not started"));
  EXPECT_THAT(refused.error().remedy, HasSubstr("machine start one"));
  ::close(fds[0]);
  std::ifstream in(world_.audit.file());
  const std::string log(std::istreambuf_iterator<char>(in), {});
  EXPECT_THAT(log, HasSubstr("\"exec\""));
  EXPECT_THAT(log, Not(HasSubstr("canary")));
}

// ---- one vault, both ways ----

class BothWays : public testing::Test {
 protected:
  // The same call of both: what the first answers, if the second answers the same.
  template <class Call>
  std::string same(Call call) {
    const std::string here = show(call(static_cast<Control &>(local_.control)));
    const std::string there = show(call(static_cast<Control &>(remote_.control)));
    EXPECT_EQ(here, there);
    return here;
  }
  World world_;
  Local local_{world_};
  Remote remote_{world_};
};

TEST_F(BothWays, WhatIsToldIsTheSameToTheLastField) {
  const App app = *local_.control.create_app("web");
  ASSERT_TRUE(ok(local_.control.write(app, sealed(local_.control, app, {{"A", "1"}, {"B", "2"}}), {})));
  ASSERT_TRUE(ok(remote_.control.run(app, config("one"), false)));
  const auto two = local_.control.run(app, config("two"), false);
  ASSERT_TRUE(ok(two));
  ASSERT_TRUE(ok(remote_.control.write(app, sealed(remote_.control, app, {{"A", "3"}}), {"B"})));
  const auto three = remote_.control.run(app, config("three"), false);
  ASSERT_TRUE(ok(three));
  ASSERT_TRUE(ok(local_.control.stop(app, "one")));
  world_.machines.end(three->machine.instance_id, 3, 15);
  const auto tell_all = [&] {
    return same([&](Control &c) { return c.apps(); }) + same([&](Control &c) { return c.app("web"); }) +
           same([&](Control &c) { return c.digest_key(app); }) +
           same([&](Control &c) { return c.secrets(app); }) + same([&](Control &c) { return c.plan(app); }) +
           same([&](Control &c) { return c.history(app); }) +
           same([&](Control &c) { return c.machines(app); }) +
           same([&](Control &c) { return c.machine(app, "two"); }) +
           same([&](Control &c) { return c.wait(app, "three", State::kFailed, 1, -1); });
  };
  EXPECT_THAT(tell_all(), AllOf(HasSubstr("Removed (staged)"), HasSubstr("stopped"), HasSubstr("failed"),
                                HasSubstr("15")));
  ASSERT_TRUE(ok(remote_.control.rotate(app, false)));
  tell_all();
}

TEST_F(BothWays, ARefusalHasTheSameCodeSentenceAndRemedy) {
  const App app = *local_.control.create_app("web");
  ASSERT_TRUE(ok(local_.control.run(app, config("one"), false)));
  const auto old = sealed(local_.control, app, {{"A", "1"}});
  ASSERT_TRUE(ok(local_.control.rotate(app, false)));
  const std::string before = show(local_.control.apps());
  for (const std::string name :
       {"absent", "", ".", "..", "Web", "a/b", "a b", "a%2fb", "\xff", "-", "web\n", "coffer_abc"}) {
    SCOPED_TRACE(name);
    same([&](Control &c) { return c.app(name); });
    if (name != "absent") same([&](Control &c) { return c.create_app(name); });
    same([&](Control &c) { return c.machine(app, name); });
    same([&](Control &c) { return c.stop(app, name); });
    same([&](Control &c) { return c.start(app, name); });
    same([&](Control &c) { return c.destroy(app, name); });
    same([&](Control &c) { return c.wait(app, name, State::kStarted, 1, -1); });
    same([&](Control &c) { return c.logs(app, name, {}, [](uint32_t, int64_t, ByteSpan) { return true; }); });
    const auto refused = [](const std::string &said) { return said.starts_with("error "); };
    EXPECT_PRED1(refused, same([&](Control &c) { return c.machine(app, name); }));
    EXPECT_PRED1(refused, same([&](Control &c) { return c.app(name); }));
  }
  same([&](Control &c) { return c.create_app("web"); });
  same([&](Control &c) { return c.write(app, old, {}); });
  same([&](Control &c) { return c.run(app, config("one"), false); });
  MachineConfig lacking = config("new");
  lacking.files = {{"/f", "ABSENT", "", 0400, FileEncoding::kRaw, false, false, 0, 0}};
  same([&](Control &c) { return c.run(app, lacking, false); });
  EXPECT_EQ(show(local_.control.apps()), before);
}

TEST(RemoteControl, WhatAHostDoesIsToldWhileItDoesIt) {
  World world;
  Remote us(world);
  const App app = *us.control.create_app("web");
  ASSERT_TRUE(ok(us.control.run(app, config("one"), false)));
  EXPECT_THAT(us.steps, AllOf(Contains("opening secrets"), Contains("started")));
}

TEST(RemoteControl, WhoIsInterruptedStopsWaiting) {
  World world(std::chrono::milliseconds(100));
  const sdk::Fd cancel(::eventfd(1, EFD_CLOEXEC));
  Local here(world);
  const App app = *here.control.create_app("web");
  ASSERT_TRUE(ok(here.control.run(app, config("one"), false)));
  Remote us(world, cancel.get());
  EXPECT_THAT(us.control.wait(app, "one", State::kStopped, 60, cancel.get()),
              Fails(ErrorCode::kCancelled, ""));
  EXPECT_THAT(here.control.wait(app, "one", State::kStopped, 60, cancel.get()),
              Fails(ErrorCode::kCancelled, ""));
}

TEST(RemoteControl, AnAppsKeyThatThePinnedServiceHasNotSignedIsNotUsed) {
  World world;
  Remote us(world);
  ASSERT_TRUE(ok(us.control.create_app("web")));
  ASSERT_TRUE(ok(us.control.app("web")));
  const auto api = ApiClient::open({.url = world.url(),
                                    .ca_file = {},
                                    .token = SecretBytes::copy_of(as_bytes(world.token())),
                                    .identity = host_key().public_key()});
  ASSERT_TRUE(ok(api));
  EXPECT_THAT(HttpControl(**api).app("web"), Fails(ErrorCode::kDataLoss, "pinned key service"));
}

}  // namespace
}  // namespace coffer::api
