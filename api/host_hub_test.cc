// Hosts that dial: who they are, how long, and what is done with their sessions.
#include "host_hub.h"

#include <future>

#include "coffer/base/codec.h"
#include "coffer/crypto/primitives.h"
#include "coffer/format/magic.h"
#include "server/http/test_support.h"
#include "test_world.h"

namespace coffer::api {
namespace {

using fakes::Fails;
using testing::ElementsAre;

// Runs nothing, and says when it is asked.
class EmptyHost : public LazyHost {
 public:
  explicit EmptyHost(std::function<Result<void>()> asked)
      : LazyHost([]() -> Result<std::unique_ptr<MachineHost>> {
          return fail(ErrorCode::kUnimplemented, "it runs nothing");
        }),
        asked_(std::move(asked)) {}
  Result<std::vector<MachineState>> states() const override {
    COFFER_CHECK(asked_());
    return std::vector<MachineState>{};
  }
  Result<void> stop(const std::string &) override { return asked_(); }

 private:
  std::function<Result<void>()> asked_;
};

// Counts, and is waited for.
class Count {
 public:
  void add(int n = 1) {
    {
      const std::lock_guard lock(mutex_);
      n_ += n;
    }
    changed_.notify_all();
  }
  bool await(int n) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] { return n_ >= n; });
  }
  int now() {
    const std::lock_guard lock(mutex_);
    return n_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int n_ = 0;
};

class HostHubTest : public testing::Test {
 protected:
  void start(std::chrono::milliseconds patience = kPatience) {
    hub_.emplace(HostHub::Config{.admit = [this](const PublicKey &host) -> Result<void> {
                                   admitted_.add();
                                   const std::lock_guard lock(mutex_);
                                   if (known_.contains(host)) return {};
                                   return fail(ErrorCode::kPermissionDenied, "it is not enrolled");
                                 },
                                 .came = [this] { came_.add(); },
                                 .changed =
                                     [this](const std::string &machine) {
                                       const std::lock_guard lock(mutex_);
                                       changed_.push_back(machine);
                                       heard_.add();
                                     },
                                 .patience = patience});
    auto server = http::Server::start(
        {.unix_path = folder_.file("sock")},
        [this](const http::Request &, http::Context &) {
          http::Response r;
          r.upgrade = [this](http::Context &, http::Duplex &c) {
            hub_->serve(c);
            served_.add();
          };
          return r;
        },
        [](const http::Request &) { return http::Admission{.waits = true}; });
    ASSERT_TRUE(ok(server));
    server_ = *std::move(server);
  }
  ~HostHubTest() override {
    if (server_) server_->stop();
    hang_up();
    server_.reset();
    hub_.reset();
  }
  std::string url() const { return "unix://" + folder_.file("sock"); }
  void dial(std::function<Result<void>()> asked = [] { return Result<void>(); }) {
    dialling_.emplace(
        url(), host_key(),
        [this, asked](const Steps &) -> std::unique_ptr<MachineHost> {
          opened_.add();
          return std::make_unique<EmptyHost>(asked);
        },
        changes_.emplace());
  }
  void hang_up() {
    if (changes_) changes_->end();
    dialling_.reset();
  }
  void know(const PublicKey &host, bool yes) {
    const std::lock_guard lock(mutex_);
    if (yes)
      known_.insert(host);
    else
      known_.erase(host);
  }
  // A connection that was upgraded, and nothing said.
  std::unique_ptr<http::Duplex> connect() {
    const auto client = http::Client::open({.url = url()});
    http::Call call;
    call.target = std::string(http::kSessionPath);
    http::Answer refused;
    auto connection = (*client)->upgrade(call, refused);
    EXPECT_TRUE(ok(connection));
    return connection ? *std::move(connection) : nullptr;
  }
  static std::string read(http::Duplex &from, size_t size) {
    std::string out;
    while (out.size() < size) {
      char bytes[256];
      const auto n =
          from.read({bytes, std::min(sizeof bytes, size - out.size())}, http::Clock::now() + kPatience);
      if (!n || *n == 0) break;
      out.append(bytes, *n);
    }
    return out;
  }
  static bool ended(http::Duplex &d) {
    char byte;
    const auto n = d.read({&byte, 1}, http::Clock::now() + kPatience);
    return n ? *n == 0 : n.error().code == ErrorCode::kUnavailable;
  }
  static void say(http::Duplex &to, ByteSpan hello) {
    Encoder e;
    e.u16(static_cast<uint16_t>(hello.size())).raw(hello);
    EXPECT_TRUE(ok(to.write(as_text(e.out()), http::Clock::now() + kPatience)));
  }
  static Bytes hello(const SigningKey &key, std::string_view challenge,
                     std::string_view label = kHostHelloLabel, std::string_view magic = "cfj2") {
    return sign(key, label, begin(magic).raw(as_bytes(challenge)).take());
  }

