// What happens before, during and after dlopen.
#include <dlfcn.h>
#include <fcntl.h>
#include <time.h>

#include "bridge.h"
#include "coffer/crypto/primitives.h"
#include "coffer/plugin_host/storage.h"
#include "test_plugins.h"

namespace coffer {
namespace {

using testing::HasSubstr;

class PluginFile : public PluginHostTest {
 protected:
  // A refused plugin must not have run: not even its constructors.
  bool some_code_ran() const { return fs::exists(witness()); }
  fs::path witness() const { return dir() / "witness"; }
  void SetUp() override {
    PluginHostTest::SetUp();
    ::setenv("COFFER_TEST_WITNESS", witness().c_str(), 1);
  }
  void TearDown() override {
    ::unsetenv("COFFER_TEST_WITNESS");
    PluginHostTest::TearDown();
  }
};

TEST_F(PluginFile, TheWitnessWorks) {
  install("broken-nothing");
  EXPECT_TRUE(succeeds(Plugin::locate(config("broken-nothing"))));
  EXPECT_FALSE(some_code_ran());
  EXPECT_TRUE(succeeds(Plugin::load(config("broken-nothing"))));
  EXPECT_TRUE(some_code_ran());
}

TEST_F(PluginFile, IsLoadedOncePerProcess) {
  const fs::path file = install("broken-nothing");
  const auto first = Plugin::load(config("broken-nothing"));
  fs::remove(witness());
  const auto second = Plugin::load(config(file.string()));
  ASSERT_TRUE(succeeds(first));
  ASSERT_TRUE(succeeds(second));
  EXPECT_EQ(*first, *second);
  EXPECT_EQ((*first)->path(), file);
  EXPECT_FALSE(some_code_ran());
}

TEST_F(PluginFile, IsFoundByNameAndByAbsolutePathOnly) {
  const fs::path file = install("broken-nothing");
  EXPECT_TRUE(succeeds(Plugin::locate(config("broken-nothing"))));
  EXPECT_TRUE(succeeds(Plugin::locate(config(file.string()))));
  for (const std::string name :
       {"./broken-nothing", "sub/broken-nothing", "../broken-nothing", "..", ".", "a..b", "broken nothing",
        "broken-nothing\n", ".hidden", "~/x", "$HOME", "é"})
    EXPECT_THAT(Plugin::locate(config(name)),
                FailsWith(ErrorCode::kInvalidArgument, "[test]: 'plugin' must be"))
        << name;
  EXPECT_THAT(Plugin::locate(config(std::string("/a\0b", 4))),
              FailsWith(ErrorCode::kInvalidArgument, "'plugin' holds a NUL byte"));
  EXPECT_THAT(Plugin::locate(config("")), FailsWith(ErrorCode::kInvalidArgument, "'plugin' is missing"));
  EXPECT_THAT(Plugin::locate(config("absent")),
              FailsWith(ErrorCode::kNotFound, "plugin absent: there is no file " + dir().string()));
  PluginConfig relative = config("broken-nothing");
  relative.plugin_dir = "plugins";
  EXPECT_THAT(Plugin::locate(relative), FailsWith(ErrorCode::kInvalidArgument, "not an absolute path"));
}

TEST_F(PluginFile, WritableByOthersIsRefusedBeforeItRuns) {
  const fs::path file = install("broken-nothing");
  ::chmod(file.c_str(), 0757);
  const auto loaded = Plugin::load(config("broken-nothing"));
  EXPECT_THAT(loaded,
              FailsWith(ErrorCode::kPermissionDenied, "file " + file.string() + " is writable by others"));
  EXPECT_THAT(loaded, Advises("chmod o-w " + file.string()));
  EXPECT_FALSE(some_code_ran());
}

TEST_F(PluginFile, InAFolderWritableByOthersIsRefusedBeforeItRuns) {
  const fs::path sub = dir() / "a" / "b";
  fs::create_directories(sub);
  const fs::path file = sub / "p.so";
  fs::copy_file(install("broken-nothing"), file);
  ASSERT_TRUE(succeeds(Plugin::locate(config(file.string()))));
  ::chmod((dir() / "a").c_str(), 0777);  // not its own folder: one further up
  const auto loaded = Plugin::load(config(file.string()));
  EXPECT_THAT(loaded, FailsWith(ErrorCode::kPermissionDenied,
                                "folder " + (dir() / "a").string() + " is writable by"));
  EXPECT_THAT(loaded, Advises(" " + (dir() / "a").string()));
  EXPECT_FALSE(some_code_ran());
}

TEST_F(PluginFile, AStickyFolderIsGoodOnlyWhenItIsRoots) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give folders away";
  const fs::path file = install("broken-nothing");
  ::chmod(dir().c_str(), 01777);
  EXPECT_TRUE(succeeds(Plugin::locate(config(file.string()))));
  ASSERT_EQ(::chown(dir().c_str(), 12345, 0), 0);
  EXPECT_THAT(Plugin::load(config(file.string())),
              FailsWith(ErrorCode::kPermissionDenied, "belongs to user 12345"));
  EXPECT_FALSE(some_code_ran());
}

TEST_F(PluginFile, OfAnotherUserIsRefusedBeforeItRuns) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give files away";
  const fs::path file = install("broken-nothing");
  ASSERT_EQ(::chown(file.c_str(), 12345, 0), 0);
  EXPECT_THAT(Plugin::load(config("broken-nothing")),
              FailsWith(ErrorCode::kPermissionDenied, "file " + file.string() + " belongs to user 12345"));
  ASSERT_EQ(::chown(file.c_str(), 0, 0), 0);
  ASSERT_EQ(::chown(dir().c_str(), 12345, 0), 0);
  EXPECT_THAT(Plugin::load(config("broken-nothing")),
              FailsWith(ErrorCode::kPermissionDenied, "folder " + dir().string() + " belongs to user 12345"));
  EXPECT_FALSE(some_code_ran());
}

