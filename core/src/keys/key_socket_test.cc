// The wire of the key service.  What is behind it: key_service_test.cc runs whole through a socket as well.
#include "coffer/keys/key_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>
#include <thread>

#include "coffer/base/codec.h"
#include "fakes.h"

namespace coffer {
namespace {

using fakes::Fails;
using fakes::ok;
using testing::ElementsAre;
using testing::HasSubstr;

// Notes what it is asked; each answer is made of its question, or an error.
class FakeKeyService : public Keys {
 public:
  Result<AppKey> create_app(std::string_view name) override {
    COFFER_CHECK(called("create_app " + std::string(name)));
    return AppKey{id_, {1, 2, 3}};
  }
  Result<void> destroy_app(std::string_view name) override {
    return called("destroy_app " + std::string(name));
  }
  Result<std::optional<SeenHead>> seen(const AppId &app) const override {
    COFFER_CHECK(called("seen " + hex(app)));
    return app == id_ ? std::optional(SeenHead{7, {9}}) : std::nullopt;
  }
  Result<void> advance(const AppId &app, const std::vector<Bytes> &headers) override {
    std::string text = "advance " + hex(app);
    for (const Bytes &h : headers) text += " " + hex(h);
    return called(text);
  }
  Result<void> grant(const AppId &app, std::string_view machine, const PublicKey &host,
                     ByteSpan spec) override {
    return called("grant " + hex(app) + " " + std::string(machine) + " " + hex(host).substr(0, 4) + " " +
                  hex(spec));
  }
  Result<void> revoke(const AppId &app, std::string_view machine) override {
    return called("revoke " + hex(app) + " " + std::string(machine));
  }
  Result<Checkpoint> exchange(const Checkpoint &mine) override {
    COFFER_CHECK(called("exchange " + std::to_string(mine.number) + " " + hex(mine.hash).substr(0, 4)));
    return Checkpoint{mine.number + 1, {8}};
  }
  Result<Bytes> token(ByteSpan request) override {
    COFFER_CHECK(called("token " + hex(request)));
    return Bytes{4};
  }
  Result<Bytes> open(ByteSpan request) override {
    COFFER_CHECK(called("open of " + std::to_string(request.size())));
    return Bytes(request.begin(), request.end());
  }
  Result<void> enrol(ByteSpan request) override { return called("enrol " + hex(request)); }
  Result<std::vector<KeyInfo>> list() const override {
    COFFER_CHECK(called("list"));
    return std::vector<KeyInfo>{{"web", id_, 3, {5}, false}, {"old", {}, 0, {}, true}};
  }
  Result<void> unlock() override { return called("unlock"); }
  Result<std::string> invite(std::string_view name) override {
    COFFER_CHECK(called("invite " + std::string(name)));
    return "token";
  }
  Result<std::vector<HostInfo>> hosts() const override {
    COFFER_CHECK(called("hosts"));
    return std::vector<HostInfo>{{"alpha", {6}, 42, true}};
  }
  Result<void> revoke_host(std::string_view which) override {
    return called("revoke_host " + std::string(which));
  }
  Result<AppKey> rotate(const AppId &app, uint32_t from) override {
    COFFER_CHECK(called("rotate " + hex(app) + " " + std::to_string(from)));
    return AppKey{id_, {1, 2, 3}};
  }
  Result<Bytes> reseal(ByteSpan request) override {
    COFFER_CHECK(called("reseal " + hex(request)));
    return Bytes{8};
  }
  Result<void> retire(const AppId &app, uint32_t oldest) override {
    return called("retire " + hex(app) + " " + std::to_string(oldest));
  }
  Result<void> rewrap() override { return called("rewrap"); }

  static constexpr AppId id_ = {0xab};
  mutable std::vector<std::string> calls;
  std::optional<Error> error;

