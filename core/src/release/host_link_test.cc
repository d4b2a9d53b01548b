// A host ordered over a link: what holds for the agent holds for who asks through a socket.
#include "coffer/agent/host_link.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <thread>

#include "coffer/agent/kept_orders.h"
#include "test_world.h"

namespace coffer {
namespace {

using fakes::Fails;
using testing::ElementsAre;
using testing::IsEmpty;

// The agent, with logs and commands that the fake runtime does not have.
struct Host : Agent {
  explicit Host(Agent agent) : Agent(std::move(agent)) {}
  Result<void> logs(const MachineState &, const LogQuery &query,
                    const std::function<bool(uint32_t, int64_t, ByteSpan)> &each) override {
    do ++pieces;
    while (each(1, 7, as_bytes("line\n")) && query.follow);
    return {};
  }
  Result<int32_t> exec(const MachineState &, const std::vector<std::string> &argv,
                       const std::function<bool(uint32_t, ByteSpan)> &out,
                       const std::function<int64_t(std::span<uint8_t>)> &in, int) override {
    if (argv.front() == "talk") {  // and does not listen
      const Bytes much(64 << 10);
      for (int i = 0; i < 64; ++i)
        if (!out(1, much)) return fail(ErrorCode::kCancelled, "the caller has gone");
      return 5;
    }
    uint8_t buffer[4096];
    for (;;) {
      const int64_t n = in(buffer);
      if (n < 0) return fail(ErrorCode::kCancelled, "the caller has gone");
      if (n == 0) return 3;
      out(2, ByteSpan(buffer, static_cast<size_t>(n)));
    }
  }
  size_t pieces = 0;
};

class HostLinkTest : public testing::Test {
 protected:
  HostLinkTest() {
    auto pair = MessageSocket::pair();
    EXPECT_TRUE(ok(pair));
    client_.emplace(host_.host(), std::move(pair->first));
    serving_ = std::thread([this, link = std::move(pair->second)]() mutable {
      serve_host(host_, link, [this](BootOrder &o) { book_.keep(o); });
    });
    deployer_.emplace(us_.vault, us_.keys, *client_, "ann@laptop", &us_.api_log);
  }
  ~HostLinkTest() override { hang_up(); }
  void hang_up() {
    deployer_.reset();
    client_.reset();
    if (serving_.joinable()) serving_.join();
  }
  void set(const std::string &value) {
    auto sealer = Sealer::create(app_.key, SecretBytes::copy_of(filled<32>(3)));
    std::vector<SealedSecret> sealed;
    sealed.push_back(*sealer->seal("A", SecretBytes::copy_of(as_bytes(value))));
    EXPECT_TRUE(ok(deployer_->write(app_, sealed, {})));
  }
  std::string run(const std::string &name) {
    MachineConfig config;
    config.name = name;
    config.image = "host";
    auto ran = deployer_->run(app_, std::move(config));
    EXPECT_TRUE(ok(ran));
    return ran ? ran->machine.stored.record.id : "";
  }
  std::string variable(const std::string &machine) {
    return machines_.get(machines_.of(machine), "env-A").value_or("-");
  }

