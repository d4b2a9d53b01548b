// The authority over real storages: which tokens are valid, and what a storage that lies can do about it.
#include "coffer/tokens/authority.h"

#include <sys/stat.h>

#include <stdexcept>

#include "coffer/crypto/primitives.h"
#include "fakes.h"

namespace coffer {
namespace {

using fakes::Fails;
using fakes::ok;
using Caveats = std::vector<std::string>;

constexpr uint64_t kNow = 1'800'000'000'000;  // 2027-01-15

class Authority : public testing::TestWithParam<const char *> {
 protected:
  Storage store() const {
    auto opened = Storage::open(fakes::plugin(GetParam(), {{"path", folder_.file("vault")}}));
    if (!opened) throw std::runtime_error(opened.error().message);
    return *std::move(opened);
  }
  // As another process: nothing but store, root and file is left.
  TokenAuthority authority() const {
    auto opened = TokenAuthority::open(store(), root_, revoked(), [this] { return now_; });
    if (!opened) throw std::runtime_error(opened.error().message);
    return *std::move(opened);
  }
  NewToken make(const std::string &name, Caveats caveats = {}) const {
    auto made = authority().create(name, "ann@here", std::move(caveats), Rights());
    if (!made) throw std::runtime_error(made.error().message);
    return *std::move(made);
  }
  std::string revoked() const { return folder_.file("token.revoked"); }
  Bytes record(const TokenId &id) const { return store().get("tokens", hex(id)).value().value().value; }
  void write(const std::string &key, Bytes value) const {
    Batch b;
    b.put(key, std::move(value));
    ASSERT_TRUE(ok(store().commit("tokens", b)));
  }
  static std::vector<std::string> names(const Tokens &tokens) {
    std::vector<std::string> out;
    for (const TokenRecord &r : tokens.records) out.push_back(r.name);
    return out;
  }

