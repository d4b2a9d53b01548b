// What a Machine is given of its host besides secrets: used by its config and by what a runtime is told.
#ifndef COFFER_BASE_MACHINE_H
#define COFFER_BASE_MACHINE_H

#include <cstdint>
#include <string>

namespace coffer {

// A port of the Machine that is reachable on the host.
struct Port {
  std::string host_ip;               // empty: every address of the host
  uint16_t host_port = 0, port = 0;  // host_port 0: the platform chooses one
  bool udp = false;
  bool operator==(const Port &) const = default;
};

// A folder of the host, or a volume that outlives the Machine's instances.
struct Mount {
  std::string source;  // absolute path, or the name of a volume
  std::string target;  // absolute path in the Machine
  bool read_only = false;
  bool operator==(const Mount &) const = default;
};

// When an app that ended by itself is started again.
enum class RestartPolicy : uint8_t { kNo = 1, kOnFailure = 2, kAlways = 3 };

}  // namespace coffer
#endif
