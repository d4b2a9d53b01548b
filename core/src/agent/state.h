// Machine states in the agent's store: space "machines", key MACHINE.
#ifndef COFFER_AGENT_STATE_H
#define COFFER_AGENT_STATE_H

#include "coffer/agent/machine_host.h"

namespace coffer {

inline constexpr std::string_view kMachinesSpace = "machines";

Bytes encode(const MachineState &);
Result<MachineState> decode_state(ByteSpan);

// InstanceRecord::made_of while its files are being replaced.
inline constexpr Hash kMixed = [] {
  Hash all;
  all.fill(0xff);
  return all;
}();

// Was it started once more after we had started it?
bool is_foreign(const InstanceRecord &, const InstanceStatus &);

// "ended with exit code 1": REQUIRES: it does not run.
std::string how_it_ended(const InstanceStatus &);

}  // namespace coffer
#endif
