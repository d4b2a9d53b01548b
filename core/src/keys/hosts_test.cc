// Which hosts may be granted Machines.
#include <map>

#include "coffer/keys/key_service.h"
#include "fakes.h"

namespace coffer {
namespace {

using fakes::fail_next;
using fakes::Fails;
using fakes::ok;

class HostsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(folder_.path() / "keys");
    const auto kms = open_kms();
    ASSERT_TRUE(ok(kms));
    ASSERT_TRUE(ok(KeyService::initialize(open_store(), *kms)));
    const auto app = keys_.create_app("web");
    ASSERT_TRUE(ok(app));
    app_ = app->app_id;
  }
  Storage open_store() const {
    return *Storage::open(fakes::plugin(
        "storage-memory", {{"name", "hosts" + folder_.path().string()}, {"folder", folder_.file("keys")}}));
  }
  Result<Kms> open_kms() const {
    return Kms::open(fakes::plugin("kms-local", {{"path", folder_.file("kms")}}));
  }

  std::array<uint8_t, 16> invited(const std::string &name) {
    const auto token = keys_.invite(name);
    EXPECT_TRUE(ok(token));
    const auto bytes = token ? unhex(*token) : std::nullopt;
    EXPECT_TRUE(bytes && bytes->size() == 16);
    return bytes && bytes->size() == 16 ? to_array<16>(*bytes) : std::array<uint8_t, 16>{};
  }
  Result<void> enrol(const SigningKey &host, const std::array<uint8_t, 16> &token, const std::string &name) {
    return keys_.enrol(sign(host, kEnrolmentLabel, encode(Enrolment{token, name, host.public_key()})));
  }
  Bytes spec(const std::string &machine) const {
    LaunchSpec s;
    s.app_id = app_;
    s.machine = machine;
    s.number = s.version = 1;
    s.config.name = machine;
    s.config.image = "host";
    return sign(writer_, kLaunchSpecLabel, encode(s));
  }
  Result<void> grant(const std::string &machine, const SigningKey &host) {
    return keys_.grant(app_, machine, host.public_key(), spec(machine));
  }
  Result<Bytes> token(const std::string &machine, const SigningKey &host) {
    TokenRequest r;
    r.app_id = app_;
    r.machine = machine;
    r.instance_id = "i";
    r.spec = sha256(spec(machine));
    return keys_.token(sign(host, kTokenRequestLabel, encode(r)));
  }

  const fakes::Folder folder_;
  uint64_t now_ = now_ms();
  const SigningKey writer_ = SigningKey::generate(), one_ = SigningKey::generate(),
                   two_ = SigningKey::generate();
  KeyService keys_ = *KeyService::open(
      open_store(), [this] { return open_kms(); }, {writer_.public_key()}, [this] { return now_; });
  AppId app_{};
};

TEST_F(HostsTest, AnInvitedHostEnrolsAndIsGrantedMachines) {
  EXPECT_THAT(grant("m1", one_), Fails(ErrorCode::kPermissionDenied, "not enrolled"));
  const auto invitation = invited("alpha");
  ASSERT_TRUE(ok(enrol(one_, invitation, "alpha")));
  EXPECT_TRUE(ok(grant("m1", one_)));
  EXPECT_TRUE(ok(token("m1", one_)));
  EXPECT_TRUE(ok(enrol(one_, invitation, "alpha"))) << "its first answer may have been lost";
  const auto all = keys_.hosts();
  ASSERT_TRUE(ok(all));
  ASSERT_EQ(all->size(), 1u);
  EXPECT_EQ(all->front().name, "alpha");
  EXPECT_EQ(all->front().key, one_.public_key());
  EXPECT_EQ(all->front().enrolled_ms, now_);
}

TEST_F(HostsTest, AnInvitationIsForOneHostOneNameAndOneHour) {
  const auto refused = Fails(ErrorCode::kPermissionDenied, "not known, was used, or has expired");
  const auto token = invited("alpha");
  EXPECT_THAT(enrol(one_, token, "beta"), Fails(ErrorCode::kPermissionDenied, "another host's name"));
  auto guessed = token;
  guessed[0] ^= 1;
  EXPECT_THAT(enrol(one_, guessed, "alpha"), refused);
  ASSERT_TRUE(ok(enrol(one_, token, "alpha")));
  EXPECT_THAT(enrol(two_, token, "alpha"), refused);
  EXPECT_THAT(keys_.invite("alpha"), Fails(ErrorCode::kAlreadyExists, "alpha"));

  const auto late = invited("beta");
  now_ += kInvitationLifetimeMs - 1;
  EXPECT_TRUE(ok(enrol(two_, late, "beta")));
  const auto too_late = invited("gamma");
  now_ += kInvitationLifetimeMs;
  EXPECT_THAT(enrol(SigningKey::generate(), too_late, "gamma"), refused);
}

