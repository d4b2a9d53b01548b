#include "coffer/plugin_host/runtime.h"

#include <fcntl.h>

#include <cstring>

#include "test_plugins.h"

namespace coffer {
namespace {

using Labels = std::vector<std::pair<std::string, std::string>>;

class RuntimeFront : public PluginHostTest {
 protected:
  Runtime open(const std::string &lie = "") {
    install("fake-runtime");
    Result<Runtime> r = Runtime::open(config("fake-runtime", {{"lie", lie}}));
    if (!r) throw std::runtime_error(r.error().message);
    return *std::move(r);
  }
  static InstanceSpec spec() {
    InstanceSpec s;
    s.name = "web";
    s.instance_id = "i-1";
    s.labels = {{"coffer.app", "web"}};
    return s;
  }
  static std::vector<Delivery> deliveries(std::string_view value) {
    std::vector<Delivery> out(1);
    out[0].via = COFFER_VIA_ENV;
    out[0].name = "TOKEN";
    out[0].value = SecretBytes::copy_of(as_bytes(value));
    return out;
  }
  const Bytes handle_ = {'h'};
};

TEST_F(RuntimeFront, TellsTheWaysOfThePlugin) {
  EXPECT_EQ(open().vias(), COFFER_VIA_ENV | COFFER_VIA_TMPFS);
  EXPECT_EQ(open().vias_exposed(), COFFER_VIA_ENV);
}

TEST_F(RuntimeFront, CreateGetsPlacesAndStartGetsValues) {
  const Runtime r = open();
  const auto created = r.create(spec(), deliveries("value"));
  ASSERT_TRUE(succeeds(created));
  EXPECT_EQ(created->name, "web");
  EXPECT_EQ(created->state, COFFER_M_STARTED);
  EXPECT_EQ(as_text(created->handle), "handle");
  EXPECT_EQ(created->labels, spec().labels);
  EXPECT_EQ(created->message, "line one line  [31mtwo");
  EXPECT_TRUE(succeeds(r.start(created->handle, deliveries("value"))));
  EXPECT_TRUE(succeeds(r.stop(created->handle, "SIGTERM", 1)));
  EXPECT_TRUE(succeeds(r.destroy(created->handle, true)));
}

struct Lie {
  const char *lie, *says;
};
class LyingCreate : public RuntimeFront, public testing::WithParamInterface<Lie> {};
TEST_P(LyingCreate, IsDataLossByName) {
  EXPECT_THAT(
      open(GetParam().lie).create(spec(), {}),
      FailsWith(ErrorCode::kDataLoss, "plugin fake-runtime: create: " + std::string(GetParam().says)));
}
INSTANTIATE_TEST_SUITE_P(All, LyingCreate,
                         testing::Values(Lie{"nothing", "answered OK without a status"},
                                         Lie{"twice", "answered too many Machines"},
                                         Lie{"other id", "answered another instance_id"},
                                         Lie{"no handle", "answered no handle"},
                                         Lie{"large handle", "answered a handle of more than 4096 bytes"},
                                         Lie{"state 99", "answered a state that is none"},
                                         Lie{"control name", "answered a name or id that is no text"},
                                         Lie{"name without data", "answered a name or id that is no text"},
                                         Lie{"labels without data", "answered a broken list of labels"},
                                         Lie{"short status", "answered a status that is too short"},
                                         Lie{"null status", "answered a status that is too short"}));

TEST_F(RuntimeFront, AMachineThatIsGoneIsAStateNotAnError) {
  const auto gone = open("gone").inspect(handle_);
  ASSERT_TRUE(succeeds(gone));
  EXPECT_EQ(gone->state, COFFER_M_GONE);
  EXPECT_EQ(gone->handle, handle_);
  EXPECT_EQ(open().inspect(handle_).value().handle, handle_) << "a handle left out is the one asked for";
  EXPECT_THAT(open("nothing").inspect(handle_),
              FailsWith(ErrorCode::kDataLoss, "inspect: answered OK without"));
}

TEST_F(RuntimeFront, HandlesThatAreNoneNeverReachThePlugin) {
  const Runtime r = open();
  const Bytes large(4097);
  for (const ByteSpan h : {ByteSpan(), ByteSpan(large)}) {
    EXPECT_THAT(r.start(h, {}), FailsWith(ErrorCode::kInvalidArgument, "a handle must have"));
    EXPECT_THAT(r.stop(h, "SIGTERM", 0), FailsWith(ErrorCode::kInvalidArgument, "a handle must have"));
    EXPECT_THAT(r.destroy(h, false), FailsWith(ErrorCode::kInvalidArgument, "a handle must have"));
    EXPECT_THAT(r.inspect(h), FailsWith(ErrorCode::kInvalidArgument, "a handle must have"));
    EXPECT_THAT(r.wait(h), FailsWith(ErrorCode::kInvalidArgument, "a handle must have"));
  }
}

TEST_F(RuntimeFront, AListedMachineWithoutTheLabelsAskedForIsDataLoss) {
  const Labels labels = {{"coffer.app", "web"}};
  EXPECT_EQ(open().list(labels).value().size(), 2u);
  EXPECT_THAT(open("foreign Machine").list(labels),
              FailsWith(ErrorCode::kDataLoss, "list: answered a Machine without the labels asked for"));
  EXPECT_TRUE(succeeds(open("foreign Machine").list({})));
  EXPECT_THAT(open("no handle").list({}),
              FailsWith(ErrorCode::kDataLoss, "list: answered a Machine without a handle"));
}

TEST_F(RuntimeFront, WaitCanBeCancelled) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  EXPECT_TRUE(succeeds(open().wait(handle_, {.cancel_fd = fds[0]})));
  ::close(fds[1]);  // a closed pipe is readable, too
  EXPECT_THAT(open().wait(handle_, {.cancel_fd = fds[0]}),
              FailsWith(ErrorCode::kCancelled, "wait: cancelled"));
  ::close(fds[0]);
}

TEST_F(RuntimeFront, LogsStopWhenTold) {
  int lines = 0;
  EXPECT_TRUE(succeeds(open().logs(handle_, {}, [&](uint32_t stream, int64_t, ByteSpan data) {
    EXPECT_EQ(stream, 1u);
    EXPECT_EQ(as_text(data), "line\n");
    return ++lines < 3;
  })));
  EXPECT_EQ(lines, 3);
  EXPECT_THAT(open().logs(handle_, {}, [](uint32_t, int64_t, ByteSpan) -> bool { throw std::bad_alloc(); }),
              FailsWith(ErrorCode::kResourceExhausted, "no memory"));
}

TEST_F(RuntimeFront, ExecJoinsTheStreamsAndAnswersTheExitCode) {
  std::string out, err;
  const auto write_out = [&](uint32_t stream, ByteSpan data) {
    (stream == 1 ? out : err) += as_text(data);
    return true;
  };
  const auto read_in = [](std::span<uint8_t> buffer) -> int64_t {
    std::memcpy(buffer.data(), "input", 5);
    return 5;
  };
  const auto code = open().exec(handle_, {"cat"}, write_out, read_in, {}, /*in_fd=*/0);
  ASSERT_TRUE(succeeds(code));
  EXPECT_EQ(*code, 7);
  EXPECT_EQ(out, "input");
  EXPECT_EQ(err, "cat");
  EXPECT_THAT(open().exec(handle_, {}, {}, {}), FailsWith(ErrorCode::kInvalidArgument, "no command"));
}

TEST_F(RuntimeFront, ExecWithoutADescriptorOrAReaderHasNoInput) {
  std::string out;
  const auto write_out = [&](uint32_t stream, ByteSpan data) {
    if (stream == 1) out += as_text(data);
    return true;
  };
  const auto never = [](std::span<uint8_t>) -> int64_t { return ADD_FAILURE() << "asked for input", -1; };
  EXPECT_TRUE(succeeds(open().exec(handle_, {"cat"}, write_out, never)));
  EXPECT_TRUE(succeeds(open().exec(handle_, {"cat"}, write_out, {}, {}, /*in_fd=*/0)));
  EXPECT_EQ(out, "");
}

TEST_F(RuntimeFront, EveryFieldOfASpecArrives) {
  InstanceSpec s = spec();
  s.ports = {{"127.0.0.1", 8080, 80, false}, {"", 0, 53, true}};
  s.mounts = {{"data", "/data", false}, {"/srv", "/mnt", true}};
  s.cap_drop = {"NET_RAW", "CHOWN"};
  s.network = "backend";
  s.read_only = true;
  s.memory_bytes = 64u << 20;
  s.stop_signal = "SIGQUIT";
  s.stop_timeout_ns = 5'000'000'000;
  const auto created = open("fields").create(s, {});
  ASSERT_TRUE(succeeds(created));
  EXPECT_EQ(created->message,
            "flags 1; port 127.0.0.1 8080 80 6; port  0 53 17; mount data /data 0; mount /srv /mnt 1; "
            "cap NET_RAW; cap CHOWN; network backend; memory 67108864; stop SIGQUIT 5000000000");
  const auto plain = open("fields").create(spec(), {});
  ASSERT_TRUE(succeeds(plain));
  EXPECT_EQ(plain->message, "flags 0; network ; memory 0; stop  0");
}

TEST_F(RuntimeFront, AnImageGetsItsReferenceAndTellsOfAPull) {
  std::vector<std::string> lines;
  const auto progress = [&](std::string_view line) { lines.emplace_back(line); };
  EXPECT_EQ(open().ensure_image("nginx:1", false, progress).value(), "nginx:1@sha256:1");
  EXPECT_THAT(lines, testing::IsEmpty());
  EXPECT_EQ(open().ensure_image("nginx:1", true, progress).value(), "nginx:1@sha256:1");
  EXPECT_THAT(lines, testing::ElementsAre("layer 1  [2J"));
  EXPECT_TRUE(succeeds(open().ensure_image("nginx:1", true, {}))) << "nobody need watch";
}

TEST_F(RuntimeFront, AnImageThatIsNotHereSaysWhatToDo) {
  const auto r = open("no image").ensure_image("nginx:1", false, {});
  EXPECT_THAT(r, FailsWith(ErrorCode::kNotFound, "there is no such image here"));
  EXPECT_EQ(r.error().remedy, "pull it with  --pull");
}

TEST_F(RuntimeFront, AReferenceThatIsNoTextIsDataLoss) {
  for (const char *lie : {"empty reference", "two lines"})
    EXPECT_THAT(open(lie).ensure_image("nginx:1", false, {}),
                FailsWith(ErrorCode::kDataLoss, "plugin fake-runtime: image: answered a reference"));
  EXPECT_FALSE(open("large reference").ensure_image("nginx:1", false, {}));
}

TEST_F(RuntimeFront, EventsBeginWithListeningAndStopWhenTold) {
  const Labels labels = {{"coffer.app", "web"}};
  std::vector<InstanceStatus> seen;
  EXPECT_TRUE(succeeds(open().events(labels, [&](const InstanceStatus &s) {
    seen.push_back(s);
    return seen.size() < 3;
  })));
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen[0].state, COFFER_M_UNKNOWN);
  EXPECT_EQ(seen[0].instance_id, "");
  EXPECT_EQ(seen[1].instance_id, "i-1");
  EXPECT_EQ(seen[1].labels, labels);
}

