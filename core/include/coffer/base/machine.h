// What a Machine is given of its host besides secrets: used by its config and by what a runtime is told.
#ifndef COFFER_BASE_MACHINE_H
#define COFFER_BASE_MACHINE_H

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

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

// What a Machine that was just booted has to pass before it counts as updated: tried from inside, again and
// again until it passes once.
struct Check {
  enum class Kind : uint8_t { kTcp = 1, kHttp = 2, kCommand = 3 };
  std::string name;
  Kind kind = Kind::kTcp;
  uint16_t port = 0;                 // kTcp, kHttp: of the Machine itself
  std::string method = "GET", path;  // kHttp: passes with status 200 to 299
  std::vector<std::string> command;  // kCommand: passes with exit code 0
  uint64_t grace_ms = 0;             // before the first try
  uint64_t interval_ms = 1000, timeout_ms = 2000;
  bool operator==(const Check &) const = default;
};

// One variable of a Machine that does not get all secrets under their own names.
struct SecretVariable {
  std::string secret, variable;
  bool operator==(const SecretVariable &) const = default;
};

// How a release goes out to the Machines of an App.
enum class Strategy : uint8_t { kRolling = 1, kImmediate = 2 };  // kImmediate: all Machines in one wave
struct DeployPolicy {
  Strategy strategy = Strategy::kRolling;
  // How large a wave behind the first Machine is: 1 to 1000 thousandths of all Machines, or 1000 and their
  // number: 1001 is one.
  uint32_t max_unavailable = 333;
  uint64_t smoke_ms = 3000;        // that a Machine has to stay up
  uint64_t patience_ms = 300'000;  // with the checks of a Machine
  bool operator==(const DeployPolicy &) const = default;
};
// What an App config says of it: the rest is as it is anyway.
struct DeployWish {
  std::optional<Strategy> strategy = {};
  std::optional<uint32_t> max_unavailable = {};
  std::optional<uint64_t> smoke_ms = {}, patience_ms = {};

  DeployPolicy over(DeployPolicy p) const {
    if (strategy) p.strategy = *strategy;
    if (max_unavailable) p.max_unavailable = *max_unavailable;
    if (smoke_ms) p.smoke_ms = *smoke_ms;
    if (patience_ms) p.patience_ms = *patience_ms;
    return p;
  }
};

}  // namespace coffer
#endif