TEST_F(PluginFile, WritableByAGroupIsGoodOnlyWhenItIsTheOwnersPrivateGroup) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give files away";
  const fs::path file = install("broken-nothing");
  ::chmod(file.c_str(), 0775);
  ASSERT_EQ(::chown(file.c_str(), 0, 0), 0);  // group root of user root
  EXPECT_TRUE(succeeds(Plugin::locate(config("broken-nothing"))));
  ASSERT_EQ(::chown(file.c_str(), 0, 1), 0);
  const auto loaded = Plugin::load(config("broken-nothing"));
  EXPECT_THAT(loaded, FailsWith(ErrorCode::kPermissionDenied, "is writable by its group"));
  EXPECT_THAT(loaded, Advises("chmod g-w"));
  EXPECT_FALSE(some_code_ran());
}

TEST_F(PluginFile, OfAnotherKindThanAFileIsRefused) {
  const fs::path folder = dir() / "folder.so", pipe = dir() / "pipe.so";
  fs::create_directory(folder);
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const std::string name : {"folder", "pipe", "/dev/null"})
    EXPECT_THAT(Plugin::load(config(name)), FailsWith(ErrorCode::kInvalidArgument, "is not a regular file"));
}

TEST_F(PluginFile, IsCheckedWhereASymbolicLinkLeads) {
  const fs::path open_dir = dir() / "open";
  fs::create_directory(open_dir);
  fs::rename(install("broken-nothing"), open_dir / "real.so");
  fs::create_symlink(open_dir / "real.so", dir() / "link.so");
  const auto located = Plugin::locate(config("link"));
  ASSERT_TRUE(succeeds(located));
  EXPECT_EQ(*located, open_dir / "real.so");
  ::chmod(open_dir.c_str(), 0777);
  EXPECT_THAT(Plugin::load(config("link")),
              FailsWith(ErrorCode::kPermissionDenied, "folder " + open_dir.string() + " is writable"));
  fs::create_symlink("circle.so", dir() / "circle.so");
  EXPECT_THAT(Plugin::load(config("circle")), FailsWith(ErrorCode::kPermissionDenied, "cannot be reached"));
  fs::create_symlink("nowhere", dir() / "dangling.so");
  EXPECT_THAT(Plugin::load(config("dangling")), FailsWith(ErrorCode::kNotFound, "there is no file"));
  EXPECT_FALSE(some_code_ran());
}