  const fakes::Folder folder_;
  std::mutex mutex_;
  std::set<PublicKey> known_{host_key().public_key()};
  std::vector<std::string> changed_;
  Count admitted_, came_, heard_, opened_, served_;
  std::optional<MachineChanges> changes_;
  std::optional<HostHub> hub_;
  std::unique_ptr<http::Server> server_;
  std::optional<DiallingHost> dialling_;
};

// ---- sessions ----

TEST_F(HostHubTest, AHostThatIsBeingLookedUpIsWaitedForAlthoughNoneWasThereForLong) {
  start(std::chrono::seconds(1));
  EXPECT_THAT(hub_->host(), Fails(ErrorCode::kUnavailable, "no host's agent is connected"));  // for so long
  std::unique_lock looks_up(mutex_);
  dial();
  ASSERT_TRUE(admitted_.await(1));
  auto host = std::async(std::launch::async, [&] { return hub_->host().has_value(); });
  EXPECT_EQ(host.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout) << "it gave up";
  looks_up.unlock();
  EXPECT_TRUE(host.get());
}

TEST_F(HostHubTest, ASessionInWhichNothingWasChangedIsUsedAgain) {
  start();
  dial();
  ASSERT_TRUE(opened_.await(1));  // one is for the news
  for (int i = 0; i < 20; ++i) {
    const auto host = hub_->host();
    ASSERT_TRUE(ok(host));
    EXPECT_EQ((*host)->host(), host_key().public_key());
    ASSERT_TRUE(ok((*host)->states()));
  }
  EXPECT_EQ(opened_.now(), 2);
  for (int i = 1; i <= 3; ++i) {
    const auto host = hub_->host();
    ASSERT_TRUE(ok(host));
    ASSERT_TRUE(ok((*host)->stop("0123456789abcd")));
    EXPECT_EQ(opened_.now(), 1 + i);
  }
}

TEST_F(HostHubTest, TwoRequestsHaveTwoSessions) {
  start();
  dial();
  const auto one = hub_->host();
  ASSERT_TRUE(ok(one));
  ASSERT_TRUE(ok((*one)->states()));  // with the first word the host knows that it needs another spare one
  const auto two = hub_->host();
  ASSERT_TRUE(ok(two));
  ASSERT_TRUE(ok((*two)->states()));
  EXPECT_NE((*one)->fd(), (*two)->fd());
  ASSERT_TRUE(opened_.await(3));
}

TEST_F(HostHubTest, ASessionThatBreaksUnderACallFailsItAndTheNextHasAnother) {
  start();
  dial();
  auto host = hub_->host();
  ASSERT_TRUE(ok(host));
  ASSERT_TRUE(ok((*host)->states()));
  ::shutdown((*host)->fd(), SHUT_RDWR);
  EXPECT_THAT((*host)->states(), Fails(ErrorCode::kUnavailable, ""));
  host->reset();  // not given back
  const auto next = hub_->host();
  ASSERT_TRUE(ok(next));
  EXPECT_TRUE(ok((*next)->states()));
}

