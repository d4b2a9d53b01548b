#include "coffer/base/process.h"

#include <unistd.h>

#include <fstream>

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

const std::string &process_identity() {
  static const std::string identity = [] {
    const std::string pid = std::to_string(getpid());
    return boot_id() + ":" + pid + ":" + start_time(pid);
  }();
  return identity;
}

bool process_alive(std::string_view identity) {
  const size_t a = identity.find(':'), b = identity.rfind(':');
  if (a == std::string_view::npos || a == b) return false;
  const std::string_view pid = identity.substr(a + 1, b - a - 1);
  if (pid.empty() || pid.find_first_not_of("0123456789") != std::string_view::npos) return false;
  return identity.substr(0, a) == boot_id() && identity.substr(b + 1) == start_time(pid);
}

}  // namespace coffer
