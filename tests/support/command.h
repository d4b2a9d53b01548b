// Runs commands of this host: for tests that look at coffer from the outside.
#ifndef COFFER_TESTS_COMMAND_H
#define COFFER_TESTS_COMMAND_H

#include <sys/types.h>

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace coffer::tests {

using Argv = std::vector<std::string>;

struct Outcome {
  int code = -1;   // exit code; -1: ended by `signal`
  int signal = 0;  // that ended it
  std::string out, err;
  double seconds = 0;
};

// Kills the command `after_seconds` have passed: it alone, or its whole process group.
struct Kill {
  double after_seconds = 0;
  bool group = false;
};

// Runs `argv` (argv[0] is a path) in a process group of its own, with exactly `env` (NAME=VALUE).
Outcome run(const Argv &argv, const std::vector<std::string> &env, std::string_view input = {},
            const Kill *kill = nullptr);

std::string read_all(const std::filesystem::path &);
void write_all(const std::filesystem::path &, std::string_view);

// A folder below $TMPDIR that is removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder &) = delete;
  TemporaryFolder &operator=(const TemporaryFolder &) = delete;
  const std::filesystem::path &path() const { return path_; }
  void keep() { keep_ = true; }

 private:
  std::filesystem::path path_;
  bool keep_ = false;
};

// Processes of this host, by what /proc says.
struct Process {
  pid_t pid = 0;
  std::string machine;                     // COFFER_MACHINE_ID of its environment
  std::map<std::string, std::string> env;  // as it was given
};
// Those with `marker` among their arguments.
std::vector<Process> processes_with(std::string_view marker);
// Supervisors of Machines whose folders lie below `machines`.
std::vector<pid_t> supervisors_below(const std::filesystem::path &machines);

// The app of a test Machine: waits for SIGTERM, then takes `delay_ms` to end with 0.
[[noreturn]] void be_app(int delay_ms);

// Values of the field `key` in a flat JSON document of ours, in order.
std::vector<std::string> json_fields(std::string_view json, std::string_view key);

}  // namespace coffer::tests
#endif
