#include "coffer/base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace coffer {
namespace {

class Log : public testing::Test {
 protected:
  void TearDown() override { set_log_level(LogLevel::kWarn); }
  template <class F>
  static std::string written(F &&body) {
    testing::internal::CaptureStderr();
    body();
    return testing::internal::GetCapturedStderr();
  }
};

TEST_F(Log, IsSilentBelowWarnUntilAskedFor) {
  EXPECT_EQ(written([] { log(LogLevel::kInfo, "agent", "hello"); }), "");
  EXPECT_FALSE(log_enabled(LogLevel::kDebug));
  set_log_level(LogLevel::kDebug);
  EXPECT_THAT(written([] { log(LogLevel::kDebug, "agent", "hello"); }),
              testing::EndsWith(" debug agent: hello\n"));
  EXPECT_EQ(written([] { log(LogLevel::kTrace, "agent", "hello"); }), "");
}

TEST_F(Log, WritesOneLineWhateverTheTextHolds) {
  const std::string line = written([] { log(LogLevel::kError, "a\nb", "one\r\ntwo\x1b[31m{} %s \xff"); });
  EXPECT_THAT(line, testing::EndsWith(" error a b: one  two [31m{} %s ?\n"));
  EXPECT_EQ(std::ranges::count(line, '\n'), 1);
}

}  // namespace
}  // namespace coffer