  World world_;
  fakes::Instances &machines_ = world_.machines;
  Process us_{world_};
  const App app_ = *us_.deployer.create_app("web");
  Host host_{std::move(us_.agent)};
  OrderBook book_{world_.storage("agent"), {SigningKey::from_seed(filled<32>(1))->public_key()}};
  std::optional<HostClient> client_;
  std::optional<Deployer> deployer_;
  std::thread serving_;
};

TEST_F(HostLinkTest, AMachineRunsStopsStartsAndIsDestroyed) {
  set("1");
  const std::string id = run("one");
  EXPECT_EQ(variable(id), "1");
  const auto status = [&] { return *deployer_->machine(app_, "one"); };
  ASSERT_TRUE(ok(deployer_->stop(app_, status())));
  EXPECT_EQ(status().now(), State::kStopped);
  set("2");
  ASSERT_TRUE(ok(deployer_->start(app_, status())));
  EXPECT_EQ(variable(id), "2");
  ASSERT_TRUE(ok(client_->destroy(id)));
  EXPECT_THAT(machines_.all(), IsEmpty());
  EXPECT_THAT(client_->states().value_or(std::vector<MachineState>(1)), IsEmpty());
}

TEST_F(HostLinkTest, ARolloutThatFailsGoesBack) {
  set("1");
  const std::string id = run("one");
  set("2");
  fakes::fail_next(world_.folder.path() / "runtime", "start");
  const auto out = deployer_->rollout(app_, {"secrets set", false});
  ASSERT_TRUE(ok(out));
  EXPECT_EQ(variable(id), "1");
}

TEST_F(HostLinkTest, AnErrorIsTheSameAsTheAgents) {
  const auto far = client_->stop("0123456789abcd");
  ASSERT_FALSE(far);
  const auto near = host_.stop("0123456789abcd");
  ASSERT_FALSE(near);
  EXPECT_EQ(far.error().code, near.error().code);
  EXPECT_EQ(far.error().message, near.error().message);
  EXPECT_EQ(far.error().remedy, near.error().remedy);
}

TEST_F(HostLinkTest, LogsEndWhenTheCallerHasEnoughAndTheLinkGoesOn) {
  size_t seen = 0;
  ASSERT_TRUE(ok(client_->logs({}, {.follow = true}, [&](uint32_t stream, int64_t ns, ByteSpan piece) {
    EXPECT_EQ(stream, 1u);
    EXPECT_EQ(ns, 7);
    EXPECT_EQ(as_text(piece), "line\n");
    return ++seen < 3;
  })));
  EXPECT_EQ(seen, 3u);
  EXPECT_TRUE(ok(client_->states()));
}

TEST_F(HostLinkTest, ACommandGetsItsInputAndAnswersOutputAndCode) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  ASSERT_EQ(::write(fds[1], "hello", 5), 5);
  ::close(fds[1]);
  std::string out;
  const auto code = client_->exec(
      {}, {"cat"},
      [&](uint32_t, ByteSpan piece) {
        out += as_text(piece);
        return true;
      },
      [&](std::span<uint8_t> to) { return ::read(fds[0], to.data(), to.size()); }, fds[0]);
  ::close(fds[0]);
  ASSERT_TRUE(ok(code));
  EXPECT_EQ(*code, 3);
  EXPECT_EQ(out, "hello");
}

TEST_F(HostLinkTest, ACommandThatTalksAndDoesNotListenIsHeardToItsEnd) {
  const int zero = ::open("/dev/zero", O_RDONLY | O_CLOEXEC);
  size_t heard = 0;
  const auto code = client_->exec(
      {}, {"talk"},
      [&](uint32_t, ByteSpan piece) {
        heard += piece.size();
        return true;
      },
      [&](std::span<uint8_t> to) { return ::read(zero, to.data(), to.size()); }, zero);
  ::close(zero);
  ASSERT_TRUE(ok(code));
  EXPECT_EQ(*code, 5);
  EXPECT_EQ(heard, 64u * (64 << 10));
}

TEST_F(HostLinkTest, ACallerThatVanishesEndsItsCommand) {
  const int zero = ::open("/dev/zero", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(client_
                ->exec(
                    {}, {"cat"}, [](uint32_t, ByteSpan) { return true; },
                    [](std::span<uint8_t>) { return int64_t{-1}; }, zero)
                .error()
                .code,
            ErrorCode::kCancelled);
  ::close(zero);
  hang_up();  // returns: the agent's side has ended
}

TEST_F(HostLinkTest, ACrashedMachineIsBootedFromItsKeptOrderWhenNobodyOrders) {
  set("1");
  const std::string id = run("one");
  const std::string before = machines_.of(id);
  hang_up();
  machines_.end(before, 1, 0);
  KeptOrders orders(host_, book_);
  Reconciler reconciler = Reconciler::create(
      {.orders = &orders, .agent = &host_, .open_runtime = [this] {
         return Runtime::open(fakes::plugin("runtime-files", {{"path", machines_.folder().string()}}));
       }});
  ASSERT_TRUE(ok(reconciler.once()));
  EXPECT_NE(machines_.of(id), before);
  EXPECT_EQ(variable(id), "1");
}

TEST_F(HostLinkTest, OrdersOfADestroyedMachineAreForgottenAndThoseOfAnotherAreKept) {
  set("1");
  const std::string one = run("one"), two = run("two");
  const Hash of_one = (**host_.state(one)).current->spec, of_two = (**host_.state(two)).current->spec;
  ASSERT_TRUE(ok(book_.find(one, of_one)));
  ASSERT_TRUE(ok(client_->destroy(one)));
  ASSERT_TRUE(ok(book_.tidy(*host_.states())));
  EXPECT_EQ(book_.find(one, of_one).error().code, ErrorCode::kNotFound);
  EXPECT_TRUE(ok(book_.find(two, of_two)));
}

TEST(Workers, OneKeepsAnotherOfItsProcessOutUntilItHasGone) {
  const World world;
  const int event = ::eventfd(1, EFD_CLOEXEC);
  const auto agent = [&](std::shared_ptr<const std::string> owner, int cancel_fd) {
    return Agent::create({.open_store = [&]() -> Result<Storage> { return world.storage("agent"); },
                          .open_runtime =
                              [&] {
                                return Runtime::open(fakes::plugin(
                                    "runtime-files", {{"path", world.machines.folder().string()}}));
                              },
                          .open_injectors = {},
                          .host_key = *SigningKey::from_seed(filled<32>(2)),
                          .writers = {},
                          .cancel_fd = cancel_fd,
                          .owner = std::move(owner),
                          .progress = {},
                          .image_progress = {}});
  };
  const std::string machine = "0123456789abcd";
  std::optional<Agent> first = agent(worker_identity(), -1);
  Agent second = agent(worker_identity(), event);
  ASSERT_TRUE(ok(first->reserve(filled<16>(1), "web", machine, "one")));
  EXPECT_THAT(second.destroy(machine), Fails(ErrorCode::kCancelled, "another coffer"));
  first.reset();
  Agent third = agent(worker_identity(), -1);
  EXPECT_TRUE(ok(third.destroy(machine)));
  ::close(event);
}

}  // namespace
}  // namespace coffer