 private:
  Result<void> called(std::string what) const {
    calls.push_back(std::move(what));
    if (error) return std::unexpected(*error);
    return {};
  }
};

class KeySocketTest : public testing::Test {
 protected:
  void start(std::vector<uid_t> api = {::geteuid()}, std::vector<uid_t> agents = {::geteuid()},
             size_t per_user = 8) {
    auto listening = KeyServer::listen({.socket = socket_,
                                        .api = std::move(api),
                                        .agents = std::move(agents),
                                        .connections_per_user = per_user},
                                       service_);
    ASSERT_TRUE(ok(listening));
    server_.emplace(*std::move(listening));
    thread_ = std::thread([this] { EXPECT_TRUE(ok(server_->run(stop_))); });
  }
  void stop() {
    if (!thread_.joinable()) return;
    const uint64_t one = 1;
    ASSERT_EQ(::write(stop_, &one, sizeof one), ssize_t{sizeof one});
    thread_.join();
    uint64_t n;
    ASSERT_EQ(::read(stop_, &n, sizeof n), ssize_t{sizeof n});
    server_.reset();
  }
  ~KeySocketTest() override {
    stop();
    ::close(stop_);
  }
  int connected() const {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    socket_.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    return fd;
  }
  // Waits for the end of the connection.
  static bool ended(int fd) {
    pollfd p{fd, POLLIN, 0};
    char byte;
    return ::poll(&p, 1, 10'000) == 1 && ::read(fd, &byte, 1) <= 0;
  }
  // Code of the answer to `request` by somebody who is `callers`.
  uint32_t code(unsigned callers, ByteSpan request) {
    const Bytes answer = answer_key_request(service_, callers, request);
    return Decoder(answer).u32();
  }

  const fakes::Folder folder_;
  const std::string socket_ = folder_.file("keys.sock");
  const int stop_ = ::eventfd(0, EFD_CLOEXEC);
  FakeKeyService service_;
  std::optional<KeyServer> server_;
  std::thread thread_;
  KeyClient client_{socket_};
};

TEST_F(KeySocketTest, EachQuestionArrivesAsItWasAskedAndEachAnswerToo) {
  start();
  const AppId id = FakeKeyService::id_;
  const auto key = client_.create_app("web");
  ASSERT_TRUE(ok(key));
  EXPECT_EQ(key->app_id, id);
  EXPECT_EQ(key->signed_record, (Bytes{1, 2, 3}));
  EXPECT_TRUE(ok(client_.destroy_app("web")));
  EXPECT_EQ(client_.seen(id).value(), (SeenHead{7, {9}}));
  EXPECT_EQ(client_.seen({}).value(), std::nullopt);
  EXPECT_TRUE(ok(client_.advance(id, {{1}, {}, {2, 3}})));
  EXPECT_TRUE(ok(client_.grant(id, "m1", {0xcd}, Bytes{8})));
  EXPECT_TRUE(ok(client_.revoke(id, "m1")));
  EXPECT_EQ(client_.token(Bytes{5}).value(), Bytes{4});
  const Bytes large(3 << 20, 7);
  EXPECT_EQ(client_.open(large).value(), large);
  EXPECT_TRUE(ok(client_.enrol(Bytes{6})));
  const auto keys = client_.list();
  ASSERT_TRUE(ok(keys));
  ASSERT_EQ(keys->size(), 2u);
  EXPECT_EQ(keys->at(0).app, "web");
  EXPECT_EQ(keys->at(0).epoch, 3u);
  EXPECT_EQ(keys->at(0).public_key, PublicKey{5});
  EXPECT_TRUE(keys->at(1).destroyed);
  EXPECT_TRUE(ok(client_.unlock()));
  EXPECT_EQ(client_.invite("alpha").value(), "token");
  const auto hosts = client_.hosts();
  ASSERT_TRUE(ok(hosts));
  ASSERT_EQ(hosts->size(), 1u);
  EXPECT_EQ(hosts->front().name, "alpha");
  EXPECT_EQ(hosts->front().enrolled_ms, 42u);
  EXPECT_TRUE(hosts->front().revoked);
  EXPECT_TRUE(ok(client_.revoke_host("alpha")));
  EXPECT_EQ(client_.exchange({7, {0xef}}).value(), (Checkpoint{8, {8}}));
  stop();
  const std::string app = hex(id);
  EXPECT_THAT(service_.calls,
              ElementsAre("create_app web", "destroy_app web", "seen " + app, "seen " + hex(AppId{}),
                          "advance " + app + " 01  0203", "grant " + app + " m1 cd00 08",
                          "revoke " + app + " m1", "token 05", "open of 3145728", "enrol 06", "list",
                          "unlock", "invite alpha", "hosts", "revoke_host alpha", "exchange 7 ef00"));
}

TEST_F(KeySocketTest, ARefusalArrivesWithCodeSentenceAndRemedy) {
  service_.error = Error{ErrorCode::kDataLoss, "the vault was rolled back", "Restore it."};
  start();
  const auto refused = client_.token(Bytes{5});
  EXPECT_THAT(refused, Fails(ErrorCode::kDataLoss, "the vault was rolled back"));
  EXPECT_EQ(refused.error().remedy, "Restore it.");
}

// One request of each kind, well-formed.
std::vector<Bytes> requests() {
  const auto of = [](uint8_t verb) { return std::move(Encoder().u8(verb)); };
  const AppId id{};
  return {of(1).text("web").take(),
          of(2).text("web").take(),
          of(3).raw(id).take(),
          of(4).raw(id).u32(0).take(),
          of(5).raw(id).text("m").raw(PublicKey{}).bytes({}).take(),
          of(6).raw(id).text("m").take(),
          of(7).bytes({}).take(),
          of(8).bytes({}).take(),
          of(9).bytes({}).take(),
          of(10).take(),
          of(11).take(),
          of(12).text("alpha").take(),
          of(13).take(),
          of(14).text("alpha").take(),
          of(15).u64(1).raw(Hash{}).take()};
}

TEST_F(KeySocketTest, WhoMayAskWhatIsDecidedByWhoAsks) {
  const std::set<int> anybody = {8, 9}, api = {1, 2, 3, 4, 5, 6, 8, 9, 10, 13, 15}, agent = {7, 8, 9},
                      admin = {8, 9, 10, 11, 12, 13, 14};
  const auto may = [&](unsigned callers) {
    std::set<int> out;
    for (const Bytes &r : requests()) {
      const size_t before = service_.calls.size();
      const uint32_t c = code(callers, r);
      EXPECT_EQ(service_.calls.size() - before, c == 0 ? 1u : 0u) << "verb " << int(r[0]);
      if (c == 0)
        out.insert(r[0]);
      else
        EXPECT_EQ(c, static_cast<uint32_t>(ErrorCode::kPermissionDenied)) << "verb " << int(r[0]);
    }
    return out;
  };
  EXPECT_EQ(may(0), anybody);
  EXPECT_EQ(may(kCallerApi), api);
  EXPECT_EQ(may(kCallerAgent), agent);
  EXPECT_EQ(may(kCallerAdmin), admin);
}

TEST_F(KeySocketTest, MalformedRequestsReachNobody) {
  constexpr unsigned kAll = kCallerApi | kCallerAgent | kCallerAdmin;
  const auto wrong = static_cast<uint32_t>(ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(kAll, {}), wrong);
  EXPECT_EQ(code(kAll, Bytes{0}), wrong);
  EXPECT_EQ(code(kAll, Bytes{200}), wrong);
  for (const Bytes &r : requests()) {
    for (size_t n = 1; n < r.size(); ++n) EXPECT_EQ(code(kAll, ByteSpan(r).first(n)), wrong) << int(r[0]);
    Bytes longer = r;
    longer.push_back(0);
    EXPECT_EQ(code(kAll, longer), wrong) << int(r[0]);
  }
  // A count that promises more than there is.
  EXPECT_EQ(code(kAll, Encoder().u8(4).raw(AppId{}).u32(UINT32_MAX).take()), wrong);
  EXPECT_TRUE(service_.calls.empty());
}

TEST_F(KeySocketTest, AStrangerMayOnlyOpenAndEnrol) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can be somebody else";
  start({}, {}, 64);
  ::chmod(folder_.path().c_str(), 0755);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0) ::_exit(100);
    KeyClient stranger(socket_);
    const auto denied = [](const auto &r) { return !r && r.error().code == ErrorCode::kPermissionDenied; };
    int right = 0;
    right += denied(stranger.invite("alpha"));
    right += denied(stranger.revoke_host("alpha"));
    right += denied(stranger.create_app("web"));
    right += denied(stranger.token(Bytes{1}));
    right += stranger.open(Bytes{1}).has_value();
    ::_exit(right);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 5);
}

