// What goes on while the key service, or the host, is away; and a vault that was rolled back meanwhile.
#include "test_world.h"

namespace coffer::api {
namespace {

using fakes::Fails;
using testing::AllOf;
using testing::AnyOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

namespace fs = std::filesystem;

class AwayTest : public testing::Test {
 protected:
  AwayTest() {
    us_.emplace(world_);
    app_ = *us_->control.create_app("web");
    EXPECT_TRUE(ok(set({{"A", "1"}, {"B", "1"}})));  // version 2
  }
  Result<Changes> set(const Values &values, const std::vector<std::string> &unset = {}) {
    return us_->control.write(app_, sealed(us_->control, app_, values), unset);
  }
  MachineSummary run(const std::string &name) {
    auto ran = us_->control.run(app_, config(name), false);
    EXPECT_TRUE(ok(ran));
    return ran ? std::move(ran->machine) : MachineSummary{};
  }
  static MachineConfig config(const std::string &name) {
    MachineConfig c;
    c.name = name;
    c.image = c.image_name = "host";
    return c;
  }
  std::string variable(const MachineSummary &m, const std::string &name) {
    return world_.machines.get(world_.machines.of(m.id), "env-" + name).value_or("-");
  }
  std::vector<std::string> names() {
    std::vector<std::string> out;
    const auto secrets = us_->control.secrets(app_);
    EXPECT_TRUE(ok(secrets));
    if (secrets)
      for (const SecretView &s : secrets->all) out.push_back(s.entry.name);
    return out;
  }
  uint64_t seen() const {
    const auto head = KeyClient(world_.keys_socket()).seen(app_.id());
    EXPECT_TRUE(ok(head));
    return head && *head ? (*head)->version : 0;
  }

  // ---- the vault's file ----
  void stop_api() {
    us_.reset();
    world_.stop_api();
    world_.stop_host();
  }
  void start_api(std::chrono::milliseconds patience = kPatience) {
    world_.patience = patience;
    world_.start_api();
    world_.start_host();
    us_.emplace(world_);
  }
  // REQUIRES: the API is stopped.
  void copy_vault(const std::string &from, const std::string &to) {
    const fs::path folder = world_.folder.path();
    for (const char *beside : {"", "-wal", "-shm"}) {
      fs::remove(folder / (to + beside));
      if (fs::exists(folder / (from + beside)))
        fs::copy_file(folder / (from + beside), folder / (to + beside));
    }
  }