TEST_F(RuntimeFront, AnEventOfAForeignMachineIsDataLoss) {
  int seen = 0;
  const auto each = [&](const InstanceStatus &) { return ++seen < 10; };
  EXPECT_THAT(open("foreign Machine").events({{"coffer.app", "web"}}, each),
              FailsWith(ErrorCode::kDataLoss, "tell of changes: answered a Machine without the labels"));
  EXPECT_EQ(seen, 1) << "only that it listens";
  EXPECT_THAT(open("short status").events({}, each),
              FailsWith(ErrorCode::kDataLoss, "tell of changes: answered a status that is too short"));
  EXPECT_EQ(seen, 1);
}

TEST_F(RuntimeFront, EventsEndWhenThePlatformDoes) {
  int seen = 0;
  EXPECT_THAT(open("platform is gone").events({}, [&](const InstanceStatus &) { return ++seen < 10; }),
              FailsWith(ErrorCode::kUnavailable, "the platform is gone"));
  EXPECT_EQ(seen, 1);
  EXPECT_THAT(open().events({}, [](const InstanceStatus &) -> bool { throw std::bad_alloc(); }),
              FailsWith(ErrorCode::kResourceExhausted, "no memory"));
}

TEST_F(RuntimeFront, AProbeThatIsNotPassedSaysWhyAndNothingElse) {
  Check check;
  check.port = 80;
  check.path = "/not/of/tcp";
  EXPECT_TRUE(succeeds(open("passed").probe(handle_, check)));
  const auto tcp = open().probe(handle_, check);
  ASSERT_FALSE(tcp);
  EXPECT_EQ(tcp.error().code, ErrorCode::kFailedPrecondition);
  EXPECT_EQ(tcp.error().message, "kind 1, port 80,") << "nothing of what is not TCP's";
  check.kind = Check::Kind::kHttp;
  check.method = "HEAD";
  check.path = "/health";
  const auto http = open().probe(handle_, check);
  ASSERT_FALSE(http);
  EXPECT_EQ(http.error().message, "kind 2, port 80, HEAD /health");
}