TEST_F(PluginFile, WithAPinIsLoadedOnlyWhenTheHashIsTheSame) {
  const fs::path file = install("broken-nothing");
  std::ifstream in(file, std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(in), {}};
  PluginConfig c = config("broken-nothing");
  c.sha256 = hex(sha256(as_bytes(content)));
  PluginConfig other = c;
  other.sha256[0] = other.sha256[0] == '0' ? '1' : '0';
  const auto refused = Plugin::load(other);
  EXPECT_THAT(refused, FailsWith(ErrorCode::kPermissionDenied, "has another SHA-256 than its pin"));
  EXPECT_THAT(refused, Advises("sha256sum " + file.string()));
  EXPECT_FALSE(some_code_ran());
  for (const std::string &bad : {std::string("0"), std::string("zz"), std::string(64, 'A'),
                                 std::string(63, 'a'), std::string(66, 'a')}) {
    other.sha256 = bad;
    EXPECT_THAT(Plugin::load(other),
                FailsWith(ErrorCode::kInvalidArgument, "'sha256' must be 64 hexadecimal digits"));
  }
  EXPECT_TRUE(succeeds(Plugin::load(c)));
  // The pin is asked again although the file is loaded already.
  other.sha256 = std::string(64, '0');
  EXPECT_THAT(Plugin::load(other), FailsWith(ErrorCode::kPermissionDenied, "pin"));
}

TEST_F(PluginFile, ThatIsNoLibraryIsRefusedInOneSentence) {
  write("text.so", "not an ELF file at all, by far\n", 0644);
  write("empty.so", "", 0644);
  EXPECT_THAT(Plugin::load(config("text")),
              FailsWith(ErrorCode::kFailedPrecondition, "text.so cannot be loaded"));
  EXPECT_THAT(Plugin::load(config("empty")),
              FailsWith(ErrorCode::kFailedPrecondition, "empty.so cannot be loaded"));
}

TEST_F(PluginFile, WithAnUndefinedSymbolIsRefusedAtLoadAndNamesIt) {
  install("broken-undefined-symbol");
  EXPECT_THAT(Plugin::load(config("broken-undefined-symbol")),
              FailsWith(ErrorCode::kFailedPrecondition, "coffer_test_function_that_nobody_defines"));
  EXPECT_FALSE(some_code_ran());
}

struct Broken {
  const char *fake, *says;
};
class PluginEntry : public PluginHostTest, public testing::WithParamInterface<Broken> {};

TEST_P(PluginEntry, ThatIsBrokenIsRefusedWithItsOwnSentence) {
  const fs::path file = install(GetParam().fake);
  const auto loaded = Plugin::load(config(GetParam().fake));
  EXPECT_THAT(loaded, FailsWith(ErrorCode::kFailedPrecondition, GetParam().says));
  EXPECT_THAT(loaded, FailsWith(ErrorCode::kFailedPrecondition, "[test]: plugin"));
}
INSTANTIATE_TEST_SUITE_P(
    All, PluginEntry,
    testing::Values(Broken{"broken-magic", "its magic number is another"},
                    Broken{"broken-major", "was built for version 2 of the plugin ABI, not for 1"},
                    Broken{"broken-short-entry", "has an entry that is too short"},
                    Broken{"broken-newer-host", "needs version 1.7 of the plugin ABI, this is 1.0"},
                    Broken{"broken-no-descriptor", "has no descriptor"},
                    Broken{"broken-short-descriptor", "has a descriptor that is too short"},
                    Broken{"broken-name", "has a descriptor without name or version"},
                    Broken{"broken-no-interface", "declares no interface"},
                    Broken{"broken-short-option", "has a broken table of options"},
                    Broken{"broken-option-without-key", "has a broken table of options"},
                    Broken{"broken-no-entry", "exports no coffer_plugin_entry_v1"},
                    Broken{"broken-no-open", "has an entry without open or close"},
                    Broken{"broken-init", "plugin broken: init: no licence"}),
    [](const auto &param) {
      std::string name = param.param.fake + 7;
      std::ranges::replace(name, '-', '_');
      return name;
    });

class PluginCall : public PluginHostTest {
 protected:
  Result<Storage> storage(const std::string &lie = "") {
    install("fake-storage");
    return Storage::open(config("fake-storage", {{"lie", lie}}));
  }
  Result<std::string> probe(const std::string &lie, const CallOptions &options) {
    install("fake-storage");
    COFFER_TRY(const PluginInstance instance, PluginInstance::open(config("fake-storage", {{"lie", lie}})));
    return instance.probe(options);
  }
};

