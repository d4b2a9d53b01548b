// The same Idempotency-Key, the same answer.
#include "once.h"

#include <future>

#include "coffer/base/codec.h"
#include "coffer/crypto/primitives.h"
#include "coffer/format/magic.h"
#include "test_world.h"

namespace coffer::api {
namespace {

using fakes::fail_next;
using fakes::Fails;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

constexpr TokenId kAnn = {1}, kBob = {2};
constexpr Hash kRequest = {7}, kOther = {8};

class OnceTest : public testing::Test {
 protected:
  Storage open() const {
    return *Storage::open(fakes::plugin(
        "storage-memory", {{"name", "once" + folder_.path().string()}, {"folder", folder_.path().string()}}));
  }
  Once once(std::string_view key, const Hash &request = kRequest, const TokenId &token = kAnn) const {
    return Once(storage_, token, key, request, [this] { return now_; });
  }
  // It is ours to do.
  static testing::AssertionResult ours(const Result<std::optional<http::Response>> &begun) {
    if (!begun) return testing::AssertionFailure() << begun.error().message;
    if (*begun) return testing::AssertionFailure() << "was answered " << (*begun)->body;
    return testing::AssertionSuccess();
  }
  void done(std::string_view key, const std::string &body, int status = 200) {
    Once first = once(key);
    ASSERT_TRUE(ours(first.begin()));
    ASSERT_TRUE(ok(first.end(http::Response::json(body, status))));
  }
  size_t remembered() const {
    size_t n = 0;
    EXPECT_TRUE(ok(storage_.list("requests", "", false, [&](const Stored &) { return ++n, true; })));
    return n;
  }