TEST_F(HostHubTest, AHostThatHasGoneIsNotHandedOutAndItsReturnIsTold) {
  start(std::chrono::milliseconds(50));
  dial();
  ASSERT_TRUE(came_.await(1));
  ASSERT_TRUE(opened_.await(1));
  while (!hub_->host()) {
  }
  EXPECT_EQ(came_.now(), 1);  // a second session is no news
  hang_up();
  ASSERT_TRUE(served_.await(2));
  EXPECT_THAT(hub_->host(), Fails(ErrorCode::kUnavailable, "no host's agent is connected"));
  dial();
  ASSERT_TRUE(came_.await(2));
  const auto end = http::Clock::now() + kPatience;
  Result<std::unique_ptr<HostClient>> host = hub_->host();
  while (!host && http::Clock::now() < end) host = hub_->host();
  ASSERT_TRUE(ok(host));
  EXPECT_TRUE(ok((*host)->states()));
}

TEST_F(HostHubTest, WhoAsksWhileTheHostIsDiallingWaitsForIt) {
  start();
  auto asking = std::async(std::launch::async, [&] { return hub_->host(); });
  dial();
  const auto host = asking.get();
  ASSERT_TRUE(ok(host));
  EXPECT_TRUE(ok((*host)->states()));
}

TEST_F(HostHubTest, WhatChangesOnTheHostIsHeard) {
  start();
  dial();
  ASSERT_TRUE(heard_.await(1));  // what was before nobody knows: any may have changed
  changes_->tell("0123456789abcd");
  ASSERT_TRUE(heard_.await(2));
  const std::lock_guard lock(mutex_);
  EXPECT_THAT(changed_, ElementsAre("", "0123456789abcd"));
}

// ---- who they are ----

TEST_F(HostHubTest, ARevokedHostIsNotHandedOutNorTakenBack) {
  start(std::chrono::milliseconds(50));
  dial();
  const auto end = http::Clock::now() + kPatience;
  while (!hub_->host()) ASSERT_LT(http::Clock::now(), end);
  know(host_key().public_key(), false);
  EXPECT_THAT(hub_->host(), Fails(ErrorCode::kUnavailable, "no host's agent is connected"));
  const int asked = admitted_.now();
  ASSERT_TRUE(admitted_.await(asked + 3));  // it goes on dialling
  EXPECT_FALSE(hub_->host());
  know(host_key().public_key(), true);
  while (!hub_->host()) ASSERT_LT(http::Clock::now(), end);
}

TEST_F(HostHubTest, AHostThatIsNotEnrolledIsTurnedAway) {
  start(std::chrono::milliseconds(50));
  const auto connection = connect();
  ASSERT_TRUE(connection);
  ASSERT_TRUE(ok(http::say_hello(*connection, *SigningKey::from_seed(filled<32>(9)))));
  EXPECT_TRUE(ended(*connection));
  EXPECT_EQ(admitted_.now(), 1);
  EXPECT_THAT(hub_->host(), Fails(ErrorCode::kUnavailable, "no host's agent is connected"));
  EXPECT_EQ(came_.now(), 0);
}