TEST_F(PluginCall, AnInterfaceThatIsNotDeclaredIsRefusedBeforeOpening) {
  install("fake-kms");
  EXPECT_THAT(Storage::open(config("fake-kms")),
              FailsWith(ErrorCode::kInvalidArgument,
                        "[test]: plugin fake-kms serves coffer.kms/1, not coffer.storage/1"));
}

TEST_F(PluginCall, OpenThatAnswersNoInstanceIsAnError) {
  install("broken-open");
  EXPECT_THAT(Storage::open(config("broken-open")),
              FailsWith(ErrorCode::kInternal, "plugin broken: open: answered OK without an instance"));
}

TEST_F(PluginCall, OpenThatFailsSaysWhy) {
  EXPECT_THAT(storage("open fails"),
              FailsWith(ErrorCode::kUnavailable, "[test]: plugin fake-storage: open: the disk is on fire"));
}

TEST_F(PluginCall, TextOfAnExceptionInsideAPluginNeverComesOut) {
  const auto opened = storage("open throws");
  EXPECT_THAT(opened, FailsWith(ErrorCode::kInternal, "plugin fake-storage: open: unexpected failure"));
  EXPECT_THAT(opened.error().message, Not(HasSubstr("value in it")));
  const auto s = storage("throws");
  ASSERT_TRUE(succeeds(s));
  const auto got = s->get("space", "key");
  EXPECT_THAT(
      got, FailsWith(ErrorCode::kInternal, "plugin fake-storage: get: unexpected failure inside the plugin"));
  EXPECT_THAT(got.error().message, Not(HasSubstr("value in it")));
  EXPECT_THAT(storage("throws int")->get("space", "key"),
              FailsWith(ErrorCode::kInternal, "unexpected failure"));
  EXPECT_THAT(storage("no memory")->get("space", "key"),
              FailsWith(ErrorCode::kResourceExhausted, "get: out of memory"));
}

TEST_F(PluginCall, AStatusOutOfRangeIsUnknown) {
  EXPECT_THAT(storage("status 99")->get("s", "k"), FailsWith(ErrorCode::kUnknown, "get: what is this"));
  EXPECT_THAT(storage("status -1")->get("s", "k"), FailsWith(ErrorCode::kUnknown, "get: what is this"));
}

TEST_F(PluginCall, TextOfAPluginIsBoundedAndOnOneLine) {
  EXPECT_LT(storage("long text")->get("s", "k").error().message.size(), 1100u);
  EXPECT_EQ(storage("escapes")->get("s", "k").error().message,
            "plugin fake-storage: get: red  [31m next ? line");
  EXPECT_THAT(storage("silent failure")->get("s", "k"),
              FailsWith(ErrorCode::kUnavailable, "get: the backend is not available"));
  EXPECT_THAT(storage("short error")->get("s", "k"), FailsWith(ErrorCode::kInternal, "get: "));
}

TEST_F(PluginCall, TellsWhenToTryAgain) {
  EXPECT_THAT(storage("retry")->get("s", "k"), Advises("try again in 2 s"));
}

TEST_F(PluginCall, TellsTheRemedyOfThePluginOnOneLine) {
  EXPECT_EQ(storage("remedy")->get("s", "k").error().remedy, "wait for the  other one");
  const auto older = storage("older error")->get("s", "k");
  EXPECT_THAT(older.error().message, HasSubstr("busy"));
  EXPECT_EQ(older.error().remedy, "");
}

