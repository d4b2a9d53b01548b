// What the two audit logs have of the commands, and what shows in them.
#include <fstream>

#include "test_world.h"

namespace coffer {
namespace {

namespace fs = std::filesystem;
using fakes::Fails;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class AuditTest : public testing::Test {
 protected:
  // "set web A B: ok"; without the checkpoints.
  std::vector<std::string> logged(const std::string &service) const {
    std::vector<std::string> out;
    EXPECT_TRUE(
        ok(read_audit({{service, world_.log(service)}}, [&](const AuditFile &, std::string_view l, bool) {
          const auto e = decode_audit_line(l);
          ASSERT_TRUE(ok(e));
          if (e->entry.action == "checkpoint") return;
          EXPECT_TRUE(service == "keys" || e->entry.who == "ann@laptop");
          std::string text = e->entry.action + " " + e->entry.app;
          for (const std::string &n : e->entry.names) text += " " + n;
          out.push_back(text + ": " + e->entry.outcome);
        })));
    return out;
  }
  AuditReport verified() const {
    const auto report = verify_audit(world_.logs());
    EXPECT_TRUE(ok(report));
    return report.value_or(AuditReport{});
  }
  Result<Deployer::Ran> run(const App &app, const std::string &name) {
    MachineConfig config;
    config.name = name;
    config.image = "host";
    return us_.deployer.run(app, std::move(config));
  }
  void block(const std::string &service) {
    fs::rename(world_.log(service), world_.folder.path() / "kept");
    fs::create_directory(world_.log(service));
  }
  void unblock(const std::string &service) {
    fs::remove(world_.log(service));
    fs::rename(world_.folder.path() / "kept", world_.log(service));
  }
  std::vector<std::string> lines(const std::string &service) const {
    std::ifstream in(world_.log(service));
    std::vector<std::string> out;
    for (std::string l; std::getline(in, l);) out.push_back(l);
    return out;
  }
  void write(const std::string &service, const std::vector<std::string> &all) const {
    std::ofstream out(world_.log(service), std::ios::trunc);
    for (const std::string &l : all) out << l << '\n';
  }

  World world_;
  Process us_{world_};
};

TEST_F(AuditTest, EachChangeIsInTheLogWithWhoAndOutcomeAndRefusalsToo) {
  const auto app = us_.deployer.create_app("web");
  ASSERT_TRUE(ok(app));
  EXPECT_FALSE(us_.deployer.create_app("web"));
  ASSERT_TRUE(ok(us_.set(*app, {{"A", "canary one"}, {"B", "canary two"}})));
  ASSERT_TRUE(ok(us_.deployer.rollout(*app, {"secrets set", false})));  // nothing to roll out
  ASSERT_TRUE(ok(run(*app, "one")));
  EXPECT_FALSE(run(*app, "one"));
  ASSERT_TRUE(ok(us_.set(*app, {}, {"B"})));
  ASSERT_TRUE(ok(us_.deployer.rollout(*app, {"secrets unset", false})));
  const auto m = us_.deployer.machine(*app, "one");
  ASSERT_TRUE(ok(m));
  ASSERT_TRUE(ok(us_.deployer.log_exec(*app, *m)));
  ASSERT_TRUE(ok(us_.deployer.start(*app, *m)));
  ASSERT_TRUE(ok(us_.deployer.stop(*app, *m)));
  ASSERT_TRUE(ok(us_.deployer.start(*app, *us_.deployer.machine(*app, "one"))));
  us_.receiver = [](const Ticket &) -> Result<TakeValues> {
    return [](const std::vector<Delivery> &) { return Result<void>{}; };
  };
  ASSERT_TRUE(ok(us_.deployer.hand_over(*app, {"A"}, {})));
  ASSERT_TRUE(ok(us_.deployer.destroy(*app, *m)));
  ASSERT_TRUE(ok(us_.deployer.destroy_app(*app)));
  EXPECT_THAT(logged("api"),
              ElementsAre("create app web: ok", "create app web: already_exists", "set web A B: ok",
                          "run machine web: ok", "run machine web: already_exists", "unset web B: ok",
                          "deploy web: ok", "exec web: ok", "restart machine web: ok", "stop machine web: ok",
                          "start machine web: ok", "run web A: ok", "destroy machine web: ok",
                          "destroy app web: ok"));
  EXPECT_THAT(logged("keys"), Contains("grant web: ok"));
  EXPECT_THAT(logged("keys"), Contains("open web: ok"));
  EXPECT_THAT(logged("keys"), Contains("revoke web: ok"));
  EXPECT_THAT(logged("keys").back(), "destroy key web: ok");
  for (const char *service : {"api", "keys"}) EXPECT_THAT(lines(service), Not(Contains(HasSubstr("canary"))));
  EXPECT_THAT(verified().findings, IsEmpty());
}

TEST_F(AuditTest, NothingIsChangedWhenTheApisLogCannotBeWritten) {
  const auto app = us_.deployer.create_app("web");
  ASSERT_TRUE(ok(app));
  ASSERT_TRUE(ok(us_.set(*app, {{"A", "1"}})));
  ASSERT_TRUE(ok(run(*app, "one")));
  const auto before = us_.deployer.machine(*app, "one");
  block("api");
  EXPECT_THAT(us_.set(*app, {{"A", "2"}}), Fails(ErrorCode::kUnavailable, "api.log"));
  EXPECT_THAT(us_.deployer.rollout(*app, {"secrets deploy", true}),
              Fails(ErrorCode::kUnavailable, "api.log"));
  EXPECT_THAT(run(*app, "two"), Fails(ErrorCode::kUnavailable, "api.log"));
  EXPECT_THAT(us_.deployer.stop(*app, *before), Fails(ErrorCode::kUnavailable, "api.log"));
  EXPECT_THAT(us_.deployer.destroy(*app, *before), Fails(ErrorCode::kUnavailable, "api.log"));
  EXPECT_THAT(us_.deployer.log_exec(*app, *before), Fails(ErrorCode::kUnavailable, "api.log"));
  EXPECT_THAT(us_.deployer.create_app("other"), Fails(ErrorCode::kUnavailable, "api.log"));
  EXPECT_THAT(us_.deployer.destroy_app(*app), Fails(ErrorCode::kUnavailable, "api.log"));
  bool handed_over = false;
  us_.receiver = [&](const Ticket &) -> Result<TakeValues> {
    handed_over = true;
    return fail(ErrorCode::kNotFound, "nobody waits");
  };
  EXPECT_THAT(us_.deployer.hand_over(*app, {}, {}), Fails(ErrorCode::kUnavailable, "api.log"));
  EXPECT_FALSE(handed_over);
  unblock("api");
  const auto after = us_.deployer.machine(*app, "one");
  ASSERT_TRUE(ok(after));
  EXPECT_TRUE(after->started());
  EXPECT_EQ(after->release(), before->release());
  EXPECT_EQ(us_.deployer.newest(*app)->version(), 2u);
  EXPECT_EQ(us_.deployer.machines(*app)->size(), 1u);
  EXPECT_FALSE(us_.vault.app("other"));
  EXPECT_THAT(verified().findings, IsEmpty());
}

TEST_F(AuditTest, AMachineIsNotBootedWhenTheKeyServicesLogCannotBeWrittenAndSecretsCanStillBeSet) {
  const auto app = us_.deployer.create_app("web");
  ASSERT_TRUE(ok(app));
  block("keys");
  ASSERT_TRUE(ok(us_.set(*app, {{"A", "1"}})));
  EXPECT_THAT(run(*app, "one"), Fails(ErrorCode::kUnavailable, "keys.log"));
  EXPECT_THAT(world_.machines.all(), IsEmpty());
  unblock("keys");
  EXPECT_TRUE(ok(run(*app, "one")));
}

TEST_F(AuditTest, ACommandsOpensAndItselfAreCoveredWhenItReturns) {
  const auto app = us_.deployer.create_app("web");
  ASSERT_TRUE(ok(app));
  ASSERT_TRUE(ok(us_.set(*app, {{"A", "1"}})));
  ASSERT_TRUE(ok(run(*app, "one")));
  const std::vector<std::string> api = lines("api"), keys = lines("keys");
  const auto report = verified();
  EXPECT_THAT(report.findings, IsEmpty());
  EXPECT_EQ(report.logs[0].covered, api.size() - 1);  // the last one is the checkpoint of the other log
  EXPECT_EQ(report.logs[1].covered, keys.size());
  for (const auto &[service, all] : {std::pair("api", api), std::pair("keys", keys)}) {
    write(service, {all.begin(), all.end() - 2});
    EXPECT_THAT(verified().findings, Not(IsEmpty())) << service;
    write(service, all);
  }
  EXPECT_THAT(verified().findings, IsEmpty());
}

// The price of a set: the key service's log is written once in sixteen.
TEST_F(AuditTest, OfPlainSetsAtMostFifteenAreNotCovered) {
  const auto app = us_.deployer.create_app("web");
  ASSERT_TRUE(ok(app));
  const size_t before = lines("keys").size();
  for (int i = 0; i < 70; ++i) {
    ASSERT_TRUE(ok(us_.set(*app, {{"A", std::to_string(i)}})));
    const auto report = verified();
    EXPECT_LE(report.logs[0].entries - report.logs[0].covered, 15u + 1);  // one is the checkpoint itself
  }
  EXPECT_LE(lines("keys").size() - before, 70u / 15);
  EXPECT_GE(lines("keys").size() - before, 70u / 16);
}

}  // namespace
}  // namespace coffer