TEST_F(KeySocketTest, TheApisUserIsNeverTheAdministrator) {
  EXPECT_THAT(KeyServer::check({.socket = socket_, .api = {0}, .agents = {}}),
              Fails(ErrorCode::kInvalidArgument, "enrol hosts"));
  EXPECT_THAT(KeyServer::check({.socket = socket_, .api = {12345, ::geteuid()}, .agents = {}}),
              Fails(ErrorCode::kInvalidArgument, "enrol hosts"));
  EXPECT_TRUE(ok(KeyServer::check({.socket = socket_, .api = {12345}, .agents = {::geteuid()}})));
}

TEST_F(KeySocketTest, ARestartedServiceIsFoundAgain) {
  EXPECT_THAT(client_.unlock(), Fails(ErrorCode::kUnavailable, "does not answer"));
  start();
  EXPECT_TRUE(ok(client_.unlock()));
  stop();
  EXPECT_FALSE(std::filesystem::exists(socket_));
  EXPECT_THAT(client_.unlock(), Fails(ErrorCode::kUnavailable, "key service"));
  start();
  EXPECT_TRUE(ok(client_.unlock()));
}

TEST_F(KeySocketTest, ASecondServiceOnTheSameSocketIsRefused) {
  start();
  EXPECT_THAT(KeyServer::listen({.socket = socket_, .api = {}, .agents = {}}, service_),
              Fails(ErrorCode::kAlreadyExists, "another key service"));
  EXPECT_TRUE(ok(client_.unlock()));
}