TEST_F(PluginCall, CarriesTheDeadlineOnTheMonotonicClock) {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const uint64_t before = uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
  const auto deadline = probe("deadline", {.timeout_ns = 5'000'000'000});
  ASSERT_TRUE(succeeds(deadline));
  EXPECT_GE(std::stoull(*deadline), before + 5'000'000'000);
  EXPECT_LT(std::stoull(*deadline), before + 60'000'000'000);
  EXPECT_EQ(probe("deadline", {}).value(), "0");
  EXPECT_EQ(probe("deadline", {.timeout_ns = UINT64_MAX}).value(), std::to_string(UINT64_MAX));
}

TEST_F(PluginCall, IsCancelledOnceTheDescriptorIsReadable) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  EXPECT_EQ(probe("cancel", {.cancel_fd = fds[0]}).value(), "not cancelled");
  ASSERT_EQ(::write(fds[1], "x", 1), 1);
  EXPECT_THAT(probe("cancel", {.cancel_fd = fds[0]}), FailsWith(ErrorCode::kCancelled, "probe: cancelled"));
  ::close(fds[0]);
  ::close(fds[1]);
}

TEST_F(PluginCall, AnInstanceCanMove) {
  install("fake-storage");
  auto a = PluginInstance::open(config("fake-storage"));
  auto b = PluginInstance::open(config("fake-storage", {{"lie", "deadline"}}));
  ASSERT_TRUE(succeeds(a));
  ASSERT_TRUE(succeeds(b));
  PluginInstance c = std::move(*a);
  EXPECT_TRUE(succeeds(c.probe()));
  c = std::move(*b);
  EXPECT_EQ(c.probe().value(), "0");
}

TEST_F(PluginCall, LogsOfAPluginGoThroughTheHostOnOneLine) {
  auto s = storage("logs");
  ASSERT_TRUE(succeeds(s));
  testing::internal::CaptureStderr();
  EXPECT_TRUE(succeeds(s->get("s", "k")));
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("warning plugin fake: get was called\n"));
}

TEST_F(PluginCall, ATableIsReadUpToItsSizeAndMissingSlotsAnswerForThemselves) {
  for (const std::string fake : {"broken-nothing", "broken-half-slot"}) {
    install(fake);
    const auto s = Storage::open(config(fake));
    ASSERT_TRUE(succeeds(s));
    EXPECT_THAT(s->get("s", "k"), FailsWith(ErrorCode::kUnimplemented, "plugin broken cannot get"));
    EXPECT_THAT(s->spaces(""), FailsWith(ErrorCode::kUnimplemented, "plugin broken cannot list spaces"));
  }
  for (const std::string fake : {"broken-tiny-table", "broken-no-table"}) {
    install(fake);
    EXPECT_THAT(Storage::open(config(fake)), FailsWith(ErrorCode::kFailedPrecondition,
                                                       "declares coffer.storage/1 but has no usable table"));
  }
  install("broken-small-limits");
  EXPECT_THAT(Storage::open(config("broken-small-limits")),
              FailsWith(ErrorCode::kFailedPrecondition, "its limits are below what every storage must hold"));
}

TEST(Sink, AcceptsNoByteBeyondItsLimit) {
  bridge::BytesSink sink(8);
  const coffer_sink *raw = sink.raw();
  EXPECT_EQ(raw->write(raw, "12345", 5), COFFER_OK);
  EXPECT_EQ(raw->write(raw, "6789", 4), COFFER_RESOURCE_EXHAUSTED);
  EXPECT_TRUE(sink.overrun());
  EXPECT_EQ(raw->write(raw, nullptr, 1), COFFER_RESOURCE_EXHAUSTED);
  EXPECT_EQ(raw->reserve(raw, SIZE_MAX), nullptr);
  ASSERT_NE(raw->reserve(raw, 3), nullptr);
  EXPECT_EQ(raw->commit(raw, 4), COFFER_INVALID_ARGUMENT);
  EXPECT_EQ(raw->commit(raw, 0), COFFER_OK);
  EXPECT_EQ(raw->commit(raw, 1), COFFER_INVALID_ARGUMENT) << "a second commit of one reserve";
  EXPECT_EQ(as_text(sink.take()), "12345");
}

TEST(Sink, ForSecretsSaysSoAndGrowsInPlace) {
  bridge::SecretSink sink(64);
  const coffer_sink *raw = sink.raw();
  EXPECT_TRUE(raw->flags & COFFER_SINK_SECRET);
  EXPECT_EQ(raw->write(raw, "abc", 3), COFFER_OK);
  uint8_t *more = raw->reserve(raw, 61);
  ASSERT_NE(more, nullptr);
  more[0] = 'd';
  EXPECT_EQ(raw->commit(raw, 1), COFFER_OK);
  EXPECT_EQ(as_text(sink.take().reveal()), "abcd");
}

}  // namespace
}  // namespace coffer
