// Logs of a Machine, or a command in it, for a user on the other side of a socket: the calls kLogs and kExec
// of host_link.h, and no others.  On his side HostClient asks; which Machine is meant the connection says,
// not the call.
#ifndef COFFER_AGENT_HOST_STREAMS_H
#define COFFER_AGENT_HOST_STREAMS_H

#include "coffer/agent/host_link.h"

namespace coffer {

struct HostStreams {
  std::function<Result<void>(const LogQuery &, const std::function<bool(uint32_t, int64_t, ByteSpan)> &each)>
      logs;
  std::function<Result<int32_t>(const std::vector<std::string> &argv,
                                const std::function<bool(uint32_t, ByteSpan)> &out,
                                const std::function<int64_t(std::span<uint8_t>)> &in, int in_fd)>
      exec;
};

// Answers one call.
void serve_streams(MessageSocket &, const HostStreams &);

}  // namespace coffer
#endif
