// Work that takes long, whether or not somebody listens to its end.
#include "work.h"

#include <condition_variable>

#include "coffer/base/json.h"
#include "server/http/client.h"
#include "server/http/test_support.h"
#include "test_world.h"

namespace coffer::api {
namespace {

using http::Context;
using http::Raw;
using http::Request;
using http::Response;
using http::Writer;
using testing::HasSubstr;

// Waited for by one thread, said by another.
class Gate {
 public:
  void open() {
    {
      const std::lock_guard lock(mutex_);
      open_ = true;
    }
    changed_.notify_all();
  }
  bool pass() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] { return open_; });
  }
  bool is_open() {
    const std::lock_guard lock(mutex_);
    return open_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

// GET /answer waits for the work's answer, GET /lines has its lines.
class WorkTest : public testing::Test {
 protected:
  void start(std::function<Answer(Work &)> work) {
    auto server = http::Server::start(
        {.unix_path = folder_.file("sock"), .workers = 1},
        [this, work](const Request &r, Context &context) {
          const auto shared = std::make_shared<Work>();
          const auto told = [this](const Answer &a) {
            answer_ = a ? a->body : a.error().message;
            answered_.open();
            return a ? *a : Response::error(500, a.error().message);
          };
          const auto body = [w = shared.get(), work] { return work(*w); };
          if (r.path.front() == "answer") {
            shared->begin(body);
            let_go(context);
            return told(shared->wait(context));
          }
          if (r.path.front() == "quick") return Response::json("{\"quick\":true}");
          Response out;
          out.stream = [this, shared, body, told](Context &c, Writer &to) {
            shared->begin(body);
            let_go(c);
            const auto end = told(shared->wait(c, [&](const std::string &lines) { return to.write(lines); }));
            to.write("end " + end.body + "\n");
          };
          return out;
        },
        [](const Request &) { return http::Admission{.waits = true}; });
    ASSERT_TRUE(ok(server));
    server_ = *std::move(server);
  }
  ~WorkTest() override {
    go_.open();
    if (server_) server_->stop();
  }
  // Where the test wants that: the client is known to have gone before its request waits.
  void let_go(Context &context) {
    if (!leaves_) return;
    http::Signal never;
    EXPECT_EQ(context.wait(never, never.count(), http::Clock::now() + kPatience), http::Woken::kGone);
    gone_.open();
  }
  Raw get(const std::string &path) {
    Raw raw = Raw::to_unix(folder_.file("sock"));
    EXPECT_TRUE(raw.send("GET /" + path + " HTTP/1.1\r\nHost: x\r\n\r\n"));
    return raw;
  }

  const fakes::Folder folder_;
  std::string answer_;  // written before answered_
  bool leaves_ = false;
  Gate begun_, gone_, go_, finished_, answered_;
  std::unique_ptr<http::Server> server_;
};

TEST_F(WorkTest, ItsAnswerIsTheAnswerOfTheRequest) {
  start([](Work &) -> Answer { return Response::json("\"done\"", 201); });
  Raw raw = get("answer");
  ASSERT_TRUE(raw.read_until("\"done\""));
  EXPECT_EQ(raw.status(), 201);
}

TEST_F(WorkTest, ItsErrorIsTheErrorOfTheRequest) {
  start([](Work &) -> Answer { return fail(ErrorCode::kAborted, "somebody was faster"); });
  Raw raw = get("answer");
  ASSERT_TRUE(raw.read_until("somebody was faster"));
  EXPECT_EQ(raw.status(), 500);
}

TEST_F(WorkTest, WhatItSaysIsHeardInOrderBeforeItEnds) {
  start([this](Work &w) -> Answer {
    w.say("m1", "stopping");
    w.say("", "a \"line\" of an image\n");
    go_.pass();
    w.say("m1", "started");
    return Response::json("\"done\"");
  });
  Raw raw = get("lines");
  ASSERT_TRUE(raw.read_until("of an image"));
  EXPECT_FALSE(answered_.is_open());
  go_.open();
  ASSERT_TRUE(raw.read_until("end \"done\""));
  EXPECT_THAT(raw.got, testing::AllOf(HasSubstr("{\"machine\":\"m1\",\"step\":\"stopping\"}\n"),
                                      HasSubstr("{\"step\":\"a \\\"line\\\" of an image\\n\"}\n"),
                                      HasSubstr("{\"machine\":\"m1\",\"step\":\"started\"}\n")));
  EXPECT_LT(raw.got.find("stopping"), raw.got.find("of an image"));
  EXPECT_LT(raw.got.find("of an image"), raw.got.find("started"));
}

TEST_F(WorkTest, WhoWaitsForItHoldsNoWorker) {
  start([this](Work &) -> Answer {
    begun_.open();
    go_.pass();
    return Response::json("\"done\"");
  });
  Raw slow = get("answer");
  ASSERT_TRUE(begun_.pass());
  // Until it waits, it has the one place that there is: 503.
  const auto end = http::Clock::now() + kPatience;
  for (int status = 0; status != 200;) {
    ASSERT_LT(http::Clock::now(), end);
    Raw quick = get("quick");
    ASSERT_TRUE(quick.read_until("}"));
    status = quick.status();
  }
  EXPECT_FALSE(slow.readable(std::chrono::milliseconds(0)));
  go_.open();
  ASSERT_TRUE(slow.read_until("\"done\""));
}

class GoneTest : public WorkTest, public testing::WithParamInterface<const char *> {};
INSTANTIATE_TEST_SUITE_P(, GoneTest, testing::Values("answer", "lines"));

TEST_P(GoneTest, ItIsDoneToItsEndWhenNobodyListensAnyMore) {
  leaves_ = true;
  start([this](Work &w) -> Answer {
    begun_.open();
    go_.pass();
    for (int i = 0; i < 100; ++i) w.say("m1", "step");
    finished_.open();
    return Response::json("\"done\"");
  });
  Raw raw = get(GetParam());
  ASSERT_TRUE(begun_.pass());
  raw.close();
  ASSERT_TRUE(gone_.pass());
  EXPECT_FALSE(answered_.is_open());
  go_.open();
  ASSERT_TRUE(finished_.pass());
  ASSERT_TRUE(answered_.pass());
  EXPECT_EQ(answer_, "\"done\"");  // not the end of the wait
}

TEST_P(GoneTest, TheEndOfTheServerWaitsForIt) {
  start([this](Work &) -> Answer {
    begun_.open();
    go_.pass();
    finished_.open();
    return Response::json("\"done\"");
  });
  Raw raw = get(GetParam());
  ASSERT_TRUE(begun_.pass());
  std::thread stopping([&] { server_->stop(); });
  raw.finish();
  go_.open();
  stopping.join();
  EXPECT_TRUE(finished_.is_open());
  ASSERT_TRUE(answered_.is_open());
  EXPECT_EQ(answer_, "\"done\"");
}

}  // namespace
}  // namespace coffer::api