  const fakes::Folder folder_;
  const Storage storage_ = open();
  uint64_t now_ = now_ms();
};

TEST_F(OnceTest, AnAnswerIsGivenAgainAsItWas) {
  done("k", R"({"n":1})", 201);
  for (int i = 0; i < 2; ++i) {
    const auto again = once("k").begin();
    ASSERT_TRUE(ok(again));
    ASSERT_TRUE(again->has_value());
    EXPECT_EQ((*again)->status, 201);
    EXPECT_EQ((*again)->body, R"({"n":1})");
    EXPECT_EQ((*again)->headers.find("Idempotent-Replayed"), "true");
  }
}

TEST_F(OnceTest, AKeyIsThatOfOneRequestAndOfOneToken) {
  Once first = once("k");
  ASSERT_TRUE(ours(first.begin()));
  EXPECT_THAT(once("k", kOther).begin(), Fails(ErrorCode::kInvalidArgument, "that of another request"));
  ASSERT_TRUE(ok(first.end(http::Response::json("1"))));
  EXPECT_THAT(once("k", kOther).begin(), Fails(ErrorCode::kInvalidArgument, "that of another request"));
  EXPECT_TRUE(ours(once("k", kRequest, kBob).begin()));
  EXPECT_TRUE(ours(once("k2").begin()));
  EXPECT_TRUE(ours(once("").begin()));
  EXPECT_EQ((*once("k").begin())->body, "1");
}

TEST_F(OnceTest, WhileItIsAtWorkNobodyElseDoesIt) {
  Once first = once("k");
  ASSERT_TRUE(ours(first.begin()));
  EXPECT_THAT(once("k").begin(), Fails(ErrorCode::kAborted, "is at work"));
  ASSERT_TRUE(ok(first.end(http::Response::json("1"))));
  EXPECT_EQ((*once("k").begin())->body, "1");
}

TEST_F(OnceTest, OfManyAtOnceOneDoesIt) {
  std::vector<std::future<Result<std::optional<http::Response>>>> all;
  std::vector<std::unique_ptr<Once>> kept(8);  // who does it does not end
  std::vector<Storage> storages;
  for (size_t i = 0; i < kept.size(); ++i) storages.push_back(open());
  for (size_t i = 0; i < kept.size(); ++i)
    all.push_back(std::async(std::launch::async, [&, i] {
      kept[i] = std::make_unique<Once>(storages[i], kAnn, "k", kRequest);
      return kept[i]->begin();
    }));
  int mine = 0, at_work = 0;
  for (auto &one : all) {
    const auto begun = one.get();
    mine += begun && !*begun;
    at_work += !begun && begun.error().code == ErrorCode::kAborted;
  }
  EXPECT_EQ(mine, 1);
  EXPECT_EQ(at_work, 7);
}

TEST_F(OnceTest, WhatFailedMayBeTriedAgain) {
  Once first = once("k");
  ASSERT_TRUE(ours(first.begin()));
  ASSERT_TRUE(ok(first.end(fail(ErrorCode::kUnavailable, "the host is away"))));
  EXPECT_EQ(remembered(), 0u);
  Once second = once("k", kOther);
  EXPECT_TRUE(ours(second.begin()));
}

TEST_F(OnceTest, WhatWasCutOffIsDoneAgainWithTheIdsOfThoseBefore) {
  std::vector<std::string> ids;
  for (size_t n = 1; n <= 3; ++n) {
    Once cut = once("k");  // and never ended
    ASSERT_TRUE(ours(cut.begin()));
    const std::vector<std::string> now = cut.ids();
    ASSERT_THAT(now, SizeIs(n));
    EXPECT_TRUE(std::equal(ids.begin(), ids.end(), now.begin()));
    EXPECT_EQ(std::set<std::string>(now.begin(), now.end()).size(), n);
    for (const std::string &id : now) {
      EXPECT_EQ(id.size(), 14u);
      EXPECT_TRUE(unhex(id));
    }
    ids = now;
    now_ += 1000;
  }
  EXPECT_THAT(once("k", kOther).begin(), Fails(ErrorCode::kInvalidArgument, "that of another request"));
  Once last = once("k");
  ASSERT_TRUE(ours(last.begin()));
  ASSERT_TRUE(ok(last.end(http::Response::json("4"))));
  EXPECT_EQ((*once("k").begin())->body, "4");
  Once other = once("k2");
  ASSERT_TRUE(ours(other.begin()));
  EXPECT_THAT(ids, testing::Not(testing::Contains(other.ids().front())));
}

TEST_F(OnceTest, TheRequestOfAProcessOfAnotherBootWasCutOff) {
  const std::string dead = "00000000-0000-0000-0000-000000000000:1:1";
  const std::string key = hex(sha256(Encoder().raw(kAnn).text("k").take()));
  Encoder e = begin("crq1");
  e.u64(now_ - 5).raw(kRequest).text(dead).u32(0).u8(0).u16(0).text("");
  Batch b;
  b.put(key, e.take());
  ASSERT_TRUE(ok(storage_.commit("requests", b)));
  Once next = once("k");
  ASSERT_TRUE(ours(next.begin()));
  EXPECT_THAT(next.ids(), SizeIs(2));
}

TEST_F(OnceTest, AfterADayItIsForgotten) {
  done("k", "1");
  now_ += kRememberedMs;
  EXPECT_EQ((*once("k").begin())->body, "1");
  EXPECT_THAT(once("k", kOther).begin(), Fails(ErrorCode::kInvalidArgument, "that of another request"));
  now_ += 1;
  Once next = once("k", kOther);
  ASSERT_TRUE(ours(next.begin()));
  EXPECT_THAT(next.ids(), SizeIs(1));
  // One that was at work a day ago, too: whoever did it has other work.
  now_ += kRememberedMs + 1;
  EXPECT_TRUE(ours(once("k").begin()));
}

TEST_F(OnceTest, WhatIsOldIsRemovedByALaterRequest) {
  now_ += 1000 * kRememberedMs;  // whenever other tests were
  for (const char *key : {"a", "b", "c"}) done(key, "1");
  now_ += kRememberedMs - 1000;
  done("d", "1");
  EXPECT_EQ(remembered(), 4u);
  now_ += 2 * 60 * 60 * 1000;
  done("e", "1");
  EXPECT_EQ(remembered(), 2u);
  EXPECT_EQ((*once("d").begin())->body, "1");
}

TEST_F(OnceTest, WhatCannotBeNotedIsNotBegun) {
  fail_next(folder_.path(), "commit");
  EXPECT_THAT(once("k").begin(), Fails(ErrorCode::kUnavailable, ""));
  fail_next(folder_.path(), "get");
  EXPECT_THAT(once("k").begin(), Fails(ErrorCode::kUnavailable, ""));
  Batch b;
  b.put(hex(sha256(Encoder().raw(kAnn).text("k").take())), Bytes{'c', 'r', 'q', '1', 0});
  ASSERT_TRUE(ok(storage_.commit("requests", b)));
  EXPECT_THAT(once("k").begin(), Fails(ErrorCode::kDataLoss, "request"));
}

// ---- through the API ----

class OnceOverHttp : public testing::Test {
 protected:
  http::Answer ask(const std::string &method, const std::string &target, const std::string &key,
                   const std::string &body, const std::string &token) const {
    http::Call call;
    call.method = method;
    call.target = target;
    call.body = body;
    call.headers = {{"Authorization", "Bearer " + token}, {"Idempotency-Key", key}};
    const auto answer = client_->call(call);
    EXPECT_TRUE(ok(answer));
    return answer ? *answer : http::Answer{};
  }
  http::Answer ask(const std::string &method, const std::string &target, const std::string &key,
                   const std::string &body = "") const {
    return ask(method, target, key, body, token_);
  }
  World world_;
  const std::string token_ = world_.token();
  std::unique_ptr<http::Client> client_ = *http::Client::open({.url = world_.url()});
};

TEST_F(OnceOverHttp, AMachineIsMadeOnce) {
  EXPECT_EQ(ask("POST", "/v1/apps", "a", R"({"name": "web"})").status, 201);
  EXPECT_EQ(ask("POST", "/v1/apps", "a", R"({"name": "web"})").status, 201);
  const std::string run = R"({"config": {"image": "host"}})";
  const http::Answer first = ask("POST", "/v1/apps/web/machines", "m", run);
  EXPECT_EQ(first.status, 201);
  EXPECT_FALSE(first.headers.find("Idempotent-Replayed"));
  const http::Answer again = ask("POST", "/v1/apps/web/machines", "m", run);
  EXPECT_EQ(again.status, 201);
  EXPECT_EQ(again.headers.find("Idempotent-Replayed"), "true");
  EXPECT_EQ(http::view(again.body), http::view(first.body));
  EXPECT_THAT(world_.machines.all(), SizeIs(1));
  // Another body, another path, another method: another request.
  EXPECT_EQ(ask("POST", "/v1/apps/web/machines", "m", R"({"config": {"image": "other"}})").status, 400);
  EXPECT_EQ(ask("POST", "/v1/apps/web/deploy", "m", "{}").status, 400);
  EXPECT_EQ(ask("DELETE", "/v1/apps/web", "m").status, 400);
  EXPECT_THAT(world_.machines.all(), SizeIs(1));
  // Another token, another key.
  EXPECT_EQ(ask("POST", "/v1/apps/web/machines", "m", run, world_.token()).status, 201);
  EXPECT_EQ(ask("POST", "/v1/apps/web/machines", "m2", run).status, 201);
  EXPECT_THAT(world_.machines.all(), SizeIs(3));
}

TEST_F(OnceOverHttp, AnAnswerIsForWhoeverMayStillAsk) {
  EXPECT_EQ(ask("POST", "/v1/apps", "a", R"({"name": "web"})").status, 201);
  Macaroon less = *Macaroon::parse_text(token_);
  ASSERT_TRUE(ok(less.narrow("allow = list")));
  EXPECT_EQ(ask("POST", "/v1/apps", "a", R"({"name": "web"})", less.text()).status, 403);
}

TEST_F(OnceOverHttp, AKeyHas1To255Bytes) {
  EXPECT_EQ(ask("POST", "/v1/apps", "", R"({"name": "web"})").status, 400);
  EXPECT_EQ(ask("POST", "/v1/apps", std::string(256, 'k'), R"({"name": "web"})").status, 400);
  EXPECT_EQ(ask("POST", "/v1/apps", std::string(255, 'k'), R"({"name": "web"})").status, 201);
}

TEST_F(OnceOverHttp, WhatFailedIsDoneWhenItIsAskedForAgain) {
  EXPECT_EQ(ask("POST", "/v1/apps", "a", R"({"name": "web"})").status, 201);
  EXPECT_EQ(ask("POST", "/v1/apps/web/machines/one/stop", "s").status, 404);
  EXPECT_EQ(
      ask("POST", "/v1/apps/web/machines", "m", R"({"name": "one", "config": {"image": "host"}})").status,
      201);
  EXPECT_EQ(ask("POST", "/v1/apps/web/machines/one/stop", "s").status, 200);
  EXPECT_THAT(world_.machines.in_state("stopped"), SizeIs(1));
}

}  // namespace
}  // namespace coffer::api
