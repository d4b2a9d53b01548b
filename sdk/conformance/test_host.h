// The host that a plugin meets in the conformance suites: it loads one plugin by path and sees everything the
// plugin does to its host - logs, error texts, secure memory, sinks - so that a test can ask for it.
//
//   coffer-conformance-KIND PLUGIN.so [key=value ...] [--gtest_...]
//
// The options are those of engine.toml; "{tmp}" in a value becomes a fresh private folder for each test.
// Everything here is thread-safe unless it says otherwise.
#ifndef COFFER_CONFORMANCE_TEST_HOST_H
#define COFFER_CONFORMANCE_TEST_HOST_H
#include <coffer/abi.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace coffer::conformance {

inline std::string_view view(coffer_str s) { return s.size ? std::string_view(s.data, s.size) : ""; }
inline std::string_view view(coffer_bytes b) {
  return b.size ? std::string_view(reinterpret_cast<const char *>(b.data), b.size) : "";
}
inline coffer_str str(std::string_view s) { return {s.data(), s.size()}; }
inline coffer_bytes bytes(std::string_view s) {
  return {reinterpret_cast<const uint8_t *>(s.data()), s.size()};
}
std::string status_name(coffer_status);

// What the plugin said through call->fail().
struct Failure {
  coffer_status status = COFFER_OK;
  std::string message, domain;
  int64_t native_code = 0;
  uint32_t retry_after_ms = 0;
};

// The coffer_host of the process.  One for all tests: a plugin is initialised once per process.
class TestHost {
 public:
  static TestHost &get();
  const coffer_host *raw() const { return &raw_; }

  void forget();                     // logs and errors so far
  std::string logs() const;          // one line per record: target, message, fields
  std::string errors() const;        // every text that came through fail(), one per line
  std::size_t secure_bytes() const;  // allocated and not freed

  void record_log(std::string line);
  void record_error(std::string_view text);
  void *secure_alloc(std::size_t size);
  void secure_free(void *p, std::size_t size);

 private:
  TestHost();
  coffer_host raw_{};
  mutable std::mutex mutex_;
  std::string logs_, errors_;
  std::map<void *, std::size_t> secure_;
};

// One call: TestCall call; table->get(instance, call, ...); call.message().
class TestCall {
 public:
  TestCall();
  ~TestCall();
  TestCall(const TestCall &) = delete;
  TestCall &operator=(const TestCall &) = delete;

  TestCall &deadline_in(std::chrono::nanoseconds);
  TestCall &cancellable();  // gives the call a cancel_fd
  void cancel();            // REQUIRES: cancellable()
  operator const coffer_call *() const { return &raw_; }

  std::vector<Failure> failures() const;
  std::string message() const;  // of the last fail(); "" without one

 private:
  static int32_t on_cancelled(const coffer_call *) noexcept;
  static void on_fail(const coffer_call *, coffer_status, const coffer_error *) noexcept;
  coffer_call raw_{};
  int cancel_fds_[2] = {-1, -1};
  mutable std::mutex mutex_;
  std::vector<Failure> failures_;
};

// A result in memory of the host.  With COFFER_SINK_SECRET the memory is mapped alone, locked and wiped.
class TestSink {
 public:
  static constexpr std::size_t kDefaultLimit = 8u << 20;
  explicit TestSink(uint32_t flags = 0, std::size_t limit = kDefaultLimit);
  ~TestSink();
  TestSink(const TestSink &) = delete;
  TestSink &operator=(const TestSink &) = delete;

  void fail_reserve() { fail_reserve_ = true; }  // from now on reserve answers NULL and write refuses
  operator const coffer_sink *() const { return &raw_; }
  std::string_view data() const { return {reinterpret_cast<const char *>(memory_), used_}; }
  const uint8_t *begin() const { return memory_; }
  bool refused() const { return refused_; }  // the plugin wanted more than the limit
  void wipe();                               // forget the data

 private:
  static coffer_status on_write(const coffer_sink *, const void *, std::size_t) noexcept;
  static uint8_t *on_reserve(const coffer_sink *, std::size_t) noexcept;
  static coffer_status on_commit(const coffer_sink *, std::size_t) noexcept;
  coffer_sink raw_{};
  uint8_t *memory_ = nullptr;
  std::size_t limit_, used_ = 0, reserved_ = 0;
  bool fail_reserve_ = false, refused_ = false;
};

// A folder of mode 0700 that goes with its object.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir &) = delete;
  TempDir &operator=(const TempDir &) = delete;
  const std::filesystem::path &path() const { return path_; }

 private:
  std::filesystem::path path_;
};

using OptionMap = std::map<std::string, std::string>;

// The options of one open() as the ABI wants them: defaults of the descriptor filled in, SECRET values in
// secure memory, durations and sizes as plain numbers.  An unknown key throws std::invalid_argument.
class OpenArgs {
 public:
  OpenArgs(const coffer_descriptor &, const OptionMap &given, std::string state_dir, uint32_t flags = 0);
  ~OpenArgs();
  OpenArgs(const OpenArgs &) = delete;
  OpenArgs &operator=(const OpenArgs &) = delete;
  const coffer_open_args *raw() const { return &raw_; }

