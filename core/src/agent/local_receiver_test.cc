// Values handed from the agent to a process of its host, over a real socket.
#include "coffer/agent/local_receiver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "fakes.h"

namespace coffer {
namespace {

using fakes::Fails;
using fakes::ok;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

class LocalReceiverTest : public testing::Test {
 protected:
  LocalReceiverTest() {
    auto listening = LocalReceivers::listen({socket_, {}, host_});
    EXPECT_TRUE(ok(listening));
    receivers_ = *std::move(listening);
  }
  static Delivery value(std::string name, ByteSpan bytes) {
    Delivery d;
    d.name = std::move(name);
    d.value = SecretBytes::copy_of(bytes);
    return d;
  }
  Result<void> give(const Ticket &ticket, std::vector<Delivery> all) {
    COFFER_TRY(const TakeValues take, receivers_->take(ticket));
    return take(all);
  }

  fakes::Folder folder_;
  const std::string socket_ = (folder_.path() / "agent.sock").string();
  const PublicKey host_ = [] {
    PublicKey k;
    k.fill(9);
    return k;
  }();
  std::unique_ptr<LocalReceivers> receivers_;
};

TEST_F(LocalReceiverTest, ValuesComeByteForByteToWhoHasTheTicketAndOnce) {
  auto one = LocalReceiver::connect(socket_), two = LocalReceiver::connect(socket_);
  ASSERT_TRUE(ok(one));
  ASSERT_TRUE(ok(two));
  EXPECT_EQ(one->receiver().host, host_);
  EXPECT_NE(one->receiver().ticket, two->receiver().ticket);
  Bytes large(8 << 20, 0xab);  // more than any socket holds at once
  std::thread gives([&] {
    std::vector<Delivery> all;
    all.push_back(value("A", as_bytes(std::string_view("a\0\n", 3))));
    all.push_back(value("EMPTY", {}));
    all.push_back(value("LARGE", large));
    EXPECT_TRUE(ok(give(one->receiver().ticket, std::move(all))));
  });
  const auto got = one->receive();
  gives.join();
  ASSERT_TRUE(ok(got));
  std::vector<std::pair<std::string, Bytes>> seen;
  for (const Delivery &d : *got)
    seen.emplace_back(d.name, Bytes(d.value.reveal().begin(), d.value.reveal().end()));
  EXPECT_THAT(seen,
              ElementsAre(Pair("A", Bytes{'a', 0, '\n'}), Pair("EMPTY", Bytes{}), Pair("LARGE", large)));
  EXPECT_THAT(give(one->receiver().ticket, {}), Fails(ErrorCode::kNotFound, "nobody on this host"));
  ASSERT_TRUE(ok(give(two->receiver().ticket, {})));
  EXPECT_THAT(*two->receive(), IsEmpty());
}

TEST_F(LocalReceiverTest, WhoHasGoneGetsNothingAndWhoIsGivenUpHearsIt) {
  Ticket gone;
  {
    auto one = LocalReceiver::connect(socket_);
    ASSERT_TRUE(ok(one));
    gone = one->receiver().ticket;
  }
  EXPECT_THAT(give(gone, {}), Fails(ErrorCode::kNotFound, "nobody on this host"));
  EXPECT_THAT(give(Ticket{1}, {}), Fails(ErrorCode::kNotFound, "nobody on this host"));
  auto waits = LocalReceiver::connect(socket_);
  ASSERT_TRUE(ok(waits));
  receivers_.reset();  // the agent ends
  EXPECT_EQ(waits->receive().error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(LocalReceiver::connect(socket_), Fails(ErrorCode::kUnavailable, "no coffer-agent"));
}

TEST_F(LocalReceiverTest, OneUserWhoOpensManyIsInNobodysWay) {
  std::vector<LocalReceiver> all;
  for (int i = 0; i < 20; ++i) {
    auto one = LocalReceiver::connect(socket_);
    ASSERT_TRUE(ok(one));
    all.push_back(*std::move(one));
  }
  EXPECT_EQ(all.front().receive().error().code, ErrorCode::kUnavailable);  // has waited longest
  EXPECT_TRUE(ok(give(all.back().receiver().ticket, {})));
  EXPECT_TRUE(ok(all.back().receive()));
}

TEST_F(LocalReceiverTest, AnotherUserIsRefusedUnlessHeIsNamed) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to be another user";
  constexpr uid_t kOther = 64209;
  const auto asked = [&] {
    ::chmod(folder_.path().c_str(), 0755);
    const pid_t child = ::fork();
    if (child == 0) {
      if (::setresuid(kOther, kOther, kOther) != 0) ::_exit(99);
      const auto r = LocalReceiver::connect(socket_);
      ::_exit(r ? 0 : static_cast<int>(r.error().code));
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WEXITSTATUS(status);
  };
  EXPECT_EQ(asked(), static_cast<int>(ErrorCode::kPermissionDenied));
  receivers_.reset();
  receivers_ = *LocalReceivers::listen({socket_, {kOther}, host_});
  EXPECT_EQ(asked(), 0);
}

}  // namespace
}  // namespace coffer
