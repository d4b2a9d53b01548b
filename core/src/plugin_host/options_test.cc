#include <fcntl.h>

#include "test_plugins.h"

namespace coffer {
namespace {

using testing::HasSubstr;
using Options = std::map<std::string, std::string>;

class PluginOptions : public PluginHostTest {
 protected:
  void SetUp() override {
    PluginHostTest::SetUp();
    install("fake-storage");
  }
  // What the plugin saw: "key=value;..."
  Result<std::string> open(const Options &options) { return open(config("fake-storage", options)); }
  Result<std::string> open(const PluginConfig &c) {
    COFFER_TRY(const PluginInstance instance, PluginInstance::open(c));
    return instance.probe();
  }
  std::string seen(const std::string &key, const std::string &value) {
    const Result<std::string> all = open(Options{{key, value}});
    EXPECT_TRUE(succeeds(all)) << key;
    const std::string text = ";" + all.value_or("");
    const size_t at = text.find(";" + key + "=");
    if (at == std::string::npos) return "(absent)";
    const size_t from = at + key.size() + 2;
    return text.substr(from, text.find(';', from) - from);
  }
};

TEST_F(PluginOptions, ArriveInTheirPlainForm) {
  EXPECT_EQ(seen("count", "-5"), "-5");
  EXPECT_EQ(seen("count", "10"), "10");
  EXPECT_EQ(seen("flag", "true"), "true");
  EXPECT_EQ(seen("timeout", "10s"), "10000000000");
  EXPECT_EQ(seen("timeout", "500ms"), "500000000");
  EXPECT_EQ(seen("timeout", "1m"), "60000000000");
  EXPECT_EQ(seen("timeout", "0"), "0");
  EXPECT_EQ(seen("cache", "64MiB"), "67108864");
  EXPECT_EQ(seen("cache", "17"), "17");
  EXPECT_EQ(seen("colour", "green"), "green");
  EXPECT_EQ(seen("url", "unix:///run/x.sock"), "unix:///run/x.sock");
  EXPECT_EQ(seen("tags", R"(["a","b\"c"])"), R"(["a","b\"c"])");
  EXPECT_EQ(seen("tags", "[]"), "[]");
}

TEST_F(PluginOptions, PathsStartAtTheFolderOfTheConfig) {
  EXPECT_EQ(seen("path", "vault.db"), dir() / "vault.db");
  EXPECT_EQ(seen("path", "./a/../vault.db"), dir() / "vault.db");
  EXPECT_EQ(seen("path", "/var/lib/x"), "/var/lib/x");
  EXPECT_EQ(seen("there", "."), dir() / "");
  EXPECT_THAT(
      open(Options{{"there", "no-such-file"}}),
      FailsWith(ErrorCode::kNotFound, "option 'there': there is no " + (dir() / "no-such-file").string()));
  EXPECT_THAT(open(Options{{"path", ""}}), FailsWith(ErrorCode::kInvalidArgument, "'path' must be a path"));
}

TEST_F(PluginOptions, LeftOutIsNotTheSameAsEmptyAndDefaultsAreFilledIn) {
  const auto all = open(Options{});
  ASSERT_TRUE(succeeds(all));
  EXPECT_THAT(*all, HasSubstr("timeout=5000000000;"));
  EXPECT_THAT(*all, Not(HasSubstr("lie=")));
  EXPECT_THAT(*all, HasSubstr("instance=test;state=;ro=0"));
  EXPECT_EQ(seen("lie", ""), "");
}

struct Wrong {
  const char *key, *value, *says;
};
class WrongOption : public PluginOptions, public testing::WithParamInterface<Wrong> {};

TEST_P(WrongOption, IsNamedAndItsValueIsNot) {
  const auto &[key, value, says] = GetParam();
  const auto opened = open(Options{{key, value}});
  ASSERT_THAT(opened, FailsWith(ErrorCode::kInvalidArgument,
                                "[test]: plugin fake-storage: option '" + std::string(key) + "' " + says));
  if (std::string_view(value).size() > 3) {
    EXPECT_THAT(opened.error().message, Not(HasSubstr(value)));
  }
}
INSTANTIATE_TEST_SUITE_P(
    All, WrongOption,
    testing::Values(
        Wrong{"count", "11", "must be between -5 and 10"}, Wrong{"count", "-6", "must be between -5 and 10"},
        Wrong{"count", "", "must be a whole number"}, Wrong{"count", "1.5", "must be a whole number"},
        Wrong{"count", "0x10", "must be a whole number"}, Wrong{"count", " 1", "must be a whole number"},
        Wrong{"count", "99999999999999999999", "must be a whole number"},
        Wrong{"flag", "yes", "must be true or false"}, Wrong{"flag", "", "must be true or false"},
        Wrong{"timeout", "10", "must be a duration"}, Wrong{"timeout", "10 s", "must be a duration"},
        Wrong{"timeout", "-1s", "must be a duration"}, Wrong{"timeout", "s", "must be a duration"},
        Wrong{"timeout", "9999999999h", "must be a duration"},
        Wrong{"timeout", "61s", "must be between 0 ns and 60000000000 ns"},
        Wrong{"cache", "64MB", "must be a size"}, Wrong{"cache", "-1", "must be a size"},
        Wrong{"cache", "9999999999999GiB", "must be a size"},
        Wrong{"colour", "blue", "must be one of: red, green"}, Wrong{"url", "not-a-url", "must be a URL"},
        Wrong{"url", "://x", "must be a URL"}, Wrong{"url", "http://", "must be a URL"},
        Wrong{"url", "http://a b", "must be a URL"}, Wrong{"url", "http://a\nb", "must be a URL"},
        Wrong{"tags", "a,b", "must be an array of strings"},
        Wrong{"tags", "[1]", "must be an array of strings"},
        Wrong{"tags", "[\"a\"", "must be an array of strings"},
        Wrong{"tags", "[\"a\\", "must be an array of strings"},
        Wrong{"tags", "[\"a\",]", "must be an array of strings"}),
    [](const auto &param) { return std::string(param.param.key) + "_" + std::to_string(param.index); });

TEST_F(PluginOptions, WithANulByteAreRefused) {
  for (const std::string key : {"lie", "path", "url"})
    EXPECT_THAT(open(Options{{key, std::string("a\0b", 3)}}),
                FailsWith(ErrorCode::kInvalidArgument, "'" + key + "' must not hold a NUL byte"));
}

TEST_F(PluginOptions, UnknownKeysAreRefusedWithAGuess) {
  const auto close = open(Options{{"timout", "1s"}});
  EXPECT_THAT(close,
              FailsWith(ErrorCode::kInvalidArgument, "plugin fake-storage: there is no option 'timout'"));
  EXPECT_THAT(close, Advises("did you mean 'timeout'?"));
  EXPECT_THAT(open(Options{{"something-else", "1"}}), Advises("coffer plugin info fake-storage"));
}

TEST_F(PluginOptions, RequiredOnesMustBeThere) {
  install("fake-required");
  const auto missing = open(config("fake-required"));
  EXPECT_THAT(missing, FailsWith(ErrorCode::kInvalidArgument, "option 'needed' is missing"));
  EXPECT_THAT(missing, Advises("needed = \"like this\""));
  EXPECT_TRUE(succeeds(open(config("fake-required", {{"needed", ""}}))));
  EXPECT_THAT(open(config("fake-required", {{"needed", ""}, {"odd", "x"}})),
              FailsWith(ErrorCode::kFailedPrecondition,
                        "'odd' has a type that this version of Coffer does not know"));
}

TEST_F(PluginOptions, ThePluginsOwnValidationComesBeforeOpen) {
  EXPECT_THAT(
      open(Options{{"lie", "invalid"}}),
      FailsWith(ErrorCode::kInvalidArgument, "plugin fake-storage: options: 'lie' must be a better one"));
}

TEST_F(PluginOptions, ASecretComesFromAFileByteForByte) {
  write("pw", std::string("a\n\0\xff", 4));
  EXPECT_EQ(seen("password", "file:pw"), "97,10,0,255,");
  EXPECT_EQ(seen("password", "file:" + (dir() / "pw").string()), "97,10,0,255,");
  write("empty", "");
  EXPECT_EQ(seen("password", "file:empty"), "");
  write("large", std::string(64 * 1024, 'x'));
  EXPECT_TRUE(succeeds(PluginInstance::open(config("fake-storage", {{"password", "file:large"}}))));
}

TEST_F(PluginOptions, ASecretWrittenIntoTheConfigIsRefusedAndNotRepeated) {
  for (const std::string value : {"hunter2-hunter2", "env:HOME-hunter2", "file:", "FILE:pw"}) {
    const auto opened = open(Options{{"password", value}});
    ASSERT_THAT(opened,
                FailsWith(ErrorCode::kInvalidArgument,
                          "option 'password' is a secret and takes file:PATH, never the value itself"));
    EXPECT_THAT(opened.error().message + opened.error().remedy, Not(HasSubstr("hunter2")));
  }
}

TEST_F(PluginOptions, ASecretFileThatOthersMayReadIsRefused) {
  const fs::path file = write("pw", "value-of-the-password");
  for (const mode_t mode : {0640, 0604, 0620, 0610}) {
    ::chmod(file.c_str(), mode);
    const auto opened = open(Options{{"password", "file:pw"}});
    ASSERT_THAT(opened,
                FailsWith(ErrorCode::kPermissionDenied, file.string() + " is open to its group or others"));
    EXPECT_THAT(opened, Advises("chmod 600 " + file.string()));
    EXPECT_THAT(opened.error().message, Not(HasSubstr("value-of")));
  }
}

TEST_F(PluginOptions, ASecretFileOfAnotherKindIsRefused) {
  write("pw", "x");
  fs::create_symlink("pw", dir() / "link");
  fs::create_directory(dir() / "folder");
  ASSERT_EQ(::mkfifo((dir() / "pipe").c_str(), 0600), 0);
  write("large", std::string(64 * 1024 + 1, 'x'));
  EXPECT_THAT(open(Options{{"password", "file:link"}}),
              FailsWith(ErrorCode::kPermissionDenied, "is a symbolic link"));
  EXPECT_THAT(open(Options{{"password", "file:folder"}}),
              FailsWith(ErrorCode::kInvalidArgument, "names no regular file"));
  EXPECT_THAT(open(Options{{"password", "file:pipe"}}),
              FailsWith(ErrorCode::kInvalidArgument, "names no regular file"));
  EXPECT_THAT(open(Options{{"password", "file:large"}}),
              FailsWith(ErrorCode::kInvalidArgument, "larger than 64 KiB"));
  EXPECT_THAT(open(Options{{"password", "file:absent"}}),
              FailsWith(ErrorCode::kNotFound, "option 'password': file " + (dir() / "absent").string()));
}

TEST_F(PluginOptions, ASecretFileOfAnotherUserIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give files away";
  const fs::path file = write("pw", "x");
  ASSERT_EQ(::chown(file.c_str(), 12345, 0), 0);
  EXPECT_THAT(open(Options{{"password", "file:pw"}}),
              FailsWith(ErrorCode::kPermissionDenied, "belongs to user 12345"));
}

TEST_F(PluginOptions, TheStateFolderIsMadePrivate) {
  PluginConfig c = config("fake-storage");
  c.state_dir = dir() / "deep" / "state";
  const auto all = open(c);
  ASSERT_TRUE(succeeds(all));
  EXPECT_THAT(*all, HasSubstr(";state=" + c.state_dir.string() + ";"));
  EXPECT_EQ(fs::status(c.state_dir).permissions(), fs::perms::owner_all);
  ::chmod(c.state_dir.c_str(), 0750);
  const auto refused = open(c);
  EXPECT_THAT(refused, FailsWith(ErrorCode::kPermissionDenied, "is open to its group or others"));
  EXPECT_THAT(refused, Advises("chmod 700"));
  c.state_dir = write("file", "");
  EXPECT_THAT(open(c), FailsWith(ErrorCode::kFailedPrecondition, "is not a folder"));
  c.state_dir = dir() / "link";
  fs::create_symlink(dir() / "deep", c.state_dir);
  EXPECT_THAT(open(c), FailsWith(ErrorCode::kFailedPrecondition, "is not a folder"));
  c.state_dir = dir() / "file" / "below";
  EXPECT_THAT(open(c), FailsWith(ErrorCode::kPermissionDenied, "cannot be made"));
}

TEST_F(PluginOptions, ReadOnlyIsToldAndMakesNoFolder) {
  PluginConfig c = config("fake-storage");
  c.state_dir = dir() / "state";
  c.read_only = true;
  const auto all = open(c);
  ASSERT_TRUE(succeeds(all));
  EXPECT_THAT(*all, HasSubstr(";ro=1"));
  EXPECT_FALSE(fs::exists(c.state_dir));
}

}  // namespace
}  // namespace coffer