 private:
  coffer_open_args raw_{};
  std::string state_dir_;
  std::vector<std::pair<std::string, std::string>> plain_;
  std::vector<std::pair<void *, std::size_t>> secret_;
  std::vector<coffer_pair> pairs_;
};

// The plugin under test, as named on the command line.
class Plugin {
 public:
  static Plugin &under_test();
  static void load(const std::string &path, OptionMap options);  // throws std::runtime_error

  const std::string &path() const { return path_; }
  const coffer_plugin_entry &entry() const { return *entry_; }
  const coffer_descriptor &descriptor() const { return *entry_->descriptor; }
  const OptionMap &options() const { return options_; }  // as given, "{tmp}" not yet replaced
  bool offers(std::string_view interface_id) const;

 private:
  std::string path_;
  const coffer_plugin_entry *entry_ = nullptr;
  OptionMap options_;
};

// One opened instance; closed at the end.  REQUIRES for table(): status() == COFFER_OK.
class OpenInstance {
 public:
  OpenInstance(const OptionMap &options, const std::string &state_dir, uint32_t flags = 0);
  ~OpenInstance() { close(); }
  OpenInstance(const OpenInstance &) = delete;
  OpenInstance &operator=(const OpenInstance &) = delete;

  coffer_status status() const { return status_; }
  const std::string &message() const { return message_; }
  coffer_instance *raw() const { return instance_; }
  const void *interface(const char *id) const;
  template <class Table>
  const Table *table(const char *id) const {
    return static_cast<const Table *>(interface(id));
  }
  void close();

 private:
  coffer_status status_;
  std::string message_;
  coffer_instance *instance_ = nullptr;
};

// Base of every suite's fixture: a private folder, the options of this test, and after the test a check that
// the plugin left no descriptor and no secure memory behind.
class PluginTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  const std::filesystem::path &tmp() const { return tmp_.path(); }
  // The command line's options with "{tmp}" replaced, and `changes` on top.
  OptionMap options(const OptionMap &changes = {}) const;
  std::string state_dir() const { return (tmp_.path() / "state").string(); }
  std::unique_ptr<OpenInstance> try_open(const OptionMap &changes = {}, uint32_t flags = 0) const;
  // As try_open, but a refusal throws and so fails the test.
  std::unique_ptr<OpenInstance> open(const OptionMap &changes = {}, uint32_t flags = 0) const;
  void allow_open_descriptors() { check_descriptors_ = false; }

 private:
  TempDir tmp_;
  std::map<int, std::string> descriptors_;
  std::size_t secure_bytes_ = 0;
  bool check_descriptors_ = true;
};

// Open descriptors and what they lead to.
std::map<int, std::string> open_descriptors();

// A copy of `size` bytes whose end is the end of a page with an unmapped one behind it: who reads past
// struct_size dies.
class PageEnd {
 public:
  PageEnd(const void *data, std::size_t size);
  ~PageEnd();
  PageEnd(const PageEnd &) = delete;
  PageEnd &operator=(const PageEnd &) = delete;
  void *data() const { return data_; }
  template <class T>
  T *as() const {
    return static_cast<T *>(data_);
  }

 private:
  void *map_ = nullptr, *data_ = nullptr;
  std::size_t mapped_ = 0;
};

// Random bytes that this object itself only keeps masked, so that a search of the process's memory finds the
// copies of others: "exactly one copy in writable memory when the call returns".
class Canary {
 public:
  explicit Canary(std::size_t size = 32);
  std::size_t size() const { return masked_.size(); }
  void reveal(void *out) const;  // writes size() bytes
  bool equals(std::string_view) const;
  bool within(std::string_view) const;  // raw, or as hex or base64 text
  // Where copies lie in writable memory of this process, as "address region".  Not while other threads run.
  std::vector<std::string> copies_in_memory() const;
  // "" when neither the captured logs nor the captured errors hold it.
  std::string leak_in_texts() const;
  // Files below `dir` that hold it.
  std::vector<std::string> files_below(const std::filesystem::path &dir) const;

 private:
  std::vector<uint8_t> masked_;
};

// What a child of the suite was started with.
struct ChildArgs {
  OptionMap options;  // "{tmp}" replaced
  std::string state_dir;
  std::vector<std::string> args;
};
using ChildRoles = std::map<std::string, int (*)(const ChildArgs &)>;

// The suite's own program started once more, with the same plugin, as one of its roles: another process that
// can be stopped and killed.  Killed when the object goes.
class Child {
 public:
  Child(const std::string &role, const ChildArgs &);
  ~Child();
  Child(const Child &) = delete;
  Child &operator=(const Child &) = delete;

  // The next line of its stdout, without the newline; nullopt at its end.
  std::optional<std::string> read_line();
  void signal(int number);
  int wait();  // exit status, or 128 + the signal that ended it

 private:
  int pid_ = -1, out_ = -1;
  std::string read_;
};
// Writes a line to the parent, at once.
void tell_parent(std::string_view line);

// main() of a suite.  `interface_id`: what the plugin must offer.
int run_suite(int argc, char **argv, const char *interface_id, const ChildRoles &children = {});

}  // namespace coffer::conformance
#endif
