// A host's way to the key service through the API: what hosts may ask passes, and nothing else.
#include "client/key_relay.h"

#include "test_world.h"

namespace coffer::api {
namespace {

using fakes::Fails;
using testing::SizeIs;

class RelayTest : public testing::Test {
 protected:
  void SetUp() override {
    world_.stop_api();
    world_.stop_host();
    world_.relay_keys = true;
    world_.start_api();
  }
  // Behind each: a connection of its own.
  struct Via {
    Via(World &w, uint8_t seed, std::vector<std::string> urls = {})
        : relay(urls.empty() ? std::vector{w.url()} : std::move(urls), "",
                SecretBytes::copy_of(filled<32>(seed)), -1),
          keys("the API's", [this] { return relay.dial(); }) {}
    KeyRelay relay;
    KeyClient keys;
  };
  World world_;
  KeyClient admin_{world_.keys_socket()};
};

TEST_F(RelayTest, AMachineBootsWithWhatCameThisWay) {
  Local us(world_);
  Via via(world_, 2);
  const auto agent = world_.agent(via.keys);
  Deployer deployer(us.vault, us.keys, *agent, "ann@laptop");
  LocalControl control(us.vault, us.keys, *agent, deployer, [] { return digest_credential(); });
  const App app = *control.create_app("web");
  ASSERT_TRUE(ok(control.write(app, sealed(control, app, {{"A", "1"}}), {})));
  MachineConfig config;
  config.name = "one";
  config.image = config.image_name = "host";
  const auto ran = control.run(app, config, false);
  ASSERT_TRUE(ok(ran));
  EXPECT_EQ(world_.machines.get(ran->machine.instance_id, "env-A"), "1");
}

TEST_F(RelayTest, WhatTheApiItselfMayAskDoesNotPass) {
  const auto app = admin_.create_app("web");
  ASSERT_TRUE(ok(app));
  Via via(world_, 2);
  const auto denied = [](const auto &r) { return !r && r.error().code == ErrorCode::kPermissionDenied; };
  EXPECT_PRED1(denied, via.keys.create_app("new"));
  EXPECT_PRED1(denied, via.keys.destroy_app("web"));
  EXPECT_PRED1(denied, via.keys.seen(app->app_id));
  EXPECT_PRED1(denied, via.keys.advance(app->app_id, {}));
  EXPECT_PRED1(denied, via.keys.grant(app->app_id, "m", host_key().public_key(), Bytes{1}));
  EXPECT_PRED1(denied, via.keys.revoke(app->app_id, "m"));
  EXPECT_PRED1(denied, via.keys.exchange({}));
  EXPECT_PRED1(denied, via.keys.rotate(app->app_id, 1));
  EXPECT_PRED1(denied, via.keys.reseal(Bytes{1}));
  EXPECT_PRED1(denied, via.keys.retire(app->app_id, 2));
  EXPECT_PRED1(denied, via.keys.list());
  EXPECT_PRED1(denied, via.keys.unlock());
  EXPECT_PRED1(denied, via.keys.invite("eve"));
  EXPECT_PRED1(denied, via.keys.hosts());
  EXPECT_PRED1(denied, via.keys.revoke_host("alpha"));
  EXPECT_PRED1(denied, via.keys.rewrap());
  const auto keys = admin_.list();
  ASSERT_TRUE(ok(keys));
  EXPECT_THAT(*keys, SizeIs(1));
  EXPECT_FALSE(keys->front().destroyed);
  EXPECT_EQ(keys->front().epoch, 1u);
  EXPECT_FALSE(admin_.hosts().value().at(0).revoked);
}

TEST_F(RelayTest, AHostThatIsNotKnownMayEnrolWhichTakesFewWords) {
  const SigningKey host = *SigningKey::from_seed(filled<32>(9));
  const auto token = admin_.invite("beta");
  ASSERT_TRUE(ok(token));
  Via via(world_, 9);
  EXPECT_THAT(via.keys.enrol(Bytes(2000)), Fails(ErrorCode::kUnavailable, ""));
  ASSERT_TRUE(ok(via.keys.enrol(sign(
      host, kEnrolmentLabel, encode(Enrolment{to_array<16>(*unhex(*token)), "beta", host.public_key()})))));
  EXPECT_THAT(admin_.hosts().value(), SizeIs(2));
  // Known now, from its next connection on.
  Via known(world_, 9);
  const auto refused = known.keys.open(Bytes(2000));
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().code, ErrorCode::kUnavailable) << refused.error().message;
}

TEST_F(RelayTest, TheFirstApiThatAnswersIsAsked) {
  Via via(world_, 2, {"unix://" + world_.folder.file("nobody.sock"), world_.url()});
  const auto answered = via.keys.token(Bytes{1});
  ASSERT_FALSE(answered);
  EXPECT_NE(answered.error().code, ErrorCode::kUnavailable) << answered.error().message;
  Via nobody(world_, 2, {"unix://" + world_.folder.file("nobody.sock")});
  EXPECT_THAT(nobody.keys.token(Bytes{1}), Fails(ErrorCode::kUnavailable, "nobody.sock"));
}

TEST_F(RelayTest, AnApiThatDoesNotRelaySaysSo) {
  world_.stop_api();
  world_.relay_keys = false;
  world_.start_api();
  Via via(world_, 2);
  const auto refused = via.keys.token(Bytes{1});
  EXPECT_THAT(refused, Fails(ErrorCode::kUnavailable, "does not pass requests on"));
  EXPECT_THAT(refused.error().remedy, testing::HasSubstr("relay_keys"));
}

}  // namespace
}  // namespace coffer::api