TEST_F(RuntimeFront, AProbeThatCannotBeMadeIsAnErrorOfThePlugin) {
  EXPECT_THAT(open("probe fails").probe(handle_, {}),
              FailsWith(ErrorCode::kUnavailable, "plugin fake-runtime: try checks: the platform is gone"));
  Check command;
  command.kind = Check::Kind::kCommand;
  EXPECT_THAT(open("passed").probe(handle_, command), FailsWith(ErrorCode::kInvalidArgument, "command"));
  EXPECT_THAT(open("passed").probe({}, {}), FailsWith(ErrorCode::kInvalidArgument, "a handle must have"));
}

TEST_F(RuntimeFront, AnUpdateGetsValuesFoldersAndASignal) {
  std::vector<Delivery> files = deliveries("value");
  files[0].via = COFFER_VIA_TMPFS;
  files[0].in_folder = true;
  const Runtime r = open();
  EXPECT_TRUE(r.can_update());
  EXPECT_TRUE(succeeds(r.update(handle_, files, "SIGHUP")));
  EXPECT_THAT(r.update(handle_, files, ""),
              FailsWith(ErrorCode::kInvalidArgument, "plugin fake-runtime: replace files: what signal"));
  files[0].in_folder = false;
  EXPECT_THAT(r.update(handle_, files, "SIGHUP"), FailsWith(ErrorCode::kInvalidArgument, "which folder"));
  EXPECT_THAT(r.update({}, files, ""), FailsWith(ErrorCode::kInvalidArgument, "a handle must have"));
}