  fakes::Folder folder_;
  SecretBytes root_ = random_secret(32);
  uint64_t now_ = kNow;
};
INSTANTIATE_TEST_SUITE_P(, Authority, testing::Values("storage-sqlite", "storage-file"));

TEST_P(Authority, KnowsItsTokensInAnotherProcess) {
  const NewToken made = make("ci", {"app = web", "allow = list,set"});
  const auto caller = authority().verify(made.token.text());
  ASSERT_TRUE(ok(caller));
  EXPECT_EQ(caller->id, made.record.id);
  EXPECT_EQ(caller->name, "ci");
  EXPECT_TRUE(caller->rights.allows(Right::kSet, "web"));
  EXPECT_FALSE(caller->rights.allows(Right::kSet, "other"));
  EXPECT_FALSE(caller->rights.allows(Right::kExec, "web"));
}

TEST_P(Authority, GivesANarrowedTokenExactlyTheNarrowedRights) {
  Macaroon token = make("ci", {"app = web,api", "allow = list,set"}).token;
  ASSERT_TRUE(token.narrow("allow = list,exec"));
  ASSERT_TRUE(token.narrow("app = web,other"));
  const auto caller = authority().verify(token.text());
  ASSERT_TRUE(ok(caller));
  for (const char *app : {"web", "api", "other", ""})
    for (size_t i = 0; i < kRightWords.size(); ++i)
      EXPECT_EQ(caller->rights.allows(static_cast<Right>(i), app),
                std::string_view(app) == "web" && static_cast<Right>(i) == Right::kList)
          << app << ", " << kRightWords[i];
}

TEST_P(Authority, RefusesEachWrongTokenInItsOwnWords) {
  const NewToken made = make("ci", {"expires = 2027-02-01T00:00:00Z"});
  const std::string text = made.token.text();
  const TokenAuthority a = authority();
  ASSERT_TRUE(ok(a.verify(text)));
  const auto refuses = [&](std::string_view token, ErrorCode code, const char *why) {
    const auto caller = a.verify(token);
    EXPECT_THAT(caller, Fails(code, why));
    if (!caller && token.size() > 8) {
      EXPECT_EQ(caller.error().message.find(token.substr(0, 12)), std::string::npos);
    }
  };
  refuses("", ErrorCode::kUnauthenticated, "is empty");
  refuses("hunter2!", ErrorCode::kUnauthenticated, "is not base64");
  refuses(std::string(8193, 'A'), ErrorCode::kUnauthenticated, "has more than 8,192 bytes");
  std::string flipped = text;
  flipped[flipped.size() - 5] = flipped[flipped.size() - 5] == 'A' ? 'B' : 'A';
  refuses(flipped, ErrorCode::kUnauthenticated, "was changed, or was not made here");
  refuses(Macaroon::make(random_secret(32).reveal(), made.token.identifier()).text(),
          ErrorCode::kUnauthenticated, "was changed, or was not made here");
  // The root itself is not the key of the macaroons: one key, one use.
  refuses(Macaroon::make(root_.reveal(), made.token.identifier()).text(), ErrorCode::kUnauthenticated,
          "was changed, or was not made here");
  Macaroon unknown = made.token;
  ASSERT_TRUE(unknown.narrow("host = here"));
  refuses(unknown.text(), ErrorCode::kPermissionDenied, "caveat 2 of the token is not understood");
  now_ = *parse_utc("2027-02-01T00:00:00Z");
  refuses(text, ErrorCode::kUnauthenticated, "has expired");
  --now_;
  ASSERT_TRUE(ok(a.verify(text)));
  ASSERT_TRUE(ok(authority().revoke("ci")));
  refuses(text, ErrorCode::kUnauthenticated, "was revoked");
}

TEST_P(Authority, RevokesByNameOrIdAndEndsWhatWasNarrowedToo) {
  const NewToken one = make("one"), two = make("two"), kept = make("kept");
  Macaroon narrowed = one.token;
  ASSERT_TRUE(narrowed.narrow("app = web"));
  TokenAuthority a = authority();
  ASSERT_TRUE(ok(a.revoke("one")));
  ASSERT_TRUE(ok(a.revoke(hex(two.record.id))));
  for (const std::string &t : {one.token.text(), narrowed.text(), two.token.text()})
    EXPECT_THAT(authority().verify(t), Fails(ErrorCode::kUnauthenticated, "was revoked"));
  EXPECT_TRUE(ok(authority().verify(kept.token.text())));
  EXPECT_THAT(names(authority().list().value()), testing::ElementsAre("kept"));
  EXPECT_THAT(a.revoke("one"), Fails(ErrorCode::kNotFound, "no token named one"));
  EXPECT_THAT(a.revoke(hex(two.record.id)), Fails(ErrorCode::kNotFound, hex(two.record.id)));
  EXPECT_THAT(a.revoke("Hunter2"), Fails(ErrorCode::kInvalidArgument, "a token's name has"));
  make("one");  // the name is free again
}

TEST_P(Authority, DoesNotBelieveAStorageThatBringsARevokedTokenBack) {
  const NewToken made = make("ci");
  const Bytes kept = record(made.record.id);
  ASSERT_TRUE(ok(authority().revoke("ci")));
  write(hex(made.record.id), kept);
  EXPECT_THAT(authority().verify(made.token.text()), Fails(ErrorCode::kUnauthenticated, "was revoked"));
  EXPECT_TRUE(authority().list().value().records.empty());
  // That is what the file beside the root is for.
  fakes::fs::remove(revoked());
  EXPECT_TRUE(ok(authority().verify(made.token.text())));
}

TEST_P(Authority, RefusesTheIdOfATokenWhoseRecordIsHiddenWhenItComesBack) {
  const NewToken made = make("ci");
  const Bytes kept = record(made.record.id);
  Batch hide;
  hide.erase(hex(made.record.id));
  ASSERT_TRUE(ok(store().commit("tokens", hide)));
  EXPECT_THAT(authority().revoke(hex(made.record.id)), Fails(ErrorCode::kNotFound, "there is no token"));
  write(hex(made.record.id), kept);
  EXPECT_THAT(authority().verify(made.token.text()), Fails(ErrorCode::kUnauthenticated, "was revoked"));
}

TEST_P(Authority, DoesNotBelieveARecordThatTheStorageMadeOrChanged) {
  const NewToken made = make("ci"), other = make("other");
  const Bytes good = record(made.record.id);
  const auto damaged = [&](const Bytes &value) {
    write(hex(made.record.id), value);
    EXPECT_THAT(authority().verify(made.token.text()), Fails(ErrorCode::kDataLoss, hex(made.record.id)));
    const Tokens all = authority().list().value();
    EXPECT_THAT(names(all), testing::ElementsAre("other"));
    EXPECT_EQ(all.damaged.size(), 1u);
  };
  for (size_t i = 0; i < good.size(); i += 7) {
    Bytes changed = good;
    changed[i] ^= 1;
    damaged(changed);
  }
  damaged({});
  damaged(Bytes(good.begin(), good.end() - 1));
  damaged(record(other.record.id));
  // It can still be removed.
  ASSERT_TRUE(ok(authority().revoke(hex(made.record.id))));
  EXPECT_TRUE(authority().list().value().damaged.empty());
  write("hunter2", good);
  EXPECT_THAT(authority().list().value().damaged.at(0).message, testing::Not(testing::HasSubstr("hunter2")));
}

TEST_P(Authority, MakesNoTokenWithMoreThanItsMakerHas) {
  TokenAuthority a = authority();
  const Rights maker =
      Rights::of(Caveats{"app = web,api", "allow = token,list", "expires = 2027-06-01T00:00:00Z"}).value();
  for (const Caveats &more :
       std::vector<Caveats>{{},
                            {"app = web", "allow = list"},
                            {"app = web", "expires = 2027-06-01T00:00:00Z"},
                            {"allow = list", "expires = 2027-06-01T00:00:00Z"},
                            {"app = web,other", "allow = list", "expires = 2027-06-01T00:00:00Z"},
                            {"app = web", "allow = list,set", "expires = 2027-06-01T00:00:00Z"},
                            {"app = web", "allow = list", "expires = 2027-06-01T00:00:01Z"}})
    EXPECT_THAT(a.create("x", "ann", more, maker), Fails(ErrorCode::kPermissionDenied, "cannot give more"));
  EXPECT_TRUE(a.list().value().records.empty());
  EXPECT_TRUE(
      ok(a.create("x", "ann", {"app = web", "allow = list", "expires = 2027-06-01T00:00:00Z"}, maker)));
}

TEST_P(Authority, MakesNothingOfWrongInput) {
  TokenAuthority a = authority();
  make("taken");
  EXPECT_THAT(a.create("taken", "ann", {}, Rights()), Fails(ErrorCode::kAlreadyExists, "taken"));
  for (const std::string &name :
       {std::string("Hunter2"), std::string("-x"), std::string(64, 'a'), std::string(32, 'a')})
    EXPECT_THAT(a.create(name, "ann", {}, Rights()),
                Fails(ErrorCode::kInvalidArgument, "a token's name has"));
  EXPECT_THAT(a.create("x", "ann", {"frob = 1"}, Rights()), Fails(ErrorCode::kPermissionDenied, "caveat 1"));
  EXPECT_THAT(a.create("x", "ann", {"expires = 2027-01-01T00:00:00Z"}, Rights()),
              Fails(ErrorCode::kInvalidArgument, "expired already"));
  EXPECT_THAT(names(a.list().value()), testing::ElementsAre("taken"));
  EXPECT_THAT(TokenAuthority::open(store(), random_secret(31), revoked()),
              Fails(ErrorCode::kInvalidArgument, "32"));
  // A vault that was moved elsewhere takes no token more.
  write(".moved", {'x'});
  EXPECT_THAT(a.create("x", "ann", {}, Rights()), Fails(ErrorCode::kFailedPrecondition, "moved to x"));
  EXPECT_THAT(a.revoke("taken"), Fails(ErrorCode::kFailedPrecondition, "moved to x"));
}

TEST_P(Authority, MakesUpANameAndNeverTheSameToken) {
  TokenAuthority a = authority();
  const auto one = a.create("", "ann", {}, Rights()), two = a.create("", "ann", {}, Rights());
  ASSERT_TRUE(ok(one));
  ASSERT_TRUE(ok(two));
  EXPECT_NE(one->record.id, two->record.id);
  EXPECT_NE(one->record.name, two->record.name);
  EXPECT_NE(one->token.text(), two->token.text());
}

TEST_P(Authority, GoesOnBehindALineThatPowerLossCut) {
  const NewToken one = make("one"), two = make("two");
  std::ofstream(revoked()) << std::string(32, '0') << '\n' << "0123";
  ASSERT_TRUE(ok(authority().revoke("one")));
  EXPECT_THAT(authority().verify(one.token.text()), Fails(ErrorCode::kUnauthenticated, "was revoked"));
  EXPECT_TRUE(ok(authority().verify(two.token.text())));
  ASSERT_TRUE(ok(authority().revoke("two")));
  EXPECT_EQ(fakes::fs::file_size(revoked()), 3u * 33);
}

// Nobody is let in while it is not known who was revoked.
TEST_P(Authority, RefusesAllWhenTheListOfTheRevokedIsNotToBeBelieved) {
  const NewToken made = make("ci");
  const auto refused = [&](ErrorCode code) {
    EXPECT_THAT(authority().verify(made.token.text()), Fails(code, revoked()));
    EXPECT_THAT(authority().revoke("ci"), Fails(code, revoked()));
    fakes::fs::remove(revoked());
  };
  std::ofstream(revoked()) << std::string(33, 'x');
  refused(ErrorCode::kDataLoss);
  std::ofstream(revoked()) << std::string(32, 'a') << "\n\n" << std::string(32, 'a');
  refused(ErrorCode::kDataLoss);
  std::ofstream(revoked()) << "";
  ASSERT_EQ(::chmod(revoked().c_str(), 0666), 0);
  refused(ErrorCode::kPermissionDenied);
  fakes::fs::create_directory(revoked());
  refused(ErrorCode::kPermissionDenied);
  fakes::fs::create_symlink("/dev/null", revoked());
  refused(ErrorCode::kUnavailable);
  ASSERT_EQ(::mkfifo(revoked().c_str(), 0600), 0);
  refused(ErrorCode::kPermissionDenied);
  EXPECT_TRUE(ok(authority().verify(made.token.text())));
}

}  // namespace
}  // namespace coffer
