// For the unit tests of core: a folder of one's own, plugins of the build tree and the fakes, and a look at
// what the fake runtime has been doing.
#ifndef COFFER_TESTS_FAKES_FAKES_H
#define COFFER_TESTS_FAKES_FAKES_H

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>

#include "coffer/plugin_host/plugin.h"

namespace coffer::fakes {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "coffer-core-XXXXXX").string();
    if (!::mkdtemp(name.data())) std::abort();
    path_ = fs::canonical(name);
  }
  Folder(const Folder &) = delete;
  Folder &operator=(const Folder &) = delete;
  ~Folder() { fs::remove_all(path_); }
  const fs::path &path() const { return path_; }
  std::string file(std::string_view name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

// A plugin of the build tree ("storage-sqlite"), or a fake ("storage-memory", "runtime-files").
inline PluginConfig plugin(const std::string &name, std::map<std::string, std::string> options = {}) {
  PluginConfig c;
  c.section = "[test]";
  for (const char *dir : {COFFER_FAKES_DIR, COFFER_BUILD_PLUGINS_DIR})
    if (const fs::path file = fs::path(dir) / (name + ".so"); fs::exists(file)) c.plugin = file.string();
  c.options = std::move(options);
  c.base_dir = fs::temp_directory_path();
  return c;
}

// The NTH call of `what` from now fails (faults.h).
inline void fail_next(const fs::path &folder, std::string_view what, int nth = 1,
                      ErrorCode code = ErrorCode::kUnavailable, bool after = false) {
  std::ofstream(folder / ("fail-" + std::string(what)))
      << nth << ' ' << static_cast<int>(code) << ' ' << (after ? "after" : "before");
}
inline void stop_failing(const fs::path &folder, std::string_view what) {
  fs::remove(folder / ("fail-" + std::string(what)));
}

// What the fake has noted: one line per call.
inline std::vector<std::string> calls(const fs::path &folder) {
  std::ifstream in(folder / "calls");
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}
inline void forget_calls(const fs::path &folder) { fs::remove(folder / "calls"); }
inline void note_call(const fs::path &folder, std::string_view line) {
  std::ofstream(folder / "calls", std::ios::app) << line << '\n';
}
// Which of the calls begins so, counted from 0; -1: none.
inline int position(const std::vector<std::string> &lines, std::string_view beginning) {
  const auto at = std::ranges::find_if(lines, [&](const std::string &l) { return l.starts_with(beginning); });
  return at == lines.end() ? -1 : static_cast<int>(at - lines.begin());
}

// The instances of runtime-files.
class Instances {
 public:
  explicit Instances(fs::path folder) : folder_(std::move(folder)) {}
  std::vector<std::string> all() const {
    std::vector<std::string> ids;
    if (fs::exists(folder_ / "instances"))
      for (const auto &entry : fs::directory_iterator(folder_ / "instances"))
        ids.push_back(entry.path().filename().string());
    std::ranges::sort(ids);
    return ids;
  }
  std::vector<std::string> in_state(std::string_view state) const {
    std::vector<std::string> ids = all();
    std::erase_if(ids, [&](const std::string &id) { return get(id, "state") != state; });
    return ids;
  }
  // The one instance of a Machine, or of several the one that is started; "" when there is none, or no one.
  std::string of(std::string_view machine) const {
    std::vector<std::string> ids = all();
    std::erase_if(ids, [&](const std::string &id) { return get(id, "label-coffer.machine") != machine; });
    if (ids.size() > 1)
      std::erase_if(ids, [&](const std::string &id) { return get(id, "state") != "started"; });
    return ids.size() == 1 ? ids.front() : "";
  }
  // nullopt: no such file
  std::optional<std::string> get(const std::string &id, const std::string &file) const {
    std::ifstream in(folder_ / "instances" / id / file, std::ios::binary);
    if (!in) return std::nullopt;
    return std::string(std::istreambuf_iterator<char>(in), {});
  }
  void set(const std::string &id, const std::string &file, std::string_view content) const {
    fs::create_directories(folder_ / "instances" / id);
    // Whole or not at all, for whoever reads meanwhile.
    std::ofstream(folder_ / "new", std::ios::binary | std::ios::trunc) << content;
    fs::rename(folder_ / "new", folder_ / "instances" / id / file);
  }
  // A check of the port passes from now on, or fails.
  void listen(const std::string &id, int port, bool on = true) const {
    const std::string file = "listens-" + std::to_string(port);
    if (on)
      set(id, file, "");
    else
      fs::remove(folder_ / "instances" / id / file);
  }
  // It ends by itself.
  void end(const std::string &id, int exit_code, int exit_signal = 0) const {
    set(id, "exit-code", std::to_string(exit_code));
    set(id, "exit-signal", std::to_string(exit_signal));
    set(id, "state", exit_code || exit_signal ? "failed" : "stopped");
  }
  // Somebody starts it, or starts it once more.
  void start_again(const std::string &id) const {
    set(id, "started-ns", std::to_string(std::stoll(get(id, "started-ns").value_or("0")) + 1'000'000'000));
    set(id, "state", "started");
  }
  void remove(const std::string &id) const { fs::remove_all(folder_ / "instances" / id); }
  const fs::path &folder() const { return folder_; }

 private:
  fs::path folder_;
};

// EXPECT_THAT(result, Fails(code, "part of the message"))
MATCHER_P2(Fails, code, part, "fails with that code and a message that says " + std::string(part)) {
  if (arg) return *result_listener << "succeeded", false;
  const Error &e = arg.error();
  *result_listener << "code " << static_cast<int>(e.code) << ": " << e.message;
  return e.code == code && e.message.find(part) != std::string::npos;
}
// ASSERT_TRUE with the error's text.
template <class T>
testing::AssertionResult ok(const Result<T> &r) {
  if (r) return testing::AssertionSuccess();
  return testing::AssertionFailure() << r.error().message;
}

}  // namespace coffer::fakes
#endif
