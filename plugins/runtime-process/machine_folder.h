// machine_folder.h - the folder of one Machine as the plugin sees it; its files are listed in supervisor.h.
#ifndef COFFER_RUNTIME_PROCESS_MACHINE_FOLDER_H
#define COFFER_RUNTIME_PROCESS_MACHINE_FOLDER_H
#include <coffer/runtime.hpp>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <coffer/posix.hpp>
#include "deliveries.h"

namespace coffer::runtime_process {

using sdk::Fd;

// An Error of the domain "errno": "WHAT: No space left on device".
sdk::Error errno_error(coffer_status status, std::string what, int error);

// Waits until one of `fds` is ready or `timeout_ms` (-1 = none) is over: true when one is.  Throws CANCELLED
// or DEADLINE_EXCEEDED for the call.
struct Watched {
  int fd;
  short events;
  short revents = 0;
};
bool wait_for(const sdk::Call &, std::vector<Watched> &fds, int timeout_ms);
bool wait_for(const sdk::Call &, int fd, int timeout_ms);

// What to run.  Holds no value of a secret.
struct Spec {
  std::string instance_id, name, image, user, workdir;
  std::vector<std::string> argv, env /* NAME=VALUE */;
  runtime::Places places;  // of the secrets
  std::vector<std::pair<std::string, std::string>> labels;
  bool own_user = false;  // uid, gid, groups are to be taken
  unsigned uid = 0, gid = 0;
  std::vector<unsigned> groups;
  std::string home;
  int stop_signal = 0;           // 0: SIGTERM
  uint64_t stop_timeout_ns = 0;  // 0: 10 s
  int64_t created_ns = 0;

  std::string encode() const;
  static std::optional<Spec> decode(std::string_view);
};

// pid and start time name a process until the host reboots.
struct ProcessId {
  int pid = 0;
  uint64_t start = 0;
  bool operator==(const ProcessId &) const = default;
  Fd open() const;  // pidfd of this very process; none when it is gone
};

struct Handle {
  std::string instance_id, boot_id;  // boot_id "" before the start
  ProcessId app;
  std::string encode() const;
  static std::optional<Handle> decode(std::string_view);
};

struct MachineState {
  uint32_t state = COFFER_M_GONE;
  int exit_code = 0, exit_signal = 0;
  int64_t started_ns = 0, finished_ns = 0;
  std::string boot_id;  // of `run`
  ProcessId supervisor, app;
  bool this_boot = false;
  uint32_t step = 0, index = 0;  // where the boot failed
  int step_code = 0;
  std::string message;
  bool ended() const {
    return state == COFFER_M_STOPPED || state == COFFER_M_FAILED || state == COFFER_M_GONE;
  }
};

// One sentence for a person about a boot or command that failed at `step` (supervisor.h).
std::string step_sentence(const Spec &, uint32_t step, int code, uint32_t index);

class MachineFolder {
 public:
  MachineFolder(int state_dir, std::string instance_id, Fd folder)
      : state_dir_(state_dir), instance_id_(std::move(instance_id)), folder_(std::move(folder)) {}

  int fd() const { return folder_.get(); }
  Spec spec() const;  // throws DATA_LOSS
  MachineState state(const Spec &) const;
  // Callers of start and destroy one after the other; nothing when the Machine was destroyed meanwhile.
  std::optional<Fd> lock(const sdk::Call &) const;
  // The open file whose lock says that a supervisor lives; nothing when another has it.
  std::optional<Fd> take_alive() const;
  bool alive() const;
  void write(const char *name, const std::string &text) const;

 private:
  int state_dir_;
  std::string instance_id_;
  Fd folder_;
};

}  // namespace coffer::runtime_process
#endif