TEST_F(RuntimeFront, SweepingIsOptionalAndItsFailureIsNot) {
  EXPECT_TRUE(succeeds(open().sweep()));
  EXPECT_THAT(open("sweep fails").sweep(), FailsWith(ErrorCode::kUnavailable, "nothing was swept"));
}

TEST_F(RuntimeFront, WithoutImagesAnImageIsWhatWasAskedForAndWithoutEventsNoneAreTold) {
  const Runtime r = open("no exec");
  EXPECT_EQ(r.ensure_image("host", true, {}).value(), "host");
  EXPECT_THAT(r.events({}, [](const InstanceStatus &) { return true; }),
              FailsWith(ErrorCode::kUnimplemented, "plugin fake-runtime does not tell of changes"));
}

TEST_F(RuntimeFront, OptionalPartsThatAreMissingAreSaidKindly) {
  const Runtime r = open("no exec");
  EXPECT_THAT(r.exec(handle_, {"x"}, {}, {}),
              FailsWith(ErrorCode::kUnimplemented, "plugin fake-runtime cannot execute commands"));
  EXPECT_THAT(r.logs(handle_, {}, {}),
              FailsWith(ErrorCode::kUnimplemented, "plugin fake-runtime cannot show logs"));
  EXPECT_THAT(r.probe(handle_, {}),
              FailsWith(ErrorCode::kUnimplemented, "plugin fake-runtime cannot try checks"));
  EXPECT_FALSE(r.can_update());
  EXPECT_THAT(r.update(handle_, {}, ""),
              FailsWith(ErrorCode::kUnimplemented, "plugin fake-runtime cannot replace files"));
}

}  // namespace
}  // namespace coffer
