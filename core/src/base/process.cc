#include "coffer/base/process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <set>

namespace coffer {
namespace {

std::string boot_id() {
  std::ifstream in("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(in, id);
  return id;
}

// Field 22 of /proc/PID/stat (proc(5)); empty when there is no such process, or only its remains (a zombie).
std::string start_time(std::string_view pid) {
  std::ifstream in("/proc/" + std::string(pid) + "/stat");
  std::string line;
  if (!std::getline(in, line)) return {};
  size_t at = line.rfind(')');  // the name before it may hold anything
  if (at == std::string::npos || at + 2 >= line.size() || line[at + 2] == 'Z') return {};
  for (int field = 2; field < 22; ++field) {
    at = line.find(' ', at + 1);
    if (at == std::string::npos) return {};
  }
  return line.substr(at + 1, line.find(' ', at + 1) - at - 1);
}

}  // namespace

void occupy_standard_streams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF)
      ::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

void harden_process() {
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  // 1, not 0: Machines and commands inherit it, and where core_pattern is a pipe the kernel ignores 0 but
  // starts no handler at 1.  The supervisor of a Machine could not raise a hard limit of 0 again.
  const rlimit none{1, 1};
  ::setrlimit(RLIMIT_CORE, &none);
  std::signal(SIGPIPE, SIG_IGN);  // also: a Machine that ends while it gets its frame must not end us
}

void notify_service_manager(std::string_view state) {
  const char *path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  if (!path || (path[0] != '/' && path[0] != '@') || std::strlen(path) >= sizeof to.sun_path) return;
  std::memcpy(to.sun_path, path, std::strlen(path));
  if (path[0] == '@') to.sun_path[0] = '\0';
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::strlen(path));
  ::sendto(fd, state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr *>(&to), size);
  ::close(fd);
}

const std::string &process_identity() {
  static const std::string identity = [] {
    const std::string pid = std::to_string(getpid());
    return boot_id() + ":" + pid + ":" + start_time(pid);
  }();
  return identity;
}

namespace {
struct Workers {
  std::mutex mutex;
  std::set<std::string, std::less<>> alive;
};
Workers &workers() {
  static Workers all;
  return all;
}
}  // namespace

std::shared_ptr<const std::string> worker_identity() {
  static std::atomic<uint64_t> count{0};
  const auto retire = [](const std::string *name) {
    {
      const std::lock_guard lock(workers().mutex);
      workers().alive.erase(*name);
    }
    delete name;
  };
  std::shared_ptr<const std::string> out(new std::string(process_identity() + "+" + std::to_string(++count)),
                                         retire);
  const std::lock_guard lock(workers().mutex);
  workers().alive.insert(*out);
  return out;
}

bool process_alive(std::string_view identity) {
  if (const size_t plus = identity.find('+'); plus != identity.npos) {
    const std::string_view process = identity.substr(0, plus);
    if (process != process_identity()) return process_alive(process);
    const std::lock_guard lock(workers().mutex);
    return workers().alive.contains(identity);
  }
  const size_t a = identity.find(':'), b = identity.rfind(':');
  if (a == std::string_view::npos || a == b) return false;
  const std::string_view pid = identity.substr(a + 1, b - a - 1);
  if (pid.empty() || pid.find_first_not_of("0123456789") != std::string_view::npos) return false;
  return identity.substr(0, a) == boot_id() && identity.substr(b + 1) == start_time(pid);
}

}  // namespace coffer