TEST_F(HostsTest, OfTwoHostsWithOneInvitationOneIsEnrolled) {
  const auto token = invited("alpha");
  // The other one gets in between.
  fail_next(folder_.path() / "keys", "commit", 1, ErrorCode::kAborted);
  EXPECT_THAT(enrol(two_, token, "alpha"), Fails(ErrorCode::kPermissionDenied, "was used"));
  EXPECT_TRUE(ok(enrol(one_, token, "alpha")));
}

TEST_F(HostsTest, ANameThatIsNoneIsNotInvited) {
  for (const char *bad : {"", "Alpha", "a b", "../a", "-a", "a_b"})
    EXPECT_THAT(keys_.invite(bad), Fails(ErrorCode::kInvalidArgument, "a host's name"));
  EXPECT_THAT(keys_.invite(std::string(64, 'a')), Fails(ErrorCode::kInvalidArgument, "a host's name"));
}

TEST_F(HostsTest, WhoDoesNotHaveTheKeyCannotEnrolIt) {
  const auto token = invited("alpha");
  const Bytes forged = sign(two_, kEnrolmentLabel, encode(Enrolment{token, "alpha", one_.public_key()}));
  EXPECT_THAT(keys_.enrol(forged), Fails(ErrorCode::kPermissionDenied, "not signed by the host"));
  const Bytes whole = sign(one_, kEnrolmentLabel, encode(Enrolment{token, "alpha", one_.public_key()}));
  for (size_t i = 0; i < whole.size(); ++i) {
    Bytes flipped = whole;
    flipped[i] ^= 1;
    EXPECT_FALSE(keys_.enrol(flipped)) << "byte " << i;
  }
  EXPECT_THAT(keys_.enrol({}), Fails(ErrorCode::kDataLoss, "enrolment"));
}

TEST_F(HostsTest, ARevokedHostHasNoGrantAndGetsNone) {
  ASSERT_TRUE(ok(enrol(one_, invited("alpha"), "alpha")));
  ASSERT_TRUE(ok(enrol(two_, invited("beta"), "beta")));
  ASSERT_TRUE(ok(grant("m1", one_)));
  ASSERT_TRUE(ok(grant("m2", two_)));
  ASSERT_TRUE(ok(keys_.revoke_host("alpha")));
  EXPECT_THAT(token("m1", one_), Fails(ErrorCode::kPermissionDenied, "revoked"));
  EXPECT_THAT(grant("m3", one_), Fails(ErrorCode::kPermissionDenied, "host alpha was revoked"));
  EXPECT_TRUE(ok(token("m2", two_)));
  EXPECT_TRUE(keys_.hosts()->front().revoked);
  EXPECT_THAT(keys_.revoke_host("gamma"), Fails(ErrorCode::kNotFound, "no such host"));

  // Its name may come again, its key may not.
  const auto again = invited("alpha");
  EXPECT_THAT(enrol(one_, again, "alpha"), Fails(ErrorCode::kPermissionDenied, "revoked"));
  const SigningKey other = SigningKey::generate();
  EXPECT_TRUE(ok(enrol(other, again, "alpha")));
  ASSERT_TRUE(ok(keys_.revoke_host(hex(two_.public_key())))) << "by its key";
  EXPECT_THAT(token("m2", two_), Fails(ErrorCode::kPermissionDenied, "revoked"));
  EXPECT_TRUE(ok(grant("m4", other)));
}

TEST_F(HostsTest, ARevocationThatWasCutOffIsFinishedByTheNextOne) {
  ASSERT_TRUE(ok(enrol(one_, invited("alpha"), "alpha")));
  ASSERT_TRUE(ok(grant("m1", one_)));
  ASSERT_TRUE(ok(grant("m2", one_)));
  for (int nth = 2; nth <= 3; ++nth) {
    fail_next(folder_.path() / "keys", "commit", nth);
    EXPECT_FALSE(keys_.revoke_host("alpha"));
    EXPECT_THAT(token("m2", one_), Fails(ErrorCode::kPermissionDenied, "revoked"))
        << "also before it is done";
    fakes::stop_failing(folder_.path() / "keys", "commit");
  }
  EXPECT_TRUE(ok(keys_.revoke_host("alpha")));
}

}  // namespace
}  // namespace coffer
