// For the tests of this folder: a private folder with copies of the fake plugins, each test its own, because
// a file that was loaded stays loaded.
#ifndef COFFER_PLUGIN_HOST_TEST_PLUGINS_H
#define COFFER_PLUGIN_HOST_TEST_PLUGINS_H

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "coffer/plugin_host/plugin.h"

namespace coffer {

namespace fs = std::filesystem;

class PluginHostTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "coffer-host-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = fs::canonical(name);
  }
  void TearDown() override {
    fs::permissions(dir_, fs::perms::owner_all);
    fs::remove_all(dir_);
  }

  const fs::path &dir() const { return dir_; }
  // A copy of a fake in dir(), mode 0755; the same one when asked again: it may be loaded.
  fs::path install(const std::string &fake) const {
    const fs::path to = dir_ / (fake + ".so");
    fs::copy_file(fs::path(COFFER_FAKES_DIR) / (fake + ".so"), to, fs::copy_options::skip_existing);
    ::chmod(to.c_str(), 0755);
    return to;
  }
  PluginConfig config(const std::string &plugin, std::map<std::string, std::string> options = {}) const {
    PluginConfig c;
    c.section = "[test]";
    c.plugin = plugin;
    c.options = std::move(options);
    c.plugin_dir = c.base_dir = dir_;
    return c;
  }
  fs::path write(const std::string &name, std::string_view content, mode_t mode = 0600) const {
    const fs::path path = dir_ / name;
    std::ofstream(path, std::ios::binary) << content;
    ::chmod(path.c_str(), mode);
    return path;
  }

 private:
  fs::path dir_;
};

// EXPECT_THAT(result, FailsWith(code, "part of the message")): and no line break in what a person reads.
MATCHER_P2(FailsWith, code, part, "fails with that code and a message that says " + std::string(part)) {
  if (arg) return *result_listener << "succeeded", false;
  const Error &e = arg.error();
  *result_listener << "code " << static_cast<int>(e.code) << ": " << e.message << " | " << e.remedy;
  return e.code == code && e.message.find(part) != std::string::npos &&
         (e.message + e.remedy).find_first_of("\n\x1b") == std::string::npos;
}
MATCHER_P(Advises, part, "has a remedy that says " + std::string(part)) {
  if (arg) return false;
  *result_listener << arg.error().remedy;
  return arg.error().remedy.find(part) != std::string::npos;
}
// EXPECT_TRUE with the error's text.
template <class T>
testing::AssertionResult succeeds(const Result<T> &r) {
  if (r) return testing::AssertionSuccess();
  return testing::AssertionFailure() << r.error().message;
}

}  // namespace coffer
#endif