TEST_F(HostHubTest, AHelloThatIsNotTheHostsAnswerToThisChallengeIsTurnedAway) {
  start(std::chrono::milliseconds(50));
  const SigningKey key = host_key(), other = *SigningKey::from_seed(filled<32>(9));
  // What the host said to another API, or here once before.
  const auto earlier = connect();
  const Bytes recorded = hello(key, read(*earlier, 32));
  const auto expect_away = [&](const char *what, const std::function<Bytes(const std::string &)> &answer) {
    SCOPED_TRACE(what);
    const auto c = connect();
    ASSERT_TRUE(c);
    const std::string challenge = read(*c, 32);
    ASSERT_EQ(challenge.size(), 32u);
    say(*c, answer(challenge));
    EXPECT_TRUE(ended(*c));
  };
  expect_away("replayed", [&](const std::string &) { return recorded; });
  expect_away("another label", [&](const std::string &c) { return hello(key, c, "coffer enrolment v1"); });
  expect_away("another object", [&](const std::string &c) { return hello(key, c, kHostHelloLabel, "cfj1"); });
  expect_away("half the challenge", [&](const std::string &c) { return hello(key, c.substr(0, 16)); });
  expect_away("more than it", [&](const std::string &c) { return hello(key, c + "x"); });
  expect_away("another's signature under its name", [&](const std::string &c) {
    Bytes said = hello(other, c);
    const PublicKey from = other.public_key(), to = key.public_key();
    const auto at = std::search(said.begin(), said.end(), from.begin(), from.end());
    EXPECT_NE(at, said.end());
    if (at != said.end()) std::ranges::copy(to, at);
    return said;
  });
  expect_away("a bit changed", [&](const std::string &c) {
    Bytes said = hello(key, c);
    said.back() ^= 1;
    return said;
  });
  expect_away("cut", [&](const std::string &c) {
    Bytes said = hello(key, c);
    said.resize(said.size() - 1);
    return said;
  });
  expect_away("nothing", [](const std::string &) { return Bytes{}; });
  expect_away("too much", [](const std::string &) { return Bytes(1025); });
  EXPECT_EQ(admitted_.now(), 0);  // nobody proved to be anybody
  EXPECT_FALSE(hub_->host());
  // The control: the same way, right.
  const auto c = connect();
  say(*c, hello(key, read(*c, 32)));
  ASSERT_TRUE(came_.await(1));
  EXPECT_GE(admitted_.now(), 1);
}

TEST_F(HostHubTest, NoTwoChallengesAreTheSame) {
  start();
  std::set<std::string> all;
  for (int i = 0; i < 8; ++i) all.insert(read(*connect(), 32));
  EXPECT_EQ(all.size(), 8u);
}

TEST_F(HostHubTest, StrangersAreFewAndDoNotKeepHostsOut) {
  start();
  std::vector<std::unique_ptr<http::Duplex>> strangers;
  for (int i = 0; i < 32; ++i) {
    strangers.push_back(connect());
    ASSERT_EQ(read(*strangers.back(), 32).size(), 32u);
  }
  EXPECT_EQ(read(*connect(), 32), "");  // sent away
  ASSERT_TRUE(served_.await(1));
  strangers.resize(31);
  ASSERT_TRUE(served_.await(2));
  dial();
  const auto host = hub_->host();
  ASSERT_TRUE(ok(host));
  EXPECT_TRUE(ok((*host)->states()));
}

// ---- the key service's word on them ----

TEST(AdmissionTest, IsTheKeyServicesWordAndWhileItIsAwayWhatItWas) {
  World world;
  const SigningKey two = *SigningKey::from_seed(filled<32>(9));
  const PublicKey one = host_key().public_key();
  Admission admission(world.keys_socket());
  EXPECT_TRUE(ok(admission(one)));
  EXPECT_THAT(admission(two.public_key()), Fails(ErrorCode::kPermissionDenied, "not enrolled"));
  world.enrol("beta", two);
  EXPECT_TRUE(ok(admission(two.public_key())));
  world.stop_keys();
  EXPECT_TRUE(ok(admission(one)));
  EXPECT_THAT(admission({}), Fails(ErrorCode::kUnavailable, "key service"));
  Admission fresh(world.keys_socket());
  EXPECT_THAT(fresh(one), Fails(ErrorCode::kUnavailable, "key service"));
  world.start_keys();
  ASSERT_TRUE(ok(KeyClient(world.keys_socket()).revoke_host("beta")));
  EXPECT_TRUE(ok(fresh(one)));
  EXPECT_THAT(fresh(two.public_key()), Fails(ErrorCode::kPermissionDenied, "not enrolled"));
}

TEST(AdmissionTest, ARevokedHostGetsNoOrderOfTheApiAnyMore) {
  World world(std::chrono::milliseconds(100));
  world.await_host();
  ASSERT_TRUE(ok(KeyClient(world.keys_socket()).revoke_host("alpha")));
  const auto end = http::Clock::now() + kPatience;
  while (world.hub().host()) ASSERT_LT(http::Clock::now(), end);
  EXPECT_THAT(world.hub().host(), Fails(ErrorCode::kUnavailable, "no host's agent is connected"));
}

}  // namespace
}  // namespace coffer::api