  World world_;
  std::optional<Remote> us_;
  App app_;
};

TEST_F(AwayTest, WithoutTheKeyServiceSecretsAreSetUnsetImportedAndListed) {
  const MachineSummary m = run("one");
  EXPECT_EQ(seen(), 2u);
  world_.stop_keys();
  EXPECT_EQ(set({{"A", "2"}}).value().version, 3u);
  EXPECT_THAT(set({}, {"B"}).value().removed, ElementsAre("B"));
  EXPECT_THAT(set({{"C", "1"}, {"D", "1"}, {"E", "1"}}).value().changed, SizeIs(3));
  EXPECT_THAT(set({{"C", "1"}}).value().unchanged, ElementsAre("C"));
  EXPECT_THAT(names(), ElementsAre("A", "B", "C", "D", "E"));  // B: the Machine has it still
  EXPECT_EQ(us_->control.secrets(app_).value().all[1].status, SecretStatus::kRemoved);
  EXPECT_THAT(us_->control.history(app_).value(), SizeIs(5));
  EXPECT_EQ(us_->control.apps().value().at(0).machines, 1u);
  EXPECT_EQ(us_->control.machine(app_, "one").value().state, State::kStarted);
  EXPECT_EQ(variable(m, "A"), "1");
  // What they did is reported with the next request that reaches it.
  world_.start_keys();
  EXPECT_EQ(seen(), 2u);
  EXPECT_THAT(names(), ElementsAre("A", "B", "C", "D", "E"));
  EXPECT_EQ(seen(), 5u);
  ASSERT_TRUE(ok(us_->control.rollout(app_, {"deploy", false})));
  EXPECT_EQ(variable(m, "A"), "2");
  EXPECT_EQ(variable(m, "B"), "-");
  EXPECT_EQ(variable(m, "E"), "1");
}

TEST_F(AwayTest, WithoutTheKeyServiceNothingIsBootedMadeOrEndedAndWhatRunsGoesOn) {
  const MachineSummary m = run("one");
  world_.stop_keys();
  const auto calls = fakes::calls(world_.folder.path() / "runtime").size();
  EXPECT_THAT(us_->control.start(app_, "one"), Fails(ErrorCode::kUnavailable, "key service"));
  EXPECT_THAT(us_->control.run(app_, config("two"), false), Fails(ErrorCode::kUnavailable, "key service"));
  EXPECT_THAT(us_->control.rollout(app_, {"deploy", true}).error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(us_->control.rotate(app_, false), Fails(ErrorCode::kUnavailable, "key service"));
  EXPECT_THAT(us_->control.create_app("new"), Fails(ErrorCode::kUnavailable, "key service"));
  // Its right ends first: not while nobody can end it.
  EXPECT_THAT(us_->control.destroy(app_, "one"), Fails(ErrorCode::kUnavailable, "key service"));
  EXPECT_THAT(us_->control.destroy_app(app_), Fails(ErrorCode::kUnavailable, "key service"));
  // An App that is not there could be one that was taken out of the vault.
  EXPECT_THAT(us_->control.app("absent"), Fails(ErrorCode::kUnavailable, "key service"));
  EXPECT_EQ(world_.machines.of(m.id), m.instance_id);
  EXPECT_EQ(world_.machines.get(m.instance_id, "state"), "started");
  world_.start_keys();
  EXPECT_THAT(us_->control.apps().value(), SizeIs(1));
  ASSERT_TRUE(ok(us_->control.run(app_, config("three"), false)));
  EXPECT_THAT(us_->control.machine(app_, "two"), Fails(ErrorCode::kNotFound, "no Machine two"));
  EXPECT_GT(fakes::calls(world_.folder.path() / "runtime").size(), calls);
}

TEST_F(AwayTest, WithoutAHostSecretsAreSetAndTheirStatusIsNotKnown) {
  const MachineSummary m = run("one");
  stop_api();
  world_.patience = std::chrono::milliseconds(20);
  world_.start_api();
  us_.emplace(world_);
  ASSERT_TRUE(ok(set({{"A", "2"}})));
  const auto secrets = us_->control.secrets(app_);
  ASSERT_TRUE(ok(secrets));
  EXPECT_EQ(secrets->version, 3u);
  ASSERT_THAT(secrets->all, SizeIs(2));
  for (const SecretView &s : secrets->all) EXPECT_EQ(s.status, SecretStatus::kUnknown);
  EXPECT_THAT(us_->control.machines(app_), Fails(ErrorCode::kUnavailable, "no host's agent is connected"));
  EXPECT_THAT(us_->control.start(app_, "one"),
              Fails(ErrorCode::kUnavailable, "no host's agent is connected"));
  EXPECT_EQ(world_.machines.of(m.id), m.instance_id);
}

// ---- a vault of yesterday ----

class RolledBack : public AwayTest, public testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(WritesSince, RolledBack, testing::Values(0, 1, 2, 3),
                         testing::PrintToStringParamName());

// The key service has seen version 3.  It goes away; the vault becomes version 2 again, and is written so
// many times.
TEST_P(RolledBack, IsNoticedWhenTheKeyServiceIsBackHoweverMuchWasWrittenMeanwhile) {
  stop_api();
  copy_vault("vault.db", "old.db");
  start_api();
  ASSERT_TRUE(ok(set({{"A", "2"}})));
  ASSERT_EQ(seen(), 3u);
  world_.stop_keys();
  stop_api();
  copy_vault("vault.db", "new.db");
  copy_vault("old.db", "vault.db");
  start_api(std::chrono::milliseconds(200));  // it admits no host until it has heard of it
  for (int i = 0; i < GetParam(); ++i) ASSERT_TRUE(ok(set({{"A", "later " + std::to_string(i)}})));
  EXPECT_EQ(us_->control.secrets(app_).value().version, 2u + static_cast<unsigned>(GetParam()));

  world_.start_keys();
  world_.await_host();
  const auto noticed = [](const auto &r) {
    return !r && r.error().code == ErrorCode::kDataLoss &&
           r.error().message.find("App web") != std::string::npos;
  };
  EXPECT_PRED1(noticed, us_->control.secrets(app_));
  EXPECT_PRED1(noticed, set({{"A", "3"}}));
  EXPECT_PRED1(noticed, us_->control.plan(app_));
  EXPECT_PRED1(noticed, us_->control.run(app_, config("one"), false));
  EXPECT_PRED1(noticed, us_->control.rollout(app_, {"deploy", false}));
  EXPECT_PRED1(noticed, us_->control.rotate(app_, false));
  EXPECT_THAT(world_.machines.all(), IsEmpty());
  EXPECT_EQ(seen(), 3u);

  stop_api();
  copy_vault("new.db", "vault.db");
  start_api();
  EXPECT_EQ(set({{"A", "3"}}).value().version, 4u);
  EXPECT_EQ(seen(), 4u);
  EXPECT_EQ(variable(run("one"), "A"), "3");
}

TEST_F(AwayTest, AnAppThatWasTakenOutOfTheVaultIsMissed) {
  stop_api();
  copy_vault("vault.db", "old.db");
  start_api();
  ASSERT_TRUE(ok(us_->control.create_app("late")));
  stop_api();
  copy_vault("old.db", "vault.db");
  start_api();
  EXPECT_THAT(us_->control.app("late"), Fails(ErrorCode::kDataLoss, "missing from the vault"));
  EXPECT_THAT(us_->control.app("never"), Fails(ErrorCode::kNotFound, "App never does not exist"));
}

TEST_F(AwayTest, ATokenThatWasRevokedDoesNotComeBackWithAnOlderVault) {
  const auto made = world_.authority()->create("gone", "ann", {}, Rights());
  ASSERT_TRUE(ok(made));
  stop_api();
  copy_vault("vault.db", "old.db");
  start_api();
  const auto with = world_.client(made->token.text());
  ASSERT_TRUE(ok(HttpControl(*with).apps()));
  ASSERT_TRUE(ok(HttpTokens(*us_->api).revoke("gone")));
  EXPECT_THAT(HttpControl(*with).apps(), Fails(ErrorCode::kUnauthenticated, ""));
  stop_api();
  copy_vault("old.db", "vault.db");
  start_api();
  EXPECT_THAT(HttpControl(*world_.client(made->token.text())).apps(), Fails(ErrorCode::kUnauthenticated, ""));
}

}  // namespace
}  // namespace coffer::api