TEST_F(KeySocketTest, ConnectionsThatAreLeftDoNotLockAnybodyOut) {
  start({::geteuid()}, {}, 4);
  std::vector<int> left;
  for (int i = 0; i < 100; ++i) {
    left.push_back(connected());
    // Half of them begin a request.
    if (i % 2) {
      EXPECT_EQ(::send(left.back(), "\0\0\1", 3, MSG_NOSIGNAL), 3);
    }
  }
  EXPECT_TRUE(ok(client_.list()));
  EXPECT_TRUE(ended(left.front())) << "the oldest made room";
  for (const int fd : left) ::close(fd);
  EXPECT_TRUE(ok(client_.list()));
}

TEST_F(KeySocketTest, ARequestThatIsTooLargeEndsItsConnectionOnly) {
  start();
  const int fd = connected();
  const Bytes head = Encoder().u32(UINT32_MAX).take();
  ASSERT_EQ(::send(fd, head.data(), head.size(), MSG_NOSIGNAL), ssize_t{4});
  EXPECT_TRUE(ended(fd));
  ::close(fd);
  EXPECT_TRUE(ok(client_.unlock()));
}

TEST_F(KeySocketTest, AClientThatDiesInMidRequestChangesNothing) {
  start();
  const int fd = connected();
  const Bytes request = Encoder().u8(1).text("web").take();
  const Bytes head = Encoder().u32(static_cast<uint32_t>(request.size())).take();
  ASSERT_EQ(::send(fd, head.data(), head.size(), MSG_NOSIGNAL), ssize_t{4});
  ASSERT_EQ(::send(fd, request.data(), request.size() - 1, MSG_NOSIGNAL), ssize_t(request.size() - 1));
  ::close(fd);
  EXPECT_TRUE(ok(client_.unlock()));
  stop();
  EXPECT_THAT(service_.calls, ElementsAre("unlock"));
}

}  // namespace
}  // namespace coffer
